"""The parameters of reaction-diffusion growth, in physical and in identifiable form."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

# The mean velocity of growth that the literature fixes where only one scan is given.
PUBLISHED_SPEED = 200 / 365.25
"""mm/day; 200 mm/year."""


class GrowthParams(eqx.Module):
    """Physical parameters of Fisher-Kolmogorov growth from one seed.

    Parameters
    ----------
    diffusivity
        D_w, mm^2/day: in pure white matter.
    proliferation
        rho, 1/day.
    origin
        (3,), mm, RAS world: where the tumour began.
    duration
        T, day: from the seed to the scan.

    Raises
    ------
    ValueError
        If a concrete value is negative or not finite, or the origin is not three numbers.
    """

    diffusivity: Float[Any, ""]
    proliferation: Float[Any, ""]
    origin: Float[Any, "3"]
    duration: Float[Any, ""]

    def __check_init__(self) -> None:
        for name in ("diffusivity", "proliferation", "duration"):
            _check_rate(name, getattr(self, name))
        _check_origin(self.origin)

    def physical(self) -> "GrowthParams":
        """Return the parameters themselves."""
        return self

    def scaled(self) -> "ScaledGrowthParams":
        """Return the same tumour by its identifiable parameters; D_w, rho and T must be positive."""
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
        (3,), mm, RAS world.
    speed
        v = 2 sqrt(D_w rho), mm/day; by default the published 200 mm/year.

    Raises
    ------
    ValueError
        If a concrete value is negative or not finite, or the origin is not three numbers.

    References
    ----------
    Ezhov et al., "Learn-Morph-Infer: a new way of solving the inverse problem for brain tumor
    modeling", Medical Image Analysis 2023, section 2.
    """

    mu1: Float[Any, ""]
    mu2: Float[Any, ""]
    origin: Float[Any, "3"]
    speed: Float[Any, ""] = PUBLISHED_SPEED

    def __check_init__(self) -> None:
        for name in ("mu1", "mu2", "speed"):
            _check_rate(name, getattr(self, name))
        _check_origin(self.origin)

    def physical(self) -> GrowthParams:
        """Return D_w = mu1 v / (2 mu2), rho = mu2 v / (2 mu1), T = 2 mu1 mu2 / v; mu1 and mu2 must be positive."""
        return GrowthParams(
            diffusivity=self.mu1 * self.speed / (2 * self.mu2),
            proliferation=self.mu2 * self.speed / (2 * self.mu1),
            origin=self.origin,
            duration=2 * self.mu1 * self.mu2 / self.speed,
        )


def _concrete(value: Any) -> np.ndarray | None:
    """Return the numbers of a concrete value; None for tracers and the placeholders of tree operations."""
    if isinstance(value, Tracer) or not isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)):
        return None
    return np.asarray(value)


def _check_rate(name: str, value: Any) -> None:
    number = _concrete(value)
    if number is not None and not np.all((number >= 0) & np.isfinite(number)):
        raise ValueError(f"{name} must be finite and not negative, got {number}")


def _check_origin(origin: Any) -> None:
    point = _concrete(origin)
    if point is not None and (point.shape[-1:] != (3,) or not np.all(np.isfinite(point))):
        raise ValueError(f"origin must be three finite world coordinates in mm, got {point}")
