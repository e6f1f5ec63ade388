"""Calibration of growth with mass effect in several atlases, each a proxy for the unknown healthy brain."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int, Key

from tumorjax.anatomy import Anatomy
from tumorjax.calibration.atlas_mixture import average, deviations, information_at
from tumorjax.calibration.calibrate import AbstractMethod, Progress
from tumorjax.calibration.calibration import Calibration, CalibrationResult
from tumorjax.calibration.evaluation import answer_all, fields, refined_fields, value_and_gradient
from tumorjax.calibration.foci import foci_of, lag, nearest
from tumorjax.calibration.problem import Fields, Problem, centre_and_radius
from tumorjax.calibration.quasi_newton import Minimum, search
from tumorjax.calibration.scoring import Scored, scoring
from tumorjax.calibration.sparse import SparseOrigin, sparse_origins
from tumorjax.calibration.stages import (
    checked,
    growth_alone,
    in_atlas,
    start_of,
    with_basis,
    without_mass_effect,
)
from tumorjax.growth import GaussianBasis
from tumorjax.integrate import FlowSplitting

# World coordinates in the patient, (n, 3) mm, to the same anatomical places in an atlas.
Carry = Callable[[np.ndarray], np.ndarray]

# sqrt(rho T), the prior's median, by which a smaller focus is later; and the least weight with which one begins.
_NUMBER, _LEAST = 3.5, 0.05
_NOT_FINITE = "the objective is not finite in atlas {}: the tissue moves too fast, or the seed lies in no tissue there"


class AtlasStats(NamedTuple):
    """What the calibration in one atlas cost, and how it went.

    Parameters
    ----------
    state
        Which of the states of S.1 fitted better.
    seeded, refined, final
        Minus the log-posterior, nat, after S.3 and S.4 on coarse voxels, and at the end on the problem's own.
    solves, gradients
        Forward solves by Fisher scoring and for the uncertainty, and evaluations of value and gradient by quasi-Newton,
        on coarse voxels.
    fine_solves
        Forward solves on the problem's own voxels.
    iterations
        Of the quasi-Newton search.
    histories
        The objective after each iteration: of S.3, of S.4, and of the last search.
    """

    state: int
    seeded: float
    refined: float
    final: float
    solves: int
    gradients: int
    fine_solves: int
    iterations: int
    histories: tuple[tuple[float, ...], ...]


class MultiAtlasStats(NamedTuple):
    """What a calibration in several atlases cost, and how it went.

    Parameters
    ----------
    origins
        The Gaussians of the states of S.1, in the patient.
    origin_gradients
        Evaluations of value and gradient in S.1.
    atlases
        One for each.
    deviations
        (m, x, y, z): standard deviation of the density within each atlas, on the coarse voxels.
    foci
        (f, 3), mm: the middle of each part of the core that lies apart, the largest first; none for a single one.
    """

    origins: tuple[GaussianBasis, ...]
    origin_gradients: int
    atlases: tuple[AtlasStats, ...]
    deviations: Float[np.ndarray, "m x y z"]
    foci: Float[np.ndarray, "f 3"] = np.zeros((0, 3))


class MultiAtlas(AbstractMethod):
    """The multi-stage inversion of a single scan with mass effect, when the healthy brain is not known.

    S.1 finds a sparse state at time zero, with the growth, in the patient's anatomy without mass effect. S.2 carries
    it to each atlas. S.3 calibrates gamma, rho T and kappa T there with the state fixed, by Fisher scoring. S.4, which
    is not in the paper, refines them together with the Gaussians' weights and places by quasi-Newton steps with
    adjoint gradients. S.3 and S.4 run on coarser voxels; in the end the growth is calibrated once more on the
    problem's own, with derivatives from the coarser ones as long as they are good enough. How uncertain all of these
    are, the Gaussians' weights and places among them, the expected information says, on the coarser voxels.

    As in the paper, what is returned is the plain mean over atlases: an `AtlasMixture`, whose state at time zero is
    made of all of theirs, carried back to the patient, since each atlas may have chosen another. `samples` are the
    parameters in each atlas, in its own place. Atlases in which no tumour grows are left out of the mean. The posterior
    weights, `log_weights`, rest on a likelihood in which no atlas is the patient's brain: they soon leave all to one,
    which need not be nearest to the truth, and are not used.

    gamma tends to be found too low: in nine of ten synthetic patients whose healthy brain was not among the atlases, by
    29 % in the median.

    The problem's anatomy is the patient's, with tissue in place of the tumour. Its model is `MassEffect`, its prior
    has `MassEffectParams` of `ScaledGrowthParams`, whose origin is a `GaussianBasis` of all candidates.

    Parameters
    ----------
    atlases
        Healthy anatomies, aligned with the patient, on the problem's grid.
    carry
        For each atlas, how world coordinates in the patient correspond to those in it; by default they are the same.
    sparsity
        s: most Gaussians; never fewer than a tumour of several foci has of these.
    refine
        Whether S.4 takes place.
    coarsening
        Factor between the voxels of S.3 and S.4 and the problem's.
    budget
        Most evaluations of value and gradient in S.4.
    place_spread
        mm: prior standard deviation of the Gaussians' places in S.4, about where S.2 carried them.
    value_tolerance
        nat: searches end where iterations bring less, that of S.4 at ten times as much: by default half a nat, as much
        as a number off by one standard deviation costs.
    together
        Whether all atlases are computed in one batch, for devices whose memory holds it, or one after another.

    References
    ----------
    Subramanian, Scheufele, Himthani, Biros, "Multiatlas calibration of biophysical brain tumor growth models with mass
    effect", MICCAI 2020, section 2.1.
    """

    atlases: tuple[Anatomy, ...]
    carry: tuple[Carry, ...] | None = eqx.field(static=True, default=None)
    sparsity: int = eqx.field(static=True, default=5)
    refine: bool = eqx.field(static=True, default=True)
    coarsening: int = eqx.field(static=True, default=2)
    budget: int = eqx.field(static=True, default=25)
    place_spread: float = 3.0
    value_tolerance: float = eqx.field(static=True, default=0.05)
    together: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        if not self.atlases:
            raise ValueError("multi-atlas calibration needs at least one atlas")
        if self.carry is not None and len(self.carry) != len(self.atlases):
            raise ValueError(f"give one carry an atlas, got {len(self.carry)} for {len(self.atlases)}")
        if min(self.sparsity, self.coarsening) < 1 or self.budget < 2:
            raise ValueError(f"sparsity and coarsening must be at least 1 and budget at least 2, got {self}")

    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: Progress) -> Calibration:
        """Calibrate the problem; `key` is not used."""
        candidates = checked(problem, self.atlases)
        still = without_mass_effect(problem)
        foci, begun = _foci(problem, candidates)
        origins, gradients = sparse_origins(
            still.coarsen(self.coarsening) if self.coarsening > 1 else still,
            candidates,
            max(self.sparsity, begun.size),
            place_spread=self.place_spread,
            value_tolerance=self.value_tolerance,
            foci=foci,
            begun=begun,
            progress=lambda share, value: progress("sparse origin", share, value),
        )
        return self.fit(problem, origins, gradients, progress)

    def fit(
        self, problem: Problem, origins: list[SparseOrigin], origin_gradients: int, progress: Progress
    ) -> Calibration:
        """S.2 to S.4: calibrate in each atlas, from the states that S.1 found in the patient; the better goes on."""
        dtype, count = problem.anatomy.dtype, len(self.atlases)
        carry = self.carry or (lambda places: places,) * count

        def placed(origin: SparseOrigin, atlas: Anatomy, carried: Carry) -> Problem:
            places = np.asarray(carried(np.asarray(origin.basis.centres, float)), float)
            basis = dataclasses.replace(origin.basis, centres=places)
            return in_atlas(problem, atlas, with_basis(problem.prior, basis, self.place_spread, dtype))

        def scored(i: int, origin: SparseOrigin) -> tuple[list[Problem], list[Scored]]:
            fine = [placed(origin, atlas, each) for atlas, each in zip(self.atlases, carry, strict=True)]
            rough = [self._rough(p) for p in fine]
            starts = [start_of(problem, fine[0].prior, origin)] * count
            stage = f"growth in the atlases, state {i + 1} of {len(origins)}"
            return fine, self._score(rough, starts, growth_alone(fine[0].prior), 6, progress, stage)

        tried = [scored(i, origin) for i, origin in enumerate(origins)]
        chosen = [int(np.argmin([found[a].value for _, found in tried])) for a in range(count)]
        fine = [tried[k][0][a] for a, k in enumerate(chosen)]
        seeded = [tried[k][1][a] for a, k in enumerate(chosen)]
        points = [s.point for s in seeded]
        refined, rough = None, [self._rough(p) for p in fine]
        if self.refine:
            refined = self._refine(rough, points, progress)
            points = [m.point for m in refined]
        final = seeded
        if self.coarsening > 1 or refined is not None:
            # On other voxels, or from where S.4 has led.
            stage, moving, derivatives = "final growth in the atlases", growth_alone(fine[0].prior), None
            if self.coarsening > 1:
                known = self._score(rough, points, moving, 0, progress, stage)
                shape = problem.anatomy.grid.shape
                derivatives = [
                    {i: refined_fields(d, self.coarsening, shape) for i, d in one.derivatives.items()} for one in known
                ]
            final = self._score(fine, points, moving, 3, progress, stage, derivatives)
        progress("uncertainty in the atlases", 0.0, min(s.value for s in final))
        asking = [information_at(p, s.point) for p, s in zip(rough, final, strict=True)]
        uncertain = answer_all(asking, rough, fields, together=self.together)
        stats = tuple(
            AtlasStats(
                state=chosen[a],
                seeded=seeded[a].value,
                refined=seeded[a].value if refined is None else refined[a].value,
                final=final[a].value,
                solves=sum(found[a].solves for _, found in tried) + uncertain[a].solves,
                gradients=0 if refined is None else refined[a].evaluations,
                fine_solves=0 if final is seeded else final[a].solves,
                iterations=0 if refined is None else len(refined[a].history) - 1,
                histories=(
                    tuple(seeded[a].history),
                    () if refined is None else tuple(refined[a].history),
                    () if final is seeded else tuple(final[a].history),
                ),
            )
            for a in range(count)
        )
        result = CalibrationResult.VALUE if refined is None else _worst([m.result for m in refined])
        told = MultiAtlasStats(
            tuple(o.basis for o in origins), origin_gradients, stats, deviations(uncertain), _middles(problem)
        )
        bases = [origins[k].basis for k in chosen]
        return average(problem, bases, self.place_spread, fine, final, uncertain, result, told)

    def _rough(self, problem: Problem) -> Problem:
        """Return the problem of S.3 and S.4, whose equilibria are found to the tolerance that the paper has for all."""
        if self.coarsening == 1:
            return problem
        problem = problem.coarsen(self.coarsening)
        return dataclasses.replace(problem, stepper=problem.stepper or FlowSplitting(tolerance=1e-3))

    def _score(
        self,
        problems: list[Problem],
        starts: list[np.ndarray],
        moving: np.ndarray,
        iterations: int,
        progress: Progress,
        stage: str,
        derivatives: list[dict[int, Fields]] | None = None,
    ) -> list[Scored]:
        count = len(problems)
        asking = [
            scoring(
                problem,
                start,
                moving,
                iterations=iterations,
                value_tolerance=self.value_tolerance,
                derivatives=None if derivatives is None else derivatives[i],
                progress=lambda iteration, value, i=i: progress(stage, (i + iteration / iterations) / count, value),
            )
            for i, (problem, start) in enumerate(zip(problems, starts, strict=True))
        ]
        scored = answer_all(asking, problems, fields, together=self.together)
        for i, one in enumerate(scored):
            if not np.isfinite(one.value):
                raise ValueError(_NOT_FINITE.format(i + 1))
        return scored

    def _refine(self, problems: list[Problem], starts: list[np.ndarray], progress: Progress) -> list[Minimum]:
        count = len(problems)
        asking = [
            search(
                start,
                budget=self.budget,
                gradient_tolerance=0.02,
                value_tolerance=10 * self.value_tolerance,
                progress=lambda evaluations, value, i=i: progress(
                    "refinement in the atlases", (i + min(evaluations / self.budget, 1.0)) / count, value
                ),
            )
            for i, start in enumerate(starts)
        ]
        return answer_all(asking, problems, value_and_gradient, together=self.together)


def _foci(problem: Problem, candidates: GaussianBasis) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "f"]]:
    """Return the number of the focus in which each candidate lies, and with which weights the foci begin."""
    grid, places = problem.anatomy.grid, np.asarray(candidates.centres, float)
    foci = foci_of(problem.observations, grid)
    if len(foci) < 2:
        return np.zeros(len(places), int), np.ones(1)
    voxels = np.round(np.asarray(grid.to_index(places))).astype(int)
    near = nearest([focus.core for focus in foci], grid)
    numbers = near[tuple(np.clip(voxels, 0, np.array(grid.shape) - 1).T)]
    # A focus in which no candidate lies has no beginning.
    known, numbers = np.unique(numbers, return_inverse=True)
    radii = [centre_and_radius(problem.anatomy, foci[i].lesion)[1] for i in known]
    weights = np.array([lag(_NUMBER, radius, max(radii)) for radius in radii])
    return numbers, np.maximum(weights, _LEAST)


def _middles(problem: Problem) -> Float[np.ndarray, "f 3"]:
    """Return the middle of each focus, mm; none of a single one."""
    foci = foci_of(problem.observations, problem.anatomy.grid)
    middles = [centre_and_radius(problem.anatomy, focus.core)[0] for focus in foci if len(foci) > 1]
    return np.array(middles).reshape(-1, 3)


def _worst(results: list[CalibrationResult]) -> CalibrationResult:
    order = list(CalibrationResult)
    return max(results, key=order.index)
