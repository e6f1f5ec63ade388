"""Learn-Morph-Infer: input and output of its network, its training, and its prediction for a patient."""

import dataclasses
import json
import re
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("flax")

from flax import nnx

import tumorjax.results.files as results
from tests.problems import ball_brain
from tumorjax import (
    LBFGS,
    Anatomy,
    CalibrationResult,
    FisherKolmogorov,
    Grid,
    GrowthParams,
    MassEffect,
    MassEffectParams,
    Outline,
    Prior,
    Problem,
    ScaledGrowthParams,
    Uniform,
    calibrate,
    simulate,
)
from tumorjax.calibration import default_prior
from tumorjax.cli import main
from tumorjax.ensemble import Database, described, tumours_of
from tumorjax.io import InputError
from tumorjax.methods import AmortizedPosterior, DoubtfulEstimate, LearnMorphInfer
from tumorjax.methods.from_atlas.morphing import Morph
from tumorjax.networks import (
    InverseArchitecture,
    InverseNetwork,
    OutsideTraining,
    Training,
    TrainingBox,
    TrainingResult,
    Tumours,
    infer,
    inverse_architecture,
    inverse_batch,
    load_inverse,
    load_surrogate,
    save_inverse,
    train_inverse,
)
from tumorjax.networks.inverse_training import begin_with_trunk
from tumorjax.networks.inverse_windows import SIZES
from tumorjax.networks.readers import outlined
from tumorjax.networks.tumours import Turn, as_bytes, resampled
from tumorjax.quality import Note, Status

pytestmark = pytest.mark.usefixtures("compiled_plainly")

SPACING = 6.0
BRAIN = ball_brain((22, 22, 22), (SPACING,) * 3)
TISSUE = np.stack([np.asarray(m) for m in (BRAIN.white_matter, BRAIN.grey_matter, BRAIN.csf)], axis=-1)
TRUTH = ScaledGrowthParams(7.0, 3.0, np.array([5.0, -20.0, 3.0]))
BOX = TrainingBox(
    (
        *((axis, -1.0, 1.0) for axis in "xyz"),
        ("mu1", 2.0, 12.0),
        ("mu2", 1.0, 5.0),
        ("core_ml", 0.0, 200.0),
        ("lesion_ml", 0.0, 300.0),
    )
)
MADE = InverseArchitecture("patch", 16, 4.0, True, SPACING, ("mu1", "mu2", "x", "y", "z"), BOX)


class Knowing(InverseNetwork):
    """A stub network that returns given predictions for lesions of one radius, whatever its input."""

    def __init__(self, values, radius, **changes):
        super().__init__(dataclasses.replace(MADE, tissue=False, **changes), nnx.Rngs(0))
        self.head.kernel.set_value(jnp.zeros_like(self.head.kernel[...]))
        self.head.bias.set_value(jnp.asarray(self.architecture.coordinates(values, radius), jnp.float32))


def knowing(
    density, growth=TRUTH, shift=(0.0, 0.0, 0.0), *, lesion=0.25, brain=BRAIN, more=None, learnt=None, **changes
):
    """A stub network that predicts given growth parameters, with a seed shifted from the true one."""
    changes |= {"spacing": float(brain.grid.spacing[0]), "growth": learnt}
    made = dataclasses.replace(MADE, **changes)
    view = made.view(density > 0.6, density > lesion, as_bytes(TISSUE))
    away = np.asarray(growth.origin) - brain.grid.to_world(view.middle) + shift
    values = {"mu1": growth.mu1, "mu2": growth.mu2, **dict(zip("xyz", away / view.radius, strict=True)), **(more or {})}
    return Knowing(values, view.radius, **changes)


@pytest.fixture(scope="module")
def density():
    return np.asarray(simulate(FisherKolmogorov(), TRUTH, BRAIN).density)


@pytest.fixture(scope="module")
def problem(density):
    outlines = {
        name: Outline(jnp.asarray((density > level).astype(float)), jnp.asarray(BRAIN.tissue))
        for name, level in (("core", 0.6), ("lesion", 0.25))
    }
    return Problem(FisherKolmogorov(), BRAIN, outlines, default_prior(BRAIN, outlines))


@pytest.fixture(scope="module")
def tumours():
    """Balls whose radius determines mu1, and whose distance between two isolines determines mu2."""
    rng, grid = np.random.default_rng(0), BRAIN.grid
    count = 40
    seeds, mu1, mu2 = rng.uniform(8, 13, (count, 3)), rng.uniform(2, 12, count), rng.uniform(1, 5, count)
    places = np.moveaxis(np.indices(grid.shape), 0, -1)
    distance = SPACING * np.linalg.norm(places - seeds[:, None, None, None], axis=-1)
    radius, width = (10 + 2 * mu1)[:, None, None, None], (12 / mu2)[:, None, None, None]
    densities = 1 / (1 + np.exp((distance - radius) / width))
    parameters = {"mu1": mu1, "mu2": mu2, "D": mu1**2 / 100, "rho": mu2**2 / 100, "T": np.full(count, 100.0)}
    parameters["T"] = parameters["T"] + np.arange(count)
    return Tumours.of([densities], seeds, parameters, TISSUE, SPACING)


