"""Transport by a displacement: finite volumes that conserve amounts and keep fractions between zero and one."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from tumorjax.operators.slabs import SLAB, Slab, slabs, widened
from tumorjax.operators.sweep import MARGIN, Axis, Material, sweep
from tumorjax.operators.sweep_pullback import sweep_pullback

# Up to this Courant number every field keeps its bounds; see `advect`.
SAFE_COURANT = 0.4
# States that the pullback keeps: those before the sweeps of two substeps.
_KEPT = 6
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
    leaves, tree = jax.tree.flatten(densities)
    state = plan.swept(3 * plan.count, _rows(_widened((leaves, material), 1), 1))
    leaves, moved = plan.cut(jax.tree.map(lambda rows: rows[0], state))
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

    JAX cannot transpose the loop of `advect`, whose number of turns depends on the flow.
    """
    plan = _plan(flow, densities, material, spacing, max_substeps, courant, direction, turn)
    leaves, tree = jax.tree.flatten(densities)
    state = _widened((leaves, material), 1)
    bars = jnp.zeros_like(plan.rates), _widened((jax.tree.leaves(cotangent[0]), cotangent[1]), 0)
    total = 3 * plan.count

    def back(turned: Any, carry: tuple) -> tuple:
        states, *bars = carry
        begin = _KEPT * ((total - 1) // _KEPT - turned)
        end = jnp.minimum(begin + _KEPT, total)
        # Most displacements need one or two substeps, and these nothing that is not kept.
        states = plan.swept(end - 1, jax.tree.map(lambda rows, field: rows.at[0].set(field), states, state))

        def pull(step: Any, bars: tuple) -> tuple:
            return plan.pulled_back(end - 1 - step, states, bars)

        return states, *lax.fori_loop(0, end - begin, pull, tuple(bars))

    carry = lax.fori_loop(0, (total + _KEPT - 1) // _KEPT, back, (_rows(state, _KEPT), *bars))
    _, rates_bar, cotangent = carry
    flow_bar = jnp.where(_passing(flow.shape[1:]), plan.cut(rates_bar), 0) * plan.scale[:, None, None, None]
    leaves, material_bar = plan.cut(cotangent)
    return flow_bar, jax.tree.unflatten(tree, leaves), material_bar


class _Plan(eqx.Module):
    """How a displacement is cut into sweeps, and the grid into slabs that are swept one by one.

    Slabs are layers across the first axis, or for sweeps along that, across the second. Fields are a margin wider along
    both axes.
    """

    rates: Float[Array, "3 u v z"]  # the volume that passes in a substep, in voxels
    up: Bool[Array, "3 u v z"]
    inner: Bool[Array, "3 u v z"]
    scale: Float[Array, "3"]  # rates over flow
    needed: Int[Array, ""]
    count: Int[Array, ""]  # of substeps; zero where more are needed than permitted
    turn: Int[Array, ""]
    shape: tuple[int, int, int] = eqx.field(static=True)

    def axis(self, number: Any) -> Int[Array, ""]:
        """Return the axis of a sweep, which are numbered over all substeps."""
        position = number % 3
        return jnp.where((number // 3 + self.turn) % 2 == 0, position, 2 - position)

    def cut(self, fields: Any) -> Any:
        """Return fields without their margins."""
        x, y, _ = self.shape
        return jax.tree.map(lambda field: field[..., MARGIN : MARGIN + x, MARGIN : MARGIN + y, :], fields)

    def swept(self, number: Any, states: Any) -> Any:
        """Return the states after so many sweeps, from that before the first one.

        The states are rows of arrays, that after k sweeps in row k modulo the number of rows.
        """
        keep = jax.tree.leaves(states)[0].shape[0]

        def through(number: Any, states: Any) -> Any:
            axis = self.axis(number)

            def slab(slab: Slab, states: Any) -> Any:
                new = sweep(self._faces(axis, slab), slab.of(states, number % keep), slab.size)
                # The margins keep their ones, for densities of material are divided by.
                return slab.put(states, new, 1, (number + 1) % keep)

            return self._by_slabs(axis, slab, states)

        return lax.fori_loop(0, number, through, states)

    def pulled_back(self, number: Any, states: Any, carry: tuple) -> tuple:
        """Return the cotangents of the rates, to which those of a sweep are added, and of the state before it.

        The state is one of those that `swept` keeps.
        """
        axis, keep = self.axis(number), jax.tree.leaves(states)[0].shape[0]

        def slab(slab: Slab, carry: tuple) -> tuple:
            rates_bar, bar = carry
            state = slab.of(states, number % keep)
            rate_bar, new = sweep_pullback(self._faces(axis, slab), state, slab.of(bar), slab.size)
            total = slab.of(rates_bar, axis) + jnp.pad(rate_bar, MARGIN * slab.reach)
            return slab.put(rates_bar, total, 0, axis), slab.put(bar, new, 0)

        return self._by_slabs(axis, slab, carry)

    def _faces(self, axis: Any, slab: Slab) -> Axis:
        rate, up, inner = slab.of((self.rates, self.up, self.inner), axis)
        return Axis(rate, up, inner, jnp.where(axis == 2, 1, slab.reach), slab.reach)

    def _by_slabs(self, axis: Any, function: Callable[[Slab, Any], Any], carry: Any) -> Any:
        """Carry something through all slabs of a sweep along an axis."""
        x, y, z = self.rates.shape[1:]
        # Other devices would only wait for each other's small kernels. `lax.platform_dependent` would have the sweeps
        # traced for both, which is a fifth of the time that tracing a gradient with mass effect takes.
        most = SLAB if jax.default_backend() == "cpu" else self.rates.size
        for across in (0, 1):
            thickness, count = slabs(self.shape, across, most)
            shape = (thickness, y, z) if across == 0 else (x, thickness, z)

            def through(number: Any, carry: Any, across: int = across, shape: Any = shape) -> Any:
                return function(Slab(MARGIN + number * shape[across], across, shape), carry)

            # A loop of no turns copies nothing, unlike a conditional.
            chosen = (axis == 0) == (across == 1)
            carry = lax.fori_loop(0, jnp.where(chosen, count, 0), through, carry)
        return carry


def _widened(fields: Any, value: float) -> Any:
    return jax.tree.map(lambda field: widened(field, value), fields)


def _rows(state: Any, number: int) -> Any:
    """Return room for states of which the first is given, and the others have its margins."""
    return jax.tree.map(lambda field: jnp.broadcast_to(field, (number, *field.shape)), state)


def _passing(shape: tuple[int, ...]) -> Bool[Array, "3 x y z"]:
    """Return the faces that are no walls."""
    return jnp.stack([place < n - 1 for place, n in zip(_places(shape), shape, strict=True)])


def _places(shape: tuple[int, ...]) -> list[Int[Array, "x y z"]]:
    return [lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(3)]


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
    passing = _passing(shape)
    inner = jnp.stack([place > 0 for place in _places(shape)]) & passing
    shares = jnp.where(passing, flow / jnp.asarray(spacing, dtype)[:, None, None, None], 0)
    ratio = jnp.max(jnp.abs(lax.stop_gradient(shares))) / jnp.asarray(courant, dtype)
    # A comparison with NaN is false.
    needed = jnp.where(ratio < _UNBOUNDED, jnp.maximum(jnp.ceil(ratio), 1), _UNBOUNDED).astype(jnp.int32)
    parts = needed.astype(dtype)

    def rows(fields: Array) -> Array:
        return jnp.stack([widened(field, 0) for field in fields])

    return _Plan(
        rates=rows(shares / parts),
        up=rows((flow if direction is None else direction) > 0),
        inner=rows(inner),
        scale=1 / (jnp.asarray(spacing, dtype) * parts),
        needed=needed,
        count=jnp.where(needed <= max_substeps, needed, 0),
        turn=jnp.asarray(turn, jnp.int32),
        shape=(shape[0], shape[1], shape[2]),
    )
