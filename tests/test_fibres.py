"""Fibres of an image: from the file into the growth of the commands, and back to the brain before the tumour."""

import dataclasses
import json
from types import SimpleNamespace

import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from tests.problems import ball_brain
from tests.test_tensor_input import components, save
from tumorjax.anatomy import Anatomy
from tumorjax.calibration import Calibration, CalibrationResult, Problem, default_prior
from tumorjax.cli import main
from tumorjax.ensemble import tumours_of
from tumorjax.grid import Grid
from tumorjax.growth import FisherKolmogorov, GrowthParams, MassEffect
from tumorjax.integrate import Solution, simulate
from tumorjax.integrate.simulate import _embed
from tumorjax.io import InputError, TensorVolume, read_tensor, sha256
from tumorjax.methods import LBFGS
from tumorjax.methods.checkpoint import fingerprint
from tumorjax.methods.from_atlas.morphing import unlike_in_fibres
from tumorjax.methods.multi_atlas.stages import unsuitable
from tumorjax.observation import Outline
from tumorjax.patient import load_patient
from tumorjax.patient.atlases import AlignedAtlas, as_asked
from tumorjax.patient.fibres import with_fibres
from tumorjax.patient.shift import brain_behind
from tumorjax.quality import Status, status_of
from tumorjax.results.provenance import finished

pytestmark = pytest.mark.usefixtures("jax_as_installed", "compiled_plainly")

ORIGIN = np.array([-25.0, -10.0, 15.0])
ALONG, ACROSS = np.array([0.6, 0.8, 0.0]), np.array([0.8, -0.6, 0.0])
# Eigenvalues of 2, 0.5 and 0.5 relative to their mean; measured in mm^2/s.
RELATIVE = 0.5 * np.eye(3) + 1.5 * np.outer(ALONG, ALONG)
UNIT = components(np.eye(3))


