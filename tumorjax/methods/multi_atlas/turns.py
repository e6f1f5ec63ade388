"""The growth in each atlas from the states that were found in the patient, and turns of registration and growth."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tumorjax.calibration.problem import Problem
from tumorjax.calibration.scoring import Scored
from tumorjax.methods.multi_atlas.coupling import TURNS, beside, displacement_of, turn_of
from tumorjax.methods.multi_atlas.sparse import SparseOrigin
from tumorjax.methods.multi_atlas.stages import growth_alone, in_atlas, rough_of, start_of, with_basis
from tumorjax.methods.multi_atlas.stats import Turn
from tumorjax.observation import ShiftMap
from tumorjax.patient.atlases import AlignedAtlas

# World coordinates in the patient, (n, 3) mm, to the same anatomical places in an atlas.
Carry = Callable[[np.ndarray], np.ndarray]


class Seeded(NamedTuple):
    """The growth that was found in each atlas, with the state at time zero fixed.

    Parameters
    ----------
    states
        The number of the state of S.1 with which it fits better.
    problems
        On the problem's own voxels.
    scored
        The result, on coarse voxels.
    solves
        Forward solves so far.
    """

    states: list[int]
    problems: list[Problem]
    scored: list[Scored]
    solves: list[int]


class Seeding(NamedTuple):
    """How the growth in the atlases is found.

    Parameters
    ----------
    origins
        The states that S.1 found in the patient.
    carry
        For each atlas, how places in the patient correspond to those in it while it lies behind an affine map.
    place_spread
        mm: prior standard deviation of the Gaussians' places.
    factor
        Between the voxels of the search and the problem's.
    search
        `tumorjax.methods.multi_atlas.stages.scored` with its settings.
    shown
        For each atlas, what the T1 image shows of the displacement; nothing where atlases lie behind affine maps.
    """

    origins: list[SparseOrigin]
    carry: Sequence[Carry]
    place_spread: float
    factor: int
    search: Callable[..., list[Scored]]
    shown: Sequence[ShiftMap] = ()

    def seeded(
        self,
        problem: Problem,
        atlases: Sequence[AlignedAtlas],
        *,
        after: Seeded | None = None,
        stage: str = "growth in the atlases",
    ) -> Seeded:
        """Return the growth in each atlas from the better of the states (S.2 and S.3), or from where it was before."""
        count, several = len(atlases), len(self.origins)
        if after is None:
            names = [f"{stage}, state {k + 1} of {several}" for k in range(several)]
            tried = [self._from([k] * count, problem, atlases, None, name) for k, name in enumerate(names)]
        else:
            tried = [self._from(after.states, problem, atlases, after, stage)]
        best = [int(np.argmin([one.scored[a].value for one in tried])) for a in range(count)]
        before = [0] * count if after is None else after.solves
        return Seeded(
            [tried[k].states[a] for a, k in enumerate(best)],
            [tried[k].problems[a] for a, k in enumerate(best)],
            [tried[k].scored[a] for a, k in enumerate(best)],
            [before[a] + sum(one.solves[a] for one in tried) for a in range(count)],
        )

    def in_turns(
        self, problem: Problem, atlases: tuple[AlignedAtlas, ...]
    ) -> tuple[tuple[AlignedAtlas, ...], Seeded, list[Turn]]:
        """Take turns of growth and registration, and return the brains that they lead to, with the growth in these.

        The first brain is the one that the registration finds, as if the tumour had not pushed: it fits the patient as
        well as any that a push leads back to, so that the state at time zero can be chosen there.
        """
        shape = problem.anatomy.grid.shape
        atlases = tuple(atlas.undisplaced() for atlas in atlases)
        found, turns = self.seeded(problem, atlases), []
        for turn in range(TURNS):
            pushes = [displacement_of(one.fields, self.factor, shape) for one in found.scored]
            turns.append(turn_of(pushes, atlases))
            if turns[-1].settled:
                break
            # A push that folds leads nowhere back; the brain of the turn before is kept.
            atlases = tuple(atlas.behind(push) or atlas for atlas, push in zip(atlases, pushes, strict=True))
            stage = f"registration and growth, turn {turn + 2}"
            found = self.seeded(problem, atlases, after=found, stage=stage)
        return atlases, found, turns

    def _from(
        self,
        states: list[int],
        problem: Problem,
        atlases: Sequence[AlignedAtlas],
        after: Seeded | None,
        stage: str,
    ) -> Seeded:
        own = [self.origins[k] for k in states]
        shown = self.shown or [None] * len(atlases)
        fine = [self._placed(problem, *each) for each in zip(own, atlases, self.carry, shown, strict=True)]
        prior = fine[0].prior
        moving, starts = growth_alone(prior), [start_of(problem, prior, origin) for origin in own]
        if after is not None:
            # The state at time zero lies where the push leads it back to.
            starts = [np.where(moving, one.point, start) for one, start in zip(after.scored, starts, strict=True)]
        found = self.search(
            [rough_of(each, self.factor) for each in fine], starts, [moving] * len(starts), 6, stage=stage
        )
        return Seeded(states, fine, found, [one.solves for one in found])

    def _placed(
        self, problem: Problem, origin: SparseOrigin, atlas: AlignedAtlas, carry: Carry, shown: ShiftMap | None
    ) -> Problem:
        carried: Any = carry if atlas.displacement is None else atlas.carry
        places = np.asarray(carried(np.asarray(origin.basis.centres, float)), float)
        basis = dataclasses.replace(origin.basis, centres=places)
        prior = with_basis(problem.prior, basis, self.place_spread, problem.anatomy.dtype)
        return in_atlas(beside(problem, shown), atlas.anatomy, prior)
