"""Optical flow between two images of brains, by which what a registration has left of their difference is removed."""

import numpy as np
from scipy import ndimage

# Widths of Gaussians (mm) by which one of the images may be sharper.
_SHARPNESS = (0.5, 0.8, 1.1, 1.4, 1.8, 2.2)
# Width (mm) of the Gaussian window in which the flow is one vector, and the gradient (1/mm, in standard deviations of
# the brightness) below which there is none.
_WINDOW, _LEAST = 6.0, 0.05
# Largest flow of one step, mm: beyond it the images are not linear.
_LONGEST = 3.0


def equally_sharp(
    own: np.ndarray, other: np.ndarray, where: np.ndarray, spacing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return two images of which the sharper one is smoothed until they correlate best in a region.

    Where one image is sharper than the other, their difference at an edge is no displacement.

    Parameters
    ----------
    own, other
        (x, y, z), on the same voxels.
    where
        (x, y, z), bool: the region.
    spacing
        (3,), mm.
    """

    def smoothed(image: np.ndarray) -> list[np.ndarray]:
        return [image, *(ndimage.gaussian_filter(image, width / spacing) for width in _SHARPNESS)]

    pairs = [(one, other) for one in smoothed(own)] + [(own, one) for one in smoothed(other)[1:]]
    return max(pairs, key=lambda pair: float(np.corrcoef(pair[0][where], pair[1][where])[0, 1]))


def flow(gradient: np.ndarray, left: np.ndarray, where: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the displacement d, smooth over a window, with which g·d best equals a difference of brightness.

    Parameters
    ----------
    gradient
        g, (x, y, z, 3), 1/mm.
    left
        (x, y, z): the difference of brightness.
    where
        (x, y, z), bool: the voxels that count.
    spacing
        (3,), mm.

    Returns
    -------
    ndarray
        (x, y, z, 3), mm.

    References
    ----------
    Lucas, Kanade, "An iterative image registration technique with an application to stereo vision", IJCAI 1981.
    """

    def windowed(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(np.where(where, values, 0), _WINDOW / spacing, truncate=3)

    # Where next to nothing counts there is next to no flow.
    share = windowed(np.ones_like(left)) + 1e-3
    matrix = np.empty((*left.shape, 3, 3))
    vector = np.empty((*left.shape, 3))
    for i in range(3):
        vector[..., i] = windowed(gradient[..., i] * left) / share
        for j in range(i, 3):
            matrix[..., i, j] = matrix[..., j, i] = windowed(gradient[..., i] * gradient[..., j]) / share
    found = np.linalg.solve(matrix + _LEAST**2 * np.eye(3), vector[..., None])[..., 0]
    return np.clip(found, -_LONGEST, _LONGEST)
