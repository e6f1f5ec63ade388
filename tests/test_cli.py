"""The command: its results for a small synthetic patient, and its messages on unusable input."""

import gzip
import io
import json
import os
import re
import shlex
import subprocess
import sys
import warnings

import jax
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import tumorjax.cli.commands as commands
from tests.problems import patient as problem_with_a_truth
from tumorjax.atlas import load_atlas
from tumorjax.calibration.cost import Cost
from tumorjax.calibration.method import AbstractMethod
from tumorjax.cli import main
from tumorjax.growth import MassEffect
from tumorjax.io import read_volume, resample
from tumorjax.methods.multi_atlas import multi_atlas
from tumorjax.methods.sampling import TMCMC
from tumorjax.methods.sampling.posterior import posterior_of
from tumorjax.methods.sampling.sample import Sample, SamplerStats
from tumorjax.pipeline.synthetic import synthetic_patient
from tumorjax.planning import dice
from tumorjax.registration import load_transform
from tumorjax.results.dicom.kept import read_kept
from tumorjax.sections import Draws, Table
from tumorjax.storage import write_arrays

pytestmark = pytest.mark.usefixtures("jax_as_installed", "without_progress")

SHAPE, SPACING = (52, 58, 50), 2.5
# Patients of every storage order: axes to the left, to the back and up; and turned about an axis as well.
RAS = np.diag([SPACING, SPACING, SPACING, 1.0])
RAS[:3, 3] = -SPACING * (np.array(SHAPE) - 1) / 2
ANGLE = np.deg2rad(12)
TURN = np.eye(4)
TURN[1:3, 1:3] = [[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]]
TURN[:3, 3] = [5, -20, 30]
OBLIQUE_LPS = TURN @ np.diag([-1.0, -1.0, 1.0, 1.0]) @ RAS

FILES = {
    "SHA256SUMS",
    "density.nii.gz",
    "density_std.nii.gz",
    "plan.nii.gz",
    "parameters.json",
    "metrics.json",
    "report.html",
    "report.png",
}
FIGURES = {
    "dice_core",
    "dice_lesion",
    "dice_sum",
    "brier",
    "tumour_ml",
    "seconds_total",
    "seconds_calibration",
    "forward_solves",
}
PARAMETERS = {"mu1", "mu2", "origin_x", "origin_y", "origin_z", "threshold_core", "threshold_lesion"}


def save(path, data, affine, codes=(1, 1)):
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    nib.save(image, path)
    return path


def made_up():
    """A ball of white matter with a rind of grey matter, a ventricle, and a tumour with signal in PET."""
    x, y, z = (SPACING * (i - (n - 1) / 2) for i, n in zip(np.indices(SHAPE, np.float32), SHAPE, strict=True))
    radius = np.sqrt((x / 55) ** 2 + (y / 62) ** 2 + (z / 52) ** 2)
    ventricle = (np.abs(x + 15) < 8) & (np.abs(y) < 20) & (np.abs(z) < 8)
    brain = radius < 1
    white = brain & ~ventricle & (radius < 0.8)
    distance = np.sqrt(((x - 25) / 1.2) ** 2 + y**2 + (z - 10) ** 2)
    labels = np.where(brain, np.select([distance < 10, distance < 18], [1, 2], 0), 0)
    # A PET image without noise would outvote both outlines.
    noise = np.random.default_rng(0).normal(0, 100, SHAPE).astype(np.float32)
    return {
        "segmentation": labels.astype(np.uint8),
        "wm": white.astype(np.float32),
        "gm": (brain & (radius >= 0.8)).astype(np.float32),
        "csf": (brain & ventricle).astype(np.float32),
        "brain_mask": brain.astype(np.uint8),
        "t1": (brain * (100 + 400 * white - 60 * ventricle)).astype(np.float32),
        "pet": (brain * (50 + 950 * np.exp(-((distance / 12) ** 2)) + noise)).astype(np.float32),
        "recurrence": (distance < 14).astype(np.uint8),
    }


@pytest.fixture(scope="module")
def images():
    return made_up()


