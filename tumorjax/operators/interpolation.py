"""Smooth weights around a point, and means over blocks of voxels."""

import jax.numpy as jnp
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
    padded = jnp.pad(field, [(0, -n % factor) for n in field.shape])
    x, y, z = (n // factor for n in padded.shape)
    return padded.reshape(x, factor, y, factor, z, factor).mean(axis=(1, 3, 5))
