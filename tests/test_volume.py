"""The laws of the whole volume, against numerical integration and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from tests.problems import slope
from tumorjax.growth import ExponentialGrowth, GompertzGrowth, LogisticGrowth, VolumeParams

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
