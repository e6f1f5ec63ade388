"""Windows of an anatomy around single tumours; most windows have a tenth of the brain's voxels."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# Densities below this fraction of the carrying capacity are rounded to zero in steps of 1/255.
_TRACE = 1 / 510
# Number of voxels by which a tumour may extend farther than on coarse voxels: at most two in 222 tumours of the
# published box at 2 mm.
_MARGIN = 2
# Sides of windows are multiples of this number of voxels, so that few programs are compiled.
_SIDE = 16


class Window(NamedTuple):
    """The box of `shape` voxels that begins at `start`."""

    start: tuple[int, int, int]
    shape: tuple[int, int, int]

    @property
    def box(self) -> tuple[slice, ...]:
        """The slices of the window's voxels."""
        return tuple(slice(first, first + n) for first, n in zip(self.start, self.shape, strict=True))


def window_about(coarse: Float[np.ndarray, "i j k"], factor: int, shape: tuple[int, int, int]) -> Window | None:
    """Return a window around a tumour that was grown on voxels `factor` times as long; None if it left no trace."""
    reached = np.argwhere(coarse > _TRACE)
    if not len(reached):
        return None
    low, high = reached.min(axis=0) * factor - _MARGIN, (reached.max(axis=0) + 1) * factor + _MARGIN
    size = np.minimum(-(-(high - low) // _SIDE) * _SIDE, shape)
    start = np.clip((low + high - size) // 2, 0, np.array(shape) - size)
    return Window(tuple(start.tolist()), tuple(size.tolist()))


def holds(window: Window, density: Float[np.ndarray, "x y z"], shape: tuple[int, int, int]) -> bool:
    """Return whether a window contains its tumour: no trace of it reaches a face inside the anatomy."""
    for axis, (first, n, whole) in enumerate(zip(*window, shape, strict=True)):
        faces = np.moveaxis(density, axis, 0)
        if (first > 0 and (faces[0] > _TRACE).any()) or (first + n < whole and (faces[-1] > _TRACE).any()):
            return False
    return True
