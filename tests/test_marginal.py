"""The posterior of growth with the unknowns of images integrated out."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from tests.problems import TRUTH, patient
from tumorjax.calibration import published_observations, published_prior
from tumorjax.methods.sampling.marginal import MarginalTarget
from tumorjax.methods.sampling.target import complete
from tumorjax.observation import PetParams
from tumorjax.prior import LogNormal, Prior

pytestmark = pytest.mark.usefixtures("compiled_plainly")
IMAGES = ("core", "lesion", "pet")


def worth(problem, voxels):
    images = {name: dataclasses.replace(each, effective_voxels=voxels) for name, each in problem.observations.items()}
    return dataclasses.replace(problem, observations=images)


@pytest.fixture(scope="module")
def problem():
    return worth(patient(pet=(2.0, 0.3)), 60.0)


@eqx.filter_jit
def _value(target, z):
    return target.log_likelihood(z)


@eqx.filter_jit
def _slope(target, z):
    return jax.grad(target.log_likelihood)(z)


def at_truth(problem):
    """Return parameters whose growth is the true one."""
    params = problem.prior.constrain(jnp.zeros(problem.prior.size))
    return dataclasses.replace(params, growth=dataclasses.replace(params.growth, **vars(TRUTH)))


def quantities(problem, params, name, middle, reach, count=41):
    """Return nodes (m, 2) of an image's coordinates, and the logarithm of each node's share of the integral."""
    axes = [np.linspace(x - r, x + r, count) for x, r in zip(middle, reach, strict=True)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    own, image = Prior(problem.prior.distributions.observations[name]), problem.observations[name]
    field = problem.predict(params).density
    values = np.asarray(jax.lax.map(lambda z: image.log_prob(field, own.constrain(z)), jnp.asarray(nodes)))
    cell = np.log([axis[1] - axis[0] for axis in axes]).sum()
    return nodes, values - 0.5 * np.sum(nodes**2, axis=1) - np.log(2 * np.pi) + cell


@pytest.mark.parametrize("voxels", (20.0, 1e6))
@pytest.mark.parametrize("name", IMAGES)
def test_the_integral_is_that_of_the_likelihood(problem, name, voxels):
    """A broad posterior, which ends at the bounds of its threshold, and one between the nodes of the first grid."""
    known = worth(problem, voxels)
    target, params = MarginalTarget(known), at_truth(known)
    block = next(each for each in target._blocks() if each.name == name)
    found = target._quadrature(block, known.predict(params))
    # The posterior is found independently, on the whole prior and then on a part of it.
    middle, reach = np.zeros(2), np.full(2, 4.0)
    for _ in range(5):
        nodes, logs = quantities(known, params, name, middle, reach)
        weights = np.exp(logs - logsumexp(logs))
        middle = weights @ nodes
        reach = np.minimum(8 * np.sqrt(weights @ (nodes - middle) ** 2) + reach / 20, reach)
    expected = float(logsumexp(logs))
    # The likelihood of 6000 voxels is a thousand nat.
    assert float(found.log_integral) == pytest.approx(expected, abs=0.02 if voxels < 100 else 0.2)
    drawn = np.asarray(jax.vmap(found.drawn)(jax.random.split(jax.random.key(0), 2000)))
    deviation = np.sqrt(weights @ (nodes - middle) ** 2)
    np.testing.assert_allclose((drawn.mean(axis=0) - middle) / deviation, 0, atol=0.1)
    np.testing.assert_allclose(drawn.std(axis=0) / deviation, 1, atol=0.1)


@pytest.mark.parametrize(
    "scale, noise",
    (
        (LogNormal(2.25, 0.5), LogNormal(0.03, 0.25)),
        (LogNormal(1.0, 0.08), LogNormal(0.3, 0.7)),
        (LogNormal(30.0, 0.3), LogNormal(0.3, 0.7)),
    ),
)
def test_the_integral_finds_a_posterior_far_out_in_the_prior(problem, scale, noise):
    """Of the PET image, whose scale is 2 and whose noise is 0.3: nine standard deviations away, and more."""
    known = worth(problem, 1e6)
    images = {**known.prior.distributions.observations, "pet": PetParams(scale, noise)}
    known = dataclasses.replace(known, prior=Prior(dataclasses.replace(known.prior.distributions, observations=images)))
    target, params = MarginalTarget(known), at_truth(known)
    block = next(each for each in target._blocks() if each.name == "pet")
    found = target._quadrature(block, known.predict(params))
    middle = np.log([2.0 / scale.median, 0.3 / noise.median]) / (scale.spread, noise.spread)
    assert np.abs(middle).max() > 8
    for reach in (2.0, 0.5):
        nodes, logs = quantities(known, params, "pet", middle, np.full(2, reach))
        middle = nodes[np.argmax(logs)]
    assert float(found.log_integral) == pytest.approx(float(logsumexp(logs)), abs=0.1)


def test_it_is_a_smooth_function_of_growth(problem):
    target = MarginalTarget(problem)
    z = problem.prior.unconstrain(at_truth(problem))[np.array(target.kept)] + 0.1
    slope = _slope(target, z)
    for axis in range(2):
        step = 1e-3 * jnp.eye(len(z))[axis]
        assert float(_value(target, z + step) - _value(target, z - step)) / 2e-3 == pytest.approx(
            float(slope[axis]), rel=0.02, abs=0.1
        )


def test_completed_draws_have_the_coordinates_that_were_kept(problem):
    target = MarginalTarget(problem)
    names = problem.prior.names
    assert [names[i] for i in target.kept] == ["growth.mu1", "growth.mu2", *(f"growth.origin[{i}]" for i in range(3))]
    z = np.asarray(problem.prior.unconstrain(at_truth(problem)), float)
    points = np.stack([z, z + 0.1])[:, target.kept]
    drawn, values, integrated = complete(target, points, jax.random.key(0))
    np.testing.assert_allclose(integrated, [float(_value(target, jnp.asarray(z))) for z in points], rtol=1e-6)
    np.testing.assert_allclose(drawn[:, target.kept], points, rtol=1e-6)
    assert len(np.unique(drawn[:, 5:])) == drawn[:, 5:].size
    for row, value in zip(drawn, values, strict=True):
        params = problem.prior.constrain(jnp.asarray(row))
        assert value == pytest.approx(float(problem.log_likelihood(problem.predict(params), params)), rel=1e-6)


def test_what_is_shared_between_images_is_not_integrated_out(problem):
    """In the published model both outlines have one sharpness."""
    images = published_observations(problem.observations, effective_voxels=60.0)
    prior = published_prior(problem.anatomy, images)
    target = MarginalTarget(dataclasses.replace(problem, observations=images, prior=prior))
    left = {prior.names[i] for i in range(prior.size)} - {prior.names[i] for i in target.kept}
    assert left == {"observations.pet.scale", "observations.pet.noise"}
    assert np.isfinite(float(target.log_likelihood(jnp.zeros(target.size))))


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_a_failed_solve_has_no_likelihood(dtype):
    """As programs are compiled by default, a largest value overlooks what is not a number."""
    target = MarginalTarget(patient(dtype=dtype))
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        # Traced, since values that are known are refused.
        lowered = jax.jit(lambda z: target.log_likelihood(z)).lower(jnp.full(target.size, jnp.nan, dtype))
        options = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
        value = lowered.compile(compiler_options=options)(jnp.full(target.size, jnp.nan, dtype))
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
    assert np.isnan(float(value))
