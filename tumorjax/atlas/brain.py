"""The brain that a T1 image shows, as a mask."""

import numpy as np
from scipy import ndimage

from tumorjax.io import Volume, fill_holes

# ml; nothing but a brain shows less, and every head more.
LARGEST_BRAIN = 2300.0


def shown(t1: Volume, share: float) -> np.ndarray:
    """Return where an image is brighter than a share of its bright tissue, boolean; an error if nothing is.

    Its background is zero, see `tumorjax.io.above_background`.

    Raises
    ------
    InputError
        If no voxel is above zero.
    """
    bright = t1.data[t1.data > 0]
    if not bright.size:
        t1.fail("shows nothing above zero; give a T1 image of the brain")
    return t1.data > share * np.percentile(bright, 98)


def largest_part(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected part of a mask, without holes."""
    parts = _parts(mask)
    return fill_holes(parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])))


def _parts(mask: np.ndarray) -> np.ndarray:
    # Numbers from one; voxels that share a face belong together.
    parts = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=parts)
    return parts
