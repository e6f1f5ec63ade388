"""Gradients of whole solves: compared with differences, with forward mode, and between partitions of the solve."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import ball_brain, slope
from tumorjax import (
    CheckpointedAdjoint,
    FisherKolmogorov,
    ForwardMode,
    GrowthParams,
    ScaledGrowthParams,
    SplitEuler,
    StrangRKL2,
    simulate,
)
from tumorjax.anatomy import TISSUE_THRESHOLD
from tumorjax.growth import ReactionDiffusion
from tumorjax.integrate import Interval
from tumorjax.operators import face_conductance

pytestmark = pytest.mark.usefixtures("compiled_plainly")

ANATOMY = ball_brain((12, 11, 13), (3.0, 3.3, 2.8))
WEIGHTS = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1.5, ANATOMY.grid.shape))
STEPPERS = {"StrangRKL2": StrangRKL2(), "SplitEuler": SplitEuler()}
# Every quantity that a solve can be differentiated with respect to.
POINT = {
    "mu1": jnp.asarray(4.3),
    "mu2": jnp.asarray(2.1),
    "origin": jnp.asarray([-3.1, 2.2, 1.3]),
    "ratio": jnp.asarray(8.0),
    "white_matter": jnp.asarray(ANATOMY.white_matter),
    "grey_matter": jnp.asarray(ANATOMY.grey_matter),
}
SCALARS = ("mu1", "mu2", "origin")


def loss_of(solution):
    """Return a smooth scalar that depends on every voxel."""
    return jnp.sum(WEIGHTS.astype(solution.density.dtype) * solution.density**2)


def loss(point, stepper=STEPPERS["StrangRKL2"], adjoint=CheckpointedAdjoint()):  # noqa: B008
    anatomy = eqx.tree_at(
        lambda a: (a.white_matter, a.grey_matter), ANATOMY, (point["white_matter"], point["grey_matter"])
    )
    params = ScaledGrowthParams(point["mu1"], point["mu2"], point["origin"])
    return loss_of(simulate(FisherKolmogorov(point["ratio"]), params, anatomy, stepper=stepper, adjoint=adjoint))


gradient = eqx.filter_jit(jax.grad(loss))


@eqx.filter_jit
def gradient_of_scalars(part, stepper=STEPPERS["StrangRKL2"], adjoint=CheckpointedAdjoint()):  # noqa: B008
    """Differentiate with respect to the parameters alone, for which the adjoint stores less than for the tissue."""
    return jax.grad(lambda p: loss({**POINT, **p}, stepper, adjoint))(part)


def scalars(point):
    return {name: point[name] for name in SCALARS}


def direction_of(name):
    """Return a direction along one quantity that leaves every voxel on its side of the tissue's threshold."""
    direction = POINT[name] * jnp.asarray(np.random.default_rng(len(name)).uniform(-0.7, 1.3, POINT[name].shape))
    if name.endswith("matter"):
        total = POINT["white_matter"] + POINT["grey_matter"]
        direction = jnp.where(jnp.abs(total - TISSUE_THRESHOLD) > 0.01, direction, 0)
    return {**jax.tree.map(jnp.zeros_like, POINT), name: direction}


@eqx.filter_jit
def along(steps, direction, stepper):
    """Return the losses at several steps along a direction, all in one batch."""
    return jax.vmap(lambda h: loss(jax.tree.map(lambda x, d: x + h * d, POINT, direction), stepper))(steps)


def inner(a, b):
    return float(sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))


@pytest.fixture(scope="module")
def gradients():
    return {name: gradient(POINT, stepper) for name, stepper in STEPPERS.items()}


@pytest.mark.parametrize("name", POINT)
@pytest.mark.parametrize("scheme", STEPPERS)
def test_taylor_remainder_is_of_second_order(gradients, scheme, name):
    direction = direction_of(name)
    steps = jnp.asarray([0.0, 2e-3, 1e-3, 5e-4, 2.5e-4])
    values = along(steps, direction, STEPPERS[scheme])
    derivative = inner(gradients[scheme], direction)
    assert abs(derivative) > 1e-4 * float(values[0])
    remainder = jnp.abs(values[1:] - values[0] - steps[1:] * derivative)
    assert slope(steps[1:], remainder) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("scheme", STEPPERS)
def test_reverse_mode_equals_forward_mode(gradients, scheme):
    direction = jax.tree.map(lambda *parts: sum(parts), *[direction_of(name) for name in POINT])
    push = jax.jit(lambda d: jax.jvp(lambda p: loss(p, STEPPERS[scheme], ForwardMode()), (POINT,), (d,))[1])
    assert inner(gradients[scheme], direction) == pytest.approx(float(push(direction)), rel=1e-9)


def test_gradient_of_parameters_alone_under_vmap_is_the_same(gradients):
    shifted = jax.tree.map(lambda x: 1.3 * x, scalars(POINT))
    batch = jax.jit(jax.vmap(gradient_of_scalars))(
        jax.tree.map(lambda *values: jnp.stack(values), scalars(POINT), shifted)
    )
    for i, single in enumerate((gradients["StrangRKL2"], gradient({**POINT, **shifted}, STEPPERS["StrangRKL2"]))):
        for name in SCALARS:
            np.testing.assert_allclose(batch[name][i], single[name], rtol=1e-9)


