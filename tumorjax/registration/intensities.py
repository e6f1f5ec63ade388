"""Intensities of two images of the same kind, brought to one scale."""

import numpy as np
from jaxtyping import Bool, Float, Real

_QUANTILES = np.linspace(0, 100, 65)


def match_intensities(
    image: Real[np.ndarray, "x y z"], target: Real[np.ndarray, "x y z"], where: Bool[np.ndarray, "x y z"]
) -> Float[np.ndarray, "x y z"]:
    """Return an image whose intensities have the quantiles of another one's in a region; the background stays zero.

    Parameters
    ----------
    image, target
        On the same voxels; zero is background.
    where
        The region, in which both images have voxels above zero.
    """
    old, new = (
        np.concatenate([[0.0], np.percentile(each[where & (each > 0)], _QUANTILES)]) for each in (image, target)
    )
    # `np.interp` needs strictly rising quantiles.
    old, first = np.unique(old, return_index=True)
    return np.interp(image, old, new[first])
