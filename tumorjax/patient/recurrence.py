"""The tumour at follow-up: the labels that are recurrence, and their coverage by plans."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tumorjax.io import InputError, Volume, as_labels, check_worlds, resample
from tumorjax.patient.images import Brain
from tumorjax.patient.patient import Patient
from tumorjax.planning import coverage, predictgbm_coverage

# Labels of the resection cavity and the enhancing tumour in BraTS 2024; before 2023, label 4 was the enhancing tumour.
_CAVITY, _ENHANCING = 4, 3
# Least share of a recurrence that must lie in the brain, and largest share of the brain that it may fill.
_INSIDE, _LARGEST = 0.5, 0.5
# Interpolation of a mask exceeds 0 and 1 by less than this.
_OVERSHOOT = 0.5


class FollowUp(NamedTuple):
    """A recurrence in the geometry of a patient's segmentation.

    Parameters
    ----------
    tumour
        (x, y, z), boolean, mask of the recurrence.
    labels
        (x, y, z), the label image it was taken from; None if the image was a mask without labels.
    """

    tumour: np.ndarray
    labels: np.ndarray | None


def at_follow_up(volume: Volume, patient: Patient, labels: Sequence[int] | None, notes: list[str]) -> FollowUp:
    """Return the tumour at follow-up in a patient's geometry.

    Parameters
    ----------
    volume
        A label image or a mask; an interpolated mask is thresholded at one half.
    patient
        The patient, from `load_patient`.
    labels
        Labels that count as recurrence; by default all but the resection cavity, which is label 4 if there is a
        label 3.
    notes
        List to which a note on the chosen labels is appended if the image has several, or if its values are no labels.

    Raises
    ------
    InputError
        If the image shows no recurrence in the patient's image, has none of the labels, has a label 4 of unknown
        meaning, or its recurrence is implausible.
    """
    check_worlds({"segmentation": patient.reference, "recurrence": volume})
    notes.extend(note for note in volume.notes if note not in notes)
    if labels is None and (mask := _interpolated(volume)) is not None:
        notes.append("The recurrence has values between 0 and 1, like an interpolated mask; it is thresholded at 0.5.")
        return FollowUp(_checked(volume, _placed(volume, mask, patient) > 0, patient), None)
    whole = as_labels(volume, notes)
    values, counts = np.unique(whole.data, return_counts=True)
    ml = float(volume.grid.voxel_volume) / 1000
    present = {int(v): f"{v} ({ml * int(n):.1f} ml)" for v, n in zip(values, counts, strict=True) if v}
    shown = ", ".join(list(present.values())[:20])
    if labels is None:
        if _CAVITY in present and _ENHANCING not in present:
            volume.fail(
                f"has the labels {shown}; label 4 is the resection cavity in BraTS 2024 and enhancing tumour in BraTS "
                "to 2022, so give --recurrence-labels with the labels of the recurrence"
            )
        chosen = [label for label in present if label != _CAVITY]
    elif not (chosen := [label for label in labels if label in present]):
        wanted = ",".join(map(str, labels))
        volume.fail(f"has no label {wanted}; present are {shown or 'none'}; give others to --recurrence-labels")
    left = [label for label in present if label not in chosen]
    if len(present) > 1 or left:
        also = f"; not {', '.join(present[label] for label in left)}" if left else ""
        cavity = ", the resection cavity in BraTS 2024" if labels is None and _CAVITY in left else ""
        notes.append(f"Labels that count as recurrence: {', '.join(present[each] for each in chosen)}{also}{cavity}.")
    placed = _placed(volume, whole.data, patient)
    return FollowUp(_checked(volume, np.isin(placed, chosen), patient), placed)


def parse_recurrence_labels(text: str) -> tuple[int, ...]:
    """Turn "1,3" into (1, 3).

    Raises
    ------
    InputError
        If it has another form.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"recurrence-labels: got {text!r}; write positive integers with commas between, as 1,3")
    return tuple(int(part) for part in parts)


def figures_of_recurrence(
    found: FollowUp, patient: Patient, density: np.ndarray, plan: np.ndarray | None, standard: np.ndarray
) -> dict[str, float | int | None]:
    """Return the coverage of a recurrence by plans, and PredictGBM's metric if both images have labels of BraTS.

    Those at follow-up must be from 2023 on, where 3 is the enhancing tumour. The metric counts in the brain mask as it
    was given, if there is one; otherwise in the patient's brain.
    """
    figures: dict[str, float | int | None] = {} if plan is None else {"coverage_plan": coverage(plan, found.tumour)}
    figures["coverage_standard"] = coverage(standard, found.tumour)
    if found.labels is None:
        return figures
    given = np.rint(patient.reference.data).astype(int)
    core, edema = (set(np.unique(given[mask]).tolist()) for mask in (patient.core, patient.lesion & ~patient.core))
    again = set(np.unique(found.labels).tolist())
    # Only other conventions have another number for oedema; without oedema, a core of 1 and 4 may be one of theirs.
    of_brats = core <= {1, 3, 4} and edema <= {2} and bool(edema or _ENHANCING in core)
    if not (of_brats and _ENHANCING in again and again <= {0, 1, 2, 3, 4}):
        return figures
    labels, grid = np.select([patient.core, patient.lesion], [_ENHANCING, 2]), patient.reference.grid
    mask = patient.images.get("brain mask")
    brain = patient.brain if mask is None else Brain(replace(mask, data=mask.data > 0.5)).on(grid)
    shares = predictgbm_coverage(density, labels, found.labels, brain, grid.spacing)
    return figures | {f"predictgbm_{name}": share for name, share in shares._asdict().items()}


def _interpolated(volume: Volume) -> np.ndarray | None:
    """Return an interpolated mask or a probability map, thresholded at one half; None for other images."""
    data = np.asarray(volume.data)
    if data.dtype.kind != "f" or np.abs(data - np.rint(data)).max() < 1e-3:
        return None
    if data.min() < -_OVERSHOOT or data.max() > 1 + _OVERSHOOT:
        return None
    return (data >= 0.5).astype(np.uint8)


def _checked(volume: Volume, tumour: np.ndarray, patient: Patient) -> np.ndarray:
    """Return a recurrence; raise an InputError if it is empty, lies outside the brain or fills half of it."""
    if not tumour.any():
        volume.fail("shows nothing in the patient's image; give a segmentation in the same world space")
    ml = float(patient.reference.grid.voxel_volume) / 1000
    if (inside := float(patient.brain[tumour].mean())) < _INSIDE:
        volume.fail(
            f"shows a recurrence of {tumour.sum() * ml:.0f} ml, of which {inside:.0%} lie in the brain; give a "
            "segmentation of the tumour at follow-up, in the same world space"
        )
    if (share := float(tumour.sum() / patient.brain.sum())) > _LARGEST:
        volume.fail(
            f"shows a recurrence of {tumour.sum() * ml:.0f} ml, which is {share:.0%} of the brain; give a segmentation "
            "of the tumour at follow-up"
        )
    return tumour


def _placed(volume: Volume, data: np.ndarray, patient: Patient) -> np.ndarray:
    found = resample(data, volume.affine, patient.reference.grid, kind="nearest")
    if not found.any():
        volume.fail("shows nothing in the patient's image; give a segmentation in the same world space")
    return found
