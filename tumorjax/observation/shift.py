"""What a T1 image shows of the displacement: differences from an atlas, of which people's anatomy explains a part."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Bool, Float
from scipy import linalg
from scipy.spatial import KDTree

from tumorjax.anatomy import Anatomy
from tumorjax.checks import check_box, check_positive
from tumorjax.grid import Grid
from tumorjax.observation.observation import AbstractObservation
from tumorjax.prior import LogNormal
from tumorjax.quantity import Quantity

# How brains of two people differ after an affine alignment: standard deviation of the displacement along an axis (mm),
# and the scale of its correlation, exp(-r² / 2 l²), mm.
_SPREAD, _SCALE = 2.3, 21.0
# The affine part of a registration is not exact, and a tumour misleads it: standard deviation (mm) of its error along
# each axis, at the middle and at this distance (mm) from it.
_AFFINE, _ARM = 4.0, 40.0
# Distance (mm) of the points that carry the random deformation; and what makes their covariance invertible.
_LATTICE, _RIDGE = 18.0, 1e-4


class ShiftParams(eqx.Module):
    """Parameters of what an image shows of the displacement.

    Parameters
    ----------
    noise
        sigma: standard deviation (mm) of what neither a displacement nor the error of its model explains.
    spread
        Standard deviation of the difference between people's anatomy, as a multiple of the typical one.
    """

    noise: Any
    spread: Any

    def __check_init__(self) -> None:
        check_positive("noise", self.noise)
        check_positive("spread", self.spread)

    def quantities(self, name: str) -> list[Quantity]:
        """Return noise and spread in words."""
        noise = "standard deviation of the borders in the T1 image about those of the displaced atlas"
        spread = "difference between the patient's and the atlas' anatomy, as a multiple of the typical one"
        return [
            Quantity(f"{name}_noise", "σ_T1", "mm", noise, lambda params: params.noise, "noise"),
            Quantity(f"{name}_spread", "α_T1", "", spread, lambda params: params.spread, "spread"),
        ]


class ShiftMap(AbstractObservation):
    """What a T1 image shows of the displacement u, beside an atlas that is aligned with it.

    What is at x in the patient is found at x + d(x) in the atlas, with d = -u + w: the tumour has pushed by u, and w is
    how the anatomy of the two people differs. A border in the image shows only how far it has moved along its normal n,
    as y = n·d + noise, in mm: differences of brightness divided by their gradient, so that no border counts for more
    because it is brighter. The noise is sigma and the error of the model. For w there is a prior, a
    Gaussian process: smooth, as large as is typical of people, and uncertain by an affine map, which a registration
    finds inexactly beside a tumour. It is integrated out, so that y ~ N(-n·u, σ² + α² N K Nᵀ), with α, σ unknown. The
    displacement that a registration finds is no datum of that kind: it has a prior of its own, which makes it too
    smooth and too small.

    Parameters
    ----------
    valid
        (x, y, z), bool: the voxels in which points lie.
    index
        (n, 3): the points in voxels of the grid.
    normal
        (n, 3): n along the world's axes, of unit length.
    shift
        (n,): y, mm.
    modes
        (n, k): orthonormal deformations at the points, of people's anatomy.
    variances
        (k,): their variances, mm², the eigenvalues of N K Nᵀ.
    model_error
        mm: standard deviation of the modelled displacement's error at a border, from the voxels and from borders that
        lie a little elsewhere. Without it the likelihood rests on what is finest in the push, where the model is
        least exact, and so finds the push too small.
    effective_voxels
        How many independent points all of them together are worth.

    References
    ----------
    Horn, Schunck, "Determining optical flow", Artificial Intelligence 17 (1981), equation 1: the constraint on each
    point. Rasmussen, Williams, "Gaussian Processes for Machine Learning", 2006, section 8.3: the covariance by few
    points. That the two decide how strongly a tumour pushes is a formulation of this package; Gooya et al., "GLISTR",
    IEEE Trans. Med. Imaging 31 (2012), doi:10.1109/TMI.2012.2196444, estimate both displacements by turns.
    """

    shows: ClassVar[Literal["density", "csf", "displacement"]] = "displacement"
    title: ClassVar[str] = "displacement that the T1 image shows"
    is_image: ClassVar[bool] = False

    valid: Bool[Any, "x y z"]
    index: Float[Any, "n 3"]
    normal: Float[Any, "n 3"]
    shift: Float[Any, "n"]
    modes: Float[Any, "n k"]
    variances: Float[Any, "k"]
    model_error: float = 0.5
    effective_voxels: float = 1500.0

    @classmethod
    def of(
        cls,
        grid: Grid,
        points: Float[np.ndarray, "n 3"],
        normal: Float[np.ndarray, "n 3"],
        shift: Float[np.ndarray, "n"],
        **more: Any,
    ) -> Self:
        """Return the observation of these points in the world, mm.

        Raises
        ------
        ValueError
            If shapes differ, numbers are not finite, or no point lies in the grid.
        """
        points, normal, shift = (np.asarray(each, float) for each in (points, normal, shift))
        if points.ndim != 2 or points.shape[1] != 3 or points.shape != normal.shape or shift.shape != points.shape[:1]:
            raise ValueError(
                f"points and normal have shape (n, 3), the shift (n,); got {points.shape}, {normal.shape} and "
                f"{shift.shape}"
            )
        if not all(np.isfinite(each).all() for each in (points, normal, shift)):
            raise ValueError("points, normal and shift must be finite; leave out those that are not")
        index = np.asarray(grid.in_double().to_index(points))
        inside = np.all((index >= 0) & (index <= np.array(grid.shape) - 1), axis=1)
        if not inside.any():
            raise ValueError("none of the points lies in the grid; give points near the tumour, in its world")
        index, points, normal, shift = (each[inside] for each in (index, points, normal, shift))
        modes, variances = _modes(points, normal)
        arrays = {"index": index, "normal": normal, "shift": shift, "modes": modes, "variances": variances}
        single = {name: array.astype(np.float32) for name, array in arrays.items()}
        return cls(valid=_near(index, grid.shape), **single, **more)

    @property
    def image(self) -> Float[Any, "x y z"]:
        """The mask of the points: there is no image of them."""
        return jnp.asarray(self.valid, self.shift.dtype)

    @property
    def size(self) -> Float[Array, ""]:
        """Number of points."""
        return jnp.asarray(len(self.shift), self.shift.dtype)

    def log_prob(self, field: Float[Array, "x y z 3"], params: ShiftParams) -> Float[Array, ""]:
        """Return the log-likelihood of y with the difference of anatomy integrated out, nat."""
        dtype, noise, variances = self._variances(field, params)
        away = self.shift.astype(dtype) + self._along(field)
        seen = self.modes.astype(dtype).T @ away
        squares = (jnp.sum(away**2) - jnp.sum(seen**2)) / noise**2 + jnp.sum(seen**2 / variances)
        rest = len(self.shift) - len(self.variances)
        logs = jnp.sum(jnp.log(variances)) + 2 * rest * jnp.log(noise)
        constant = len(self.shift) * math.log(2 * math.pi)
        return -0.5 * self.weight.astype(dtype) * (squares + logs + constant)

    def expected(self, field: Float[Array, "x y z 3"], params: ShiftParams) -> list[tuple[Array, Array]]:
        """Return -n·u, made independent and of unit variance, and the logarithms of noise and spread."""
        dtype, noise, variances = self._variances(field, params)
        weight = self.weight.astype(dtype)
        # What is uncertain of a covariance is another entry.
        noise_, variances_ = jax.lax.stop_gradient((noise, variances))
        away, modes = -self._along(field), self.modes.astype(dtype)
        seen = modes.T @ away
        white = away / noise_ + modes @ (seen * (variances_**-0.5 - 1 / noise_))
        own = noise_**2 / variances_
        rest = len(self.shift) - len(self.variances)
        return [
            (white, weight * jnp.ones_like(white)),
            (jnp.log(noise), 2 * weight * (rest + jnp.sum(own**2))),
            (jnp.log(jnp.asarray(params.spread, dtype)), 2 * weight * jnp.sum((1 - own) ** 2)),
        ]

    def predicted(self, field: Any, params: Any) -> None:
        """Return None: it is no image that could be shown."""

    def default_prior(
        self, name: str, anatomy: Anatomy, observations: Mapping[str, AbstractObservation]
    ) -> ShiftParams:
        """Return the default prior: the spread is log-normal about the typical one; the noise about 0.3 mm."""
        return ShiftParams(LogNormal(0.3, 0.7), LogNormal(1.0, 0.5))

    def coarsen(self, factor: int) -> Self:
        """Return the same points on voxels `factor` times as long."""
        index = (jnp.asarray(self.index) + 0.5) / factor - 0.5
        shape = tuple(-(-n // factor) for n in jnp.shape(self.valid))
        valid = _near(np.asarray(index), shape) if not isinstance(index, Tracer) else jnp.ones(shape, bool)
        return dataclasses.replace(self, index=index, valid=valid)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> Self:
        """Return the same points in a box of voxels, beyond which the displacement is that of the border."""
        box = check_box(start, shape, jnp.shape(self.valid))
        return dataclasses.replace(self, index=self.index - np.asarray(start), valid=self.valid[box])

    def _along(self, field: Float[Array, "x y z 3"]) -> Float[Array, "n"]:
        """Return n·u at the points, mm."""
        places = list(jnp.moveaxis(jnp.asarray(self.index, field.dtype), -1, 0))
        there = [map_coordinates(field[..., axis], places, order=1, mode="nearest") for axis in range(3)]
        return jnp.sum(self.normal.astype(field.dtype) * jnp.stack(there, axis=-1), axis=-1)

    def _variances(self, field: Array, params: ShiftParams) -> tuple[Any, Array, Array]:
        """Return the dtype, the noise with the error of the model, and the variances of the deformations with both."""
        dtype = field.dtype
        noise, spread = (jnp.asarray(each, dtype) for each in (params.noise, params.spread))
        noise = jnp.sqrt(noise**2 + jnp.asarray(self.model_error, dtype) ** 2)
        return dtype, noise, noise**2 + spread**2 * self.variances.astype(dtype)


def of_one_shape(maps: Sequence[ShiftMap]) -> list[ShiftMap]:
    """Return observations of equally many points with equally many deformations, of which further ones are zero."""
    most = max(len(each.variances) for each in maps)

    def filled(each: ShiftMap) -> ShiftMap:
        missing = most - len(each.variances)
        modes, variances = np.pad(each.modes, [(0, 0), (0, missing)]), np.pad(each.variances, (0, missing))
        return dataclasses.replace(each, modes=modes, variances=variances)

    return [filled(each) for each in maps]


def _near(index: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the mask of the voxels in which points lie."""
    valid = np.zeros(shape, bool)
    valid[tuple(np.clip(np.round(index).astype(int), 0, np.array(shape) - 1).T)] = True
    return valid


def _modes(points: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return orthonormal deformations along the normals at the points, and their variances."""
    low, high = points.min(axis=0) - _LATTICE / 2, points.max(axis=0) + _LATTICE / 2
    axes = [np.arange(a, b + _LATTICE, _LATTICE) for a, b in zip(low, high, strict=True)]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    lattice = lattice[KDTree(points).query(lattice)[0] < _LATTICE]
    own = np.linalg.cholesky(_correlation(lattice, lattice) + _RIDGE * np.eye(len(lattice)))
    smooth = _SPREAD * linalg.solve_triangular(own, _correlation(lattice, points), lower=True).T
    affine = _AFFINE * np.column_stack([np.ones(len(points)), (points - points.mean(axis=0)) / _ARM])
    basis = np.column_stack([smooth, affine])
    columns = np.concatenate([normal[:, [axis]] * basis for axis in range(3)], axis=1)
    vectors, triangle = np.linalg.qr(columns)
    turned, values, _ = np.linalg.svd(triangle)
    count = min(columns.shape)
    return vectors @ turned[:, :count], values**2


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * np.sum((a[:, None] - b[None]) ** 2, axis=-1) / _SCALE**2)
