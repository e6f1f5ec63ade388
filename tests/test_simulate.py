"""The function `simulate`: series, transformations, precision, compilations and failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import ball_brain, box
from tumorjax import FisherKolmogorov, GrowthParams, ScaledGrowthParams, SplitEuler, StrangRKL2, simulate
from tumorjax.integrate import Result

MODEL = FisherKolmogorov()
ANATOMY = ball_brain()
INSIDE, HOLE, OUTSIDE = np.array([-4.0, 2.0, 1.0]), np.array([4.4, 1.8, -2.6]), np.array([0.0, 0.0, 500.0])
PARAMS = GrowthParams(0.1, 0.03, INSIDE, 90.0)


def params_at(diffusivity=0.1, proliferation=0.03, origin=INSIDE, duration=90.0):
    return GrowthParams(*(jnp.asarray(value, float) for value in (diffusivity, proliferation, origin, duration)))


@jax.jit
def _solve(leaves, anatomy):
    return simulate(MODEL, GrowthParams(*leaves), anatomy)


def solve(params, anatomy=ANATOMY):
    """Run `simulate` inside one compiled program, where parameters and anatomy are traced."""
    return _solve(jax.tree.leaves(params), anatomy)


@pytest.fixture(scope="module")
def series():
    return simulate(MODEL, PARAMS, ANATOMY, save_every=25.0)


def test_a_series_has_its_times(series):
    np.testing.assert_allclose(series.times, [0, 25, 50, 75, 90], rtol=1e-14)
    assert series.series.shape == (5, *ANATOMY.grid.shape)


def test_a_series_begins_with_the_seed_and_ends_with_the_density(series):
    np.testing.assert_allclose(series.series[0], jax.jit(MODEL.initial)(PARAMS, ANATOMY), rtol=1e-12)
    np.testing.assert_array_equal(series.series[-1], series.density)


def test_a_series_agrees_with_solves_of_each_duration(series):
    for time, frame in zip(series.times[1:], series.series[1:], strict=True):
        direct = solve(params_at(duration=time)).density
        assert np.linalg.norm(frame - direct) < 2e-2 * np.linalg.norm(direct)


def test_a_series_where_times_divide_the_duration():
    # A third of a duration is no finite decimal, and still three intervals.
    for every, expected in ((0.7 / 3, [0, 0.7 / 3, 1.4 / 3, 0.7]), (200.0, [0, 0.7])):
        solution = simulate(MODEL, params_at(duration=0.7), ANATOMY, save_every=every, stepper=SplitEuler())
        np.testing.assert_allclose(solution.times, expected, rtol=1e-14)


def test_a_series_inside_jit_where_the_duration_is_closed_over(series):
    @jax.jit
    def inside(diffusivity):
        return simulate(MODEL, GrowthParams(diffusivity, 0.03, INSIDE, 90.0), ANATOMY, save_every=25.0).series

    np.testing.assert_allclose(inside(0.1), series.series, rtol=1e-11, atol=1e-300)


def test_a_series_needs_a_known_duration_and_a_positive_interval():
    with pytest.raises(ValueError, match=r"concrete duration.*close over it"):
        jax.jit(lambda p: simulate(MODEL, p, ANATOMY, save_every=10.0))(params_at())
    with pytest.raises(ValueError, match=r"save_every must be positive \(days\), got 0"):
        simulate(MODEL, PARAMS, ANATOMY, save_every=0.0)


@pytest.fixture(scope="module")
def direct():
    """The solution outside of every transformation, which runs on the tissue's box."""
    assert ANATOMY.box()[1] != ANATOMY.grid.shape
    return simulate(MODEL, PARAMS, ANATOMY)


def test_without_a_series_there_is_the_end_alone(direct):
    assert direct.series is None
    np.testing.assert_allclose(direct.times, [90])
    assert direct.density.shape == ANATOMY.grid.shape


def test_traced_anatomy_gives_the_same_as_a_cropped_one(direct):
    traced = solve(PARAMS)
    assert int(direct.steps) == int(traced.steps)
    np.testing.assert_allclose(direct.density, traced.density, rtol=1e-12, atol=1e-300)


def test_vmap_over_parameters_equals_a_loop():
    many = [params_at(), params_at(0.4, 0.02, duration=200.0), params_at(0.05, 0.09, INSIDE + 3, 60.0)]
    batch = jax.jit(jax.vmap(lambda p: simulate(MODEL, p, ANATOMY)))(jax.tree.map(lambda *v: jnp.stack(v), *many))
    assert len(set(batch.steps.tolist())) == 3
    for i, params in enumerate(many):
        single = solve(params)
        assert int(batch.steps[i]) == int(single.steps)
        np.testing.assert_allclose(batch.density[i], single.density, rtol=1e-12, atol=1e-300)


