"""Transport along one axis: one sweep of a finite-volume scheme, and its pullback.

Fields are flat, and neighbours along the axis are a fixed distance apart, so that the innermost loop of every stencil
runs over the whole field, and that one compiled sweep serves several axes. A sweep acts on windows: parts of the grid,
as small as a cache demands, with a margin on both sides that stencils consume. Values that a stencil reads in the
margin, or across the end of a row, have no effect: the rate of a wall is zero, and `inner` marks the voxels that have
both neighbours.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from tumorjax.operators.apart import apart

MARGIN = 7
"""How many times its reach the windows of a sweep, and of its pullback, are longer than its result, at both ends."""

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
    """The faces across one axis; the face x lies between the voxels x and x + e. Arrays are flat windows.

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
        Static: the largest stride.
    """

    rate: Flat
    up: Bool[Array, "n"]
    inner: Bool[Array, "n"]
    stride: Int[Array, ""]
    reach: int = eqx.field(static=True)

    def at(self, field: Array, size: int, shift: int = 0) -> Array:
        """Return the values at x + shift e, for the `size` voxels x in the middle of the window."""
        start = (field.size - size) // 2
        if shift == 0:
            return lax.slice(field, (start,), (start + size,))
        return lax.dynamic_slice(field, (start + shift * self.stride,), (size,), allow_negative_indices=False)

    def step(self, field: Flat, size: int, shift: int = 0) -> Flat:
        """Return the difference between the values at x + shift e and before it."""
        return self.at(field, size, shift) - self.at(field, size, shift - 1)

    def upstream(self, field: Flat, size: int) -> Flat:
        """Return the value upstream of each face."""
        return jnp.where(self.at(self.up, size), self.at(field, size), self.at(field, size, 1))

    def downward(self, faces: Flat, size: int, shift: int = 0) -> Flat:
        """Return the sum over the faces that a voxel is upstream of: the transpose of `upstream`."""
        own = jnp.where(self.at(self.up, size, shift), self.at(faces, size, shift), 0)
        return own + jnp.where(self.at(self.up, size, shift - 1), 0, self.at(faces, size, shift - 1))

    def kept(self, size: int, shift: int = 0) -> Flat:
        """Return the share of a half slope that the value at a face has gained, in the mean of the sweep."""
        rate = self.at(self.rate, size, shift)
        return 1 - jnp.where(self.at(self.up, size, shift), rate, -rate)

    def swelling(self, size: int) -> Flat:
        """Return one plus the compression of the voxel upstream of a face in half a sweep."""
        return 1 - jnp.where(self.at(self.up, size), self.step(self.rate, size), self.step(self.rate, size, 1)) / 2


State = tuple[list[Flat], Material]
"""Densities, such as cells, and the material."""

Slopes = tuple[State, Flat]
"""A value for each field, and one for what the fractions leave."""


def sweep(axis: Axis, state: State, size: int) -> State:
    """Return densities and material of `size` voxels after a sweep; see `advect` for the scheme."""
    _, values, carried = _through_faces(axis, state, size)
    return apart(_update, axis, state, values, carried, size=size)


def sweep_pullback(axis: Axis, state: State, cotangent: State, size: int) -> tuple[Flat, State]:
    """Return the cotangents of the rate and of the state before a sweep, for `size` voxels.

    What the sweep computes on its way is computed again, once. Derivatives are written out, because JAX's would
    evaluate what several cotangents have in common again for each of them.
    """
    one, two, three, four = (size + 2 * k * axis.reach for k in (1, 2, 3, 4))
    slopes, values, carried = _through_faces(axis, state, four)
    material = apart(_update_material, axis, state[1], values[1], carried, size=four)
    material_bar = apart(_update_pullback, axis, material, cotangent[1], size=four)
    volume_bar, values_bar = _carriage_pullback(axis, values, carried, (cotangent[0], material_bar), size=three)
    rises_bar = apart(_values_pullback, axis, values_bar, size=two)
    slopes_bar = apart(_cut_pullback, axis, state[1].density, slopes, rises_bar, size=two)
    steps_bar = apart(_slopes_pullback, axis, state, slopes_bar, size=one)
    rate_bar = _rate_pullback(axis, state, values, volume_bar, values_bar, size=size)
    rise = slopes[0][1].density, rises_bar[1].density
    return rate_bar, apart(_gather, axis, state, material_bar, cotangent[0], values_bar, rise, steps_bar, size=size)


def _through_faces(axis: Axis, state: State, size: int) -> tuple[Slopes, State, tuple[Flat, Flat]]:
    """Return half slopes, and for the faces of `size` voxels the values that pass them, and how much does."""
    inner, outer = size + 2 * axis.reach, size + 4 * axis.reach
    slopes = apart(_slopes, axis, state, size=outer)
    (densities, material), rest = slopes
    material = apart(_cut, axis.at(state[1].density, outer), material, rest)
    values = apart(_values, axis, state, (densities, material), size=inner)
    return slopes, values, apart(_carriage, axis, values[1].density)


def _slopes(axis: Axis, state: State, *, size: int) -> Slopes:
    """Return half of each field's limited slope in each voxel, and of that of what the fractions leave."""
    inner = axis.at(axis.inner, size)

    def limited(before: Flat, behind: Flat) -> Flat:
        return jnp.where(inner, _half_slope(before, behind), 0)

    slopes = jax.tree.map(lambda field: limited(axis.step(field, size), axis.step(field, size, 1)), state)
    return slopes, limited(*(_rest_step(axis, state[1], size, shift) for shift in (0, 1)))


