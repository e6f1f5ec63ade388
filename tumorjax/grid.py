"""The voxel grid on which every field of the package lives."""

import math
import operator
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tumorjax.checks import as_array, check_numbers, check_positive, concrete

# Columns of an affine may deviate this much (cosine) from orthogonality, because headers are rounded.
# `to_index` inverts by the transpose; with this bound it errs by at most a quarter of a voxel at 256 voxels.
_MAX_SHEAR = 1e-3


def _shape(sizes: Any) -> tuple[int, int, int]:
    try:
        # A wrong number of sizes is refused by the grid itself, with its other checks.
        return tuple(operator.index(n) for n in sizes)  # pyright: ignore[reportReturnType]
    except TypeError:
        raise ValueError(f"the shape of a grid is three whole numbers, got {sizes!r}") from None


class Grid(eqx.Module):
    """A regular grid of voxels, placed in the world by an affine.

    Parameters
    ----------
    shape
        Number of voxels along each axis; static, so a new shape is compiled again.
    affine
        (4, 4), mm. Maps voxel indices (of centres) to RAS world coordinates, as in NIfTI.
        Axes may be flipped or oblique, but not sheared.

    Raises
    ------
    ValueError
        If the shape is not three positive integers, or the affine is not (4, 4), not finite,
        singular or sheared. Values are only checked where they are concrete.
    """

    shape: tuple[int, int, int] = eqx.field(static=True, converter=_shape)
    affine: Float[Any, "4 4"] = eqx.field(converter=as_array)

    def __check_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"a grid has three positive dimensions, got shape {self.shape}")
        check_numbers("an affine", self.affine)
        affine = concrete(self.affine)
        if affine is None:
            return
        # A batch of grids has leading axes.
        if affine.shape[-2:] != (4, 4) or not np.all(np.isfinite(affine)):
            raise ValueError(f"an affine is a finite (4, 4) matrix, got {affine.tolist()}")
        for each in affine.reshape(-1, 4, 4):
            self._check_axes(each[:3, :3])

    def _check_axes(self, axes: np.ndarray) -> None:
        lengths = np.linalg.norm(axes, axis=0)
        if lengths.min() <= 0 or abs(np.linalg.det(axes / lengths)) < 0.5:
            raise ValueError(f"the affine is not invertible: {axes.tolist()}; correct the header")
        cosines = (axes / lengths).T @ (axes / lengths) - np.eye(3)
        if np.abs(cosines).max() > _MAX_SHEAR:
            raise ValueError(
                f"the affine is sheared (largest cosine between axes {np.abs(cosines).max():.3f}); "
                "resample the image to orthogonal axes"
            )

    @classmethod
    def from_spacing(cls, shape: tuple[int, int, int], spacing: float | tuple[float, float, float]) -> "Grid":
        """Return the axis-aligned grid of this shape and spacing (mm) whose centre is the world's origin."""
        check_positive("spacing", as_array(spacing))
        if np.shape(spacing) not in ((), (1,), (3,)):
            raise ValueError(f"spacing is one number or three (mm), got {spacing}")
        h = np.broadcast_to(np.asarray(spacing, float), (3,))
        affine = np.diag([*h, 1.0])
        affine[:3, 3] = -h * (np.asarray(_shape(shape)) - 1) / 2
        return cls(shape, affine)

    @property
    def spacing(self) -> Float[Any, "3"]:
        """Distance between voxel centres along each axis, mm."""
        axes = self.affine[:3, :3]
        return np.linalg.norm(axes, axis=0) if isinstance(axes, np.ndarray) else jnp.linalg.norm(axes, axis=0)

    @property
    def voxel_volume(self) -> Float[Any, ""]:
        """Volume of a voxel, mm^3."""
        return self.spacing.prod()

    def to_world(self, index: Float[Any, "... 3"]) -> Float[Any, "... 3"]:
        """Map (fractional) voxel indices to world coordinates in mm."""
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, world: Float[Any, "... 3"]) -> Float[Any, "... 3"]:
        """Map world coordinates in mm to fractional voxel indices."""
        # The axes are orthogonal, so the inverse is the transpose over the squared lengths.
        return (world - self.affine[:3, 3]) @ self.affine[:3, :3] / self.spacing**2

    def in_double(self) -> "Grid":
        """Return the grid with its affine as a NumPy array in double precision, for work on the host."""
        return Grid(self.shape, np.asarray(self.affine, float))

    def crop(self, start: tuple[int, ...], shape: tuple[int, ...]) -> "Grid":
        """Return the grid of `shape` voxels whose first voxel is `start` of this one; it may reach beyond this one."""
        if len(start) != 3 or len(shape) != 3:
            raise ValueError(f"a box has a first voxel and a shape of three numbers each, got {start} and {shape}")
        affine = np.array(self.affine) if isinstance(self.affine, np.ndarray) else jnp.array(self.affine)
        corner = self.to_world(np.asarray(start, float))
        if isinstance(affine, np.ndarray):
            affine[:3, 3] = corner
        else:
            affine = affine.at[:3, 3].set(corner)
        return Grid((shape[0], shape[1], shape[2]), affine)

    def with_spacing(self, spacing: float) -> "Grid":
        """Return the grid over the same box of space whose voxels are cubes of edge `spacing` mm.

        The box is rounded outwards to whole voxels and keeps its first corner. So where the new
        spacing is a multiple of the old one, each new voxel is a whole block of old voxels.
        """
        check_positive("spacing", spacing)
        old = np.asarray(self.spacing)
        # The tolerance keeps a header's rounding from adding a layer of voxels.
        shape = [max(1, math.ceil(n * h / spacing - 1e-3)) for n, h in zip(self.shape, old, strict=True)]
        affine = np.array(self.affine, float)
        affine[:3, :3] *= spacing / old
        affine[:3, 3] = self.to_world((spacing / old - 1) / 2)
        return Grid((shape[0], shape[1], shape[2]), affine)


def tissue_box(mask: np.ndarray, margin: int = 0) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the first voxel and the shape of the bounding box of a boolean mask, widened by a margin of voxels.

    Raises
    ------
    ValueError
        If the mask is empty.
    """
    if not mask.any():
        raise ValueError("the mask is empty, so it has no bounding box")
    start, shape = [], []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        low = max(0, int(inside[0]) - margin)
        start.append(low)
        shape.append(min(mask.shape[axis], int(inside[-1]) + 1 + margin) - low)
    return (start[0], start[1], start[2]), (shape[0], shape[1], shape[2])