def place(shape, spacing, shift=0.0):
    """The affine of an image of voxels of this edge, against x, about the origin of the world."""
    affine = np.diag([-spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2) + shift
    return affine


def image(path, tensor=RELATIVE, *, shape=(34, 34, 34), shift=0.0):
    """An image of one tensor everywhere, as MRtrix stores it."""
    data = components(np.broadcast_to(7e-4 * tensor, (*shape, 3, 3)), "diagonal")
    return save(path, data, place(shape, 6.0, shift))


@pytest.fixture(scope="module")
def dti(tmp_path_factory):
    return image(tmp_path_factory.mktemp("dti") / "dti.nii.gz")


@pytest.fixture(scope="module")
def files(atlas, dti, tmp_path_factory):
    """Options of a patient, by name: tissue, and the outlines of a ball in it."""
    wm = nib.load(atlas / "wm.nii.gz")
    grid = Grid(wm.shape, wm.affine)
    away = np.linalg.norm(grid.to_world(np.moveaxis(np.indices(grid.shape).astype(float), 0, -1)) - ORIGIN, axis=-1)
    labels = np.select([away < 14, away < 27], [1, 2], 0).astype(np.uint8)
    path = tmp_path_factory.mktemp("patient") / "seg.nii.gz"
    nib.save(nib.Nifti1Image(labels, wm.affine), path)
    return {"segmentation": path, **{name: atlas / f"{name}.nii.gz" for name in ("wm", "gm", "csf")}}


def given(files):
    return [f"--{name}={path}" for name, path in files.items()]


def stored(path, *words):
    return ["--dti", str(path), *(words or ("order=diagonal", "frame=world"))]


def of(path):
    return read_tensor(path, order="diagonal", frame="world", name="DTI")


def moments(density, grid):
    """The spread of a density along the fibres and across them, mm."""
    world = grid.to_world(np.moveaxis(np.indices(grid.shape).astype(float), 0, -1))
    weights = density / density.sum()
    middle = np.einsum("ijk,ijkx->x", weights, world)
    return [float(np.sqrt(np.sum(weights * ((world - middle) @ way) ** 2))) for way in (ALONG, ACROSS)]


# Commands.


def test_simulated_tumours_grow_along_the_fibres(atlas, dti, tmp_path):
    out = tmp_path / "out"
    numbers = ["--diffusivity=0.3", "--proliferation=0.02", "--duration=250", "--origin", *map(str, ORIGIN)]
    command = ["simulate", *numbers, f"--atlas={atlas}", "--resolution=8", "--quiet", f"--out={out}"]
    assert main([*command, *stored(dti)]) == 0
    maps = [nib.load(atlas / f"{name}.nii.gz") for name in ("wm", "gm", "csf")]
    grid = Grid(maps[0].shape, maps[0].affine)
    fibres = np.broadcast_to(components(RELATIVE), (*grid.shape, 6)).astype(np.float32)
    anatomy = Anatomy(grid, *(np.asarray(each.get_fdata(), np.float32) for each in maps), fibres=fibres)
    known = simulate(FisherKolmogorov(), GrowthParams(0.3, 0.02, ORIGIN, 250.0), anatomy).density
    found = nib.load(out / "density.nii.gz").get_fdata()
    np.testing.assert_allclose(found, known, atol=1e-4)
    along, across = moments(found, grid)
    # Twice, where the tumour stays among the fibres.
    assert along > 1.4 * across


def test_a_patient_is_calibrated_along_the_fibres(files, dti, tmp_path, monkeypatch):
    seen = []

    def medians(method, problem, key, progress):
        seen.append(problem)
        z = jnp.zeros(problem.prior.size, problem.dtype)
        return Calibration(problem.prior.constrain(z), problem.prior, z, None, CalibrationResult.COMPLETE, None)

    # A search would do nothing else here than without fibres, and takes a minute to compile.
    monkeypatch.setattr(LBFGS, "run", medians)
    result = tmp_path / "out"
    command = ["personalize", *given(files), *stored(dti), "--method=lbfgs", "--resolution=8"]
    assert main([*command, "--quiet", f"--out={result}"]) in (0, 3)
    (problem,) = seen
    fibres = np.asarray(problem.anatomy.fibres)
    assert fibres.shape == (*problem.anatomy.grid.shape, 6)
    np.testing.assert_allclose(fibres[0, 0, 0], components(RELATIVE), atol=1e-5)
    # Computations that keep their state know it from the problem without fibres.
    anatomy = dataclasses.replace(problem.anatomy, fibres=None)
    assert fingerprint(dataclasses.replace(problem, anatomy=anatomy)) != fingerprint(problem)
    record = json.loads((result / "parameters.json").read_text())["provenance"]
    assert record["sha256 of DTI"] == sha256(dti)
    assert "Cells in white matter diffuse along the fibres" in (result / "report.html").read_text()
    # Other fibres are another result, and so are these if they are read otherwise; another name is not.
    command = record["command"]
    same = dti.with_name("same.nii.gz")
    same.write_bytes(dti.read_bytes())
    assert finished(result, command.replace(str(dti), str(same))) is not None
    other = image(dti.with_name("other.nii.gz"), np.diag([2.0, 0.5, 0.5]))
    for changed in (command.replace(str(dti), str(other)), command.replace("frame=world", "frame=image")):
        assert changed != command
        with pytest.raises(InputError, match="other dti"):
            finished(result, changed)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["order=rows"], r"dti: got 'order=rows'; write FILE [order=upper|lower|diagonal] [frame=image|world]"),
        (["frame="], "dti: got 'frame='; write FILE"),
        (["lower"], "dti: got 'lower'; write FILE"),
        (["order=upper", "order=lower"], "dti: got the order twice; give it once"),
        (["order=upper"], "in the order 'upper'; give the order of its components"),
    ],
)
def test_words_that_make_no_sense_are_one_line(files, tmp_path, capsys, words, message):
    # Of what is stored as xx, yy, zz, xy, xz, yz the fourth number, in no other order xy, is zero.
    path = image(tmp_path / "dti.nii.gz", np.diag([2.0, 0.5, 0.5]))
    out = tmp_path / "out"
    assert main(["personalize", *given(files), *stored(path, *words), "--resolution=8", f"--out={out}"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("tumorjax personalize: error: ") and message in error[-1]
    assert not any("error" in line for line in error[:-1]) and not out.exists()


def test_a_table_of_patients_has_their_fibres(files, tmp_path, capsys):
    table, out = tmp_path / "table.csv", tmp_path / "out"
    for cell, message in (("gone.nii", "dti gone.nii does not exist"), ("gone.nii up", "dti: got 'up'; write FILE")):
        table.write_text(f"patient,segmentation,dti\nP1,{files['segmentation']},{cell}\n")
        assert main(["personalize-cohort", str(table), f"--out={out}", "--quiet"]) == 2
        assert message in capsys.readouterr().err


# A patient.


def loaded(files, dti, **more):
    names = {"segmentation": "segmentation", "wm": "white_matter", "gm": "grey_matter", "csf": "csf"}
    images = {names[name]: path for name, path in files.items()}
    return load_patient(**{**images, "dti": dti, "resolution": 8.0, **more})


def test_the_core_has_the_fibres_of_the_tissue_around(files, tmp_path):
    # The tumour has tensors of its own at its middle, and water around it raises the mean diffusivity.
    shape = (34, 34, 34)
    affine = place(shape, 6.0)
    away = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3] + affine[:3, 3] - ORIGIN, axis=-1)
    scale = 7e-4 * np.where((away > 12) & (away < 25), 2, 1)[..., None, None]
    tensors = np.where((away < 7)[..., None, None], np.diag([0.2, 0.3, 2.5]), scale * RELATIVE)
    path = save(tmp_path / "dti.nii.gz", components(tensors, "diagonal"), affine)
    patient = loaded(files, of(path))
    fibres, core = np.asarray(patient.anatomy.fibres), patient.core_fraction
    assert fibres.dtype == np.float32 and (core == 1).any()
    np.testing.assert_allclose(fibres, np.broadcast_to(components(RELATIVE), fibres.shape), atol=1e-5)
    assert patient.hashes["DTI"] == sha256(path) and "DTI" in patient.images
    assert sum("diffuse along the fibres" in note for note in patient.notes) == 1
    plain = loaded(files, None)
    assert plain.anatomy.fibres is None
    np.testing.assert_array_equal(plain.anatomy.white_matter, patient.anatomy.white_matter)