def _rest_step(axis: Axis, material: Material, size: int, shift: int) -> Flat:
    """Return the difference between neighbours of what the fractions leave."""
    zero = jnp.zeros(size, material.density.dtype)
    return -sum((axis.step(fraction, size, shift) for fraction in material.fractions), zero)


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


def _cut(density: Flat, material: Material, rest: Flat) -> Material:
    """Return the slopes within the bound of the material's density, and those of the fractions so that they add up."""
    rise, bound = material.density, jnp.asarray(_MAX_RISE, density.dtype) * density
    rise = jnp.where(rise > bound, bound, jnp.where(rise < -bound, -bound, rise))
    cut, _ = _excess([*material.fractions, rest])
    fractions = tuple(r * _left(r, cut) for r in material.fractions)
    return Material(rise, fractions, material.markers)


def _excess(rises: list[Flat]) -> tuple[Flat, Flat]:
    """Return the share of the positive slopes, or minus that of the negative ones, that is too much; and its divisor.

    The slopes of the fractions and of what they leave must add up to zero.
    """
    rising, excess = sum(jnp.where(r > 0, r, 0) for r in rises), sum(rises)
    # Fractions are of the order of one, so this is negligible; its inverse square, in derivatives, is still finite.
    tiny = jnp.asarray(jnp.finfo(excess.dtype).eps ** 2, excess.dtype)
    divisor = jnp.where(excess > 0, rising, rising - excess) + tiny
    return excess / divisor, divisor


def _left(rise: Flat, cut: Flat) -> Flat:
    return jnp.where(rise > 0, 1 - jnp.where(cut > 0, cut, 0), 1 + jnp.where(cut < 0, cut, 0))


def _values(axis: Axis, state: State, rises: State, *, size: int) -> State:
    """Return the value of each field that passes a face, but for its compression."""
    kept, up = axis.kept(size), axis.at(axis.up, size)

    def value(field: Flat, rise: Flat) -> Flat:
        gain = jnp.where(up, axis.at(rise, size), -axis.at(rise, size, 1))
        return axis.upstream(field, size) + kept * gain

    return jax.tree.map(value, state, rises)


def _carriage(axis: Axis, density: Flat) -> tuple[Flat, Flat]:
    """Return the volume that passes each face, as it is upstream, and its material, of this density."""
    volume = axis.at(axis.rate, density.size) * axis.swelling(density.size)
    return volume, volume * density


def _inflow(axis: Axis, carried: Flat, values: Flat, size: int) -> Flat:
    before, here = (axis.at(carried, size, shift) * axis.at(values, size, shift) for shift in (-1, 0))
    return before - here


def _update(axis: Axis, state: State, values: State, carried: tuple[Flat, Flat], *, size: int) -> State:
    densities = [
        axis.at(field, size) + _inflow(axis, carried[0], value, size)
        for field, value in zip(state[0], values[0], strict=True)
    ]
    return densities, _update_material(axis, state[1], values[1], carried, size=size)


def _update_material(
    axis: Axis, material: Material, values: Material, carried: tuple[Flat, Flat], *, size: int
) -> Material:
    carrier = carried[1]
    entering = -axis.step(carrier, size)
    density = axis.at(material.density, size) + entering

    def mixed(fraction: Flat, value: Flat) -> Flat:
        here = axis.at(fraction, size)
        # Equal to (theta m + amount) / new theta, but exact where nothing moves.
        return here + (_inflow(axis, carrier, value, size) - entering * here) / density

    return Material(
        density,
        tuple(map(mixed, material.fractions, values.fractions)),
        tuple(map(mixed, material.markers, values.markers)),
    )


