"""Linear elasticity with variable coefficients on a staggered grid, clamped outside a mask.

The divergence of the displacement and the normal stresses live at the centres of the voxels, component a of the
displacement on the faces normal to axis a, and the shear stresses of axes a and b on the edges where such faces
meet: the marker-and-cell grid. Every difference is a central one between neighbours, so that the scheme is of second
order, and only the zero displacement has zero strain (there are no checkerboard modes).
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

Shape = tuple[int, int, int]

# Axes of the shear strain on the edges along each axis.
_PAIRS = ((1, 2), (0, 2), (0, 1))

Flat = Float[Array, "_"]

Faces = tuple[Flat, Flat, Flat]
"""The components of a vector field, flattened by `to_flat`."""


def lame(young: Float[Any, "..."], poisson: Float[Any, "..."]) -> tuple[Float[Any, "..."], Float[Any, "..."]]:
    """Return Lamé's first parameter lambda and the shear modulus mu, in the unit of Young's modulus.

    Parameters
    ----------
    young
        Young's modulus E, positive.
    poisson
        Poisson's ratio nu, below one half, where the material is incompressible and lambda infinite.
    """
    return young * poisson / ((1 + poisson) * (1 - 2 * poisson)), young / (2 * (1 + poisson))


def free_faces(head: Bool[Any, "x y z"]) -> Bool[Array, "3 x y z"]:
    """Return the faces that may move: those between two voxels of the head.

    Element [a, i, j, k] is the face between voxel (i, j, k) and the next one along axis a. Everything outside the grid
    counts as outside the head, so the last layer along a is never free.
    """
    inside = jnp.asarray(head, bool)
    components = []
    for axis in range(3):
        both = lax.slice_in_dim(inside, 0, -1, axis=axis) & lax.slice_in_dim(inside, 1, None, axis=axis)
        components.append(jnp.pad(both, [(0, int(a == axis)) for a in range(3)]))
    return jnp.stack(components)


def gradient_on_faces(field: Float[Array, "x y z"], spacing: Float[Any, "3"]) -> Float[Array, "3 x y z"]:
    """Return the gradient of a field on voxels, each component on the faces normal to it; zero on the grid's walls."""
    h = jnp.asarray(spacing, field.dtype)
    differences = []
    for axis in range(3):
        inner = jnp.diff(field, axis=axis) / h[axis]
        differences.append(jnp.pad(inner, [(0, int(a == axis)) for a in range(3)]))
    return jnp.stack(differences)


def divergence(displacement: Float[Array, "3 x y z"], spacing: Float[Any, "3"]) -> Float[Array, "x y z"]:
    """Return div u at the centres of voxels; minus the transpose of `gradient_on_faces`, for u zero on the walls."""
    h = jnp.asarray(spacing, displacement.dtype)
    total = jnp.zeros(displacement.shape[1:], displacement.dtype)
    for axis in range(3):
        component = displacement[axis]
        before = jnp.pad(component, [(int(a == axis), 0) for a in range(3)])
        total = total + (component - lax.slice_in_dim(before, 0, component.shape[axis], axis=axis)) / h[axis]
    return total


class Stiffness(eqx.Module):
    """A discretised elastic medium, as the function `stiffness` makes it.

    Its fields are flattened, with a layer of zeros before the second and the third axis. In this layout every neighbour
    lies at a constant distance in memory, and a neighbour beyond the grid is one of these zeros or lies in the extra
    layers before or behind the first axis. Stencils on such fields are slices of contiguous memory, whatever the grid's
    shape, and take a third of the time of three-dimensional ones on grids of 40^3.

    Parameters
    ----------
    first, shear
        lambda and mu at the centres, with an extra layer behind the first axis.
    edges
        mu on the edges that lie along axis 0, 1 and 2, with an extra layer before the first axis. An edge has the
        index of the voxel that it lies behind.
    free
        One on the faces that move and zero on the clamped ones.
    rates
        (3,), one over the spacing.
    shape
        Number of voxels along each axis; static.
    """

    first: Flat
    shear: Flat
    edges: Faces
    free: Faces
    rates: Float[Array, "3"]
    shape: Shape = eqx.field(static=True)


def to_flat(values: Float[Array, "x y z"]) -> Flat:
    """Flatten a field on voxels or faces, with a layer of zeros before the second and the third axis."""
    return jnp.pad(values, [(0, 0), (1, 0), (1, 0)]).ravel()


def from_flat(flat: Flat, shape: Shape) -> Float[Array, "x y z"]:
    """Undo `to_flat`."""
    return flat.reshape(shape[0], shape[1] + 1, shape[2] + 1)[:, 1:, 1:]


def flat_faces(vector: Float[Array, "3 x y z"]) -> Faces:
    """Return the flattened components of a vector field."""
    return to_flat(vector[0]), to_flat(vector[1]), to_flat(vector[2])


def strides(shape: Shape) -> Shape:
    """Return the distance between neighbours along each axis in a flattened field; the first is the size of a layer."""
    return (shape[1] + 1) * (shape[2] + 1), shape[2] + 1, 1


