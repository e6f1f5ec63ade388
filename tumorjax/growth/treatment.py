"""Treatments: what surgery, radiation and drugs do to a density."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tumorjax.checks import as_array, check_box, check_not_negative, check_numbers, check_positive, concrete
from tumorjax.operators import block_mean
from tumorjax.quantity import Quantity

# Symbol, unit and meaning of the numbers that can be calibrated.
_CALIBRATED = {
    "alpha": ("α", "1/Gy", "linear radiosensitivity"),
    "ratio": ("α/β", "Gy", "dose at which linear and quadratic killing are equal"),
    "rate": ("k", "1/day", "rate at which the drug kills cells"),
    "remainder": ("r", "", "share of the cavity that surgery left in"),
}


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
    remainder
        In [0, 1]: the share of the cavity that is left in after all, tissue and cells, where the label of a cavity is
        known and what remained in it is not.

    Raises
    ------
    ValueError
        If the day is negative or not finite, or (where they are concrete) the cavity is no image, or cavity or
        remainder leave [0, 1].
    """

    calibrated: ClassVar[tuple[str, ...]] = ("remainder",)

    day: float = eqx.field(static=True, converter=_day)
    cavity: Float[Any, "x y z"] | Float[Any, ""] = eqx.field(converter=as_array)
    remainder: Float[Any, ""] = 0.0

    def __check_init__(self) -> None:
        _check_days("surgery", self.begins)
        check_numbers("cavity", self.cavity)
        check_numbers("remainder", self.remainder)
        left = concrete(self.remainder)
        if left is not None and not np.all((left >= 0) & (left <= 1)):
            raise ValueError(f"remainder must be a share in [0, 1], got {self.remainder}")
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

    @property
    def taken(self) -> Float[Array, "x y z"] | Float[Array, ""]:
        """The share of each voxel, or of the volume, that is taken out."""
        cavity = jnp.asarray(self.cavity)
        return cavity * (1 - jnp.asarray(self.remainder, cavity.dtype))

    @property
    def when(self) -> tuple[float, ...]:
        """The day of the surgery."""
        return (self.day,)

    def on(self, days: Sequence[float]) -> "Surgery":
        """Return the same treatment on other days, as of `when`."""
        return dataclasses.replace(self, day=days[0])

    def delayed(self, by: float) -> "Surgery":
        """Return the same treatment so many days later."""
        return dataclasses.replace(self, day=self.day + by)

    def undated(self) -> "Surgery":
        """Return the same treatment without its day, for programs that take days from a calendar."""
        return dataclasses.replace(self, day=0.0)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> "Surgery":
        """Return the same treatment for the box of `shape` voxels that begins at `start`."""
        if jnp.ndim(self.cavity) != 3:
            raise ValueError(f"in an anatomy a cavity must be an image (x, y, z), got shape {jnp.shape(self.cavity)}")
        return dataclasses.replace(self, cavity=_crop(self.cavity, start, shape))

    def coarsen(self, factor: int) -> "Surgery":
        """Return the same treatment on voxels `factor` times as long."""
        return dataclasses.replace(self, cavity=_coarse(self.cavity, factor))


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

    calibrated: ClassVar[tuple[str, ...]] = ("alpha", "ratio")

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

    @property
    def when(self) -> tuple[float, ...]:
        """The days of the fractions."""
        return self.days

    def on(self, days: Sequence[float]) -> "Radiotherapy":
        """Return the same treatment on other days, as of `when`."""
        return dataclasses.replace(self, days=tuple(days))

    def delayed(self, by: float) -> "Radiotherapy":
        """Return the same treatment so many days later."""
        return dataclasses.replace(self, days=tuple(day + by for day in self.days))

    def undated(self) -> "Radiotherapy":
        """Return the same treatment without its days, for programs that take days from a calendar."""
        return dataclasses.replace(self, days=(0.0,))

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

    def coarsen(self, factor: int) -> "Radiotherapy":
        """Return the same treatment on voxels `factor` times as long."""
        return dataclasses.replace(self, dose=_coarse(self.dose, factor))


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

    calibrated: ClassVar[tuple[str, ...]] = ("rate",)

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

    @property
    def when(self) -> tuple[float, ...]:
        """The days on which the drug starts and stops."""
        return (self.start, self.stop)

    def on(self, days: Sequence[float]) -> "Chemotherapy":
        """Return the same treatment on other days, as of `when`."""
        return dataclasses.replace(self, start=days[0], stop=days[1])

    def delayed(self, by: float) -> "Chemotherapy":
        """Return the same treatment so many days later."""
        return dataclasses.replace(self, start=self.start + by, stop=self.stop + by)

    def undated(self) -> "Chemotherapy":
        """Return the same treatment without its days, for programs that take days from a calendar."""
        return dataclasses.replace(self, start=0.0, stop=1.0)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> "Chemotherapy":
        """Return the treatment itself, which has no place."""
        return self

    def coarsen(self, factor: int) -> "Chemotherapy":
        """Return the treatment itself, which has no place."""
        return self


Treatment = Surgery | Radiotherapy | Chemotherapy


def _check_days(name: str, days: tuple[float, ...]) -> None:
    if not days or not all(np.isfinite(day) and day >= 0 for day in days):
        raise ValueError(f"{name} needs days from 0 on, got {days}")


def quantity_of_treatment(name: str, field: str) -> Quantity:
    """Return in words what can be calibrated of a treatment of this name, from its unknown numbers by their fields."""
    symbol, unit, meaning = _CALIBRATED[field]
    return Quantity(f"{name}_{field}", symbol, unit, f"{meaning} ({name})", lambda numbers: numbers[field], field)


def _coarse(field: Any, factor: int) -> Any:
    return block_mean(jnp.asarray(field), factor) if jnp.ndim(field) == 3 else field


def _crop(field: Any, start: tuple[int, int, int], shape: tuple[int, int, int]) -> Any:
    return field[check_box(start, shape, field.shape)]
