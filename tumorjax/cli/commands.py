"""What each subcommand does."""

import argparse
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from tumorjax.cli.bids import find_subject, sources_of
from tumorjax.cli.console import Screen
from tumorjax.cli.course import check_method, read_course
from tumorjax.cli.ending import complain
from tumorjax.cli.fibres import check_dti, read_dti
from tumorjax.cli.growth import model_of
from tumorjax.cli.options import has_an_atlas, kept_in, method_of
from tumorjax.cli.simulate import simulate_tumour
from tumorjax.io import (
    InputError,
    as_background,
    output_folder,
    parse_labels,
    read_volume,
    sha256,
    write_volume,
)
from tumorjax.patient import load_patient
from tumorjax.patient.labels import read_labels
from tumorjax.patient.recurrence import parse_recurrence_labels
from tumorjax.patient.visits import load_visits
from tumorjax.pipeline.assessment import check_margin
from tumorjax.pipeline.personalize import personalize
from tumorjax.pipeline.rehearsal import Rehearsal
from tumorjax.pipeline.synthetic import synthetic_patient
from tumorjax.planning import dice
from tumorjax.quality import Status
from tumorjax.registration import RegistrationWarning
from tumorjax.results.bids import check_subject, write_derivatives
from tumorjax.results.files import write_personalization
from tumorjax.results.stages import Stopwatch

_MIN_RESOLUTION, _MAX_RESOLUTION = 0.5, 8.0
# Exit code of a result that must not be used.
FAILED = 3


def run(options: argparse.Namespace) -> int:
    """Run the chosen subcommand, and return the exit code: 0, or 3 where the result that is written has failed."""
    metrics = perform(options)
    if metrics.get("quality") != Status.FAILED:
        return 0
    plan = "its plan must not be used" if "plan_ml" in metrics else "it has no plan"
    # Without quiet they have been printed.
    reasons = " ".join(metrics["quality_reasons"]) if options.quiet else "the reasons are above, and in metrics.json"
    complain(f"tumorjax {options.command}: the result has failed, and {plan}: {reasons}")
    return FAILED


def perform(options: argparse.Namespace) -> dict[str, Any]:
    """Do the work of the chosen subcommand, and return the metrics."""
    check_resolution(options.resolution)
    commands = {"personalize": _personalize, "simulate": simulate_tumour, "demo": _demo}
    with (
        Screen(quiet=options.quiet, as_json=options.json) as screen,
        output_folder(options.out, options.overwrite) as out,
    ):
        metrics = commands[options.command](options, out, screen)
    if getattr(options, "bids_derivatives", None) is not None:
        write_derivatives(
            options.bids_derivatives,
            options.out,
            *_subject_of(options),
            sources_of(options),
            overwrite=options.overwrite,
        )
    screen.results(metrics, options.out, report=options.command != "simulate")
    return metrics


def check_resolution(resolution: float) -> None:
    """Raise an InputError where voxels (mm) are too short or too long to simulate on."""
    if not _MIN_RESOLUTION <= resolution <= _MAX_RESOLUTION:
        raise InputError(f"resolution: got {resolution:g} mm; give {_MIN_RESOLUTION:g} to {_MAX_RESOLUTION:g}")