def test_what_is_filled_in_is_nearer_to_the_truth_than_nothing(data):
    image, mask = (nib.load(data / "fibres" / f"{name}.nii.gz") for name in ("first_eigenvector", "brain_mask"))
    v, brain = np.squeeze(image.get_fdata()), mask.get_fdata() > 0
    tensors = np.where(brain[..., None, None], np.eye(3) + 3 * v[..., :, None] * v[..., None, :], 0)
    tensor = TensorVolume(components(tensors).astype(np.float32), image.affine)
    # A box in the middle is enough.
    grid, brain = Grid(brain.shape, image.affine).crop((20, 20, 10), (50, 50, 30)), brain[20:70, 20:70, 10:40]
    none = np.zeros(brain.shape, np.float32)
    anatomy = Anatomy(grid, brain.astype(np.float32), none, none)
    true = np.asarray(with_fibres(anatomy, tensor, []).fibres)
    index = np.moveaxis(np.indices(brain.shape), 0, -1)
    middles = index[ndimage.binary_erosion(brain, iterations=2)]
    for number, radius in enumerate((8, 15)):
        middle = middles[len(middles) * (number + 1) // 3]
        ball = np.linalg.norm((index - middle) * 2.3, axis=-1) < radius
        found = np.asarray(with_fibres(anatomy, tensor, [], altered=ball.astype(np.float32)).fibres)
        np.testing.assert_array_equal(found[~ball], true[~ball])
        cut = ball & brain
        errors = [np.sum((guess - true[cut]) ** 2) for guess in (found[cut], UNIT)]
        assert errors[0] < 0.9 * errors[1]


def test_images_that_do_not_show_the_brain(files, dti, tmp_path):
    with pytest.raises(InputError, match=r"^DTI .*: shows 0% of the white matter; give an image of the whole brain"):
        loaded(files, of(image(tmp_path / "away.nii.gz", shift=300.0)))
    # A slab whose left end is amid the tumour.
    part = loaded(files, of(image(tmp_path / "part.nii.gz", shape=(30, 34, 34), shift=np.array([66.0, 0, 0]))))
    (note,) = [note for note in part.notes if "DTI image covers" in note]
    assert "of the lesion; elsewhere cells diffuse alike" in note and status_of([note]) is Status.DOUBTFUL
    unseen = np.asarray(part.anatomy.grid.to_world(np.moveaxis(np.indices(part.anatomy.grid.shape), 0, -1) * 1.0))
    outside = part.anatomy.fibres[unseen[..., 0] < -45]
    np.testing.assert_allclose(outside, np.broadcast_to(UNIT, outside.shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: np.zeros(3), "DTI: got ndarray; give a file, or what"),
        (lambda given: dataclasses.replace(given, data=given.data[..., :5]), r"DTI .*: has values of shape \(.*, 5\)"),
        (lambda given: dataclasses.replace(given, data=given.data * np.nan), "DTI .*: has .* NaN or infinite values"),
        (lambda given: dataclasses.replace(given, data=given.data * 0), "DTI .*: is zero everywhere"),
    ],
    ids=("array", "components", "NaN", "zero"),
)
def test_tensors_in_memory_are_checked(files, dti, change, message):
    with pytest.raises(InputError, match=message):
        loaded(files, change(of(dti)))


