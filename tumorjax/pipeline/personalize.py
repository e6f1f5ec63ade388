"""From a patient's images to a calibrated map of tumour cells, a plan and figures of merit."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from jaxtyping import Array, Key

from tumorjax.calibration import AbstractMethod, calibrate
from tumorjax.calibration.method import check_healthy
from tumorjax.growth import AbstractGrowth, FisherKolmogorov, Treatment
from tumorjax.io import Volume, sha256
from tumorjax.methods import DoubtfulEstimate
from tumorjax.methods.registry import default_method, methods
from tumorjax.observation import AbstractObservation
from tumorjax.patient import Patient
from tumorjax.patient.prescription import Prescription
from tumorjax.patient.recurrence import at_follow_up
from tumorjax.patient.visits import without_last
from tumorjax.pipeline.assessment import assessed, check_margin
from tumorjax.pipeline.course import (
    check_forecast,
    check_of_forecast,
    estimates_of_visits,
    figures_of_speed,
    forecast_of,
    notes_on_forecast,
    slices_of,
)
from tumorjax.pipeline.decisions import (
    check_scans,
    dose_plan_of,
    end_of,
    figures_of_plan,
    scan_gains_of,
)
from tumorjax.pipeline.growth import growth_of
from tumorjax.pipeline.problems import check_observations, errors_of_outlines, notes_on_patient, problem_of, solved_by
from tumorjax.pipeline.treatments import before_day, course_of, done_and_to_come
from tumorjax.pipeline.volumes import THRESHOLDS, volumes_of
from tumorjax.progress import logged
from tumorjax.quality import Status, status_of
from tumorjax.registration import RegistrationWarning
from tumorjax.results import Personalization, Progress, Stopwatch, silent
from tumorjax.results.decisions import NO_DOSE_PLAN

_log = logging.getLogger(__name__)
_LEVELS = {Status.GOOD: logging.INFO, Status.DOUBTFUL: logging.WARNING, Status.FAILED: logging.ERROR}


def personalize(
    patient: Patient,
    *,
    model: AbstractGrowth | None = None,
    method: AbstractMethod | None = None,
    key: Key[Array, ""] | None = None,
    observations: Mapping[str, AbstractObservation] | None = None,
    treatments: Mapping[str, Treatment] | None = None,
    forecast: Sequence[float] = (),
    hold_out: bool = False,
    prescription: Prescription | None = None,
    next_scan: Sequence[float] = (),
    healthy: Literal["affine", "coupled"] | None = None,
    model_error: float | None = None,
    recurrence: Volume | None = None,
    recurrence_labels: Sequence[int] | None = None,
    margin: float = 15.0,
    plan_despite_failure: bool = False,
    animate: bool = False,
    stopwatch: Stopwatch | None = None,
    progress: Progress = silent,
) -> Personalization:
    """Calibrate a growth model to a patient and derive what the scans do not show.

    Parameters
    ----------
    patient
        From `load_patient`, or from `load_visits`: then all visits are fitted together, and maps, outlines and plan are
        those of the last day.
    model
        What grows; `FisherKolmogorov()` by default.
    method
        How to calibrate; by default `LBFGS()`, and `MultiAtlas()` for growth with mass effect seen on one date.
    key
        Random key, for methods that draw random numbers.
    observations
        Further images by name, on the computing grid (`patient.anatomy.grid`), beside the outlines "core" and
        "lesion" and the image "pet"; of several visits those of the last day.
    treatments
        What was done, and what is to come before the last day of the forecast, by name and in days of the visits'
        clock; from `load_treatments`, or `Surgery`, `Radiotherapy` and `Chemotherapy` themselves. A number for which a
        distribution stands is unknown. A surgery whose cavity is one number takes that share of what is labelled as
        cavity at the next visit.
    forecast
        Days after the last visit, day, for which the tumour is predicted.
    hold_out
        Keep the last visit back: calibrate to the others, forecast that day, and compare the forecast with it. The
        patient of the result is that of the day before.
    prescription
        A course of radiation after the last visit: its dose is planned such that the fewest cells are expected to
        survive, beginning with the uniform dose in the target volume.
    next_scan
        Candidate days for one more scan, day, after the last visit: how much each is expected to say about the speed of
        growth, and about the volume on the last of the days of candidates and forecast.
    healthy
        Which atlas stands for the brain before the tumour, for models that displace tissue: "affine", an atlas behind
        an affine map, as published; or "coupled", the atlas carried by what a registration finds beyond the push of
        the tumour, registration and growth by turns. The latter needs a T1 image to which the atlas is deformed, and is
        the default where there is one. Otherwise the atlas is behind an affine map, with a note if "coupled" was given.
    model_error
        Standard deviation by which the isolines of the model miss the outlines because it is wrong, mm, in addition to
        the errors of readers: the larger, the wider all uncertainties. By default as of real patients, see
        `tumorjax.pipeline.problems.errors_of_outlines`.
    recurrence
        Tumour at follow-up, in any geometry of the patient's world; it is measured and never used to calibrate.
    recurrence_labels
        Labels of the recurrence that count; by default all but the resection cavity, see `at_follow_up`.
    margin
        Margin of the clinical plan around the core, mm; the model's plan has the same volume.
    plan_despite_failure
        Make a plan also where the result has failed: where the atlas is not aligned, say, or the model does not meet
        the outlines at all.
    animate
        Follow the growth from its seed to the images, or to the last day of the forecast: results then have an
        animation of it. Where the growth cannot be followed a note says why.
    stopwatch
        Continues a measurement that began with loading.
    progress
        Receives each stage, and the share of it that is done where that is known. The log `tumorjax.pipeline` hears the
        same, the seconds of the stages, and the notes.

    Returns
    -------
    Personalization
        With `save(folder)` and `report(folder)`.

    Raises
    ------
    InputError
        If the images cannot be calibrated to; if a treatment acts on no visit and no prediction, a day of the forecast
        or of a scan is not after the last visit, or there is a forecast from one date; if the prescription begins
        before the last visit, or spares what is not in the patient.
    ValueError
        If model, method or an observation is none, or the name of an observation is taken; if the method cannot
        calibrate the model or several visits, or needs a key and has none; if `healthy` is neither, or given for a
        model that leaves the tissue where it is; if the error of the model is negative or not finite.
    """
    watch = stopwatch or Stopwatch()
    shown, progress = progress, logged(progress, _log)
    kept = patient if hold_out else None
    if kept is not None:
        patient, forecast = without_last(kept), [kept.day, *forecast]
    model = FisherKolmogorov() if model is None else model
    _check_object("model", model, AbstractGrowth, "FisherKolmogorov")
    if method is None:
        method = methods()[default_method(model, several_visits=bool(patient.earlier))]()
    _check_object("method", method, AbstractMethod, "LBFGS")
    notes, assumed = list[str](), list[str]()
    # Before the work, for they may turn out unusable.
    if reason := method.refuses_model(model):
        raise ValueError(reason)
    days = check_forecast(forecast, [each.day for each in patient.visits])
    scans = check_scans(next_scan, patient.day, single=not patient.earlier)
    ahead = [*days, *scans]
    until = max(ahead, default=patient.day)
    if prescription is not None:
        prescription.check(patient)
        ahead.append(end_of(course_of(prescription, patient.day, {}, [])))
    done, to_come = done_and_to_come(treatments or {}, patient, ahead, notes)
    course = None if prescription is None else course_of(prescription, patient.day, done, assumed)
    if (patient.earlier or done) and (reason := method.refuses_visits(len(patient.visits), type(model).__name__)):
        raise ValueError(reason)
    check_healthy(healthy, model)
    check_margin(margin)
    errors = errors_of_outlines(method, model_error)
    check_observations(patient, model, {} if observations is None else observations, healthy)
    again = None if recurrence is None else at_follow_up(recurrence, patient, recurrence_labels, notes)
    with watch("preparation"), warnings.catch_warnings():
        # An alignment that failed is among the notes.
        warnings.simplefilter("ignore", RegistrationWarning)
        # The tissue, the atlas and what registration needs are those of the first day.
        method = method.prepare(patient.visits[0], model, healthy=healthy, notes=notes, progress=progress)
        problem = problem_of(
            patient,
            model,
            method,
            observations=observations,
            treatments=done,
            healthy=healthy,
            errors=errors,
            notes=notes,
            progress=progress,
        )
    with watch("calibration"):
        solved = solved_by(method, problem)
        with warnings.catch_warnings():
            # They are among the notes.
            warnings.simplefilter("ignore", DoubtfulEstimate)
            # It logs its own stages.
            calibration = calibrate(solved, method, key=key, progress=lambda stage, share, _: shown(stage, share))
    with watch("maps"):
        stage = "density and its uncertainty"
        progress(stage, None)
        maps = calibration.maps(problem, THRESHOLDS, lambda share: progress(stage, share))
        volumes = volumes_of(patient, problem, calibration, maps)
    found, slices, rows, timed = None, None, calibration.estimates(), {}
    if patient.earlier:
        progress("forecast", 0.0)
        with watch("forecast"):
            coming = before_day(to_come, max(days, default=patient.day))
            found = forecast_of(patient, problem, calibration, days, treatments=coming, key=key, progress=progress)
            slices = slices_of(patient, problem, calibration, found, treatments=coming)
            rows = estimates_of_visits(rows, patient, calibration, key)
            timed = figures_of_speed(rows)
            if kept is not None:
                checked = check_of_forecast(found, patient, kept)
                timed |= checked
                notes += notes_on_forecast(found, kept, checked)
    with watch("plan"):
        progress("target volume", None)
        notes = [*calibration.notes(problem), *maps.notes, *notes_on_patient(patient, problem), *notes]
        result = assessed(
            patient,
            problem,
            calibration,
            maps,
            volumes,
            again,
            margin=margin,
            notes=notes,
            despite_failure=plan_despite_failure,
            estimates=rows,
            forecast=found,
        )
    dose_plan = gains = None
    if prescription is not None and result.plan is None:
        result = replace(result, notes=[*result.notes, NO_DOSE_PLAN])
    if prescription is not None and course is not None and result.plan is not None:
        # It compiles before its first share is done, and so does what follows.
        progress("dose plan", 0.0)
        with watch("dose plan"):
            dose_plan = dose_plan_of(
                patient,
                problem,
                calibration,
                result.plan,
                prescription,
                course,
                treatments=to_come,
                key=key,
                progress=lambda share: progress("dose plan", share),
            )
        # What is assumed of the course matters where there is a plan of it.
        result = replace(result, notes=[*result.notes, *assumed])
    growth = None
    if animate:
        progress("animation", None)
        last = max(days, default=patient.day)
        try:
            with watch("animation"):
                growth = growth_of(patient, problem, calibration, until=last, treatments=before_day(to_come, last))
        except ValueError as error:
            result = replace(result, notes=[*result.notes, f"There is no animation: {error}."])
    if scans:
        progress("next scan", 0.0)
        with watch("next scan"):
            gains = scan_gains_of(
                patient,
                problem,
                calibration,
                scans,
                until,
                treatments=to_come,
                key=key,
                progress=lambda share: progress("next scan", share),
            )
    for note in [*patient.notes, *result.notes]:
        _log.log(_LEVELS[status_of([note])], "%s", note)
    _log.info("quality: %s", result.quality)
    return replace(
        result,
        prescription=prescription,
        dose_plan=dose_plan,
        scan_gains=gains,
        stages=watch.stages,
        metrics=result.metrics | timed | figures_of_plan(dose_plan) | watch.figures(),
        hashes=_hashes_of(recurrence, prescription),
        treatments=dict(treatments or {}),
        kept=kept,
        slices=slices,
        growth=growth,
    )


def _check_object(name: str, given: object, base: type, example: str) -> None:
    """Raise a ValueError where a model or a method is a class, or something else."""
    if not isinstance(given, base):
        got = f"the class {given.__name__}; give {given.__name__}(...)" if isinstance(given, type) else repr(given)
        raise ValueError(f"{name} must be an object such as {example}(), got {got}")


def _hashes_of(recurrence: Volume | None, prescription: Prescription | None) -> dict[str, str]:
    """Return the SHA-256 of the files that show a recurrence and the organs to be spared, by their role."""
    spared = {} if prescription is None else {f"mask of {name}": mask for name, (mask, _) in prescription.spare.items()}
    images = {"recurrence": recurrence, **spared}
    return {role: sha256(each.path) for role, each in images.items() if each is not None and each.path is not None}
