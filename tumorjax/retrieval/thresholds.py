"""The thresholds of density at which the outlines of a simulated tumour fit a patient best."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from tumorjax.retrieval.direct import coefficients
from tumorjax.retrieval.masks import PackedMasks, cutoffs

# Candidate thresholds of core and lesion; the ranges do not overlap, so that the lesion always contains the core.
CORE_THRESHOLDS = np.arange(10, 18) / 20
LESION_THRESHOLDS = np.arange(1, 10) / 20


def best_thresholds(
    masks: PackedMasks,
    densities: Callable[[int], Shaped[np.ndarray, "x y z"]],
    rows: Int[np.ndarray, "m"],
    core: Bool[np.ndarray, "x y z"],
    lesion: Bool[np.ndarray, "x y z"],
) -> tuple[Float[np.ndarray, "2 m"], Float[np.ndarray, "2 m"]]:
    """Return the thresholds with the largest Dice coefficients of core and lesion, and these, for some tumours.

    Parameters
    ----------
    masks
        The packed outlines of all tumours. Their thresholds are tried in addition to 0.5, 0.55 .. 0.85 for the core and
        0.05, 0.1 .. 0.45 for the lesion; among equally good thresholds, the nearest to them is chosen.
    densities
        Function that returns the density of a tumour as it was when it was packed.
    rows
        Indices of the tumours.
    core, lesion
        The patient's outlines.
    """
    outlines = [(np.take(mask, masks.order), int(np.count_nonzero(mask))) for mask in (core, lesion)]
    grids = [
        np.union1d(grid[(grid > low) & (grid < high)], default)
        for grid, default, low, high in zip(
            (CORE_THRESHOLDS, LESION_THRESHOLDS),
            masks.thresholds,
            (masks.thresholds[1], 0.0),
            (1.0, masks.thresholds[0]),
            strict=True,
        )
    ]
    thresholds, dice = np.zeros((2, len(rows))), np.zeros((2, len(rows)))
    for i, row in enumerate(rows):
        values = np.take(np.asarray(densities(int(row))), masks.order)
        for j, (grid, default, (inside, volume)) in enumerate(zip(grids, masks.thresholds, outlines, strict=True)):
            found = dice_above(values, cutoffs(grid, values.dtype), inside, volume)
            best = np.lexsort((np.abs(grid - default), -found))[0]
            thresholds[j, i], dice[j, i] = grid[best], found[best]
    return thresholds, dice


def dice_above(
    values: Shaped[np.ndarray, "v"], cuts: Shaped[np.ndarray, "t"], inside: Bool[np.ndarray, "v"], volume: int
) -> Float[np.ndarray, "t"]:
    """Return the Dice coefficients of a mask with the voxels whose values exceed each of some rising cutoffs."""
    # A value that exceeds n cutoffs belongs to the counts of the n lowest ones.
    exceeded = np.searchsorted(cuts, values, side="left")
    counts, common = (
        np.bincount(some, minlength=len(cuts) + 1)[::-1].cumsum()[::-1][1:] for some in (exceeded, exceeded[inside])
    )
    return coefficients(common, counts + volume)
