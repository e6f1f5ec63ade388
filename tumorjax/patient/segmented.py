"""A patient's own tissue outside the tumour, segmented from the T1 image with an atlas as prior."""

from dataclasses import replace

import numpy as np

from tumorjax.atlas import AtlasImages
from tumorjax.atlas.segmentation import tissue_maps
from tumorjax.grid import Grid
from tumorjax.io import InputError, Volume, fill_holes, resample
from tumorjax.patient.alignment import LESION_RIM, grow
from tumorjax.patient.kept import Kind, kept
from tumorjax.registration import Transform, warp

# Coarsest voxels (mm) of the segmentation: ventricles and sulci are wider.
_COARSEST = 2.0
# Standard deviations (mm) by which anatomies differ through a deformation, and through an affine map alone: ventricles
# beside a tumour are displaced by a centimetre.
_DEFORMED, _AFFINE = 2.0, 4.0
# Maps of tissue in the user's cache.
_TISSUE = Kind(
    "tissue",
    1,
    "tissue",
    lambda maps: None if maps is None else ({}, {"maps": maps}),
    lambda header, arrays: arrays["maps"],
)


def segmented(
    t1: Volume,
    brain: Volume | None,
    lesion: Volume,
    atlas: AtlasImages,
    transform: Transform,
    resolution: float,
    notes: list[str],
) -> tuple[Volume, Volume, Volume] | None:
    """Return a patient's white matter, grey matter and fluid on voxels of the T1 image's world; see `tissue_maps`.

    The same images are segmented once; see `tumorjax.patient.kept`.

    Fluid is what the image shows. White and grey matter fill the rest: in the proportion of the atlas if it is deformed
    to the image, which keeps voxels that both share, and else as the image shows them.

    Parameters
    ----------
    t1
        The T1 image.
    brain
        Mask of the brain; None takes that of the atlas.
    lesion
        Mask of the tumour. In it and in a rim of 4 mm around it intensities say nothing about healthy tissue, so the
        maps there are those of the atlas.
    atlas, transform
        The prior, and the map from the patient's world to it: a deformation, or an affine map, through which the prior
        is blurred more.
    resolution
        Voxel size, mm; voxels are not coarser than 2 mm.
    notes
        Receives why there is no segmentation.

    Returns
    -------
    tuple of Volume or None
        None if the tissues cannot be told apart in the image.
    """
    grid = t1.grid.with_spacing(max(min(resolution, _COARSEST), float(np.min(t1.grid.spacing))))
    field = transform.field
    deformed = () if field is None else (field.affine, field.forward, field.backward)
    prior = (atlas.title, atlas.t1, atlas.brain, atlas.white_matter, atlas.grey_matter, atlas.csf)
    given = (t1, brain, lesion, *prior, transform.matrix, *deformed, grid.shape, np.asarray(grid.affine))
    maps = kept(_TISSUE, lambda: _segmented(t1, brain, lesion, atlas, transform, grid, notes), *given)
    if maps is None:
        return None
    white, grey, csf = (replace(t1, data=each, affine=np.asarray(grid.affine), header=None) for each in maps)
    return white, grey, csf


def _segmented(
    t1: Volume,
    brain: Volume | None,
    lesion: Volume,
    atlas: AtlasImages,
    transform: Transform,
    grid: Grid,
    notes: list[str],
) -> np.ndarray | None:
    """Return white matter, grey matter and fluid on a grid, (3, x, y, z), or None and a note."""
    affected = grow(resample(lesion.data, lesion.affine, grid, kind="mean") > 0, grid, LESION_RIM)
    if brain is None:
        inside = fill_holes(warp(atlas.brain, transform, grid, kind="mean") >= 0.5)
    else:
        inside = resample(brain.data > 0, brain.affine, grid, kind="mean") >= 0.5
    image = replace(
        t1, data=resample(t1.data, t1.affine, grid, kind="mean"), affine=np.asarray(grid.affine), header=None
    )
    deformed = transform.field is not None
    about = {"blur": _DEFORMED if deformed else _AFFINE, "shares_of_prior": deformed}
    try:
        return tissue_maps(image, inside, atlas, transform, ignored=affected, **about)
    except InputError as error:
        notes.append(f"The tissue of the patient is that of the atlas {atlas.title}: {error}.")
        return None