def stiffness(
    first: Float[Array, "x y z"],
    shear: Float[Array, "x y z"],
    free: Bool[Any, "3 x y z"] | Float[Any, "3 x y z"],
    spacing: Float[Any, "3"],
) -> Stiffness:
    """Return the discrete medium with the given Lamé parameters.

    Parameters
    ----------
    first, shear
        (x, y, z), lambda and mu, Pa, positive in the head. Values elsewhere have no effect.
    free
        (3, x, y, z), the faces that move; see `free_faces`.
    spacing
        (3,), mm.

    Raises
    ------
    ValueError
        If the shapes do not fit together.

    Notes
    -----
    The modulus of an edge is the harmonic mean over those of its voxels that lie in the head. At a plane interface that
    runs between voxels the shear stress is continuous and the shear strain jumps, so that compliances add; the scheme
    stays of second order there, while the arithmetic mean makes it of first order. Where the head has a flat face, the
    edge lies on the wall: half the volume, twice the strain (u vanishes half a voxel away), so its modulus counts
    twice.
    """
    if first.shape != shear.shape or tuple(np.shape(free)) != (3, *first.shape) or np.shape(spacing) != (3,):
        raise ValueError(
            "elasticity needs lambda and mu of one shape (x, y, z), free faces (3, x, y, z) and a spacing (3,); got "
            f"{first.shape}, {shear.shape}, {tuple(np.shape(free))} and {np.shape(spacing)}"
        )
    x, y, z = first.shape
    shape = x, y, z
    layer = strides(shape)[0]
    moving = flat_faces(jnp.asarray(free, first.dtype))
    # Outside the head the modulus may be zero, and its reciprocal would put NaN into the gradient.
    compliance = jnp.pad(to_flat(1 / jnp.where(shear > 0, shear, 1)), (0, layer))
    of_faces = [sum(at_centres(compliance, a, shape)) / 2 * moving[a] for a in range(3)]
    edges = []
    for a, b in _PAIRS:
        total, count = (_around_edges(f[a], b, shape) + _around_edges(f[b], a, shape) for f in (of_faces, moving))
        # One free face out of four: the edge lies on a flat wall.
        weight = jnp.where(count == 1, 2, count)
        edges.append(weight / jnp.where(count > 0, total, 1))
    return Stiffness(
        jnp.pad(to_flat(first), (0, layer)),
        jnp.pad(to_flat(shear), (0, layer)),
        (edges[0], edges[1], edges[2]),
        moving,
        1 / jnp.asarray(spacing, first.dtype),
        shape,
    )


def elastic_force(displacement: Float[Array, "3 x y z"], medium: Stiffness) -> Float[Array, "3 x y z"]:
    """Return div sigma(u) on the free faces and zero on the others; its unit is the unit of the moduli over length^2.

    Parameters
    ----------
    displacement
        (3, x, y, z), u, zero on the clamped faces.
    medium
        Lamé's parameters; see `stiffness`.

    Notes
    -----
    The stress is sigma = lambda (div u) I + mu (grad u + grad u^T). The force times the voxel's volume is minus the
    derivative of the discrete energy, so minus the operator is symmetric and positive definite.
    """
    force = force_on_faces(flat_faces(displacement), medium)
    return jnp.stack([from_flat(component, medium.shape) for component in force])


def strains(displacement: Faces, medium: Stiffness) -> tuple[tuple[Flat, ...], tuple[Flat, ...]]:
    """Return the strains e_aa at centres, and the shear strains 2 e_bc on edges along a, laid out as in `Stiffness`."""
    distances, rates = strides(medium.shape), medium.rates
    layer = distances[0]
    size = displacement[0].size + layer
    u = [jnp.pad(component, layer) for component in displacement]

    def difference(values: Flat, start: int, axis: int) -> Flat:
        return (_cut(values, start + distances[axis], size) - _cut(values, start, size)) * rates[axis]

    normal = tuple(difference(u[a], layer - distances[a], a) for a in range(3))
    return normal, tuple(difference(u[a], 0, b) + difference(u[b], 0, a) for a, b in _PAIRS)


def force_on_faces(displacement: Faces, medium: Stiffness) -> Faces:
    """Return the elastic force of `elastic_force` as flattened components."""
    normal, shear = strains(displacement, medium)
    pressure = medium.first * (normal[0] + normal[1] + normal[2])
    components = []
    for a in range(3):
        here, there = at_centres(pressure + 2 * medium.shear * normal[a], a, medium.shape)
        total = (there - here) * medium.rates[a]
        for b in (b for b in range(3) if b != a):
            along = 3 - a - b
            here, there = at_edges(medium.edges[along] * shear[along], b, medium.shape)
            total = total + (there - here) * medium.rates[b]
        components.append(total * medium.free[a])
    return components[0], components[1], components[2]


def at_centres(centres: Flat, axis: int, shape: Shape) -> tuple[Flat, Flat]:
    """Return the values at the centres before and behind every face normal to `axis`."""
    distance, layer = strides(shape)[axis], strides(shape)[0]
    size = centres.size - layer
    return _cut(centres, 0, size), _cut(centres, distance, size)


def at_edges(edges: Flat, axis: int, shape: Shape) -> tuple[Flat, Flat]:
    """Return the values on the edges before and behind every face, along an axis that the face contains."""
    distance, layer = strides(shape)[axis], strides(shape)[0]
    size = edges.size - layer
    return _cut(edges, layer - distance, size), _cut(edges, layer, size)


def _around_edges(values: Flat, axis: int, shape: Shape) -> Flat:
    # The sum over the two faces of one direction that meet in an edge.
    distance, layer = strides(shape)[axis], strides(shape)[0]
    padded = jnp.pad(values, layer)
    size = values.size + layer
    return _cut(padded, 0, size) + _cut(padded, distance, size)


def _cut(values: Flat, start: int, size: int) -> Flat:
    return lax.slice(values, (start,), (start + size,))
