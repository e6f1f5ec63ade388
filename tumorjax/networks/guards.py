"""What a network was trained on, and how far from that an input is."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class OutsideTraining(UserWarning):
    """A network was asked for what it has not learnt."""


@dataclass(frozen=True)
class TrainingBox:
    """Intervals of the inputs and outputs that a network has seen.

    Parameters
    ----------
    sides
        Name, with its unit, lower end and upper end of each.
    """

    sides: tuple[tuple[str, float, float], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sides", tuple((str(name), float(low), float(high)) for name, low, high in self.sides))
        if wrong := [name for name, low, high in self.sides if not low < high]:
            raise ValueError(f"an interval has a lower and an upper end, not so that of {', '.join(wrong)}")

    @classmethod
    def of(cls, box: "TrainingBox | Mapping[str, Any]") -> "TrainingBox":
        """Return a box itself, or that of the fields that a file keeps."""
        return box if isinstance(box, TrainingBox) else cls(**box)

    def bounds(self, name: str) -> tuple[float, float]:
        """Return the ends of a side."""
        return next((low, high) for side, low, high in self.sides if side == name)

    def distances(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return by how many widths of its interval each value lies outside: those inside, and NaN, are left out."""
        found = {}
        for name, value in values.items():
            low, high = self.bounds(name)
            beyond = max(low - value, value - high) / (high - low)
            if beyond > 0:
                found[name] = beyond
        return found

    def warn(self, who: str, values: Mapping[str, float], *, tolerance: float = 0.0) -> dict[str, float]:
        """Warn of values that lie outside by more than `tolerance` widths; return the distances of those.

        Warns
        -----
        OutsideTraining
            With each value, its interval and the distance.
        """
        found = {name: far for name, far in self.distances(values).items() if far > tolerance}
        if found:
            told = []
            for name, far in found.items():
                low, high = self.bounds(name)
                told.append(f"{name} = {values[name]:.3g}, {far:.2g} widths outside {low:.3g} to {high:.3g}")
            warnings.warn(f"{who} was not trained for {'; '.join(told)}", OutsideTraining, stacklevel=3)
        return found
