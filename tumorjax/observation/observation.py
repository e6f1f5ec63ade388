"""What every observation model offers to the methods of calibration."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float


class AbstractObservation(eqx.Module):
    """An image of the tumour, with a likelihood whose parameters are calibrated too; `valid` are the voxels it has."""

    valid: eqx.AbstractVar[Any]

    @abstractmethod
    def log_prob(self, density: Float[Array, "x y z"], params: Any) -> Float[Array, ""]:
        """Return the log-likelihood of the image, nat."""

    @abstractmethod
    def expected(self, density: Float[Array, "x y z"], params: Any) -> list[tuple[Array, Array]]:
        """Return pairs of predictions m and precisions P, such that the Fisher information is sum of J_m^T P J_m."""

    @abstractmethod
    def coarsen(self, factor: int) -> "AbstractObservation":
        """Return the observation on voxels `factor` times as long, by means over blocks."""