def test_batches_have_the_outlines_and_the_true_targets(tumours):
    batch = inverse_batch(MADE, [tumours], np.array([3, 11]), None)
    assert batch.windows.shape == (2, 16, 16, 16, 5)
    assert batch.windows.dtype == np.uint8
    for seen, radius, target, row in zip(*batch, (3, 11), strict=True):
        core, lesion = seen[..., 0] > 0, seen[..., 1] > 0
        assert 0 < core.sum() < lesion.sum()
        assert not (core & ~lesion).any()
        for name in ("mu1", "mu2"):
            assert MADE.values(target, radius)[name] == pytest.approx(tumours.parameters[name][row], rel=1e-4)
        # Tumours of all sizes fill as much of the window, and a ball's seed is its middle.
        np.testing.assert_allclose(seen[..., 1].sum() / 255, 4 / 3 * np.pi * (16 / 4) ** 3, rtol=0.03)
        np.testing.assert_allclose(target[2:], 0, atol=0.1)


def test_turned_windows_keep_their_seeds(tumours):
    # The seeds of other tumours, far from the middle.
    moved = dataclasses.replace(tumours, seeds=tumours.seeds + np.array([2.0, -1.0, 0.5]))
    made = dataclasses.replace(
        MADE, radii=None, box=TrainingBox((*(("xyz"[i], -48.0, 48.0) for i in range(3)), *BOX.sides[3:]))
    )
    for row in range(8):
        batch = inverse_batch(made, [moved], np.array([row]), np.random.default_rng(row))
        middle = np.array([np.average(where) for where in np.nonzero(batch.windows[0, ..., 1])]) - 7.5
        away = 48 * batch.targets[0, 2:] / SPACING - middle
        np.testing.assert_allclose(np.sort(np.abs(away)), [0.5, 1, 2], atol=0.6)


@pytest.mark.parametrize("step", (0.7, 1.0, 2.3))
def test_windows_are_resampled_without_a_shift(step):
    places = np.moveaxis(np.indices((24, 20, 22)), 0, -1)
    plane = (20 + places @ [4, 2, 3]).astype(np.uint8)
    middle = np.array([11.3, 9.6, 10.4])
    found = resampled(plane, middle, step, 4)
    offsets = step * (np.moveaxis(np.indices((4, 4, 4)), 0, -1) - 1.5)
    np.testing.assert_allclose(found, 20 + (middle + offsets) @ [4, 2, 3], atol=1.3)
    # There is nothing outside.
    assert not resampled(plane, np.array([-9.0, 10, 10]), step, 4).any()


def test_as_wide_as_a_voxel_the_window_is_the_array():
    array = np.random.default_rng(0).integers(0, 256, (7, 8, 9), dtype=np.uint8)
    np.testing.assert_array_equal(resampled(array, np.array([3.5, 3.5, 3.5]), 1.0, 6), array[1:7, 1:7, 1:7])
    np.testing.assert_array_equal(resampled(array, np.array([-0.5, 3.5, 3.5]), 1.0, 4)[:2], 0)


def test_the_papers_input_is_one_channel_on_the_whole_grid(tumours):
    made = inverse_architecture([tumours], "published")
    assert (made.window, made.channels, made.radii) == (128, 1, None)
    small = dataclasses.replace(made, window=32)
    one, other = (inverse_batch(small, [tumours], np.array([row]), None) for row in (0, 1))
    assert set(np.unique(one.windows)) == {0, 85, 255}
    # The position of the tumour follows from the middle of the grid.
    bounds = np.array([small.box.bounds(axis) for axis in "xyz"])
    seeds = np.stack([each.targets[0, 2:] for each in (one, other)]) * (bounds[:, 1] - bounds[:, 0]) / 2 / SPACING
    np.testing.assert_allclose(seeds[1] - seeds[0], tumours.seeds[1] - tumours.seeds[0], atol=1e-4)
    found = InverseNetwork(small, nnx.Rngs(0))(*map(jnp.asarray, one[:2]))
    assert found.shape == (1, 5)
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(nnx.state(InverseNetwork(small, nnx.Rngs(0))))]
    assert sum(sizes) == pytest.approx(1.79e6, rel=0.01)


def padded(before, after):
    """The brain on a larger grid, as the whole atlas has: nothing lies around it."""
    around = list(zip(before, after, strict=True))
    shape = tuple(np.array(BRAIN.grid.shape) + before + after)
    affine = np.array(BRAIN.grid.affine, float)
    affine[:3, 3] -= affine[:3, :3] @ before
    maps = (np.pad(np.asarray(m), around) for m in (BRAIN.white_matter, BRAIN.grey_matter, BRAIN.csf))
    return Anatomy(Grid(shape, affine), *maps)


@pytest.fixture(scope="module")
def published(tumours):
    """A network like the published one, for a smaller window, with random weights, on the grid of the brain."""
    placed = dataclasses.replace(tumours, affine=np.asarray(BRAIN.grid.affine, float))
    return InverseNetwork(dataclasses.replace(inverse_architecture([placed], "published"), window=32), nnx.Rngs(1))


def test_the_published_network_sees_the_same_on_the_whole_atlas(published, problem, density):
    """Databases are cropped to the tissue, so that the middle of their grid is not the middle of the atlas."""
    start = np.array([1, 4, 0])
    atlas = padded(start, np.array([2, 1, 9]))
    tissue = np.asarray(BRAIN.tissue)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learnt = infer(published, (density > 0.6) & tissue, (density > 0.25) & tissue, TISSUE)
        found = calibrate(problem, LearnMorphInfer(published, atlas, corrections=0)).stats.inferred
    expected = learnt | {axis: learnt[axis] + start[i] for i, axis in enumerate("xyz")}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5)


