"""Positron emission tomography: a signal proportional to the density, with Gaussian noise."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from tumorjax.checks import as_image, as_mask, check_numbers, check_positive
from tumorjax.observation.gaussian import AbstractGaussian
from tumorjax.operators import block_mean


class PetParams(eqx.Module):
    """What is unknown of a PET image.

    Parameters
    ----------
    scale
        b, image units: the signal of tissue at carrying capacity, above that of healthy tissue.
    noise
        sigma, image units: standard deviation of the signal about the model, noise and misfit together.
    """

    scale: Any
    noise: Any

    def __check_init__(self) -> None:
        check_numbers("scale", self.scale)
        check_positive("noise", self.noise)


class Pet(AbstractGaussian):
    """An amino-acid PET image (FET, say): y ~ N(y_0 + b c, sigma^2) in each voxel.

    Parameters
    ----------
    signal
        y, (x, y, z), image units.
    valid
        (x, y, z), bool: where the tracer was measured, and in tissue.
    effective_voxels
        How many independent voxels the measured region is worth: all valid ones, not those of the tumour alone, as of
        an outline. `independent_voxels` derives it from the length over which errors are correlated, 0.6 times the
        scanner's resolution.
    background
        y_0, image units: the signal of healthy tissue. The papers' images have none; that of an image as it was
        reconstructed is far from zero (`tumorjax.calibration.healthy_uptake` infers it).

    Raises
    ------
    ValueError
        If shapes differ, the signal is not finite, all zero, or constant in the valid voxels, or the background is not
        finite.

    References
    ----------
    Ezhov et al., "Geometry-aware neural solver for fast Bayesian calibration of brain tumor models",
    IEEE Trans. Med. Imaging 2022, equation 7.
    """

    signal: Float[Any, "x y z"] = eqx.field(converter=as_image)
    valid: Bool[Any, "x y z"] = eqx.field(converter=as_mask)
    effective_voxels: float = 60.0
    background: float = 0.0

    def __check_init__(self) -> None:
        if self.signal.shape != self.valid.shape:
            raise ValueError(f"the PET signal has shape {self.signal.shape}, its valid voxels {self.valid.shape}")
        if isinstance(self.background, (int, float)) and not np.isfinite(self.background):
            raise ValueError(f"the PET signal of healthy tissue must be a number, got {self.background}")
        if not any(isinstance(image, Tracer) for image in (self.signal, self.valid)):
            measured = np.asarray(self.signal)[np.asarray(self.valid)]
            if measured.size == 0 or not np.all(np.isfinite(measured)) or np.ptp(measured) == 0:
                raise ValueError(
                    f"the PET signal must be finite and vary over its {measured.size} valid voxels; "
                    "give the image of this patient, or leave it out"
                )

    @property
    def image(self) -> Float[Any, "x y z"]:
        """The signal."""
        return self.signal

    def mean(self, field: Float[Array, "x y z"], params: PetParams) -> Float[Array, "x y z"]:
        """Return y_0 + b c."""
        return params.scale * field + jnp.asarray(self.background, field.dtype)

    def coarsen(self, factor: int) -> "Pet":
        """Return the image on voxels `factor` times as long: the mean over the valid voxels of each block."""
        share = block_mean(self.valid.astype(self.signal.dtype), factor)
        signal = block_mean(jnp.where(self.valid, self.signal, 0), factor)
        signal = jnp.where(share > 0, signal / jnp.where(share > 0, share, 1), 0)
        return eqx.tree_at(lambda o: (o.signal, o.valid), self, (signal, share > 0.5))
