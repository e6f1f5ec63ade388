"""Images whose noise is Gaussian."""

from abc import abstractmethod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tumorjax.observation.observation import AbstractObservation

# Between these powers of two, squares and their reciprocals are far from the limits of single precision.
_ORDINARY = 20


class AbstractGaussian(AbstractObservation):
    """An image y ~ N(m, sigma^2) in each valid voxel: the field sets m, and the parameters' `noise` is sigma."""

    @abstractmethod
    def mean(self, field: Float[Array, "x y z"], params: Any) -> Float[Array, "x y z"]:
        """Return m."""

    @property
    def unit(self) -> Float[Array, ""]:
        """One; for images with extreme numbers a power of two near the largest, which causes no rounding."""
        image = jax.lax.stop_gradient(jnp.asarray(self.image))
        _, exponent = jnp.frexp(jnp.max(jnp.where(self.valid, jnp.abs(image), 0)))
        return jnp.ldexp(jnp.ones((), image.dtype), jnp.where(jnp.abs(exponent) > _ORDINARY, exponent, 0))

    def log_prob(self, field: Float[Array, "x y z"], params: Any) -> Float[Array, ""]:
        """Return the weighted Gaussian log-likelihood, nat."""
        mean, noise, unit = self._in_unit(field, params)
        away = jnp.where(self.valid, self.image.astype(field.dtype) / unit - mean, 0)
        each = -0.5 * (away / noise) ** 2 - jnp.log(params.noise) - 0.5 * np.log(2 * np.pi).astype(field.dtype)
        return self.weight.astype(field.dtype) * jnp.sum(jnp.where(self.valid, each, 0))

    def expected(self, field: Float[Array, "x y z"], params: Any) -> list[tuple[Array, Array]]:
        """Return m with precision 1 / sigma^2, both in the `unit`, and log sigma with precision 2 for every voxel."""
        mean, noise, _ = self._in_unit(field, params)
        weight = self.weight.astype(field.dtype)
        counted = 2 * weight * jnp.sum(self.valid).astype(field.dtype)
        precision = jnp.where(self.valid, weight / noise**2, 0)
        return [(mean, precision), (jnp.log(params.noise), counted)]

    def predicted(self, field: Float[Array, "x y z"], params: Any) -> Float[Array, "x y z"] | None:
        """Return m, on any grid."""
        return self.mean(field, params)

    def _in_unit(self, field: Float[Array, "x y z"], params: Any) -> tuple[Array, Array, Array]:
        """Return mean and noise in the unit, and the unit."""
        unit = self.unit.astype(field.dtype)
        return self.mean(field, params) / unit, params.noise / unit, unit
