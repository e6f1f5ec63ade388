"""Transport by a displacement: finite volumes that conserve amounts and keep fractions between zero and one."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from tumorjax.operators.apart import apart

# Up to this Courant number every field keeps its bounds; see `advect`.
SAFE_COURANT = 0.4
# A face's density of material is at most this share above or below that of the voxel upstream.
_MAX_RISE = 0.25
# The number of substeps of a displacement that is not finite.
_UNBOUNDED = 2**30


class Material(eqx.Module):
    """The material that moves as one continuum, and its composition in each voxel.

    Parameters
    ----------
    density
        (x, y, z), relative density of material (theta), positive; one at the start.
    fractions
        Each (x, y, z), in [0, 1]: shares of the material of a voxel, such as white matter, grey matter and CSF.
        They compete: where their sum is one, it stays one.
    markers
        Each (x, y, z), in [0, 1]: shares that do not compete, such as the indicator of a domain.
    """

    density: Float[Array, "x y z"]
    fractions: tuple[Float[Array, "x y z"], ...]
    markers: tuple[Float[Array, "x y z"], ...] = ()


def advect(
    flow: Float[Array, "3 x y z"],
    densities: PyTree[Float[Array, "x y z"]],
    material: Material,
    spacing: Float[Any, "3"],
    *,
    max_substeps: int = 8,
    courant: float = SAFE_COURANT,
    direction: Float[Array, "3 x y z"] | None = None,
) -> tuple[PyTree[Float[Array, "x y z"]], Material, Int[Array, ""]]:
    """Move densities and material by a displacement: dc/dt + div(c v) = 0 for a unit of time, v constant in it.

    Fractions m obey d(theta m)/dt + div(theta m v) = 0, with theta the density of material. The sums over the grid
    of densities, of theta and of theta m are conserved, for nothing leaves the box.

    Parameters
    ----------
    flow
        (3, x, y, z), mm: component a at x lies on the face between x and its neighbour along axis a. The last
        layer along that axis is the wall, where the flow is taken to be zero. A face of zero flow is closed.
    densities
        Any tree of (x, y, z), not negative: amounts per volume, such as tumour cells.
    material
        See `Material`.
    spacing
        (3,), mm.
    max_substeps
        Most substeps, static. Substeps that are not needed cost almost nothing (unless `jax.vmap` batches the flow).
    courant
        Static. Largest share of a voxel that leaves it in a substep: the sum over the axes of the larger outflow
        through two opposite faces.
    direction
        (3, x, y, z): its sign determines the upstream side of each face; by default the flow itself. With a flow of
        the form (number times direction), the derivative with respect to the number is then right at zero, too.

    Returns
    -------
    tuple
        The moved densities, the moved material, and the number of substeps that this needs, at least one. If that is
        more than `max_substeps`, as it is for a flow that is not finite, nothing was moved.

    Raises
    ------
    ValueError
        If shapes differ, or `courant` or `max_substeps` are out of range.

    Notes
    -----
    Van Leer's MUSCL scheme with his harmonic limiter [1]_, unsplit, and Heun's method, which is a mean of Euler
    steps [2]_: of second order where fields are smooth and not extremal. Slopes are zero next to a wall.

    A face passes the flux of theta times the upstream value of the fraction, theta_f m_f. The limiter gives
    0 <= m_f <= 2 m and 0 <= 1 - m_f <= 2 (1 - m), and theta_f is held to theta (1 ± 1/4). On opposite faces
    deviations have opposite signs, so an axis takes at most its larger outflow times (2 + 2/4) theta m from a voxel,
    and as much of theta (1 - m): neither gets negative up to a Courant number of 1 / 2.5. For densities that is 1 / 2.

    The slopes of the fractions and of the rest 1 - sum(m) must add up to zero at each face; to this end either the
    positive or the negative ones are scaled down. So the bounds still hold, and a sum of one stays one.

    References
    ----------
    .. [1] B. van Leer, Towards the ultimate conservative difference scheme V, J. Comput. Phys. 32 (1979).
    .. [2] C.-W. Shu, S. Osher, Efficient implementation of essentially non-oscillatory shock-capturing schemes,
       J. Comput. Phys. 77 (1988).
    """
    shape, dtype = material.density.shape, material.density.dtype
    for leaf in jax.tree.leaves((densities, material)):
        if leaf.shape != shape or flow.shape != (3, *shape):
            raise ValueError(
                f"fields of shape {leaf.shape} and {shape} cannot move by a flow of shape {flow.shape}; "
                "put all on one grid, the flow with its three components in front"
            )
    if max_substeps < 1 or not 0 < courant <= SAFE_COURANT:
        raise ValueError(
            f"fields keep their bounds up to a Courant number of {SAFE_COURANT}, in one substep or more; "
            f"got courant={courant:g}, max_substeps={max_substeps}"
        )
    shares = flow / jnp.asarray(spacing, dtype)[:, None, None, None]
    ratio = _courant_number(lax.stop_gradient(shares)) / jnp.asarray(courant, dtype)
    # A comparison with NaN is false.
    needed = jnp.where(ratio < _UNBOUNDED, jnp.maximum(jnp.ceil(ratio), 1), _UNBOUNDED).astype(jnp.int32)
    count = jnp.where(needed <= max_substeps, needed, 0)
    faces = _faces(shares / needed.astype(dtype), flow if direction is None else direction)

    @jax.checkpoint
    def substep(state: Any, index: Int[Array, ""]) -> tuple[Any, None]:
        # Without the inner checkpoint, a skipped substep would store residuals as large as those of an executed one.
        advance = jax.checkpoint(partial(_heun, faces))
        return lax.cond(index < count, advance, lambda state: state, state), None

    leaves, tree = jax.tree.flatten(densities)
    state = jax.tree.map(jnp.ravel, (leaves, material))
    state, _ = lax.scan(substep, state, jnp.arange(max_substeps, dtype=jnp.int32))
    leaves, material = jax.tree.map(lambda field: field.reshape(shape), state)
    return jax.tree.unflatten(tree, leaves), material, needed


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


class _Faces(eqx.Module):
    """The faces across one axis; the face x lies between the voxels x and x + e. Arrays are flat."""

    rate: Float[Array, "n"]  # volume that passes in a substep, in voxels
    up: Bool[Array, "n"]  # whether it comes from x
    beyond: Int[Array, "n"]  # 1: from x, and x - e exists; -1: from x + e, and x + 2 e exists; else 0
    stride: int = eqx.field(static=True)


def _faces(shares: Float[Array, "3 x y z"], direction: Float[Array, "3 x y z"]) -> tuple[_Faces, ...]:
    shape = shares.shape[1:]
    faces = []
    for axis, stride in enumerate((shape[1] * shape[2], shape[2], 1)):
        index, last = lax.broadcasted_iota(jnp.int32, shape, axis), shape[axis] - 1
        rate = jnp.where(index < last, shares[axis], 0)
        up = direction[axis] > 0
        beyond = jnp.where(up, jnp.where(index > 0, 1, 0), jnp.where(index < last - 1, -1, 0)).astype(jnp.int8)
        faces.append(_Faces(rate.ravel(), up.ravel(), beyond.ravel(), stride))
    return tuple(faces)


def _courant_number(shares: Float[Array, "3 x y z"]) -> Float[Array, ""]:
    total = jnp.zeros(shares.shape[1:], shares.dtype)
    for axis in range(3):
        rate = lax.slice_in_dim(shares[axis], 0, shares.shape[1 + axis] - 1, axis=axis)
        up, down = [(0, 0)] * 3, [(0, 0)] * 3
        up[axis], down[axis] = (0, 1), (1, 0)
        total = total + jnp.maximum(jnp.pad(jnp.maximum(rate, 0), up), jnp.pad(jnp.maximum(-rate, 0), down))
    return total.max()


# Fields are flat: a neighbour along any axis is a fixed distance away, so that the innermost loop of every stencil
# runs over the whole grid. Values that a stencil reads across the end of a row have no effect: the rate of a wall is
# zero, and `beyond` marks the faces that have no second neighbour upstream.


def _heun(faces: tuple[_Faces, ...], state: Any) -> Any:
    """Return the fields after a substep: the means of the state before and after two Euler steps.

    Fractions are averaged with the densities of material as weights.
    """
    densities, material = state
    later, moved = _euler(faces, _euler(faces, state))
    density = (material.density + moved.density) / 2
    weight = moved.density / (2 * density)

    def mean(first: Float[Array, "n"], second: Float[Array, "n"]) -> Float[Array, "n"]:
        return first + weight * (second - first)

    return [(first + second) / 2 for first, second in zip(densities, later, strict=True)], Material(
        density,
        tuple(map(mean, material.fractions, moved.fractions)),
        tuple(map(mean, material.markers, moved.markers)),
    )


def _euler(faces: tuple[_Faces, ...], state: Any) -> Any:
    """Return the fields after an Euler step."""
    material = state[1]
    rest = 1 - sum(material.fractions, jnp.zeros_like(material.density))
    reach = 2 * faces[0].stride
    padded, rest = jax.tree.map(lambda field: jnp.pad(field, reach), (state, rest))
    inflows = []
    for face in faces:
        values = apart(_face_values, padded, rest, face)
        fluxes = apart(_fluxes, face.rate, *values)
        inflows.append(apart(partial(_inflow, face.stride), fluxes))
    return apart(_update, state, inflows)


def _face_values(padded: Any, rest: Float[Array, "p"], face: _Faces) -> Any:
    """Return the value of each field at the faces; for fractions, the upstream value and the half slope apart."""

    def upstream(field: Float[Array, "p"]) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
        size, reach = face.rate.size, (field.size - face.rate.size) // 2
        first = [reach + k * face.stride for k in (-1, 0, 1, 2)]
        before, low, high, after = (lax.slice(field, (start,), (start + size,)) for start in first)
        behind = jnp.where(face.beyond > 0, low - before, jnp.where(face.beyond < 0, after - high, 0))
        rise = _half_slope(behind, high - low)
        return jnp.where(face.up, low, high), jnp.where(face.up, rise, -rise)

    densities, material = padded
    value, rise = upstream(material.density)
    bound = jnp.asarray(_MAX_RISE, value.dtype) * value
    values, rises = zip(*map(upstream, (*material.fractions, rest)), strict=True)
    return (
        [sum(upstream(field)) for field in densities],
        value + jnp.where(rise > bound, bound, jnp.where(rise < -bound, -bound, rise)),
        values[:-1],
        rises,
        [sum(upstream(field)) for field in material.markers],
    )


@jax.custom_jvp
def _half_slope(first: Float[Array, "n"], second: Float[Array, "n"]) -> Float[Array, "n"]:
    """Return half of van Leer's slope, the harmonic mean of two differences, or zero where their signs differ."""
    return _share(first, second) * second


