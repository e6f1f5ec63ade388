"""Outlines at other densities: which thresholds show a patient best in a given tumour."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from tumorjax.retrieval.direct import coefficients
from tumorjax.retrieval.masks import PackedMasks, cutoffs

# The prior boxes of the outlines' thresholds, which do not overlap, so that lesions stay around cores.
CORE_THRESHOLDS = np.arange(10, 18) / 20
LESION_THRESHOLDS = np.arange(1, 10) / 20


def best_thresholds(
    masks: PackedMasks,
    densities: Callable[[int], Shaped[np.ndarray, "x y z"]],
    rows: Int[np.ndarray, "m"],
    core: Bool[np.ndarray, "x y z"],
    lesion: Bool[np.ndarray, "x y z"],
) -> tuple[Float[np.ndarray, "2 m"], Float[np.ndarray, "2 m"]]:
    """Return the thresholds of core and lesion with the largest Dice coefficient each, and these, of some tumours.

    Parameters
    ----------
    masks
        Whose brain, and whose thresholds: they are tried besides 0.5, 0.55 .. 0.85 for the core and 0.05, 0.1 .. 0.45
        for the lesion. Of equally good ones the nearest to them is taken.
    densities
        Gives the density of a tumour, as it was when it was packed.
    rows
        The tumours.
    core, lesion
        Of the patient.
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
    """Return the Dice coefficient of a mask with what exceeds each of rising cutoffs."""
    # The number of cutoffs that a value exceeds; so many at least are those of every cutoff below.
    exceeded = np.searchsorted(cuts, values, side="left")
    counts, common = (
        np.bincount(some, minlength=len(cuts) + 1)[::-1].cumsum()[::-1][1:] for some in (exceeded, exceeded[inside])
    )
    return coefficients(common, counts + volume)
