"""Geometry of images: headers that are contradictory, empty or invalid are refused, or cause a note."""

import gzip
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import tumorjax.cli.commands as commands
from tumorjax.atlas import AtlasWarning, load_atlas
from tumorjax.cli import main
from tumorjax.io import InputError, Volume, check_worlds, read_tensor, read_volume
from tumorjax.patient import load_patient
from tumorjax.patient.recurrence import at_follow_up
from tumorjax.quality import Status, status_of

SHAPE = (16, 18, 14)
ANGLE = 0.2
AFFINE = np.array(
    [
        [-6 * np.cos(ANGLE), 6 * np.sin(ANGLE), 0, 50],
        [6 * np.sin(ANGLE), 6 * np.cos(ANGLE), 0, -52],
        [0, 0, 7.0, -40],
        [0, 0, 0, 1],
    ]
)
# A quarter of a turn, half a turn, and a mirror image.
TURNED, OPPOSITE, MIRRORED = (
    AFFINE @ np.array(m, float)
    for m in (
        [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
        [[-1, 0, 0, 15], [0, -1, 0, 17], [0, 0, 1, 0], [0, 0, 0, 1]],
        [[-1, 0, 0, 15], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    )
)


def image(data=None, sform=AFFINE, qform=AFFINE, codes=(1, 1)):
    """Return a file's bytes whose sform and qform may differ."""
    content = nib.Nifti1Image(np.ones(SHAPE, np.float32) if data is None else data, AFFINE).to_bytes()
    header = nib.Nifti1Header(content[:348])
    header.set_qform(qform, 1)
    header.set_sform(sform, 1)
    header["sform_code"], header["qform_code"] = codes
    return header.binaryblock + content[348:]


def stored(path, content, **fields):
    """Write a file with fields of the header as they are given, which nibabel itself would repair."""
    header = nib.Nifti1Header(content[:348])
    for name, value in fields.items():
        if isinstance(value, dict):
            for index, part in value.items():
                header[name][index] = part
        else:
            header[name] = value
    content = header.binaryblock + content[348:]
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize(
    ("made", "fields", "message"),
    [
        ({}, {"qform_code": 99}, "has the qform code 99, which is not from 0 to 5"),
        ({}, {"sform_code": -1}, "has the sform code -1"),
        ({"codes": (0, 1)}, {"pixdim": {1: 0}}, "has voxels of 0 x 6 x 7 mm .*, which its qform needs"),
        ({"codes": (0, 1)}, {"pixdim": {2: -6}}, "which its qform needs"),
        ({"codes": (0, 0)}, {"pixdim": {3: 0}}, "and no other geometry"),
        ({"codes": (0, 1)}, {"quatern_b": 2.0}, "has its geometry in the qform, but its quaternion .* longer than one"),
        ({"codes": (0, 1)}, {"pixdim": {0: 5}}, "its handedness .qfac. is 5"),
        ({"codes": (0, 1)}, {"qoffset_x": np.nan}, "holds NaN or infinite numbers"),
        ({"qform": TURNED}, {}, "along left, front, top by its sform and along front, right, top by its qform"),
        ({"qform": OPPOSITE}, {}, "along left, front, top by its sform and along right, back, top by its qform"),
        ({"qform": MIRRORED}, {}, "along left, front, top by its sform and along right, front, top by its qform"),
        ({}, {"pixdim": {0: 1}}, "along left, front, top by its sform and along left, front, bottom by its qform"),
        ({"sform": AFFINE @ np.diag([2, 2, 2, 1])}, {}, "12 x 12 x 14 mm in its sform and of 6 x 6 x 7 mm"),
        ({"sform": AFFINE @ np.diag([2, 2, 2, 1]), "codes": (1, 0)}, {}, "12 x 12 x 14 mm in its sform"),
        ({}, {"vox_offset": 0}, "begins its voxels at byte 0, before the end of its header"),
        ({}, {"vox_offset": 348}, "begins its voxels at byte 348"),
        ({"codes": (1, 0)}, {"srow_x": {3: 1e30}}, "lies 1e.30 mm from the origin"),
    ],
)
def test_refuses_contradictory_geometry(tmp_path, made, fields, message):
    path = stored(tmp_path / "image.nii.gz", image(**made), **fields)
    with pytest.raises(InputError, match=message) as caught:
        read_volume(path, name="T1")
    assert str(caught.value).startswith(f"T1 {path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("made", "fields", "message"),
    [
        ({"qform": AFFINE + np.array([[0, 0, 0, 12], [0, 0, 0, -8], [0, 0, 0, 6], [0, 0, 0, 0]])}, {}, None),
        ({}, {"pixdim": {1: 0}}, "The qform of the T1 cannot be used .voxels have 0 x 6 x 7 mm"),
        ({}, {"pixdim": {0: 7}}, "The qform of the T1 cannot be used"),
        ({}, {"quatern_c": np.inf}, "The qform of the T1 cannot be used"),
        ({}, {"bitpix": 8}, "states 8 bits per voxel, but its data type has 32"),
    ],
)
def test_what_is_odd_is_noted(tmp_path, made, fields, message):
    volume = read_volume(stored(tmp_path / "image.nii.gz", image(**made), **fields), name="T1")
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)
    (note,) = volume.notes
    message = message or r"The sform and the qform of the T1 place it up to 15.6 mm apart \(offsets 50 x -52 x -40 and"
    assert re.match(f".*{message}", note) and status_of([note]) is Status.DOUBTFUL


@pytest.mark.parametrize("codes", [(1, 1), (2, 0), (0, 3), (5, 4)])
def test_sound_geometry_has_no_notes(tmp_path, codes):
    volume = read_volume(stored(tmp_path / "image.nii", image(codes=codes)), name="T1")
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)
    assert volume.notes == () and volume.has_world
    # In the standard's own words, pixdim says the size of a voxel and its sign means nothing beside an sform.
    if codes[0]:
        fields = {"pixdim": {2: -6, 0: 0 if codes[1] == 0 else -1}}
        other = read_volume(stored(tmp_path / "other.nii", image(codes=codes), **fields), name="T1")
        np.testing.assert_allclose(other.affine, AFFINE, atol=1e-4)


