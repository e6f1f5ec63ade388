"""Outlines of many tumours in memory, with one bit per voxel."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt


@dataclass(frozen=True, eq=False)
class PackedOutlines:
    """Cores and lesions of n tumours on one grid, packed into bits.

    Parameters
    ----------
    bits
        (n, 2, bytes), voxels in C order, core before lesion.
    shape
        Shape of the grid.
    """

    bits: UInt[np.ndarray, "n 2 bytes"]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, blocks: Iterable[Bool[np.ndarray, "b 2 x y z"]]) -> "PackedOutlines":
        """Pack outlines that are given in blocks of tumours; only their bits are kept.

        Raises
        ------
        ValueError
            If there are no outlines, or shapes differ.
        """
        packed, shapes = [], set()
        for block in blocks:
            shapes.add(block.shape[2:])
            packed.append(np.packbits(block.reshape(len(block), 2, -1), axis=-1))
        if len(shapes) != 1:
            raise ValueError(f"outlines must lie on one grid, got {sorted(shapes) or 'none'}")
        return cls(np.concatenate(packed), shapes.pop())

    def part(self, rows: slice) -> "PackedOutlines":
        """Return the packed outlines of some tumours."""
        return PackedOutlines(self.bits[rows], self.shape)

    def __len__(self) -> int:
        """Return the number of tumours."""
        return len(self.bits)

    def __getitem__(self, rows: slice | Int[np.ndarray, "b"]) -> Bool[np.ndarray, "b 2 x y z"]:
        """Return the outlines of some tumours."""
        voxels = np.unpackbits(self.bits[rows], axis=-1, count=int(np.prod(self.shape)))
        return voxels.reshape(-1, 2, *self.shape).astype(bool)
