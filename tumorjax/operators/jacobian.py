"""Whether a map keeps the orientation of space: the Jacobian determinant of displacements, in voxels."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def central_differences(field: Float[Array, "x y z"]) -> Float[Array, "3 x y z"]:
    """Return central differences along each axis, one-sided halves of them at the border."""
    return jnp.stack(_differences(field))


def jacobian_determinant(displacement: Float[Array, "3 x y z"]) -> Float[Array, "x y z"]:
    """Return the Jacobian determinant of x -> x + displacement(x), in voxels; it is below zero where the map folds."""
    rows = [
        [slope + 1 if axis == component else slope for axis, slope in enumerate(_differences(part))]
        for component, part in enumerate(displacement)
    ]
    # Written out, since a compiler does not see through a cross product of stacked fields.
    a, b, c = rows
    return a[0] * (b[1] * c[2] - b[2] * c[1]) + a[1] * (b[2] * c[0] - b[0] * c[2]) + a[2] * (b[0] * c[1] - b[1] * c[0])


def _differences(field: Float[Array, "x y z"]) -> list[Float[Array, "x y z"]]:
    # Without the barrier the padding would be computed again for each of its slices, at many times the cost.
    padded = lax.optimization_barrier(jnp.pad(field, 1, mode="edge"))
    inner = [slice(1, -1)] * 3

    def along(axis: int) -> Array:
        ahead, behind = ((*inner[:axis], part, *inner[axis + 1 :]) for part in (slice(2, None), slice(None, -2)))
        return (padded[ahead] - padded[behind]) / 2

    return [along(axis) for axis in range(3)]