def test_a_qform_without_handedness_is_right_handed_as_the_standard_says(tmp_path):
    right = AFFINE @ np.diag([-1.0, 1, 1, 1])
    made = image(sform=right, qform=right, codes=(0, 1))
    volume = read_volume(stored(tmp_path / "image.nii", made, pixdim={0: 0}), name="T1")
    np.testing.assert_allclose(volume.affine, right, atol=1e-4)
    assert "qfac 0" in volume.notes[0]


# --- images without a world ----------------------------------------------------------------------------------------


def read(tmp_path, name, codes, data=None, affine=AFFINE):
    return read_volume(stored(tmp_path / f"{name}.nii", image(data, affine, affine, codes)), name=name)


def test_an_image_without_a_world_beside_one_with(tmp_path):
    there, lost = read(tmp_path, "T1", (1, 1)), read(tmp_path, "segmentation", (0, 0))
    assert there.has_world and not lost.has_world
    with pytest.raises(InputError, match=r"segmentation .* while the T1 states both; export it again .*fslcpgeom"):
        check_worlds({"T1": there, "segmentation": lost})
    # An affine that was given by hand is a world.
    assert check_worlds({"a": there, "b": Volume(np.ones(SHAPE), AFFINE)}) == []


def test_images_without_a_world_share_their_voxels_or_nothing(tmp_path):
    one, two = read(tmp_path, "segmentation", (0, 0)), read(tmp_path, "T1", (0, 0))
    (note,) = check_worlds({"a": one, "b": two})
    assert "segmentation, T1" in note and status_of([note]) is Status.DOUBTFUL
    with pytest.raises(InputError, match="which is needed here"):
        check_worlds({"a": one}, needed=True)
    smaller = read(tmp_path, "PET", (0, 0), np.ones((16, 18, 13), np.float32))
    with pytest.raises(InputError, match=r"PET .* lies on other voxels than the segmentation"):
        check_worlds({"a": one, "b": two, "c": smaller})


