"""What the report shows of a personalization."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from tumorjax.calibration.estimates import correlation_of
from tumorjax.grid import Grid
from tumorjax.io import resample, to_voxels
from tumorjax.patient.patient import Patient
from tumorjax.planning import credible_volume, millilitres
from tumorjax.quality import Status, status_of
from tumorjax.report import ReportData, Stage
from tumorjax.results.course import course_section
from tumorjax.results.decisions import decision_sections
from tumorjax.results.methods_text import methods_text
from tumorjax.results.personalization import Personalization
from tumorjax.results.provenance import provenance_of
from tumorjax.results.tissue import tissue_of
from tumorjax.sections import Block, Field, Marked, Section

# Names of files that do not name a patient.
_PLAIN = {"segmentation", "seg", "tumor", "tumour", "mask", "labels", "label", "lesion"}


def report_of(
    result: Personalization,
    provenance: dict[str, str] | None = None,
    stages: Sequence[tuple[str, float]] | None = None,
    tissue: np.ndarray | None = None,
) -> ReportData:
    """Return what the report shows of a result.

    Parameters
    ----------
    result
        From `personalize`.
    provenance
        How the result came about, by what it says; by default that of a Python program.
    stages
        Name and seconds of each stage; by default those of the result.
    tissue
        The patient's `tissue_labels`, where they are known.
    """
    timed = [Stage(name, seconds) for name, seconds in (result.stages if stages is None else stages)]
    provenance = provenance_of(result, None) if provenance is None else provenance
    said, works = methods_text(result, provenance["versions"])
    grown_in = tissue_of(result.patient, tissue)
    shown = {} if grown_in is None else {each.name: getattr(grown_in, each.name) for each in fields(grown_in)}
    sections = [
        *_findings(result.patient.visits[0]),
        *course_section(result),
        *decision_sections(result),
        *(_placed(section, result.patient) for section in [*result.sections, *_further_predictions(result)]),
    ]
    return replace(
        figures_of(result),
        # The files were written since the metrics were computed.
        metrics={**result.metrics, "seconds_total": sum(stage.seconds for stage in timed)},
        sections=sections,
        stages=timed,
        provenance=provenance,
        methods=said,
        references=works,
        **shown,
    )


def figures_of(result: Personalization) -> ReportData:
    """Return the images and numbers of a result as a report has them, without its sections, methods and tissue."""
    patient, calibration = result.patient, result.calibration
    thresholds = {row.name: row.value for row in result.estimates}
    pet = None
    if patient.pet is not None:
        pet = resample(patient.pet, np.asarray(patient.anatomy.grid.affine), patient.reference.grid)
    flair = patient.images.get("FLAIR")
    spacing = " x ".join(f"{h:g}" for h in np.asarray(patient.anatomy.grid.spacing))
    infiltrated = min(result.probabilities, default=0.0)
    return ReportData(
        title=result.title or _name_of(patient),
        subtitle=f"Personalized tumour growth: {result.model.title}, {calibration.description} on voxels of {spacing}"
        " mm",
        affine=np.asarray(patient.reference.affine),
        background=patient.background,
        background_of=patient.background_of,
        flair=None if flair is None else resample(flair.data, flair.affine, patient.reference.grid),
        brain=patient.brain,
        core=patient.core,
        lesion=patient.lesion,
        density=result.density,
        density_std=result.density_std,
        uncertainty=calibration.uncertainty,
        core_threshold=thresholds["threshold_core"],
        lesion_threshold=thresholds.get("threshold_lesion"),
        displacement=result.displacement_norm,
        displacement_std=result.displacement_std,
        jacobian=result.jacobian,
        probability=result.probabilities.get(infiltrated),
        infiltrated=infiltrated,
        credible_volumes=list(_credible_volumes(result)),
        plan=result.plan,
        standard_plan=result.standard_plan,
        pet=pet,
        pet_predicted=result.predicted.get("pet"),
        recurrence=result.recurrence,
        truth=result.truth,
        parameters=result.estimates,
        metrics=result.metrics,
        # Parameters that were not fitted to these images have no posterior.
        correlation=correlation_of(calibration, result.estimates) if calibration.fitted else None,
        stages=[],
        provenance={},
        notes=[*patient.notes, *result.notes, f"Calibration {calibration.result.value}."],
        quality=result.quality,
        reasons=result.reasons,
        margin=result.margin,
    )


def _name_of(patient: Patient) -> str:
    """Return the patient's name, or else that of the segmentation; with the days of several visits."""
    if patient.earlier:
        *before, last = (f"{each.day:g}" for each in patient.visits)
        days = f"days {', '.join(before)} and {last}"
        return f"{patient.name}, {days}" if patient.name else days
    if patient.name or patient.reference.path is None:
        return patient.name or "patient"
    path = Path(patient.reference.path)
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    # A name that all patients' segmentations have says nothing; that of their folder may.
    return path.absolute().parent.name if stem.lower() in _PLAIN and path.absolute().parent.name else stem


def _credible_volumes(result: Personalization) -> Iterator[tuple[str, float, float]]:
    """Yield a region in words and its 50 % and 90 % credible volumes, ml, for each threshold."""
    brain, spacing = result.patient.brain, np.asarray(result.patient.reference.grid.spacing)
    for threshold, probability in result.probabilities.items():
        half, most = (millilitres(credible_volume(probability, brain, level), spacing) for level in (0.5, 0.9))
        yield f"density > {threshold:g}", half, most


def _findings(patient: Patient) -> Iterator[Section]:
    """Yield a section with pictures of what is wrong with the masks of lesion and brain, if anything is."""
    wrong = [finding for finding in patient.findings if status_of([finding.note]) is not Status.GOOD]
    if wrong:
        blocks = [Marked(each.mask, each.title, title=each.title, caption=str(each.note)) for each in wrong]
        yield Section("Check of the masks", blocks, early=True)


def _further_predictions(result: Personalization) -> Iterator[Section]:
    """Yield a section for each predicted image that the page has no section for: what was measured is beside it."""
    for name, each in result.compared.items():
        if name != "pet":
            caption = (
                "Axial slice through the centre of the lesion, with the observed lesion's outline, where the image was "
                "used. The scatter plot counts voxels; on the dashed line model and measurement agree."
            )
            words = each.title if each.title.lower() == name else f"{name} ({each.title})"
            yield Section(f"Fit to {words}", [replace(each, title="", caption=caption)])


def _placed(section: Section, patient: Patient) -> Section:
    """Return a section whose maps have the patient's geometry."""

    def placed(block: Block) -> Block:
        if not isinstance(block, Field) or block.affine is None:
            return block
        grid = Grid(block.values.shape, block.affine)  # pyright: ignore[reportArgumentType]
        return replace(block, values=to_voxels(block.values, grid, patient.reference), affine=None)

    return replace(section, blocks=[placed(block) for block in section.blocks])