def _personalize(options: argparse.Namespace, out: Path, screen: Screen) -> dict:
    watch = Stopwatch()
    # Before the work, for one may turn out unusable.
    found = find_subject(options)
    if options.bids_derivatives is not None:
        check_subject(options.bids_derivatives, options.out, *_subject_of(options), overwrite=options.overwrite)
    again, method, model, course = check_plan(options), method_of(options), model_of(options), read_course(options)
    check_dti(options.dti)
    check_method(method, model, course)
    if (kept := kept_in(options)) is not None:
        screen.note(f"{kept} keeps what an earlier run has done; this one goes on from there.")
    own_tissue = any(each is not None for each in (options.wm, options.gm, options.csf, options.tissue))
    with watch("images"), warnings.catch_warnings():
        # A failed alignment is among the notes, on the screen and in the report.
        warnings.simplefilter("ignore", RegistrationWarning)
        given: dict[str, Any] = {
            "labels": None if options.labels is None else read_labels(options.labels),
            "white_matter": options.wm,
            "grey_matter": options.gm,
            "csf": options.csf,
            "tissue": None if options.tissue is None else options.tissue[0],
            "tissue_labels": parse_labels(options.tissue[1:], allowed=("csf", "gm", "wm"))
            if options.tissue and len(options.tissue) > 1
            else None,
            # Beside maps of the patient's own tissue the atlas is the method's.
            "atlas": None if own_tissue and has_an_atlas(options) else options.atlas,
            "brain_mask": options.brain_mask,
            "adc_law": options.adc_law,
            "dti": read_dti(options.dti),
            "resolution": options.resolution,
            "registration": options.registration,
            "progress": screen.progress,
        }
        # Before the alignment, which takes minutes.
        recurrence = (
            None
            if options.recurrence is None
            else as_background(read_volume(options.recurrence, name="recurrence", background_nan=True))
        )
        if course.visits:
            if options.transform is not None:
                raise InputError("transform: leads from one image to an atlas; with several visits leave it out")
            patient = load_visits(options.visits, **given)
        else:
            images = {"t1": options.t1, "pet": options.pet, "adc": options.adc, "flair": options.flair}
            given |= {"segmentation": options.segmentation, "transform": options.transform, **images}
            with Rehearsal(model, method, options.model_error) as rehearsal:
                patient = load_patient(**given, early=rehearsal.begin)
        if name := _name_of(options):
            patient = replace(patient, name=name)
        patient.notes.extend(() if recurrence is None else recurrence.notes)
        patient.notes.extend(() if found is None else [found])
    for note in patient.notes:
        screen.note(note)
    result = personalize(
        patient,
        model=model,
        method=method,
        key=jax.random.key(options.seed or 0),
        treatments=course.treatments,
        forecast=course.forecast,
        hold_out=options.hold_out,
        prescription=course.prescription,
        next_scan=course.scans,
        healthy=options.healthy,
        model_error=options.model_error,
        recurrence=recurrence,
        recurrence_labels=again,
        margin=options.margin,
        plan_despite_failure=options.plan_despite_failure,
        animate=options.animate,
        stopwatch=watch,
        progress=screen.progress,
    )
    if options.treatments is not None:
        result.hashes["treatments"] = sha256(options.treatments)
    for note in result.notes:
        screen.note(note)
    return write_personalization(out, result, command=options.command_line, progress=screen.progress)


def _name_of(options: argparse.Namespace) -> str:
    """Return the patient's name in a cohort, or else in a BIDS dataset with the session; empty for none."""
    # A cohort adds it to the options of each patient.
    if (name := getattr(options, "patient", None)) is not None or options.subject is None:
        return name or ""
    subject, session = _subject_of(options)
    return f"sub-{subject}" + ("" if session is None else f", ses-{session}")


def _subject_of(options: argparse.Namespace) -> tuple[str, str | None]:
    """Return the labels of the subject and of the session in a BIDS dataset."""
    session = None if options.session is None else options.session.removeprefix("ses-")
    return options.subject.removeprefix("sub-"), session


def check_plan(options: argparse.Namespace) -> tuple[int, ...] | None:
    """Return the labels that count as recurrence, if given; an InputError where these or the margin are none."""
    check_margin(options.margin)
    return None if options.recurrence_labels is None else parse_recurrence_labels(options.recurrence_labels)


def _demo(options: argparse.Namespace, out: Path, screen: Screen) -> dict:
    if options.seed < 0:
        raise InputError(f"seed: got {options.seed}; give 0 or more")
    watch = Stopwatch()
    with watch("synthetic patient"):
        screen.progress("growing a synthetic patient")
        synthetic = synthetic_patient(options.seed)
        images = out / "patient"
        images.mkdir()
        write_volume(images / "t1.nii.gz", synthetic.t1.data, like=synthetic.t1)
        write_volume(images / "segmentation.nii.gz", synthetic.segmentation.data, like=synthetic.segmentation)
        write_volume(images / "true_density.nii.gz", synthetic.density, like=synthetic.segmentation)
        (images / "true_parameters.json").write_text(json.dumps(synthetic.truth, indent=2) + "\n")
    with watch("images"):
        patient = load_patient(
            segmentation=images / "segmentation.nii.gz",
            labels="brats2021",
            t1=images / "t1.nii.gz",
            resolution=options.resolution,
            progress=screen.progress,
        )
    result = personalize(patient, stopwatch=watch, progress=screen.progress)
    for level in (0.01, 0.1, 0.5):
        result.metrics[f"dice_density_{level:g}"] = dice(result.density > level, synthetic.density > level)
    result = replace(
        result,
        estimates=result.calibration.estimates(synthetic.truth),
        truth=synthetic.density,
        title=f"synthetic patient {options.seed}",
    )
    return write_personalization(out, result, command=options.command_line, progress=screen.progress)
