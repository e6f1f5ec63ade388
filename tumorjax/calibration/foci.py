"""Which parts the core of a tumour has: one for each focus of a multifocal tumour."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from tumorjax.anatomy import Anatomy
from tumorjax.grid import Grid, tissue_box
from tumorjax.observation import AbstractObservation, Outline

# Parts of a core that are as near to each other (mm) as a front is wide are one. Heuristic, as the next two are.
_GAP = 6.0
# Smaller shares of the core are no focus of their own: a rim that tears, or a speck.
_SHARE = 0.1
# Each focus has four numbers more.
_MOST = 5


class Focus(NamedTuple):
    """A part of the core that lies by itself, with what lies around it.

    Parameters
    ----------
    core
        (x, y, z), boolean.
    lesion
        (x, y, z), boolean: the voxels of the whole lesion that are nearer to this part than to the others.
    """

    core: Bool[np.ndarray, "x y z"]
    lesion: Bool[np.ndarray, "x y z"]


def core_and_lesion(observations: Mapping[str, AbstractObservation]) -> tuple[Outline, Outline] | None:
    """Return the outlines that are named so, the core for both where it alone is outlined; None without a core."""
    core = observations.get("core")
    lesion = observations.get("lesion", core)
    return (core, lesion) if isinstance(core, Outline) and isinstance(lesion, Outline) else None


def foci_of(observations: Mapping[str, AbstractObservation], grid: Grid) -> list[Focus]:
    """Return the separate parts of a core, the largest first; a single one where the tumour has one focus.

    Parts count that hold at least a tenth of the core and are more than 6 mm apart from each other, at most five.

    Parameters
    ----------
    observations
        The images of a tumour by name; without an outline named "core" there is no focus. Where it is the only one,
        each part of it is its own lesion.
    grid
        The grid of the images.
    """
    found = core_and_lesion(observations)
    if found is None:
        return []
    outlines = [np.asarray(o.inside, float) for o in found]
    # Of a small core no voxel may be full by half.
    core = outlines[0] > min(0.5, outlines[0].max() / 2)
    cores = parts_of(core, grid)
    lesion = outlines[1] > min(0.5, outlines[1].max() / 2)
    near = nearest(cores, grid)
    return [Focus(part, lesion & (near == i)) for i, part in enumerate(cores)]


def parts_of(core: Bool[np.ndarray, "x y z"], grid: Grid) -> list[Bool[np.ndarray, "x y z"]]:
    """Return the parts of a core that lie apart, the largest first: see `foci_of`."""
    spacing = np.asarray(grid.spacing, float)
    if not core.any():
        return []
    # No voxel outside this box is joined to another.
    start, shape = tissue_box(core, margin=int(np.ceil(_GAP / 2 / spacing.min())))
    box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
    joined = np.asarray(ndimage.distance_transform_edt(~core[box], sampling=spacing)) <= _GAP / 2
    labels = np.zeros(core.shape, int)
    ndimage.label(joined, structure=np.ones((3, 3, 3)), output=labels[box])
    sizes = np.bincount(labels[core])[1:]
    order = [i + 1 for i in np.argsort(-sizes, kind="stable") if sizes[i] >= _SHARE * sizes.sum()][:_MOST]
    return [core & (labels == i) for i in order]


def nearest(parts: list[Bool[np.ndarray, "x y z"]], grid: Grid) -> Int[np.ndarray, "x y z"]:
    """Return the number of the part that is nearest to each voxel."""
    numbers = np.zeros(parts[0].shape, int)
    for i, part in enumerate(parts):
        numbers[part] = i
    where = ndimage.distance_transform_edt(
        ~np.any(parts, axis=0),
        sampling=np.asarray(grid.spacing, float),
        return_distances=False,
        return_indices=True,
    )
    return numbers[tuple(np.asarray(where))]


def lag(mu2: float, radius: float, first: float) -> float:
    """Return the share of the first seed's cells that a focus of this radius begins with, next to one of `first`.

    The front of a tumour moves at a constant speed, so that radii are as times; and cells multiply by e in 1 / rho.
    """
    return float(np.exp(-(mu2**2) * max(1 - radius / first, 0.0)))


def volumes(foci: list[Focus], grid: Grid) -> Float[np.ndarray, "n"]:
    """Return the volume of the core of each focus, ml."""
    return np.array([focus.core.sum() for focus in foci]) * float(grid.voxel_volume) / 1000


def centre_and_radius(anatomy: Anatomy, inside: Any) -> tuple[np.ndarray, float]:
    """Return the centre of what an outline holds, (x, y, z), in the world, mm, and the radius of its ball, mm."""
    inside = np.asarray(inside, float)
    volume = inside.sum() * float(anatomy.grid.voxel_volume)
    weights = [inside.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    index = np.array([np.average(np.arange(len(w)), weights=w) for w in weights])
    return np.asarray(anatomy.grid.to_world(index)), float((3 * volume / (4 * np.pi)) ** (1 / 3))