def test_a_network_refuses_another_grid(published, density):
    images = density > 0.6, density > 0.25, TISSUE
    with pytest.raises(ValueError, match=r"trained on a grid of \(22, 22, 22\) voxels, got \(20, 22, 22\)"):
        infer(published, *(each[1:-1] for each in images))
    nowhere = dataclasses.replace(published.architecture, shape=None, affine=None)
    with pytest.raises(ValueError, match="its file does not state which grid; train it again"):
        infer(InverseNetwork(nowhere, nnx.Rngs(0)), *images)
    # Half a voxel beside it; without a part of it; and a brain that reaches farther.
    whole = padded(np.ones(3, int), np.ones(3, int))
    shifted = dataclasses.replace(whole, grid=Grid(whole.grid.shape, whole.grid.affine + 3.0 * np.eye(4, k=3)))
    for other in (shifted, BRAIN.crop((1, 0, 0), (21, 22, 22))):
        with pytest.raises(
            ValueError, match=r"is no part of the anatomy's .* give the atlas in which its tumours grew"
        ):
            LearnMorphInfer(published, other)
    more = np.asarray(whole.white_matter) + np.eye(24)[0][:, None, None]
    with pytest.raises(ValueError, match="has tissue outside the grid"):
        LearnMorphInfer(published, dataclasses.replace(whole, white_matter=np.minimum(more, 1 - whole.csf)))
    # The same voxels, but not the brain of the training data.
    other = dataclasses.replace(BRAIN, csf=0.5 * np.asarray(BRAIN.csf))
    with pytest.raises(
        ValueError, match=r"trained in another brain: .* \d+/\d+/\d+ ml in .* \d+/\d+/\d+ ml in .*; give the atlas"
    ):
        LearnMorphInfer(published, other)
    for grid in ({"shape": (22, 22)}, {"shape": None, "affine": np.eye(4)}, {"affine": np.eye(3)}):
        with pytest.raises(ValueError, match="a grid needs"):
            dataclasses.replace(published.architecture, **grid)


def test_the_published_network_begins_by_hes_rule(published):
    trunk = published.trunk
    assert float(published.head.kernel[...].std()) == pytest.approx(np.sqrt(2 / 64), rel=0.1)
    for layer, inputs in ((trunk.first, 7**3), *((conv, 27 * 64) for block in trunk.blocks for conv in block.layers)):
        assert float(layer.kernel[...].std()) == pytest.approx(np.sqrt(2 / inputs), rel=0.02)


def test_training_learns(tumours, tmp_path):
    architecture = dataclasses.replace(inverse_architecture([tumours], components=0), window=16)
    done = train_inverse(
        [tumours.part(slice(32))], 60, size=architecture, validation=[tumours.part(slice(32, None))], batch=8, every=20
    )
    # Guessing the middle of uniform intervals leaves a third.
    assert done.validation < 0.15
    save_inverse(tmp_path / "network.safetensors", done.model)
    again = load_inverse(tmp_path / "network.safetensors")
    assert again.architecture == architecture
    seen = [jnp.asarray(each) for each in inverse_batch(architecture, [tumours], np.arange(2), None)[:2]]
    np.testing.assert_array_equal(again(*seen), done.model(*seen))
    with pytest.raises(ValueError, match="unknown targets gamma"):
        train_inverse([tumours], 1, targets=["gamma"])
    with pytest.raises(ValueError, match="1 to 40 of the tumours"):
        train_inverse([tumours], 1, batch=41)


def test_a_network_of_other_targets_begins_with_a_trunk(tumours):
    known, other = (
        InverseNetwork(dataclasses.replace(inverse_architecture([tumours], targets=targets), window=16), nnx.Rngs(seed))
        for seed, targets in enumerate((["mu1", "x", "y", "z"], ["mu1", "mu2"]))
    )
    begin_with_trunk(other, known)
    windows, radius = inverse_batch(other.architecture, [tumours], np.arange(2), None)[:2]
    seen = jnp.asarray(windows), jnp.asarray(radius)
    np.testing.assert_array_equal(other.features(*seen), known.features(*seen))
    assert other(*seen).shape == (2, 2)
    same = InverseNetwork(known.architecture, nnx.Rngs(5))
    begin_with_trunk(same, known)
    np.testing.assert_array_equal(same(*seen), known(*seen))
    wider = InverseNetwork(dataclasses.replace(other.architecture, window=32), nnx.Rngs(0))
    with pytest.raises(ValueError, match="the trunk has patch layers and a window of 16 voxels"):
        begin_with_trunk(wider, known)


def test_the_answer_is_in_voxels_and_millimetres(density):
    network = knowing(density)
    found = infer(network, density > 0.6, density > 0.25, TISSUE)
    assert found["mu1"] == pytest.approx(7)
    assert found["mu2"] == pytest.approx(3)
    np.testing.assert_allclose(BRAIN.grid.to_world(np.array([found[a] for a in "xyz"])), TRUTH.origin, atol=1e-4)
    with pytest.raises(ValueError, match="lesion is empty"):
        infer(network, density > 2, density > 2, TISSUE)
    with pytest.raises(ValueError, match="resample"):
        infer(network, density > 0.6, density > 0.25, TISSUE[1:])
    with pytest.raises(ValueError, match=r"white matter, grey matter and CSF, got shape \(3, 22, 22, 22\)"):
        infer(network, density > 0.6, density > 0.25, np.moveaxis(TISSUE, -1, 0))
    with pytest.raises(ValueError, match="lies in fluid; give tissue in the order white matter, grey matter, CSF"):
        infer(network, density > 0.6, density > 0.25, TISSUE[..., [2, 1, 0]])
    small = dataclasses.replace(MADE, tissue=False, box=TrainingBox((*BOX.sides[:-1], ("lesion_ml", 1.0, 2.0))))
    network.architecture = small
    with pytest.warns(OutsideTraining, match=r"lesion_ml = .* widths outside 1 to 2"):
        infer(network, density > 0.6, density > 0.25, TISSUE)


