"""The exact query, for the tumours with the largest sum of the Dice coefficients of core and lesion."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt

from tumorjax.retrieval.kernels import shared_bits, shared_counts
from tumorjax.retrieval.masks import BLOCK, PackedMasks, block_counts

# Number of tumours, those with the highest bounds, whose outlines are compared first.
_FIRST = 64


class Outlines(NamedTuple):
    """A patient's outlines, core before lesion, prepared for comparison with `PackedMasks`.

    Attributes
    ----------
    words
        (2, w), the bits of the outlines inside the brain.
    blocks
        (2, w / 8), number of voxels in each block of words.
    runs
        For each outline, the ranges of words that it touches. The other words of a tumour need not be read, because
        nothing is shared there.
    volumes
        (2, 1), number of voxels, including those outside the brain.
    """

    words: UInt[np.ndarray, "2 w"]
    blocks: UInt[np.ndarray, "2 b"]
    runs: tuple[Int[np.ndarray, "r 2"], Int[np.ndarray, "r 2"]]
    volumes: Int[np.ndarray, "2 1"]


def outlines_of(masks: PackedMasks, core: Bool[np.ndarray, "x y z"], lesion: Bool[np.ndarray, "x y z"]) -> Outlines:
    """Prepare outlines on the grid of `masks` for comparison."""
    words = np.stack([masks.inside(core), masks.inside(lesion)])
    blocks = block_counts(words)
    volumes = np.array([[np.count_nonzero(core)], [np.count_nonzero(lesion)]])
    return Outlines(words, blocks, (runs_of(blocks[0]), runs_of(blocks[1])), volumes)


def runs_of(blocks: UInt[np.ndarray, "b"]) -> Int[np.ndarray, "r 2"]:
    """Return the first word, and the one after the last, of each range of blocks that are not empty."""
    touched = np.concatenate([[False], blocks > 0, [False]])
    return BLOCK * np.flatnonzero(touched[1:] != touched[:-1]).reshape(-1, 2)


def dice(masks: PackedMasks, outlines: Outlines, rows: Int[np.ndarray, "m"]) -> Float[np.ndarray, "2 m"]:
    """Return the Dice coefficients of both outlines with those of the tumours `rows`; one if both are empty."""
    shared = [shared_bits(masks.words, i, rows, outlines.runs[i], outlines.words[i]) for i in range(2)]
    return coefficients(np.stack(shared), masks.counts[:, rows] + outlines.volumes)


def dice_bounds(masks: PackedMasks, outlines: Outlines) -> Float[np.ndarray, "2 n"]:
    """Return upper bounds of the Dice coefficients with every tumour.

    In each block, two outlines share at most as many voxels as the smaller of them has there.
    """
    shared = [shared_counts(masks.blocks, i, outlines.blocks[i]) for i in range(2)]
    return coefficients(np.stack(shared), masks.counts + outlines.volumes)


def coefficients(shared: Integer[np.ndarray, "..."], total: Int[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return the Dice coefficients of pairs with these numbers of shared and of total voxels; one if both are empty."""
    # A single division of integers: all implementations round it equally, and the result is monotonic.
    return np.where(total > 0, 2.0 * shared / np.maximum(total, 1), 1.0)


def search(
    masks: PackedMasks,
    core: Bool[np.ndarray, "x y z"],
    lesion: Bool[np.ndarray, "x y z"],
    k: int = 1,
    *,
    prune: bool = True,
) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Return the k tumours with the largest Dice(core) + Dice(lesion), best first, and these sums.

    Among equal sums, the lower index comes first.

    Parameters
    ----------
    masks
        Outlines of n >= k tumours.
    core, lesion
        The patient's outlines on the same grid. Voxels outside the brain count towards their volumes.
    k
        Number of tumours to return.
    prune
        Compare outlines only of tumours whose bounds are high enough. The result is the same, including ties, because
        bounds and sums are computed by the same operations. On an accelerator all tumours are compared, which takes
        less time.
    """
    prune = prune and isinstance(masks.words, np.ndarray)
    outlines = outlines_of(masks, core, lesion)
    waiting = np.arange(len(masks))
    bounds = dice_bounds(masks, outlines).sum(axis=0) if prune else np.full(len(masks), 2.0)
    batch = max(k, _FIRST) if prune else len(masks)
    rows, scores = np.zeros(0, int), np.zeros(0)
    while len(waiting):
        ranked = waiting[np.argpartition(-bounds[waiting], min(batch, len(waiting)) - 1)]
        rows = np.append(rows, ranked[:batch])
        scores = np.append(scores, dice(masks, outlines, ranked[:batch]).sum(axis=0))
        best = first(k, -scores, rows)
        rows, scores = rows[best], scores[best]
        # A tumour with an equal bound may have an equal sum and a lower index.
        waiting = ranked[batch:][bounds[ranked[batch:]] >= scores[-1]]
        batch *= 2
    return rows, scores


def first(k: int, costs: Float[np.ndarray, "m"], rows: Int[np.ndarray, "m"]) -> Int[np.ndarray, "k"]:
    """Return the positions of the k smallest costs, in order; among equal costs, the lower row comes first."""
    k = min(k, len(costs))
    near = np.flatnonzero(costs <= np.partition(costs, k - 1)[k - 1])
    return near[np.lexsort((rows[near], costs[near]))][:k]
