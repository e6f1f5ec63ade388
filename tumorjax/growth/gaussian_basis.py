"""A sum of Gaussians where a tumour begins."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from tumorjax.anatomy import Anatomy
from tumorjax.checks import as_array, check_numbers, check_positive, concrete
from tumorjax.grid import Grid, tissue_box
from tumorjax.growth.origins import HALF, AbstractOrigin, bounded, check_shape, voxel_index

# A Gaussian of which the state has less, relative to the largest, only fills a place.
_LEAST = 0.02


def held(weights: Float[Any, "... n"]) -> Bool[Any, "... n"]:
    """Return which Gaussians a state is made of: the others only fill places."""
    return weights > _LEAST * weights.max(axis=-1, keepdims=True)


class GaussianBasis(AbstractOrigin):
    """A sum of Gaussians, c_0 = phi^T p with phi_i(x) = exp(-|x - x_i|^2 / (2 sigma^2)), between zero and one.

    It is differentiable in everything that it holds. At the bounds themselves the derivative is that of the
    sum, so that a search may begin at p = 0 and a normalised state may change.

    Parameters
    ----------
    centres
        x_i, (n, 3), mm, RAS world.
    weights
        p, (n,): what each Gaussian has at its centre, as a fraction of the carrying capacity.
    width
        sigma, mm.
    unit_peak
        Static: whether the sum is divided by its largest value at the centres, so that weights are relative.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a concrete value is not finite, or the width not positive.

    References
    ----------
    Subramanian et al., "Multiatlas calibration of biophysical brain tumor growth models with mass effect",
    MICCAI 2020, section 2: the centres are voxels of the tumour, sigma is one voxel, few weights are not zero
    and max(phi^T p) = 1.
    """

    centres: Float[Any, "n 3"] = eqx.field(converter=as_array)
    weights: Float[Any, "n"] = eqx.field(converter=as_array)
    width: Float[Any, ""]
    unit_peak: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        check_positive("width", self.width)
        check_numbers("centres", self.centres)
        check_numbers("weights", self.weights)
        centres, weights = concrete(self.centres), concrete(self.weights)
        if centres is not None and (centres.ndim < 2 or centres.shape[-1] != 3 or not np.all(np.isfinite(centres))):
            raise ValueError(f"centres must be finite world coordinates in mm, (n, 3), got shape {centres.shape}")
        if weights is not None and (weights.ndim < 1 or not np.all(np.isfinite(weights))):
            raise ValueError(f"weights must be finite, (n,), got shape {weights.shape}")
        if centres is not None and weights is not None and centres.shape[-2] != weights.shape[-1]:
            raise ValueError(f"give one weight a centre, got {weights.shape[-1]} and {centres.shape[-2]}")

    @classmethod
    def from_outline(
        cls,
        outline: Bool[np.ndarray, "x y z"],
        grid: Grid,
        *,
        spacing: float | None = None,
        width: float | None = None,
    ) -> "GaussianBasis":
        """Return Gaussians of weight one at voxels of an outline; needs concrete values.

        Parameters
        ----------
        outline
            (x, y, z): where the tumour may have begun, such as its core.
        grid
            The grid of the outline.
        spacing
            mm: about how far apart the centres are. The outline is divided into boxes of this size, rounded to
            whole voxels, and each gives its voxel that is nearest to the box's middle. By default, every voxel.
        width
            sigma, mm; by default one voxel (the cube root of its volume).

        Raises
        ------
        ValueError
            If the outline is empty or of another shape than the grid, or the spacing is not positive.
        """
        inside = np.asarray(outline, bool)
        check_shape("outline", inside, grid)
        if spacing is not None:
            check_positive("spacing", spacing)
        start, _ = tissue_box(inside)
        edges = np.asarray(grid.spacing)
        size = np.maximum(np.round((0 if spacing is None else spacing) / edges), 1).astype(int)
        voxels = np.argwhere(inside)
        boxes = (voxels - start) // size
        off = (((voxels - start - boxes * size - (size - 1) / 2) * edges) ** 2).sum(axis=1)
        order = np.argsort(off, kind="stable")
        _, nearest = np.unique(boxes[order], axis=0, return_index=True)
        centres = np.asarray(grid.to_world(voxels[order[nearest]].astype(float)))
        return cls(centres, np.ones(len(centres)), float(np.cbrt(edges.prod())) if width is None else width)

    def normalised(self, anatomy: Anatomy) -> "GaussianBasis":
        """Return the basis with max(phi^T p) = 1 over the voxels of the tissue.

        Raises
        ------
        ValueError
            If the sum is known to be nowhere positive in the tissue.
        """
        total = jnp.where(anatomy.tissue, self.sum(anatomy.grid, anatomy.dtype), -jnp.inf)
        largest = total.max()
        number = concrete(largest)
        if number is not None and not number > 0:
            raise ValueError(f"the Gaussians are nowhere positive in tissue (at most {number:g}); move or weigh them")
        return GaussianBasis(self.centres, jnp.asarray(self.weights, largest.dtype) / largest, self.width)

    def sum(self, grid: Grid, dtype: Any) -> Float[Array, "x y z"]:
        """Return phi^T p on a grid, without bounds."""
        centres = voxel_index(self.centres, grid)
        factors = []
        for axis in range(3):
            away = jnp.arange(grid.shape[axis], dtype=centres.dtype) - centres[:, axis, None]
            scaled = (away * grid.spacing[axis].astype(centres.dtype)).astype(dtype) / jnp.asarray(self.width, dtype)
            factors.append(jnp.exp(-(scaled**2) / 2))
        # Two matrix products. By default they would have three digits on some accelerators.
        factors[0] = factors[0] * self.heights(dtype)[:, None]
        return jnp.einsum("nx,ny,nz->xyz", *factors, precision=jax.lax.Precision.HIGHEST)

    def initial(self, anatomy: Anatomy) -> Float[Array, "x y z"]:
        """Return the density at time zero, (x, y, z)."""
        return jnp.where(anatomy.tissue, bounded(self.sum(anatomy.grid, anatomy.dtype)), 0)

    def seeded(self, anatomy: Anatomy) -> Bool[Array, ""]:
        """Return whether at least half of the Gaussians' integral is in tissue, and it is not zero."""
        dtype = anatomy.dtype
        voxel = jnp.asarray(self.width, dtype) ** 3 / jnp.asarray(anatomy.grid.voxel_volume, dtype)
        whole = (2 * np.pi) ** 1.5 * voxel * self.heights(dtype).sum()
        inside = jnp.where(anatomy.tissue, self.sum(anatomy.grid, dtype), 0).sum()
        return (inside > HALF * whole) & (inside > 0)

    @property
    def centre_of_mass(self) -> Float[Array, "3"]:
        """Mean place of the Gaussians by weight, mm, RAS world: the same in whatever basis a state is written."""
        weights = jnp.asarray(self.weights)
        return weights @ jnp.asarray(self.centres, weights.dtype) / weights.sum()

    def heights(self, dtype: Any) -> Float[Array, "n"]:
        """Return what each Gaussian has at its centre."""
        weights = jnp.asarray(self.weights, dtype)
        if not self.unit_peak:
            return weights
        # The peak of the sum lies at a centre, or near one; unlike the largest voxel it does not depend on the grid.
        away = jnp.asarray(self.centres)[:, None] - jnp.asarray(self.centres)[None]
        scaled = (jnp.sum(away**2, axis=-1) / jnp.asarray(self.width, away.dtype) ** 2).astype(dtype)
        return weights / (jnp.exp(-scaled / 2) @ weights).max()