def test_the_prediction_for_a_mirror_image_is_the_mirror_image(density):
    # Its weights are random, and prefer a side.
    network = InverseNetwork(MADE, nnx.Rngs(3))
    images = [density > 0.6, density > 0.25, TISSUE]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideTraining)
        found = infer(network, *images)
        for axis, name in enumerate("xyz"):
            mirrored = infer(network, *(np.flip(each, axis) for each in images))
            expected = found | {name: 21 - found[name]}
            np.testing.assert_allclose([mirrored[key] for key in expected], list(expected.values()), rtol=1e-4)


def test_the_weights_that_ship_know_where_a_ball_began():
    network = load_inverse()
    assert network.architecture.targets == ("mu1", "mu2", "x", "y", "z", "threshold_core", "threshold_lesion")
    assert network.architecture.spacing == 2
    place = np.array([35.0, 40.0, 31.0])
    distance = 2 * np.linalg.norm(np.moveaxis(np.indices(network.architecture.shape), 0, -1) - place, axis=-1)
    white = np.broadcast_to([1.0, 0.0, 0.0], (*distance.shape, 3))
    for radius in (12, 18):
        found = infer(network, distance < radius, distance < radius + 8, white)
        # It errs by 3.4 mm in the mean over tumours in a brain.
        np.testing.assert_allclose([found[axis] for axis in "xyz"], place, atol=1.5)
        for name in ("mu1", "mu2"):
            low, high = network.architecture.box.bounds(name)
            assert low < found[name] < high


def test_a_prediction_outside_the_training_is_reported(density):
    with pytest.warns(OutsideTraining, match=r"mu1 = 14, 0.2 widths outside 2 to 12"):
        infer(knowing(density, ScaledGrowthParams(14.0, 3.0, TRUTH.origin)), density > 0.6, density > 0.25, TISSUE)


def test_calibrates_to_what_the_network_says(problem, density):
    found = calibrate(problem, LearnMorphInfer(knowing(density), BRAIN))
    assert found.result is CalibrationResult.COMPLETE and found.plausible and not found.fitted
    assert float(found.params.growth.mu1) == pytest.approx(7, rel=1e-4)
    np.testing.assert_allclose(found.params.growth.origin, TRUTH.origin, atol=1e-3)
    assert min(found.stats.dice_core, found.stats.dice_lesion) == 1
    assert [float(found.params.observations[name].threshold) for name in ("core", "lesion")] == [0.6, 0.25]
    assert found.covariance is None
    assert found.cost.solves == 5
    as_published = calibrate(problem, LearnMorphInfer(knowing(density), BRAIN, corrections=0))
    assert as_published.cost.solves == 1 and as_published.stats.inferred == found.stats.inferred
    # A core that is outlined alone stands for the lesion in the network, and for nothing else.
    core = {"core": problem.observations["core"]}
    problem = Problem(FisherKolmogorov(), BRAIN, core, default_prior(BRAIN, core))
    alone = calibrate(problem, LearnMorphInfer(knowing(density, lesion=0.6), BRAIN))
    assert alone.plausible and alone.stats.dice_core == 1 and alone.stats.dice_lesion is None
    assert list(alone.params.observations) == ["core"] and float(alone.params.observations["core"].threshold) == 0.6
    assert alone.figures()["inferred_dice_sum"] is None
    assert sum("stands for both" in note for note in alone.notes(problem)) == 1


def test_a_lesion_outside_the_training_is_noted_with_its_distance(problem, density):
    network = knowing(density, box=TrainingBox((*BOX.sides[:-1], ("lesion_ml", 1.0, 2.0))))
    volume = SPACING**3 / 1000 * (density > 0.25).sum()
    words = f"lesion_ml = {volume:.3g}, {volume - 2:.2g} widths outside 1 to 2"
    with pytest.warns(DoubtfulEstimate, match=re.escape(words)):
        found = calibrate(problem, LearnMorphInfer(network, BRAIN))
    (note,) = (each for each in found.notes(problem) if words in each)
    assert isinstance(note, Note) and note.status is Status.DOUBTFUL


def test_two_networks_may_share_the_targets(problem, density):
    both = [knowing(density, targets=targets) for targets in (("mu1", "mu2"), ("x", "y", "z"))]
    found = calibrate(problem, LearnMorphInfer(both, BRAIN))
    assert float(found.params.growth.mu2) == pytest.approx(3, rel=1e-4)
    with pytest.raises(ValueError, match=r"needed; the network gives \['mu1', 'mu2'\]"):
        LearnMorphInfer(both[0], BRAIN)


def test_the_seed_is_carried_to_the_patient(problem, density):
    # The atlas lies 12 mm to the left of the patient.
    moved = dataclasses.replace(
        BRAIN.grid, affine=np.asarray(BRAIN.grid.affine) - np.outer([12, 0, 0, 0], [0, 0, 0, 1])
    )
    atlas = dataclasses.replace(BRAIN, grid=moved)
    method = LearnMorphInfer(knowing(density), atlas, carry=lambda x: x + np.array([12.0, 0, 0]))
    found = calibrate(problem, method)
    np.testing.assert_allclose(found.params.growth.origin, TRUTH.origin, atol=1e-3)


