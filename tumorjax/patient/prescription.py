"""A course of radiation whose dose map is to be planned, and what the map must keep to."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool

from tumorjax.grid import Grid
from tumorjax.io import InputError, Volume, check_worlds, resample
from tumorjax.patient.patient import Patient

_MOST_FRACTIONS = 1000
# Without another limit a voxel gets at most this times the uniform dose, as hot spots commonly may.
_HOTTEST = 1.2
# Share of a voxel that an organ fills from which on the voxel counts as the organ's: also a thin one is spared.
_TOUCHED = 1e-3


_OBJECTIVES = ("cells", "log-kill")


@dataclass(frozen=True, eq=False)
class Prescription:
    """Fractions of radiation that begin with one dose in the whole target volume, and limits of a better map.

    Parameters
    ----------
    fractions
        Number of fractions, one a day on five days a week.
    dose
        Gy a fraction: of the uniform plan in the target volume, whose integral dose the planned map has.
    start
        Day of the first fraction, on the clock of the visits; None for the day of the last visit.
    maximum
        Gy of the whole course: highest dose of a voxel; None for 1.2 times the uniform dose.
    spare
        By the name of an organ its mask, on any voxels in the patient's world, and its highest dose, Gy of the whole
        course.
    objective
        What is minimised: "cells", the expected number of surviving cells, or "log-kill", the expected
        logarithm of it. None for the latter where one visit leaves the speed of growth unknown, and the former
        elsewhere.

    Raises
    ------
    InputError
        If a number is none of a course, the maximum is below the uniform dose, or a mask is empty or no mask.
    """

    fractions: int
    dose: float
    start: float | None = None
    maximum: float | None = None
    spare: Mapping[str, tuple[Volume, float]] = field(default_factory=dict)
    objective: Literal["cells", "log-kill"] | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.fractions, int) and 1 <= self.fractions <= _MOST_FRACTIONS):
            raise InputError(
                f"plan-dose: got {self.fractions} fractions; give a whole number from 1 to {_MOST_FRACTIONS}"
            )
        if not (math.isfinite(self.dose) and self.dose > 0):
            raise InputError(f"plan-dose: got {self.dose:g} Gy a fraction; give a dose above zero")
        if self.objective not in (*_OBJECTIVES, None):
            raise InputError(f"plan-objective: got {self.objective!r}; give {' or '.join(_OBJECTIVES)}")
        if self.start is not None and not math.isfinite(self.start):
            raise InputError(f"plan-start: got day {self.start:g}; give a finite number")
        # A limit that is exactly the uniform dose may differ from it by rounding.
        if self.maximum is not None and not self.maximum >= self.total * (1 - 1e-9):
            raise InputError(
                f"maximum-dose: got {self.maximum:g} Gy, less than the {self.total:g} Gy of the course in the target "
                "volume; give at least these, or fewer fractions"
            )
        if self.maximum is not None and not math.isfinite(self.maximum):
            raise InputError("maximum-dose: got an infinite dose; give Gy of the whole course, or leave it out")
        for name, (mask, limit) in self.spare.items():
            if not (math.isfinite(limit) and limit >= 0):
                raise InputError(f"spare {name}: got {limit:g} Gy; give the highest dose of the course, zero or more")
            if not np.any(mask.data):
                mask.fail("is empty; give a mask that is 1 in the organ and 0 elsewhere")
            if np.min(mask.data) < 0 or np.max(mask.data) > 1:
                low, high = np.min(mask.data), np.max(mask.data)
                mask.fail(
                    f"has values from {low:g} to {high:g}; give a mask that is 1 in the organ and 0 elsewhere, one for "
                    "each organ"
                )

    @property
    def total(self) -> float:
        """Gy of the whole course of the uniform plan."""
        return self.fractions * self.dose

    @property
    def highest(self) -> float:
        """Gy of the whole course: highest dose of a voxel."""
        return _HOTTEST * self.total if self.maximum is None else self.maximum

    def check_start(self, last: float) -> None:
        """Raise an InputError where the course begins before the last visit, day."""
        if self.start is not None and self.start < last:
            raise InputError(
                f"plan-start: got day {self.start:g}, but the last visit is on day {last:g}; give that day or "
                "a later one, on the clock of the visits"
            )

    def check(self, patient: Patient) -> None:
        """Raise an InputError where the course begins before the last visit, or an organ is not in the patient."""
        self.check_start(patient.day)
        check_worlds({"segmentation": patient.reference, **{mask.name: mask for mask, _ in self.spare.values()}})
        shown = dict(self._on(patient.reference.grid))
        for name, (mask, _) in self.spare.items():
            if not shown[name].any():
                mask.fail("shows nothing in the patient's image; give a mask in the same world space")

    def spared_on(self, grid: Grid) -> dict[str, tuple[Bool[np.ndarray, "x y z"], float]]:
        """Return for each organ the voxels of a grid that it touches, and its highest dose, Gy of the whole course."""
        return {name: (inside, self.spare[name][1]) for name, inside in self._on(grid)}

    def _on(self, grid: Grid) -> Iterator[tuple[str, Bool[np.ndarray, "x y z"]]]:
        for name, (mask, _) in self.spare.items():
            yield name, resample(np.asarray(mask.data, np.float32), mask.affine, grid, kind="mean") > _TOUCHED
