"""The map from a patient's world to that of an atlas, and back."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tumorjax.atlas import AtlasImages
from tumorjax.io import InputError
from tumorjax.patient.alignment import align_atlas, quality
from tumorjax.patient.patient import Patient
from tumorjax.registration import Transform


def transform_to(
    patient: Patient, atlas: AtlasImages, notes: list[str], progress: Callable[[str], None]
) -> Transform | None:
    """Return the map from a patient's world to an atlas'; None if the atlas is assumed to share the patient's world.

    If the patient's tissue is from the same atlas, its map is used. A note describes the alignment, unless it failed;
    then the map's `failure` does.
    """
    own = patient.source.atlas
    if own is not None and own.name == atlas.name:
        # What had to be repaired in it is among the patient's notes.
        return patient.source.transform
    notes += atlas.notes
    t1, mask = patient.images.get("T1"), patient.images.get("brain mask")
    if t1 is None and mask is None:
        if not patient.source.own:
            notes.append(
                f"The atlas {atlas.title} is assumed to share the patient's world; give a T1 image to align it."
            )
            return None
        # The patient's own tissue maps define the brain.
        mask = replace(patient.reference, data=patient.brain)
    target = "T1 image" if t1 is not None else "brain mask" if "brain mask" in patient.images else "brain"
    progress(f"aligning the atlas {atlas.title} with the {target}")
    transform = align_atlas(atlas, t1, mask, patient.affected, patient.has_skull, notes, patient.registration)
    if not transform.failure:
        notes.append(f"The atlas {atlas.title} is aligned with the {target} by {quality(transform)}.")
    return transform


def carry_from(
    patient: Patient,
    atlas: AtlasImages,
    what: str,
    notes: list[str],
    progress: Callable[[str], None],
    *,
    affine: bool = False,
) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the function that maps points of an atlas, (n, 3) mm, to the patient; None if the worlds are the same.

    With `affine` it is the affine part alone, for tumours that have displaced the atlas as the patient's has displaced
    the brain: a deformation would undo that.

    Raises
    ------
    InputError
        If the atlas cannot be aligned; the message begins with `what`, the thing that needs it.
    """
    transform = transform_to(patient, atlas, notes, progress)
    if transform is None:
        return None
    if transform.failure:
        raise InputError(
            f"{what}: its atlas {atlas.name} cannot be aligned with the patient: {transform.failure}; check the "
            "images, or give --brain-mask"
        )
    return (Transform(transform.matrix) if affine else transform).inverse().apply
