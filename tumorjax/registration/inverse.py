"""Displacement fields made fit for use: zero at their border, without folds, and with their inverse."""

from typing import Any

import numpy as np
from scipy import ndimage

from tumorjax.registration.images import to_itk
from tumorjax.registration.transform import Field

# The field falls to zero over this number of its outermost voxels, so that it is continuous at its border.
RIM = 4
# Number of fixed-point iterations, then of Newton iterations at points where the inverse errs by more than this (mm).
_INVERSE_STEPS = 15
_NEWTON_STEPS = 10
_INVERSE_ERROR = 0.01


def fading(vectors: np.ndarray) -> np.ndarray:
    """Return displacements that fall to zero at the border of their lattice."""
    vectors = vectors.copy()
    for axis, size in enumerate(vectors.shape[:3]):
        depth = np.minimum(np.arange(size), np.arange(size)[::-1])
        vectors *= np.clip(depth / RIM, 0, 1).reshape([-1 if a == axis else 1 for a in range(4)])
    return vectors


def smoothed(vectors: np.ndarray, width: float) -> np.ndarray:
    """Return weaker displacements, smoothed by a Gaussian of this standard deviation (voxels)."""
    return np.stack([ndimage.gaussian_filter(part, width, truncate=3.0) for part in np.moveaxis(vectors, -1, 0)], -1)


def with_inverse(forward: np.ndarray, affine: np.ndarray) -> Field:
    """Return the field (zero at its border) with its inverse, found by fixed-point iteration [1]_.

    References
    ----------
    .. [1] M. Chen et al., "A simple fixed-point approach to invert a deformation field",
       Med. Phys. 35 (2008). doi:10.1118/1.2816107
    """
    import SimpleITK as sitk

    # Rounded as in a file, so that reading the file gives the same inverse.
    kept = Field(affine, forward, np.zeros_like(forward))
    inverse = sitk.InvertDisplacementField(
        to_itk(kept.forward.astype(np.float64), affine, vector=True),
        maximumNumberOfIterations=_INVERSE_STEPS,
        maxErrorToleranceThreshold=_INVERSE_ERROR,
        # The mean error depends on the number of threads, so it must not stop the iteration.
        meanErrorToleranceThreshold=0.0,
        enforceBoundaryCondition=True,
    )
    return Field(affine, kept.forward, _polished(kept, vectors_of(inverse)))


def _polished(field: Field, backward: np.ndarray) -> np.ndarray:
    # The fixed point converges slowly where the map compresses space; there, Newton's method is applied to each point.
    points = field.points()
    wrong = np.argwhere(np.linalg.norm(backward + field.at(points + backward), axis=-1) > _INVERSE_ERROR)
    where = tuple(wrong.T)
    points, found = points[where], backward[where]
    step = np.linalg.norm(field.affine[:3, :3], axis=0).min() / 2
    residual = found + field.at(points + found)
    for _ in range(_NEWTON_STEPS):
        there = points + found
        columns = [(field.at(there + shift) - field.at(there - shift)) / (2 * step) for shift in step * np.eye(3)]
        jacobian = np.eye(3) + np.stack(columns, axis=-1)
        # For nearly singular matrices, steps are limited to one voxel; a step that does not reduce the error is halved.
        update = -np.einsum("nij,nj->ni", np.linalg.pinv(jacobian, rcond=1e-2), residual)
        update *= np.minimum(1, 2 * step / np.maximum(np.linalg.norm(update, axis=-1), 1e-9))[:, None]
        for _ in range(4):
            trial = found + update
            new = trial + field.at(points + trial)
            worse = np.linalg.norm(new, axis=-1) >= np.linalg.norm(residual, axis=-1)
            update[worse] /= 2
            found, residual = np.where(worse[:, None], found, trial), np.where(worse[:, None], residual, new)
            update[~worse] = 0
            if not worse.any():
                break
    backward[where] = found
    return backward


def inverse_error(field: Field, brain: np.ndarray) -> tuple[float, float]:
    """Return the median and largest distance (mm) by which map and inverse together move points of the brain."""
    points, back = field.points()[brain], field.backward[brain]
    distance = np.linalg.norm(back + field.at(points + back), axis=-1)
    return float(np.median(distance)), float(distance.max())


def vectors_of(image: Any) -> np.ndarray:
    """Return the displacements of a SimpleITK image, (x, y, z, 3)."""
    import SimpleITK as sitk

    return np.ascontiguousarray(sitk.GetArrayFromImage(image).transpose(2, 1, 0, 3))
