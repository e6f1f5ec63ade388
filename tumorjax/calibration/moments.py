"""Mean, standard deviation and exceedance probabilities of a field over draws of which no more is kept than sums."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


class Moments:
    """Weighted sums over draws of a field, of its square, and of whether it is above thresholds.

    Parameters
    ----------
    thresholds
        Values above which probabilities are wanted.
    """

    def __init__(self, thresholds: Sequence[float] = ()) -> None:
        self.weight, self._sum, self._square = 0.0, np.zeros(()), np.zeros(())
        self._above = {float(threshold): np.zeros(()) for threshold in thresholds}

    def add(self, field: Float[np.ndarray, "..."], weight: float = 1.0) -> None:
        """Add the field of a draw."""
        field = np.asarray(field, float)
        self.weight += weight
        self._sum = self._sum + weight * field
        self._square = self._square + weight * field**2
        self._above = {threshold: total + weight * (field > threshold) for threshold, total in self._above.items()}

    @property
    def mean(self) -> Float[np.ndarray, "..."]:
        """The mean over the draws."""
        return self._sum / self.weight

    @property
    def deviation(self) -> Float[np.ndarray, "..."]:
        """The standard deviation over the draws, of each number by itself."""
        return np.sqrt(np.maximum(self._square / self.weight - self.mean**2, 0))

    @property
    def probabilities(self) -> dict[float, Float[np.ndarray, "..."]]:
        """The share of the draws whose field is above each threshold."""
        return {threshold: np.minimum(total / self.weight, 1) for threshold, total in self._above.items()}
