"""What follows from a density on the computing grid: its quality, figures of merit, and a plan."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import distance_transform_edt

from tumorjax.calibration import Calibration, Problem
from tumorjax.io import InputError, to_voxels
from tumorjax.observation import Outline, Pet
from tumorjax.pipeline.estimates import centre, estimates
from tumorjax.pipeline.fit import notes_on_fit, notes_on_numbers, notes_on_plan, notes_on_search
from tumorjax.pipeline.patient import Patient
from tumorjax.pipeline.recurrence import FollowUp, figures_of_recurrence
from tumorjax.planning import coverage, dice, iso_volume_plan, standard_plan
from tumorjax.quality import Status, reasons_of, status_of

# mm: no guideline has a larger margin.
LARGEST_MARGIN = 50.0


def check_margin(margin: float) -> None:
    """Raise an InputError where a margin (mm) is none."""
    if not 0 <= margin <= LARGEST_MARGIN:
        raise InputError(f"margin: got {margin:g} mm; give 0 to {LARGEST_MARGIN:g}")


def assessed(
    patient: Patient,
    problem: Problem,
    calibration: Calibration,
    density: np.ndarray,
    deviation: np.ndarray,
    recurrence: FollowUp | None,
    *,
    margin: float,
    notes: list[str],
    despite_failure: bool,
    displaces: bool = False,
    searches: Sequence[Sequence[float]] = (),
) -> dict[str, Any]:
    """Return the fields of a `Personalization` that follow from a density on the computing grid and its deviation.

    Parameters
    ----------
    patient, problem, calibration
        What was calibrated, and the outcome.
    density, deviation
        (x, y, z) of the computing grid.
    recurrence
        From `at_follow_up`.
    margin
        mm, of the clinical plan.
    notes
        What is known of the calibration so far; the notes that are returned begin with the fit.
    despite_failure
        Make a plan also where the result has failed.
    displaces
        The model has mass effect.
    searches
        As of `notes_on_search`.
    """
    grid, like = problem.anatomy.grid, patient.reference
    rows = estimates(calibration)
    broken = notes_on_numbers(density, deviation, rows)
    density, deviation = (np.nan_to_num(each, posinf=0.0, neginf=0.0) for each in (density, deviation))
    rows = [
        row if row.deviation is None or np.isfinite(row.deviation) else replace(row, deviation=None) for row in rows
    ]
    fine = np.clip(to_voxels(density, grid, like), 0, 1)
    # The gross tumour volume of the guidelines, and of PredictGBM's published plans, is the core.
    standard = standard_plan(patient.core, patient.brain, np.asarray(like.grid.spacing), margin)
    dense, plan = _plans(fine, patient, int(standard.sum()))
    fit = _fit(patient, problem, calibration, fine, density)
    notes = [
        *broken,
        *notes_on_fit(fit, patient, calibration, displaces=displaces),
        *notes_on_plan(patient, dense, plan, standard),
        *notes_on_search(calibration, searches),
        *notes,
    ]
    known = [*patient.notes, *notes]
    quality = status_of(known)
    planned = quality is not Status.FAILED or despite_failure
    figures = fit | _figures_of_plans(patient, dense, plan if planned else None, standard)
    if recurrence is not None:
        figures |= figures_of_recurrence(recurrence, patient, fine, plan if planned else None, standard)
    return {
        "calibration": calibration,
        "density": fine,
        "density_std": np.maximum(to_voxels(deviation, grid, like), 0),
        "plan": plan if planned else None,
        "standard_plan": standard,
        "margin": margin,
        "pet_predicted": _uptake(problem, calibration, fine),
        "recurrence": None if recurrence is None else recurrence.tumour,
        "estimates": rows,
        "metrics": figures,
        "notes": notes,
        "quality": quality,
        "reasons": reasons_of(known),
    }


def _uptake(problem: Problem, calibration: Calibration, density: np.ndarray) -> np.ndarray | None:
    """Return the PET signal that the model predicts; None without PET."""
    pairs = zip(problem.observations, centre(calibration).observations, strict=True)
    found = [o.mean(jnp.asarray(density), jax.tree.map(jnp.asarray, p)) for o, p in pairs if isinstance(o, Pet)]
    return np.asarray(found[0]) if found else None


def _plans(density: np.ndarray, patient: Patient, voxels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels of highest density, and the plan: as many, the core among them."""
    reached = int(((density > 0) & patient.brain).sum())
    # Where the prediction vanishes in part of the plan's volume, voxels near the lesion come first.
    distance = None
    if reached < voxels + int(patient.core.sum()):
        spacing = np.asarray(patient.reference.grid.spacing)
        distance = np.asarray(distance_transform_edt(~patient.flair, sampling=spacing))
    dense = iso_volume_plan(density, patient.brain, voxels, distance=distance)
    if not (patient.core & ~dense).any():
        return dense, dense
    return dense, iso_volume_plan(density, patient.brain, voxels, distance=distance, include=patient.core)


def _fit(
    patient: Patient, problem: Problem, calibration: Calibration, fine: np.ndarray, density: np.ndarray
) -> dict[str, float | int | None]:
    """Return how well a density, at the patient's voxels and on the computing grid, meets the outlines."""
    params = centre(calibration)
    core_threshold, flair_threshold = (float(p.threshold) for p in params.observations[:2])
    dice_core = dice(fine > core_threshold, patient.core)
    dice_flair = dice(fine > flair_threshold, patient.flair)
    outlines = [o for o in problem.observations if isinstance(o, Outline)]
    brier = [float(o.brier(jnp.asarray(density), p)) for o, p in zip(outlines, params.observations[:2], strict=True)]
    voxel_ml = float(patient.reference.grid.voxel_volume) / 1000
    return {
        "dice_core": dice_core,
        "dice_flair": dice_flair,
        "dice_sum": dice_core + dice_flair,
        "brier": float(np.mean(brier)),
        "tumour_ml": float(patient.flair.sum()) * voxel_ml,
        "core_ml": float(patient.core.sum()) * voxel_ml,
        "cells_ml": float(fine.sum()) * voxel_ml,
    }


def _figures_of_plans(
    patient: Patient, dense: np.ndarray, plan: np.ndarray | None, standard: np.ndarray
) -> dict[str, float | int | None]:
    """Return sizes of the plans, and how much of core and lesion they hold."""
    voxel_ml = float(patient.reference.grid.voxel_volume) / 1000
    figures: dict[str, float | int | None] = {"standard_ml": float(standard.sum()) * voxel_ml}
    if plan is not None:
        figures |= {"plan_ml": float(plan.sum()) * voxel_ml, "plan_overlap": dice(plan, standard)}
    for name, volume in (("plan", plan), ("standard", standard)):
        if volume is not None:
            figures[f"core_in_{name}"] = coverage(volume, patient.core)
            figures[f"lesion_in_{name}"] = coverage(volume, patient.flair)
    # What the density alone would have covered of the core, which every plan holds.
    return figures | {"core_in_density": coverage(dense, patient.core)}
