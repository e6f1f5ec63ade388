"""The time-stepping schemes: exact cases, orders of convergence, and symmetries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial import legendre

from tests.problems import advance, ball_brain, box, cosine_eigenvalue, cosine_mode, slope
from tumorjax.anatomy import Anatomy
from tumorjax.grid import Grid
from tumorjax.growth import FisherKolmogorov, GrowthParams, ScaledGrowthParams
from tumorjax.integrate import Interval, Result, SplitEuler, StrangRKL2, simulate
from tumorjax.operators import largest_eigenvalue_bound

STEPPERS = {"StrangRKL2": StrangRKL2(), "SplitEuler": SplitEuler()}
ANATOMY = ball_brain((14, 14, 14), (3.0, 2.5, 2.0))


@pytest.fixture(params=STEPPERS.values(), ids=STEPPERS.keys())
def stepper(request):
    return request.param


def terms_of(anatomy, diffusivity, proliferation, duration=1.0):
    origin = jnp.zeros(3)
    params = GrowthParams(jnp.asarray(diffusivity, float), jnp.asarray(proliferation, float), origin, 1.0)
    return FisherKolmogorov().terms(params, anatomy).over(duration)


def rough(anatomy, seed=0):
    """Return a density that differs from voxel to voxel, in the tissue."""
    return jnp.asarray(np.random.default_rng(seed).uniform(size=anatomy.grid.shape)) * anatomy.tissue.astype(float)


def distance(a, b):
    """Return the relative L2 difference."""
    return float(jnp.linalg.norm(jnp.ravel(a - b)) / jnp.linalg.norm(jnp.ravel(b)))


def test_pure_growth_is_the_logistic_curve(stepper):
    state, grown = rough(ANATOMY), 7.3
    final, steps = advance(stepper, terms_of(ANATOMY, 0.0, 0.05, grown / 0.05), state)
    assert int(steps) > 5
    exact = state * np.exp(grown) / (1 + state * np.expm1(grown))
    np.testing.assert_allclose(final, exact, rtol=1e-12)


# Densities about a half, in two modes: D T = 9 mm^2 fades the first by a third and the second almost wholly.
MODES, SHAPE, SPACING = (((1, 0, 1), 0.3), ((3, 4, 2), 0.15)), (10, 9, 8), np.array([1.5, 2.0, 1.8])


def mode_decay(factor):
    """Run pure diffusion from two modes and compare with their exact decay."""

    def run(stepper):
        anatomy = box(SHAPE, SPACING)
        terms = terms_of(anatomy, 9.0, 0.0)
        state, expected = 0.5, 0.5
        for orders, amplitude in MODES:
            mode = amplitude * cosine_mode(SHAPE, orders)
            state = state + mode
            expected = expected + mode * factor(terms, cosine_eigenvalue(SHAPE, orders, SPACING) * 9.0)
        final, steps = advance(stepper, terms, jnp.asarray(state))
        return final, expected, int(steps)

    return run


def test_euler_shrinks_modes_by_its_stability_function():
    def factor(terms, decay):
        steps = np.ceil(9 * float(largest_eigenvalue_bound(terms.conductance)) / 0.9)
        return (1 - decay / steps) ** steps

    final, expected, steps = mode_decay(factor)(SplitEuler(safety=0.45))
    assert steps > 5
    np.testing.assert_allclose(final, expected, atol=1e-13)


@pytest.mark.parametrize("exponent", (1.75, 1.0))
def test_rkl2_shrinks_modes_by_its_stability_function(exponent):
    def factor(terms, decay):
        stiffness = 9 * float(largest_eigenvalue_bound(terms.conductance))
        total = 1.0
        for width in np.diff((np.arange(7) / 6) ** exponent):
            # The least odd number of stages for which Meyer et al., equation 20, allows this step.
            s = next(s for s in range(3, 1000, 2) if (s * s + s - 2) / 2 >= width * stiffness)
            b, w = (s * s + s - 2) / (2 * s * (s + 1)), 4 / (s * s + s - 2)
            total *= 1 - b + b * legendre.Legendre.basis(s)(1 - w * width * decay)
        return total

    final, expected, _ = mode_decay(factor)(StrangRKL2(first_steps=6, exponent=exponent))
    np.testing.assert_allclose(final, expected, atol=1e-13)


def test_modes_decay_as_the_heat_equation_says():
    final, expected, _ = mode_decay(lambda terms, decay: np.exp(-decay))(StrangRKL2(first_steps=6))
    assert distance(final, expected) < 2e-3


@pytest.fixture(scope="module")
def smooth():
    """A growing smooth tumour, and its reference solution by a very fine scheme."""
    anatomy = ball_brain((14, 12, 13), 3.0)
    index = np.moveaxis(np.indices(anatomy.grid.shape).astype(float), 0, -1)
    apart = np.asarray(anatomy.grid.to_world(index)) - np.array([2.0, -1.0, 1.0])
    state = 0.6 * jnp.exp(-jnp.asarray(np.sum(apart**2, axis=-1)) / (2 * 8.0**2)) * anatomy.tissue.astype(float)
    terms = terms_of(anatomy, 0.3, 0.05, 80.0)
    reference, _ = advance(StrangRKL2(reaction_step=4 / 2000, exponent=1.0), terms, state)
    return terms, state, reference


def errors(smooth, steppers):
    terms, state, reference = smooth
    counts, found = [], []
    for stepper in steppers:
        final, steps = advance(stepper, terms, state)
        counts.append(int(steps))
        found.append(distance(final, reference))
    return counts, found


def test_split_euler_is_of_first_order(smooth):
    # Diffusion is stable from 16 steps on, so that the reaction sets the steps.
    counts, found = errors(smooth, [SplitEuler(safety=1.0, reaction_step=4 / n) for n in (64, 128, 256)])
    assert counts == [64, 128, 256]
    assert slope(counts, found) == pytest.approx(-1, abs=0.03)
    assert found[0] < 2e-4


@pytest.mark.parametrize("exponent", (1.0, 1.75), ids=("even steps", "graded steps"))
def test_strang_rkl2_is_of_second_order(smooth, exponent):
    steppers = [StrangRKL2(reaction_step=4 / n, first_steps=1, exponent=exponent) for n in (16, 32, 64)]
    counts, found = errors(smooth, steppers)
    assert counts == [17, 33, 65]
    assert slope(counts, found) == pytest.approx(-2, abs=0.05)
    assert found[0] < 1e-5


def test_default_scheme_is_accurate_where_tumours_are_visible():
    anatomy, model = box((24, 24, 24), 3.0), FisherKolmogorov()
    fine = StrangRKL2(reaction_step=0.1, first_steps=100, max_stages=9)
    for diffusivity, proliferation, duration in ((0.13, 0.025, 400.0), (0.5, 0.05, 250.0), (1.5, 0.02, 600.0)):
        params = GrowthParams(diffusivity, proliferation, np.array([3.1, -2.0, 1.4]), duration)
        reference = simulate(model, params, anatomy, stepper=fine)
        assert float(reference.density.max()) > 0.5
        assert distance(simulate(model, params, anatomy).density, reference.density) < 2e-3


def test_diffusion_conserves_mass(stepper):
    state = rough(ANATOMY)
    final, _ = advance(stepper, terms_of(ANATOMY, 25.0, 0.0), state)
    assert distance(final, state) > 0.2
    np.testing.assert_allclose(final.sum(), state.sum(), rtol=1e-12)
    np.testing.assert_array_equal(np.asarray(final)[~np.asarray(ANATOMY.tissue)], 0)


def test_euler_obeys_the_maximum_principle_at_the_limit_of_its_step():
    final, _ = advance(SplitEuler(safety=1.0), terms_of(ANATOMY, 25.0, 2.0), rough(ANATOMY))
    assert 0 <= float(final.min()) <= float(final.max()) <= 1


def test_super_time_steps_are_stable():
    # A checkerboard is the stiffest state; 31 stages a step, at the limit of their stability.
    anatomy = box((8, 8, 8))
    board = 0.5 + 0.5 * (-1.0) ** np.indices((8, 8, 8)).sum(axis=0)
    terms = terms_of(anatomy, 1e4, 0.0)
    final, steps = advance(StrangRKL2(exponent=1.0), terms, jnp.asarray(board))
    assert int(steps) == np.ceil(12e4 / 495)
    np.testing.assert_allclose(final, 0.5, atol=1e-10)


def test_no_parameters_hold_a_solve_up():
    anatomy = box((8, 8, 8))

    def grown(mu1):
        return simulate(FisherKolmogorov(), ScaledGrowthParams(mu1, 3.0, jnp.zeros(3)), anatomy, throw=False)

    long = grown(200.0)
    assert long.result == Result.SUCCESS and 500 < int(long.steps) < 2**12
    # Diverging trajectories of samplers reach such points, and a solve there must not take hours.
    for mu1 in (1e4, 1e12):
        refused, slope = grown(mu1), jax.grad(lambda mu1: grown(mu1).density.sum())(mu1)
        assert refused.result == Result.NOT_FINITE and int(refused.steps) == 1 and np.isnan(slope)


@pytest.mark.parametrize(
    ("diffusivity", "proliferation", "duration"),
    ((0.13, 0.025, 100.0), (0.5, 0.05, 250.0), (1.5, 0.2, 100.0), (0.02, 0.2, 100.0), (1.5, 0.002, 500.0)),
)
def test_densities_are_fractions_and_keep_out_of_the_csf(stepper, diffusivity, proliferation, duration):
    params = GrowthParams(diffusivity, proliferation, np.array([-3.0, 2.0, 1.0]), duration)
    density = np.asarray(simulate(FisherKolmogorov(), params, ANATOMY, stepper=stepper).density)
    assert density.min() >= 0
    assert density.max() <= 1 + 1e-14
    np.testing.assert_array_equal(density[~np.asarray(ANATOMY.tissue)], 0)
    assert density[np.asarray(ANATOMY.tissue)].min() > 0


@pytest.mark.parametrize("axes", ((0,), (1, 2), (0, 1, 2)))
def test_reflections_commute(stepper, axes):
    state = rough(ANATOMY)
    mirror = Anatomy(
        ANATOMY.grid, *(np.flip(m, axes) for m in (ANATOMY.white_matter, ANATOMY.grey_matter, ANATOMY.csf))
    )
    straight, _ = advance(stepper, terms_of(ANATOMY, 0.5, 0.05, 60.0), state)
    mirrored, _ = advance(stepper, terms_of(mirror, 0.5, 0.05, 60.0), jnp.flip(state, axes))
    np.testing.assert_allclose(jnp.flip(mirrored, axes), straight, rtol=1e-12)


@pytest.mark.parametrize("order", ((1, 2, 0), (0, 2, 1)))
def test_permutations_of_the_axes_commute(stepper, order):
    state = rough(ANATOMY)
    maps = (np.transpose(m, order) for m in (ANATOMY.white_matter, ANATOMY.grey_matter, ANATOMY.csf))
    turned = Anatomy(Grid.from_spacing((14, 14, 14), tuple(np.asarray(ANATOMY.grid.spacing)[list(order)])), *maps)
    straight, _ = advance(stepper, terms_of(ANATOMY, 0.5, 0.05, 60.0), state)
    got, _ = advance(stepper, terms_of(turned, 0.5, 0.05, 60.0), jnp.transpose(state, order))
    np.testing.assert_allclose(got, jnp.transpose(straight, order), rtol=1e-12)


def test_faster_growth_over_less_time_is_the_same_tumour(stepper):
    origin = np.array([-3.0, 2.0, 1.0])
    slow, fast = (GrowthParams(0.2 * s, 0.03 * s, origin, 200.0 / s) for s in (1.0, 3.7))
    densities = [simulate(FisherKolmogorov(), p, ANATOMY, stepper=stepper).density for p in (slow, fast)]
    np.testing.assert_allclose(densities[0], densities[1], rtol=1e-11)


def test_the_front_travels_at_the_speed_of_fisher_and_kolmogorov():
    diffusivity, proliferation = 0.5, 0.05
    anatomy = box((420, 1, 1))
    params = GrowthParams(diffusivity, proliferation, np.array([-205.0, 0.0, 0.0]), 1200.0)
    solution = simulate(FisherKolmogorov(seed_mass=1.0), params, anatomy, save_every=600.0)
    profiles = np.asarray(solution.series)[1:, :, 0, 0]
    last = [np.flatnonzero(profile > 0.5)[-1] for profile in profiles]
    front = [i + (p[i] - 0.5) / (p[i] - p[i + 1]) for i, p in zip(last, profiles, strict=True)]
    speed = (front[1] - front[0]) / 600
    limit = 2 * np.sqrt(diffusivity * proliferation)
    # The front lags behind the limit by 3 / (2 lambda t), with lambda = sqrt(rho / D) (Bramson 1983).
    lag = 1.5 * np.sqrt(diffusivity / proliferation) * np.log(2) / 600
    assert limit * 0.96 < speed < limit
    assert speed + lag == pytest.approx(limit, rel=0.01)


def widths_of(schedule):
    return np.array([float(schedule.width(k)) for k in range(-1, int(schedule.steps) + 1)])


def test_steps_fill_the_interval(stepper):
    widths = widths_of(stepper.schedule(terms_of(ANATOMY, 200.0, 5.0), Interval()))
    assert widths[0] == widths[-1] == 0
    assert np.all(np.diff(widths[1:-1]) > -1e-12)
    np.testing.assert_allclose(widths.sum(), 1, rtol=1e-13)


def test_intervals_take_the_steps_of_the_whole(stepper):
    terms = terms_of(ANATOMY, 2.0, 5.0)
    whole = stepper.schedule(terms, Interval())
    levels = np.cumsum(widths_of(whole))[1:-1]
    assert len(levels) > 8
    cut = float(levels[4])
    for begin, end, expected in ((0.0, cut, levels[:5]), (cut, 1.0, levels[5:])):
        part = stepper.schedule(terms.over(end - begin), Interval(begin, end))
        np.testing.assert_allclose(begin + (end - begin) * np.cumsum(widths_of(part))[1:-1], expected, rtol=1e-9)


@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_bad_coefficients_take_one_step_of_nan(stepper, bad):
    final, steps = advance(stepper, terms_of(ANATOMY, 1.0, 1.0).over(bad), rough(ANATOMY))
    assert int(steps) == 1
    assert not np.isfinite(float(final.sum()))


@pytest.mark.parametrize(
    ("make", "message"),
    (
        (lambda: SplitEuler(safety=1.5), r"safety must be in \(0, 1\].*safety=1\.5"),
        (lambda: SplitEuler(reaction_step=0.0), "reaction_step positive"),
        (lambda: StrangRKL2(reaction_step=-1.0), "must be positive .*got"),
        (lambda: StrangRKL2(first_steps=0), "first_steps must be a whole number of at least 1, got 0"),
        (lambda: StrangRKL2(exponent=0.5), "exponent finite and at least 1"),
        (lambda: StrangRKL2(max_stages=4), "odd and at least 3, got 4"),
        (lambda: StrangRKL2(max_stages=1), "odd and at least 3, got 1"),
    ),
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