def test_cutting_the_solve_changes_nothing(gradients):
    # The default holds all steps in one segment; these are several, of which not all are kept.
    params = ScaledGrowthParams(*scalars(POINT).values())
    assert 9 < int(simulate(FisherKolmogorov(8.0), params, ANATOMY).steps) <= CheckpointedAdjoint().segment
    whole = gradient(POINT, STEPPERS["StrangRKL2"], CheckpointedAdjoint(3, 2))
    for name in POINT:
        np.testing.assert_allclose(whole[name], gradients["StrangRKL2"][name], rtol=1e-9, atol=1e-12)


def test_cutting_the_solve_changes_nothing_for_parameters_alone(gradients):
    alone = gradient_of_scalars(scalars(POINT), STEPPERS["StrangRKL2"], CheckpointedAdjoint(5, 16))
    for name in SCALARS:
        np.testing.assert_allclose(alone[name], gradients["StrangRKL2"][name], rtol=1e-9)


@pytest.mark.parametrize("scheme", STEPPERS)
def test_every_term_and_the_initial_state_have_their_derivative(scheme):
    # Growth too, which the model in use takes from the tissue's mask and never differentiates by.
    rng = np.random.default_rng(2)
    shape = (6, 5, 7)
    conductance = face_conductance(jnp.asarray(rng.uniform(0.2, 1, shape)), jnp.ones(shape, bool), jnp.ones(3))
    growth = jnp.asarray(rng.uniform(0.5, 1.5, shape))
    point = (
        ReactionDiffusion(conductance, growth, jnp.asarray(6.0), jnp.asarray(3.0)),
        jnp.asarray(rng.uniform(0, 0.5, shape)),
    )
    weights = jnp.asarray(rng.uniform(0.5, 1.5, shape))

    def value(point, adjoint):
        return jnp.sum(weights * adjoint.advance(STEPPERS[scheme], *point, Interval()) ** 2)

    # Several segments, each with an initial state of its own.
    reverse = jax.jit(jax.grad(lambda p: value(p, CheckpointedAdjoint(4, 2))))(point)
    push = jax.jit(lambda d: jax.jvp(lambda p: value(p, ForwardMode()), (point,), (d,))[1])
    leaves, tree = jax.tree.flatten(point)
    assert len(leaves) == 7
    for i, leaf in enumerate(leaves):
        parts = [jnp.zeros_like(other) for other in leaves]
        parts[i] = jnp.asarray(rng.normal(size=leaf.shape))
        direction = jax.tree.unflatten(tree, parts)
        tangent = float(push(direction))
        assert abs(tangent) > 1e-6
        assert inner(reverse, direction) == pytest.approx(tangent, rel=1e-9)


def test_gradient_through_a_series():
    frames = jnp.asarray(np.random.default_rng(1).uniform(0.5, 1.5, 4))

    def value(part, adjoint):
        params = GrowthParams(part["diffusivity"], part["proliferation"], part["origin"], 100.0)
        series = simulate(FisherKolmogorov(), params, ANATOMY, save_every=40.0, adjoint=adjoint).series
        return jnp.einsum("t,txyz,xyz->", frames, series**2, WEIGHTS)

    point = {
        "diffusivity": jnp.asarray(0.2),
        "proliferation": jnp.asarray(0.04),
        "origin": jnp.asarray([-3.1, 2.2, 1.3]),
    }
    reverse = jax.jit(jax.grad(lambda p: value(p, CheckpointedAdjoint())))(point)
    push = jax.jit(lambda d: jax.jvp(lambda p: value(p, ForwardMode()), (point,), (d,))[1])
    for name in point:
        direction = {**jax.tree.map(jnp.zeros_like, point), name: 0.3 + point[name]}
        assert inner(reverse, direction) == pytest.approx(float(push(direction)), rel=1e-9)


def test_float32_gradient_is_near_that_of_float64(gradients):
    single = gradient(jax.tree.map(lambda x: x.astype(jnp.float32), POINT))
    for name in POINT:
        assert single[name].dtype == jnp.float32
        expected = np.asarray(gradients["StrangRKL2"][name])
        difference = np.linalg.norm(np.asarray(single[name], float) - expected)
        assert difference < 1e-4 * np.linalg.norm(expected)


def test_gradient_is_finite_without_diffusion_and_growth():
    def value(diffusivity, proliferation):
        params = GrowthParams(diffusivity, proliferation, POINT["origin"], jnp.asarray(50.0))
        return loss_of(simulate(FisherKolmogorov(), params, ANATOMY))

    got = jax.jit(jax.grad(value, argnums=(0, 1)))(jnp.asarray(0.0), jnp.asarray(0.0))
    assert np.isfinite(got).all()
    # More growth makes more tumour from the first day on.
    assert float(got[1]) > 0


def test_bad_settings_are_refused():
    for settings in ((0, 4), (4, 0), (2.5, 4)):
        with pytest.raises(ValueError, match=r"must be a whole number of at least 1, got (0|2\.5)"):
            CheckpointedAdjoint(*settings)
