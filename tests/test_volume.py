"""Growth laws of the whole volume: compared with numerical integration and with their limits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from tests.problems import box, slope
from tumorjax import simulate
from tumorjax.growth import (
    AbstractVolumeLaw,
    Chemotherapy,
    ExponentialGrowth,
    GompertzGrowth,
    LogisticGrowth,
    Radiotherapy,
    Surgery,
    VolumeParams,
)

PARAMS = VolumeParams(initial=40.0, rate=0.03, duration=120.0, capacity=90_000.0)
TIMES = np.linspace(0, 400, 41)
RIGHT = {
    ExponentialGrowth: lambda v, r, k: r * v,
    LogisticGrowth: lambda v, r, k: r * v * (1 - v / k),
    GompertzGrowth: lambda v, r, k: r * v * np.log(k / v),
}
LIMITED = (LogisticGrowth(), GompertzGrowth())


@pytest.fixture(params=RIGHT, ids=lambda law: law.__name__)
def law(request):
    return request.param()


# The second starts above the capacity and shrinks to it.
@pytest.mark.parametrize("initial", (40.0, 2e5))
def test_closed_form_solves_the_equation(law, initial):
    params = VolumeParams(initial, PARAMS.rate, PARAMS.duration, PARAMS.capacity)

    def right(time, logarithm):
        # In the logarithm, whose equation is smoother: d log V = dV / V.
        volume = np.exp(logarithm)
        return RIGHT[type(law)](volume, params.rate, params.capacity) / volume

    fine = solve_ivp(right, (0, TIMES[-1]), [np.log(initial)], t_eval=TIMES, rtol=1e-11, atol=1e-12, method="DOP853")
    np.testing.assert_allclose(jax.jit(law.volume)(params, TIMES), np.exp(fine.y[0]), rtol=1e-9)


def test_gompertz_growth_is_a_division_rate_that_decays():
    # dV/dt = alpha exp(-beta t) V: V = V_0 exp(alpha / beta (1 - exp(-beta t))).
    alpha, beta = PARAMS.rate * np.log(PARAMS.capacity / PARAMS.initial), PARAMS.rate
    expected = PARAMS.initial * np.exp(alpha / beta * (1 - np.exp(-beta * TIMES)))
    np.testing.assert_allclose(GompertzGrowth().volume(PARAMS, TIMES), expected, rtol=1e-13)


def test_exponential_growth_doubles():
    doubling = np.log(2) / PARAMS.rate
    volumes = ExponentialGrowth().volume(VolumeParams(5.0, PARAMS.rate, 1.0), doubling * np.arange(5))
    np.testing.assert_allclose(volumes, 5.0 * 2 ** np.arange(5), rtol=1e-14)


def test_growth_far_below_the_capacity_is_exponential():
    # The relative error of the logistic law is V / K; the initial rate of Gompertz's is r log(K / V_0).
    params = VolumeParams(1.0, 0.03, 10.0, capacity=1e12)
    times = np.linspace(0, 50, 6)
    np.testing.assert_allclose(LogisticGrowth().volume(params, times), np.exp(0.03 * times), rtol=1e-11)
    fast = 0.03 * np.log(1e12)
    early = np.asarray([1e-6, 1e-5])
    gained = GompertzGrowth().volume(params, early) - 1
    np.testing.assert_allclose(gained, fast * early, rtol=1e-5)


@pytest.mark.parametrize("law", LIMITED, ids=lambda law: type(law).__name__)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_late_growth_ends_at_the_capacity(law, dtype):
    late = jnp.asarray([1e4, 1e30], dtype)
    for initial in (1e-3, PARAMS.capacity, 1e8):
        params = VolumeParams(initial, 5.0, 1.0, PARAMS.capacity)
        volumes = law.volume(params, late)
        assert volumes.dtype == dtype
        np.testing.assert_allclose(volumes, PARAMS.capacity, rtol=20 * float(np.finfo(dtype).eps))
        gradient = jax.grad(lambda p, law=law: law.volume(p, late[0]))(params)
        assert gradient.capacity == pytest.approx(1, rel=20 * float(np.finfo(dtype).eps))
        assert abs(gradient.initial) < 1e-6
        assert abs(gradient.rate) < 1e-6


@pytest.mark.parametrize("law", LIMITED, ids=lambda law: type(law).__name__)
def test_a_tumour_at_its_capacity_stays(law):
    params = VolumeParams(321.0, 0.05, 1.0, capacity=321.0)
    np.testing.assert_allclose(law.volume(params, TIMES), 321.0, rtol=1e-15)


def test_nothing_grows_without_a_rate(law):
    still = VolumeParams(40.0, 0.0, 1.0, PARAMS.capacity)
    np.testing.assert_array_equal(law.volume(still, TIMES), 40.0)
    np.testing.assert_array_equal(law.volume(PARAMS, 0), 40.0)


def test_gradient_is_of_second_order(law):
    direction = jax.tree.map(lambda leaf, scale: scale * leaf, PARAMS, VolumeParams(0.8, 0.6, 0.0, 0.3))
    weights = jnp.asarray(np.random.default_rng(0).uniform(size=TIMES.size))

    @jax.jit
    @jax.vmap
    def value(step):
        moved = jax.tree.map(lambda leaf, along: leaf + step * along, PARAMS, direction)
        return jnp.vdot(weights, law.volume(moved, TIMES))

    steps = jnp.asarray([0.0, 4e-3, 2e-3, 1e-3])
    values = value(steps)
    derivative = jax.jit(jax.grad(lambda step: value(step[None])[0]))(0.0)
    remainder = jnp.abs(values[1:] - values[0] - steps[1:] * derivative)
    assert slope(steps[1:], remainder) == pytest.approx(2, abs=0.05)


def test_a_batch_is_each_of_its_members(law):
    rates = jnp.asarray([0.01, 0.02, 0.04])
    batch = jax.vmap(lambda r: law.volume(VolumeParams(40.0, r, 120.0, PARAMS.capacity), TIMES))(rates)
    for rate, got in zip(rates, batch, strict=True):
        alone = law.volume(VolumeParams(40.0, rate, 120.0, PARAMS.capacity), TIMES)
        np.testing.assert_allclose(got, alone, rtol=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"initial": 0.0}, r"initial must be finite and positive, got 0\.0"),
        ({"rate": -0.1}, r"rate must be finite and not negative, got -0\.1"),
        ({"duration": np.nan}, "duration must be finite and not negative"),
        ({"capacity": jnp.inf}, "capacity must be finite and positive, got inf"),
    ),
)
def test_bad_parameters_are_refused(change, message):
    values = {"initial": 40.0, "rate": 0.03, "duration": 120.0, "capacity": 9e4}
    with pytest.raises(ValueError, match=message):
        VolumeParams(**{**values, **change})


@pytest.mark.parametrize("law", LIMITED, ids=lambda law: type(law).__name__)
def test_a_limited_law_asks_for_the_capacity(law):
    with pytest.raises(ValueError, match=f"{type(law).__name__} needs a capacity, got None; give VolumeParams one"):
        law.volume(VolumeParams(40.0, 0.03, 120.0), TIMES)


# Treatments.


def treatments(share=0.4, dose=1.8, killing=0.02):
    # A day with two fractions, a drug that stops after the end, and one that balances the growth.
    return (
        Surgery(20, share),
        Radiotherapy((30, 31, 31), dose, 0.05),
        Chemotherapy(50, 80, killing),
        Chemotherapy(70, 500, PARAMS.rate),
    )


def by_hand(law):
    """Return the volumes on days 0, 30, 60, 90, 120 by an ODE solver between the treatments."""
    survival = np.exp(-0.05 * 1.8 * (1 + 1.8 / 10))
    shares = {20: 0.6, 30: survival, 31: survival**2}
    volume, kept = PARAMS.initial, {0: PARAMS.initial}
    cuts = [0, 20, 30, 31, 50, 60, 70, 80, 90, 120]
    for begin, end in itertools.pairwise(cuts):
        volume *= shares.get(begin, 1)
        killing = 0.02 * (50 <= begin < 80) + PARAMS.rate * (begin >= 70)

        def right(_, v, killing=killing):
            return RIGHT[type(law)](v, PARAMS.rate, PARAMS.capacity) - killing * v

        volume = solve_ivp(right, (begin, end), [volume], rtol=1e-11, atol=1e-9, method="DOP853").y[0, -1]
        kept[end] = volume
    return [kept[day] for day in (0, 30, 60, 90, 120)]


def test_treatments_act_between_the_closed_solutions(law):
    solution = simulate(law, PARAMS, treatments=treatments(), save_every=30.0)
    np.testing.assert_array_equal(solution.times, [0, 30, 60, 90, 120])
    np.testing.assert_allclose(solution.series, by_hand(law), rtol=1e-8)
    assert float(solution.volume) == float(solution.series[-1])
    traced = jax.jit(lambda p: simulate(law, p, treatments=treatments()).volume)(PARAMS)
    np.testing.assert_allclose(traced, solution.volume, rtol=1e-12)


def test_the_volume_has_its_derivatives_by_treatments(law):
    point = {"share": 0.4, "dose": 1.8, "killing": 0.02}

    @jax.jit
    def value(step, along):
        return simulate(law, PARAMS, treatments=treatments(**{k: x + step * along[k] for k, x in point.items()})).volume

    steps = np.asarray([4e-3, 2e-3, 1e-3])
    for name in point:
        along = {**dict.fromkeys(point, 0.0), name: 1.0}
        derivative = jax.grad(value)(0.0, along)
        # More of each leaves less.
        assert float(derivative) < 0
        remainder = [abs(float(value(h, along) - value(0.0, along) - h * derivative)) for h in steps]
        # The volume is linear in the share where nothing limits it.
        if name != "share" or not isinstance(law, ExponentialGrowth):
            assert slope(steps, remainder) == pytest.approx(2, abs=0.1)


def test_after_a_whole_resection_nothing_grows(law):
    value = jax.jit(jax.value_and_grad(lambda share: simulate(law, PARAMS, treatments=[Surgery(20, share)]).volume))
    assert float(value(1.0)[0]) == 0


def test_what_has_a_place_is_refused(law):
    image = np.zeros((2, 2, 2))
    with pytest.raises(ValueError, match=r"a volume has no place; give cavity as one number, got \(2, 2, 2\)"):
        simulate(law, PARAMS, treatments=(Surgery(20, image),))
    with pytest.raises(ValueError, match=r"a volume has no place; give dose as one number"):
        simulate(law, PARAMS, treatments=(Radiotherapy((20,), image, 0.05),))
    with pytest.raises(ValueError, match="a treatment takes place on day 130, but the simulation ends on day 120"):
        simulate(law, PARAMS, treatments=(Surgery(130, 0.5),))
    with pytest.raises(ValueError, match="has a closed solution without space; leave out anatomy"):
        simulate(law, PARAMS, box((2, 2, 2)))


def test_a_law_of_ones_own_takes_what_cuts_and_asks_for_what_a_drug_does():
    class Linear(AbstractVolumeLaw):
        def volume(self, params, times):
            return params.initial + params.rate * jnp.asarray(times)

    params = VolumeParams(10.0, 0.5, 40.0)
    half = simulate(Linear(), params, treatments=(Surgery(20, 0.5),)).volume
    assert float(half) == pytest.approx((10 + 10) / 2 + 10)
    with pytest.raises(ValueError, match="Linear does not say how a drug acts; define under_drug"):
        simulate(Linear(), params, treatments=(Chemotherapy(10, 20, 0.1),))


def test_a_traced_duration_that_ends_before_a_treatment_is_nan():
    end = jax.jit(lambda t: simulate(ExponentialGrowth(), VolumeParams(10.0, 0.1, t), treatments=(Surgery(20, 0.5),)))
    assert np.isnan(end(15.0).volume)
    assert float(end(30.0).volume) == pytest.approx(5 * np.exp(3.0))


def test_traced_parameters_out_of_range_give_nan(law):
    bad = jax.jit(lambda r: simulate(law, VolumeParams(40.0, r, 120.0, 9e4)).volume)
    assert np.isnan(bad(-0.03))
    assert np.isfinite(bad(0.03))
