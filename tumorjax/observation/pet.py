"""Positron emission tomography: a signal proportional to the density, with Gaussian noise."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from tumorjax.anatomy import Anatomy
from tumorjax.checks import as_image, as_mask, as_number, check_numbers, check_positive, concrete
from tumorjax.grid import Grid
from tumorjax.observation.correlation import placed_by_length
from tumorjax.observation.gaussian import AbstractGaussian
from tumorjax.observation.observation import AbstractObservation
from tumorjax.observation.uptake import upper_uptake
from tumorjax.prior import LogNormal
from tumorjax.quantity import Quantity


class PetParams(eqx.Module):
    """Parameters of a PET image.

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

    def quantities(self, name: str) -> list[Quantity]:
        """Return scale and noise in words."""
        scale, noise = (
            "PET signal of tissue full of tumour cells",
            "standard deviation of the PET signal about the model",
        )
        return [
            Quantity(f"{name}_scale", "b", "image unit", scale, lambda params: params.scale, "scale"),
            Quantity(f"{name}_noise", "σ", "image unit", noise, lambda params: params.noise, "noise"),
        ]


class Pet(AbstractGaussian):
    """An amino-acid PET image (FET, say): y ~ N(y_0 + b c, sigma^2) in each voxel.

    Parameters
    ----------
    signal
        y, (x, y, z), image units.
    valid
        (x, y, z), bool: where the tracer was measured, and in tissue.
    effective_voxels
        How many independent voxels the measured region is worth. It is about all valid voxels, unlike that of an
        outline, which is about its inside. By default it follows from `length` where the image is `placed` on its
        grid, as in a `Problem`: the volume of the valid voxels divided by (2 pi)^(3/2) l^3, at least one.
    background
        y_0, image units: the signal of healthy tissue. It is zero in the images of the papers, and far from zero in an
        image as it was reconstructed (`healthy_uptake` estimates it).
    length
        l, mm: length over which the errors of the signal are correlated, as exp(-d^2 / (2 l^2)). The default is that
        over which growth in tissue that stays in place misses the surfaces of real tumours, see `SurfaceErrors`. Where
        the model is right, the noise of the scanner remains, with 0.6 times its resolution.

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

    title: ClassVar[str] = "PET"

    signal: Float[Any, "x y z"] = eqx.field(converter=as_image)
    valid: Bool[Any, "x y z"] = eqx.field(converter=as_mask)
    effective_voxels: float | None = None
    background: Float[Any, ""] = eqx.field(default=0.0, converter=lambda value: as_number("background", value))
    length: float = 11.0

    def __check_init__(self) -> None:
        if self.signal.shape != self.valid.shape:
            raise ValueError(f"the PET signal has shape {self.signal.shape}, its valid voxels {self.valid.shape}")
        check_positive("length", self.length)
        known = concrete(self.background)
        if known is not None and not np.isfinite(known).all():
            raise ValueError(f"the PET signal of healthy tissue must be a number, got {self.background}")
        if not any(isinstance(image, Tracer) for image in (self.signal, self.valid)):
            measured = np.asarray(self.signal)[np.asarray(self.valid)]
            if measured.size == 0 or not np.all(np.isfinite(measured)) or np.ptp(measured) == 0:
                raise ValueError(
                    f"the PET signal must be finite and vary over its {measured.size} valid voxels; "
                    "give the image of this patient, or leave it out"
                )

    def placed(self, grid: Grid) -> "Pet":
        """Return the image with the number of independent voxels that follows from `length`, unless it has one."""
        return placed_by_length(self, grid)

    def mean(self, field: Float[Array, "x y z"], params: PetParams) -> Float[Array, "x y z"]:
        """Return y_0 + b c."""
        return params.scale * field + jnp.asarray(self.background, field.dtype)

    def log_probs_of(self, field: Float[Array, "x y z"]) -> Callable[[PetParams], Float[Array, "m"]]:
        """Return the function from many scales and noises to log-likelihoods, nat, by least squares of the scale."""
        unit, weight = self.unit.astype(field.dtype), self.weight.astype(field.dtype)
        c = jnp.where(self.valid, field, 0)
        y = jnp.where(self.valid, (self.signal.astype(c.dtype) - jnp.asarray(self.background, c.dtype)) / unit, 0)
        size = jnp.sum(c**2)
        best = jnp.sum(c * y) / jnp.where(size > 0, size, 1)
        least, count = jnp.sum((y - best * c) ** 2), jnp.sum(self.valid).astype(c.dtype)

        def log_probs(params: PetParams) -> Float[Array, "m"]:
            squares = least + size * (params.scale / unit - best) ** 2
            each = jnp.log(params.noise) + 0.5 * np.log(2 * np.pi).astype(c.dtype)
            return weight * (-0.5 * squares / (params.noise / unit) ** 2 - count * each)

        return log_probs

    def default_prior(self, name: str, anatomy: Anatomy, observations: Mapping[str, AbstractObservation]) -> PetParams:
        """Return the default prior: log-normal about the upper signal in the lesion; its quarter for the noise."""
        top = np.asarray(upper_uptake(self, observations, anatomy.grid))
        return PetParams(LogNormal(top, 0.5), LogNormal(top / 4, 0.7))