# Pullbacks of the parts above. Of a material m that is mixed with what enters, with q = bar(m) / theta afterwards,
# bar(amount) = q, bar(entering) = bar(theta) - sum(m q) with m afterwards; and bar(m) = theta q, both before.


def _update_pullback(axis: Axis, after: Material, cotangent: Material, *, size: int) -> Material:
    """Return the cotangents of what enters each voxel: of its material, and of the amounts of fractions and markers."""
    fractions, markers = (
        tuple(axis.at(bar, size) / after.density for bar in bars) for bars in (cotangent.fractions, cotangent.markers)
    )
    entering = axis.at(cotangent.density, size)
    for mixed, bar in zip(_carried(after), (*fractions, *markers), strict=True):
        entering = entering - mixed * bar
    return Material(entering, fractions, markers)


def _carriage_pullback(
    axis: Axis, values: State, carried: tuple[Flat, Flat], inflow_bar: State, *, size: int
) -> tuple[Flat, State]:
    """Return the cotangents of the volume that passes each face, and of the values."""
    carried_bar = _sum_apart(
        lambda axis, bar, value: axis.step(bar, size, 1) * axis.at(value, size),
        axis,
        *zip(_carried(inflow_bar[1]), _carried(values[1]), strict=True),
    )

    def rest(
        axis: Axis, values: State, carried: tuple[Flat, Flat], inflow_bar: State, carried_bar: Flat
    ) -> tuple[Flat, State]:
        (densities, material), (volume, carrier) = values, (axis.at(one, size) for one in carried)
        densities_bar, material_bar = jax.tree.map(lambda bar: axis.step(bar, size, 1), inflow_bar)
        carrier_bar = material_bar.density + carried_bar
        volume_bar = carrier_bar * axis.at(material.density, size)
        for bar, value in zip(densities_bar, densities, strict=True):
            volume_bar = volume_bar + bar * axis.at(value, size)
        return volume_bar, (
            [volume * bar for bar in densities_bar],
            Material(
                volume * carrier_bar,
                tuple(carrier * bar for bar in material_bar.fractions),
                tuple(carrier * bar for bar in material_bar.markers),
            ),
        )

    return apart(rest, axis, values, carried, inflow_bar, carried_bar)


def _values_pullback(axis: Axis, values_bar: State, *, size: int) -> State:
    """Return the cotangents of the slopes after their cut."""

    def rise_bar(bar: Flat) -> Flat:
        own = jnp.where(axis.at(axis.up, size), axis.kept(size) * axis.at(bar, size), 0)
        return own - jnp.where(axis.at(axis.up, size, -1), 0, axis.kept(size, -1) * axis.at(bar, size, -1))

    return jax.tree.map(rise_bar, values_bar)


def _cut_pullback(axis: Axis, density: Flat, slopes: Slopes, rises_bar: State, *, size: int) -> Slopes:
    """Return the cotangents of the slopes before their cut."""
    (_, material), rest = slopes
    densities, material_bar = rises_bar
    rise, bound = axis.at(material.density, size), jnp.asarray(_MAX_RISE, density.dtype) * axis.at(density, size)
    density_bar = jnp.where(jnp.abs(rise) > bound, 0, material_bar.density)

    def common(rises: list[Flat], bars: tuple[Flat, ...]) -> tuple[Flat, Flat, Flat]:
        """Return the cut, and the cotangents of the excess and of the sum of positive slopes."""
        cut, divisor = _excess(rises)
        lost = jnp.zeros_like(cut)
        for r, bar in zip(rises, bars, strict=False):
            lost = lost + jnp.where((r > 0) == (cut > 0), bar * r, 0)
        excess_bar = jnp.where(cut > 0, -lost, jnp.where(cut < 0, lost, 0)) / divisor
        rising_bar = -excess_bar * cut
        return cut, jnp.where(cut > 0, excess_bar, excess_bar - rising_bar), rising_bar

    rises = [axis.at(r, size) for r in (*material.fractions, rest)]
    cut, excess_bar, rising_bar = apart(common, rises, material_bar.fractions)

    def slope_bar(r: Flat, bar: Flat | float) -> Flat:
        return bar * _left(r, cut) + excess_bar + jnp.where(r > 0, rising_bar, 0)

    fractions = tuple(map(slope_bar, rises, material_bar.fractions))
    return (densities, Material(density_bar, fractions, material_bar.markers)), slope_bar(rises[-1], 0.0)