def test_a_tensor_without_a_world_is_refused(tmp_path):
    tensor = np.zeros((*SHAPE, 6), np.float32)
    tensor[..., [0, 3, 5]] = 1
    for codes in ((1, 1), (0, 0)):
        path = stored(tmp_path / "tensor.nii.gz", image(tensor, codes=codes))
        if any(codes):
            assert read_tensor(path).notes == ()
        else:
            with pytest.raises(InputError, match="has the form codes 0"):
                read_tensor(path)
    path = stored(tmp_path / "tensor.nii.gz", image(tensor, qform=MIRRORED))
    with pytest.raises(InputError, match="by its sform and along"):
        read_tensor(path)


# --- the command ---------------------------------------------------------------------------------------------------


def lesion():
    x, y, z = np.indices(SHAPE) - (np.array(SHAPE) - 1)[:, None, None, None] / 2
    brain = (x / 7) ** 2 + (y / 8) ** 2 + (z / 6) ** 2 < 1
    distance = np.sqrt((x - 3) ** 2 + y**2 + (z - 1) ** 2)
    return brain, np.where(brain, np.select([distance < 1.6, distance < 2.6], [1, 2], 0), 0).astype(np.uint8)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small patient: images whose headers say the same twice, and the command for them."""
    folder = tmp_path_factory.mktemp("sound")
    brain, labels = lesion()
    images = {"segmentation": labels, "wm": brain * 0.7, "gm": brain * 0.3, "t1": brain * (1 + 0.05 * labels)}
    for name, data in images.items():
        made = image(data if name == "segmentation" else data.astype(np.float32))
        stored(folder / f"{name}.nii.gz", made)
    return folder


class ReachedError(ValueError):
    """An exception that ends the command after the images were read."""


def personalize(folder, out, monkeypatch, **others):
    """Run the command without its calibration; return the exit code, and the patient if there is one."""
    found = []

    def stub(patient, **_):
        found.append(patient)
        raise ReachedError("the patient is read")

    monkeypatch.setattr(commands, "personalize", stub)
    files = {name: folder / f"{name}.nii.gz" for name in ("segmentation", "wm", "gm", "t1")} | others
    code = main(["personalize", *(f"--{k}={v}" for k, v in files.items()), "--resolution=8", f"--out={out}"])
    return code, found[0] if found else None


def test_a_segmentation_without_a_world_is_refused_by_the_command(sound, tmp_path, monkeypatch, capsys):
    lost = stored(tmp_path / "lost.nii.gz", image(lesion()[1], codes=(0, 0)))
    code, patient = personalize(sound, tmp_path / "out", monkeypatch, segmentation=lost)
    assert (code, patient) == (2, None) and not (tmp_path / "out").exists()
    assert "lost.nii.gz: has the form codes 0" in capsys.readouterr().err


def test_an_offset_becomes_a_note_of_the_patient(sound, tmp_path, monkeypatch):
    moved = AFFINE.copy()
    moved[:3, 3] += [3, -2, 1]
    brain, labels = lesion()
    odd = stored(tmp_path / "odd.nii.gz", image((brain * (1 + 0.05 * labels)).astype(np.float32), qform=moved))
    _, patient = personalize(sound, tmp_path / "out", monkeypatch, t1=odd)
    assert [note for note in patient.notes if "sform and the qform of the T1" in note]


def test_an_atlas_is_brought_to_an_image_with_a_world_alone(sound, tmp_path, capsys):
    lost = stored(tmp_path / "lost.nii.gz", image(lesion()[1], codes=(0, 0)))
    assert main(["personalize", f"--segmentation={lost}", f"--out={tmp_path / 'out'}", "--resolution=8"]) == 2
    assert "form codes 0" in capsys.readouterr().err


def test_a_seed_in_mm_needs_maps_with_a_world(sound, tmp_path, capsys):
    brain, _ = lesion()
    maps = [stored(tmp_path / f"{n}.nii", image((brain * 0.5).astype(np.float32), codes=(0, 0))) for n in ("wm", "gm")]
    growth = ["--diffusivity=0.1", "--proliferation=0.02", "--duration=10", "--origin", "0", "0", "0", "--resolution=8"]
    assert main(["simulate", f"--wm={maps[0]}", f"--gm={maps[1]}", *growth, f"--out={tmp_path / 'out'}"]) == 2
    assert "form codes 0" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_recurrence_without_a_world_is_refused(sound, tmp_path):
    patient = load_patient(
        **{n: sound / f"{f}.nii.gz" for n, f in (("segmentation", "segmentation"), ("t1", "t1"))},
        white_matter=sound / "wm.nii.gz",
        grey_matter=sound / "gm.nii.gz",
        resolution=8,
    )
    for codes in ((1, 1), (0, 0)):
        later = read(tmp_path, "recurrence", codes, lesion()[1])
        if any(codes):
            assert at_follow_up(later, patient, None, []).tumour.sum() == (lesion()[1] > 0).sum()
        else:
            with pytest.raises(InputError, match=r"recurrence .* form codes 0"):
                at_follow_up(later, patient, None, [])


def test_an_odd_header_of_an_atlas_is_reported(atlas, tmp_path):
    for name in ("t1", "wm", "gm", "csf"):
        (tmp_path / f"{name}.nii.gz").write_bytes((atlas / f"{name}.nii.gz").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = load_atlas(tmp_path)
    content = gzip.decompress((tmp_path / "wm.nii.gz").read_bytes())
    stored(tmp_path / "wm.nii.gz", content, qform_code=1, qoffset_x=40)
    with pytest.warns(AtlasWarning, match=r"sform and the qform of the atlas wm .* apart"):
        after = load_atlas(tmp_path)
    np.testing.assert_array_equal(after.white_matter.data, before.white_matter.data)
    stored(tmp_path / "wm.nii.gz", content, sform_code=0)
    with pytest.raises(InputError, match=r"atlas wm .*form codes 0"):
        load_atlas(tmp_path)


# --- fuzzing -------------------------------------------------------------------------------------------------------


def extremes(header, rng):
    """Yield headers with one field at its extremes, or with an element of it."""
    for name in header.dtype.names:
        field = header[name]
        if field.dtype.kind not in "iuf":
            continue
        limits = (
            [np.nan, np.inf, -np.inf, 3e38, -1e-30, 0, -1, 1e9]
            if field.dtype.kind == "f"
            else [np.iinfo(field.dtype).min, np.iinfo(field.dtype).max, 0, 1, 2]
        )
        for value in limits:
            other = header.copy()
            if field.ndim:
                other[name][rng.integers(field.size)] = value
            else:
                other[name] = value
            yield f"{name}={value}", other.tobytes()


def mutations(content, seed):
    """Yield files, each with one damage: of a field, of bytes of the header, of the length, of the stream."""
    rng = np.random.default_rng(seed)
    header = np.frombuffer(content[:348], nib.Nifti1Header.template_dtype).copy()[0]
    for what, raw in extremes(header, rng):
        yield what, gzip.compress(raw + content[348:], 1), False
    for number in range(120):
        raw = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            raw[rng.integers(348)] ^= 1 << rng.integers(8)
        yield f"bits of the header {number}", gzip.compress(bytes(raw), 1), False
    for number in range(40):
        place, count = rng.integers(340), rng.integers(2, 9)
        raw = bytearray(content)
        raw[place : place + count] = rng.bytes(count)
        yield f"bytes of the header {number}", gzip.compress(bytes(raw), 1), False
    packed = gzip.compress(content)
    for number in range(60):
        raw = bytearray(packed)
        raw[rng.integers(10, len(raw))] ^= 1 << rng.integers(8)
        yield f"bit of the stream {number}", bytes(raw), True
    for number in range(30):
        yield f"end {number}", packed[: rng.integers(1, len(packed))], True
        yield f"shorter by {number + 1}", gzip.compress(content[: -number - 1], 1), True
        yield f"longer {number}", gzip.compress(content + bytes(rng.integers(1000, 9000)), 1), True


def sound_or_said(volume, was):
    """Return whether a mutated image lies where the sound one does, or has a note."""
    same = volume.data.shape == was.data.shape and np.allclose(volume.affine, was.affine, atol=0.61)
    return same or bool(volume.notes) or not volume.has_world


def test_no_mutation_of_a_file_moves_an_image(tmp_path):
    data = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    content = image(data)
    path = tmp_path / "image.nii.gz"
    path.write_bytes(gzip.compress(content))
    was = read_volume(path, name="T1")
    refused = accepted = 0
    for what, raw, whole in mutations(content, 1):
        path.write_bytes(raw)
        try:
            volume = read_volume(path, name="T1", background_nan=True)
        except InputError as error:
            assert re.fullmatch(r"[ -~]+", str(error)), what
            refused += 1
            continue
        accepted += 1
        assert sound_or_said(volume, was), what
        if whole:
            # Nothing but the container differs.
            np.testing.assert_array_equal(volume.data, was.data, err_msg=what)
    # Most fields do not affect the geometry.
    assert refused > 200 and accepted > 100 and refused + accepted >= 300, (refused, accepted)


def test_no_mutation_of_a_patients_image_gets_past_the_command_unseen(sound, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(2)
    out, path = tmp_path / "out", tmp_path / "mutated.nii.gz"
    _, was = personalize(sound, out, monkeypatch)
    capsys.readouterr()
    files = {name: gzip.decompress((sound / f"{name}.nii.gz").read_bytes()) for name in ("segmentation", "t1", "wm")}
    reached = 0
    for role, content in files.items():
        chosen = list(mutations(content, 3))
        for number in rng.choice(len(chosen), 14, replace=False):
            what, raw, _ = chosen[number]
            path.write_bytes(raw)
            code, patient = personalize(sound, out, monkeypatch, **{role: path})
            said = capsys.readouterr().err
            assert code == 2 and not out.exists() and os.listdir(tmp_path) == ["mutated.nii.gz"], what
            if patient is None:
                assert len(said.splitlines()) == 1 and said.startswith("tumorjax personalize: error: "), (what, said)
                continue
            reached += 1
            images = [patient.reference, *patient.images.values()]
            assert all(sound_or_said(image, was.reference) for image in images), (role, what)
    assert reached > 8


# --- kills ---------------------------------------------------------------------------------------------------------

# The command, its calibration and its figures replaced by files that take a while; killed at random moments.
KILLED = """
import os, random, shutil, signal, sys, time
import tumorjax.cli.commands as commands
from tumorjax.cli import main

