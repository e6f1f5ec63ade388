"""Mean, standard deviation and exceedance probabilities of a field over draws of which no more is kept than sums."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float


class Mean:
    """Weighted mean over draws of a field, or of a mask: the probability of each voxel to lie in it."""

    def __init__(self) -> None:
        self.weight, self._sum = 0.0, np.zeros(())

    def add(self, field: Float[np.ndarray, "..."] | Bool[np.ndarray, "..."], weight: float = 1.0) -> None:
        """Add the field of a draw."""
        self.weight += weight
        self._sum = self._sum + weight * field

    @property
    def value(self) -> Float[np.ndarray, "..."]:
        """The mean over the draws."""
        return self._sum / self.weight


class Moments:
    """Weighted means over draws of a field, of its square, and of whether it is above thresholds.

    Parameters
    ----------
    thresholds
        Values above which probabilities are wanted.
    """

    def __init__(self, thresholds: Sequence[float] = ()) -> None:
        self._first, self._square = Mean(), Mean()
        self._above = {float(threshold): Mean() for threshold in thresholds}

    def add(self, field: Float[np.ndarray, "..."], weight: float = 1.0) -> None:
        """Add the field of a draw."""
        field = np.asarray(field, float)
        self._first.add(field, weight)
        self._square.add(field**2, weight)
        for threshold, above in self._above.items():
            above.add(field > threshold, weight)

    @property
    def weight(self) -> float:
        """The sum of the weights so far."""
        return self._first.weight

    @property
    def mean(self) -> Float[np.ndarray, "..."]:
        """The mean over the draws."""
        return self._first.value

    @property
    def deviation(self) -> Float[np.ndarray, "..."]:
        """The standard deviation over the draws, of each number by itself."""
        return np.sqrt(np.maximum(self._square.value - self.mean**2, 0))

    @property
    def probabilities(self) -> dict[float, Float[np.ndarray, "..."]]:
        """The share of the draws whose field is above each threshold."""
        return {threshold: np.minimum(above.value, 1) for threshold, above in self._above.items()}