def _slopes_pullback(axis: Axis, state: State, slopes_bar: Slopes, *, size: int) -> Slopes:
    """Return the cotangents of the differences between each voxel and the one before it."""

    def step_bar(steps: tuple[Flat, Flat, Flat], bar: Flat) -> Flat:
        before, here, behind = steps
        own, last = (jnp.where(axis.at(axis.inner, size, shift), axis.at(bar, size, shift), 0) for shift in (0, -1))
        return _share(behind, here) ** 2 * own + _share(before, here) ** 2 * last

    shifts = (-1, 0, 1)
    steps_bar = jax.tree.map(
        lambda field, bar: step_bar(tuple(axis.step(field, size, shift) for shift in shifts), bar), state, slopes_bar[0]
    )
    return steps_bar, step_bar(tuple(_rest_step(axis, state[1], size, shift) for shift in shifts), slopes_bar[1])


def _rate_pullback(axis: Axis, state: State, values: State, volume_bar: Flat, values_bar: State, *, size: int) -> Flat:
    """Return the cotangent of the rate: directly, by the share of slopes that is kept, and by the compression."""
    gained = _sum_apart(
        lambda axis, bar, value, field: axis.at(bar, size) * (axis.at(value, size) - axis.upstream(field, size)),
        axis,
        *zip(*map(jax.tree.leaves, (values_bar, values, state)), strict=True),
    )

    def total(axis: Axis, volume_bar: Flat, gained: Flat) -> Flat:
        kept_bar = gained / axis.kept(size)
        squeeze_bar = volume_bar * axis.at(axis.rate, volume_bar.size)
        here, behind = (-axis.downward(squeeze_bar, size, shift) / 2 for shift in (0, 1))
        direct = axis.at(volume_bar, size) * axis.swelling(size)
        return direct - jnp.where(axis.at(axis.up, size), kept_bar, -kept_bar) + here - behind

    return apart(total, axis, volume_bar, gained)


def _gather(
    axis: Axis,
    state: State,
    material_bar: Material,
    cotangent: list[Flat],
    values_bar: State,
    rise: tuple[Flat, Flat],
    steps_bar: Slopes,
    *,
    size: int,
) -> State:
    """Return the cotangent of the state from those of all that was computed from it."""
    material, (densities, moved), rest_bar = state[1], steps_bar[0], steps_bar[1]

    def total(own: Flat, value: Flat, *steps: Flat) -> Flat:
        change = sum((axis.step(step, size, 1) for step in steps[1:]), axis.step(steps[0], size, 1))
        return own + axis.downward(value, size) - change

    def share(bar: Flat) -> Flat:
        return axis.at(bar, size) * axis.at(material.density, size)

    own = axis.at(material_bar.density, size)
    for part, bar in zip(_carried(material), _carried(material_bar), strict=True):
        own = own + axis.at(part, size) * axis.at(bar, size)
    slope, bar = (axis.at(one, size) for one in rise)
    bound = jnp.asarray(_MAX_RISE, bar.dtype)
    limit = bound * axis.at(material.density, size)
    own = own + bound * jnp.where(slope > limit, bar, jnp.where(slope < -limit, -bar, 0))
    values = values_bar[1]
    return [
        total(axis.at(bar, size), value, step)
        for bar, value, step in zip(cotangent, values_bar[0], densities, strict=True)
    ], Material(
        total(own, values.density, moved.density),
        tuple(
            total(share(bar), value, step, -rest_bar)
            for bar, value, step in zip(material_bar.fractions, values.fractions, moved.fractions, strict=True)
        ),
        tuple(
            total(share(bar), value, step)
            for bar, value, step in zip(material_bar.markers, values.markers, moved.markers, strict=True)
        ),
    )


def _carried(material: Material) -> tuple[Flat, ...]:
    """Return the fields that the material carries: its fractions and markers."""
    return *material.fractions, *material.markers


def _sum_apart(function: Callable[..., Flat], axis: Axis, first: tuple[Flat, ...], *others: tuple[Flat, ...]) -> Flat:
    """Return the sum of the function's values; one after the other, for loops over many fields are not vectorised."""
    total = apart(function, axis, *first)
    for given in others:
        total = apart(lambda axis, total, *given: total + function(axis, *given), axis, total, *given)
    return total
