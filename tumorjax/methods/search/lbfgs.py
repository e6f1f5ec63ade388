"""Maximum a posteriori by L-BFGS with exact gradients."""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from tumorjax.calibration.calibration import Calibration
from tumorjax.calibration.cost import Cost
from tumorjax.calibration.evaluation import answers, evaluate, value_and_gradient
from tumorjax.calibration.laplace import laplace_covariance
from tumorjax.calibration.method import AbstractMethod
from tumorjax.calibration.problem import Parameters, Problem
from tumorjax.calibration.quasi_newton import Asking, Minimum, search
from tumorjax.calibration.result import CalibrationResult
from tumorjax.methods.checkpoint import CHECKPOINT, Stages, checkpoint_of, stages_of
from tumorjax.methods.search.starts import into_the_prior, starting_points
from tumorjax.option import Option
from tumorjax.progress import SearchProgress


class LBFGSStats(NamedTuple):
    """How the final search of a calibration went.

    Parameters
    ----------
    iterations
        Number of iterations.
    gradient_norm
        Largest component of the gradient at the end, in the prior's coordinates.
    objective
        Minus the log-posterior at the end, nat.
    """

    iterations: int
    gradient_norm: float
    objective: float


class LBFGS(AbstractMethod):
    """Maximum a posteriori by multi-start L-BFGS, and a Laplace approximation around it.

    The method searches from every start on coarser voxels, where a gradient is cheap, and refines the best result on
    the problem's own voxels.

    Parameters
    ----------
    starts
        Parameters at which to begin, or the number of starts to derive from the geometry of the outlines. Without
        outlines of core and lesion, or with parameters of the user's own, starts are taken from the prior.
    coarsening
        Factor between the voxels of the coarse search and the problem's; 1 searches every start in full.
    budget
        Largest number of gradient evaluations for each start.
    gradient_tolerance
        Stop where the largest component of the gradient, in the prior's coordinates, is below this.
    value_tolerance
        nat. Stop where two iterations together improve the log-posterior by less than this, which is far below what
        distinguishes two models.
    init
        Another method, such as `Retrieval`, whose answer replaces `starts`, unless its tumour does not resemble the
        patient's.
    checkpoint
        A file that keeps the search from each start when it has ended, with a checksum. The same run, started again,
        continues from there to the same result; None keeps nothing.
    """

    name: ClassVar[str] = "lbfgs"
    title: ClassVar[str] = "adjoint L-BFGS"
    references: ClassVar[tuple[str, ...]] = (
        "D. C. Liu, J. Nocedal, On the limited memory BFGS method for large scale optimization, Mathematical "
        "Programming 45 (1989) 503-528.",
    )
    summary: ClassVar[str] = "the most probable parameters and an approximation of their uncertainty"
    several_visits: ClassVar[bool] = True
    options: ClassVar[tuple[Option, ...]] = (CHECKPOINT,)

    starts: int | tuple[Parameters, ...] = 4
    coarsening: int = eqx.field(static=True, default=2)
    budget: int = eqx.field(static=True, default=60)
    gradient_tolerance: float = eqx.field(static=True, default=0.02)
    value_tolerance: float = eqx.field(static=True, default=5e-3)
    init: AbstractMethod | None = None
    checkpoint: str | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        if isinstance(self.starts, int) and self.starts < 1:
            raise ValueError(f"starts must be at least 1, got {self.starts}")
        if self.coarsening < 1 or self.budget < 2:
            raise ValueError(f"coarsening must be at least 1 and budget at least 2, got {self}")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "LBFGS":
        """Return the search that the options of a command describe; an InputError where the checkpoint is no file."""
        return cls(checkpoint=checkpoint_of(options))

    @property
    def region(self) -> Literal["brain", "lesion"]:
        """The neighbourhood of the lesion, unless the method that it begins with sees the brain."""
        return "lesion" if self.init is None else self.init.region

    def rehearse(self, problem: Problem) -> None:
        """Compile the searches and the covariance of problems like this one."""
        super().rehearse(problem)
        z = np.zeros(problem.prior.size)
        if self.coarsening > 1:
            evaluate(value_and_gradient, problem.coarsen(self.coarsening), z)
        evaluate(value_and_gradient, problem, z)
        laplace_covariance(problem, jnp.asarray(z, problem.dtype))

    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: SearchProgress) -> Calibration:
        """Calibrate the problem; `key` is for the method of `init`."""
        began = time.monotonic()
        begun = None if self.init is None else self.init.run(problem, key, progress)
        points = self._points(problem, begun)
        # Where the searches begin stands for what found that.
        settings = dataclasses.replace(self, starts=1, init=None, checkpoint=None)
        with stages_of(self.checkpoint, settings, problem, points) as stages:
            found = self._searched(problem, points, stages, progress)
            cost = found.cost if begun is None else found.cost + begun.cost
            cost = dataclasses.replace(cost, seconds=stages.seconds + time.monotonic() - began)
            return dataclasses.replace(found, cost=cost, begun=begun)

    def _searched(
        self, problem: Problem, points: list[np.ndarray], stages: Stages, progress: SearchProgress
    ) -> Calibration:
        """Return the maximum that the searches from these points find."""
        coarse: list[Minimum] = []
        if self.coarsening > 1:
            coarse = self._searches(problem.coarsen(self.coarsening), points, stages, progress, "coarse search")
            points = [min(coarse, key=_rank).point]
        fine = self._searches(problem, points, stages, progress, "search")
        best = min(fine, key=_rank)
        if best.result is CalibrationResult.NOT_FINITE:
            raise ValueError("the objective is not finite at any start; check the prior, the outlines and the anatomy")
        z = jnp.asarray(best.point, problem.dtype)
        progress("uncertainty", 0.0, best.value)
        covariance = laplace_covariance(problem, z)
        own, rough_own = (sum(each.evaluations for each in some) for some in (fine, coarse))
        return Calibration(
            problem.prior.constrain(z),
            problem.prior,
            z,
            covariance,
            best.result,
            LBFGSStats(len(best.history) - 1, float(np.abs(best.gradient).max()), best.value),
            method=self.title,
            cost=Cost(own, own, rough_own, rough_own),
            histories=tuple(tuple(each.history) for each in fine),
            coarse_histories=tuple(tuple(each.history) for each in coarse),
        )

    def _points(self, problem: Problem, begun: Calibration | None) -> list[np.ndarray]:
        """Return where to begin, in the prior's coordinates."""
        # A tumour that is not the patient's is no better place to begin than those of the geometry.
        if begun is not None and begun.plausible:
            # Through the parameters and back, a coordinate at the edge of the prior may become infinite.
            points = begun.starts()
            return points if begun.samples is None else [into_the_prior(point) for point in points]
        if isinstance(self.starts, int):
            return starting_points(problem, self.starts)
        # Starts of the user's are taken as they are.
        return [np.asarray(problem.prior.unconstrain(start), float) for start in self.starts]

    def _searches(
        self, problem: Problem, points: list[np.ndarray], stages: Stages, progress: SearchProgress, stage: str
    ) -> list[Minimum]:
        """Return the minima that searches from these points find, side by side."""
        count = len(points)
        done = np.zeros(count)

        def searching(i: int) -> Asking:
            def told(evaluations: int, value: float) -> None:
                done[i] = min(evaluations / self.budget, 1.0)
                progress(stage, float(done.mean()), value)

            return search(
                points[i],
                budget=self.budget,
                gradient_tolerance=self.gradient_tolerance,
                value_tolerance=self.value_tolerance,
                progress=told,
            )

        def missing(kept: int) -> Iterator[Minimum]:
            asking = [searching(i) for i in range(kept, count)]
            return answers(asking, [problem] * len(asking), value_and_gradient)

        return stages.each([f"{stage} {i + 1} of {count}" for i in range(count)], missing)


def _rank(minimum: Minimum) -> float:
    return minimum.value if np.isfinite(minimum.value) else np.inf
