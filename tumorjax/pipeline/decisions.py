"""What a personalization's posterior decides: a dose map inside its target volume, and the day of the next scan."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from tumorjax.calibration import UNKNOWN_SPEED, Calibration, Problem
from tumorjax.calibration.draws import at_unknown_speed
from tumorjax.decisions import DosePlan, ScanGains, plan_dose, scan_gains
from tumorjax.growth import Radiotherapy, Treatment
from tumorjax.io import InputError, resample, to_voxels
from tumorjax.patient import Patient
from tumorjax.patient.prescription import Prescription
from tumorjax.pipeline.treatments import before_day
from tumorjax.prior import AbstractDistribution

# Draws, of which a dose takes a gradient each for every step, and a scan a solve with tangents.
_DRAWS = {"dose": 20, "scan": 8}
# Share of a computing voxel from which on it is in the target volume.
_INSIDE = 0.5


def check_scans(days: Sequence[float], last: float, *, single: bool = False) -> list[float]:
    """Return candidate days of the next scan in order, each once.

    Parameters
    ----------
    days
        Candidates, day.
    last
        Day of the last visit, day.
    single
        Whether it is the only one, so that no table has its day.

    Raises
    ------
    InputError
        If a day is not a finite number after the last visit.
    """
    found = sorted({float(day) for day in days})
    if not all(math.isfinite(day) for day in found):
        raise InputError(f"next-scan: got the days {', '.join(f'{day:g}' for day in found)}; give finite numbers")
    if found and found[0] <= last and single:
        raise InputError(
            f"next-scan: got day {found[0]:g}, but the scan itself is day {last:g}; give how many days later the "
            "next one may be, such as 30,60"
        )
    if found and found[0] <= last:
        raise InputError(
            f"next-scan: got day {found[0]:g}, but the last visit is on day {last:g}; give later days, on the clock of "
            "the visits"
        )
    return found


def dose_plan_of(
    patient: Patient,
    problem: Problem,
    calibration: Calibration,
    target: Bool[np.ndarray, "x y z"],
    prescription: Prescription,
    course: Radiotherapy,
    *,
    treatments: Mapping[str, Treatment],
    key: Key[Array, ""] | None,
    progress: Callable[[float], None],
) -> DosePlan:
    """Return the planned dose map at the patient's voxels, beside the uniform one in the target volume.

    Cells are counted on the day after the last fraction.

    Parameters
    ----------
    patient, problem, calibration
        What was calibrated, and the outcome.
    target
        (x, y, z) in the patient's geometry: where the uniform plan has its dose.
    prescription
        The limits.
    course
        The fractions, with one dose.
    treatments
        Those to come besides.
    key
        Random key of the draws; None for a fixed one.
    progress
        Receives the share that is done.
    """
    grid, like, fractions = problem.anatomy.grid, patient.reference, prescription.fractions
    share = resample(target.astype(np.float32), like.affine, grid, kind="mean")
    tissue = np.asarray(problem.anatomy.tissue)
    # A map that avoids fluid would otherwise be compared with one that does not.
    share = share if problem.model.displaces else np.where(tissue, share, 0)
    # A small one may fill half of no voxel.
    inside = share >= min(_INSIDE, float(share.max()))
    limits = {name: (mask, limit / fractions) for name, (mask, limit) in prescription.spared_on(grid).items()}
    dose = jnp.asarray(np.where(inside, prescription.dose, 0), problem.dtype)
    offset, speed = _offset(patient, problem), _speed(problem)
    end = end_of(course)
    found = plan_dose(
        problem,
        calibration,
        replace(course.delayed(-offset), dose=dose),
        end - offset,
        key=_key_of(key, 2),
        treatments=_delayed(before_day(treatments, end), -offset),
        maximum=prescription.highest / fractions,
        spare=limits,
        speed=speed,
        # Of speeds by a factor of e apart, the fastest would decide the map alone.
        objective=prescription.objective or ("cells" if speed is None else "log-kill"),
        count=_DRAWS["dose"],
        progress=progress,
    )
    planned, uniform = (np.maximum(to_voxels(each, grid, like), 0) for each in (found.dose, found.given))
    # Between voxels an organ and its surroundings are interpolated.
    for mask, limit in prescription.spared_on(like.grid).values():
        planned = np.where(mask, np.minimum(planned, limit / fractions), planned)
    return replace(found, dose=planned, given=uniform, days=course.days, day=end)


def scan_gains_of(
    patient: Patient,
    problem: Problem,
    calibration: Calibration,
    days: Sequence[float],
    until: float,
    *,
    treatments: Mapping[str, Treatment],
    key: Key[Array, ""] | None,
    progress: Callable[[float], None],
) -> ScanGains:
    """Return what a scan on each of some days is expected to say about the speed, and the volume on a later day.

    Parameters
    ----------
    patient, problem, calibration
        What was calibrated, and the outcome.
    days
        Candidate days, on the patient's clock, after the last visit.
    until
        The day of the volume.
    treatments
        Those to come.
    key
        Random key of the draws; None for a fixed one.
    progress
        Receives the share that is done.
    """
    offset = _offset(patient, problem)
    found = scan_gains(
        problem,
        calibration,
        [day - offset for day in days],
        until - offset,
        key=_key_of(key, 3),
        treatments=_delayed(before_day(treatments, max(*days, until)), -offset),
        speed=_speed(problem),
        count=_DRAWS["scan"],
        progress=progress,
    )
    return found._replace(days=np.asarray(days, float), until=until)


def figures_of_plan(plan: DosePlan | None) -> dict[str, float | int | None]:
    """Return the cells that the planned dose and the uniform one leave, ml, in the mean; nothing for none."""
    if plan is None:
        return {}
    return {
        "cells_left_ml": float(plan.cells.mean()) / 1000,
        "cells_left_uniform_ml": float(plan.given_cells.mean()) / 1000,
    }


def end_of(course: Radiotherapy) -> float:
    """Return the day after the last fraction, on which cells are counted."""
    return max(course.days) + 1


def _offset(patient: Patient, problem: Problem) -> float:
    """Return the patient's day on which the problem's clock is zero: a problem of one date has no other day."""
    return patient.day - float(problem.visits[-1].day)


def _speed(problem: Problem) -> AbstractDistribution | None:
    """Return the distribution of the speed that one date does not show; None where the problem has no such date."""
    return None if at_unknown_speed(problem, UNKNOWN_SPEED) is None else UNKNOWN_SPEED


def _delayed(treatments: Mapping[str, Treatment], by: float) -> dict[str, Treatment]:
    return {name: each.delayed(by) for name, each in treatments.items()}


def _key_of(key: Key[Array, ""] | None, number: int) -> Key[Array, ""]:
    return jax.random.key(number) if key is None else jax.random.fold_in(key, 1000 + number)
