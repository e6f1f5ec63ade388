"""Diffusion in conservative flux form, with no flux through the boundary of the tissue."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

Offset = tuple[int, int, int]

AXES: tuple[Offset, ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
"""The offsets from a voxel to its neighbours along the axes."""


class Conductance(eqx.Module):
    """Conductances of pairs of voxels: the rates at which cells pass between them.

    Parameters
    ----------
    edges
        One array for each offset e. Its value at x belongs to the pair of voxels x and x + e, for all pairs that
        lie in the grid; not negative; one over the unit of time. See `pair` for the shapes.
    offsets
        The offsets e, static. Isotropic diffusion needs only the axes; a tensor needs diagonals too.
    """

    edges: tuple[Float[Array, "..."], ...]
    offsets: tuple[Offset, ...] = eqx.field(static=True, default=AXES)

    def __check_init__(self) -> None:
        if len(self.edges) != len(self.offsets):
            raise ValueError(
                f"a conductance has one array for each offset, got {len(self.edges)} and {len(self.offsets)}"
            )


def pair(field: Float[Array, "x y z"], offset: Offset) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return the values at x and at x + e for every such pair of voxels in the grid; each axis is |e_a| shorter."""
    shape = field.shape
    low = tuple(max(0, -e) for e in offset)
    high = tuple(max(0, e) for e in offset)
    return (
        lax.slice(field, low, [n - h for n, h in zip(shape, high, strict=True)]),
        lax.slice(field, high, [n - k for n, k in zip(shape, low, strict=True)]),
    )


def difference(field: Float[Array, "x y z"], offset: Offset) -> Float[Array, "..."]:
    """Return the value at x + e minus the value at x, for every pair (not divided by a distance)."""
    here, there = pair(field, offset)
    return there - here


def spread(pairs: Float[Array, "..."], offset: Offset, *, there: bool) -> Float[Array, "x y z"]:
    """Return the field that holds each pair's value at its voxel x + e (`there`) or x, and zero elsewhere."""
    before = [max(0, e if there else -e) for e in offset]
    after = [max(0, -e if there else e) for e in offset]
    padding = [(low, high, 0) for low, high in zip(before, after, strict=True)]
    return lax.pad(pairs, jnp.zeros((), pairs.dtype), padding)


def face_conductance(
    diffusivity: Float[Array, "x y z"], domain: Bool[Array, "x y z"] | Float[Array, "x y z"], spacing: Float[Any, "3"]
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
        (x, y, z), mask of the voxels where cells can live, or the share of each voxel that is in the domain.
    spacing
        (3,), mm.
    """
    inside = domain.astype(diffusivity.dtype)
    edges = []
    for axis, offset in enumerate(AXES):
        low, high = pair(diffusivity * inside, offset)
        open_low, open_high = pair(inside, offset)
        edges.append((low * open_high + high * open_low) / (2 * spacing[axis].astype(diffusivity.dtype) ** 2))
    return Conductance(tuple(edges))


def diffuse(density: Float[Array, "x y z"], conductance: Conductance) -> Float[Array, "x y z"]:
    """Return div(D grad c): the sum of the fluxes into each voxel, per unit of time.

    The operator is symmetric (self-adjoint) and negative semi-definite.
    """
    total = jnp.zeros_like(density)
    if conductance.offsets == AXES:
        for offset, edges in zip(conductance.offsets, conductance.edges, strict=True):
            flux = edges * difference(density, offset)
            total = total + spread(flux, offset, there=False) - spread(flux, offset, there=True)
        return total
    # With many offsets the compiler vectorises slices of padded fields, but not padded fluxes.
    reach = max(abs(entry) for offset in conductance.offsets for entry in offset)

    def padded(field: Array) -> Array:
        return lax.optimization_barrier(jnp.pad(field, reach))

    def at(field: Array, offset: Offset) -> Array:
        start = [reach + entry for entry in offset]
        return lax.slice(field, start, [low + n for low, n in zip(start, density.shape, strict=True)])

    around = padded(density)
    for offset, edges in zip(conductance.offsets, conductance.edges, strict=True):
        back = (-offset[0], -offset[1], -offset[2])
        ways = padded(spread(edges, offset, there=False))
        for way, there in ((at(ways, (0, 0, 0)), offset), (at(ways, back), back)):
            total = total + way * (at(around, there) - density)
    return total


def largest_eigenvalue_bound(conductance: Conductance) -> Float[Array, ""]:
    """Return a bound on the largest eigenvalue of -div(D grad), by Gershgorin's circles.

    It is sharper than 12 D_max / h^2 in tissue, where few voxels have six open faces of the largest diffusivity.
    """
    row = 0.0
    for offset, edges in zip(conductance.offsets, conductance.edges, strict=True):
        row = row + spread(edges, offset, there=False) + spread(edges, offset, there=True)
    return 2 * jnp.max(jnp.asarray(row))
