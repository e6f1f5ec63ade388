"""The posterior of growth with the unknowns of images integrated out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from tests.problems import TRUTH, patient
from tumorjax.methods.sampling.marginal import MarginalTarget
from tumorjax.prior import Prior

pytestmark = pytest.mark.usefixtures("compiled_plainly")


def worth(problem, voxels):
    observations = {
        name: dataclasses.replace(each, effective_voxels=voxels) for name, each in problem.observations.items()
    }
    return dataclasses.replace(problem, observations=observations)


@pytest.fixture(scope="module")
def problem():
    return patient(pet=(2.0, 0.3))


def brute_force(problem, params, name, nodes=401, reach=5.0):
    """Return log-weights of nodes (m, m) of an image's two coordinates, their axis, and the logarithm of the sum."""
    axis = np.linspace(-reach, reach, nodes)
    grid = jnp.asarray(np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2))
    own = Prior(problem.prior.distributions.observations[name])
    field = problem.predict(params).density
    image = problem.observations[name]
    values = np.asarray(jax.lax.map(lambda z: image.log_prob(field, own.constrain(z)), grid, batch_size=200))
    logs = values - 0.5 * np.sum(np.asarray(grid) ** 2, axis=1) - np.log(2 * np.pi) + 2 * np.log(axis[1] - axis[0])
    return logs.reshape(nodes, nodes), axis, float(logsumexp(logs))


@pytest.mark.parametrize("voxels", (30.0, 1e6))
def test_the_integral_is_that_of_the_likelihood(problem, voxels):
    """Broad posteriors that end at the bounds of thresholds, and narrow ones between the nodes of the first grid."""
    known = worth(problem, voxels)
    target = MarginalTarget(known)
    params = known.prior.constrain(jnp.zeros(known.prior.size))
    params = dataclasses.replace(params, growth=dataclasses.replace(params.growth, **vars(TRUTH)))
    z = known.prior.unconstrain(params)[jnp.asarray(target.kept)]
    assert known.prior.names[len(target.kept) :] == [
        f"observations.{name}"
        for name in (
            "core.threshold",
            "core.sharpness",
            "lesion.threshold",
            "lesion.sharpness",
            "pet.scale",
            "pet.noise",
        )
    ]
    reach, nodes = (5.0, 101) if voxels < 100 else (1.5, 1201)
    expected = sum(brute_force(known, params, name, nodes, reach)[2] for name in known.observations)
    assert float(target.log_likelihood(z)) == pytest.approx(expected, abs=0.02)
