"""Transport along one axis: one sweep of a finite-volume scheme, and its pullback.

Fields are flat: a neighbour along any axis is a fixed distance away, so that the innermost loop of every stencil
runs over the whole grid, and that one compiled sweep serves all three axes. Values that a stencil reads across the end
of a row have no effect: the rate of a wall is zero, and `inner` marks the voxels that have both neighbours.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from tumorjax.operators.apart import apart

# A face's density of material is at most this share above or below that of the voxel upstream.
_MAX_RISE = 0.25

Flat = Float[Array, "n"]


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
        Each (x, y, z): what else the material carries, each for itself, such as the indicator of a domain. A marker in
        [0, 1] stays there, and no marker gets below zero.
    """

    density: Float[Array, "x y z"]
    fractions: tuple[Float[Array, "x y z"], ...]
    markers: tuple[Float[Array, "x y z"], ...] = ()


class Axis(eqx.Module):
    """The faces across one axis; the face x lies between the voxels x and x + e. Arrays are flat.

    Parameters
    ----------
    rate
        (n,), the volume that passes each face in a sweep, in voxels; zero on walls.
    up
        (n,), whether it comes from x.
    inner
        (n,), whether the voxel has both neighbours along the axis.
    stride
        The distance between such neighbours. It may be traced.
    reach
        Static: the largest stride of the grid.
    """

    rate: Flat
    up: Bool[Array, "n"]
    inner: Bool[Array, "n"]
    stride: Int[Array, ""]
    reach: int = eqx.field(static=True)

    def before(self, field: Flat) -> Flat:
        """Return the value at x - e."""
        return self._at(field, -self.stride)

    def behind(self, field: Flat) -> Flat:
        """Return the value at x + e."""
        return self._at(field, self.stride)

    def upstream(self, field: Flat) -> Flat:
        """Return the value upstream of each face."""
        return jnp.where(self.up, field, self.behind(field))

    def downward(self, faces: Flat) -> Flat:
        """Return the sum over the faces that a voxel is upstream of: the transpose of `upstream`."""
        return jnp.where(self.up, faces, 0) + self.before(jnp.where(self.up, 0, faces))

    def _at(self, field: Flat, distance: Any) -> Flat:
        return lax.dynamic_slice(jnp.pad(field, self.reach), (self.reach + distance,), (field.size,))


State = tuple[list[Flat], Material]
"""Densities, such as cells, and the material."""


def sweep(axis: Axis, state: State) -> State:
    """Return densities and material after a sweep; see `advect` for the scheme."""
    rises = apart(_cut, state[1].density, apart(_slopes, axis, state))
    fluxes = apart(lambda *given: _fluxes(axis.rate, _squeeze(axis), _values(*given)), axis, state, rises)
    return apart(_update, axis, state, fluxes)


def sweep_pullback(axis: Axis, state: State, cotangent: State) -> tuple[Flat, State]:
    """Return the cotangents of the rate and of the state before a sweep.

    What the sweep computes on its way is computed again, once. Each part between two stencils is differentiated by
    JAX, and the stencils by hand: `apart` keeps them from being evaluated anew for each of their consumers.
    """
    slopes = apart(_slopes, axis, state)
    values = apart(_values, axis, state, apart(_cut, state[1].density, slopes))
    fluxes = apart(lambda axis, values: _fluxes(axis.rate, _squeeze(axis), values), axis, values)
    state_bar, inflow_bar = apart(_update_pullback, axis, state, fluxes, cotangent)
    rate_bar, squeeze_bar, values_bar = apart(_faces_pullback, axis, values, inflow_bar)
    rate_bar = apart(_rate_pullback, axis, state, values, rate_bar, squeeze_bar, values_bar)
    own_bar, slopes_bar = apart(_cut_pullback, axis, state[1].density, slopes, values_bar)
    low_bar, high_bar = apart(_slopes_pullback, axis, state, slopes_bar)
    return rate_bar, apart(_gather, axis, state_bar, own_bar, low_bar, high_bar, values_bar)


def _slopes(axis: Axis, state: State) -> tuple[State, Flat]:
    """Return half of each field's limited slope in each voxel, and of that of what the fractions leave."""
    return _limited(axis.inner, *_differences(axis, state))


def _differences(axis: Axis, state: State) -> tuple[State, State]:
    low = jax.tree.map(lambda field: field - axis.before(field), state)
    return low, jax.tree.map(lambda field: axis.behind(field) - field, state)


def _limited(inner: Bool[Array, "n"], low: State, high: State) -> tuple[State, Flat]:
    """Return half slopes from the differences on both sides."""

    def limit(before: Flat, behind: Flat) -> Flat:
        return jnp.where(inner, _half_slope(before, behind), 0)

    zero = jnp.zeros_like(low[1].density)
    rest = limit(-sum(low[1].fractions, zero), -sum(high[1].fractions, zero))
    return jax.tree.map(limit, low, high), rest


def _cut(density: Flat, slopes: tuple[State, Flat]) -> State:
    """Return the slopes within the bound of the material's density, and those of the fractions so that they add up."""
    (densities, material), rest = slopes
    rise, bound = material.density, jnp.asarray(_MAX_RISE, density.dtype) * density
    rise = jnp.where(rise > bound, bound, jnp.where(rise < -bound, -bound, rise))
    # The slopes of the fractions and of what they leave must add up to zero.
    rises = [*material.fractions, rest]
    rising, excess = sum(jnp.where(r > 0, r, 0) for r in rises), sum(rises)
    # Fractions are of the order of one, so this is negligible; its inverse square, in derivatives, is still finite.
    tiny = jnp.asarray(jnp.finfo(density.dtype).eps ** 2, density.dtype)
    cut = excess / (jnp.where(excess > 0, rising, rising - excess) + tiny)
    up, down = 1 - jnp.where(cut > 0, cut, 0), 1 + jnp.where(cut < 0, cut, 0)
    fractions = tuple(r * jnp.where(r > 0, up, down) for r in material.fractions)
    return densities, Material(rise, fractions, material.markers)


