"""What every observation model offers to the methods of calibration."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import equinox as eqx
from jaxtyping import Array, Float


class AbstractObservation(eqx.Module):
    """An image of one field, with a likelihood whose parameters are calibrated too; `valid` are the voxels it has.

    The field is the density of the cells, unless `shows` says that it is the fluid (CSF), which growth with mass
    effect displaces.
    """

    shows: ClassVar[Literal["density", "csf"]] = "density"

    valid: eqx.AbstractVar[Any]

    @abstractmethod
    def log_prob(self, field: Float[Array, "x y z"], params: Any) -> Float[Array, ""]:
        """Return the log-likelihood of the image, nat."""

    @abstractmethod
    def expected(self, field: Float[Array, "x y z"], params: Any) -> list[tuple[Array, Array]]:
        """Return pairs of predictions m and precisions P, such that the Fisher information is sum of J_m^T P J_m."""

    @abstractmethod
    def coarsen(self, factor: int) -> "AbstractObservation":
        """Return the observation on voxels `factor` times as long, by means over blocks."""
