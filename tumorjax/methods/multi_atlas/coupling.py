"""Registration and growth by turns: the brain before the tumour that fits what a T1 image shows of the push."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
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
# The T1 image contradicts a push where another length of it is more likely by more than this, nat: two standard
# deviations. And the length, mm, by which that is measured.
_DIFFERENCE, _LENGTH = 2.0, 5.0


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
    count = "one turn" if len(turns) == 1 else f"{len(turns)} turns"
    text = f"Registration and growth took {count}; in the last one the displacement changed by at most "
    text += ", ".join(f"{length:.1f} mm" for length in last.by)
    if not last.settled:
        restless = [atlas.title for atlas, length in zip(atlases, last.by, strict=True) if length > 2 * SETTLED]
        if restless:
            return [Note(f"{text}: it has not settled in {', '.join(restless)}.", Status.DOUBTFUL)]
    return [f"{text}."]


def notes_on_push(
    problems: Sequence[Problem],
    parameters: Sequence[Any],
    displacements: Sequence[np.ndarray],
    atlases: Sequence[AlignedAtlas],
) -> list[str]:
    """Return in which atlases the borders in the T1 image show another push than the one that was found.

    What is compared is the found displacement alone, longer or shorter: the log-likelihood of the borders is a parabola
    over its length. It costs no solve. Nothing is said of an atlas in which nothing moves at all.

    Parameters
    ----------
    problems, parameters
        The problem in each atlas, and the parameters that were found there.
    displacements
        (x, y, z, 3), mm, of these parameters.
    atlases
        The atlases.
    """
    notes = []
    for problem, params, field, atlas in zip(problems, parameters, displacements, atlases, strict=True):
        shown, found = problem.observations.get(NAME), float(np.linalg.norm(field, axis=-1).max())
        if shown is None or not found > 0:
            continue
        # From lengths of millimetres, since a parabola through points nearby has no curvature in single precision.
        unit = jnp.asarray(_LENGTH * field / found, jnp.float32)
        none, one, two = (float(shown.log_prob(k * unit, params.observations[NAME])) for k in range(3))
        bend = 2 * one - none - two
        if not bend > 0:
            continue
        top, there = (one - none) / bend + 0.5, found / _LENGTH
        best = max(0.0, top)
        if 0.5 * bend * ((there - top) ** 2 - (best - top) ** 2) > _DIFFERENCE:
            notes.append(
                Note(
                    f"Beside the atlas {atlas.title} the borders in the T1 image show a displacement of up to "
                    f"{_LENGTH * best:.1f} mm, the one that was found there is at most {found:.1f} mm: what else is "
                    "observed outweighs the T1 image.",
                    Status.DOUBTFUL,
                )
            )
    return notes
