"""How well a calibrated tumour meets a patient's images, and what follows for the trust in it."""

from collections.abc import Mapping, Sequence

import numpy as np

from tumorjax.calibration import Calibration, Estimate
from tumorjax.calibration.foci import parts_of
from tumorjax.patient.patient import Patient
from tumorjax.planning import coverage
from tumorjax.quality import FAIR, Note, Status, status_of

# Dice coefficient below which the model's outline and the patient's have next to nothing to do with each other.
# Heuristic, as all bounds here.
UNRELATED = 0.1
# Share of the core among the highest densities below which that is worth a note, the model is doubted, it has failed.
_WHOLE, _REACHED, _MISSED = 0.99, 0.95, 0.5
# Of the lesion inside the plan; and how much less than inside the margin is worth a doubt.
_COVERED, _LESS = 0.9, 0.02
# A smaller lesion (ml) displaces no brain that anyone could see.
_PUSHES = 10.0


def notes_on_fit(
    metrics: Mapping[str, float | int | None], patient: Patient, calibration: Calibration, *, displaces: bool
) -> list[str]:
    """Return what a reader should know of outlines that a model does not meet.

    Parameters
    ----------
    metrics
        With "dice_core" and "dice_lesion", of which one is None where that is not outlined.
    patient, calibration
        What was calibrated, and the outcome.
    displaces
        The model has mass effect already.
    """
    overlaps = {name: value for name in ("core", "lesion") if (value := metrics[f"dice_{name}"]) is not None}
    worst = min(overlaps.values())
    if worst >= FAIR:
        return []
    status = Status.DOUBTFUL if worst >= UNRELATED else Status.FAILED
    advice = ""
    if not calibration.fitted:
        advice = " It was not fitted to them; a search in the patient is: leave out --no-refine."
    elif status is Status.FAILED:
        advice = " Look first at the outlines, their labels, and how the images are aligned."
    elif (count := len(parts_of(patient.core, patient.reference.grid))) > 1:
        advice = f" The core has {count} separate foci."
    elif status_of(patient.notes) is Status.FAILED:
        advice = " Mend what failed before first: the model grew in the wrong tissue."
    elif not displaces and (metrics.get("tumour_ml") or 0.0) >= _PUSHES:
        advice = " If it displaces the brain, --model mass-effect may explain it better"
        follows = "" if calibration.frees_density else "; if it is ragged, --method weak-constraint follows it"
        advice += f"{follows}."
    text = f"{overlaps_in_words(overlaps)}: it does not explain this tumour, whose cells may be elsewhere.{advice}"
    return [Note(f"The model's {text}", status)]


def overlaps_in_words(overlaps: Mapping[str, float | int]) -> str:
    """Return the Dice coefficients of the model's outlines with the patient's, by the outlines' names, in words."""
    words = {"core": "core", "lesion": "whole lesion"}
    each = " and ".join(f"{value:.2f} ({words[name]})" for name, value in overlaps.items())
    return f"{'outline has' if len(overlaps) == 1 else 'outlines have'} Dice {each} with the patient's"


def notes_on_plan(patient: Patient, dense: np.ndarray, plan: np.ndarray, standard: np.ndarray) -> list[str]:
    """Return what a reader should know of known tumour that a plan by the density alone, or the plan itself, misses.

    Parameters
    ----------
    patient
        From `load_patient`.
    dense
        (x, y, z), boolean: the voxels of highest density, as many as the plan has.
    plan, standard
        (x, y, z), boolean: the plan, which holds the core, and the clinical margin's.
    """
    ml, notes = float(patient.reference.grid.voxel_volume) / 1000, []
    reached, missed = coverage(dense, patient.core), patient.core & ~dense
    if reached < _WHOLE:
        foci = parts_of(patient.core, patient.reference.grid)
        lost = [focus for focus in foci if coverage(dense, focus) < _MISSED] if len(foci) > 1 else []
        status = Status.FAILED if reached < _MISSED else Status.GOOD if reached >= _REACHED else Status.DOUBTFUL
        text = (
            f"{missed.sum() * ml:.1f} ml of the outlined core ({1 - reached:.0%}) lie outside the "
            f"{dense.sum() * ml:.0f} ml of highest density"
        )
        if lost:
            status = max(status, Status.DOUBTFUL, key=list(Status).index)
            text += f", among them most of {len(lost)} of its {len(foci)} foci, about which there is no plan"
        notes.append(Note(f"{text}; a plan holds the core all the same.", status))
    inside, margin = coverage(plan, patient.lesion), coverage(standard, patient.lesion)
    if inside < min(_COVERED, margin - _LESS):
        text = f"The plan covers {inside:.0%} of the outlined lesion, the margin of the same size {margin:.0%}."
        notes.append(Note(text, Status.DOUBTFUL))
    return notes


def notes_on_numbers(density: np.ndarray, deviation: np.ndarray, estimates: Sequence[Estimate]) -> list[str]:
    """Return a note where a solve or an approximation of the uncertainty gave no numbers."""
    notes = []
    if bad := int((~np.isfinite(density)).sum()):
        text = f"The density is not finite in {bad} voxels, which count as free of tumour: the solve has failed."
        notes.append(Note(text, Status.FAILED))
    unknown = [row.name for row in estimates if row.deviation is not None and not np.isfinite(row.deviation)]
    if unknown or not np.isfinite(deviation).all():
        what = f"the standard deviation of {', '.join(unknown)}" if unknown else "that of the density in some voxels"
        notes.append(Note(f"The uncertainty is not known: {what} is not finite.", Status.DOUBTFUL))
    return notes
