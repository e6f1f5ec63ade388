"""Gradients of whole solves: compared with differences, with forward mode, and between partitions of the solve."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import ball_brain, slope
from tumorjax import (
    CheckpointedAdjoint,
    Chemotherapy,
    FisherKolmogorov,
    ForwardMode,
    GrowthParams,
    Radiotherapy,
    ScaledGrowthParams,
    SplitEuler,
    StrangRKL2,
    simulate,
)
from tumorjax.anatomy import TISSUE_THRESHOLD
from tumorjax.growth import ReactionDiffusion
from tumorjax.integrate import AbstractStepper, Calendar, Interval, Schedule
from tumorjax.integrate.adjoint import Course
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


def loss_of_visits(point, adjoint):
    """Return a smooth scalar that depends on every voxel of every visit, and on what is done between them."""
    anatomy = eqx.tree_at(lambda a: a.white_matter, ANATOMY, point["white_matter"])
    params = ScaledGrowthParams(point["mu1"], point["mu2"], point["origin"], point["speed"])
    treatments = (Radiotherapy((12, 13), 2.0, point["alpha"]), Chemotherapy(3, 25, point["rate"]))
    calendar = Calendar.of((0, 10, 30, 31), treatments)
    solution = simulate(
        FisherKolmogorov(), params, anatomy, calendar=calendar, treatments=treatments, adjoint=adjoint, throw=False
    )
    return jnp.sum(WEIGHTS * solution.series**2)


@pytest.fixture(scope="module")
def point_of_visits():
    more = {"speed": 0.3, "alpha": 0.05, "rate": 0.01}
    return {**scalars(POINT), "white_matter": POINT["white_matter"], **jax.tree.map(jnp.asarray, more)}


@pytest.fixture(scope="module")
def slope_of_visits(point_of_visits):
    """A direction in all quantities, and the derivative along it in forward mode."""
    direction = {name: value * (0.3 + 0.1 * len(name)) for name, value in point_of_visits.items()}
    push = jax.jit(lambda d: jax.jvp(lambda p: loss_of_visits(p, ForwardMode()), (point_of_visits,), (d,))[1])
    return direction, float(push(direction))


# All steps are kept; or intervals are run again, the first one by segments.
@pytest.mark.parametrize("layout", [(36, 6), (4, 2)])
def test_one_adjoint_follows_all_intervals(point_of_visits, slope_of_visits, layout):
    adjoint = CheckpointedAdjoint(*layout)
    gradient = jax.jit(jax.grad(lambda point: loss_of_visits(point, adjoint)))(point_of_visits)
    direction, slope = slope_of_visits
    assert inner(gradient, direction) == pytest.approx(slope, rel=1e-9)


def test_the_adjoint_of_numbers_alone_is_the_same(point_of_visits):
    """Without derivatives by the tissue less is kept."""
    numbers = {name: value for name, value in point_of_visits.items() if name != "white_matter"}
    white = point_of_visits["white_matter"]
    adjoint = CheckpointedAdjoint()
    part = jax.jit(jax.grad(lambda numbers: loss_of_visits({**numbers, "white_matter": white}, adjoint)))(numbers)
    whole = jax.jit(jax.grad(lambda point: loss_of_visits(point, adjoint)))(point_of_visits)
    for name, each in part.items():
        np.testing.assert_allclose(each, whole[name], rtol=1e-9)


class Decay(AbstractStepper):
    """Two numbers of which one follows the other, by explicit steps: a state that is a tree."""

    steps: int = eqx.field(static=True)

    def schedule(self, terms, interval):
        zero = jnp.zeros(())
        return Schedule.graded(Interval(), 1.0, jnp.asarray(float(self.steps)), zero)

    def step(self, terms, schedule, k, state):
        width = schedule.width(k)
        first, second = state["first"], state["second"]
        return {"first": first - width * terms["rate"] * first**2, "second": second + width * terms["map"] * first}

    def finish(self, terms, schedule, state):
        return {**state, "second": state["second"] * terms["rate"]}


@pytest.mark.parametrize("steps", [2, 5, 9])
def test_a_course_of_any_state_is_pulled_back(steps):
    """Every interval is kept, or none: of 15 to 45 steps in rooms for 8."""

    def total(point, adjoint):
        rates, shared, given, state = point
        course = Course({"rate": rates, "map": None}, {"rate": None, "map": shared}, given, WHOLE, moved)
        ends = adjoint.follow(Decay(steps), course, state)
        return jnp.sum(jnp.cos(ends["first"])) + jnp.sum(ends["second"] ** 2)

    def moved(given, i, state):
        return {**state, "first": state["first"] * given[i]}

    three = jnp.asarray([[0.4, 0.7, 0.2], [1.0, 0.9, 1.2]])
    state = {"first": jnp.asarray([1.0, 2.0]), "second": jnp.asarray([0.5, -0.3])}
    point = (three[0], jnp.asarray([0.3, 0.8]), three[1], state)
    gradient = jax.grad(total)(point, CheckpointedAdjoint(8, 2))
    direction = jax.tree.map(lambda leaf: 0.3 + leaf, point)
    forward = jax.jvp(lambda p: total(p, ForwardMode()), (point,), (direction,))[1]
    assert inner(gradient, direction) == pytest.approx(float(forward), rel=1e-12)


WHOLE = Interval(jnp.zeros(3), jnp.ones(3))