def test_isotropic_tensors_are_no_fibres():
    anatomy = ball_brain((10, 10, 10), 8.0).astype(jnp.float32)
    tensors = np.zeros((10, 10, 10, 6), np.float32)
    tensors[..., [0, 3, 5]] = np.random.default_rng(0).uniform(1e-4, 3e-3, (10, 10, 10, 1))
    found = with_fibres(anatomy, TensorVolume(tensors, np.asarray(anatomy.grid.affine)), [])
    np.testing.assert_allclose(found.fibres, np.broadcast_to(UNIT, found.fibres.shape), atol=1e-6)
    # In which tumours grow as without any: `test_isotropic_fibres_are_none` in test_mass_effect.py.


# The brain before the tumour.

GRID = Grid.from_spacing((20, 20, 16), 4.0)
WORLD = np.asarray(GRID.to_world(np.moveaxis(np.indices(GRID.shape).astype(float), 0, -1)))


def whole(fibres):
    return Anatomy(GRID, np.full(GRID.shape, 0.7, np.float32), *(np.full(GRID.shape, 0.1, np.float32),) * 2, fibres)


def turned_inside(angle):
    """u of a turn about z by an angle, of tissue within 16 mm, which is less farther out: x - u(x) is turned back."""
    x, y, z = np.moveaxis(WORLD, -1, 0)
    angles = -angle * np.exp(-(np.clip(np.hypot(x, y) - 16, 0, None) ** 2) / 60) * np.exp(-((z / 24) ** 8))
    before = np.stack([np.cos(angles) * x - np.sin(angles) * y, np.sin(angles) * x + np.cos(angles) * y, z], axis=-1)
    return WORLD - before