@jax.custom_jvp
def _half_slope(first: Flat, second: Flat) -> Flat:
    """Return half of van Leer's slope, the harmonic mean of two differences, or zero where their signs differ."""
    return _share(first, second) * second


@_half_slope.defjvp
def _half_slope_jvp(primals: Any, tangents: Any) -> Any:
    # JAX's rule for the quotient overflows for tiny differences.
    first, second = _share(*primals), _share(*primals[::-1])
    return first * primals[1], second**2 * tangents[0] + first**2 * tangents[1]


def _share(first: Flat, second: Flat) -> Flat:
    monotone = first * second > 0
    return jnp.where(monotone, first, 0) / jnp.where(monotone, first + second, 1)


def _kept(axis: Axis) -> Flat:
    """Return the share of a half slope that the value at a face has gained, in the mean of the sweep."""
    return 1 - jnp.where(axis.up, axis.rate, -axis.rate)


def _values(axis: Axis, state: State, rises: State) -> State:
    """Return the value of each field that passes a face, but for its compression."""
    kept = _kept(axis)

    def value(field: Flat, rise: Flat) -> Flat:
        return axis.upstream(field) + kept * jnp.where(axis.up, rise, -axis.behind(rise))

    return jax.tree.map(value, state, rises)


def _squeeze(axis: Axis) -> Flat:
    """Return the compression of the voxel upstream of a face in half a sweep."""
    return -axis.upstream(axis.rate - axis.before(axis.rate)) / 2


def _fluxes(rate: Flat, squeeze: Flat, values: State) -> State:
    """Return the flux of each field through the faces; for a fraction or marker m, the flux of theta m."""
    densities, material = values
    volume = rate * (1 + squeeze)
    carrier = volume * material.density
    return [volume * value for value in densities], Material(
        carrier,
        tuple(carrier * value for value in material.fractions),
        tuple(carrier * value for value in material.markers),
    )


def _update(axis: Axis, state: State, fluxes: State) -> State:
    return _mixed(state, jax.tree.map(lambda flux: axis.before(flux) - flux, fluxes))


def _mixed(state: State, inflows: State) -> State:
    (densities, material), (into, entering) = state, inflows
    density = material.density + entering.density

    def mixed(fraction: Flat, amount: Flat) -> Flat:
        # Equal to (theta m + amount) / new theta, but exact where nothing moves.
        return fraction + (amount - entering.density * fraction) / density

    return list(map(jnp.add, densities, into)), Material(
        density,
        tuple(map(mixed, material.fractions, entering.fractions)),
        tuple(map(mixed, material.markers, entering.markers)),
    )


def _update_pullback(axis: Axis, state: State, fluxes: State, cotangent: State) -> tuple[State, State]:
    inflows = jax.tree.map(lambda flux: axis.before(flux) - flux, fluxes)
    return jax.vjp(_mixed, state, inflows)[1](cotangent)


def _faces_pullback(axis: Axis, values: State, inflow_bar: State) -> tuple[Flat, Flat, State]:
    """Return the cotangents of rate, compression and values of the faces."""
    flux_bar = jax.tree.map(lambda bar: axis.behind(bar) - bar, inflow_bar)
    return jax.vjp(_fluxes, axis.rate, _squeeze(axis), values)[1](flux_bar)


def _rate_pullback(
    axis: Axis, state: State, values: State, rate_bar: Flat, squeeze_bar: Flat, values_bar: State
) -> Flat:
    """Return the whole cotangent of the rate: directly, by the compression and by the share of slopes that is kept."""
    gains = jax.tree.map(lambda bar, value, field: bar * (value - axis.upstream(field)), values_bar, values, state)
    kept_bar = sum(jax.tree.leaves(gains)) / _kept(axis)
    spread_bar = -axis.downward(squeeze_bar) / 2
    return rate_bar - jnp.where(axis.up, kept_bar, -kept_bar) + spread_bar - axis.behind(spread_bar)


def _cut_pullback(
    axis: Axis, density: Flat, slopes: tuple[State, Flat], values_bar: State
) -> tuple[Flat, tuple[State, Flat]]:
    """Return the cotangents of the material's density, by its bound, and of the slopes."""
    kept = _kept(axis)

    def rise_bar(bar: Flat) -> Flat:
        gained = kept * bar
        return jnp.where(axis.up, gained, 0) - axis.before(jnp.where(axis.up, 0, gained))

    return jax.vjp(_cut, density, slopes)[1](jax.tree.map(rise_bar, values_bar))


def _slopes_pullback(axis: Axis, state: State, slopes_bar: tuple[State, Flat]) -> tuple[State, State]:
    """Return the cotangents of the differences."""
    return jax.vjp(lambda *given: _limited(axis.inner, *given), *_differences(axis, state))[1](slopes_bar)


def _gather(axis: Axis, state_bar: State, own_bar: Flat, low_bar: State, high_bar: State, values_bar: State) -> State:
    """Return the cotangent of the state from those of all that was computed from it."""

    def total(bar: Flat, low: Flat, high: Flat, value: Flat) -> Flat:
        return bar + axis.downward(value) + low - axis.behind(low) - high + axis.before(high)

    densities, material = jax.tree.map(total, state_bar, low_bar, high_bar, values_bar)
    return densities, Material(material.density + own_bar, material.fractions, material.markers)
