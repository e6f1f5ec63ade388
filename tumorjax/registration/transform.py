"""Transforms between the world coordinates of two images: affine maps and diffeomorphisms."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from tumorjax.grid import Grid

# Displacements are rounded to this many decimals of a millimetre, so that a text file can store them exactly.
_DECIMALS = 4
# A matrix counts as singular if its determinant is below this share of the cube of its norm.
_SINGULAR = 1e-6
# Voxels of zero displacement around the field of a composition.
_MARGIN = 2


@dataclass(frozen=True, eq=False)
class Field:
    """A displacement field with its inverse, x -> x + forward(x) and x -> x + backward(x).

    Both are given on a lattice, interpolated linearly between its points, and zero outside it.

    Parameters
    ----------
    affine
        (4, 4), mm. Maps lattice indices to RAS world coordinates. It may be sheared, since composing with a
        sheared affine map shears the lattice.
    forward, backward
        (x, y, z, 3), displacements along the world axes, mm; rounded to 1e-4 mm and stored as float32.

    Raises
    ------
    ValueError
        If shapes do not fit, values are not finite, or the affine is singular.
    """

    affine: np.ndarray
    forward: np.ndarray
    backward: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "affine", _invertible(self.affine, "the field's affine"))
        for name in ("forward", "backward"):
            vectors = np.asarray(getattr(self, name))
            if vectors.ndim != 4 or vectors.shape[3] != 3 or min(vectors.shape) < 2:
                raise ValueError(
                    f"a displacement field has shape (x, y, z, 3) of two voxels or more, got {vectors.shape}"
                )
            if not np.isfinite(vectors).all():
                raise ValueError("the displacement field has NaN or infinite values; register again")
            object.__setattr__(self, name, vectors.astype(np.float64).round(_DECIMALS).astype(np.float32))
        if self.forward.shape != self.backward.shape:
            raise ValueError(f"the inverse field has shape {self.backward.shape}, the field {self.forward.shape}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of lattice points along each axis."""
        return self.forward.shape[:3]

    def points(self) -> np.ndarray:
        """Return the world coordinates of the lattice, (x, y, z, 3)."""
        return _lattice(self.shape, self.affine)

    def at(self, points: np.ndarray, *, backward: bool = False) -> np.ndarray:
        """Return the displacements at points (..., 3) of the world."""
        back = np.linalg.inv(self.affine)
        index = np.moveaxis(points @ back[:3, :3].T + back[:3, 3], -1, 0)
        vectors = self.backward if backward else self.forward
        parts = [ndimage.map_coordinates(part, index, order=1, mode="constant") for part in np.moveaxis(vectors, -1, 0)]
        return np.stack(parts, axis=-1)


