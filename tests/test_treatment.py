"""Treatments: closed forms, gradients, and bad input. Most tests share one compiled layout."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from tests.problems import ball_brain, slope
from tumorjax import CheckpointedAdjoint, FisherKolmogorov, ForwardMode, GrowthParams, SplitEuler, simulate
from tumorjax.growth import Chemotherapy, InitialDensity, Radiotherapy, Surgery
from tumorjax.integrate import Result

pytestmark = pytest.mark.usefixtures("compiled_plainly")

MODEL = FisherKolmogorov()
ANATOMY = ball_brain((9, 10, 8), (3.0, 2.8, 3.4))
SHAPE, TISSUE = ANATOMY.grid.shape, np.asarray(ANATOMY.tissue, float)
RNG = np.random.default_rng(0)
WEIGHTS = jnp.asarray(RNG.uniform(0.5, 1.5, SHAPE))
BLOCK = np.zeros(SHAPE)
BLOCK[2:5, 3:6, 2:6] = 1
assert ANATOMY.box()[1] != SHAPE, "maps of treatments are cropped"

DURATION, ORIGIN = 90.0, np.asarray([-5.0, -3.0, 2.0])
SURGERY, FRACTIONS, MAPPED, FIRST, SECOND = 20, (10, 30, 30, 50), (30, 40), (35, 60), (45, 75)


def treatments(v):
    return (
        Radiotherapy(FRACTIONS, v["dose"], v["alpha"], v["ratio"]),
        Radiotherapy(MAPPED, v["map"], v["alpha"], v["ratio"]),
        Surgery(SURGERY, v["cavity"]),
        Chemotherapy(*FIRST, v["first"]),
        Chemotherapy(*SECOND, v["second"]),
    )


def params(v, duration=DURATION):
    return GrowthParams(v["diffusivity"], v["proliferation"], InitialDensity(v["density"]), duration)


def at(**changes):
    """Return the quantities of a simulation in which, but for the changes, nothing grows and no treatment acts."""
    numbers = {"diffusivity": 0, "proliferation": 0, "dose": 0, "alpha": 0.1, "ratio": 8, "first": 0, "second": 0}
    maps = {"density": 0.2, "map": 0, "cavity": 0}
    v = {
        **{k: np.asarray(x, float) for k, x in numbers.items()},
        **{k: np.full(SHAPE, float(x)) for k, x in maps.items()},
    }
    return v | {k: np.broadcast_to(np.asarray(x, float), v[k].shape) for k, x in changes.items()}


def solve(v, **settings):
    """Return the solution with the density of every tenth day."""
    return simulate(MODEL, params(v), ANATOMY, treatments=treatments(v), save_every=10.0, **settings)


# Everything at once, with a front, so that every quantity matters.
BUMP = np.exp(-(((np.indices(SHAPE).T * [3.0, 2.8, 3.4] - [12, 13, 12]) ** 2).sum(-1).T) / 60)
POINT = at(
    diffusivity=0.08,
    proliferation=0.04,
    density=0.4 * BUMP * TISSUE,
    dose=1.2,
    map=RNG.uniform(0.5, 1.5, SHAPE),
    cavity=RNG.uniform(0.1, 0.8, SHAPE),
    first=0.02,
    second=0.03,
)


def effect(v, dose):
    """Return alpha d + beta d^2."""
    return v["alpha"] * dose + v["alpha"] / v["ratio"] * dose**2


def grow(density, growth, death, days):
    """Return the density after days of dc/dt = r c (1 - c) - k c, for net growth."""
    net = growth - death
    return density * np.exp(net * days) / (1 + growth / net * density * np.expm1(net * days))


def by_hand(v):
    """Return the densities of every tenth day without diffusion, independently for each voxel."""
    c, growth, frames = v["density"] * TISSUE, v["proliferation"] * TISSUE, []
    for day in range(0, int(DURATION), 5):
        if day % 10 == 0:
            frames.append(c)
        if day == SURGERY:
            c, growth = c * (1 - v["cavity"]), growth * (1 - v["cavity"])
        c = c * np.exp(-FRACTIONS.count(day) * effect(v, v["dose"]) - MAPPED.count(day) * effect(v, v["map"]))
        death = sum(v[k] for k, (start, stop) in (("first", FIRST), ("second", SECOND)) if start <= day < stop)
        c = grow(c, growth, death + 1e-12, 5)
    return np.stack([*frames, c])


def test_radiation_alone_leaves_the_linear_quadratic_share():
    v = at(dose=2.0, map=RNG.uniform(0, 3, SHAPE))
    series = solve(v).series
    whole, mapped = np.exp(-0.1 * 2 - 0.1 / 8 * 2**2), np.exp(-0.1 * v["map"] - 0.1 / 8 * v["map"] ** 2)
    # Frames on days of fractions are from before them.
    for day, n, m in ((10, 0, 0), (20, 1, 0), (30, 1, 0), (40, 3, 1), (50, 3, 2), (60, 4, 2), (90, 4, 2)):
        np.testing.assert_allclose(series[day // 10], 0.2 * TISSUE * whole**n * mapped**m, rtol=1e-13)


def test_a_drug_alone_kills_at_its_rate_in_its_time():
    series = solve(at(first=0.02, second=0.05)).series
    for day, first, second in (
        (30, 0, 0),
        (40, 5, 0),
        (50, 15, 5),
        (60, 25, 15),
        (70, 25, 25),
        (80, 25, 30),
        (90, 25, 30),
    ):
        np.testing.assert_allclose(series[day // 10], 0.2 * TISSUE * np.exp(-0.02 * first - 0.05 * second), rtol=1e-13)


def test_a_drug_against_growth_solves_its_equation_wherever_cells_spread():
    v = at(diffusivity=0.1, proliferation=0.05, first=0.03, second=0.06)
    c = 0.2
    for start, stop, k in ((0, 35, 0), (35, 45, 0.03), (45, 60, 0.09), (60, 75, 0.06), (75, 90, 0)):
        run = solve_ivp(lambda t, c, k=k: 0.05 * c * (1 - c) - k * c, (start, stop), [c], rtol=1e-11, atol=1e-14)
        c = run.y[0, -1]
    np.testing.assert_allclose(solve(v).density, c * TISSUE, rtol=1e-8)


def test_a_drug_that_balances_growth_has_a_density_and_a_derivative():
    def density(rate):
        c = grow(0.2, 0.05, 0, 35)
        c = c / (1 + 0.05 * c * 25) if rate == 0.05 else grow(c, 0.05, rate, 25)
        return grow(c, 0.05, 0, 30)

    v = at(proliferation=0.05, first=0.05)
    np.testing.assert_allclose(solve(v).density, density(0.05) * TISSUE, rtol=1e-12)
    h, c = 1e-4, density(0.05)
    derivative = 2 * c * (density(0.05 + h) - density(0.05 - h)) / (2 * h) * float((WEIGHTS * TISSUE).sum())
    assert float(value_and_gradient(v, DURATION)[1][0]["first"]) == pytest.approx(derivative, rel=1e-6)


def test_growth_between_fractions_is_composed():
    v = at(diffusivity=0.1, proliferation=0.05, dose=2.0)
    share, c = np.exp(-0.1 * 2 - 0.1 / 8 * 2**2), 0.2
    for days, fractions in ((10, 1), (20, 2), (20, 1), (40, 0)):
        c = share**fractions * grow(c, 0.05, 0, days)
    np.testing.assert_allclose(solve(v).density, c * TISSUE, rtol=1e-12)


@pytest.mark.parametrize("stepper", (None, SplitEuler()), ids=("StrangRKL2", "SplitEuler"))
def test_all_treatments_together_without_diffusion(stepper):
    solution = solve({**POINT, "diffusivity": np.asarray(0.0)}, stepper=stepper)
    np.testing.assert_allclose(solution.times, np.arange(0, 91, 10), rtol=1e-14)
    expected = by_hand(POINT)
    np.testing.assert_allclose(solution.series, expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_array_equal(solution.series[-1], solution.density)


def test_surgery_empties_the_cavity_for_good():
    v = {**POINT, "cavity": BLOCK, "dose": np.asarray(0.0)}
    inside = BLOCK * TISSUE == 1
    series = np.asarray(solve(v).series)
    assert series[SURGERY // 10][inside].min() > 0.01
    assert not series[SURGERY // 10 + 1 :, inside].any()
    assert series[-1][(TISSUE == 1) & ~inside].min() > 0


def test_surgery_takes_what_was_in_the_cavity_and_no_more():
    for cavity in (BLOCK, POINT["cavity"]):
        v = at(diffusivity=0.3, density=POINT["density"], cavity=cavity)
        before, after, end = solve(v).series[jnp.asarray([2, 3, 9])]
        assert float(before.sum() - after.sum()) == pytest.approx(float((before * cavity).sum()), rel=1e-12)
        assert float(end.sum()) == pytest.approx(float(after.sum()), rel=1e-12)


def loss_of(density):
    return (WEIGHTS.astype(density.dtype) * density**2).sum(axis=(-3, -2, -1))


@jax.jit
@jax.vmap
def batch(v, duration):
    """Solve five at once, traced."""
    return simulate(MODEL, params(v, duration), ANATOMY, treatments=treatments(v))


def loss(v, duration, adjoint):
    solution = simulate(MODEL, params(v, duration), ANATOMY, treatments=treatments(v), adjoint=adjoint)
    return loss_of(solution.density)


value_and_gradient = jax.jit(jax.value_and_grad(functools.partial(loss, adjoint=CheckpointedAdjoint()), argnums=(0, 1)))


@pytest.fixture(scope="module")
def gradients():
    _, (by_quantity, by_duration) = value_and_gradient(POINT, DURATION)
    return {**by_quantity, "duration": by_duration}


def direction_of(name):
    step = 0.3 * POINT[name] * RNG.uniform(0.5, 1.5, POINT[name].shape)
    return {**jax.tree.map(np.zeros_like, POINT), name: step}


def stacked(*many):
    return jax.tree.map(lambda *values: np.stack(values), *many)


def inner(a, b):
    return float(sum(np.vdot(a[name], b[name]) for name in b))


@pytest.mark.parametrize("name", POINT)
def test_taylor_remainder_is_of_second_order(gradients, name):
    direction, steps = direction_of(name), np.asarray([0.0, 4e-2, 2e-2, 1e-2, 5e-3])
    many = stacked(*(jax.tree.map(lambda x, d, h=h: x + h * d, POINT, direction) for h in steps))
    values = np.asarray(loss_of(batch(many, np.full(5, DURATION)).density))
    derivative = inner(gradients, direction)
    assert abs(derivative) > 1e-4 * values[0]
    assert slope(steps[1:], np.abs(values[1:] - values[0] - steps[1:] * derivative)) == pytest.approx(2, abs=0.05)


def test_reverse_mode_equals_forward_mode(gradients):
    push = jax.jit(lambda d: jax.jvp(functools.partial(loss, adjoint=ForwardMode()), (POINT, DURATION), d)[1])
    for name in POINT:
        direction = direction_of(name)
        assert inner(gradients, direction) == pytest.approx(float(push((direction, 0.0))), rel=1e-8)
    assert float(gradients["duration"]) == pytest.approx(
        float(push((jax.tree.map(np.zeros_like, POINT), 1.0))), rel=1e-8
    )


def test_vmap_over_treatments_equals_a_loop():
    many = [
        {**POINT, name: factor * POINT[name]}
        for name, factor in (("alpha", 2.0), ("dose", 1.5), ("first", 3.0), ("cavity", 0.5), ("proliferation", 3.0))
    ]
    solutions = batch(stacked(*many), np.full(5, DURATION))
    assert len(set(solutions.steps.tolist())) > 1
    singles = [value_and_gradient(v, DURATION)[0] for v in many]
    np.testing.assert_allclose(loss_of(solutions.density), singles, rtol=1e-12)


def test_gradient_by_a_traced_duration():
    # Cells that are spread evenly grow by rho c (1 - c) at the end, and treatments stay on their days.
    v = at(diffusivity=0.1, proliferation=0.05, dose=2.0, first=0.03)
    c = float(solve(v).density.max())
    expected = 2 * c * 0.05 * c * (1 - c) * float((WEIGHTS * TISSUE).sum())
    assert float(value_and_gradient(v, DURATION)[1][1]) == pytest.approx(expected, rel=1e-10)


def test_gradient_by_a_traced_duration_where_a_front_spreads(gradients):
    # Steps move with the end within what is left of the time, which the gradient leaves out: no more than their error.
    h, around = 0.1, (-2, -1, 1, 2)
    values = loss_of(batch(stacked(*[POINT] * 5), DURATION + h * np.asarray([*around, 0])).density)[:4]
    difference = float(np.dot([1, -8, 8, -1], values)) / (12 * h)
    assert float(gradients["duration"]) == pytest.approx(difference, rel=1e-5)


def test_a_traced_duration_may_end_before_a_drug_but_after_every_beginning(gradients):
    durations = np.asarray([90.0, 60.0, 52.0, 50.0, 15.0])
    solutions = batch(stacked(*[{**POINT, "diffusivity": np.asarray(0.0)}] * 5), durations)
    late = Result.TREATMENT_AFTER_END
    assert solutions.result.tolist() == [Result.SUCCESS, Result.SUCCESS, Result.SUCCESS, late, late]
    expected = by_hand(POINT)
    np.testing.assert_allclose(solutions.density[0], expected[9], rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(solutions.density[1], expected[6], rtol=1e-9, atol=1e-14)


def test_frames_equal_solves_of_their_durations():
    durations = np.asarray([90.0, 80.0, 70.0, 60.0, 90.0])
    solutions, series = batch(stacked(*[POINT] * 5), durations), solve(POINT).series
    for i, day in enumerate(durations):
        frame = series[int(day) // 10]
        assert np.linalg.norm(frame - solutions.density[i]) < 1e-4 * np.linalg.norm(frame)


def course(v, dtype=float):
    """Return the solution from a seed with a course from day 20 on, and the first drug alongside."""
    treatments = (Radiotherapy.course(20, 30, v["dose"], v["alpha"]), Chemotherapy(20, 62, v["first"]))
    growth = GrowthParams(v["diffusivity"], v["proliferation"], ORIGIN, DURATION)
    return simulate(MODEL, growth, ANATOMY.astype(dtype), treatments=treatments)


def test_a_course_is_given_on_weekdays():
    days = Radiotherapy.course(3, 30, 2.0, 0.1).days
    assert days[:7] == (3, 4, 5, 6, 7, 10, 11)
    assert len(days) == len(set(days)) == 30
    # Six weeks, less the last weekend.
    assert days[-1] == 3 + 6 * 7 - 3
    assert all((day - 3) % 7 < 5 for day in days)


def test_a_course_without_dose_disturbs_neither_accuracy_nor_cost():
    v = at(diffusivity=0.1, proliferation=0.06)
    untreated = simulate(MODEL, GrowthParams(0.1, 0.06, ORIGIN, DURATION), ANATOMY)
    cut = course(v)
    assert np.linalg.norm(cut.density - untreated.density) < 2e-3 * np.linalg.norm(untreated.density)
    # At least a step from fraction to fraction.
    assert 30 < int(cut.steps) <= int(untreated.steps) + 32


def test_a_longer_course_is_no_larger_program():
    def operations(fractions):
        def cells(alpha):
            course = Radiotherapy.course(5.0, fractions, 2.0, alpha)
            tumour = GrowthParams(0.2, 0.05, ORIGIN, DURATION)
            return jnp.sum(simulate(MODEL, tumour, ANATOMY, treatments=course, throw=False).density)

        return jax.jit(jax.value_and_grad(cells)).lower(0.04).as_text().count("stablehlo.")

    # Fractions are turns of a loop, forwards and back: the compiler sees one.
    assert operations(30) == operations(3)


def test_a_course_in_single_precision():
    v = at(diffusivity=0.1, proliferation=0.06, dose=1.8, first=0.02)
    single, double = course(v, np.float32), course(v)
    assert single.density.dtype == np.float32
    difference = np.linalg.norm(np.asarray(single.density, float) - double.density)
    assert difference < 1e-5 * np.linalg.norm(double.density)


def test_a_treatment_after_the_end_is_refused_where_the_duration_is_known():
    with pytest.raises(
        ValueError, match="a treatment takes place on day 50, but the simulation ends on day 50; move it"
    ):
        simulate(MODEL, params(POINT, 50.0), ANATOMY, treatments=treatments(POINT))


@pytest.mark.parametrize(
    ("make", "message"),
    (
        (lambda: Radiotherapy((1,), -2.0, 0.1), "dose must be finite and not negative, got -2"),
        (lambda: Radiotherapy((1,), np.full(SHAPE, np.nan), 0.1), "dose must be finite and not negative"),
        (lambda: Radiotherapy((1,), 2.0, np.nan), "alpha must be finite and not negative, got nan"),
        (lambda: Radiotherapy((1,), 2.0, 0.1, 0.0), "ratio must be finite and positive, got 0"),
        (lambda: Radiotherapy((), 2.0, 0.1), "radiotherapy needs days from 0 on, got ()"),
        (lambda: Radiotherapy((3, -1), 2.0, 0.1), "radiotherapy needs days from 0 on, got (3.0, -1.0)"),
        (lambda: Surgery(-1, BLOCK), "surgery needs days from 0 on, got (-1.0,)"),
        (lambda: Surgery(1, 2 * BLOCK), "cavity must hold fractions in [0, 1] without NaN, got values from 0 to 2"),
        (lambda: Surgery(1, np.full(SHAPE, np.nan)), "cavity must hold fractions in [0, 1] without NaN"),
        (lambda: Surgery(1, np.ones(3)), "cavity must be an image (x, y, z), or a share of a volume, got shape (3,)"),
        (lambda: Chemotherapy(5, 5, 0.1), "chemotherapy must stop after it starts, got days 5 to 5"),
        (lambda: Chemotherapy(-5, 5, 0.1), "chemotherapy needs days from 0 on, got (-5.0, 5.0)"),
        (lambda: Chemotherapy(np.nan, 5, 0.1), "chemotherapy needs days from 0 on"),
        (lambda: Chemotherapy(1, 5, np.inf), "rate must be finite and not negative, got inf"),
    ),
)
def test_bad_treatments_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("treatment", "message"),
    (
        (Surgery(1, np.zeros((9, 10, 7))), "a map has shape (9, 10, 7) on an anatomy of shape (9, 10, 8); resample it"),
        (Radiotherapy((1,), np.zeros((8, 10, 9)), 0.1), "a map has shape (8, 10, 9) on an anatomy"),
        (Radiotherapy((1,), np.zeros(8), 0.1), "dose must be a number or an image (x, y, z), got shape (8,)"),
    ),
)
def test_maps_of_another_shape_are_refused(treatment, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        simulate(MODEL, params(POINT), ANATOMY, treatments=(treatment,))
