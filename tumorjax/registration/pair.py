"""Two images on the same voxels, between which a deformation is sought."""

from typing import NamedTuple

import numpy as np

from tumorjax.registration.intensities import match_intensities


class Pair(NamedTuple):
    """A fixed image and a moving one that an affine map has aligned with it.

    Parameters
    ----------
    fixed, moving
        (x, y, z), images on the same voxels.
    shown
        Mask of the fixed image's foreground.
    seen
        Mask of the voxels that may be compared.
    brain
        Mask of the voxels that both brains fill and that may be compared.
    affine
        (4, 4) of the voxels, which are cubes.
    """

    fixed: np.ndarray
    moving: np.ndarray
    shown: np.ndarray
    seen: np.ndarray
    brain: np.ndarray
    affine: np.ndarray

    def matched(self) -> np.ndarray:
        """Return the moving image with the fixed one's quantiles of intensity in the brain, (x, y, z) float32."""
        return match_intensities(self.moving, self.fixed, self.brain).astype(np.float32)
