"""Priors: densities integrate to one, bijections invert each other, names and samples are correct."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from tumorjax.growth import ScaledGrowthParams
from tumorjax.prior import LogNormal, Normal, Prior, Reciprocal, SameAs, Uniform, UniformSteps

CASES = {
    "normal": (Normal(-3.0, 2.5), stats.norm(-3, 2.5), (-40, 40)),
    "log-normal": (LogNormal(7.0, 0.6), stats.lognorm(0.6, scale=7), (1e-3, 400)),
    "uniform": (Uniform(0.05, 0.5), stats.uniform(0.05, 0.45), (0.05, 0.5)),
    # The textbook's density of 1 / x, x log-normal: log-normal of the reciprocal median.
    "reciprocal": (Reciprocal(LogNormal(0.25, 0.6)), stats.lognorm(0.6, scale=4), (1e-3, 400)),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return request.param


def density(distribution):
    return jax.jit(lambda x: jnp.exp(jax.vmap(distribution.log_prob)(x)))


def test_density_is_that_of_the_textbook(case):
    distribution, textbook, _ = case
    values = textbook.ppf(np.linspace(0.001, 0.999, 41))
    np.testing.assert_allclose(density(distribution)(values), textbook.pdf(values), rtol=1e-10)


def test_density_integrates_to_one(case):
    distribution, _, (low, high) = case
    inner = np.linspace(low, high, 100_001)[1:-1]
    middles = (inner[1:] + inner[:-1]) / 2
    total = np.sum(density(distribution)(middles) * np.diff(inner))
    assert total == pytest.approx(1, abs=1e-3 if high == 0.5 else 1e-6)


def test_transport_carries_quantiles_to_quantiles(case):
    distribution, textbook, _ = case
    z = np.linspace(-4, 4, 33)
    values = jax.jit(distribution.transport)(z)
    np.testing.assert_allclose(values, textbook.ppf(stats.norm.cdf(z)), rtol=1e-10)
    np.testing.assert_allclose(jax.jit(distribution.coordinates)(values), z, atol=1e-9)
    assert np.all(np.diff(values) > 0)


def test_steps_are_drawn_alike_and_have_a_probability():
    steps = UniformSteps(50.0, 250.0, 50.0)
    drawn = np.asarray(jax.vmap(steps.transport)(jax.random.normal(jax.random.key(0), (20_000,))))
    values, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(values, [50, 100, 150, 200, 250])
    np.testing.assert_allclose(counts / len(drawn), 0.2, atol=0.01)
    for value in values:
        assert float(steps.transport(steps.coordinates(value))) == value
        assert float(steps.log_prob(value)) == pytest.approx(-np.log(5))
    assert all(float(steps.log_prob(value)) == -np.inf for value in (75.0, 0.0, 300.0))
    assert np.isfinite(steps.transport(jnp.array(20.0)))
    with pytest.raises(ValueError, match="no whole number of steps of 60"):
        UniformSteps(50.0, 1000.0, 60.0)


def test_a_width_is_uniform_where_its_reciprocal_says_so():
    sharpness = Reciprocal(Uniform(0.05, 0.08))
    z = jnp.asarray(np.random.default_rng(0).normal(size=2000))
    widths = 1 / np.asarray(sharpness.transport(z))
    assert stats.kstest(widths, stats.uniform(0.05, 0.03).cdf).pvalue > 1e-3
    # p(s) = p(sigma) |d sigma / d s| = 1 / (0.03 s^2).
    values = np.linspace(12.6, 19.9, 20)
    np.testing.assert_allclose(density(sharpness)(values), 1 / (0.03 * values**2), rtol=1e-9)
    np.testing.assert_allclose(sharpness.coordinates(sharpness.transport(z[:100])), z[:100], atol=1e-8)


def test_density_follows_the_change_of_variables(case):
    distribution, textbook, _ = case
    # The probability between two quantiles, by quadrature in the coordinates.
    probability, _ = integrate.quad(stats.norm.pdf, -1.3, 0.4)
    low, high = np.asarray(distribution.transport(jnp.asarray([-1.3, 0.4])))
    assert textbook.cdf(high) - textbook.cdf(low) == pytest.approx(probability, rel=1e-12)


def test_independent_components_add_up():
    distribution = Normal(jnp.asarray([1.0, 2.0, 3.0]), 0.5)
    assert distribution.shape == (3,)
    expected = stats.norm([1, 2, 3], 0.5).logpdf([1.1, 2.4, 2.0]).sum()
    assert float(distribution.log_prob(jnp.asarray([1.1, 2.4, 2.0]))) == pytest.approx(expected, rel=1e-12)


@pytest.fixture(scope="module")
def prior():
    return Prior(
        {
            "growth": ScaledGrowthParams(LogNormal(7.0, 0.7), 3.5, Normal(np.array([1.0, -2.0, 3.0]), 4.0), 0.5),
            "threshold": Uniform(0.5, 0.85),
        }
    )


def test_a_tree_has_names_and_a_size(prior):
    assert prior.size == 5
    assert prior.names == [
        "growth.mu1",
        "growth.origin[0]",
        "growth.origin[1]",
        "growth.origin[2]",
        "threshold",
    ]
    # In the trees of the package, whose nodes are attributes, a name is a path.
    attributes = ScaledGrowthParams(LogNormal(7.0, 0.7), Uniform(1.0, 2.0), Normal(np.zeros(3), 4.0))
    assert Prior(attributes).names == ["mu1", "mu2", "origin[0]", "origin[1]", "origin[2]"]


def test_constrain_and_unconstrain_are_inverse(prior):
    z = jnp.asarray(np.random.default_rng(0).normal(size=5))
    params = prior.constrain(z)
    assert float(params["growth"].mu2) == 3.5
    assert float(params["growth"].speed) == 0.5
    np.testing.assert_allclose(prior.unconstrain(params), z, atol=1e-12)
    np.testing.assert_allclose(params["growth"].mu1, 7 * np.exp(0.7 * z[0]))


def test_log_prob_of_a_tree_is_that_of_its_unknowns(prior):
    z = jnp.asarray([0.3, -0.5, 1.0, 0.2, -1.1])
    params = prior.constrain(z)
    origin = stats.norm([1, -2, 3], 4).logpdf(params["growth"].origin).sum()
    expected = stats.lognorm(0.7, scale=7).logpdf(params["growth"].mu1) + origin - np.log(0.35)
    assert float(prior.log_prob(params)) == pytest.approx(expected, rel=1e-12)


def test_samples_follow_the_prior(prior):
    params = jax.jit(jax.vmap(prior.sample))(jax.random.split(jax.random.key(0), 4000))
    for values, textbook in (
        (params["growth"].mu1, stats.lognorm(0.7, scale=7)),
        (params["growth"].origin[:, 1], stats.norm(-2, 4)),
        (params["threshold"], stats.uniform(0.5, 0.35)),
    ):
        assert stats.kstest(np.asarray(values), textbook.cdf).pvalue > 1e-3
    np.testing.assert_array_equal(params["growth"].mu2, 3.5)


@pytest.fixture(scope="module")
def tied():
    distributions = {
        "first": (Uniform(0.6, 0.8), Reciprocal(Uniform(0.05, 0.08))),
        "origin": Normal(np.zeros(3), 4.0),
        "second": (Uniform(0.05, 0.6), SameAs("first[1]")),
        "third": SameAs("origin"),
    }
    return Prior(distributions)


def test_one_coordinate_may_have_two_places(tied):
    assert tied.size == len(tied.names) == 6
    assert tied.names[:2] == ["first[0]", "first[1]"]
    z = jnp.asarray([0.3, -0.5, 1.0, 0.2, -1.1, 0.7])
    params = jax.jit(lambda z: tied.constrain(z))(z)
    assert float(params["first"][1]) == float(params["second"][1])
    np.testing.assert_array_equal(params["origin"], params["third"])
    np.testing.assert_allclose(tied.unconstrain(params), z, atol=1e-12)
    # It is counted once.
    free = Prior({**tied.distributions, "second": (Uniform(0.05, 0.6), 12.0), "third": np.zeros(3)})
    assert float(tied.log_prob(params)) == pytest.approx(float(free.log_prob(params)), rel=1e-12)
    drawn = jax.vmap(tied.sample)(jax.random.split(jax.random.key(1), 50))
    np.testing.assert_array_equal(drawn["first"][1], drawn["second"][1])
    assert np.ptp(np.asarray(drawn["second"][1])) > 1
    # A derivative with respect to the coordinate sees both places.
    both = jax.grad(lambda z: tied.constrain(z)["first"][1] + tied.constrain(z)["second"][1])(z)
    one = jax.grad(lambda z: tied.constrain(z)["first"][1])(z)
    np.testing.assert_allclose(both, 2 * one)


def test_one_program_has_the_coordinates_of_all_numbers():
    traced = []

    class Counting(Normal):
        def coordinates(self, value):
            traced.append(value)
            return super().coordinates(value)

    prior = Prior({"x": Counting(1.0, 2.0)})
    assert [float(prior.unconstrain({"x": value})[0]) for value in (2.0, 5.0)] == [0.5, 2.0]
    assert len(traced) == 1


def test_unknown_values_have_names(tied):
    draws = jax.vmap(tied.sample)(jax.random.split(jax.random.key(1), 5))
    unknown = tied.unknown(draws)
    assert list(unknown) == ["first[0]", "first[1]", "origin", "second[0]"]
    np.testing.assert_array_equal(unknown["origin"], draws["origin"])
    assert unknown["origin"].shape == (5, 3)


def test_same_as_what_is_not_unknown_is_refused():
    with pytest.raises(ValueError, match=r"^b is the same as c, which is none of the unknown: \['a'\]"):
        Prior({"a": Uniform(0.0, 1.0), "b": SameAs("c"), "c": 3.0})


def test_float32_stays_float32(prior):
    params = prior.constrain(jnp.zeros(5, jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert prior.unconstrain(params).dtype == jnp.float32


@pytest.mark.parametrize(
    ("make", "message"),
    (
        (lambda: Normal(0.0, 0.0), "scale must be finite and positive, got 0"),
        (lambda: LogNormal(-1.0, 0.5), "median must be finite and positive, got -1"),
        (lambda: LogNormal(1.0, -0.5), r"spread must be finite and positive, got -0\.5"),
        (lambda: Uniform(0.5, 0.5), "high - low must be finite and positive, got 0"),
        (lambda: Reciprocal(Normal(1.0, 0.5)), r"reciprocal of values that may be -3 does not exist"),
        (lambda: Reciprocal(Uniform(-0.1, 0.5)), r"reciprocal of values that may be -0\.1 does not exist"),
    ),
)
def test_bad_distributions_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
