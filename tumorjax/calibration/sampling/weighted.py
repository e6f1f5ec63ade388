"""Weighted points that stand for the posterior of a small problem: importance sampling and stratified designs."""

import dataclasses
import time
from typing import Any, Literal, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.special import gammaln, ndtri
from scipy.stats import qmc

from tumorjax.calibration.calibrate import AbstractMethod, Progress
from tumorjax.calibration.lbfgs import LBFGS
from tumorjax.calibration.problem import Problem
from tumorjax.calibration.sampling.chains import begin_layout, begun, needed
from tumorjax.calibration.sampling.checkpoint import Checkpoint, Layout
from tumorjax.calibration.sampling.moves import generator
from tumorjax.calibration.sampling.posterior import Posterior, posterior_of
from tumorjax.calibration.sampling.target import AbstractTarget, ProblemTarget, log_likelihoods

# Points between two checkpoints: what an accelerator solves in one batch.
BATCH = 64

SILENT: Progress = lambda stage, share, objective: None  # noqa: E731


class WeightedStats(NamedTuple):
    """What weighted points cost, and what they are worth.

    Parameters
    ----------
    seconds
        Of all runs that led to these points, without the search that began them.
    solves
        Likelihoods evaluated.
    failed
        Of these, those without a finite value.
    ess
        Effective number of points, 1 / sum of squared weights: far below `solves` the proposal fits badly.
    log_evidence_error
        Standard error of the logarithm of the evidence, nat.
    """

    seconds: float
    solves: int
    failed: int
    ess: float
    log_evidence_error: float


class Weighted(NamedTuple):
    """Points that stand for the posterior.

    Parameters
    ----------
    draws
        (m, n), in the prior's coordinates.
    log_likelihoods
        (m,), nat.
    log_weights
        (m,): logarithms of weights, up to a constant.
    log_evidence
        Logarithm of the evidence, nat.
    stats
        What they cost.
    """

    draws: Float[np.ndarray, "m n"]
    log_likelihoods: Float[np.ndarray, "m"]
    log_weights: Float[np.ndarray, "m"]
    log_evidence: float
    stats: Any

    def posterior(self, problem: Problem) -> Posterior:
        """Return them as the posterior of a problem."""
        return posterior_of(
            problem,
            self.draws[None],
            self.log_likelihoods[None],
            log_weights=self.log_weights[None],
            log_evidence=self.log_evidence,
            stats=self.stats,
        )


class Importance(AbstractMethod):
    """Independent draws from a proposal, weighted by posterior over proposal; with the evidence and its error.

    Parameters
    ----------
    count
        Draws.
    proposal
        "laplace": the Laplace approximation with the tails of Student's t of five degrees of freedom, so that no
        weight is large only because the posterior's tails are. "prior": the prior.
    start
        Whose maximum and covariance the Laplace approximation has.
    checkpoint
        A file that keeps what is done, with a checksum; None keeps nothing.
    """

    count: int = eqx.field(static=True, default=1000)
    proposal: Literal["laplace", "prior"] = eqx.field(static=True, default="laplace")
    start: AbstractMethod = LBFGS()
    checkpoint: str | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        check_count(self.count)
        if self.proposal not in ("laplace", "prior"):
            raise ValueError(f"proposal must be 'laplace' or 'prior', got {self.proposal!r}")

    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: Progress) -> Posterior:
        """Draw from the problem's posterior."""
        key, target = needed(key, "Importance"), ProblemTarget(problem)
        with checkpoint_of(self, target, key) as checkpoint:
            stored = begun(problem, self.start if self.proposal == "laplace" else None, key, progress, checkpoint)
            return self._draw(target, key, progress, checkpoint, stored).posterior(problem)

    def draw(
        self,
        target: AbstractTarget,
        key: Key[Array, ""],
        centre: Float[np.ndarray, "n"] | None = None,
        covariance: Float[np.ndarray, "n n"] | None = None,
        progress: Progress = SILENT,
    ) -> Weighted:
        """Draw from any target; the centre and covariance of its Laplace approximation make the proposal."""
        begin = {} if centre is None or covariance is None else {"centre": centre, "covariance": covariance}
        if self.proposal == "laplace" and not begin:
            raise ValueError("the Laplace proposal needs a centre and a covariance")
        with checkpoint_of(self, target, needed(key, "Importance"), begin) as checkpoint:
            return self._draw(target, key, progress, checkpoint, checkpoint.load() or begin)

    def _draw(
        self,
        target: AbstractTarget,
        key: Key[Array, ""],
        progress: Progress,
        checkpoint: Checkpoint,
        stored: dict[str, np.ndarray],
    ) -> Weighted:
        rng = generator(key, 0)
        points = rng.normal(size=(self.count, target.size))
        log_ratio = np.zeros(self.count)
        if self.proposal == "laplace":
            noise = points / np.sqrt(rng.chisquare(5, size=(self.count, 1)) / 5)
            factor = np.linalg.cholesky(stored["covariance"])
            points = np.asarray(stored["centre"]) + noise @ factor.T
            log_ratio = _log_normal(points) - _log_student(noise, 5) + np.log(np.diag(factor)).sum()
        values, failed, seconds = _evaluated(target, points, checkpoint, stored, progress)
        log_weights = values + log_ratio
        # Delta method: the variance of the mean weight over its square.
        ess = _effective(log_weights)
        stats = WeightedStats(seconds, self.count, failed, ess, float(np.sqrt(max(1 / ess - 1 / self.count, 0))))
        return Weighted(points, values, log_weights, _log_mean(log_weights), stats)


