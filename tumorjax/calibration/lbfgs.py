"""Maximum a posteriori by L-BFGS with exact gradients."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from tumorjax.calibration.calibrate import AbstractMethod, Progress
from tumorjax.calibration.calibration import Calibration, CalibrationResult
from tumorjax.calibration.evaluation import evaluate, value_and_gradient
from tumorjax.calibration.laplace import laplace_covariance
from tumorjax.calibration.problem import Parameters, Problem
from tumorjax.calibration.quasi_newton import Minimum, minimise
from tumorjax.calibration.starts import into_the_prior, starting_points


class LBFGSStats(NamedTuple):
    """What a calibration cost, and how it went.

    Parameters
    ----------
    iterations
        Of the final search.
    gradients
        Evaluations of value and gradient in the final search; each solves forward and back once.
    coarse_gradients
        The same on coarser voxels, over all starts.
    gradient_norm
        Largest component of the gradient at the end, in the prior's coordinates.
    objective
        Minus the log-posterior at the end, nat.
    histories
        The objective after each iteration, for each coarse start and then the final search.
    init
        What the method of `LBFGS.init` says of its own work; None without one.
    """

    iterations: int
    gradients: int
    coarse_gradients: int
    gradient_norm: float
    objective: float
    histories: tuple[tuple[float, ...], ...]
    init: Any = None


class LBFGS(AbstractMethod):
    """Maximum a posteriori by multi-start L-BFGS, and a Laplace approximation around it.

    Every start is searched on coarser voxels, where a gradient is cheap, and the best is refined on the
    problem's own.

    Parameters
    ----------
    starts
        Where to begin: parameters, or how many starts to derive from the outlines' geometry; from the prior, where
        there are no outlines of core and lesion, or the parameters are a user's own.
    coarsening
        Factor between the voxels of the coarse search and the problem's; 1 searches every start in full.
    budget
        Most gradient evaluations a start.
    gradient_tolerance
        Stop where the largest component of the gradient, in the prior's coordinates, is below.
    value_tolerance
        nat. Stop where two iterations together improve the log-posterior by less: far below what
        tells two models apart.
    init
        Another method, such as `Retrieval`, whose answer is where to begin in place of `starts`: all its samples, or
        its parameters where it has none.
    """

    starts: int | tuple[Parameters, ...] = 4
    coarsening: int = eqx.field(static=True, default=2)
    budget: int = eqx.field(static=True, default=60)
    gradient_tolerance: float = eqx.field(static=True, default=0.02)
    value_tolerance: float = eqx.field(static=True, default=5e-3)
    init: AbstractMethod | None = None

    def __check_init__(self) -> None:
        if isinstance(self.starts, int) and self.starts < 1:
            raise ValueError(f"starts must be at least 1, got {self.starts}")
        if self.coarsening < 1 or self.budget < 2:
            raise ValueError(f"coarsening must be at least 1 and budget at least 2, got {self}")

    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: Progress) -> Calibration:
        """Calibrate the problem; `key` is for the method of `init`."""
        begun = None if self.init is None else self.init.run(problem, key, progress)
        points = self._points(problem, begun)
        coarse: list[Minimum] = []
        if self.coarsening > 1:
            rough = problem.coarsen(self.coarsening)
            for i, point in enumerate(points):
                coarse.append(self._search(rough, point, progress, "coarse search", i, len(points)))
            points = [min(coarse, key=_rank).point]
        fine = [self._search(problem, point, progress, "search", i, len(points)) for i, point in enumerate(points)]
        best = min(fine, key=_rank)
        if best.result is CalibrationResult.NOT_FINITE:
            raise ValueError("the objective is not finite at any start; check the prior, the outlines and the anatomy")
        z = jnp.asarray(best.point, problem.anatomy.dtype)
        progress("uncertainty", 0.0, best.value)
        covariance = laplace_covariance(problem, z)
        stats = LBFGSStats(
            iterations=len(best.history) - 1,
            gradients=sum(m.evaluations for m in fine),
            coarse_gradients=sum(m.evaluations for m in coarse),
            gradient_norm=float(np.abs(best.gradient).max()),
            objective=best.value,
            histories=tuple(tuple(m.history) for m in [*coarse, *fine]),
            init=None if begun is None else begun.stats,
        )
        return Calibration(problem.prior.constrain(z), problem.prior, z, covariance, best.result, stats)

    def _points(self, problem: Problem, begun: Calibration | None) -> list[np.ndarray]:
        """Return where to begin, in the prior's coordinates."""
        # An answer that is not the patient's tumour is no better place to begin than those of the geometry.
        if begun is None or begun.result is CalibrationResult.IMPLAUSIBLE:
            if isinstance(self.starts, int):
                return starting_points(problem, self.starts)
            starts = self.starts
        elif begun.samples is None:
            return [np.asarray(begun.coordinates, float)]
        else:
            count = len(jax.tree.leaves(begun.samples)[0])
            starts = [jax.tree.map(lambda leaf, i=i: leaf[i], begun.samples) for i in range(count)]
        points = [np.asarray(problem.prior.unconstrain(start), float) for start in starts]
        # What the user gives is taken as it is.
        given = isinstance(self.starts, tuple) and starts is self.starts
        return points if given else [into_the_prior(p) for p in points]

    def _search(
        self, problem: Problem, start: np.ndarray, progress: Progress, stage: str, index: int, count: int
    ) -> Minimum:
        return minimise(
            lambda point: evaluate(value_and_gradient, problem, point),
            start,
            budget=self.budget,
            gradient_tolerance=self.gradient_tolerance,
            value_tolerance=self.value_tolerance,
            progress=lambda evaluations, value: progress(
                stage, (index + min(evaluations / self.budget, 1.0)) / count, value
            ),
        )


def _rank(minimum: Minimum) -> float:
    return minimum.value if np.isfinite(minimum.value) else np.inf
