"""What every observation model offers to the methods of calibration."""

import dataclasses
from abc import abstractmethod
from typing import Any, ClassVar, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tumorjax.checks import check_box, check_numbers, concrete


class AbstractObservation(eqx.Module):
    """An image of one field, with a likelihood whose parameters are calibrated too.

    The field is the density of the cells, unless `shows` says that it is the fluid (CSF), which growth with mass
    effect displaces. `valid` are the voxels that the image has. Since their errors are correlated, all that it counts
    are worth `effective_voxels` independent ones: each counts for the share `weight` of one, at most for one. Infinity
    counts every voxel as independent; `independent_voxels` tells the number from a correlation length.

    Raises
    ------
    ValueError
        If the number of effective voxels is not positive.
    """

    shows: ClassVar[Literal["density", "csf"]] = "density"

    valid: eqx.AbstractVar[Any]
    effective_voxels: eqx.AbstractVar[float]

    def __check_init__(self) -> None:
        check_numbers("effective_voxels", self.effective_voxels)
        voxels = concrete(self.effective_voxels)
        # Infinity is one.
        if voxels is not None and not np.all(voxels > 0):
            raise ValueError(f"effective_voxels must be positive, got {self.effective_voxels}")

    @property
    @abstractmethod
    def image(self) -> Float[Any, "x y z"]:
        """Return what was seen; outside the valid voxels it may be anything."""

    @property
    @abstractmethod
    def size(self) -> Float[Array, ""]:
        """Number of voxels that are worth `effective_voxels` independent ones."""

    @property
    def unit(self) -> Float[Array, ""] | float:
        """In which images are predicted and drawn: one, unless numbers are so large or small that squares fail."""
        return 1.0

    @property
    def weight(self) -> Float[Array, ""]:
        """The share of an independent observation that a voxel counts for."""
        size = self.size
        return jnp.minimum(jnp.asarray(self.effective_voxels, size.dtype) / size, 1.0)

    @abstractmethod
    def log_prob(self, field: Float[Array, "x y z"], params: Any) -> Float[Array, ""]:
        """Return the log-likelihood of the image, nat."""

    @abstractmethod
    def expected(self, field: Float[Array, "x y z"], params: Any) -> list[tuple[Array, Array]]:
        """Return pairs of predictions m and precisions P, such that the Fisher information is sum of J_m^T P J_m.

        The first is that of the image itself, in its `unit`.
        """

    @abstractmethod
    def drawn(self, mean: Float[Array, "x y z"], params: Any, quantile: Float[Array, "x y z"]) -> Float[Array, "x y z"]:
        """Return an image such as the likelihood holds to be seen, in its `unit`.

        Parameters
        ----------
        mean
            The first prediction of `expected`.
        params
            As there.
        quantile
            Of the noise, uniform in (0, 1). Independent between voxels it draws from the likelihood in which each of
            them counts for one.
        """

    @abstractmethod
    def coarsen(self, factor: int) -> "AbstractObservation":
        """Return the observation on voxels `factor` times as long, by means over blocks."""

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> Self:
        """Return the observation in a box of voxels, each of which counts as much as before; needs concrete images."""
        box = check_box(start, shape, jnp.shape(self.valid))
        cropped = jax.tree.map(lambda leaf: leaf[box] if jnp.ndim(leaf) == 3 else leaf, self)
        kept = float(cropped.size) / float(self.size)
        return dataclasses.replace(cropped, effective_voxels=self.effective_voxels * kept)
