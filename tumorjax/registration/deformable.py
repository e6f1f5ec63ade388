"""Diffeomorphic registration of brains after their affine alignment."""

import tempfile
from typing import Any

import numpy as np
from scipy import ndimage

from tumorjax.registration.images import to_itk
from tumorjax.registration.linear import correlation
from tumorjax.registration.transform import Field

# Shrink factor of the working resolution, and number of iterations, of each level.
_LEVELS = ((4, 50), (2, 40), (1, 20))
# Standard deviation (voxels of the level) of the Gaussian by which demons smooths the field after each step: with less
# smoothing the field folds, with more it becomes too stiff.
_SIGMA = 1.5
# Longest step of an iteration, voxels.
_STEP = 2.0
# Quantiles by which intensities are matched.
_QUANTILES = np.linspace(0, 100, 65)
# The field falls to zero over this number of its outermost voxels, so that it is continuous at its border.
_RIM = 4
# Demons requires that the brightness of one image rises with that of the other. At this depth (mm) inside the brain,
# where the outline has no influence, two people's T1 images correlate by 0.5 to 0.85 (0.44 if one has contrast agent),
# T1 and FLAIR images by 0.17 to 0.24, and inverted images negatively.
_DEEP = 9.0
SAME_CONTRAST = 0.35
# Number of fixed-point iterations, then of Newton iterations at points where the inverse errs by more than this (mm).
_INVERSE_STEPS = 15
_NEWTON_STEPS = 10
_INVERSE_ERROR = 0.01


def same_contrast(fixed: np.ndarray, moving: np.ndarray, inside: np.ndarray, spacing: float) -> float:
    """Return the correlation of intensities deep inside both brains, or inside at all if no voxel is deep enough."""
    deep = np.asarray(ndimage.distance_transform_edt(inside)) * spacing > _DEEP
    inside = deep if deep.any() else inside
    return correlation(fixed[inside], moving[inside])


def demons(
    fixed: np.ndarray, moving: np.ndarray, seen: np.ndarray, brain: np.ndarray, affine: np.ndarray
) -> np.ndarray:
    """Return the displacements found by diffeomorphic demons [1]_, in the fixed image's world.

    Parameters
    ----------
    fixed, moving
        (x, y, z), images on the same voxels.
    seen
        Mask of the voxels that may be compared. Elsewhere the fixed image gets the moving one's intensities at each
        level, so that no force acts there and smoothing alone determines the field.
    brain
        Mask of the voxels whose intensities are matched.
    affine
        (4, 4) of the voxels.

    Returns
    -------
    ndarray
        (x, y, z, 3), mm.

    References
    ----------
    .. [1] T. Vercauteren et al., "Diffeomorphic demons: efficient non-parametric image registration",
       NeuroImage 45 (2009). doi:10.1016/j.neuroimage.2008.10.040
    """
    import SimpleITK as sitk

    source = to_itk(_matched(moving, fixed, brain), affine)
    field = sitk.Image(source.GetSize(), sitk.sitkVectorFloat64)
    field.CopyInformation(source)
    for shrink, iterations in _LEVELS:
        shown = sitk.Resample(source, source, sitk.DisplacementFieldTransform(sitk.Image(field)), sitk.sitkLinear)
        target = to_itk(np.where(seen, fixed, sitk.GetArrayFromImage(shown).T).astype(np.float32), affine)
        coarse = [_shrunk(image, shrink) for image in (target, source)]
        filter_ = sitk.DiffeomorphicDemonsRegistrationFilter()
        filter_.SetNumberOfIterations(iterations)
        filter_.SetStandardDeviations(_SIGMA)
        filter_.SetMaximumUpdateStepLength(_STEP)
        field = sitk.Resample(field, coarse[0], sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkVectorFloat64)
        field = sitk.Resample(filter_.Execute(*coarse, field), source, sitk.Transform(), sitk.sitkLinear)
    return _vectors(field)


def syn(fixed: np.ndarray, moving: np.ndarray, seen: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the displacements found by ANTs' symmetric normalization [1]_; the arguments are those of `demons`.

    The metric is mutual information, so contrasts may differ. Sums over threads have no fixed order, so runs differ by
    rounding unless ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS is 1.

    Raises
    ------
    ValueError
        If antspyx is not installed.

    References
    ----------
    .. [1] B. B. Avants et al., "Symmetric diffeomorphic image registration with cross-correlation",
       Med. Image Anal. 12 (2008). doi:10.1016/j.media.2007.06.004
    """
    try:
        import ants  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("engine 'ants' needs antspyx, which is not installed: pip install 'tumorjax[ants]'") from None
    import SimpleITK as sitk

    spacing = np.linalg.norm(affine[:3, :3], axis=0)

    def image(data: np.ndarray) -> Any:
        place = {"origin": affine[:3, 3].tolist(), "spacing": spacing.tolist(), "direction": affine[:3, :3] / spacing}
        return ants.from_numpy(data.astype(np.float32), **place)

    with tempfile.TemporaryDirectory() as folder:
        found = ants.registration(
            image(fixed),
            image(moving),
            type_of_transform="SyNOnly",
            initial_transform="Identity",
            outprefix=f"{folder}/syn",
            mask=image(seen),
            mask_all_stages=True,
            syn_metric="mattes",
            syn_sampling=32,
            reg_iterations=(40, 20, 10),
            random_seed=1,
        )
        (warp,) = [name for name in found["fwdtransforms"] if name.endswith("Warp.nii.gz")]
        return _vectors(sitk.ReadImage(warp, sitk.sitkVectorFloat64))


def fading(vectors: np.ndarray) -> np.ndarray:
    """Return displacements that fall to zero at the border of their lattice."""
    vectors = vectors.copy()
    for axis, size in enumerate(vectors.shape[:3]):
        depth = np.minimum(np.arange(size), np.arange(size)[::-1])
        vectors *= np.clip(depth / _RIM, 0, 1).reshape([-1 if a == axis else 1 for a in range(4)])
    return vectors


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
    return Field(affine, kept.forward, _polished(kept, _vectors(inverse)))


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


def _matched(moving: np.ndarray, fixed: np.ndarray, brain: np.ndarray) -> np.ndarray:
    # `np.interp` needs strictly rising quantiles; the background stays zero.
    old = np.concatenate([[0.0], np.percentile(moving[brain & (moving > 0)], _QUANTILES)])
    new = np.concatenate([[0.0], np.percentile(fixed[brain & (fixed > 0)], _QUANTILES)])
    old, first = np.unique(old, return_index=True)
    return np.interp(moving, old, new[first]).astype(np.float32)


def _shrunk(image: Any, factor: int) -> Any:
    import SimpleITK as sitk

    if factor == 1:
        return image
    spacing = float(image.GetSpacing()[0])
    return sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, [0.5 * factor * spacing] * 3), [factor] * 3)


def _vectors(image: Any) -> np.ndarray:
    import SimpleITK as sitk

    return np.ascontiguousarray(sitk.GetArrayFromImage(image).transpose(2, 1, 0, 3))
