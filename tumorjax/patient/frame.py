"""The voxel grid of a patient's results: that of the segmentation, extended to cover the whole brain."""

import math
from dataclasses import replace

import numpy as np
from scipy.spatial import KDTree

from tumorjax.grid import Grid, tissue_box
from tumorjax.io import Volume, fill_holes
from tumorjax.patient.images import Brain
from tumorjax.patient.tissue import TissueSource
from tumorjax.quality import Note, Status

# The segmentation's image is not extended if less than this share of the brain lies outside it, and none of that is
# within this distance (mm) of the lesion. Many images end in the brainstem.
_OUTSIDE = 0.02
_NEAR = 30.0
# Number of voxels around the brain in an extended image.
_RIM = 2
# 645^3 voxels, the same limit as for images that are read.
_MOST_VOXELS = 2**28
# If an image ends closer to the core than this (mm), it cuts off the margin of the standard plan.
_MARGIN = 15.0
# A lesion counts as cut off at the border of the image if its area in the outermost slice is at least this share of
# that in the next slice.
_CUT = 0.7


def tissue_extent(source: TissueSource) -> Brain:
    """Return the brain in tissue maps, on voxels in the patient's world; an atlas is moved by its affine map only."""
    if source.atlas is not None:
        image = source.atlas.brain
        shown = image.data > 0
    else:
        image, grid = source.white_matter, source.white_matter.grid
        shown = fill_holes(np.sum(source.on(grid), axis=0) >= 0.5)
    affine = np.asarray(image.affine, float)
    if source.transform is not None:
        affine = np.linalg.inv(source.transform.matrix) @ affine
    return Brain(replace(image, data=shown, affine=affine))


def frame_of(
    segmentation: Volume, lesion: np.ndarray, brain: Brain, notes: list[str]
) -> tuple[Volume, tuple[slice, ...]]:
    """Return the segmentation, extended to cover the brain if necessary, and its own box in the result.

    Parameters
    ----------
    segmentation
        The segmentation. The result has its voxel size and orientation, and contains its voxels unchanged.
    lesion
        (x, y, z), boolean, on the segmentation's voxels.
    brain
        The brain to cover.
    notes
        List to which a note is appended if the image is extended.

    Raises
    ------
    InputError
        If there would be too many voxels.
    """
    shape = segmentation.data.shape
    whole = tuple(slice(0, size) for size in shape)
    start, size = tissue_box(brain.image.data)
    ends = [(low - 0.5, low + n - 0.5) for low, n in zip(start, size, strict=True)]
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    if _held(_index(corners, brain, segmentation), shape).all():
        return segmentation, whole
    index = _index(np.argwhere(brain.image.data), brain, segmentation)
    held = _held(index, shape)
    share = float(held.mean())
    if share >= 1 - _OUTSIDE:
        spacing = np.asarray(segmentation.grid.spacing)
        distance, _ = KDTree(index[~held] * spacing).query(np.argwhere(lesion) * spacing, distance_upper_bound=_NEAR)
        if not np.isfinite(distance).any():
            return segmentation, whole
    # The brain extends beyond the centres of its outermost voxels by half a voxel of its own image.
    # An atlas behind an affine map has sheared voxels, which make no grid.
    sides = np.linalg.norm(np.asarray(brain.image.affine, float)[:3, :3], axis=0)
    room = _RIM + np.ceil(0.5 * np.max(sides) / np.asarray(segmentation.grid.spacing))
    first = np.minimum(0, np.floor(index.min(axis=0) - room)).astype(int)
    last = np.maximum(np.asarray(shape) - 1, np.ceil(index.max(axis=0) + room)).astype(int)
    size = [int(n) for n in last - first + 1]
    if math.prod(size) > _MOST_VOXELS:
        segmentation.fail(f"needs {size} voxels to cover the brain, more than {_MOST_VOXELS}; resample it")
    grid = segmentation.grid.crop((int(first[0]), int(first[1]), int(first[2])), (size[0], size[1], size[2]))
    box = tuple(slice(int(-low), int(-low) + n) for low, n in zip(first, shape, strict=True))
    data = np.zeros(size, segmentation.data.dtype)
    data[box] = segmentation.data
    notes.append(
        f"The segmentation's image covers {share:.0%} of the brain, so it is extended to the whole brain: results have "
        f"{size[0]} x {size[1]} x {size[2]} voxels."
    )
    affine = np.asarray(grid.affine, float)
    return replace(segmentation, data=data, affine=affine, header=_header(segmentation, grid)), box


