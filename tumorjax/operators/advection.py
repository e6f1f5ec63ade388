"""Transport by a displacement: finite volumes that conserve amounts and keep fractions between zero and one."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from tumorjax.operators.sweep import Axis, Material, sweep, sweep_pullback

# Up to this Courant number every field keeps its bounds; see `advect`.
SAFE_COURANT = 0.4
# The number of substeps of a displacement that is not finite.
_UNBOUNDED = 2**30

Field = Float[Array, "x y z"]
Vector = Float[Array, "3 x y z"]


def advect(
    flow: Vector,
    densities: PyTree[Field],
    material: Material,
    spacing: Float[Any, "3"],
    *,
    max_substeps: int = 8,
    courant: float = SAFE_COURANT,
    direction: Vector | None = None,
    turn: Int[Array, ""] | int = 0,
) -> tuple[PyTree[Field], Material, Int[Array, ""]]:
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
        Static. Largest share of a voxel that passes a face in a substep.
    direction
        (3, x, y, z): its sign determines the upstream side of each face; by default the flow itself. With a flow of
        the form (number times direction), the derivative with respect to the number is then right at zero, too.
    turn
        Even where the first substep begins with the first axis, odd where it begins with the last. Of many small
        displacements in a row, every other one should be odd.

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
    A substep is a sweep along each axis, and the next one takes the axes in the reverse order (Strang [3]_). A sweep
    is van Leer's MUSCL scheme with his harmonic limiter [1]_, and with values at faces that are means over the time of
    the sweep [2]_: of second order where fields are smooth and not extremal. Slopes are zero next to a wall.

    With r the share of a voxel that passes a face, and d the share by which the voxel upstream swells, the face passes
    r (1 - d / 2) (c + (1 - |r|) s) of a density c of half slope s; of theta likewise, and theta_f m_f of a fraction.
    The limiter gives 0 <= m_f <= 2 m and 0 <= 1 - m_f <= 2 (1 - m), and theta_f is held to theta (1 ± 1/4) before the
    swelling. On opposite faces deviations have opposite signs, so a sweep takes at most 2.5 r (1 - d / 2) theta m
    from a voxel, with r its larger outflow, and as much of theta (1 - m). Where both faces are outflows d is positive;
    where one is an inflow of R, the bound is 2.5 r (1 + (R - r) / 2). Up to r = R = 1 / 2.5 neither exceeds one.

    The slopes of the fractions and of the rest 1 - sum(m) must add up to zero in each voxel; to this end either the
    positive or the negative ones are scaled down. So the bounds still hold, and a sum of one stays one.

    References
    ----------
    .. [1] B. van Leer, Towards the ultimate conservative difference scheme V, J. Comput. Phys. 32 (1979).
    .. [2] P. Colella, H. M. Glaz, J. Comput. Phys. 59 (1985), and P. Colella, Multidimensional upwind methods for
       hyperbolic conservation laws, J. Comput. Phys. 87 (1990).
    .. [3] G. Strang, On the construction and comparison of difference schemes, SIAM J. Numer. Anal. 5 (1968).
    """
    plan = _plan(flow, densities, material, spacing, max_substeps, courant, direction, turn)

    def substep(state: Any, index: Int[Array, ""]) -> tuple[Any, None]:
        advance = jax.checkpoint(lambda state: plan.substep(index, state))
        return lax.cond(index < plan.count, advance, lambda state: state, state), None

    leaves, tree = jax.tree.flatten(densities)
    state = jax.tree.map(jnp.ravel, (leaves, material))
    state, _ = lax.scan(jax.checkpoint(substep), state, jnp.arange(max_substeps, dtype=jnp.int32))
    leaves, moved = jax.tree.map(lambda field: field.reshape(plan.shape), state)
    return jax.tree.unflatten(tree, leaves), moved, plan.needed


