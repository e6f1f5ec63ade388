"""A smooth field by which the rate of division departs from that of the model."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from tumorjax.checks import as_array, check_numbers, check_positive, concrete
from tumorjax.grid import Grid

# Mean over the places between two knots of the sum of squares of the cubic B-splines there.
_SQUARES = 0.479365


class Forcing(eqx.Module):
    """A smooth field s by which cells divide faster or more slowly than the model says: rho exp(s).

    With it the density leaves the equation of Fisher and Kolmogorov: what is left over of that is
    rho (exp(s) - 1) c (1 - c). The density stays between zero and one, and no cell divides backwards.

        s(x) = a sum_k w_k B((x - x_k) / h)

    with B the product of cubic B-splines along the axes of the grid, and a such that s has the standard deviation of
    the weights where these are independent. Beyond the lattice s is zero.

    Parameters
    ----------
    weights
        w, (u, v, w), dimensionless: one for each knot of the lattice.
    lattice
        The grid of the knots x_k, with the axes of the grid that it forces.

    Raises
    ------
    ValueError
        If the shapes differ, or a concrete weight is not finite.
    """

    weights: Float[Any, "u v w"] = eqx.field(converter=as_array)
    lattice: Grid

    def __check_init__(self) -> None:
        check_numbers("weights", self.weights)
        weights = concrete(self.weights)
        if jnp.shape(self.weights)[-3:] != self.lattice.shape:
            raise ValueError(f"forcing needs a weight for each of {self.lattice.shape} knots, got {self.weights.shape}")
        if weights is not None and not np.all(np.isfinite(weights)):
            raise ValueError("the weights of a forcing must be finite")

    @classmethod
    def around(cls, region: Bool[np.ndarray, "x y z"], grid: Grid, length: float) -> "Forcing":
        """Return a forcing of weights zero whose lattice covers a region; needs concrete values.

        Parameters
        ----------
        region
            (x, y, z): where the rate may depart.
        grid
            The grid of the region.
        length
            h, mm: distance of the knots, over which the field is correlated; at least a voxel.

        Raises
        ------
        ValueError
            If the region is empty, or the length not positive.
        """
        check_positive("length", length)
        places = np.argwhere(region)
        if not len(places):
            raise ValueError("forcing needs a region with a voxel")
        edges = np.asarray(grid.spacing, float)
        steps = np.maximum(length / edges, 1.0)
        low, high = places.min(axis=0), places.max(axis=0)
        # At the ends of the region a whole spline lies beyond it.
        shape = np.ceil((high - low) / steps).astype(int) + 3
        first = (low + high) / 2 - steps * (shape - 1) / 2
        affine = np.asarray(grid.affine, float)
        placed = affine @ np.vstack([np.column_stack([np.diag(steps), first]), [0, 0, 0, 1]])
        lattice = Grid(tuple(shape.tolist()), placed)
        return cls(np.zeros(lattice.shape), lattice)

    def field(self, grid: Grid, dtype: Any) -> Float[Array, "x y z"]:
        """Return s on a grid whose axes are those of the lattice."""
        # From voxels of the grid to knots of the lattice: along each axis by itself, whatever the affine.
        knots = jnp.asarray(self.lattice.affine)
        axes = knots[:3, :3] / self.lattice.spacing
        origin = jnp.asarray(grid.affine, knots.dtype)[:3, 3] - knots[:3, 3]
        begin, step = (axes.T @ origin) / self.lattice.spacing, grid.spacing / self.lattice.spacing
        splines = []
        for axis, (voxels, count) in enumerate(zip(grid.shape, self.lattice.shape, strict=True)):
            place = begin[axis] + step[axis] * jnp.arange(voxels, dtype=knots.dtype)
            splines.append(_cubic(place[:, None] - jnp.arange(count, dtype=knots.dtype)).astype(dtype))
        weights = jnp.asarray(self.weights, dtype) * jnp.asarray(_SQUARES**-1.5, dtype)
        # By default matrix products would have three digits on some accelerators.
        return jnp.einsum("uvw,xu,yv,zw->xyz", weights, *splines, precision=jax.lax.Precision.HIGHEST)

    def rates(self, grid: Grid, dtype: Any) -> Float[Array, "x y z"]:
        """Return exp(s) on a grid: what each rate of division is multiplied by."""
        return jnp.exp(self.field(grid, dtype))


def _cubic(away: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the cubic B-spline at distances from its knot, in knots."""
    r = jnp.abs(away)
    near, far = (4 - 6 * r**2 + 3 * r**3) / 6, jnp.maximum(2 - r, 0) ** 3 / 6
    return jnp.where(r < 1, near, far)