def _index(points: np.ndarray, brain: Brain, segmentation: Volume) -> np.ndarray:
    mapping = np.linalg.inv(np.asarray(segmentation.affine, float)) @ np.asarray(brain.image.affine, float)
    return points @ mapping[:3, :3].T + mapping[:3, 3]


def _held(index: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    # A voxel at the border extends half a voxel beyond its centre; the tolerance allows for rounded headers.
    return np.all((index >= -0.51) & (index <= np.asarray(shape) - 0.49), axis=1)


def _header(segmentation: Volume, grid: Grid) -> object:
    """Return the segmentation's header for another grid, with the same form codes."""
    if segmentation.header is None:
        return None
    header, affine = segmentation.header.copy(), np.asarray(grid.affine, float)
    header.set_data_shape(grid.shape)
    header.set_sform(affine, code=int(header["sform_code"]))
    header.set_qform(affine, code=int(header["qform_code"]))
    return header


def notes_on_borders(segmentation: Volume, core: np.ndarray, lesion: np.ndarray, brain: Brain) -> list[str]:
    """Return notes if the border of an image cuts off the lesion, or the brain around it.

    Parameters
    ----------
    segmentation
        The segmentation before any extension.
    core, lesion
        (x, y, z), boolean, on the segmentation's voxels.
    brain
        The brain, on the voxels of the image that shows it.
    """
    notes: list[str] = []
    if _is_cut(lesion):
        notes.append(
            Note(
                "The lesion reaches the border of the segmentation's image and seems to be cut off there, so the plan "
                "and all volumes are cut off, too; give a segmentation of the whole lesion.",
                Status.DOUBTFUL,
            )
        )
    ends = _faces(brain.image.data)
    if len(ends):
        tree = KDTree(np.asarray(segmentation.grid.to_world(np.argwhere(core))))
        affine = np.asarray(brain.image.affine, float)
        places = ends @ affine[:3, :3].T + affine[:3, 3]
        nearest = float(tree.query(places, distance_upper_bound=_MARGIN)[0].min())
        if np.isfinite(nearest):
            notes.append(
                Note(
                    f"The image that shows the brain ({brain.image.name}) ends {nearest:.0f} mm from the core, inside "
                    f"the brain: the plan, its margin of {_MARGIN:g} mm and the growth are cut off there.",
                    Status.DOUBTFUL,
                )
            )
    return notes


def _is_cut(lesion: np.ndarray) -> bool:
    start, shape = tissue_box(lesion)
    for axis in range(3):
        if lesion.shape[axis] < 2:
            continue
        for touches, end, step in (
            (start[axis] == 0, 0, 1),
            (start[axis] + shape[axis] == lesion.shape[axis], -1, -1),
        ):
            if touches:
                outer, inner = (int(np.take(lesion, index, axis).sum()) for index in (end, end + step))
                if outer >= _CUT * inner:
                    return True
    return False


def _faces(brain: np.ndarray) -> np.ndarray:
    """Return the indices (n, 3) of the brain's voxels in the outermost slices of its image."""
    outermost = np.zeros(brain.shape, bool)
    for axis in range(3):
        for end in (0, -1):
            face = tuple(end if a == axis else slice(None) for a in range(3))
            outermost[face] = brain[face]
    return np.argwhere(outermost)