def written(out, *arguments, **others):
    for number in range(4):
        (out / f"map{number}.txt").write_text("1")
        time.sleep(0.002)
    return {"dice_core": 0.5}

commands.personalize = lambda *arguments, **options: type("R", (), {"notes": []})()
commands.write_personalization = written
commands.simulate_tumour = lambda options, out, screen: written(out)
out, kills, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
rng = random.Random(0)

def run(after, number):
    if not (child := os.fork()):
        os.setpgid(0, 0)
        os._exit(main(command))
    if after is not None:
        time.sleep(after)
        os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def shown():
    return {name for name in os.listdir(out) if not name.startswith(".partial-results-")}

begun = time.monotonic()
assert run(None, 0) == 0
span = time.monotonic() - begun
names = {"map0.txt", "map1.txt", "map2.txt", "map3.txt", "SHA256SUMS"}
for turn in range(kills):
    number = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)[turn % 3]
    for name in os.listdir(out):
        path = f"{out}/{name}"
        os.unlink(path) if name in names else shutil.rmtree(path)
    code = run(span * rng.random(), number)
    assert code in (0, -number, 128 + number), code
    if not (os.path.isdir(out) and shown() == names):
        # The same command succeeds, and removes what was left.
        assert run(None, 0) == 0, os.listdir(out)
        assert set(os.listdir(out)) == names, os.listdir(out)
    # Only a kill that cannot be caught may leave a temporary folder.
    assert set(os.listdir(out)) == names or number == signal.SIGKILL, os.listdir(out)
print("done")
"""


@pytest.mark.parametrize("command", ["personalize", "simulate"])
def test_a_command_that_is_killed_succeeds_when_it_is_given_again(sound, tmp_path, command):
    out = tmp_path / "out"
    options = {
        "personalize": [f"--{n}={sound / n}.nii.gz" for n in ("segmentation", "wm", "gm", "t1")],
        "simulate": ["--diffusivity=0.1", "--proliferation=0.02", "--duration=10", "--origin", "0", "0", "0"],
    }[command]
    command = [command, *options, "--resolution=8", "--quiet", f"--out={out}"]
    script = [sys.executable, "-c", KILLED, str(out), "6", *command]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(script, cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr
    assert set(os.listdir(tmp_path)) <= {"out", ".out.lock"}
