"""Rotation of tensors with the medium that carries them."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Field = Float[Array, "x y z"]


def rotation_vectors(flow: Float[Array, "3 x y z"], axes: Float[Any, "3 3"]) -> Float[Array, "3 x y z"]:
    """Return half the curl of a displacement at the centres of voxels, in radians, along the axes of the world.

    Parameters
    ----------
    flow
        (3, x, y, z), mm, on faces; see `advect`.
    axes
        (3, 3), mm: its columns lead from a voxel to its neighbours. They must be orthogonal.
    """
    axes = jnp.asarray(axes, flow.dtype)
    spacing = jnp.sqrt(jnp.sum(axes**2, axis=0))
    centred = [_to_centre(flow[a], a) for a in range(3)]
    curl = jnp.stack([_slope(centred[c], b, spacing[b]) - _slope(centred[b], c, spacing[c]) for b, c in _CYCLES])
    # A rotation's axis keeps its sense under a reflection only if it is multiplied by the determinant.
    frame = axes / spacing
    return jnp.linalg.det(frame) * jnp.einsum("wa,axyz->wxyz", frame, curl) / 2


def rotated(tensor: tuple[Field, ...], vectors: Float[Array, "3 x y z"]) -> tuple[Field, ...]:
    """Return R D R^T, with R the rotation by Cayley's formula, (1 - W / 2)^-1 (1 + W / 2) for W x = w × x.

    For small angles R is the rotation by |w| about w, to third order. It is orthogonal to rounding, so that
    eigenvalues stay, and the rotation by -w undoes it.

    Parameters
    ----------
    tensor
        xx, xy, xz, yy, yz, zz, each (x, y, z).
    vectors
        (3, x, y, z), w, radians.
    """
    half = vectors / 2
    square = jnp.sum(half**2, axis=0)
    # R = 1 + 2 / (1 + |h|^2) (H + H^2), with H x = h × x and H^2 = h h^T - |h|^2.
    gain = 2 / (1 + square)
    none = jnp.zeros_like(square)
    skew = ((none, -half[2], half[1]), (half[2], none, -half[0]), (-half[1], half[0], none))
    turn = [
        [float(a == b) + gain * (skew[a][b] + half[a] * half[b] - (square if a == b else 0)) for b in range(3)]
        for a in range(3)
    ]
    xx, xy, xz, yy, yz, zz = tensor
    full = ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))
    left = [[sum(turn[a][m] * full[m][n] for m in range(3)) for n in range(3)] for a in range(3)]
    return tuple(sum(left[a][n] * turn[b][n] for n in range(3)) for a, b in _UPPER)  # pyright: ignore


_CYCLES = ((1, 2), (2, 0), (0, 1))
_UPPER = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def _to_centre(component: Field, axis: int) -> Field:
    """Return the mean of the two faces of each voxel; before the first there is the wall."""
    before = jnp.pad(component, [(int(a == axis), 0) for a in range(3)])
    return (component + lax.slice_in_dim(before, 0, component.shape[axis], axis=axis)) / 2


def _slope(field: Field, axis: int, spacing: Float[Array, ""]) -> Field:
    """Return the central difference, zero next to the grid's walls."""
    if field.shape[axis] < 3:
        return jnp.zeros_like(field)
    inner = lax.slice_in_dim(field, 2, None, axis=axis) - lax.slice_in_dim(field, 0, -2, axis=axis)
    return jnp.pad(inner / (2 * spacing), [(int(a == axis), int(a == axis)) for a in range(3)])