def test_the_tumour_of_the_atlas_is_morphed_into_the_patient(problem, density):
    turned = np.array([[0.0, -1.1, 0.0], [0.9, 0.0, 0.1], [0.0, 0.0, 1.0]])

    def carry(x):
        return x @ turned.T + 4.0 + 2.0 * np.sin(x[:, [1, 2, 0]] / 15)

    grid = BRAIN.grid
    world = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).reshape(-1, 3).astype(float))
    bell = lambda x: np.exp(-np.sum(((x - np.array([5.0, -9.0, 3.0])) / 25) ** 2, axis=-1))  # noqa: E731
    # A map in the atlas of the distance to the corresponding place in the patient.
    morph = Morph(grid, carry, grid)
    there = morph.density(bell(carry(world)).reshape(grid.shape))
    np.testing.assert_allclose(there, bell(world).reshape(grid.shape), atol=0.04)
    # What has moved along x in the atlas has moved along the image of x in the patient.
    moved = morph.displacement(np.broadcast_to([2.0, 0.0, 0.0], (*grid.shape, 3)))[8:14, 8:14, 8:14]
    assert np.linalg.norm(moved - 2 * turned[:, 0], axis=-1).max() < 0.4
    with pytest.raises(ValueError, match="carry folds"):
        Morph(grid, lambda x: x + 30 * np.sin(x / 5), grid)
    # Where nothing has to be carried, the paper's tumour is that of the answer.
    method = LearnMorphInfer(knowing(density), BRAIN, morph=True)
    found = calibrate(problem, method)
    assert found.stats.dice_core > 0.99 and found.stats.dice_lesion > 0.99
    maps = found.maps(problem)
    np.testing.assert_allclose(maps.density, density, atol=1e-3)
    assert maps.displacement is None and not maps.deviation.any()
    assert any("grown in the atlas and morphed into the patient" in note for note in found.notes(problem))
    # That would not be along the fibres of a patient.
    isotropic = np.broadcast_to([1.0, 0, 0, 1, 0, 1], (*BRAIN.grid.shape, 6))
    along = dataclasses.replace(problem, anatomy=dataclasses.replace(problem.anatomy, fibres=isotropic))
    assert "grew without fibres, while the patient's grows along them" in (method.refuses(along) or "")
    assert dataclasses.replace(method, morph=False).refuses(along) is None
    assert sum("knows nothing of fibres" in note for note in found.notes(along)) == 1


@pytest.mark.parametrize(
    ("learnt", "model", "words"),
    [
        (FisherKolmogorov(), FisherKolmogorov(), None),
        # The same number of another kind.
        (FisherKolmogorov(ratio=5), FisherKolmogorov(ratio=np.float32(5)), None),
        (FisherKolmogorov(), FisherKolmogorov(ratio=5.0), "learnt growth with ratio = 10, got ratio = 5; give both"),
        (
            FisherKolmogorov.in_white_matter(),
            FisherKolmogorov(),
            "with dividing = white matter and ratio = inf, got dividing = tissue and ratio = 10;",
        ),
        (MassEffect(), MassEffect(FisherKolmogorov(ratio=3.0)), "learnt growth with ratio = 10, got ratio = 3;"),
        (MassEffect(), MassEffect(force="linear"), "learnt growth with force = tanh, got force = linear;"),
    ],
)
def test_a_network_of_tumours_that_grew_otherwise_is_refused(density, problem, learnt, model, words, tmp_path):
    pushes = {}
    if learnt.displaces:
        box = TrainingBox((*BOX.sides, ("gamma", 0.0, 1e5)))
        pushes = {"targets": (*MADE.targets, "gamma"), "more": {"gamma": 1e4}, "box": box}
    network = knowing(density, learnt=described(learnt), **pushes)
    save_inverse(tmp_path / "network", network)
    method = LearnMorphInfer(load_inverse(tmp_path / "network"), BRAIN)
    for reason in (method.refuses_model(model), LBFGS(init=method).refuses_model(model)):
        assert (reason is None) if words is None else (words in reason)
    if words is not None and not model.displaces:
        with pytest.raises(ValueError, match="this network learnt growth with"):
            calibrate(dataclasses.replace(problem, model=model), method)


def test_the_network_that_ships_learnt_the_default_model():
    method = LearnMorphInfer.open()
    assert method.refuses_model(FisherKolmogorov()) is None
    assert "learnt growth with ratio = 10, got ratio = 5" in method.refuses_model(FisherKolmogorov(ratio=5.0))
    pushing = LearnMorphInfer.open(displaces=True)
    assert pushing.refuses_model(MassEffect()) is None
    assert "is for growth with mass effect" in pushing.refuses_model(FisherKolmogorov())
    assert AmortizedPosterior.open(displaces=True).refuses_model(MassEffect()) is None
    # What it says of the others follows a force that is known.
    distance = 4.0 * np.linalg.norm(np.indices((40, 40, 40)) - 19.0, axis=0)
    ball = distance < 14, distance < 22, np.stack([distance < 60, 0 * distance, 0 * distance], axis=-1)
    inferred, known = (infer(pushing.network, *ball, mass_effect=force) for force in (None, 2e4))
    assert known["gamma"] == pytest.approx(2e4, rel=1e-5)
    assert abs(inferred["mu1"] / known["mu1"] - 1) > 1e-3
    for force in (-1.0, np.nan):
        with pytest.raises(ValueError, match="mass_effect"):
            infer(pushing.network, *ball, mass_effect=force)


