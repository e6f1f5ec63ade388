"""Positron emission tomography: a signal proportional to the density, with Gaussian noise."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from tumorjax.observation.observation import AbstractObservation
from tumorjax.operators import block_mean


class PetParams(eqx.Module):
    """What is unknown of a PET image.

    Parameters
    ----------
    scale
        b, image units: the signal of tissue at carrying capacity.
    noise
        sigma, image units: standard deviation of the signal about b c, noise and misfit together.
    """

    scale: Any
    noise: Any


class Pet(AbstractObservation):
    """An amino-acid PET image (FET, say): y ~ N(b c, sigma^2) in each voxel.

    Parameters
    ----------
    signal
        y, (x, y, z), image units.
    valid
        (x, y, z), bool: where the tracer was measured, and in tissue.
    effective_voxels
        How many independent voxels the measured region is worth: its volume over that of the scanner's
        resolution, say; see `Outline`.

    Raises
    ------
    ValueError
        If shapes differ, or the signal is not finite, all zero, or constant in the valid voxels.

    References
    ----------
    Ezhov et al., "Geometry-aware neural solver for fast Bayesian calibration of brain tumor models",
    IEEE Trans. Med. Imaging 2022, equation 6.
    """

    signal: Float[Any, "x y z"]
    valid: Bool[Any, "x y z"]
    effective_voxels: float = 60.0

    def __check_init__(self) -> None:
        if self.signal.shape != self.valid.shape:
            raise ValueError(f"the PET signal has shape {self.signal.shape}, its valid voxels {self.valid.shape}")
        if not any(isinstance(image, Tracer) for image in (self.signal, self.valid)):
            measured = np.asarray(self.signal)[np.asarray(self.valid)]
            if measured.size == 0 or not np.all(np.isfinite(measured)) or np.ptp(measured) == 0:
                raise ValueError(
                    f"the PET signal must be finite and vary over its {measured.size} valid voxels; "
                    "give the image of this patient, or leave it out"
                )

    @property
    def weight(self) -> Float[Array, ""]:
        """The share of an independent observation that a voxel counts for."""
        size = jnp.sum(self.valid).astype(self.signal.dtype)
        return jnp.minimum(jnp.asarray(self.effective_voxels, size.dtype) / size, 1.0)

    def log_prob(self, field: Float[Array, "x y z"], params: PetParams) -> Float[Array, ""]:
        """Return the weighted Gaussian log-likelihood, nat."""
        misfit = (self.signal.astype(field.dtype) - params.scale * field) / params.noise
        each = -0.5 * misfit**2 - jnp.log(params.noise) - 0.5 * np.log(2 * np.pi).astype(field.dtype)
        return self.weight.astype(field.dtype) * jnp.sum(jnp.where(self.valid, each, 0))

    def expected(self, field: Float[Array, "x y z"], params: PetParams) -> list[tuple[Array, Array]]:
        """Return b c with precision 1 / sigma^2, and log sigma with precision 2 for every voxel."""
        weight = self.weight.astype(field.dtype)
        log_noise = jnp.log(params.noise)
        counted = 2 * weight * jnp.sum(self.valid).astype(field.dtype)
        return [(params.scale * field, jnp.where(self.valid, weight / params.noise**2, 0)), (log_noise, counted)]

    def coarsen(self, factor: int) -> "Pet":
        """Return the image on voxels `factor` times as long: the mean over the valid voxels of each block."""
        share = block_mean(self.valid.astype(self.signal.dtype), factor)
        signal = block_mean(self.signal * self.valid.astype(self.signal.dtype), factor)
        signal = jnp.where(share > 0, signal / jnp.where(share > 0, share, 1), 0)
        return eqx.tree_at(lambda o: (o.signal, o.valid), self, (signal, share > 0.5))
