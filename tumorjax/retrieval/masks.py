"""The outlines of many tumours, packed as one bit per voxel in an order that keeps neighbours close."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Int, Shaped, UInt

from tumorjax.retrieval.folders import Rows, new_folder, seal, unseal, usable
from tumorjax.retrieval.kernels import device_words

# Densities at the outlines of the core (T1Gd) and the lesion (FLAIR).
THRESHOLDS = (0.6, 0.2)
# Number of 64-bit words in a block, which is one cache line.
BLOCK = 8
# Number of tumours whose blocks are counted together.
_SOME = 4096
_KIND = "packed outlines, version 1"


@dataclass(frozen=True, eq=False)
class PackedMasks:
    """Outlines of the cores and lesions of n tumours inside the brain; the arrays may lie on the disk.

    Parameters
    ----------
    words
        (n, 2, w), one bit for each voxel of the brain, core before lesion; w is a whole number of blocks. The words may
        also lie on a device; see `on_device`.
    blocks
        (2, w / 8, n), number of voxels in each block of eight words. The tumours form the last axis, because a query
        reads a few blocks of all tumours.
    counts
        (2, n), number of voxels of each outline.
    order
        Flat index of the voxel of each bit, along a curve that keeps neighbouring voxels close.
    shape
        Shape of the grid.
    thresholds
        Densities at the outlines of core and lesion.
    """

    words: UInt[np.ndarray, "n 2 w"] | UInt[Array, "n 2 v"]
    blocks: UInt[np.ndarray, "2 b n"]
    counts: Int[np.ndarray, "2 n"]
    order: Int[np.ndarray, "v"]
    shape: tuple[int, ...]
    thresholds: tuple[float, float]

    def __len__(self) -> int:
        """Return the number of tumours."""
        return len(self.words)

    @classmethod
    def open(cls, folder: str | os.PathLike, verify: bool = True) -> "PackedMasks":
        """Return the outlines that `pack` wrote into a folder; `verify` reads them all and compares checksums.

        Raises
        ------
        ValueError
            If the folder contains something else, is damaged, or is incomplete.
        """
        facts, arrays = unseal(folder, _KIND, verify)
        with usable(folder):
            shape, voxels = tuple(facts["shape"]), len(arrays["order"])
            n, b = len(arrays["words"]), -(-voxels // (64 * BLOCK))
            expected = {
                "words": ((n, 2, BLOCK * b), "<u8"),
                "blocks": ((2, b, n), "<u2"),
                "counts": ((2, n), "<i8"),
                "order": ((voxels,), "<i4"),
            }
            found = {name: (array.shape, array.dtype.str) for name, array in arrays.items()}
            # Indices of voxels have 32 bits.
            if found != expected or len(shape) != 3 or math.prod(shape) > 2**31 or not n or not voxels:
                raise ValueError("its arrays do not fit each other")
            order = np.sort(arrays["order"])
            if order[0] < 0 or order[-1] >= math.prod(shape) or (order[1:] == order[:-1]).any():
                raise ValueError("its bits do not belong to voxels of its grid")
            return cls(**arrays, shape=shape, thresholds=check_thresholds(facts["thresholds"]))

    def on_device(self) -> "PackedMasks":
        """Copy the outlines to the memory of JAX's default device, with words of 32 bits.

        An accelerator reads all outlines in less time than a CPU needs for the necessary ones. 50,000 tumours in the
        brain at 2 mm take 2.4 GB.
        """
        import jax
        import jax.numpy as jnp

        words = np.asarray(self.words)
        some = [jax.device_put(device_words(words[i : i + _SOME])) for i in range(0, len(words), _SOME)]
        return replace(self, words=jnp.concatenate(some))

    def inside(self, mask: Bool[np.ndarray, "x y z"]) -> UInt[np.ndarray, "w"]:
        """Return the words of a mask; its voxels outside the brain are dropped.

        Raises
        ------
        ValueError
            If the mask lies on another grid.
        """
        if mask.shape != self.shape:
            raise ValueError(f"the mask has shape {mask.shape}, the outlines {self.shape}; resample it to their grid")
        return pack_bits(np.take(mask, self.order))


class MaskWriter:
    """Writer of `PackedMasks` into a folder, some tumours at a time.

    Parameters
    ----------
    folder
        An empty folder.
    brain
        (x, y, z), boolean, the brain mask.
    thresholds
        Densities at the outlines of core and lesion.
    """

    def __init__(self, folder: Path, brain: Bool[np.ndarray, "x y z"], thresholds: tuple[float, float]) -> None:
        self.folder, self.shape, self.thresholds = folder, brain.shape, thresholds
        self.order = curve(brain)
        self._words = Rows(folder / "words.npy", (2, BLOCK * -(-len(self.order) // (64 * BLOCK))), "<u8")

    def append(self, densities: Shaped[np.ndarray, "b x y z"]) -> None:
        """Write the outlines of some tumours."""
        # `take` keeps the voxels of a tumour contiguous in memory; indexing would not.
        values = np.take(densities.reshape(len(densities), -1), self.order, axis=1)
        bits = np.stack([values > cut for cut in cutoffs(self.thresholds, values.dtype)], axis=1)
        self._words.append(pack_bits(bits))

    def close(self) -> None:
        """Finish the folder."""
        self._words.close()
        words = np.load(self.folder / "words.npy", mmap_mode="r", allow_pickle=False)
        n, w = len(words), words.shape[2]
        file = self.folder / "blocks.npy"
        blocks = np.lib.format.open_memmap(file, mode="w+", dtype="<u2", shape=(2, w // BLOCK, n))
        for begin in range(0, n, _SOME):
            blocks[..., begin : begin + _SOME] = block_counts(words[begin : begin + _SOME]).transpose(1, 2, 0)
        blocks.flush()
        np.save(self.folder / "counts.npy", blocks.sum(axis=1, dtype="<i8"))
        np.save(self.folder / "order.npy", self.order)
        seal(self.folder, _KIND, shape=self.shape, thresholds=self.thresholds)


def pack(
    blocks: Iterable[Shaped[np.ndarray, "b x y z"]],
    brain: Bool[np.ndarray, "x y z"],
    thresholds: tuple[float, float],
    folder: str | os.PathLike,
    *,
    overwrite: bool = False,
) -> PackedMasks:
    """Write the outlines of many tumours into a folder, which appears complete or not at all, and return them.

    Parameters
    ----------
    blocks
        Blocks with the densities of some tumours each, as integers 0..255 (uint8) or fractions; only one block is in
        memory at a time.
    brain
        (x, y, z), boolean. Voxels outside the brain belong to no outline.
    thresholds
        Densities at the outlines of core and lesion; voxels with a larger density are inside.
    folder
        A new folder, or, with `overwrite`, one that was written by this function.

    Raises
    ------
    ValueError
        If there is no tumour, shapes differ, densities are not fractions, the brain is empty, the thresholds are not
        0 < lesion < core < 1, or the folder exists.
    """
    brain, thresholds = check_brain(brain), check_thresholds(thresholds)
    with new_folder(folder, overwrite) as partial:
        writer = MaskWriter(partial, brain, thresholds)
        for densities in checked(blocks, brain.shape):
            writer.append(densities)
        writer.close()
    return PackedMasks.open(folder, verify=False)


def checked(blocks: Iterable[np.ndarray], shape: tuple[int, ...]) -> Iterable[np.ndarray]:
    """Yield blocks of densities after checking them; empty blocks are skipped.

    Raises
    ------
    ValueError
        If a block has another shape, or is neither uint8 nor fractions; or if there are no tumours.
    """
    empty = True
    for block in blocks:
        block = np.asarray(block)
        if block.ndim != 4 or block.shape[1:] != shape:
            raise ValueError(f"a block of densities has shape {block.shape}, the brain {shape}; resample one of them")
        # Rounding and schemes of higher order let solutions leave [0, 1] slightly; NaN fails the comparison.
        fractions = block.dtype.kind == "f" and block.size > 0 and np.abs(block - 0.5).max() <= 1
        if block.size and block.dtype != np.uint8 and not fractions:
            raise ValueError(f"densities are uint8 or fractions between 0 and 1, got {block.dtype} or another range")
        if len(block):
            empty = False
            yield block
    if empty:
        raise ValueError("there are no tumours to pack; give at least one")


def check_thresholds(thresholds: Any) -> tuple[float, float]:
    """Return the thresholds of core and lesion as floats.

    Raises
    ------
    ValueError
        If they are not 0 < lesion < core < 1.
    """
    core, lesion = map(float, thresholds)
    if not 0 < lesion < core < 1:
        raise ValueError(f"thresholds are (core, lesion) with 0 < lesion < core < 1, got ({core:g}, {lesion:g})")
    return core, lesion


def check_brain(brain: Any) -> Bool[np.ndarray, "x y z"]:
    """Return a brain mask as an array, after checking it.

    Raises
    ------
    ValueError
        If it is not boolean, not three-dimensional, or empty.
    """
    brain = np.asarray(brain)
    if brain.dtype != bool or brain.ndim != 3 or not brain.any():
        raise ValueError(f"a brain mask is boolean (x, y, z) and not empty, got {brain.dtype} {brain.shape}")
    return brain


def cutoffs(thresholds: Any, dtype: Any) -> np.ndarray:
    """Return thresholds on the scale of stored densities: a stored value above them is inside."""
    if np.dtype(dtype) == np.uint8:
        # The integer 153 stores the fraction 0.6, although 255 * 0.6 may be rounded to less than 153.
        return np.floor(255 * np.asarray(thresholds, float) + 1e-9).astype(np.uint8)
    return np.asarray(thresholds, dtype)


def pack_bits(bits: Bool[np.ndarray, "... v"]) -> UInt[np.ndarray, "... w"]:
    """Pack bits into words of 64, padded with zeros to whole blocks."""
    # `packbits` already pads the last byte with zeros.
    octets = np.packbits(bits, axis=-1, bitorder="little")
    padding = -octets.shape[-1] % (8 * BLOCK)
    octets = np.pad(octets, [(0, 0)] * (octets.ndim - 1) + [(0, padding)])
    return octets.view("<u8")


def block_counts(words: UInt[np.ndarray, "... w"]) -> UInt[np.ndarray, "... b"]:
    """Return the number of voxels in each block of words."""
    return np.bitwise_count(words).reshape(*words.shape[:-1], -1, BLOCK).sum(axis=-1, dtype=np.uint16)


def curve(brain: Bool[np.ndarray, "x y z"]) -> Int[np.ndarray, "v"]:
    """Return the flat indices of the brain's voxels along a Morton curve, so that words and blocks are compact."""
    flat = np.flatnonzero(brain)
    code = np.zeros(len(flat), np.int64)
    for axis, index in enumerate(np.unravel_index(flat, brain.shape)):
        for bit in range(max(brain.shape).bit_length()):
            code |= ((index >> bit) & 1) << (3 * bit + axis)
    return flat[np.argsort(code)].astype("<i4")