def test_tumours_of_a_database_tell_what_they_were_grown_with(density):
    growth = GrowthParams(np.array([0.1, 0.4]), np.array([0.02, 0.05]), np.tile(TRUTH.origin, (2, 1)), np.full(2, 90.0))
    stored = SimpleNamespace(
        parameters=lambda rows: MassEffectParams(growth, np.array([1e4, 2e4])),
        anatomy=BRAIN,
        blocks=lambda count, progress: [np.stack([density] * count)],
        recipe=SimpleNamespace(model=MassEffect(FisherKolmogorov(ratio=5.0))),
    )
    tumours = tumours_of(stored, 2)
    assert inverse_architecture([tumours]).growth == described(MassEffect(FisherKolmogorov(ratio=5.0)))
    np.testing.assert_allclose(tumours.parameters["gamma"], [1e4, 2e4])
    np.testing.assert_allclose(tumours.parameters["mu1"], [3, 6])
    np.testing.assert_allclose(tumours.parameters["mu2"] ** 2, [1.8, 4.5])
    np.testing.assert_allclose(BRAIN.grid.to_world(tumours.seeds[1]), TRUTH.origin, atol=1e-4)
    architecture = inverse_architecture([tumours], targets=("mu1", "gamma"))
    assert architecture.box.bounds("gamma") == (1e4, 2e4)
    # A network that does not tell it knows of it.
    assert inverse_architecture([tumours], targets=("mu1",)).box.bounds("gamma") == (1e4, 2e4)
    same = dataclasses.replace(tumours, parameters={**tumours.parameters, "gamma": np.full(2, 1e4)})
    assert inverse_architecture([same], targets=("mu1",)).box.bounds("gamma") == pytest.approx((1e4, 10101))
    with pytest.raises(ValueError, match="gamma is the same in all tumours"):
        inverse_architecture([same], targets=("mu1", "gamma"))


def test_a_network_may_tell_mass_effect(problem, density, monkeypatch):
    box = TrainingBox((*BOX.sides, ("gamma", 0.0, 2e5)))
    targets = (*MADE.targets, "gamma")
    network = knowing(density, more={"gamma": 3e4}, targets=targets, box=box)
    with pytest.raises(ValueError, match="is for growth with mass effect, got FisherKolmogorov"):
        calibrate(problem, LearnMorphInfer(network, BRAIN))
    growth = default_prior(BRAIN, problem.observations).distributions
    growth = dataclasses.replace(growth, growth=MassEffectParams(growth.growth, Uniform(0.0, 2e5)))
    displacing = Problem(MassEffect(), BRAIN, problem.observations, Prior(growth))
    asked = []

    def solve(question, problem, z):
        asked.append(problem.prior.constrain(z).growth)
        return SimpleNamespace(density=jnp.asarray(density))

    def in_atlas(model, growth, anatomy, throw):
        assert float(growth.mass_effect) in (pytest.approx(3e4, rel=1e-3), 5e4, 3e5)
        return SimpleNamespace(density=jnp.asarray(density))

    # A solve with mass effect takes long to compile, and is tested elsewhere.
    monkeypatch.setattr("tumorjax.methods.from_atlas.learn_morph_infer.evaluate", solve)
    monkeypatch.setattr("tumorjax.methods.from_atlas.learn_morph_infer.simulate", in_atlas)
    found = calibrate(displacing, LearnMorphInfer(network, BRAIN)).params.growth
    for growth in (found, *asked):
        assert float(growth.mass_effect) == pytest.approx(3e4, rel=1e-3)
        assert float(growth.growth.mu2) == pytest.approx(3, rel=1e-4)
        np.testing.assert_allclose(growth.origin, TRUTH.origin, atol=1e-3)
    with pytest.raises(ValueError, match="is for growth without mass effect, got MassEffect"):
        calibrate(displacing, LearnMorphInfer(knowing(density), BRAIN))
    # Or its tumours had it, and the user gives it, as in the paper.
    silent = knowing(density, box=box)
    with pytest.raises(ValueError, match=r"does not tell how strongly a tumour pushes; give the mass effect \(--mass"):
        LearnMorphInfer(silent, BRAIN)
    given = LearnMorphInfer(silent, BRAIN, mass_effect=5e4)
    assert float(calibrate(displacing, given).params.growth.mass_effect) == pytest.approx(5e4, rel=1e-3)
    with pytest.warns(DoubtfulEstimate, match="gamma = 3e"), pytest.raises(ValueError, match="growth with mass effect"):
        calibrate(displacing, dataclasses.replace(given, mass_effect=3e5))
        calibrate(problem, given)
    for one, force, message in (
        (network, 1e4, "it estimates the mass effect itself"),
        (knowing(density), 1e4, "it learnt growth without mass effect"),
        (silent, -1.0, "finite and not negative, got -1 Pa"),
    ):
        with pytest.raises(ValueError, match=message):
            LearnMorphInfer(one, BRAIN, mass_effect=force)


def test_an_implausible_prediction_is_reported_and_is_no_start(problem, density):
    # A tumour that hardly grew.
    method = LearnMorphInfer(knowing(density, ScaledGrowthParams(2.0, 1.0, TRUTH.origin)), BRAIN)
    with pytest.warns(DoubtfulEstimate, match="Dice 0.00 of the lesions"):
        found = calibrate(problem, method)
    assert not found.plausible
    with pytest.warns(DoubtfulEstimate):
        refined = LBFGS(init=method, starts=1, coarsening=1, budget=2).run(problem, None, lambda *_: None)
    plain = LBFGS(starts=1, coarsening=1, budget=2).run(problem, None, lambda *_: None)
    np.testing.assert_allclose(refined.coordinates, plain.coordinates)
    assert refined.begun.stats.dice_lesion == 0


