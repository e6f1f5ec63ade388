"""A patient's own tissue outside the tumour, segmented from the T1 image with an atlas as prior."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from tumorjax.atlas import AtlasImages
from tumorjax.atlas.segmentation import tissue_maps, without_bias
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


class Segmentation:
    """White matter, grey matter and fluid of a patient, outside the tumour; see `tissue_maps`.

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
    resolution
        Voxel size, mm; voxels are not coarser than 2 mm.
    """

    def __init__(self, t1: Volume, brain: Volume | None, lesion: Volume, resolution: float) -> None:
        self._t1, self._brain, self._lesion = t1, brain, lesion
        self._grid = t1.grid.with_spacing(max(min(resolution, _COARSEST), float(np.min(t1.grid.spacing))))
        self._corrected: Callable[[], np.ndarray] | None = None

    def begin(self) -> None:
        """Seek the bias in a thread, for which no atlas is needed where the brain is known; `maps` waits for it."""
        if self._brain is None:
            return
        pool = ThreadPoolExecutor(1)
        self._corrected = pool.submit(lambda: without_bias(self._image(), self._inside(), self._affected())).result
        pool.shutdown(wait=False)

    def maps(self, atlas: AtlasImages, transform: Transform, notes: list[str]) -> tuple[Volume, Volume, Volume] | None:
        """Return white matter, grey matter and fluid on voxels of the T1 image's world.

        Parameters
        ----------
        atlas, transform
            The prior, and the map from the patient's world to it: a deformation, or an affine map, through which the
            prior is blurred more.
        notes
            Receives why there is no segmentation.

        Returns
        -------
        tuple of Volume or None
            None if the tissues cannot be told apart in the image.
        """
        t1, affine, field = self._t1, np.asarray(self._grid.affine), transform.field
        deformed = () if field is None else (field.affine, field.forward, field.backward)
        prior = (atlas.title, atlas.t1, atlas.brain, atlas.white_matter, atlas.grey_matter, atlas.csf)
        given = (t1, self._brain, self._lesion, *prior, transform.matrix, *deformed, self._grid.shape, affine)
        maps = kept(_TISSUE, lambda: self._found(atlas, transform, notes), *given)
        if maps is None:
            return None
        white, grey, csf = (replace(t1, data=each, affine=affine, header=None) for each in maps)
        return white, grey, csf

    def _found(self, atlas: AtlasImages, transform: Transform, notes: list[str]) -> np.ndarray | None:
        """Return white matter, grey matter and fluid, (3, x, y, z), or None and a note."""
        if self._brain is None:
            inside = fill_holes(warp(atlas.brain, transform, self._grid, kind="mean") >= 0.5)
        else:
            inside = self._inside()
        deformed = transform.field is not None
        about = {"blur": _DEFORMED if deformed else _AFFINE, "shares_of_prior": deformed, "corrected": self._corrected}
        try:
            return tissue_maps(self._image(), inside, atlas, transform, ignored=self._affected(), **about)
        except InputError as error:
            notes.append(f"The tissue of the patient is that of the atlas {atlas.title}: {error}.")
            return None

    def _image(self) -> Volume:
        t1 = self._t1
        data = resample(t1.data, t1.affine, self._grid, kind="mean")
        return replace(t1, data=data, affine=np.asarray(self._grid.affine), header=None)

    def _inside(self) -> np.ndarray:
        assert self._brain is not None
        return resample(self._brain.data > 0, self._brain.affine, self._grid, kind="mean") >= 0.5

    def _affected(self) -> np.ndarray:
        tumour = resample(self._lesion.data, self._lesion.affine, self._grid, kind="mean") > 0
        return grow(tumour, self._grid, LESION_RIM)