@_half_slope.defjvp
def _half_slope_jvp(primals: Any, tangents: Any) -> Any:
    # JAX's rule for the quotient overflows for tiny differences.
    first, second = _share(*primals), _share(*primals[::-1])
    return first * primals[1], second**2 * tangents[0] + first**2 * tangents[1]


def _share(first: Float[Array, "n"], second: Float[Array, "n"]) -> Float[Array, "n"]:
    monotone = first * second > 0
    return jnp.where(monotone, first, 0) / jnp.where(monotone, first + second, 1)


def _fluxes(rate: Float[Array, "n"], densities: Any, density: Any, values: Any, rises: Any, markers: Any) -> Any:
    """Return the flux of each field through the faces; for a fraction or marker m, the flux of theta m."""
    rising = sum(jnp.where(rise > 0, rise, 0) for rise in rises)
    excess = sum(rises)
    # Fractions are of the order of one, so this is negligible; its inverse square, in derivatives, is still finite.
    tiny = jnp.asarray(jnp.finfo(rate.dtype).eps ** 2, rate.dtype)
    cut = excess / (jnp.where(excess > 0, rising, rising - excess) + tiny)
    up, down = 1 - jnp.where(cut > 0, cut, 0), 1 + jnp.where(cut < 0, cut, 0)
    carrier = rate * density
    fractions = (value + rise * jnp.where(rise > 0, up, down) for value, rise in zip(values, rises[:-1], strict=True))
    return [rate * value for value in densities], Material(
        carrier, tuple(carrier * value for value in fractions), tuple(carrier * value for value in markers)
    )


def _inflow(stride: int, fluxes: Any) -> Any:
    return jax.tree.map(lambda flux: jnp.pad(flux[:-stride], (stride, 0)) - flux, fluxes)


def _update(state: Any, inflows: Any) -> Any:
    densities, material = state
    into, entering = jax.tree.map(lambda *axes: sum(axes), *inflows)
    density = material.density + entering.density

    def mixed(fraction: Float[Array, "n"], amount: Float[Array, "n"]) -> Float[Array, "n"]:
        # Equal to (theta m + amount) / new theta, but exact where nothing moves.
        return fraction + (amount - entering.density * fraction) / density

    return list(map(jnp.add, densities, into)), Material(
        density,
        tuple(map(mixed, material.fractions, entering.fractions)),
        tuple(map(mixed, material.markers, entering.markers)),
    )
