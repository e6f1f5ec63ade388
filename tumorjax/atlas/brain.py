"""The brain mask of a T1 image without the skull."""

import numpy as np
from scipy import ndimage

from tumorjax.io import Volume, fill_holes

# Largest volume of a brain, ml; images with the skull show more.
LARGEST_BRAIN = 2300.0


def shown(t1: Volume, share: float) -> np.ndarray:
    """Return the mask where an image is brighter than a share of its bright tissue.

    The background must be zero; see `tumorjax.io.above_background`.

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
    # Parts are numbered from one; voxels that share a face are connected.
    parts = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=parts)
    return parts
