"""Slabs of a grid, in which sweeps along an axis can be made one after the other."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from tumorjax.operators.apart import apart
from tumorjax.operators.sweep import MARGIN

SLAB = 8192
"""Most voxels of a slab on a CPU, unless a layer has more: what a sweep computes on its way then stays in the cache."""


class Slab(eqx.Module):
    """A slab of the widened grid, whose flattened fields are the windows of a sweep.

    Parameters
    ----------
    first
        Its first layer.
    across
        Axis of which it takes some layers, the first or the second; static.
    shape
        Its shape; static.
    """

    first: Int[Array, ""]
    across: int = eqx.field(static=True)
    shape: tuple[int, int, int] = eqx.field(static=True)

    @property
    def reach(self) -> int:
        """The largest stride of a sweep within the slab."""
        return self.shape[2] * (self.shape[1] if self.across == 1 else 1)

    @property
    def size(self) -> int:
        """The length of a window without its margins."""
        return self.shape[0] * self.shape[1] * self.shape[2] - 2 * MARGIN * self.reach

    def of(self, fields: Any, row: Any = None) -> Any:
        """Return the windows of fields, or of a row of each."""
        start, shape = self._place(row)

        def cut(fields: Any) -> Any:
            return jax.tree.map(
                lambda field: lax.dynamic_slice(field, start, shape, allow_negative_indices=False), fields
            )

        # Apart, because to a flat field the compiler would copy number by number.
        return jax.tree.map(jnp.ravel, apart(cut, fields))

    def put(self, fields: Any, windows: Any, margin: float, row: Any = None) -> Any:
        """Return fields, or those with a new row, with windows in the slab's place, which may lack their margins."""
        start, shape = self._place(row)

        def put(field: Array, window: Array) -> Array:
            window = jnp.pad(window, (math.prod(shape) - window.size) // 2, constant_values=margin)
            return lax.dynamic_update_slice(field, window.reshape(shape), start)

        return jax.tree.map(put, fields, windows)

    def _place(self, row: Any) -> tuple[tuple, tuple]:
        zero = jnp.zeros_like(self.first)
        start = (self.first, zero, zero) if self.across == 0 else (zero, self.first, zero)
        return (start, self.shape) if row is None else ((jnp.asarray(row, zero.dtype), *start), (1, *self.shape))


def slabs(shape: tuple[int, int, int], across: int, most: int) -> tuple[int, int]:
    """Return the thickness of slabs across an axis that have about so many voxels, and their number."""
    layer = shape[1 - across] * shape[2]
    count = -(-shape[across] // max(1, most // layer))
    return -(-shape[across] // count), count


def widened(field: Array, value: float) -> Array:
    """Return a field with margins of a value around its first two axes, in which the last slabs end, too."""
    x, y, z = field.shape
    ends = [math.prod(slabs((x, y, z), across, SLAB)) - field.shape[across] for across in (0, 1)]
    return jnp.pad(field, [*((MARGIN, max(MARGIN, end)) for end in ends), (0, 0)], constant_values=value)
