"""Treatments: what surgery, radiation and drugs do to a density."""

from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tumorjax.checks import as_array, check_box, check_not_negative, check_numbers, check_positive, concrete


def _day(day: Any) -> float:
    try:
        return float(day)
    except (TypeError, ValueError):
        raise ValueError(f"a day of a treatment must be a known number, got {day!r}") from None


def _days(days: Any) -> tuple[float, ...]:
    if isinstance(days, str) or not isinstance(days, Iterable):
        raise ValueError(f"days of a treatment must be numbers in a row, one a fraction, got {days!r}")
    return tuple(_day(day) for day in days)


class Surgery(eqx.Module):
    """Resection: on one day everything in a cavity is taken out, and nothing grows there afterwards.

    Parameters
    ----------
    day
        day from the start of the simulation; static.
    cavity
        (x, y, z), in [0, 1]: the share of each voxel that is taken out. For the law of a volume one number, the share
        of the volume.

    Raises
    ------
    ValueError
        If the day is negative or not finite, or (where it is concrete) the cavity is no image or leaves [0, 1].
    """

    day: float = eqx.field(static=True, converter=_day)
    cavity: Float[Any, "x y z"] | Float[Any, ""] = eqx.field(converter=as_array)

    def __check_init__(self) -> None:
        _check_days("surgery", self.begins)
        check_numbers("cavity", self.cavity)
        cavity = concrete(self.cavity)
        if cavity is not None and cavity.ndim in (1, 2):
            raise ValueError(f"cavity must be an image (x, y, z), or a share of a volume, got shape {cavity.shape}")
        if cavity is not None and not np.all((cavity >= 0) & (cavity <= 1)):
            low, high = cavity.min(), cavity.max()
            raise ValueError(f"cavity must hold fractions in [0, 1] without NaN, got values from {low:g} to {high:g}")

    @property
    def begins(self) -> tuple[float, ...]:
        """The days on which something begins."""
        return (self.day,)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> "Surgery":
        """Return the same treatment for the box of `shape` voxels that begins at `start`."""
        if jnp.ndim(self.cavity) != 3:
            raise ValueError(f"in an anatomy a cavity must be an image (x, y, z), got shape {jnp.shape(self.cavity)}")
        return Surgery(self.day, _crop(self.cavity, start, shape))


class Radiotherapy(eqx.Module):
    """Fractions of radiation, after each of which a share exp(-alpha d - beta d^2) of the cells survives.

    Parameters
    ----------
    days
        day from the start of the simulation, one a fraction; static.
    dose
        d, Gy a fraction: a number, or a map (x, y, z).
    alpha
        1/Gy: linear radiosensitivity.
    ratio
        alpha / beta, Gy; by default the 10 of the reference.

    Raises
    ------
    ValueError
        If there is no day, a day is negative or not finite, or a concrete number is negative or not finite or
        the ratio zero.

    References
    ----------
    Rockne et al., "A mathematical model for brain tumor response to radiation therapy", J. Math. Biol. 58 (2009):
    the linear-quadratic model in reaction-diffusion, with alpha / beta = 10 Gy.
    """

    days: tuple[float, ...] = eqx.field(static=True, converter=_days)
    dose: Float[Any, "..."] = eqx.field(converter=as_array)
    alpha: Float[Any, ""]
    ratio: Float[Any, ""] = 10.0

    def __check_init__(self) -> None:
        _check_days("radiotherapy", self.begins)
        for name in ("dose", "alpha"):
            check_not_negative(name, getattr(self, name))
        check_positive("ratio", self.ratio)

    @property
    def begins(self) -> tuple[float, ...]:
        """The days on which something begins."""
        return self.days

    @classmethod
    def course(
        cls, start: float, fractions: int, dose: Float[Any, "..."], alpha: Float[Any, ""], ratio: Float[Any, ""] = 10.0
    ) -> "Radiotherapy":
        """Return a course of one fraction a day on five days a week, from the first day of a week on."""
        return cls(tuple(start + 7 * (i // 5) + i % 5 for i in range(fractions)), dose, alpha, ratio)

    def survival(self, fractions: Float[Array, ""]) -> Float[Array, "..."]:
        """Return the share of the cells that survive so many fractions at once, where the dose is given."""
        effect = self.alpha * self.dose * (1 + self.dose / self.ratio)
        return jnp.exp(-fractions * effect)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> "Radiotherapy":
        """Return the same treatment for the box of `shape` voxels that begins at `start`."""
        if jnp.ndim(self.dose) not in (0, 3):
            raise ValueError(f"dose must be a number or an image (x, y, z), got shape {jnp.shape(self.dose)}")
        dose = _crop(self.dose, start, shape) if jnp.ndim(self.dose) == 3 else self.dose
        return Radiotherapy(self.days, dose, self.alpha, self.ratio)


class Chemotherapy(eqx.Module):
    """A drug that kills cells at a rate k for some time: dc/dt = ... - k c (log-kill).

    Parameters
    ----------
    start, stop
        day from the start of the simulation; static.
    rate
        k, 1/day.

    Raises
    ------
    ValueError
        If a day is negative or not finite, the drug stops before it starts, or a concrete rate is negative or
        not finite.
    """

    start: float = eqx.field(static=True, converter=_day)
    stop: float = eqx.field(static=True, converter=_day)
    rate: Float[Any, ""]

    def __check_init__(self) -> None:
        _check_days("chemotherapy", (self.start, self.stop))
        if not self.start < self.stop:
            raise ValueError(f"chemotherapy must stop after it starts, got days {self.start:g} to {self.stop:g}")
        check_not_negative("rate", self.rate)

    @property
    def begins(self) -> tuple[float, ...]:
        """The days on which something begins; it may stop after the end of a simulation."""
        return (self.start,)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> "Chemotherapy":
        """Return the treatment itself, which has no place."""
        return self


Treatment = Surgery | Radiotherapy | Chemotherapy


def _check_days(name: str, days: tuple[float, ...]) -> None:
    if not days or not all(np.isfinite(day) and day >= 0 for day in days):
        raise ValueError(f"{name} needs days from 0 on, got {days}")


def _crop(field: Any, start: tuple[int, int, int], shape: tuple[int, int, int]) -> Any:
    return field[check_box(start, shape, field.shape)]
