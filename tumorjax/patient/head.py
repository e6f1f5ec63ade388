"""The brain in a T1 image of a head, roughly: enough to align an atlas with it."""

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from tumorjax.atlas.brain import LARGEST_BRAIN, largest_part
from tumorjax.io import Volume, resample

# mm: voxels on which the brain is sought.
_VOXEL = 2.0
# A head is brighter than this share of what is bright in the image; air and skull are dark.
_HEAD = 0.2
# mm: so deep in a head there is brain, by whose median intensity the bounds of a brain's intensity are given: fluid and
# skull are below them, fat above.
_DEEP, _DARK, _BRIGHT = 30.0, 0.6, 1.5
# mm: thinner bridges, such as nerves and vessels through the skull, are cut; then the brain gets back its surface.
_BRIDGE, _SURFACE = 5.0, 6.0
# Even a child's brain that is cut at the border of the image is larger (ml).
_SMALLEST_BRAIN = 500.0


def brain_in_head(t1: Volume) -> Bool[np.ndarray, "x y z"] | None:
    """Return a rough mask of the brain in a T1 image that shows the skull; None if nothing of a brain's size is found.

    The brain is the largest part with the intensity of the middle of the head, once thin bridges are cut: a threshold,
    an erosion, the largest connected component and a dilation. All numbers are heuristic. The mask errs by some
    millimetres, and an alignment with it is checked like any other.

    Parameters
    ----------
    t1
        The image; its background is zero, see `tumorjax.io.above_background`.
    """
    grid = t1.grid.with_spacing(_VOXEL)
    values = resample(t1.data, t1.affine, grid)
    if not (values > 0).any():
        return None
    head = np.asarray(ndimage.binary_fill_holes(values > _HEAD * np.percentile(values[values > 0], 90)))
    deep = values[_distance(np.pad(head, 1))[1:-1, 1:-1, 1:-1] > _DEEP]
    if not deep.size:
        return None
    level = float(np.median(deep))
    inner = _distance((values > _DARK * level) & (values < _BRIGHT * level)) > _BRIDGE
    if not inner.any():
        return None
    brain = np.asarray(ndimage.binary_fill_holes(_distance(~largest_part(inner)) <= _SURFACE))
    millilitres = float(brain.sum() * grid.voxel_volume) / 1000
    if not _SMALLEST_BRAIN < millilitres < LARGEST_BRAIN:
        return None
    return resample(brain, np.asarray(grid.affine), t1.grid, kind="mean") >= 0.5


def _distance(mask: Bool[np.ndarray, "x y z"]) -> np.ndarray:
    """Return the distance of each voxel of a mask from what lies outside of it, mm."""
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=_VOXEL))
