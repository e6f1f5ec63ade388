"""Images whose noise is Gaussian."""

from abc import abstractmethod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from tumorjax.observation.observation import AbstractObservation


class AbstractGaussian(AbstractObservation):
    """An image y ~ N(m, sigma^2) in each valid voxel: the field sets m, and the parameters' `noise` is sigma."""

    @abstractmethod
    def mean(self, field: Float[Array, "x y z"], params: Any) -> Float[Array, "x y z"]:
        """Return m."""

    @property
    def size(self) -> Float[Array, ""]:
        """Number of valid voxels."""
        return jnp.sum(self.valid).astype(self.image.dtype)

    def log_prob(self, field: Float[Array, "x y z"], params: Any) -> Float[Array, ""]:
        """Return the weighted Gaussian log-likelihood, nat."""
        away = jnp.where(self.valid, self.image.astype(field.dtype) - self.mean(field, params), 0)
        each = -0.5 * (away / params.noise) ** 2 - jnp.log(params.noise) - 0.5 * np.log(2 * np.pi).astype(field.dtype)
        return self.weight.astype(field.dtype) * jnp.sum(jnp.where(self.valid, each, 0))

    def expected(self, field: Float[Array, "x y z"], params: Any) -> list[tuple[Array, Array]]:
        """Return m with precision 1 / sigma^2, and log sigma with precision 2 for every voxel."""
        weight = self.weight.astype(field.dtype)
        counted = 2 * weight * jnp.sum(self.valid).astype(field.dtype)
        precision = jnp.where(self.valid, weight / params.noise**2, 0)
        return [(self.mean(field, params), precision), (jnp.log(params.noise), counted)]

    def drawn(self, mean: Float[Array, "x y z"], params: Any, quantile: Float[Array, "x y z"]) -> Float[Array, "x y z"]:
        """Return m plus sigma times the noise."""
        return mean + params.noise * ndtri(quantile)
