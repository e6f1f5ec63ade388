"""The parameters of reaction-diffusion growth, in physical and in identifiable form."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from tumorjax.checks import as_array, check_not_negative, check_positive
from tumorjax.growth.origins import Origin, check_origin, crop_origin

# The mean velocity of growth that the literature fixes where only one scan is given.
PUBLISHED_SPEED = 200 / 365.25
"""mm/day; 200 mm/year."""


class GrowthParams(eqx.Module):
    """Physical parameters of Fisher-Kolmogorov growth.

    Parameters
    ----------
    diffusivity
        D_w, mm^2/day: in pure white matter.
    proliferation
        rho, 1/day.
    origin
        Where the tumour began: (3,), mm, RAS world; or (n, 3), so many seeds, or `Foci` of unequal ones; or the
        state at time zero as a `GaussianBasis` or an `InitialDensity`.
    duration
        T, day: from the seed to the scan.

    Raises
    ------
    ValueError
        If a concrete value is negative or not finite, or the origin is not three coordinates a seed.
    """

    diffusivity: Float[Any, ""]
    proliferation: Float[Any, ""]
    origin: Origin = eqx.field(converter=as_array)
    duration: Float[Any, ""]

    def __check_init__(self) -> None:
        for name in ("diffusivity", "proliferation", "duration"):
            check_not_negative(name, getattr(self, name))
        check_origin(self.origin)

    @property
    def valid(self) -> Bool[Array, ""]:
        """Whether no rate is negative; where values are concrete, the constructor has checked that."""
        return _none_negative(self.diffusivity, self.proliferation, self.duration)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> "GrowthParams":
        """Return the same parameters for the box of `shape` voxels that begins at `start`."""
        return dataclasses.replace(self, origin=crop_origin(self.origin, start, shape))

    def physical(self) -> "GrowthParams":
        """Return the parameters themselves."""
        return self

    def totals(self) -> tuple[Float[Any, ""], Float[Any, ""]]:
        """Return D_w T, mm^2, and rho T: what the density at the end depends on."""
        return self.diffusivity * self.duration, self.proliferation * self.duration

    def scaled(self) -> "ScaledGrowthParams":
        """Return the same tumour by its identifiable parameters; D_w, rho and T must be positive."""
        for name in ("diffusivity", "proliferation", "duration"):
            check_positive(name, getattr(self, name))
        mu1, mu2 = jnp.sqrt(self.diffusivity * self.duration), jnp.sqrt(self.proliferation * self.duration)
        return ScaledGrowthParams(mu1, mu2, self.origin, 2 * jnp.sqrt(self.diffusivity * self.proliferation))


class ScaledGrowthParams(eqx.Module):
    """What one scan can tell of the growth: two numbers and the seed, at an assumed speed.

    The tumour of (D_w, rho, T) is that of (D_w s, rho s, T / s) for every s, so a single scan
    determines only mu1, mu2 and the origin; the speed of growth v has to come from elsewhere
    and changes nothing but the calendar.

    Parameters
    ----------
    mu1
        mu_1 = sqrt(D_w T), mm: how far cells spread by diffusion.
    mu2
        mu_2 = sqrt(rho T), dimensionless: how often they divided.
    origin
        Where the tumour began, as of `GrowthParams`.
    speed
        v = 2 sqrt(D_w rho), mm/day; by default the published 200 mm/year. One number for a batch of `mu1` is
        repeated, so that the batch has its leading axis throughout.

    Raises
    ------
    ValueError
        If a concrete value is negative or not finite, the speed is zero, or the origin is not three coordinates a seed.

    References
    ----------
    Ezhov et al., "Learn-Morph-Infer: a new way of solving the inverse problem for brain tumor
    modeling", Medical Image Analysis 2023, section 2.
    """

    mu1: Float[Any, ""]
    mu2: Float[Any, ""]
    origin: Origin = eqx.field(converter=as_array)
    speed: Float[Any, ""] = PUBLISHED_SPEED

    def __post_init__(self) -> None:
        size, arrays = np.shape(self.mu1) if hasattr(self.mu1, "dtype") else (), (float, int, np.ndarray, jax.Array)
        if size and isinstance(self.speed, arrays) and np.shape(self.speed) == ():
            self.speed = jnp.full(size, self.speed) if isinstance(self.speed, jax.Array) else np.full(size, self.speed)

    def __check_init__(self) -> None:
        for name in ("mu1", "mu2"):
            check_not_negative(name, getattr(self, name))
        check_positive("speed", self.speed)
        check_origin(self.origin)

    @property
    def duration(self) -> Float[Any, ""]:
        """T = 2 mu1 mu2 / v, day."""
        return 2 * self.mu1 * self.mu2 / self.speed

    @property
    def valid(self) -> Bool[Array, ""]:
        """Whether no number is negative; where values are concrete, the constructor has checked that."""
        return _none_negative(self.mu1, self.mu2) & (jnp.asarray(self.speed) > 0)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> "ScaledGrowthParams":
        """Return the same parameters for the box of `shape` voxels that begins at `start`."""
        return dataclasses.replace(self, origin=crop_origin(self.origin, start, shape))

    def totals(self) -> tuple[Float[Any, ""], Float[Any, ""]]:
        """Return D_w T = mu1^2, mm^2, and rho T = mu2^2, which are there also where D_w or rho would be infinite."""
        return self.mu1**2, self.mu2**2

    def physical(self) -> GrowthParams:
        """Return D_w = mu1 v / (2 mu2), rho = mu2 v / (2 mu1), T = 2 mu1 mu2 / v; mu1 and mu2 must be positive."""
        for name in ("mu1", "mu2"):
            check_positive(name, getattr(self, name))
        return GrowthParams(
            diffusivity=self.mu1 * self.speed / (2 * self.mu2),
            proliferation=self.mu2 * self.speed / (2 * self.mu1),
            origin=self.origin,
            duration=self.duration,
        )


def _none_negative(*values: Float[Any, ""]) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.asarray(value) for value in values]) >= 0)
