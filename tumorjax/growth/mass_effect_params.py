"""The parameters of growth that displaces the tissue."""

import dataclasses
import math
from typing import Any

import jax
from jaxtyping import Array, Bool, Float

from tumorjax.checks import check_not_negative, check_positive
from tumorjax.growth.origins import Origin
from tumorjax.growth.parameters import (
    AbstractGrowthParams,
    GrowthParams,
    ScaledGrowthParams,
    batch_of,
    repeated,
    typical,
)
from tumorjax.quantity import Quantity

PUBLISHED_SIDE = 256 * 0.9
"""mm: side of the box of the multi-atlas paper."""
PUBLISHED_DURATION = 365.0
"""day: the time that stands for its unit of time."""
_PUBLISHED_FORCE = 1e5


class MassEffectParams(AbstractGrowthParams):
    """Parameters of growth that displaces the tissue.

    Parameters
    ----------
    growth
        Parameters of the growth itself.
    mass_effect
        gamma, Pa: the force on the tissue is -gamma tanh(c) grad c, or -gamma grad c; see `MassEffect`.

    Raises
    ------
    ValueError
        If a concrete gamma is negative or not finite, or the growth is of another type.
    """

    growth: GrowthParams | ScaledGrowthParams
    mass_effect: Float[Any, ""]

    @classmethod
    def from_published(
        cls,
        gamma: Float[Any, ""],
        rho: Float[Any, ""],
        kappa: Float[Any, ""],
        origin: Origin,
        *,
        side: float = PUBLISHED_SIDE,
        duration: Float[Any, ""] = PUBLISHED_DURATION,
    ) -> "MassEffectParams":
        """Return the parameters that the multi-atlas paper prints without units, in units.

        Its solver maps a box to [0, 2 pi]^3 and the growth to the time from zero to one, so that
        D T = kappa (L / 2 pi)^2 and rho T = rho; its unit of the force is 1e5 Pa. `as_published` is the inverse.

        Parameters
        ----------
        gamma, rho, kappa
            As printed, dimensionless: gamma of 0 to 1.2, rho of about 10, kappa of about 0.03.
        origin
            Where the tumour began; see `GrowthParams`.
        side
            L, mm: 256 voxels of 0.9 mm.
        duration
            T, day. It has no effect on the tumour.

        Raises
        ------
        ValueError
            If the side is not positive, or a concrete number is negative.

        References
        ----------
        Subramanian et al., "Multiatlas calibration of biophysical brain tumor growth models with mass effect",
        MICCAI 2020, equation 1 and table 1. The units are those of the settings of its public solver.
        """
        check_positive("side", side)
        check_positive("duration", duration)
        diffusivity = kappa * (side / (2 * math.pi)) ** 2 / duration
        return cls(GrowthParams(diffusivity, rho / duration, origin, duration), gamma * _PUBLISHED_FORCE)

    def as_published(self, side: float = PUBLISHED_SIDE) -> tuple[Any, Any, Any]:
        """Return gamma, rho and kappa as the multi-atlas paper prints them; see `from_published`."""
        check_positive("side", side)
        diffusion, division = self.totals()
        return self.mass_effect / _PUBLISHED_FORCE, division, diffusion / (side / (2 * math.pi)) ** 2

    def __post_init__(self) -> None:
        # Either may be a batch, for all of which the other is the same.
        first, gamma = next(iter(jax.tree.leaves(self.growth)), None), batch_of(self.mass_effect)
        growth = batch_of(first)
        if first is not None and growth and not gamma:
            self.mass_effect = repeated(self.mass_effect, growth, first.dtype)
        elif gamma and not growth:
            self.growth = jax.tree.map(lambda leaf: repeated(leaf, gamma, self.mass_effect.dtype), self.growth)

    def __check_init__(self) -> None:
        if not isinstance(self.growth, (GrowthParams, ScaledGrowthParams)):
            raise ValueError(f"growth must be GrowthParams or ScaledGrowthParams, got {type(self.growth).__name__}")
        check_not_negative("mass_effect", self.mass_effect)

    @property
    def origin(self) -> Origin:
        """Where the tumour began."""
        return self.growth.origin

    @property
    def duration(self) -> Float[Any, ""]:
        """T, day."""
        return self.growth.duration

    @property
    def valid(self) -> Bool[Array, ""]:
        """Whether no number is negative."""
        return self.growth.valid & (self.mass_effect >= 0)

    def with_origin(self, origin: Origin) -> "MassEffectParams":
        """Return the same parameters with another origin."""
        return dataclasses.replace(self, growth=self.growth.with_origin(origin))

    def lasting(self, duration: Float[Any, ""]) -> "MassEffectParams":
        """Return the same tumour after another time, day; the force per density stays."""
        return dataclasses.replace(self, growth=self.growth.lasting(duration))

    def at_speed(self, speed: Any) -> "MassEffectParams | None":
        """Return the same tumour at another speed; None where the growth has none of its own."""
        growth = self.growth.at_speed(speed)
        return None if growth is None else dataclasses.replace(self, growth=growth)

    def like(self, other: AbstractGrowthParams) -> "MassEffectParams":
        """Return another tumour in this form; without mass effect of its own it has a weak one."""
        force = other.mass_effect if isinstance(other, MassEffectParams) else self.mass_effect
        # A flow that is too fast at first could not be followed: one standard deviation below the middle it is weak.
        return MassEffectParams(self.growth.like(other), typical(force, -1.0))

    def physical(self) -> GrowthParams:
        """Return the physical parameters of the growth."""
        return self.growth.physical()

    def scaled(self) -> ScaledGrowthParams:
        """Return the identifiable parameters of the growth."""
        return self.growth.scaled()

    def totals(self) -> tuple[Float[Any, ""], Float[Any, ""]]:
        """Return D_w T, mm^2, and rho T."""
        return self.growth.totals()

    def quantities(self, foci: Any = ()) -> list[Quantity]:
        """Return the force in words, and then what `growth` has; see `origin_quantities` for `foci`."""
        meaning = "how strongly the tumour pushes: force γ tanh(c) ∇c, or γ ∇c if linear"
        force = Quantity("mass_effect", "γ", "Pa", meaning, lambda params: params.mass_effect, "mass_effect")
        return [force, *(q.within("growth", lambda params: params.growth) for q in self.growth.quantities(foci))]
