"""Smooth weights around a point, means over blocks of voxels, and flows between grids."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from tumorjax.checks import check_count


def spline_ball(
    centre: Float[Array, "3"], shape: tuple[int, int, int], widths: Float[Array, "3"]
) -> Float[Array, "x y z"]:
    """Return a smooth, compact, ball-like weight that sums to one wherever its centre falls.

    It is the product of one cubic B-spline per axis, each divided by its own sum over the voxels
    (this sum is constant where the width is a whole number of voxels, because shifted cubic
    B-splines are a partition of unity). The weight is twice continuously differentiable with
    respect to the centre; far outside the grid it is zero.

    Parameters
    ----------
    centre
        (3,), fractional voxel index.
    shape
        Number of voxels along each axis.
    widths
        (3,), knot distance along each axis in voxels, at least one; the support extends two knot
        distances to either side.
    """
    axes = []
    for axis in range(3):
        offset = jnp.abs(jnp.arange(shape[axis], dtype=centre.dtype) - centre[axis]) / widths[axis]
        near = 2 / 3 - offset**2 * (1 - offset / 2)
        far = jnp.maximum(2 - offset, 0) ** 3 / 6
        weight = jnp.where(offset < 1, near, far)
        # A spline one knot wide or more, centred on the grid, sums to more than a half.
        axes.append(weight / jnp.maximum(weight.sum(), 0.5))
    return axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]


def block_mean(field: Float[Array, "x y z"], factor: int) -> Float[Array, "u v w"]:
    """Return the means over blocks of `factor` voxels along each axis; the last blocks are padded with zeros.

    Raises
    ------
    ValueError
        If the factor is not a whole number of at least one.
    """
    check_count("the factor of voxels", factor)
    total = jnp.pad(field, [(0, -n % factor) for n in field.shape])
    # Sums of slices are vectorised, and a reduction over three short axes is not.
    for axis in range(3):
        before, count, behind = total.shape[:axis], total.shape[axis] // factor, total.shape[axis + 1 :]
        blocks = total.reshape(*before, count, factor, *behind)
        parts = [lax.index_in_dim(blocks, k, axis + 1, keepdims=False) for k in range(factor)]
        total = sum(parts[1:], parts[0])
    return total / factor**3


def face_flow(coarse: Float[Array, "3 u v w"], factor: int, shape: tuple[int, int, int]) -> Float[Array, "3 x y z"]:
    """Interpolate the flow through faces from a grid whose voxels are `factor` times as long.

    The interpolation is linear between the coarse faces along the normal, with zero at both walls, and linear between
    voxel centres along the other axes, with a constant value from the last centre to the wall.

    Parameters
    ----------
    coarse
        (3, u, v, w), the flow on the coarse grid, laid out as for `advect`.
    factor
        Ratio of the voxel sizes; static, at least one.
    shape
        Shape of the fine grid. Both grids begin at the same corner, and the coarse one covers the fine one, as
        `block_mean` produces it.

    Raises
    ------
    ValueError
        If the coarse grid has another shape.
    """
    expected = (3, *(-(-n // factor) for n in shape))
    if coarse.shape != expected:
        raise ValueError(f"a grid of shape {shape}, {factor} times coarser, takes {expected}, got {coarse.shape}")

    def weights(fine: int, normal: bool) -> Float[Array, "x u"]:
        size = -(-fine // factor)
        at = (np.arange(fine) + 1) / factor - 1 if normal else (np.arange(fine) + 0.5) / factor - 0.5
        # Below zero lies the wall for faces; for centres, the field continues with its first value.
        at = at if normal else np.clip(at, 0, size - 1)
        hat = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size)))
        if normal:
            hat[-1], hat[:, -1] = 0, 0
        return jnp.asarray(hat, coarse.dtype)

    components = []
    for axis in range(3):
        along = (weights(n, normal=a == axis) for a, n in enumerate(shape))
        product = jnp.einsum("xu,yv,zw,uvw->xyz", *along, coarse[axis], precision=lax.Precision.HIGHEST)
        components.append(product)
    return jnp.stack(components)
