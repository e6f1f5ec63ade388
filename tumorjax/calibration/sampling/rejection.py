"""Rejection sampling from the prior: exact draws, for small problems."""

import time
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.calibration.calibrate import AbstractMethod, Progress
from tumorjax.calibration.lbfgs import LBFGS
from tumorjax.calibration.problem import Problem
from tumorjax.calibration.quasi_newton import minimise
from tumorjax.calibration.sampling.chains import begun, needed
from tumorjax.calibration.sampling.checkpoint import Checkpoint, Layout
from tumorjax.calibration.sampling.moves import generator
from tumorjax.calibration.sampling.posterior import Posterior
from tumorjax.calibration.sampling.target import (
    AbstractTarget,
    ProblemTarget,
    log_likelihoods,
    log_likelihoods_and_gradients,
)
from tumorjax.calibration.sampling.weighted import BATCH, SILENT, Weighted, check_count, checkpoint_of


class RejectionStats(NamedTuple):
    """What rejection cost.

    Parameters
    ----------
    seconds
        Of all runs that led to these draws, without the search that began them.
    solves
        Likelihoods evaluated.
    gradients
        Evaluations of value and gradient in the search for the bound.
    failed
        Solves without a finite value.
    acceptance
        Share of the prior's draws that were accepted.
    bound
        Largest log-likelihood seen, nat.
    log_evidence_error
        Standard error of the logarithm of the evidence, nat.
    """

    seconds: float
    solves: int
    gradients: int
    failed: int
    acceptance: float
    bound: float
    log_evidence_error: float


class Rejection(AbstractMethod):
    """Exact independent draws: draws of the prior, each accepted with probability likelihood over largest likelihood.

    The bound is the largest likelihood that L-BFGS finds from the start's maximum. Where a draw exceeds it, that
    becomes the bound for all draws, those before included (Caffo et al., 2002).

    Parameters
    ----------
    count
        Draws wanted.
    budget
        Most solves.
    start
        From whose maximum the largest likelihood is searched for.
    checkpoint
        A file that keeps what is done, with a checksum; None keeps nothing.

    References
    ----------
    .. [1] B. S. Caffo, J. G. Booth, A. C. Davis, "Empirical supremum rejection sampling", Biometrika 89 (2002).
    .. [2] J. B. S. Haldane, "On a method of estimating frequencies", Biometrika 33 (1945).
    """

    count: int = eqx.field(static=True, default=100)
    budget: int = eqx.field(static=True, default=10_000)
    start: AbstractMethod = LBFGS()
    checkpoint: str | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        check_count(self.count)
        if self.budget < self.count:
            raise ValueError(f"budget must be at least count, got {self.budget} and {self.count}")

    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: Progress) -> Posterior:
        """Draw from the problem's posterior.

        Raises
        ------
        ValueError
            If the budget is used up before enough draws are accepted.
        """
        key, target = needed(key, "Rejection"), ProblemTarget(problem)
        with self._checkpoint(target, key) as checkpoint:
            stored = begun(problem, self.start, key, progress, checkpoint)
            return self._draw(target, key, progress, checkpoint, stored).posterior(problem)

    def draw(
        self,
        target: AbstractTarget,
        key: Key[Array, ""],
        centre: Float[np.ndarray, "n"],
        progress: Progress = SILENT,
    ) -> Weighted:
        """Draw from any target; the bound is searched for from a centre."""
        begin = {"centre": np.asarray(centre, float)}
        with self._checkpoint(target, needed(key, "Rejection"), centre) as checkpoint:
            return self._draw(target, key, progress, checkpoint, checkpoint.load() or begin)

    def _checkpoint(self, target: AbstractTarget, *identity: Any) -> Checkpoint:
        numbers: Layout = {"bound": ("f", ()), "gradients": ("i", ())}
        return checkpoint_of(self, target, *identity, numbers=numbers, most=self.budget)

    def _draw(
        self,
        target: AbstractTarget,
        key: Key[Array, ""],
        progress: Progress,
        checkpoint: Checkpoint,
        stored: dict[str, np.ndarray],
    ) -> Weighted:
        began, seconds = time.monotonic(), float(stored.get("seconds", 0.0))
        if "bound" in stored:
            bound, gradients, values = float(stored["bound"]), int(stored["gradients"]), stored["values"]
        else:
            bound, gradients = _largest(target, stored["centre"])
            values = np.zeros(0)
        uniform, points, chosen, top = np.zeros(0), np.zeros((0, target.size)), np.zeros(0, int), bound
        for batch in range(-(-self.budget // BATCH)):
            rng = generator(key, batch)
            some = min(BATCH, self.budget - len(points))
            points = np.concatenate([points, rng.normal(size=(BATCH, target.size))[:some]])
            uniform = np.concatenate([uniform, rng.uniform(size=BATCH)[:some]])
            if len(values) < len(points):
                values = np.concatenate([values, log_likelihoods(target, points[len(values) :], chunk=BATCH)])
                elapsed = seconds + time.monotonic() - began
                kept = {name: stored[name] for name in ("centre", "covariance") if name in stored}
                checkpoint.save(**kept, bound=bound, gradients=gradients, values=values, seconds=elapsed)
            top = max(bound, float(values[: len(points)].max()))
            chosen = np.flatnonzero(np.log(uniform) < values[: len(points)] - top)
            progress("draws", min(len(chosen) / self.count, 1.0), -top)
            if len(chosen) >= self.count:
                break
        else:
            raise ValueError(
                f"{len(chosen)} of the {self.count} draws wanted were accepted within the budget of {self.budget} "
                "solves: the posterior is much narrower than the prior; take TMCMC or NUTS, or raise the budget"
            )
        # Up to the last one that was wanted: then successes less one over trials less one is unbiased (Haldane).
        chosen = chosen[: self.count]
        trials = int(chosen[-1]) + 1
        acceptance = (self.count - 1) / (trials - 1) if trials > 1 else 1.0
        stats = RejectionStats(
            seconds=seconds + time.monotonic() - began,
            solves=len(values),
            gradients=gradients,
            failed=int(np.sum(~np.isfinite(values))),
            acceptance=self.count / trials,
            bound=top,
            log_evidence_error=float(np.sqrt((1 - self.count / trials) / self.count)),
        )
        log_evidence = top + (np.log(acceptance) if acceptance else np.nan)
        return Weighted(points[chosen], values[chosen], np.zeros(self.count), float(log_evidence), stats)


def _largest(target: AbstractTarget, start: np.ndarray) -> tuple[float, int]:
    """Return the largest log-likelihood that is found from a point, and the gradients that it took."""

    def minus(point: np.ndarray) -> tuple[float, np.ndarray]:
        values, gradients = log_likelihoods_and_gradients(target, point[None], chunk=1)
        return -float(values[0]), -gradients[0]

    found = minimise(minus, np.asarray(start, float), budget=60, gradient_tolerance=1e-3, value_tolerance=1e-3)
    if not np.isfinite(found.value):
        raise ValueError("the likelihood is zero or fails where the search for its largest value begins")
    return -found.value, found.evaluations