def test_fibres_are_led_back_and_turned():
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    now = components(turn @ RELATIVE @ turn.T).astype(np.float32)
    before = brain_behind(whole(np.broadcast_to(now, (*GRID.shape, 6))), turned_inside(angle))
    inside = (np.hypot(WORLD[..., 0], WORLD[..., 1]) < 10) & (np.abs(WORLD[..., 2]) < 6)
    np.testing.assert_allclose(before.fibres[inside], np.tile(components(RELATIVE), (inside.sum(), 1)), atol=0.02)
    # At the border nothing turns, and everywhere they are tensors of the same shape.
    np.testing.assert_allclose(before.fibres[0, 0], np.broadcast_to(now, (GRID.shape[2], 6)), atol=1e-3)
    full = before.fibres[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(*GRID.shape, 3, 3)
    np.testing.assert_allclose(np.linalg.eigvalsh(full), np.broadcast_to([0.5, 0.5, 2], (*GRID.shape, 3)), atol=1e-3)
    assert brain_behind(whole(None), turned_inside(angle)).fibres is None


def test_atlases_keep_the_fibres_of_the_patient():
    patient = SimpleNamespace(anatomy=whole(np.broadcast_to(components(RELATIVE), (*GRID.shape, 6))), images={})
    atlas = AlignedAtlas("atlas", patient.anatomy, deformed=patient.anatomy)
    back = atlas.undisplaced().behind(turned_inside(0.1))
    assert back.anatomy.fibres is not None and back.deformed.fibres is not None
    notes = []
    as_asked(patient, [atlas], "affine", notes)
    assert len(notes) == 1 and "its fibres are the patient's as they lie now" in notes[0]
    coupled = dataclasses.replace(atlas, shift=object())
    as_asked(patient, [coupled], None, notes)
    as_asked(SimpleNamespace(anatomy=whole(None), images={}), [atlas], "affine", notes)
    assert len(notes) == 1


def test_displaced_fibres_are_those_of_the_box_in_which_tissue_moved():
    anatomy = whole(np.broadcast_to(UNIT, (*GRID.shape, 6)).astype(np.float32))
    start, shape = (3, 4, 2), (8, 9, 10)
    part = anatomy.crop(start, shape)
    moved = dataclasses.replace(part, fibres=np.broadcast_to(components(RELATIVE), (*shape, 6)).astype(np.float32))
    zero = jnp.zeros(())
    solution = _embed(Solution(jnp.zeros(shape), jnp.zeros(1), None, zero, zero, moved), anatomy, start)
    np.testing.assert_allclose(solution.anatomy.crop(start, shape).fibres, moved.fibres)
    np.testing.assert_allclose(solution.anatomy.fibres[0], anatomy.fibres[0])


# Tumours that grew without fibres.


def test_other_tumours_are_no_answer_in_silence():
    anatomy = ball_brain((10, 10, 10), 8.0)
    fibred = dataclasses.replace(anatomy, fibres=np.broadcast_to(UNIT, (10, 10, 10, 6)).astype(float))
    assert unlike_in_fibres(fibred, along=True) is None and unlike_in_fibres(anatomy, along=False) is None
    assert unlike_in_fibres(fibred, along=False) == "grew without fibres, while the patient's grows along them"
    assert unlike_in_fibres(anatomy, along=True) == "grew along fibres, while the patient's grows without them"
    ball = np.linalg.norm(np.indices((10, 10, 10)).T - [3.0, 4.5, 4.5], axis=-1).T < 2
    seen = {name: Outline(ball.astype(float), anatomy.tissue) for name in ("core", "lesion")}
    problem = Problem(MassEffect(), fibred, seen, default_prior(fibred, seen, model=MassEffect()))
    assert unsuitable(problem, [fibred]) is None
    assert "atlas 1 has no fibres, the patient's anatomy has" in (unsuitable(problem, [anatomy]) or "")


def test_a_database_grows_along_the_fibres_of_its_atlas(atlas, dti, tmp_path, capsys, monkeypatch):
    def stop(model, prior, anatomy, *more, **settings):
        raise ValueError(f"built with {np.asarray(anatomy.fibres, float)[3, 4, 5].round(3).tolist()}")

    monkeypatch.setattr("tumorjax.ensemble.build_database", stop)
    build = ["database", "build", str(tmp_path / "tumours"), "--count=1", "--resolution=8", "--quiet"]
    build += [f"--atlas={atlas}", *stored(dti)]
    assert main(build) == 2
    assert str(components(RELATIVE).round(3).tolist()) in capsys.readouterr().err
    assert main([*build, "--deformed=1"]) == 2
    assert "dti: shows the fibres of the atlas as it is; leave out --deformed, or --dti" in capsys.readouterr().err
    with pytest.raises(ValueError, match="grew along fibres, which no network sees"):
        tumours_of(SimpleNamespace(anatomy=SimpleNamespace(fibres=0), url="place"))  # pyright: ignore
