"""Transport along one axis: one sweep of a finite-volume scheme.

Fields are flat, and neighbours along the axis are a fixed distance apart, so that the innermost loop of every stencil
runs over the whole field, and that one compiled sweep serves several axes. A sweep acts on windows: parts of the grid,
as small as a cache demands, with a margin on both sides that stencils consume. Values that a stencil reads in the
margin, or across the end of a row, have no effect: the rate of a wall is zero, and `inner` marks the voxels that have
both neighbours.
"""

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
MAX_RISE = 0.25

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

    @property
    def carried(self) -> tuple[Float[Array, "x y z"], ...]:
        """All that the material carries: fractions and markers."""
        return *self.fractions, *self.markers


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
    _, values, passed = through_faces(axis, state, size)
    return apart(_update, axis, state, values, passed, size=size)


def through_faces(axis: Axis, state: State, size: int) -> tuple[Slopes, State, tuple[Flat, Flat]]:
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
    return slopes, limited(*(rest_step(axis, state[1], size, shift) for shift in (0, 1)))


def rest_step(axis: Axis, material: Material, size: int, shift: int) -> Flat:
    """Return the difference between neighbours of what the fractions leave."""
    zero = jnp.zeros(size, material.density.dtype)
    return -sum((axis.step(fraction, size, shift) for fraction in material.fractions), zero)


@jax.custom_jvp
def _half_slope(first: Flat, second: Flat) -> Flat:
    """Return half of van Leer's slope, the harmonic mean of two differences, or zero where their signs differ."""
    return share(first, second) * second


@_half_slope.defjvp
def _half_slope_jvp(primals: Any, tangents: Any) -> Any:
    # JAX's rule for the quotient overflows for tiny differences.
    first, second = share(*primals), share(*primals[::-1])
    return first * primals[1], second**2 * tangents[0] + first**2 * tangents[1]


def share(first: Flat, second: Flat) -> Flat:
    """Return the share of one difference in the sum of two, or zero where their signs differ."""
    monotone = first * second > 0
    return jnp.where(monotone, first, 0) / jnp.where(monotone, first + second, 1)


def _cut(density: Flat, material: Material, rest: Flat) -> Material:
    """Return the slopes within the bound of the material's density, and those of the fractions so that they add up."""
    rise, bound = material.density, jnp.asarray(MAX_RISE, density.dtype) * density
    rise = jnp.where(rise > bound, bound, jnp.where(rise < -bound, -bound, rise))
    cut, _ = excess([*material.fractions, rest])
    fractions = tuple(r * left(r, cut) for r in material.fractions)
    return Material(rise, fractions, material.markers)


def excess(rises: list[Flat]) -> tuple[Flat, Flat]:
    """Return the share of the positive slopes, or minus that of the negative ones, that is too much; and its divisor.

    The slopes of the fractions and of what they leave must add up to zero.
    """
    rising, over = sum(jnp.where(r > 0, r, 0) for r in rises), sum(rises)
    # Fractions are of the order of one, so this is negligible; its inverse square, in derivatives, is still finite.
    tiny = jnp.asarray(jnp.finfo(rises[0].dtype).eps ** 2, rises[0].dtype)
    divisor = jnp.where(over > 0, rising, rising - over) + tiny
    return over / divisor, divisor


def left(rise: Flat, cut: Flat) -> Flat:
    """Return the share of a slope that is left after the cut."""
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


def _inflow(axis: Axis, passed: Flat, values: Flat, size: int) -> Flat:
    before, here = (axis.at(passed, size, shift) * axis.at(values, size, shift) for shift in (-1, 0))
    return before - here


def _update(axis: Axis, state: State, values: State, passed: tuple[Flat, Flat], *, size: int) -> State:
    densities = [
        axis.at(field, size) + _inflow(axis, passed[0], value, size)
        for field, value in zip(state[0], values[0], strict=True)
    ]
    return densities, update_material(axis, state[1], values[1], passed, size=size)


def update_material(
    axis: Axis, material: Material, values: Material, passed: tuple[Flat, Flat], *, size: int
) -> Material:
    """Return the material after a sweep, from the values at faces, and the volume and the material that pass them."""
    carrier = passed[1]
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
