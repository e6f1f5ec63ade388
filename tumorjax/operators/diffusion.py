"""Diffusion in conservative flux form, with no flux through the boundary of the tissue."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

# One array an axis, one value for each face between two neighbouring voxels:
# shapes (x-1, y, z), (x, y-1, z), (x, y, z-1).
Conductance = tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]


def face_conductance(
    diffusivity: Float[Array, "x y z"], domain: Bool[Array, "x y z"], spacing: Float[Array, "3"]
) -> Conductance:
    """Return the conductance of every face between neighbouring voxels.

    The conductance of a face is the mean diffusivity of its two voxels over the squared spacing,
    and zero where either voxel lies outside the domain: then no cell crosses the boundary and the
    total mass is conserved to rounding.

    Parameters
    ----------
    diffusivity
        (x, y, z), mm^2 per unit of time.
    domain
        (x, y, z), where cells may be.
    spacing
        (3,), mm.

    Returns
    -------
    Conductance
        Shapes (x-1, y, z), (x, y-1, z), (x, y, z-1); one over the unit of time.
    """
    inside = domain.astype(diffusivity.dtype)
    faces = []
    for axis in range(3):
        n = diffusivity.shape[axis]
        low, high = (lax.slice_in_dim(diffusivity * inside, start, start + n - 1, axis=axis) for start in (0, 1))
        open_low, open_high = (lax.slice_in_dim(inside, start, start + n - 1, axis=axis) for start in (0, 1))
        faces.append((low + high) * open_low * open_high / (2 * spacing[axis].astype(diffusivity.dtype) ** 2))
    return faces[0], faces[1], faces[2]


def diffuse(density: Float[Array, "x y z"], conductance: Conductance) -> Float[Array, "x y z"]:
    """Return div(D grad c): the sum of the fluxes into each voxel, per unit of time.

    The operator is symmetric (self-adjoint) and negative semi-definite.
    """
    total = jnp.zeros_like(density)
    for axis, faces in enumerate(conductance):
        flux = faces * gradient(density, axis)
        total = total + _pad_one(flux, axis, high=True) - _pad_one(flux, axis, high=False)
    return total


def gradient(density: Float[Array, "x y z"], axis: int) -> Float[Array, "..."]:
    """Return the differences across the faces normal to an axis (not divided by the spacing)."""
    n = density.shape[axis]
    return lax.slice_in_dim(density, 1, n, axis=axis) - lax.slice_in_dim(density, 0, n - 1, axis=axis)


def largest_eigenvalue_bound(conductance: Conductance) -> Float[Array, ""]:
    """Return a bound on the largest eigenvalue of -div(D grad), by Gershgorin's circles.

    It is sharper than 12 D_max / h^2 in tissue, where few voxels have six open faces of the largest diffusivity.
    """
    row = 0.0
    for axis, faces in enumerate(conductance):
        row = row + _pad_one(faces, axis, high=True) + _pad_one(faces, axis, high=False)
    return 2 * jnp.max(jnp.asarray(row))


def _pad_one(faces: Float[Array, "..."], axis: int, *, high: bool) -> Float[Array, "x y z"]:
    """Pad one layer of zeros at the high or the low end of an axis."""
    widths = [(0, 0, 0)] * 3
    widths[axis] = (0, 1, 0) if high else (1, 0, 0)
    return lax.pad(faces, jnp.zeros((), faces.dtype), widths)
