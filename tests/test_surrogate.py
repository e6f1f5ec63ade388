"""The surrogate of the solver: its input, the position of its output, and its training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")

from flax import nnx

from tests.problems import ball_brain, box
from tumorjax import LBFGS, Anatomy, GrowthParams, Outline, Problem, ScaledGrowthParams, calibrate, simulate
from tumorjax.calibration import default_prior
from tumorjax.growth import FisherKolmogorov, LearnedGrowth, Radiotherapy
from tumorjax.networks import (
    OutsideTraining,
    Surrogate,
    SurrogateArchitecture,
    TrainingBox,
    Tumours,
    Turn,
    load_surrogate,
    save_surrogate,
    surrogate_architecture,
    surrogate_batch,
    surrogate_loss,
    train_surrogate,
)
from tumorjax.networks.surrogate import profile
from tumorjax.networks.surrogate_training import centred
from tumorjax.networks.tumours import window
from tumorjax.planning import dice

pytestmark = pytest.mark.usefixtures("compiled_plainly")

BOX = TrainingBox((("mu1", 1.0, 10.0), ("mu2", 1.0, 5.0)))
WINDOW = 24
# A block is compiled anew for every grid.
SMALL = SurrogateArchitecture("patch", (8, 8), 2.0, BOX, WINDOW, blocks=1)


@pytest.fixture(scope="module")
def surrogate():
    """An untrained network whose output depends on all of its input."""
    return Surrogate(SMALL, nnx.Rngs(0))


@pytest.fixture(scope="module")
def model(surrogate):
    return LearnedGrowth.of(surrogate)


@pytest.fixture(scope="module")
def tumours():
    """Bells in a ball, as wide as mu1 mu2."""
    anatomy, rng = ball_brain((30, 32, 28), (2.0, 2.0, 2.0)), np.random.default_rng(0)
    maps = (anatomy.white_matter, anatomy.grey_matter, anatomy.csf)
    seeds = rng.uniform(9, 18, (12, 3))
    mu1, mu2 = rng.uniform(2, 4, 12), rng.uniform(1, 3, 12)
    places = np.moveaxis(np.indices(anatomy.grid.shape), 0, -1)
    distance = 2 * np.linalg.norm(places - seeds[:, None, None, None], axis=-1)
    densities = np.exp(-((distance / (mu1 * mu2)[:, None, None, None]) ** 2))
    return Tumours.of([densities[:5], densities[5:]], seeds, {"mu1": mu1, "mu2": mu2}, np.stack(maps, -1), 2.0)


def test_tumours_keep_their_densities_and_lend_windows(tumours):
    assert len(tumours) == 12
    whole = tumours.density(3, np.zeros(3, int), (30, 32, 28))
    assert whole.max() > 100
    assert tumours.boxes[3].size < whole.size
    shifted = tumours.density(3, np.array([5, -4, 20]), (30, 32, 28))
    np.testing.assert_array_equal(shifted[:25, 4:, :8], whole[5:, :28, 20:])
    assert not shifted[25:].any()
    np.testing.assert_array_equal(tumours.part(slice(3, 5)).density(0, np.zeros(3, int), (30, 32, 28)), whole)
    assert not window(tumours.tissue, np.array([40, 0, 0]), (4, 4, 4)).any()


def test_tumours_have_what_belongs_to_them():
    tissue, density = np.ones((4, 5, 6, 3)) / 3, np.ones((2, 4, 5, 6))
    with pytest.raises(ValueError, match="networks need cubic voxels, got edges of"):
        Tumours.of([density], np.ones((2, 3)), {}, tissue, np.array([1.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match="'densities': 2, 'seeds': 3, 'mu1': 2"):
        Tumours.of([density], np.ones((3, 3)), {"mu1": np.ones(2)}, tissue, 1.0)
    with pytest.raises(ValueError, match="the tissue \\(4, 5, 6\\)"):
        Tumours.of([density[:, :3]], np.ones((2, 3)), {}, tissue, 1.0)


def test_turns_are_the_symmetries_of_a_cube():
    cube = np.arange(27).reshape(3, 3, 3)
    turned = [Turn(i).volume(cube) for i in range(48)]
    assert len({each.tobytes() for each in turned}) == 48
    np.testing.assert_array_equal(turned[0], cube)
    corner = np.array([-1.0, 0.0, 1.0])
    for i in range(48):
        place = tuple((Turn(i).vector(corner.copy()) + 1).astype(int))
        np.testing.assert_array_equal(Turn(i).back(Turn(i).vector(corner.copy())), corner)
        assert turned[i][place] == cube[0, 1, 2]


def test_batches_show_what_the_solver_made(tumours):
    batch = surrogate_batch([tumours.part(slice(4)), tumours.part(slice(4, None))], np.array([2, 7]), WINDOW, None)
    assert batch.tissue.shape == (2, WINDOW + 3, WINDOW + 3, WINDOW + 3, 3)
    for i, row in enumerate((2, 7)):
        nearest = np.rint(tumours.seeds[row]).astype(int)
        np.testing.assert_allclose(nearest + batch.offset[i], tumours.seeds[row], atol=1e-5)
        middle = (WINDOW + 3) // 2
        whole = tumours.density(row, np.zeros(3, int), (30, 32, 28))
        assert batch.density[i][middle, middle, middle] == whole[tuple(nearest)]
        seen = centred(jnp.asarray(batch.density[i], jnp.float32), jnp.asarray(batch.offset[i]))
        # The largest density is at the seed, wherever between the voxels that is.
        assert np.unravel_index(np.argmax(seen), seen.shape) == (WINDOW // 2,) * 3


def test_turned_tumours_have_their_seeds_where_they_were(tumours):
    plain = surrogate_batch([tumours], np.arange(12), WINDOW, None)
    turned = surrogate_batch([tumours], np.arange(12), WINDOW, np.random.default_rng(1))
    assert not np.array_equal(plain.density, turned.density)
    np.testing.assert_array_equal(turned.density.sum(axis=(1, 2, 3)), plain.density.sum(axis=(1, 2, 3)))
    for cubes, offsets in ((plain.density, plain.offset), (turned.density, turned.offset)):
        for cube, offset in zip(cubes, offsets, strict=True):
            seen = np.asarray(centred(jnp.asarray(cube, jnp.float32), jnp.asarray(offset)))
            assert np.unravel_index(np.argmax(seen), seen.shape) == (WINDOW // 2,) * 3


def test_the_guess_is_a_front_at_its_place():
    guess = np.asarray(jax.nn.sigmoid(profile(jnp.array([[3.0, 2.0]]), WINDOW, 2.0)))[0]
    line = guess[WINDOW // 2 :, WINDOW // 2, WINDOW // 2]
    reach = np.interp(0.5, line[::-1], 2.0 * np.arange(len(line))[::-1])
    assert abs(reach - 1.4 * 6) < 0.1
    np.testing.assert_allclose(guess[5, 12, 12], guess[12, 5, 12])


def test_the_loss_has_its_parts(tumours, surrogate):
    batch = surrogate_batch([tumours], np.arange(2), WINDOW, None)
    given = jax.tree.map(jnp.asarray, batch)
    key = jax.random.key(0)
    with jax.numpy_dtype_promotion("standard"):
        values = {part: float(surrogate_loss([[part]])(surrogate, given, key)) for part in ("tumour", "csf", "brain")}
        both = float(surrogate_loss([["tumour"], ["csf"], ["brain"]])(surrogate, given, key))
        one = float(surrogate_loss([["tumour", "brain"]])(surrogate, given, key))
    np.testing.assert_allclose(both, sum(values.values()), rtol=1e-5)
    assert min(values["tumour"], values["brain"]) < one < max(values["tumour"], values["brain"])
    with pytest.raises(ValueError, match="got \\['skull'\\]"):
        surrogate_loss([["tumour", "skull"]])


def test_training_lowers_the_loss_and_the_file_records_it(tumours, tmp_path):
    architecture = dataclasses.replace(surrogate_architecture([tumours]), channels=(8, 8), window=WINDOW, blocks=1)
    assert architecture.box.bounds("mu2") == (tumours.parameters["mu2"].min(), tumours.parameters["mu2"].max())
    done = train_surrogate(
        [tumours.part(slice(8))],
        12,
        size=architecture,
        validation=[tumours.part(slice(8, None))],
        # Seen whole afterwards.
        window=16,
        batch=2,
        rate=5e-3,
        every=6,
    )
    with pytest.raises(ValueError, match=r"a multiple of 8 voxels, at most the network's 24, .*; got 32"):
        train_surrogate([tumours], 1, size=architecture, window=32, batch=2)
    convolutions = dataclasses.replace(architecture, layers="convolution")
    with pytest.raises(ValueError, match='only "patch" layers can learn from smaller ones; got 16 for "convolution"'):
        train_surrogate([tumours], 1, size=convolutions, window=16, batch=2)
    batch = jax.tree.map(jnp.asarray, surrogate_batch([tumours], np.arange(8, 12), WINDOW, None))
    untrained = Surrogate(architecture, nnx.Rngs(0))
    loss = surrogate_loss()
    assert float(loss(done.model, batch, None)) < 0.9 * float(loss(untrained, batch, None))
    save_surrogate(tmp_path / "s.safetensors", done.model)
    again = load_surrogate(tmp_path / "s.safetensors")
    assert again.architecture == architecture
    tissue = jnp.asarray(batch.tissue[:1, :WINDOW, :WINDOW, :WINDOW], jnp.float32) / 255
    np.testing.assert_array_equal(again(tissue, batch.mu[:1]), done.model(tissue, batch.mu[:1]))


@pytest.mark.parametrize(("mu1", "mu2"), ((6.0, 3.0), (8.0, 4.0)))
def test_the_weights_that_ship_grow_what_the_solver_grows(mu1, mu2):
    anatomy = ball_brain((56, 56, 56), (2.0, 2.0, 2.0))
    params = ScaledGrowthParams(mu1, mu2, np.array([-14.0, 6.0, 4.0]))
    learnt = LearnedGrowth.of(load_surrogate())
    found, truth = (np.asarray(simulate(each, params, anatomy).density) for each in (learnt, FisherKolmogorov()))
    assert dice(found > 0.2, truth > 0.2) > 0.8
    assert np.abs(found - truth)[truth > 0.01].mean() < 0.1


@pytest.mark.parametrize("settings", ({"csf_only": True}, {"skips": True}, {"layers": "convolution", "skips": True}))
def test_variants_of_the_network(settings):
    made = dataclasses.replace(SMALL, channels=(4, 4), **settings)
    tissue = jax.random.uniform(jax.random.key(0), (1, WINDOW, WINDOW, WINDOW, 3), jnp.float32) / 3
    found = Surrogate(made, nnx.Rngs(0))(tissue, jnp.array([[3.0, 2.0]], jnp.float32))
    assert found.shape == (1, WINDOW, WINDOW, WINDOW)
    assert 0 <= float(found.min()) < float(found.max()) <= 1
    assert not np.any(np.asarray(found)[np.asarray(tissue[..., 0] + tissue[..., 1] < 0.1)])
    changed = Surrogate(made, nnx.Rngs(0))(tissue.at[..., 0].set(0.3), jnp.array([[3.0, 2.0]], jnp.float32))
    same = np.allclose(np.where(np.asarray(tissue[..., 1]) >= 0.1, np.asarray(changed - found), 0), 0)
    assert same == made.csf_only


def test_a_seed_moved_by_a_voxel_moves_the_tumour(model):
    anatomy = box((40, 36, 38), 2.0)
    middle = np.array([1.0, -2.0, 3.0])
    one = simulate(model, ScaledGrowthParams(4.0, 2.0, middle), anatomy)
    other = simulate(model, ScaledGrowthParams(4.0, 2.0, middle + np.array([2.0, 0.0, -2.0])), anatomy)
    inside = (slice(4, 32),) * 3
    np.testing.assert_allclose(
        np.roll(one.density, (1, 0, -1), (0, 1, 2))[inside], np.asarray(other.density)[inside], atol=1e-5
    )
    assert one.density.dtype == jnp.float64
    physical = simulate(model, GrowthParams(0.16, 0.04, middle, 100.0), anatomy)
    np.testing.assert_allclose(physical.density, one.density, atol=1e-5)


def test_voxels_of_other_sizes_show_the_same_tumour(model):
    params = ScaledGrowthParams(4.0, 2.0, np.zeros(3))
    fine, coarse = (
        simulate(model, params, box(shape, h)).density for shape, h in (((27, 27, 27), 2.0), ((9,) * 3, 6.0))
    )
    np.testing.assert_allclose(coarse, np.asarray(fine)[1::3, 1::3, 1::3], atol=1e-5)


def test_gradients_are_those_of_differences(model):
    anatomy = ball_brain((30, 32, 28), (2.0, 2.0, 2.0))
    weights = np.random.default_rng(0).uniform(size=anatomy.grid.shape)

    def value(x):
        return jnp.sum(weights * simulate(model, ScaledGrowthParams(x[0], x[1], x[2:]), anatomy, throw=False).density)

    x = np.array([4.0, 2.0, 3.3, -8.1, 2.7])
    slope = np.asarray(jax.jit(jax.grad(value))(x))
    assert np.all(np.abs(slope) > 1e-3)
    for axis in range(5):
        step = np.zeros(5)
        step[axis] = 0.02
        # The network computes in single precision.
        found = (float(value(x + step)) - float(value(x - step))) / 0.04
        np.testing.assert_allclose(slope[axis], found, rtol=0.05, atol=0.02 * np.abs(slope).max())


def test_batches_of_simulations_are_those_of_each(model):
    anatomy = ball_brain((30, 32, 28), (2.0, 2.0, 2.0))
    mu1 = np.array([3.0, 5.0])
    many = jax.vmap(lambda m: simulate(model, ScaledGrowthParams(m, 2.0, np.full(3, -8.0)), anatomy, throw=False))(mu1)
    for i in range(2):
        one = simulate(model, ScaledGrowthParams(mu1[i], 2.0, np.full(3, -8.0)), anatomy)
        np.testing.assert_allclose(many.density[i], one.density, atol=1e-5)


def test_input_outside_the_training_is_reported(model):
    anatomy, seed = ball_brain((30, 32, 28), (2.0, 2.0, 2.0)), np.full(3, -8.0)
    with pytest.warns(OutsideTraining, match="mu1 = 11, 0.11 widths outside 1 to 10"):
        simulate(model, ScaledGrowthParams(11.0, 2.0, seed), anatomy)
    with pytest.warns(OutsideTraining), pytest.raises(ValueError, match="far outside what the surrogate"):
        simulate(model, ScaledGrowthParams(15.0, 2.0, seed), anatomy)
    with pytest.raises(ValueError, match="origin lies outside"):
        simulate(model, ScaledGrowthParams(4.0, 2.0, np.full(3, 200.0)), anatomy)
    with pytest.raises(ValueError, match="one seed"):
        simulate(model, ScaledGrowthParams(4.0, 2.0, np.zeros((2, 3))), anatomy)
    with pytest.raises(ValueError, match="without treatment"):
        simulate(model, ScaledGrowthParams(4.0, 2.0, seed), anatomy, treatments=(Radiotherapy((1.0,), 2.0, 0.03),))
    fibred = dataclasses.replace(anatomy, fibres=np.broadcast_to([1.0, 0, 0, 1, 0, 1], (*anatomy.grid.shape, 6)))
    with pytest.raises(ValueError, match="learnt growth without fibres, and the anatomy has some"):
        simulate(model, ScaledGrowthParams(4.0, 2.0, seed), fibred)
    with pytest.raises(ValueError, match="leave out save_every"):
        simulate(model, ScaledGrowthParams(4.0, 2.0, seed), anatomy, save_every=10.0)


def test_a_calibration_with_the_surrogate_finds_its_own_tumour(model):
    anatomy = ball_brain((30, 32, 28), (2.0, 2.0, 2.0))
    truth = ScaledGrowthParams(5.0, 2.5, np.array([2.0, -9.0, 3.0]))
    density = np.asarray(simulate(model, truth, anatomy).density)
    outlines = {
        name: Outline(jnp.asarray((density > level).astype(float)), jnp.asarray(anatomy.tissue))
        for name, level in (("core", 0.6), ("lesion", 0.25))
    }
    problem = Problem(model, anatomy, outlines, default_prior(anatomy, outlines))
    # Samplers get a log-probability of minus infinity outside the training data.
    far = dataclasses.replace(
        problem.prior.constrain(jnp.zeros(problem.prior.size)), growth=ScaledGrowthParams(30.0, 2.0, truth.origin)
    )
    with pytest.warns(OutsideTraining):
        assert np.isnan(problem.density(far)).all()
    found = calibrate(problem, LBFGS(starts=1, coarsening=1, budget=8))
    fitted = np.asarray(problem.density(found.params))
    both = [
        2 * np.sum((fitted > t) & (density > t)) / np.sum((fitted > t).astype(int) + (density > t)) for t in (0.25, 0.6)
    ]
    assert min(both) > 0.8


def test_anatomy_of_single_precision(model):
    anatomy = ball_brain((30, 32, 28), (2.0, 2.0, 2.0))
    single: Anatomy = anatomy.astype(jnp.float32)
    found = simulate(model, ScaledGrowthParams(4.0, 2.0, np.full(3, -8.0, np.float32)), single)
    assert found.density.dtype == jnp.float32
