"""The healthy tissue that a model grew in, where a reader can compare it with the patient's own image."""

from dataclasses import dataclass, replace

import numpy as np

from tumorjax.grid import Grid, tissue_box
from tumorjax.patient.patient import Patient
from tumorjax.registration import warp

# Voxels around the brain in which the atlas is carried to the patient.
_MARGIN = 4
# Least share of tissue and fluid in a voxel of the brain.
_LEAST = 0.1


@dataclass(frozen=True, eq=False)
class ShownTissue:
    """Tissue for the report.

    Parameters
    ----------
    tissue
        (x, y, z) in the patient's geometry, uint8: 1 fluid, 2 grey matter, 3 white matter, 0 elsewhere.
    tissue_of
        Where it comes from, in words.
    atlas, atlas_title
        (x, y, z): image of the atlas that was aligned with the patient, and its name; None and empty for none.
    """

    tissue: np.ndarray
    tissue_of: str
    atlas: np.ndarray | None = None
    atlas_title: str = ""


def tissue_labels(patient: Patient) -> np.ndarray:
    """Return the healthy tissue that a patient's tumour grew in; see `ShownTissue`."""
    tissue = np.zeros(patient.reference.data.shape, np.uint8)
    if patient.brain.any():
        box, grid = _around(patient)
        white, grey, csf = patient.source.on(grid)
        tissue[box] = np.where(white + grey + csf > _LEAST, 1 + np.stack([csf, grey, white]).argmax(axis=0), 0)
    return tissue


def tissue_of(patient: Patient, tissue: np.ndarray | None = None) -> ShownTissue | None:
    """Return the tissue that a patient's tumour grew in; None where no image of the patient shows any.

    Without a T1 image the figures' background is the tissue itself, and there is nothing to compare.

    Parameters
    ----------
    patient
        The patient.
    tissue
        The patient's `tissue_labels`, where they are known.
    """
    if "T1" not in patient.images or not patient.brain.any():
        return None
    source, tissue = patient.source, tissue_labels(patient) if tissue is None else tissue
    if source.atlas is None:
        return ShownTissue(tissue, "the tissue that was given")
    title = f"the atlas {source.atlas.title}"
    if source.transform is None:
        return ShownTissue(tissue, f"the tissue of {title}, as it lies")
    box, grid = _around(patient)
    atlas = np.zeros(tissue.shape, np.float32)
    t1 = source.atlas.t1
    shown = replace(t1, data=np.where(source.atlas.brain.data > 0, t1.data, 0).astype(np.float32))
    atlas[box] = warp(shown, source.transform, grid, kind="linear")
    how = "the tissue of {}, aligned with the patient"
    if source.segmented is not None:
        how = "the tissue that was segmented in the T1 image with the help of {}, which is aligned with the patient"
    return ShownTissue(tissue, how.format(title), atlas, source.atlas.title)


def _around(patient: Patient) -> tuple[tuple[slice, ...], Grid]:
    """Return where the brain and its surroundings lie in the patient's images."""
    start, shape = tissue_box(patient.brain, margin=_MARGIN)
    box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
    return box, patient.reference.grid.crop(start, shape)
