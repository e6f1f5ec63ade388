"""Registration and growth by turns: the brain before the tumour that fits what a T1 image shows of the push."""

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import numpy as np
from scipy import ndimage

from tumorjax.calibration.problem import Fields, Problem
from tumorjax.methods.multi_atlas.stats import SETTLED, Turn
from tumorjax.observation import ShiftMap
from tumorjax.observation.shift import of_one_shape
from tumorjax.patient.atlases import AlignedAtlas
from tumorjax.prior import Prior
from tumorjax.quality import Note, Status

NAME = "shift"
"""Name of the observation that a T1 image gives of the displacement."""

# Most turns after the first.
TURNS = 3


def can_couple(atlases: Sequence[AlignedAtlas]) -> bool:
    """Return whether registration and growth can take turns: in every atlas, or else in none."""
    return all(atlas.can_couple for atlas in atlases)


def shift_maps(problem: Problem, atlases: Sequence[AlignedAtlas]) -> list[ShiftMap]:
    """Return what the T1 image shows of the displacement beside each atlas; all in one shape, for one program."""
    shifts = [atlas.shift for atlas in atlases if atlas.shift is not None]
    count = min(len(shift.shift) for shift in shifts)
    return of_one_shape([ShiftMap.of(problem.anatomy.grid, *shift.steepest(count)) for shift in shifts])


def coupled_problem(problem: Problem, shown: ShiftMap) -> Problem:
    """Return the problem with what the T1 image shows of the displacement beside an atlas, in place of the fluid.

    The map of fluid says the same, and less of it: in the brain that a push leads back to it would only confirm this
    push, since that brain is made such that the fluid comes to lie where the patient's is.
    """
    kept = {name: each for name, each in problem.observations.items() if each.shows != "csf" and name != NAME}
    unknown = {name: problem.prior.distributions.observations[name] for name in kept}
    unknown[NAME] = shown.default_prior(NAME, problem.anatomy, kept)
    prior = Prior(dataclasses.replace(problem.prior.distributions, observations=unknown))
    return dataclasses.replace(problem, observations={**kept, NAME: shown}, prior=prior)


def beside(problem: Problem, shown: ShiftMap | None) -> Problem:
    """Return a coupled problem with what the T1 image shows beside another atlas."""
    return problem if shown is None else eqx.tree_at(lambda p: p.observations[NAME], problem, shown)


def displacement_of(fields: Fields, factor: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Return a displacement on the problem's voxels, (x, y, z, 3) mm, from that on voxels `factor` times as long."""
    found = np.asarray(fields.displacement, float)
    if factor == 1:
        return found
    index = (np.indices(shape) + 0.5) / factor - 0.5
    parts = [ndimage.map_coordinates(found[..., axis], index, order=1, mode="nearest") for axis in range(3)]
    return np.stack(parts, axis=-1)


def turn_of(pushes: Sequence[np.ndarray], atlases: Sequence[AlignedAtlas]) -> Turn:
    """Return what a turn changed of the displacement in each atlas."""
    largest, change, by = [], [], []
    for push, atlas in zip(pushes, atlases, strict=True):
        length = float(np.linalg.norm(push))
        changed = push - (0.0 if atlas.displacement is None else atlas.displacement)
        largest.append(float(np.linalg.norm(push, axis=-1).max()))
        change.append(float(np.linalg.norm(changed)) / length if length > 0 else 0.0)
        by.append(float(np.linalg.norm(changed, axis=-1).max()))
    return Turn(tuple(largest), tuple(change), tuple(by))


def notes_on_turns(turns: Sequence[Turn], atlases: Sequence[AlignedAtlas]) -> list[str]:
    """Return how the turns of registration and growth ended; nothing without any."""
    if not turns:
        return []
    last = turns[-1]
    text = f"Registration and growth took {len(turns)} turns; in the last one the displacement changed by at most "
    text += ", ".join(f"{length:.1f} mm" for length in last.by)
    if not last.settled:
        restless = [atlas.title for atlas, length in zip(atlases, last.by, strict=True) if length > 2 * SETTLED]
        if restless:
            return [Note(f"{text}: it has not settled in {', '.join(restless)}.", Status.DOUBTFUL)]
    return [f"{text}."]