@pytest.fixture(scope="module")
def files(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ball")
    paths = {name: save(folder / f"{name}.nii.gz", data, RAS) for name, data in images.items()}
    # A name in Latin-1, which no encoder takes as it is.
    paths["segmentation"] = paths["segmentation"].rename(folder / os.fsdecode(b"M\xfcller_seg.nii.gz"))
    return paths


def tissue(files):
    return [f"--{name}={files[name]}" for name in ("wm", "gm", "csf")]


def patient(files, *names):
    options = [f"--{name.replace('_', '-')}={files[name]}" for name in names]
    known = ["--labels=brats2021", "--resolution=4"]
    return ["personalize", f"--segmentation={files['segmentation']}", *tissue(files), *options, *known]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def result(files, tmp_path_factory):
    """The results of a patient with a recurrence and a brain mask, and the printed text."""
    out = tmp_path_factory.mktemp("results") / "new" / "folder"
    command = [*patient(files, "brain_mask", "recurrence"), f"--out={out}", "--json"]
    with pytest.MonkeyPatch.context() as patch:
        printed, said = io.StringIO(), io.StringIO()
        patch.setattr(sys, "stdout", printed)
        patch.setattr(sys, "stderr", said)
        assert main(command) == 0
    return out, printed.getvalue(), said.getvalue()


def test_every_file_is_there_and_no_other(result):
    out, _, _ = result
    assert {path.name for path in out.iterdir()} == FILES
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    listed = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert listed == FILES - {"SHA256SUMS"}


def test_results_are_read_back_for_export(result):
    kept = read_kept(result[0])
    assert kept.quality == read(result[0] / "metrics.json")["quality"]
    assert kept.dose is None and kept.plan.data.sum() > 0
    assert kept.density.data.shape == kept.plan.data.shape == SHAPE


def assert_same_geometry(path, other):
    image, like = nib.load(path), nib.load(other)
    assert image.shape == like.shape
    np.testing.assert_allclose(image.affine, like.affine, atol=1e-6)
    for form in ("sform", "qform"):
        assert int(image.header[f"{form}_code"]) == int(like.header[f"{form}_code"])
    return image.get_fdata()


def test_maps_are_in_the_patients_own_geometry(files, result):
    out, _, _ = result
    density = assert_same_geometry(out / "density.nii.gz", files["segmentation"])
    assert density.min() >= 0
    assert 0.5 < density.max() <= 1
    deviation = assert_same_geometry(out / "density_std.nii.gz", files["segmentation"])
    assert deviation.min() >= 0
    assert 0 < deviation.max() < 1
    assert_same_geometry(out / "plan.nii.gz", files["segmentation"])


def test_the_plan_is_as_large_as_the_margin_of_the_core(images, files, result):
    plan = nib.load(result[0] / "plan.nii.gz").get_fdata()
    assert set(np.unique(plan)) == {0, 1}
    distance = ndimage.distance_transform_edt(images["segmentation"] != 1, sampling=SPACING)
    assert plan.sum() == ((distance <= 15) & (images["brain_mask"] > 0)).sum()
    assert not plan[images["brain_mask"] == 0].any()
    density = nib.load(result[0] / "density.nii.gz").get_fdata()
    inside = images["brain_mask"] > 0
    assert density[inside & (plan == 1)].min() >= density[inside & (plan == 0)].max()


def test_parameters_have_value_unit_deviation_and_map(result):
    parameters = read(result[0] / "parameters.json")["parameters"]
    assert set(parameters) >= PARAMETERS | {"diffusivity", "proliferation", "duration"}
    for name, row in parameters.items():
        assert {"value", "unit", "standard_deviation", "map"} <= set(row), name
        assert np.isfinite(row["value"])
        assert row["map"] == row["value"]
        assert row["fixed"] if row["standard_deviation"] is None else row["standard_deviation"] > 0
    assert [parameters[name]["unit"] for name in ("mu1", "mu2", "origin_x", "speed")] == ["mm", "", "mm", "mm/day"]
    # Not far from the middle of the outlines, which the atlas' ball does not disturb.
    found = [parameters[f"origin_{axis}"]["value"] for axis in "xyz"]
    assert np.linalg.norm(np.subtract(found, [25, 0, 10])) < 12


def test_metrics_are_complete_and_printed(images, result):
    out, printed, said = result
    metrics = read(out / "metrics.json")
    assert json.loads(printed) == metrics
    assert set(metrics) >= FIGURES | {"coverage_plan", "coverage_standard"}
    assert metrics["dice_sum"] == pytest.approx(metrics["dice_core"] + metrics["dice_lesion"])
    assert metrics["dice_sum"] > 1.5
    assert 0 <= metrics["brier"] < 0.1
    assert metrics["tumour_ml"] == pytest.approx((images["segmentation"] > 0).sum() * SPACING**3 / 1000)
    assert metrics["coverage_plan"] > 0.9
    assert metrics["coverage_standard"] == 1
    assert 0 < metrics["seconds_calibration"] < metrics["seconds_total"]
    assert metrics["forward_solves"] > 10
    assert f"results are in {out}, and tumorjax view {out} opens the report; for research only" in said


def test_the_command_is_recorded_as_it_can_be_given_again(monkeypatch):
    seen = []
    monkeypatch.setattr(commands, "run", lambda options: seen.append(options.command_line) or 0)
    words = [
        "personalize",
        "--segmentation=the first.nii.gz",
        "--out=out",
        "--labels",
        "core=1,4",
        "edema=2",
        "--t1",
        "",
    ]
    assert main(words) == 0
    assert shlex.split(seen[0]) == ["tumorjax", *words]
    assert seen[0].startswith("tumorjax personalize '--segmentation=the first.nii.gz' --out=out --labels core=1,4 ")


def test_provenance_and_report(files, result):
    provenance = read(result[0] / "parameters.json")["provenance"]
    assert f"--segmentation={files['segmentation']}" in provenance["command"]
    assert {f"sha256 of {role}" for role in ("segmentation", "brain mask", "recurrence")} <= set(provenance)
    page = (result[0] / "report.html").read_text(encoding="utf-8")
    assert "not for clinical use" in page.lower()


@pytest.fixture(scope="module")
def turned(images, tmp_path_factory):
    """The same patient in oblique LPS with other header codes and a PET image; the results are quiet."""
    folder = tmp_path_factory.mktemp("turned")
    files = {name: save(folder / f"{name}.nii.gz", data, OBLIQUE_LPS, (2, 4)) for name, data in images.items()}
    done = subprocess.run(
        [sys.executable, "-m", "tumorjax.cli", *patient(files, "t1", "pet"), f"--out={folder / 'out'}", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    return files, folder / "out", done


def test_another_storage_order_and_pet_in_a_process_of_its_own(turned, result):
    files, out, done = turned
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name for path in out.iterdir()} == FILES
    for name in ("density", "density_std", "plan"):
        assert_same_geometry(out / f"{name}.nii.gz", files["segmentation"])
    parameters = read(out / "parameters.json")["parameters"]
    for name in ("pet_scale", "pet_noise"):
        assert parameters[name]["value"] > 0
        assert parameters[name]["standard_deviation"] > 0
    assert "coverage_plan" not in read(out / "metrics.json")
    # The same tumour in another place.
    here = np.linalg.inv(OBLIQUE_LPS) @ [*(parameters[f"origin_{axis}"]["value"] for axis in "xyz"), 1]
    before = read(result[0] / "parameters.json")["parameters"]
    there = np.linalg.inv(RAS) @ [*(before[f"origin_{axis}"]["value"] for axis in "xyz"), 1]
    assert np.linalg.norm(here - there) * SPACING < 12
    assert read(out / "metrics.json")["dice_sum"] == pytest.approx(
        read(result[0] / "metrics.json")["dice_sum"], abs=0.15
    )


def growth(*options, origin=(25, 0, 10)):
    return [
        "simulate",
        "--diffusivity=0.3",
        "--proliferation=0.03",
        "--duration=200",
        "--origin",
        *map(str, origin),
        "--resolution=4",
        *options,
    ]


def test_simulate_writes_a_series(files, tmp_path, capsys):
    assert main([*growth("--save-every=80", "--json"), *tissue(files), f"--out={tmp_path / 'out'}"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    frames = {f"density_{i:03d}.nii.gz" for i in range(4)}
    assert names == {"density.nii.gz", "simulation.json", "SHA256SUMS"} | frames
    summary = read(tmp_path / "out" / "simulation.json")
    assert summary["times_days"] == pytest.approx([0, 80, 160, 200])
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["cells_ml"] > 0
    last = assert_same_geometry(tmp_path / "out" / "density.nii.gz", files["wm"])
    volumes = [assert_same_geometry(tmp_path / "out" / name, files["wm"]).sum() for name in sorted(frames)]
    assert volumes == sorted(volumes)
    assert volumes[-1] == pytest.approx(last.sum())
    assert last.sum() * SPACING**3 / 1000 == pytest.approx(metrics["cells_ml"], rel=0.05)
    assert 0 <= last.min() < last.max() <= 1


def test_simulate_without_fluid_and_quiet(files, tmp_path, capsys):
    maps = [f"--wm={files['wm']}", f"--gm={files['gm']}"]
    assert main([*growth("--quiet"), *maps, f"--out={tmp_path / 'out'}"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "out" / "density.nii.gz").is_file()


def exit_code(command):
    """The exit code and the streams, as a shell gets them."""
    try:
        return main(command)
    except SystemExit as leaving:
        return leaving.code


def test_version_and_help(capsys):
    assert exit_code(["--version"]) == 0
    name, number = capsys.readouterr().out.split()
    assert name == "tumorjax"
    assert number[0].isdigit()
    assert main([]) == 0
    plain = capsys.readouterr().out
    assert exit_code(["--help"]) == 0
    assert capsys.readouterr().out == plain
    assert "personalize" in plain
    for command in ("personalize", "simulate", "demo"):
        assert exit_code([command, "--help"]) == 0
        assert "not for clinical use" in " ".join(capsys.readouterr().out.split())


# Input that cannot be used.


def labels(images):
    return images["segmentation"].copy()


def spoil(folder, images, role, what):
    """Write a spoilt image and return its path."""
    path, seg = folder / f"{what}.nii.gz", labels(images)
    wm = images["wm"].copy()
    match what:
        case "missing":
            pass
        case "cut off":
            whole = save(folder / "whole.nii.gz", np.random.default_rng(0).random(SHAPE), RAS).read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
        case "text":
            path.write_bytes(gzip.compress(b"This is no image. " * 100))
        case "4-D":
            save(path, np.stack([seg, seg], -1), RAS)
        case "2-D":
            save(path, seg[:, :, 20], RAS)
        case "NaN":
            wm[20, 20, 20] = np.nan
            save(path, wm, RAS)
        case "empty":
            save(path, 0 * seg, RAS)
        case "negative":
            save(path, wm - 0.5, RAS)
        case "percent":
            save(path, 100 * wm, RAS)
        case "singular":
            image = nib.Nifti1Image(seg, RAS)
            image.header["qform_code"], image.header["sform_code"] = 0, 1
            image.header["srow_z"] = image.header["srow_y"]
            image.to_filename(path)
            # Writing put it right.
            raw = bytearray(gzip.decompress(path.read_bytes()))
            raw[252:256] = np.array([0, 1], "<i2").tobytes()
            raw[312:328] = raw[296:312]
            path.write_bytes(gzip.compress(bytes(raw)))
        case "elsewhere":
            affine = RAS.copy()
            affine[0, 3] += 400
            save(path, images[role], affine)
        case "constant":
            save(path, np.full(SHAPE, 7.0, np.float32), RAS)
    return path


SPOILT = [
    ("segmentation", "missing", "does not exist"),
    ("segmentation", "cut off", "cut off|damaged"),
    ("segmentation", "text", "not a readable NIfTI"),
    ("segmentation", "4-D", "3-D"),
    ("segmentation", "2-D", "3-D"),
    ("segmentation", "empty", "is empty"),
    ("segmentation", "singular", "affine"),
    ("segmentation", "elsewhere", "world space"),
    ("wm", "missing", "does not exist"),
    ("wm", "NaN", "1 NaN"),
    ("wm", "empty", "probabilities"),
    ("wm", "negative", "probabilities"),
    ("wm", "percent", "probabilities"),
    ("wm", "elsewhere", "world space"),
    ("gm", "elsewhere", "world space"),
    ("brain_mask", "elsewhere", "world space"),
    ("t1", "elsewhere", "world space"),
    ("pet", "constant", "is 7 wherever"),
    ("pet", "empty", "shows nothing in the lesion"),
    ("pet", "elsewhere", "world space"),
    ("recurrence", "empty", "shows nothing"),
    ("recurrence", "elsewhere", "world space"),
]


def assert_refused(command, capsys, folder, pattern):
    """Check for one line on standard error, exit code 2, and an unchanged folder."""
    before = sorted(folder.rglob("*"))
    assert exit_code(command) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith("\n")
    assert len(printed.err.splitlines()) == 1, printed.err
    assert printed.err.startswith(f"tumorjax {command[0]}: error: ")
    assert re.search(pattern, printed.err), printed.err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("role", "what", "pattern"), SPOILT, ids=lambda each: each)
def test_refuses_spoilt_images(images, files, tmp_path, capsys, role, what, pattern):
    folder = tmp_path / "images"
    folder.mkdir()
    path = spoil(folder, images, role, what)
    names = [role] if role not in ("segmentation", "wm", "gm") else []
    command = patient({**files, role: path}, *names)
    assert_refused([*command, f"--out={tmp_path / 'out'}"], capsys, tmp_path, pattern)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (["--labels", "core=5"], "no core label 5; present are 1"),
        (["--labels", "core=1", "edema=9"], "no edema label 9"),
        (["--labels", "core"], "labels: got 'core'; give core=N,N edema=N, perhaps cavity=N, or one of brats2021"),
        (["--labels", "core=1,x"], "labels: got 'core=1,x'"),
        (["--labels", "core=0"], "positive integers"),
        (["--labels", "core=1", "edema=1"], "repeats"),
        (["--labels", "tumour=1"], "got the name 'tumour'; known are core, edema"),
        (["--labels", "edema=2"], "give core and edema"),
        (["--labels"], "expected at least one argument"),
        (["--atlas", "icbm152"], "got maps and an atlas; give one"),
        (["--atlas", "unheard-of"], "got maps and an atlas; give one"),
        (["--resolution", "0.1"], "resolution: got 0.1 mm; give 0.5 to 8"),
        (["--resolution", "20"], "resolution: got 20 mm; give 0.5 to 8"),
        (["--resolution", "nan"], "argument --resolution: got nan"),
        (["--resolution", "fine"], "invalid float value: 'fine'"),
        (["--atlases", "icbm152"], "atlases: is not for lbfgs; leave it out or add --method multi-atlas"),
        (["--sparsity", "3"], "sparsity: is not for lbfgs; leave it out or add --method multi-atlas"),
        (["--no-refine"], "no-refine: is not for lbfgs; leave it out or add --method retrieval or lmi or multi-atlas"),
        (["--model", "elastic"], "invalid choice: 'elastic'"),
        (["--model", "mass-effect", "--atlases"], "expected at least one argument"),
        (["--model", "mass-effect", "--atlases", "unheard-of"], "atlas unheard-of: unknown; give icbm152, or a folder"),
        (["--model", "mass-effect", "--atlases", "icbm152", "icbm152"], "atlases: icbm152 is given twice"),
        (["--model", "mass-effect", "--sparsity", "0"], "sparsity: got 0; give 1 to 50"),
        (["--healthy", "affine"], "healthy: is not for fisher-kolmogorov, which leaves tissue where it is; leave it"),
        (["--model", "mass-effect", "--healthy", "own"], "argument --healthy: invalid choice: 'own'"),
        (["--method", "gibbs"], "invalid choice: 'gibbs'"),
        (["--particles", "100"], "particles: is not for lbfgs; leave it out or add --method tmcmc"),
        (["--method", "tmcmc", "--draws", "100"], "draws: is not for tmcmc; leave it out or add --method nuts"),
        (["--method", "nuts", "--particles", "100"], "particles: is not for nuts"),
        (["--method", "tmcmc", "--rounds", "2"], "rounds: is not for tmcmc; leave it out or add --method npe"),
        (["--method", "npe", "--simulations", "3"], "simulations must be a whole number of at least 20, got 3"),
        (["--seed", "3"], "seed: is not for lbfgs; leave it out or add --method tmcmc or nuts"),
        (["--method", "lmi", "--checkpoint", "c.npz"], "checkpoint: is not for lmi"),
        (["--method", "tmcmc", "--seed", "-3"], "seed: got -3; give 0 or more"),
        (["--method", "tmcmc", "--particles", "0"], "particles must be a whole number of at least 1, got 0"),
        (["--method", "tmcmc", "--particles", "4"], "4 particles do not span 5 coordinates"),
        (["--method", "nuts", "--chains", "0"], "chains must be a whole number of at least 1, got 0"),
        (["--method", "nuts", "--draws", "many"], "invalid int value: 'many'"),
        (["--method", "nuts", "--model", "mass-effect", "--sparsity", "3"], "sparsity: is not for nuts"),
        (["--speed", "3"], "unknown option or argument: --speed 3; see tumorjax personalize --help"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_refuses_options(files, tmp_path, capsys, options, pattern):
    command = [*patient(files), f"--out={tmp_path / 'out'}", *options]
    assert_refused(command, capsys, tmp_path, pattern)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (["--wm", "wm"], "white and grey matter come together"),
        (["--csf", "csf"], "white and grey matter come together"),
        (["--atlas", "unheard-of"], "atlas unheard-of: unknown; give icbm152, or a folder"),
        (["--tissue", "wm", "csf=1"], "tissue labels: got csf; give all of csf, gm and wm"),
        (["--tissue", "wm", "csf=1", "gm=2", "wm=3"], "has no voxel with the wm label 3"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_refuses_tissue(files, tmp_path, capsys, options, pattern):
    options = [str(files.get(option, option)) for option in options]
    command = ["personalize", f"--segmentation={files['segmentation']}", f"--out={tmp_path / 'out'}"]
    assert_refused([*command, *options], capsys, tmp_path, pattern)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (["--diffusivity=-1"], "diffusivity must be finite and not negative, got -1"),
        (["--proliferation=nan"], "argument --proliferation: got nan; give a finite number"),
        (["--duration=1e999"], "argument --duration: got 1e999; give a finite number"),
        (["--origin", "300", "0", "0"], "outside white and grey matter"),
        (["--origin", "nan", "0", "0"], "argument --origin: got nan; give a finite number"),
        (["--origin", "1", "2"], "expected 3 arguments"),
        (["--save-every=0"], "save_every must be positive|save-every"),
        (["--save-every=-5"], "save_every must be positive|save-every"),
        (["--save-every=nan"], "argument --save-every: got nan"),
        (["--save-every=1e-9"], "save-every: got 1e-09 days, more than 1000 images"),
        (["--save-every=5", "--duration=0"], "save_every needs a duration above zero, got 0 days"),
        (["--ratio=0"], "ratio must be positive"),
        (["--atlas=icbm152"], "maps and an atlas"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_simulate_refuses(files, tmp_path, capsys, options, pattern):
    command = [*growth(), *tissue(files), f"--out={tmp_path / 'out'}", *options]
    assert_refused(command, capsys, tmp_path, pattern)


def test_simulate_refuses_maps(images, files, tmp_path, capsys):
    negative = save(tmp_path / "negative.nii.gz", images["wm"] - 0.5, RAS)
    command = [*growth(), *tissue({**files, "wm": negative}), f"--out={tmp_path / 'out'}"]
    assert_refused(command, capsys, tmp_path, "white matter .*probabilities")
    command = [*growth(), f"--wm={files['wm']}", f"--out={tmp_path / 'out'}"]
    assert_refused(command, capsys, tmp_path, "give --wm and --gm")


def test_refuses_output_that_is_taken(files, tmp_path, capsys):
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    assert_refused([*patient(files), f"--out={full}"], capsys, tmp_path, "is not empty; give another folder")
    assert (full / "notes.txt").read_text() == "mine"
    assert_refused([*patient(files), f"--out={full / 'notes.txt'}"], capsys, tmp_path, "is a file; give a folder")
    below = full / "notes.txt" / "below"
    assert_refused([*patient(files), f"--out={below}"], capsys, tmp_path, "cannot be written|is a file")
    assert_refused(patient(files), capsys, tmp_path, "required: --out")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_refuses_a_folder_without_permission(files, tmp_path, capsys):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    try:
        assert_refused([*patient(files), f"--out={locked / 'out'}"], capsys, tmp_path, "cannot be written")
    finally:
        locked.chmod(0o700)


def test_demo_refuses_a_seed(tmp_path, capsys):
    assert_refused(["demo", "--seed=-1", f"--out={tmp_path / 'out'}"], capsys, tmp_path, "seed: got -1; give 0 or more")


def test_refuses_an_atlas_without_fluid(files, images, tmp_path, capsys):
    folder = tmp_path / "dry"
    folder.mkdir()
    for name, data in (("t1", images["t1"]), ("wm", images["wm"]), ("gm", images["gm"]), ("csf", 0.3 * images["csf"])):
        save(folder / f"{name}.nii.gz", data, RAS)
    command = [*patient(files), "--model=mass-effect", "--atlases", str(folder), f"--out={tmp_path / 'out'}"]
    assert_refused(command, capsys, tmp_path, "dry: has no fluid, so no ventricles; give an atlas with a map of fluid")


@pytest.mark.parametrize(
    ("options", "names", "sparsity", "refine"),
    [
        ([], ["icbm152"], 5, True),
        (["--healthy=affine"], ["icbm152"], 5, True),
        (["--atlases", "icbm152", "FOLDER", "--sparsity=3", "--no-refine"], ["icbm152", "FOLDER"], 3, False),
    ],
)
def test_mass_effect_gets_its_options(images, files, tmp_path, monkeypatch, capsys, options, names, sparsity, refine):
    folder = tmp_path / "atlas"
    folder.mkdir()
    for name in ("t1", "wm", "gm", "csf"):
        save(folder / f"{name}.nii.gz", images[name], RAS)
    options, names = ([str(folder) if each == "FOLDER" else each for each in some] for some in (options, names))
    seen = {}

    def calibrate(patient, *, method, **given):
        seen.update(given)
        settings = {"healthy": given["healthy"], "notes": [], "progress": lambda stage, share: None}
        seen.update(method=method.prepare(patient, given["model"], **settings))
        raise ValueError("the end")

    def align(patient, atlases, notes, *, healthy, progress):
        assert healthy == given_healthy
        return atlases

    given_healthy = "affine" if "--healthy=affine" in options else None
    monkeypatch.setattr(multi_atlas, "align_atlases", align)
    monkeypatch.setattr(commands, "personalize", calibrate)
    assert main([*patient(files), "--model=mass-effect", *options, f"--out={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err.endswith("error: the end\n")
    method = seen["method"]
    assert [atlas.name for atlas in method.atlases] == names
    assert (method.sparsity, method.refine) == (sparsity, refine)
    assert (seen["model"], seen["healthy"]) == (MassEffect(), given_healthy)


@pytest.mark.parametrize(
    ("options", "name", "settings"),
    [
        ([], "LBFGS", None),
        (["--method=lbfgs"], "LBFGS", None),
        (["--method=tmcmc", "--particles=300"], "TMCMC", {"particles": 300, "checkpoint": None, "screen": None}),
        (["--method=tmcmc", "--resolution=2"], "TMCMC", {"screen": 2}),
        (["--method=tmcmc", "--resolution=2", "--screen=none"], "TMCMC", {"screen": None}),
        (["--method=metropolis", "--screen=coarse"], "Metropolis", {"screen": 2}),
        (
            ["--method=nuts", "--draws=77", "--chains=3", "--seed=5", "--checkpoint=FILE"],
            "NUTS",
            {"draws": 77, "chains": 3},
        ),
        (
            ["--method=npe", "--draws=77", "--rounds=3", "--simulations=50", "--seed=5", "--checkpoint=FILE"],
            "NeuralPosterior",
            {"draws": 77, "rounds": 3, "simulations": 50, "corrected": True},
        ),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_samplers_get_their_options(files, tmp_path, monkeypatch, capsys, options, name, settings):
    seen = {}

    def calibrate(patient, **given):
        seen.update(given)
        raise ValueError("the end")

    monkeypatch.setattr(commands, "personalize", calibrate)
    file = tmp_path / "draws.npz"
    options = [option.replace("FILE", str(file)) for option in options]
    assert main([*patient(files), *options, f"--out={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err.endswith("error: the end\n")
    method = seen["method"]
    assert type(method).__name__ == name
    if settings is None:
        return
    assert {key: getattr(method, key) for key in settings} == settings
    seed, checkpoint = (5, str(file)) if any("seed" in option for option in options) else (0, None)
    assert method.checkpoint == checkpoint
    assert (seen["key"] == jax.random.key(seed)).all()


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ([], None),
        (["--labels", "hd-glio"], "hd-glio"),
        (["--labels", "core=1,3", "edema=2", "cavity=4"], {"core": (1, 3), "edema": (2,), "cavity": (4,)}),
    ],
)
def test_labels_are_handed_on(files, tmp_path, monkeypatch, options, labels):
    given = {}

    def load(**arguments):
        given.update(arguments)
        raise ValueError("enough")

    monkeypatch.setattr(commands, "load_patient", load)
    others = [word for word in patient(files) if not word.startswith("--labels")]
    assert exit_code([*others, *options, f"--out={tmp_path / 'out'}"]) == 2
    assert given["labels"] == labels


@pytest.mark.parametrize("engine", [None, "demons"])
def test_the_engine_of_registration_is_handed_on(files, tmp_path, monkeypatch, engine):
    given = {}

    def load(**arguments):
        given.update(arguments)
        raise ValueError("enough")

    monkeypatch.setattr(commands, "load_patient", load)
    chosen = [f"--registration={engine}"] if engine else []
    assert exit_code([*patient(files), *chosen, f"--out={tmp_path / 'out'}"]) == 2
    assert given["registration"] == (engine or "greedy")


@pytest.mark.parametrize("engine", ["ants", "ants-published"])
def test_a_missing_library_of_registration_is_named_before_images_are_read(
    files, tmp_path, monkeypatch, capsys, engine
):
    monkeypatch.setitem(sys.modules, "ants", None)
    monkeypatch.setattr(commands, "load_patient", lambda **_: pytest.fail("images are read"))
    command = [*patient(files), f"--registration={engine}", f"--out={tmp_path / 'out'}"]
    pattern = rf"registration: {engine} needs antspyx, which is not installed: pip install 'tumorjax\[ants\]', or "
    assert_refused(command, capsys, tmp_path, pattern)


def test_a_missing_recurrence_is_named_before_other_images_are_read(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "load_patient", lambda **_: pytest.fail("images are read"))
    command = [*patient(files), f"--recurrence={tmp_path / 'gone.nii.gz'}", f"--out={tmp_path / 'out'}"]
    assert_refused(command, capsys, tmp_path, r"recurrence .*gone\.nii\.gz: does not exist")


def test_refuses_places_for_a_checkpoint(files, tmp_path, capsys):
    command = [*patient(files), "--method=tmcmc", f"--out={tmp_path / 'out'}"]
    inside = f"--checkpoint={tmp_path / 'out' / 'draws.npz'}"
    assert_refused([*command, inside], capsys, tmp_path, "draws.npz lies in the folder of the results")
    assert_refused([*command, f"--checkpoint={tmp_path}"], capsys, tmp_path, "is a folder; give a file")


@pytest.mark.parametrize(
    ("method", "library", "told"),
    [
        ("tmcmc", "arviz", True),
        ("nuts", "numpyro", True),
        ("nuts", "h5netcdf", True),
        ("npe", "flax", True),
        ("tmcmc", "numpyro", False),
    ],
)
def test_missing_libraries_are_named(files, tmp_path, monkeypatch, capsys, method, library, told):
    monkeypatch.setitem(sys.modules, library, None)
    stand_in(monkeypatch, lambda: (_ for _ in ()).throw(ValueError("the end")))
    pattern = rf"{method} needs {library}, .*pip install 'tumorjax\[bayes(,networks)?\]'$" if told else "the end$"
    command = [*patient(files), f"--method={method}", f"--out={tmp_path / 'out'}"]
    assert_refused(command, capsys, tmp_path, pattern)


class NearThePrior(AbstractMethod):
    """A sampler that looks at no image: draws near the middle of the prior."""

    def run(self, problem, key, progress):
        rng = np.random.default_rng(0)
        progress("stage 1", 1.0, 0.0)
        draws = 0.1 * rng.normal(size=(1, 12, problem.prior.size))
        ladder = {"temperature": (0.1, 1.0), "acceptance": (0.3, 0.2), "effective draws": (5.0, 6.0)}
        stats = SamplerStats(Cost(60), failed=1, ladder=ladder)
        sample = Sample(draws, rng.normal(size=(1, 12)), log_evidence=-7.5, stats=stats)
        return posterior_of(problem, sample, method=TMCMC.title)


@pytest.fixture(scope="module")
def drawn(files, tmp_path_factory):
    """The results of a sampler, and the printed text."""
    out = tmp_path_factory.mktemp("drawn") / "out"
    command = [*patient(files, "brain_mask", "recurrence"), "--method=tmcmc", f"--out={out}"]
    with pytest.MonkeyPatch.context() as patch:
        said = io.StringIO()
        patch.setattr(sys, "stderr", said)
        patch.setattr(commands, "method_of", lambda options: NearThePrior())
        assert main(command) == 0
    return out, said.getvalue()


MAPS = {"probability_0.01.nii.gz", "probability_0.1.nii.gz", "probability_0.5.nii.gz"}


def test_draws_leave_maps_and_themselves(files, images, drawn):
    arviz = pytest.importorskip("arviz")
    out, _ = drawn
    volumes = {"credible_50.nii.gz", "credible_90.nii.gz"}
    assert {path.name for path in out.iterdir()} == FILES | MAPS | volumes | {"posterior.nc"}
    likely, most = (assert_same_geometry(out / name, files["segmentation"]) for name in sorted(MAPS)[::2])
    assert most.min() >= 0 and (most <= likely + 1e-6).all() and likely.max() == 1
    half, credible = (assert_same_geometry(out / name, files["segmentation"]) > 0 for name in sorted(volumes))
    assert half.any() and not (half & ~credible).any()
    assert not credible[images["brain_mask"] == 0].any()
    data = arviz.from_netcdf(out / "posterior.nc", engine="h5netcdf")
    parameters = read(out / "parameters.json")
    assert float(data.posterior["growth.mu1"].mean()) == pytest.approx(
        parameters["parameters"]["mu1"]["value"], rel=1e-5
    )
    assert data.posterior.attrs["method"] == TMCMC.title


def test_parameters_of_draws_have_intervals(drawn):
    content = read(drawn[0] / "parameters.json")
    assert "mean of draws" in content["estimate"] and "arviz" in content["provenance"]["versions"]
    for name in PARAMETERS:
        row = content["parameters"][name]
        low, high = row["interval_90"]
        assert low < row["value"] < high
        assert row["map"] != row["value"]
    diagnostics = content["diagnostics"]
    assert (diagnostics["method"], diagnostics["failed"], diagnostics["log_evidence"]) == (TMCMC.title, 1, -7.5)
    assert diagnostics["ladder"]["temperature"] == [0.1, 1.0]


def test_draws_in_metrics_notes_and_report(drawn):
    out, said = drawn
    metrics = read(out / "metrics.json")
    assert metrics["forward_solves"] == 60 + 12
    assert 0 < metrics["credible_50_ml"] < metrics["credible_90_ml"]
    assert 0 <= metrics["coverage_credible_50"] <= metrics["coverage_credible_90"] <= 1
    assert metrics["effective_draws"] == 12
    assert "doubtful: The 12 draws are worth 12 independent ones" in said
    page = (out / "report.html").read_text(encoding="utf-8")
    for words in (
        "1 of 60 solves gave no likelihood", "transitional Markov chain Monte Carlo", "90 % credible volume",
        "logarithm of the evidence", "<h3>Stages</h3>", "90 % interval",
    ):  # fmt: skip
        assert words in page, words


def test_the_report_gets_draws_with_their_units_priors_and_mixing():
    problem = problem_with_a_truth(dtype=np.float32)
    size = problem.prior.size
    draws = 0.3 * np.random.default_rng(0).normal(size=(2, 30, size))
    stats = SamplerStats(Cost(500, 500), divergences=3, r_hat=1 + 0.01 * np.arange(size), ess=100.0 + np.arange(size))
    posterior = posterior_of(problem, Sample(draws, np.zeros((2, 30)), stats=stats))
    (section,) = posterior.sections()
    shown, facts = section.blocks
    assert isinstance(shown, Draws) and isinstance(facts, Table)
    assert shown.prior is not None and shown.prior_density is not None
    assert shown.names == [
        "mu1", "mu2", "origin_x", "origin_y", "origin_z", "threshold_core", "threshold_lesion",
    ]  # fmt: skip
    params = problem.prior.constrain(draws[1, 7].astype(np.float32))
    last = [
        float(params.growth.origin[2]),
        *(float(params.observations[name].threshold) for name in ("core", "lesion")),
    ]
    np.testing.assert_allclose(shown.values[1, 7, [0, 4, 5, 6]], [float(params.growth.mu1), *last], rtol=1e-5)
    # The thresholds' sharpness, between them in the prior, is not shown.
    assert shown.mixing["threshold_lesion"] == pytest.approx((1.07, 107))
    np.testing.assert_allclose(np.trapezoid(shown.prior_density, shown.prior, axis=0), 1, atol=0.01)
    assert shown.prior_density[100, 5] == pytest.approx(1 / 0.35, rel=0.01)
    assert {("draws", "2 chains of 30"), ("divergences", "3"), ("effective draws", "100")} <= set(
        map(tuple, facts.rows)
    )


def test_refuses_an_unknown_command(capsys):
    for command in (["predict"], ["--speed"]):
        assert exit_code(command) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


# Runs that do not come to their end.


def stand_in(monkeypatch, action):
    """Replace the calibration by something else."""
    monkeypatch.setattr(commands, "personalize", lambda *arguments, **options: action())


def earlier_results(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("density.nii.gz", "notes.txt"):
        (out / name).write_text(f"earlier {name}")
    return out


def assert_untouched(out):
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        name: f"earlier {name}" for name in ("density.nii.gz", "notes.txt")
    }


def test_a_failure_leaves_earlier_results(files, tmp_path, monkeypatch):
    out = earlier_results(tmp_path)

    def fail():
        raise RuntimeError("lost in the middle")

    stand_in(monkeypatch, fail)
    with pytest.raises(RuntimeError, match="lost in the middle"):
        main([*patient(files), f"--out={out}", "--overwrite"])
    assert_untouched(out)
    with pytest.raises(RuntimeError, match="lost in the middle"):
        main([*patient(files), f"--out={tmp_path / 'new' / 'folder'}"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_an_interruption_writes_nothing(files, tmp_path, monkeypatch, capsys, overwrite):
    def interrupt():
        raise KeyboardInterrupt

    stand_in(monkeypatch, interrupt)
    out = earlier_results(tmp_path) if overwrite else tmp_path / "out"
    assert main([*patient(files), f"--out={out}", *["--overwrite"] * overwrite]) == 130
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "tumorjax personalize: interrupted; nothing was written\n"
    if overwrite:
        assert_untouched(out)
    else:
        assert list(tmp_path.iterdir()) == []


def test_an_interruption_names_a_checkpoint_in_which_something_is_kept(files, tmp_path, monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    stand_in(monkeypatch, interrupt)
    options = ["--method=tmcmc", f"--checkpoint={tmp_path / 'draws.npz'}", f"--out={tmp_path / 'out'}"]
    assert main([*patient(files), *options]) == 130
    assert capsys.readouterr().err == "tumorjax personalize: interrupted; nothing was written\n"
    write_arrays(tmp_path / "draws.npz", "state of a calibration", 1, {}, {})
    assert main([*patient(files), *options]) == 130
    text = capsys.readouterr().err
    assert "draws.npz keeps what an earlier run has done; this one goes on from there." in text
    assert "draws.npz keeps what is done, and the same command goes on from there" in text


def test_a_full_disk_is_reported_in_one_line(files, tmp_path, monkeypatch, capsys):
    def fill():
        raise OSError(28, "No space left on device")

    stand_in(monkeypatch, fill)
    assert_refused([*patient(files), f"--out={tmp_path / 'out'}"], capsys, tmp_path, "No space left on device")


def test_warnings_are_no_noise(files, tmp_path, monkeypatch, capsys):
    def warn():
        warnings.warn("something for programmers", stacklevel=1)
        raise ValueError("the end")

    stand_in(monkeypatch, warn)
    assert_refused([*patient(files), f"--out={tmp_path / 'out'}"], capsys, tmp_path, "error: the end$")


def test_odd_headers_are_no_noise(images, files, tmp_path):
    odd = save(tmp_path / "odd.nii", labels(images), RAS)
    raw = bytearray(odd.read_bytes())
    raw[76:80] = np.array([5.0], "<f4").tobytes()
    odd.write_bytes(raw)
    command = [*patient({**files, "segmentation": odd}), "--labels", "core=7", f"--out={tmp_path / 'out'}"]
    done = subprocess.run([sys.executable, "-m", "tumorjax.cli", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr


def assert_both_ways(out):
    """The patient was grown in the atlas, so warped results must return to the same place, and labels stay labels."""
    assert {path.name for path in out.iterdir()} - FILES == {
        "patient", "atlas_transform.tfm", "density_atlas.nii.gz", "tumour_atlas.nii.gz", "tissue.nii.gz",
    }  # fmt: skip
    atlas, density = load_atlas("icbm152"), read_volume(out / "density.nii.gz", name="density")
    moved = read_volume(out / "density_atlas.nii.gz", name="density")
    assert moved.data.shape == atlas.t1.data.shape
    there = resample(density.data, density.affine, moved.grid)
    assert dice(moved.data > 0.1, there > 0.1) > 0.9
    labels = read_volume(out / "patient" / "segmentation.nii.gz", name="segmentation")
    tumour = read_volume(out / "tumour_atlas.nii.gz", name="tumour")
    assert set(np.unique(tumour.data)) == {0, 1, 2}
    assert dice(tumour.data > 0, resample(labels.data, labels.affine, moved.grid, kind="nearest") > 0) > 0.9
    tissue = read_volume(out / "tissue.nii.gz", name="tissue")
    assert set(np.unique(tissue.data)) == {0, 1, 2, 3}
    white = resample(atlas.white_matter.data, atlas.white_matter.affine, tissue.grid)
    assert dice(tissue.data == 3, white > 0.5) > 0.85
    points = np.array([[-30.0, -5.0, 35.0], [25.0, 10.0, 20.0]])
    assert np.abs(load_transform(out / "atlas_transform.tfm").apply(points) - points).max() < 3


def test_demo(tmp_path, monkeypatch, capsys):
    # Its own resolution would take most of the time of these tests.
    monkeypatch.setattr(commands, "synthetic_patient", lambda seed: synthetic_patient(seed, resolution=3))
    assert main(["demo", "--resolution=6", f"--out={tmp_path / 'out'}", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["dice_density_0.1"] > 0.8
    parameters = read(tmp_path / "out" / "parameters.json")["parameters"]
    assert all("truth" in parameters[name] for name in PARAMETERS)
    assert_both_ways(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out" / "patient").iterdir()} == {
        "t1.nii.gz",
        "segmentation.nii.gz",
        "true_density.nii.gz",
        "true_parameters.json",
    }