def advect_pullback(
    flow: Vector,
    densities: PyTree[Field],
    material: Material,
    spacing: Float[Any, "3"],
    cotangent: tuple[PyTree[Field], Material],
    *,
    max_substeps: int = 8,
    courant: float = SAFE_COURANT,
    direction: Vector | None = None,
    turn: Int[Array, ""] | int = 0,
) -> tuple[Vector, PyTree[Field], Material]:
    """Return the cotangents of flow, densities and material of `advect`, from those of its result.

    JAX would return the same, but keep the fields before each of the permitted substeps and run every sweep several
    times.
    """
    plan = _plan(flow, densities, material, spacing, max_substeps, courant, direction, turn)
    leaves, tree = jax.tree.flatten(densities)
    state, cotangent = jax.tree.map(jnp.ravel, ((leaves, material), (jax.tree.leaves(cotangent[0]), cotangent[1])))

    # A method of a module is not hashable while its arrays are traced.
    def substep(index: Any, state: Any) -> Any:
        return plan.substep(index, state)

    def back(turned: Any, carry: tuple) -> tuple:
        index = plan.count - 1 - turned
        # Most displacements need one or two substeps; to keep their fields would cost more than to run them again.
        first = lax.fori_loop(0, index, substep, state)
        second = sweep(plan.axis(index, 0), first)
        third = sweep(plan.axis(index, 1), second)
        states = jax.tree.map(lambda *fields: jnp.stack(fields), first, second, third)

        def one(step: Any, carry: tuple) -> tuple:
            rates_bar, bar = carry
            axis = plan.axis(index, 2 - step)
            begun = jax.tree.map(lambda fields: fields[2 - step], states)
            rate_bar, bar = sweep_pullback(axis, begun, bar)
            return rates_bar.at[plan.order(index, 2 - step)].add(rate_bar), bar

        return lax.fori_loop(0, 3, one, carry)

    rates_bar, (leaves, material_bar) = lax.fori_loop(0, plan.count, back, (jnp.zeros_like(plan.rates), cotangent))
    shaped = jax.tree.map(lambda field: field.reshape(plan.shape), (leaves, material_bar))
    flow_bar = jnp.where(plan.passing, rates_bar, 0).reshape(flow.shape) * plan.scale[:, None, None, None]
    return flow_bar, jax.tree.unflatten(tree, shaped[0]), shaped[1]


class _Plan(eqx.Module):
    """How a displacement is cut into sweeps. Arrays over faces and voxels are flat, (3, n)."""

    rates: Float[Array, "3 n"]  # the volume that passes in a substep, in voxels
    up: Bool[Array, "3 n"]
    inner: Bool[Array, "3 n"]
    passing: Bool[Array, "3 n"]  # the faces that are no walls
    scale: Float[Array, "3"]  # rates over flow
    needed: Int[Array, ""]
    count: Int[Array, ""]  # of substeps; zero where more are needed than permitted
    turn: Int[Array, ""]
    shape: tuple[int, int, int] = eqx.field(static=True)

    def order(self, index: Any, position: Any) -> Int[Array, ""]:
        """Return the axis of a sweep of a substep."""
        return jnp.where((index + self.turn) % 2 == 0, position, 2 - position)

    def axis(self, index: Any, position: Any) -> Axis:
        """Return the faces of a sweep."""
        strides = (self.shape[1] * self.shape[2], self.shape[2], 1)
        axis = self.order(index, position)
        return Axis(
            self.rates[axis], self.up[axis], self.inner[axis], jnp.asarray(strides, jnp.int32)[axis], max(strides)
        )

    def substep(self, index: Any, state: Any) -> Any:
        """Return the state after the three sweeps of a substep."""
        return lax.scan(
            lambda state, position: (sweep(self.axis(index, position), state), None),
            state,
            jnp.arange(3, dtype=jnp.int32),
        )[0]


def _plan(
    flow: Vector,
    densities: PyTree[Field],
    material: Material,
    spacing: Any,
    max_substeps: int,
    courant: float,
    direction: Vector | None,
    turn: Any,
) -> _Plan:
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
    places = [lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(3)]
    passing = jnp.stack([place < n - 1 for place, n in zip(places, shape, strict=True)])
    inner = jnp.stack([place > 0 for place in places]) & passing
    shares = jnp.where(passing, flow / jnp.asarray(spacing, dtype)[:, None, None, None], 0)
    ratio = jnp.max(jnp.abs(lax.stop_gradient(shares))) / jnp.asarray(courant, dtype)
    # A comparison with NaN is false.
    needed = jnp.where(ratio < _UNBOUNDED, jnp.maximum(jnp.ceil(ratio), 1), _UNBOUNDED).astype(jnp.int32)
    parts = needed.astype(dtype)
    flat = (3, shape[0] * shape[1] * shape[2])
    return _Plan(
        rates=(shares / parts).reshape(flat),
        up=((flow if direction is None else direction) > 0).reshape(flat),
        inner=inner.reshape(flat),
        passing=passing.reshape(flat),
        scale=1 / (jnp.asarray(spacing, dtype) * parts),
        needed=needed,
        count=jnp.where(needed <= max_substeps, needed, 0),
        turn=jnp.asarray(turn, jnp.int32),
        shape=(shape[0], shape[1], shape[2]),
    )