def test_refinement_begins_at_the_answer(problem, density):
    method = LearnMorphInfer(knowing(density, ScaledGrowthParams(6.0, 3.2, TRUTH.origin), (3.0, 0, 0)), BRAIN)
    found = calibrate(problem, LBFGS(init=method, coarsening=1, budget=15))
    begun = calibrate(problem, method)
    after, before = (float(problem.log_posterior(each.coordinates)) for each in (found, begun))
    assert after > before + 5
    assert found.histories[0][0] == pytest.approx(-before, rel=1e-6)
    assert found.begun.stats.inferred == begun.stats.inferred


def test_refuses_what_it_cannot_know(problem, density):
    with pytest.raises(ValueError, match=r"learnt on voxels of 6 mm, the anatomy has \[8.0, 8.0, 8.0\]"):
        LearnMorphInfer(knowing(density), ball_brain((22, 22, 22), (8.0,) * 3))
    with pytest.raises(ValueError, match="a Dice coefficient, got 2"):
        LearnMorphInfer(knowing(density), BRAIN, least_dice=2)
    with pytest.raises(ValueError, match="corrections must be a whole number of at least 0, got -1"):
        LearnMorphInfer(knowing(density), BRAIN, corrections=-1)
    for settings in ({"window": 20}, {"layers": "dense"}, {"targets": ("mu3",)}, {"radii": 0.0}):
        with pytest.raises(ValueError):
            dataclasses.replace(MADE, **settings)


def check_that_inference_sees_what_training_saw(method, tumours, monkeypatch):
    """Compare what a network sees of tumours of its database on the whole atlas with its input in training.

    A network that knows the targets must give the parameters with which these tumours grew.
    """
    made, anatomy = method.network.architecture, method.anatomy
    assert anatomy.grid.shape == (22, 22, 22) != made.shape
    start = np.rint(anatomy.grid.in_double().to_index(np.array(made.affine)[:3, 3])).astype(int)
    place = [made.targets.index(axis) for axis in "xyz"]
    # No solve is needed for that.
    no_tumour = SimpleNamespace(density=np.zeros(anatomy.grid.shape))
    seen = []
    for row in range(len(tumours)):
        learnt = inverse_batch(made, [tumours], np.array([row]), None)

        def knowing_all(model, windows, radius, learnt=learnt):
            turns = [Turn(number) for number in range(len(windows))]
            for turn, window in zip(turns, windows, strict=True):
                np.testing.assert_array_equal(window, turn.volume(learnt.windows[0]))
            np.testing.assert_array_equal(radius, np.repeat(learnt.radius, len(turns)))
            told = np.tile(learnt.targets.astype(float), (len(turns), 1))
            told[:, place] = [turn.vector(seed) for turn, seed in zip(turns, told[:, place], strict=True)]
            return told

        outlines = {}
        for name, mask in zip(("core", "lesion"), outlined(tumours.boxes[row], row)[:2], strict=True):
            image, first = np.zeros(anatomy.grid.shape), start + tumours.starts[row]
            image[tuple(slice(low, low + n) for low, n in zip(first, mask.shape, strict=True))] = mask
            outlines[name] = Outline(image.astype(np.float32), anatomy.tissue)
        if np.average(anatomy.csf, weights=outlines["lesion"].image) > 0.49:
            # At the border of so coarse a brain, a lesion is refused as one in fluid.
            continue
        seen.append(row)
        problem = Problem(FisherKolmogorov(), anatomy, outlines, default_prior(anatomy, outlines))
        with monkeypatch.context() as patch, warnings.catch_warnings():
            patch.setattr("tumorjax.networks.inverse._predict", knowing_all)
            patch.setattr("tumorjax.methods.from_atlas.learn_morph_infer.evaluate", lambda *given: no_tumour)
            warnings.simplefilter("ignore")
            found = calibrate(problem, method).stats.inferred
        for name in ("mu1", "mu2"):
            assert found[name] == pytest.approx(tumours.parameters[name][row], rel=1e-5)
        np.testing.assert_allclose([found[axis] for axis in "xyz"], tumours.seeds[row] + start, atol=1e-4)
    assert len(seen) >= 3


