"""Volumes without images, such as a table of millilitres."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from tumorjax.anatomy import Anatomy
from tumorjax.checks import as_mask, as_number, check_positive
from tumorjax.observation.link import OddsLink
from tumorjax.observation.observation import AbstractObservation
from tumorjax.observation.outline import OutlineParams
from tumorjax.operators import block_mean
from tumorjax.prior import LogNormal, Uniform
from tumorjax.quantity import Quantity

# Steepness of the share of a voxel that counts, in the logarithm of the odds of its density.
_SHARPNESS = 8.0
# mm^3: a volume that vanishes has a logarithm.
_LEAST = 1e-6


class TumourVolumeParams(eqx.Module):
    """Parameters of a measured volume.

    Parameters
    ----------
    noise
        s: standard deviation of the volume's logarithm, about its relative error.
    threshold
        u, fraction of the carrying capacity: the density above which tissue counts. None for the law of a volume.
    """

    noise: Any
    threshold: Any = None

    def __check_init__(self) -> None:
        check_positive("noise", self.noise)
        if self.threshold is not None:
            check_positive("threshold", self.threshold)

    def quantities(self, name: str) -> list[Quantity]:
        """Return the numbers in words."""
        meaning = "standard deviation of the logarithm of the volume about the model"
        own = [Quantity(f"{name}_noise", "s", "", meaning, lambda params: params.noise, "noise")]
        return own if self.threshold is None else [*own, *OutlineParams(self.threshold, 1.0).quantities(name)]


class TumourVolume(AbstractObservation):
    """A volume that was measured, V ~ LogNormal(V_model, s), without the image from which it was read.

    `TumourVolume(volume)` is of the law of a volume, `TumourVolume.above(volume, anatomy)` of the tissue of an anatomy
    whose density is above a threshold.

    Parameters
    ----------
    volume
        V, mm^3: a millilitre is 1000.
    valid
        (x, y, z), bool: the voxels that count; a single True for the law of a volume.
    voxel
        mm^3: volume of a voxel; None as above.

    Raises
    ------
    ValueError
        If the volume is not positive.
    """

    title: ClassVar[str] = "volume"

    volume: Float[Any, ""] = eqx.field(converter=lambda value: as_number("volume", value))
    valid: Bool[Any, "x y z"] | Bool[Any, ""] = eqx.field(default_factory=lambda: np.ones((), bool), converter=as_mask)
    voxel: Float[Any, ""] | None = None
    effective_voxels: float = np.inf

    def __check_init__(self) -> None:
        check_positive("volume", self.volume)

    @classmethod
    def above(cls, volume: Float[Any, ""], anatomy: Anatomy) -> Self:
        """Return the observation of a volume in the tissue of an anatomy."""
        return cls(volume=volume, valid=anatomy.tissue, voxel=np.asarray(anatomy.grid.voxel_volume, anatomy.dtype))

    @property
    def shows(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The "volume" of a law, or the "density"."""
        return "volume" if self.voxel is None else "density"

    @property
    def image(self) -> Float[Array, ""]:
        """The logarithm of the volume."""
        return jnp.log(jnp.asarray(self.volume))

    @property
    def size(self) -> Float[Array, ""]:
        """One: a volume is a single number."""
        return jnp.ones((), self.image.dtype)

    def log_volume(self, field: Float[Array, "..."], params: TumourVolumeParams) -> Float[Array, ""]:
        """Return the logarithm of the volume that a density, or a law, has."""
        if self.voxel is None:
            return jnp.log(field + _LEAST)
        dtype = field.dtype
        threshold = jnp.asarray(0.0 if params.threshold is None else params.threshold, dtype)
        share = jnp.where(self.valid, OddsLink()(field, threshold, jnp.asarray(_SHARPNESS, dtype)), 0)
        return jnp.log(jnp.asarray(self.voxel, dtype) * jnp.sum(share) + _LEAST)

    def log_prob(self, field: Float[Array, "..."], params: TumourVolumeParams) -> Float[Array, ""]:
        """Return the log-likelihood of the logarithm of the volume, nat."""
        away = (self.image.astype(field.dtype) - self.log_volume(field, params)) / params.noise
        return -0.5 * away**2 - jnp.log(params.noise) - 0.5 * np.log(2 * np.pi).astype(field.dtype)

    def expected(self, field: Float[Array, "..."], params: TumourVolumeParams) -> list[tuple[Array, Array]]:
        """Return log V with precision 1 / s^2, and log s with precision two."""
        noise = jnp.asarray(params.noise, field.dtype)
        return [(self.log_volume(field, params), 1 / noise**2), (jnp.log(noise), jnp.asarray(2.0, field.dtype))]

    def predicted(self, field: Float[Array, "x y z"], params: TumourVolumeParams) -> None:
        """Return None: there is no image to show."""

    def default_prior(
        self, name: str, anatomy: Anatomy, observations: Mapping[str, AbstractObservation]
    ) -> TumourVolumeParams:
        """Return the default prior: the noise is log-normal about a tenth; the threshold as that of an outline."""
        noise = LogNormal(0.1, 0.5)
        if self.voxel is None:
            return TumourVolumeParams(noise)
        intervals = {"core": (0.5, 0.85), "lesion": (0.05, 0.5)}
        return TumourVolumeParams(noise, Uniform(*intervals.get(name, (0.05, 0.85))))

    def coarsen(self, factor: int) -> Self:
        """Return the same volume on voxels `factor` times as long; that of a law is the same."""
        if self.voxel is None:
            return self
        valid = block_mean(jnp.asarray(self.valid).astype(jnp.asarray(self.voxel).dtype), factor) > 0.5
        return dataclasses.replace(self, valid=valid, voxel=self.voxel * factor**3)
