"""The brain before the tumour for methods that calibrate in one anatomy."""

from tumorjax.anatomy import Anatomy
from tumorjax.calibration.problem import Problem
from tumorjax.methods.multi_atlas.coupling import notes_on_turns
from tumorjax.methods.multi_atlas.multi_atlas import MultiAtlas
from tumorjax.observation import AbstractObservation
from tumorjax.patient.atlases import AlignedAtlas
from tumorjax.progress import SearchProgress


def coupled_brain(
    problem: Problem, atlas: AlignedAtlas, progress: SearchProgress
) -> tuple[Anatomy, dict[str, AbstractObservation], list[str]]:
    """Return the brain to which registration and growth by turns lead, what is observed with it, and notes.

    Parameters
    ----------
    problem
        The problem in the patient's anatomy; its origin gives way to Gaussians in the core, as of `MultiAtlas`.
    atlas
        An atlas that is aligned with the patient, for which `can_couple` holds.
    progress
        As of `calibrate`.
    """
    coupled, (found,), turns = MultiAtlas((atlas,)).couple(problem, progress)
    return found.anatomy, dict(coupled.observations), notes_on_turns(turns, [found])
