"""The pullback of a sweep of transport.

Of a material m that is mixed with what enters, with q = bar(m) / theta afterwards, bar(amount) = q and bar(entering) =
bar(theta) - sum(m q) with m afterwards; and bar(m) = theta q, both before.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tumorjax.operators.apart import apart
from tumorjax.operators.sweep import (
    MAX_RISE,
    Axis,
    Material,
    Slopes,
    State,
    excess,
    left,
    rest_step,
    share,
    through_faces,
    update_material,
)

Flat = Float[Array, "n"]


def sweep_pullback(axis: Axis, state: State, cotangent: State, size: int) -> tuple[Flat, State]:
    """Return the cotangents of the rate and of the state before a sweep, for `size` voxels.

    What the sweep computes on its way is computed again, once. Derivatives are written out, because JAX's would
    evaluate what several cotangents have in common again for each of them.
    """
    one, two, three, four = (size + 2 * k * axis.reach for k in (1, 2, 3, 4))
    slopes, values, passed = through_faces(axis, state, four)
    material = apart(update_material, axis, state[1], values[1], passed, size=four)
    material_bar = apart(_update_pullback, axis, material, cotangent[1], size=four)
    volume_bar, values_bar = _carriage_pullback(axis, values, passed, (cotangent[0], material_bar), size=three)
    rises_bar = apart(_values_pullback, axis, values_bar, size=two)
    slopes_bar = apart(_cut_pullback, axis, state[1].density, slopes, rises_bar, size=two)
    steps_bar = apart(_slopes_pullback, axis, state, slopes_bar, size=one)
    rate_bar = _rate_pullback(axis, state, values, volume_bar, values_bar, size=size)
    rise = slopes[0][1].density, rises_bar[1].density
    return rate_bar, apart(_gather, axis, state, material_bar, cotangent[0], values_bar, rise, steps_bar, size=size)


def _update_pullback(axis: Axis, after: Material, cotangent: Material, *, size: int) -> Material:
    """Return the cotangents of what enters each voxel: of its material, and of the amounts of fractions and markers."""
    fractions, markers = (
        tuple(axis.at(bar, size) / after.density for bar in bars) for bars in (cotangent.fractions, cotangent.markers)
    )
    entering = axis.at(cotangent.density, size)
    for mixed, bar in zip(after.carried, (*fractions, *markers), strict=True):
        entering = entering - mixed * bar
    return Material(entering, fractions, markers)


def _carriage_pullback(
    axis: Axis, values: State, passed: tuple[Flat, Flat], inflow_bar: State, *, size: int
) -> tuple[Flat, State]:
    """Return the cotangents of the volume that passes each face, and of the values."""
    carried_bar = _sum_apart(
        lambda axis, bar, value: axis.step(bar, size, 1) * axis.at(value, size),
        axis,
        *zip(inflow_bar[1].carried, values[1].carried, strict=True),
    )

    def rest(
        axis: Axis, values: State, passed: tuple[Flat, Flat], inflow_bar: State, carried_bar: Flat | float
    ) -> tuple[Flat, State]:
        (densities, material), (volume, carrier) = values, (axis.at(one, size) for one in passed)
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

    return apart(rest, axis, values, passed, inflow_bar, carried_bar)


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
    rise, bound = axis.at(material.density, size), jnp.asarray(MAX_RISE, density.dtype) * axis.at(density, size)
    density_bar = jnp.where(jnp.abs(rise) > bound, 0, material_bar.density)

    def common(rises: list[Flat], bars: tuple[Flat, ...]) -> tuple[Flat, Flat, Flat]:
        """Return the cut, and the cotangents of the excess and of the sum of positive slopes."""
        cut, divisor = excess(rises)
        lost = jnp.zeros_like(cut)
        for r, bar in zip(rises, bars, strict=False):
            lost = lost + jnp.where((r > 0) == (cut > 0), bar * r, 0)
        excess_bar = jnp.where(cut > 0, -lost, jnp.where(cut < 0, lost, 0)) / divisor
        rising_bar = -excess_bar * cut
        return cut, jnp.where(cut > 0, excess_bar, excess_bar - rising_bar), rising_bar

    rises = [axis.at(r, size) for r in (*material.fractions, rest)]
    cut, excess_bar, rising_bar = apart(common, rises, material_bar.fractions)

    def slope_bar(r: Flat, bar: Flat | float) -> Flat:
        return bar * left(r, cut) + excess_bar + jnp.where(r > 0, rising_bar, 0)

    fractions = tuple(map(slope_bar, rises, material_bar.fractions))
    return (densities, Material(density_bar, fractions, material_bar.markers)), slope_bar(rises[-1], 0.0)


def _slopes_pullback(axis: Axis, state: State, slopes_bar: Slopes, *, size: int) -> Slopes:
    """Return the cotangents of the differences between each voxel and the one before it."""

    def step_bar(bar: Flat, before: Flat, here: Flat, behind: Flat) -> Flat:
        own, last = (jnp.where(axis.at(axis.inner, size, shift), axis.at(bar, size, shift), 0) for shift in (0, -1))
        return share(behind, here) ** 2 * own + share(before, here) ** 2 * last

    shifts = (-1, 0, 1)
    steps_bar = jax.tree.map(
        lambda field, bar: step_bar(bar, *(axis.step(field, size, shift) for shift in shifts)), state, slopes_bar[0]
    )
    return steps_bar, step_bar(slopes_bar[1], *(rest_step(axis, state[1], size, shift) for shift in shifts))


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

    def amount(bar: Flat) -> Flat:
        return axis.at(bar, size) * axis.at(material.density, size)

    own = axis.at(material_bar.density, size)
    for part, bar in zip(material.carried, material_bar.carried, strict=True):
        own = own + axis.at(part, size) * axis.at(bar, size)
    slope, bar = (axis.at(one, size) for one in rise)
    bound = jnp.asarray(MAX_RISE, bar.dtype)
    limit = bound * axis.at(material.density, size)
    own = own + bound * jnp.where(slope > limit, bar, jnp.where(slope < -limit, -bar, 0))
    values = values_bar[1]
    return [
        total(axis.at(bar, size), value, step)
        for bar, value, step in zip(cotangent, values_bar[0], densities, strict=True)
    ], Material(
        total(own, values.density, moved.density),
        tuple(
            total(amount(bar), value, step, -rest_bar)
            for bar, value, step in zip(material_bar.fractions, values.fractions, moved.fractions, strict=True)
        ),
        tuple(
            total(amount(bar), value, step)
            for bar, value, step in zip(material_bar.markers, values.markers, moved.markers, strict=True)
        ),
    )


def _sum_apart(function: Callable[..., Flat], axis: Axis, *fields: tuple[Flat, ...]) -> Flat | float:
    """Return the sum of the function's values; one after the other, for loops over many fields are not vectorised."""
    total = None
    for given in fields:
        if total is None:
            total = apart(function, axis, *given)
        else:
            total = apart(lambda axis, total, *given: total + function(axis, *given), axis, total, *given)
    return 0.0 if total is None else total
