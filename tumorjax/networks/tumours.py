"""Simulated tumours in memory as training data: each is stored in its bounding box and read in any window."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8


@dataclass(frozen=True, eq=False)
class Tumours:
    """Densities of n tumours in one anatomy, with the parameters that they were grown with.

    Parameters
    ----------
    boxes
        Densities of each tumour in the bounding box of its non-zero voxels, 0..255.
    starts
        (n, 3), first voxels of the boxes.
    seeds
        (n, 3), fractional voxel indices of the seeds.
    parameters
        Parameters by name, each (n,), such as mu1 and mu2.
    tissue
        (x, y, z, 3), white matter, grey matter and CSF of the anatomy, 0..255.
    spacing
        Edge of the cubic voxels, mm.
    affine
        (4, 4), maps voxel indices to the world of the atlas, RAS mm; None if unknown.
    growth
        The model by which they grew, as `tumorjax.ensemble.described` describes it; None if unknown.
    """

    boxes: list[UInt8[np.ndarray, "_ _ _"]]
    starts: Int[np.ndarray, "n 3"]
    seeds: Float[np.ndarray, "n 3"]
    parameters: Mapping[str, Float[np.ndarray, "n"]]
    tissue: UInt8[np.ndarray, "x y z 3"]
    spacing: float
    affine: Float[np.ndarray, "4 4"] | None = None
    growth: str | None = None

    @classmethod
    def of(
        cls,
        blocks: Iterable[Shaped[np.ndarray, "b x y z"]],
        seeds: Float[np.ndarray, "n 3"],
        parameters: Mapping[str, Float[np.ndarray, "n"]],
        tissue: Shaped[np.ndarray, "x y z 3"],
        spacing: float | Float[np.ndarray, "3"],
        affine: Float[np.ndarray, "4 4"] | None = None,
        growth: str | None = None,
    ) -> "Tumours":
        """Make `Tumours` from densities that are given in blocks, as integers 0..255 (uint8) or fractions.

        Raises
        ------
        ValueError
            If voxels are not cubes, the numbers of densities, seeds and parameters differ, or the shape of the
            densities is not that of the tissue.
        """
        edges = np.broadcast_to(np.asarray(spacing, float), (3,))
        if not np.allclose(edges, edges[0], rtol=1e-3):
            raise ValueError(f"networks need cubic voxels, got edges of {edges.tolist()} mm; resample")
        boxes, starts = [], []
        for block in blocks:
            if block.shape[1:] != tissue.shape[:3]:
                raise ValueError(f"densities have shape {block.shape[1:]}, the tissue {tissue.shape[:3]}")
            for density in as_bytes(block):
                box, start = _cut(density)
                boxes.append(box)
                starts.append(start)
        counts = {"densities": len(boxes), "seeds": len(seeds)} | {name: len(each) for name, each in parameters.items()}
        if len(set(counts.values())) > 1 or not boxes:
            raise ValueError(f"each tumour needs a density, a seed and its parameters, got {counts}")
        whole = as_bytes(tissue)
        places = np.array(starts), np.asarray(seeds, float)
        return cls(boxes, *places, parameters, whole, float(edges[0]), affine, growth)

    def __len__(self) -> int:
        """Return the number of tumours."""
        return len(self.boxes)

    def part(self, rows: slice) -> "Tumours":
        """Return some of the tumours."""
        parameters = {name: values[rows] for name, values in self.parameters.items()}
        boxes, starts, seeds = self.boxes[rows], self.starts[rows], self.seeds[rows]
        return replace(self, boxes=boxes, starts=starts, seeds=seeds, parameters=parameters)

    def density(self, row: int, first: Int[np.ndarray, "3"], size: tuple[int, ...]) -> UInt8[np.ndarray, "u v w"]:
        """Return the density of a tumour in the window of `size` voxels from `first`; zero outside the grid."""
        return window(self.boxes[row], first - self.starts[row], size)

    def anatomy(self, first: Int[np.ndarray, "3"], size: tuple[int, ...]) -> UInt8[np.ndarray, "u v w 3"]:
        """Return the tissue in the window of `size` voxels from `first`; zero outside the grid."""
        return window(self.tissue, first, size)


def located(tumours: Sequence[Tumours], row: int) -> tuple[Tumours, int]:
    """Return to which of several anatomies the tumour with a consecutive number belongs, and its number there."""
    for own in tumours:
        if row < len(own):
            return own, row
        row -= len(own)
    raise IndexError(f"there are {sum(map(len, tumours))} tumours, got the number {row + sum(map(len, tumours))}")


def window(
    array: Shaped[np.ndarray, "x y z ..."], first: Int[np.ndarray, "3"], size: tuple[int, ...]
) -> Shaped[np.ndarray, "u v w ..."]:
    """Return the window of an array that begins at `first`; zeros outside the array."""
    found = np.zeros((*size, *array.shape[3:]), array.dtype)
    low = np.maximum(first, 0)
    high = np.minimum(first + np.asarray(size), array.shape[:3])
    if (high > low).all():
        there = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        here = tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))
        found[here] = array[there]
    return found


def resampled(
    array: UInt8[np.ndarray, "x y z ..."], middle: Float[np.ndarray, "3"], step: float, size: int
) -> UInt8[np.ndarray, "n n n ..."]:
    """Resample an array to a cube around `middle`, with `size` voxels along each edge, each `step` old voxels long.

    The values are linearly interpolated, or averaged with a wider kernel if `step` exceeds one; zero outside the array.
    """
    found, width = array, max(1.0, step)
    places = step * (np.arange(size) - (size - 1) / 2)
    beyond = int(np.ceil(width))
    for axis in range(3):
        own = places + middle[axis]
        ends = np.floor(own[0]) - beyond, np.ceil(own[-1]) + beyond + 1
        low, high = np.clip(ends, 0, array.shape[axis]).astype(int)
        voxels = np.arange(low - beyond, high + beyond)
        weights = np.maximum(0, 1 - np.abs(own[:, None] - voxels) / width)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-6)
        inside = weights[:, beyond : len(voxels) - beyond].astype(np.float32)
        # Only the part that the window covers is converted to floating point.
        near = found.take(range(low, high), axis).astype(np.float32)
        found = np.moveaxis(np.tensordot(inside, near, (1, axis)), 0, axis)
    return np.rint(found).astype(np.uint8)


class Turn:
    """One of the 48 symmetries of a cube, under which growth on cubic voxels is invariant.

    Parameters
    ----------
    number
        Number of the symmetry, 0..47; 0 is the identity.
    """

    def __init__(self, number: int) -> None:
        order, flips = divmod(number, 8)
        self._axes = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))[order]
        self._flipped = tuple(axis for axis in range(3) if flips >> axis & 1)

    def volume(self, array: Shaped[np.ndarray, "n n n ..."]) -> Shaped[np.ndarray, "n n n ..."]:
        """Return the turned cube of voxels."""
        rest = range(3, array.ndim)
        return np.flip(array.transpose(*self._axes, *rest), self._flipped)

    def vector(self, vector: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
        """Return the turned vector from the centre of the cube."""
        turned = vector[list(self._axes)]
        turned[list(self._flipped)] *= -1
        return turned

    def back(self, vector: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
        """Return the vector that `self.vector` turns into this one."""
        flipped = vector.copy()
        flipped[list(self._flipped)] *= -1
        return flipped[list(np.argsort(self._axes))]


def as_bytes(values: Shaped[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Return fractions as integers 0..255; uint8 is returned unchanged."""
    if values.dtype == np.uint8:
        return values
    return np.rint(255 * np.clip(np.asarray(values, np.float32), 0, 1)).astype(np.uint8)


def _cut(density: UInt8[np.ndarray, "x y z"]) -> tuple[UInt8[np.ndarray, "_ _ _"], tuple[int, ...]]:
    """Return the density in the bounding box of its non-zero voxels, and the first voxel of the box."""
    box = []
    for axis in range(3):
        there = np.flatnonzero(density.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(there[0], there[-1] + 1) if len(there) else slice(0, 1))
    return density[tuple(box)].copy(), tuple(part.start for part in box)