class Stratified(AbstractMethod):
    """Points spread evenly over the prior's probability, weighted by likelihood; with the evidence and its error.

    The strata are in the unit cube that the normal distribution function makes of the coordinates. Good where the
    posterior is not much narrower than the prior, in few dimensions.

    Parameters
    ----------
    count
        Points; a multiple of `repeats`, and for Sobol points `repeats` times a power of two.
    strata
        "latin": a Latin hypercube, one point in each of the slices of every coordinate. "sobol": a Sobol sequence,
        scrambled by random linear maps of its digits and a shift (Matoušek).
    repeats
        Into how many designs, each randomised by itself, the points are divided: their spread is the error.
    checkpoint
        A file that keeps what is done, with a checksum; None keeps nothing.
    """

    count: int = eqx.field(static=True, default=1024)
    strata: Literal["latin", "sobol"] = eqx.field(static=True, default="sobol")
    repeats: int = eqx.field(static=True, default=8)
    checkpoint: str | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        check_count(self.count)
        if self.strata not in ("latin", "sobol"):
            raise ValueError(f"strata must be 'latin' or 'sobol', got {self.strata!r}")
        if self.repeats < 2 or self.count % self.repeats:
            raise ValueError(
                f"count must be a multiple of repeats, which must be at least 2, got {self.count} and {self.repeats}"
            )
        if self.strata == "sobol" and (self.count // self.repeats).bit_count() != 1:
            raise ValueError(f"Sobol points need count / repeats to be a power of 2, got {self.count} / {self.repeats}")

    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: Progress) -> Posterior:
        """Weight points by the problem's likelihood."""
        return self.draw(ProblemTarget(problem), needed(key, "Stratified"), progress).posterior(problem)

    def draw(self, target: AbstractTarget, key: Key[Array, ""], progress: Progress = SILENT) -> Weighted:
        """Weight points by any target."""
        engine: Any = qmc.LatinHypercube if self.strata == "latin" else qmc.Sobol
        designs = [
            engine(target.size, rng=generator(key, repeat)).random(self.count // self.repeats)
            for repeat in range(self.repeats)
        ]
        # A scrambled point can round to the cube's face, where the quantile is infinite.
        points = ndtri(np.clip(np.concatenate(designs), 1e-12, 1 - 1e-12))
        with checkpoint_of(self, target, key) as checkpoint:
            values, failed, seconds = _evaluated(target, points, checkpoint, checkpoint.load() or {}, progress)
        means = np.exp(np.array([_log_mean(some) for some in np.split(values, self.repeats)]) - values.max())
        error = float(means.std(ddof=1) / np.sqrt(self.repeats) / means.mean())
        stats = WeightedStats(seconds, self.count, failed, _effective(values), error)
        return Weighted(points, values, values, _log_mean(values), stats)


def _evaluated(
    target: AbstractTarget,
    points: Float[np.ndarray, "m n"],
    checkpoint: Checkpoint,
    stored: dict[str, np.ndarray],
    progress: Progress,
) -> tuple[Float[np.ndarray, "m"], int, float]:
    """Return the log-likelihoods at points, how many failed, and the seconds that they took; goes on where it was."""
    began, seconds = time.monotonic(), float(stored.get("seconds", 0.0))
    values = stored.get("values", np.zeros(0))
    while len(values) < len(points):
        some = points[len(values) : len(values) + BATCH]
        values = np.concatenate([values, log_likelihoods(target, some, chunk=BATCH)])
        elapsed = seconds + time.monotonic() - began
        checkpoint.save(**{**stored, "values": values, "seconds": elapsed})
        best = float(np.min(0.5 * np.sum(points[: len(values)] ** 2, axis=1) - values))
        progress("draws", len(values) / len(points), best)
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError(f"all {len(points)} points have likelihood zero, or failed: the prior excludes the data")
    return values, int(np.sum(~finite)), seconds + time.monotonic() - began


def checkpoint_of(
    method: Any, target: AbstractTarget, *identity: Any, numbers: Layout | None = None, most: int | None = None
) -> Checkpoint:
    """Return where a method keeps the likelihoods of its draws, at most `most` or its `count`, and `numbers`."""
    begin, values = begin_layout(target.size), {"values": ("f", ("points",)), "seconds": ("f", ()), **(numbers or {})}
    starts: tuple[Layout, ...] = ({}, begin, {"centre": begin["centre"]})
    layouts = (*starts, *({**start, **values} for start in starts))
    settings = dataclasses.replace(method, checkpoint=None)
    return Checkpoint(
        method.checkpoint, settings, target, *identity, layouts=layouts, most={"points": most or method.count}
    )


def check_count(count: int) -> None:
    """Raise a ValueError where there are too few draws."""
    if count < 2:
        raise ValueError(f"count must be at least 2, got {count}")


def _log_mean(logs: np.ndarray) -> float:
    return float(np.logaddexp.reduce(logs) - np.log(len(logs)))


def _effective(log_weights: np.ndarray) -> float:
    weights = np.exp(log_weights - log_weights.max())
    return float(weights.sum() ** 2 / np.sum(weights**2))


def _log_normal(points: np.ndarray) -> np.ndarray:
    return -0.5 * np.sum(points**2, axis=1) - 0.5 * points.shape[1] * np.log(2 * np.pi)


def _log_student(points: np.ndarray, freedom: int) -> np.ndarray:
    """Return the log-density of the multivariate t distribution of unit scale."""
    size = points.shape[1]
    constant = gammaln((freedom + size) / 2) - gammaln(freedom / 2) - 0.5 * size * np.log(freedom * np.pi)
    return constant - 0.5 * (freedom + size) * np.log1p(np.sum(points**2, axis=1) / freedom)