def test_the_command_trains_it(tmp_path, capsys, atlas, one_test_as_installed, monkeypatch):
    sizes = {"small": {"layers": "patch", "channels": (4, 4), "window": 16, "blocks": 1}}
    monkeypatch.setattr("tumorjax.networks.surrogate_training.SIZES", sizes)
    sizes = {size: settings | {"window": 16} for size, settings in SIZES.items()}
    monkeypatch.setattr("tumorjax.networks.inverse_training.SIZES", sizes)
    place, out = str(tmp_path / "tumours"), tmp_path / "inverse.safetensors"
    build = ["database", "build", place, "--count", "6", "--atlas", str(atlas), "--resolution", "8", "--quiet"]
    assert main([*build, "--box", "surrogate"]) == 0
    config = tmp_path / "training.toml"
    config.write_text(f'database = "{place}"\ntumours = 4\nvalidation = 2\nbatch = 2\nsteps = 90\nquiet = false\n')
    command = ["train", "inverse", f"--config={config}", "--out", str(out)]
    capsys.readouterr()
    assert main([*command, "--steps", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["targets"] == "mu1, mu2, x, y, z"
    network = load_inverse(out)
    assert network.architecture.spacing == pytest.approx(8)
    low, high = network.architecture.box.bounds("mu1")
    assert 0 < low < high < 9
    # It keeps the grid of the database, and is not taken to another brain.
    grid = Database.open(place).grid
    assert network.architecture.shape == grid.shape
    np.testing.assert_array_equal(network.architecture.affine, grid.affine)
    tumours = tumours_of(Database.open(place))
    check_that_inference_sees_what_training_saw(LearnMorphInfer.open(out, atlas=str(atlas)), tumours, monkeypatch)
    # The convolutions of the paper take long to compile, so that no step is taken with them.
    whole = tmp_path / "published.safetensors"
    with monkeypatch.context() as patch:
        left = lambda model, *given, **more: Training(model, 1, 0.0, 0.0, TrainingResult.FINISHED)  # noqa: E731
        patch.setattr("tumorjax.networks.inverse_training.train", left)
        assert main([*command[:-1], str(whole), "--size=published", "--quiet"]) == 0
    method = LearnMorphInfer.open(whole, atlas=str(atlas))
    # Targets fill their range.
    coordinates = inverse_batch(method.network.architecture, [tumours.part(slice(4))], np.arange(4), None).targets
    np.testing.assert_allclose([coordinates.min(axis=0), coordinates.max(axis=0)], [[-1] * 5, [1] * 5], atol=1e-5)
    check_that_inference_sees_what_training_saw(method, tumours, monkeypatch)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in atlas.iterdir():
        image = nib.load(file)
        nib.save(nib.Nifti1Image(image.get_fdata(), image.affine + np.eye(4, k=3)), elsewhere / file.name)
    with pytest.raises(InputError, match="network: the network learnt on a grid"):
        LearnMorphInfer.open(out, atlas=str(elsewhere))
    assert main([*command, "--overwrite", "--database", place, "--size=published"]) == 2
    assert "learns on the whole grid of one brain; give one database" in capsys.readouterr().err
    # In several brains it keeps no grid, begins where another training ended, and learns from all other tumours.
    config.write_text(f'database = ["{place}", "{place}"]\nvalidation = 2\nbatch = 2\nsteps = 1\n')
    assert main([*command, "--overwrite", "--targets=mu1,threshold_core", "--components=2", "--quiet"]) == 0
    capsys.readouterr()
    assert load_inverse(out).architecture.shape is None
    assert main([*command[:-1], str(tmp_path / "more.safetensors"), f"--start={out}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["targets"], told["tumours"]) == ("mu1, threshold_core", 8)
    assert load_inverse(tmp_path / "more.safetensors").architecture == load_inverse(out).architecture
    begun = [*command[:-1], str(tmp_path / "trunk.safetensors"), f"--trunk={out}", "--targets=mu2", "--components=0"]
    assert main([*begun, "--quiet"]) == 0
    assert load_inverse(tmp_path / "trunk.safetensors").architecture.targets == ("mu2",)
    config.write_text(f'database = "{place}"\ntumours = 4\nvalidation = 2\nbatch = 2\n')
    surrogate = ["train", "surrogate", "--config", str(config), "--out", str(tmp_path / "surrogate.safetensors")]
    assert main([*surrogate, "--database", place, "--steps", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 1
    assert load_surrogate(tmp_path / "surrogate.safetensors").architecture.box.bounds("mu1") == (low, high)
    config.write_text("steps = {}")
    assert main(command) == 2
    assert "training.toml holds steps, which is no option; a number or text is" in capsys.readouterr().err
    config.write_text("steps")
    assert main(command) == 2
    assert "tumorjax train: error: config: " in capsys.readouterr().err


@pytest.fixture
def command(atlas, tmp_path):
    """The command for a patient with the atlas' brain, with a stub network that predicts the truth."""
    brain = ball_brain((22, 22, 22), (8.0,) * 3)
    truth = ScaledGrowthParams(9.0, 3.0, np.array([5.0, -20.0, 3.0]))
    density = np.asarray(simulate(FisherKolmogorov(), truth, brain).density)
    labels = np.select([density > 0.6, density > 0.25], [1, 2]).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, np.asarray(brain.grid.affine)), tmp_path / "segmentation.nii.gz")
    save_inverse(tmp_path / "network.safetensors", knowing(density, truth, brain=brain))
    return [
        "personalize", f"--segmentation={tmp_path / 'segmentation.nii.gz'}", f"--atlas={atlas}", "--resolution=8",
        "--method=lmi", f"--network={tmp_path / 'network.safetensors'}", f"--out={tmp_path / 'out'}", "--json",
    ]  # fmt: skip


def test_the_command_infers(command, tmp_path, one_test_as_installed, capsys, monkeypatch):
    pages = []
    monkeypatch.setattr(results, "write_report", lambda folder, page: pages.append(page))
    assert main([*command, "--no-refine"]) == 0
    printed = capsys.readouterr()
    metrics = json.loads(printed.out)
    assert metrics["inferred_dice_lesion"] > 0.9
    # Three corrections and the last tumour in the atlas, a check in the patient, and the maps.
    assert metrics["forward_solves"] == 6
    assert "note: The tumour of the network's answer has Dice" in printed.err
    assert "gives no uncertainty" in printed.err
    content = json.loads((tmp_path / "out" / "parameters.json").read_text())
    assert content["estimate"].startswith("those that a network gave")
    assert content["parameters"]["mu1"]["value"] == pytest.approx(9, rel=1e-3)
    assert content["parameters"]["mu1"]["standard_deviation"] is None
    (page,) = pages
    assert "Fisher-Kolmogorov model, parameters given by a network on voxels" in page.subtitle
    assert page.correlation is None


@pytest.mark.parametrize(
    ("options", "message"),
    (
        (["--method=lmi", "--atlas=sri24"], "the one that ships learnt tumours of icbm152, not of sri24; leave"),
        (["--network=x"], "network: is not for lbfgs; leave it out or add --method amortized or lmi"),
        (["--method=lmi", "--network=absent"], "network: absent has no usable weights"),
    ),
)
def test_the_command_refuses(options, message, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["personalize", "--segmentation=s.nii", f"--out={out}", *options]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
