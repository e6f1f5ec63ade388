"""The brain before the tumour, for methods that calibrate in one anatomy and bring none themselves."""

from collections.abc import Callable
from typing import Literal

from tumorjax.anatomy import Anatomy
from tumorjax.calibration import Problem, default_prior
from tumorjax.growth import AbstractGrowth
from tumorjax.methods.multi_atlas import can_couple, coupled_brain
from tumorjax.observation import AbstractObservation
from tumorjax.patient.atlases import brain_before
from tumorjax.patient.patient import DEFAULT_ATLAS, Patient


def healthy_brain(
    patient: Patient,
    model: AbstractGrowth,
    seen: dict[str, AbstractObservation],
    *,
    healthy: Literal["affine", "coupled"] | None = None,
    notes: list[str],
    progress: Callable[[str, float | None], None],
) -> tuple[Anatomy, dict[str, AbstractObservation]]:
    """Return the brain in which a tumour that displaces tissue begins, and what is observed with it.

    The atlas of the patient's tissue stands for it, or ICBM152: as an affine map has it, or as registration and growth
    by turns find it. With the latter the T1 image shows the displacement, in place of the fluid.

    Parameters
    ----------
    patient
        From `load_patient`.
    model
        What grows.
    seen
        What the patient's images show, by name.
    healthy
        "affine", "coupled", or None for "coupled" where it can be; see `align_atlases`.
    notes
        Receives which atlas it is, how it was aligned, and how the turns ended.
    progress
        Receives what is being done.

    Raises
    ------
    InputError
        If the atlas cannot stand for the brain before the tumour; see `align_atlases`.
    """
    atlas = brain_before(
        patient,
        patient.source.atlas or DEFAULT_ATLAS,
        notes,
        healthy=healthy,
        progress=lambda message: progress(message, None),
    )
    notes.append(f"The atlas {atlas.title} stands for the patient's brain before the tumour, which nobody has seen.")
    if not can_couple([atlas]):
        return atlas.anatomy, seen
    problem = Problem(model, patient.anatomy, seen, default_prior(patient.anatomy, seen, model=model))
    anatomy, seen, turns = coupled_brain(problem, atlas, lambda stage, share, _: progress(stage, share))
    notes += turns
    return anatomy, seen
