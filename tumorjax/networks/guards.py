"""The range of a network's training data, and the distance of an input from it."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class OutsideTraining(UserWarning):
    """A network is used outside the range of its training data."""


@dataclass(frozen=True)
class TrainingBox:
    """Intervals of the inputs and outputs in a network's training data.

    Parameters
    ----------
    sides
        Name (with its unit), lower end and upper end of each interval.
    """

    sides: tuple[tuple[str, float, float], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sides", tuple((str(name), float(low), float(high)) for name, low, high in self.sides))
        if wrong := [name for name, low, high in self.sides if not low < high]:
            raise ValueError(f"the lower end of an interval must be below its upper end, check {', '.join(wrong)}")

    @classmethod
    def of(cls, box: "TrainingBox | Mapping[str, Any]") -> "TrainingBox":
        """Return a box unchanged, or make it from the fields in a file."""
        return box if isinstance(box, TrainingBox) else cls(**box)

    def bounds(self, name: str) -> tuple[float, float]:
        """Return the lower and upper end of an interval."""
        return next((low, high) for side, low, high in self.sides if side == name)

    def distances(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the distance of each value outside its interval in widths of it; values inside and NaN are omitted."""
        found = {}
        for name, value in values.items():
            low, high = self.bounds(name)
            beyond = max(low - value, value - high) / (high - low)
            if beyond > 0:
                found[name] = beyond
        return found

    def warn(self, who: str, values: Mapping[str, float], *, tolerance: float = 0.0) -> dict[str, float]:
        """Warn of values that lie outside by more than `tolerance` widths, and return their distances.

        Warns
        -----
        OutsideTraining
            With each value, its interval and the distance.
        """
        found = {name: far for name, far in self.distances(values).items() if far > tolerance}
        if found:
            listed = []
            for name, far in found.items():
                low, high = self.bounds(name)
                listed.append(f"{name} = {values[name]:.3g}, {far:.2g} widths outside {low:.3g} to {high:.3g}")
            warnings.warn(f"{who} was not trained for {'; '.join(listed)}", OutsideTraining, stacklevel=3)
        return found