def test_vmap_over_anatomies_equals_a_loop():
    many = [jax.tree.map(jnp.asarray, a) for a in (ANATOMY, box(ANATOMY.grid.shape, (2.1, 1.9, 2.0)))]
    batch = jax.jit(jax.vmap(lambda a: simulate(MODEL, PARAMS, a)))(jax.tree.map(lambda *v: jnp.stack(v), *many))
    for i, anatomy in enumerate(many):
        np.testing.assert_allclose(batch.density[i], solve(PARAMS, anatomy).density, rtol=1e-12, atol=1e-300)


def test_one_compilation_serves_every_patient_of_a_shape():
    traces = []

    class Counting(StrangRKL2):
        def schedule(self, terms, interval):
            traces.append(interval)
            return super().schedule(terms, interval)

    shape, stepper = (8, 9, 7), Counting()
    simulate(MODEL, PARAMS, box(shape, 3.0), stepper=stepper)
    once = len(traces)
    assert once > 0
    simulate(FisherKolmogorov(ratio=5.0), params_at(0.2, 0.01, INSIDE + 1, 33.0), box(shape, 4.0), stepper=stepper)
    assert len(traces) == once
    simulate(MODEL, PARAMS, box((8, 9, 8), 3.0), stepper=stepper)
    assert len(traces) == 2 * once


def test_the_speed_changes_nothing_but_the_calendar(direct):
    scaled = PARAMS.scaled()
    faster = simulate(MODEL, ScaledGrowthParams(scaled.mu1, scaled.mu2, INSIDE, 3.0), ANATOMY)
    np.testing.assert_allclose(faster.density, direct.density, rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(faster.times * 3.0, direct.times * scaled.speed, rtol=1e-13)


@pytest.mark.parametrize("stepper", (StrangRKL2(), SplitEuler()), ids=("StrangRKL2", "SplitEuler"))
def test_float32_stays_float32_and_agrees_with_float64(stepper):
    single, double = (
        simulate(MODEL, PARAMS, anatomy, stepper=stepper, save_every=45.0)
        for anatomy in (ANATOMY.astype(jnp.float32), ANATOMY)
    )
    for field in (single.density, single.series, single.times):
        assert field.dtype == jnp.float32
    assert double.density.dtype == jnp.float64
    assert int(single.steps) == int(double.steps)
    difference = np.linalg.norm(np.asarray(single.density, float) - double.density)
    assert difference < 1e-5 * np.linalg.norm(double.density)


@pytest.mark.parametrize("origin", (OUTSIDE, HOLE), ids=("outside the head", "in the CSF"))
def test_a_seed_outside_tissue_fails(origin):
    with pytest.raises(ValueError, match=r"origin lies outside white and grey matter.*RAS world mm"):
        simulate(MODEL, params_at(origin=origin), ANATOMY)
    solution = simulate(MODEL, params_at(origin=origin), ANATOMY, throw=False)
    assert int(solution.result) == int(solve(params_at(origin=origin)).result) == Result.SEED_OUTSIDE_TISSUE
    assert np.isfinite(solution.density).all()


def test_a_good_solve_succeeds():
    solution = solve(PARAMS)
    assert int(solution.result) == Result.SUCCESS
    assert solution.check() is solution
    assert "succeeded" in Result.SUCCESS.message


@pytest.mark.parametrize("value", (np.nan, np.inf))
@pytest.mark.parametrize("place", range(4), ids=("diffusivity", "proliferation", "origin", "duration"))
def test_traced_parameters_that_are_not_finite_fail(place, value):
    leaves = jax.tree.leaves(params_at())
    leaves[place] = jnp.full_like(leaves[place], value)
    solution = _solve(leaves, ANATOMY)
    assert int(solution.result) in (Result.NOT_FINITE, Result.SEED_OUTSIDE_TISSUE)
    with pytest.raises(ValueError, match=r"not finite; check the parameters|outside white and grey"):
        solution.check()


def test_a_series_needs_a_duration():
    with pytest.raises(ValueError, match="save_every needs a duration above zero, got 0 days"):
        simulate(MODEL, params_at(duration=0.0), ANATOMY, save_every=5.0)
