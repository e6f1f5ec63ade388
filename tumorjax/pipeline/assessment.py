"""What follows from a density on the computing grid: its quality, figures of merit, and a plan."""

from collections.abc import Sequence
from dataclasses import fields, replace

import jax.numpy as jnp
import numpy as np
from scipy.ndimage import distance_transform_edt

from tumorjax.calibration import Calibration, Estimate, Forecast, Maps, Problem
from tumorjax.io import InputError
from tumorjax.observation import Outline
from tumorjax.patient import Patient
from tumorjax.patient.recurrence import FollowUp, figures_of_recurrence
from tumorjax.pipeline.course import fit_of_visits
from tumorjax.pipeline.fit import notes_on_fit, notes_on_numbers, notes_on_plan
from tumorjax.pipeline.volumes import Volumes, figures_of_displacement
from tumorjax.planning import coverage, dice, iso_volume_plan, standard_plan
from tumorjax.quality import Status, reasons_of, status_of
from tumorjax.results import Personalization

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
    maps: Maps,
    volumes: Volumes,
    recurrence: FollowUp | None,
    *,
    margin: float,
    notes: list[str],
    despite_failure: bool,
    estimates: Sequence[Estimate],
    forecast: Forecast | None,
) -> Personalization:
    """Return the result of a calibration: its maps, figures of merit, quality, and a plan unless it has failed.

    Parameters
    ----------
    patient, problem, calibration
        What was calibrated, and the outcome.
    maps, volumes
        Maps on the computing grid, and at the patient's voxels.
    recurrence
        From `at_follow_up`.
    margin
        Margin of the clinical plan, mm.
    notes
        What is known of the calibration so far; the notes that are returned begin with the fit.
    despite_failure
        Make a plan also where the result has failed.
    estimates
        The calibrated numbers in words.
    forecast
        The tumour on the days of visits and forecast, at the patient's voxels; None for one date.
    """
    like, density, rows = patient.reference, volumes.density, list(estimates)
    broken = notes_on_numbers(maps.density, maps.deviation, rows)
    rows = [
        row if row.deviation is None or np.isfinite(row.deviation) else replace(row, deviation=None) for row in rows
    ]
    # The gross tumour volume of the guidelines, and of PredictGBM's published plans, is the core.
    standard = standard_plan(patient.core, patient.brain, np.asarray(like.grid.spacing), margin)
    dense, plan = _plans(density, patient, int(standard.sum()))
    fit = _fit(patient, problem, calibration, density, np.nan_to_num(maps.density, posinf=0.0, neginf=0.0))
    earlier, said = ({}, []) if forecast is None else fit_of_visits(patient, calibration, forecast)
    fit |= earlier
    notes = [
        *broken,
        *notes_on_fit(fit, patient, calibration, displaces=problem.model.displaces),
        *said,
        *notes_on_plan(patient, dense, plan, standard),
        *notes,
    ]
    known = [*patient.notes, *notes]
    quality = status_of(known)
    planned = plan if quality is not Status.FAILED or despite_failure else None
    figures = fit | _figures_of_plans(patient, dense, planned, standard)
    if recurrence is not None:
        figures |= figures_of_recurrence(recurrence, patient, density, planned, standard)
    figures |= (
        (calibration.cost + maps.cost).figures()
        | figures_of_displacement(maps.displacement, problem.anatomy.grid, maps.displacement_deviation)
        | volumes.figures(patient, None if recurrence is None else recurrence.tumour)
        | calibration.figures()
    )
    return Personalization(
        patient=patient,
        model=problem.model,
        calibration=calibration,
        plan=planned,
        standard_plan=standard,
        margin=margin,
        recurrence=None if recurrence is None else recurrence.tumour,
        estimates=rows,
        metrics=figures,
        notes=notes,
        quality=quality,
        reasons=reasons_of(known),
        sections=calibration.sections(),
        forecast=forecast,
        **{each.name: getattr(volumes, each.name) for each in fields(volumes)},
    )


def _plans(density: np.ndarray, patient: Patient, voxels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels of highest density, and the plan: as many, the core among them."""
    reached = int(((density > 0) & patient.brain).sum())
    # Where the prediction vanishes in part of the plan's volume, voxels near the lesion come first.
    distance = None
    if reached < voxels + int(patient.core.sum()):
        spacing = np.asarray(patient.reference.grid.spacing)
        distance = np.asarray(distance_transform_edt(~patient.lesion, sampling=spacing))
    dense = iso_volume_plan(density, patient.brain, voxels, distance=distance)
    if not (patient.core & ~dense).any():
        return dense, dense
    return dense, iso_volume_plan(density, patient.brain, voxels, distance=distance, include=patient.core)


def _fit(
    patient: Patient, problem: Problem, calibration: Calibration, fine: np.ndarray, density: np.ndarray
) -> dict[str, float | int | None]:
    """Return how well a density, at the patient's voxels and on the computing grid, meets the outlines there are."""
    unknown = calibration.centre.observations
    overlaps = {
        name: dice(fine > float(unknown[name].threshold), outlined) for name, outlined in patient.outlines.items()
    }
    both = len(overlaps) == 2
    scores = [
        float(outline.brier(jnp.asarray(density), unknown[name]))
        for name, outline in problem.observations.items()
        if isinstance(outline, Outline)
    ]
    voxel_ml = float(patient.reference.grid.voxel_volume) / 1000
    return {
        "dice_core": overlaps["core"],
        "dice_lesion": overlaps["lesion"] if both else None,
        "dice_sum": sum(overlaps.values()) if both else None,
        "brier": float(np.mean(scores)),
        "tumour_ml": float(patient.lesion.sum()) * voxel_ml,
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
            figures[f"lesion_in_{name}"] = coverage(volume, patient.lesion)
    # What the density alone would have covered of the core, which every plan holds.
    return figures | {"core_in_density": coverage(dense, patient.core)}