@dataclass(frozen=True, eq=False)
class Transform:
    """A map from the world of a fixed image to that of a moving one: x -> matrix @ (x + field(x)).

    Parameters
    ----------
    matrix
        (4, 4), RAS mm. Maps points of the fixed image to points of the moving one.
    measure
        Measure of quality: "correlation" of intensities or "Dice" of masks.
    before, after
        The measure with the headers' alignment, and with this map; NaN if it does not come from a registration.
    seconds
        Duration of the registration, s.
    failure
        Reason why the map should not be used; empty if there is none.
    field
        The deformation, in the fixed image's world; None for an affine map.
    dice_before, dice_after
        Dice of each tissue label with the headers' alignment, and with this map; None if no labels were given.
    folds
        Number of points of the field where the map is not one to one (its Jacobian determinant is not positive).
    inverse_error
        Median and largest distance (mm) by which map and inverse together move points of the brain.
    weakened
        Standard deviation (mm) of the Gaussian by which the deformation was smoothed, because it could not be used as
        it was found; zero if it could.

    Raises
    ------
    ValueError
        If the matrix is not a finite affine map that can be inverted.
    """

    matrix: np.ndarray
    measure: Literal["correlation", "Dice"] = "correlation"
    before: float = math.nan
    after: float = math.nan
    seconds: float = 0.0
    failure: str = ""
    field: Field | None = None
    dice_before: dict[int, float] | None = None
    dice_after: dict[int, float] | None = None
    folds: int = 0
    inverse_error: tuple[float, float] = (0.0, 0.0)
    weakened: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", _invertible(self.matrix, "the matrix"))

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., 3), RAS mm, of the fixed image to the moving one."""
        points = np.asarray(points, float)
        if points.shape[-1:] != (3,):
            raise ValueError(f"points have three coordinates, got shape {points.shape}")
        if self.field is not None:
            points = points + self.field.at(points)
        return points @ self.matrix[:3, :3].T + self.matrix[:3, 3]

    def inverse(self) -> "Transform":
        """Return the map from the moving image to the fixed one; see `invert`."""
        return invert(self)


def invert(transform: Transform) -> Transform:
    """Return the map from the moving image's world to the fixed one's.

    A field contains its inverse, so the two are exchanged, and inverting twice gives the original map.
    Of the measures of the registration, only a failure and the errors of the field are kept.
    """
    field, back = transform.field, np.linalg.inv(transform.matrix)
    if field is not None:
        axes = transform.matrix[:3, :3].T
        field = Field(transform.matrix @ field.affine, field.backward @ axes, field.forward @ axes)
    return Transform(
        back,
        failure=transform.failure,
        field=field,
        folds=transform.folds,
        inverse_error=transform.inverse_error,
        weakened=transform.weakened,
    )


def compose(a: Transform, b: Transform) -> Transform:
    """Return the map x -> a(b(x)), where `b` maps the first world to the second and `a` the second to the third.

    If only one of them has a field, the result is exact. Two fields are interpolated at the lattice of `b`,
    enlarged until it contains the lattice of `a`, which smooths details of `a` on a finer lattice.
    """
    matrix, failure = a.matrix @ b.matrix, a.failure or b.failure
    if a.field is None:
        return Transform(matrix, failure=failure, field=b.field)
    # The deformation of `a`, moved to the world in which `b` begins.
    back = np.linalg.inv(b.matrix)
    axes = back[:3, :3].T
    moved = Field(back @ a.field.affine, a.field.forward @ axes, a.field.backward @ axes)
    if b.field is None:
        return Transform(matrix, failure=failure, field=moved)
    points, affine = _common_lattice(b.field, moved)
    first = b.field.at(points)
    last = moved.at(points, backward=True)
    forward = first + moved.at(points + first)
    backward = last + b.field.at(points + last, backward=True)
    return Transform(matrix, failure=failure, field=Field(affine, forward, backward))


def jacobian_determinant(transform: Transform, grid: Grid) -> np.ndarray:
    """Return the Jacobian determinant of the map (its change of volume) at the points of a grid in the fixed world.

    It is computed by central differences over two voxels, one-sided at the border, and is not positive where
    the map folds.

    Returns
    -------
    ndarray
        (x, y, z), float64.
    """
    if min(grid.shape) < 2:
        raise ValueError(f"derivatives need two voxels along each axis, got shape {grid.shape}")
    affine = np.asarray(grid.affine, float)
    return _jacobian(transform.apply(_lattice(grid.shape, affine)), affine)


def count_folds(field: Field) -> int:
    """Return the number of points of its lattice where a field folds."""
    return int((_jacobian(field.points() + field.forward, field.affine) <= 0).sum())


def _jacobian(images: np.ndarray, affine: np.ndarray) -> np.ndarray:
    # `images` are the mapped points of a lattice.
    a, b, c = np.gradient(images, axis=(0, 1, 2))
    return np.einsum("...i,...i->...", a, np.cross(b, c)) / np.linalg.det(affine[:3, :3])


def _lattice(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    # The contributions of the three axes are added, which needs no (x, y, z, 3) array of indices.
    parts = [np.multiply.outer(np.arange(n), affine[:3, axis]) for axis, n in enumerate(shape)]
    return affine[:3, 3] + parts[0][:, None, None] + parts[1][None, :, None] + parts[2][None, None, :]


def _common_lattice(own: Field, other: Field) -> tuple[np.ndarray, np.ndarray]:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in other.shape], indexing="ij")).reshape(3, -1)
    mapping = np.linalg.inv(own.affine) @ other.affine
    index = mapping[:3, :3] @ corners + mapping[:3, 3:]
    # A field is zero at its border, so it maps its box to itself.
    low = np.minimum(0, np.floor(index.min(axis=1))).astype(int) - _MARGIN
    high = np.maximum(np.array(own.shape) - 1, np.ceil(index.max(axis=1))).astype(int) + _MARGIN
    affine: Any = own.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    return _lattice(tuple(high - low + 1), affine), affine


def _invertible(matrix: np.ndarray, name: str) -> np.ndarray:
    matrix = np.array(matrix, float)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.allclose(matrix[3], [0, 0, 0, 1]):
        raise ValueError(f"{name} is a finite (4, 4) affine map, got {matrix.tolist()}")
    axes = matrix[:3, :3]
    if not abs(np.linalg.det(axes)) > _SINGULAR * max(np.linalg.norm(axes) ** 3, 1e-30):
        raise ValueError(f"{name} is singular, so it cannot be inverted: {matrix.tolist()}")
    return matrix
