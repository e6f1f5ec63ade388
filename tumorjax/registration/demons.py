"""Diffeomorphic demons of SimpleITK."""

from typing import Any

import numpy as np

from tumorjax.registration.images import to_itk
from tumorjax.registration.inverse import fading, vectors_of
from tumorjax.registration.pair import Pair

# Shrink factor of the working resolution, and number of iterations, of each level.
_LEVELS = ((4, 50), (2, 40), (1, 20))
# Standard deviation (voxels of the level) of the Gaussian by which demons smooths the field after each step: with less
# smoothing the field folds more often, with more it becomes too stiff.
_SIGMA = 1.5
# Longest step of an iteration, voxels.
_STEP = 2.0


def demons(pair: Pair) -> np.ndarray:
    """Return the displacements found by diffeomorphic demons [1]_ after histogram matching, (x, y, z, 3) mm.

    Where images may not be compared, the fixed image gets the moving one's intensities at each level, so that no force
    acts there and smoothing alone determines the field. Smoothing the whole field may make it fold at the border of a
    large tumour.

    References
    ----------
    .. [1] T. Vercauteren et al., "Diffeomorphic demons: efficient non-parametric image registration",
       NeuroImage 45 (2009). doi:10.1016/j.neuroimage.2008.10.040
    """
    import SimpleITK as sitk

    source = to_itk(pair.matched(), pair.affine)
    field = sitk.Image(source.GetSize(), sitk.sitkVectorFloat64)
    field.CopyInformation(source)
    for shrink, iterations in _LEVELS:
        shown = sitk.Resample(source, source, sitk.DisplacementFieldTransform(sitk.Image(field)), sitk.sitkLinear)
        seen = np.where(pair.seen, pair.fixed, sitk.GetArrayFromImage(shown).T).astype(np.float32)
        coarse = [_shrunk(image, shrink) for image in (to_itk(seen, pair.affine), source)]
        filter_ = sitk.DiffeomorphicDemonsRegistrationFilter()
        filter_.SetNumberOfIterations(iterations)
        filter_.SetStandardDeviations(_SIGMA)
        filter_.SetMaximumUpdateStepLength(_STEP)
        field = sitk.Resample(field, coarse[0], sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkVectorFloat64)
        field = sitk.Resample(filter_.Execute(*coarse, field), source, sitk.Transform(), sitk.sitkLinear)
    return fading(vectors_of(field))


def _shrunk(image: Any, factor: int) -> Any:
    import SimpleITK as sitk

    if factor == 1:
        return image
    spacing = float(image.GetSpacing()[0])
    return sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, [0.5 * factor * spacing] * 3), [factor] * 3)
