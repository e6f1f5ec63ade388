"""Whether a map keeps the orientation of space: the Jacobian determinant of displacements, in voxels."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def central_differences(field: Float[Array, "x y z"]) -> Float[Array, "3 x y z"]:
    """Return central differences along each axis, one-sided halves of them at the border."""
    padded = jnp.pad(field, 1, mode="edge")
    inner = [slice(1, -1)] * 3

    def along(axis: int) -> Array:
        ahead, behind = ((*inner[:axis], part, *inner[axis + 1 :]) for part in (slice(2, None), slice(None, -2)))
        return (padded[ahead] - padded[behind]) / 2

    return jnp.stack([along(axis) for axis in range(3)])


def jacobian_determinant(displacement: Float[Array, "3 x y z"]) -> Float[Array, "x y z"]:
    """Return the Jacobian determinant of x -> x + displacement(x), in voxels; it is below zero where the map folds."""
    a, b, c = (
        row + jnp.eye(3, dtype=row.dtype)[axis, :, None, None, None]
        for axis, row in enumerate(map(central_differences, displacement))
    )
    return (a * jnp.cross(b, c, axis=0)).sum(0)
