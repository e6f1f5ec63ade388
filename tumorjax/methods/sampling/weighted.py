"""Weighted points that stand for the posterior of a small problem: importance sampling and stratified designs."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.special import gammaln, ndtri

from tumorjax.calibration.cost import Cost
from tumorjax.calibration.method import AbstractMethod
from tumorjax.checks import check_counts
from tumorjax.methods.checkpoint import CHECKPOINT, Layout
from tumorjax.methods.sampling.marginal import MarginalTarget
from tumorjax.methods.sampling.moves import generator
from tumorjax.methods.sampling.sample import (
    Sample,
    SamplerStats,
    effective_number,
    evidence_error,
    log_mean,
    log_prior,
)
from tumorjax.methods.sampling.sampler import SEED, AbstractTargetSampler, Work, draws_option
from tumorjax.methods.sampling.target import AbstractTarget, log_likelihoods
from tumorjax.methods.search.lbfgs import LBFGS
from tumorjax.option import Option
from tumorjax.progress import SearchProgress

# Points between two checkpoints: what an accelerator solves in one batch.
BATCH = 64


class Importance(AbstractTargetSampler):
    """Independent draws from a proposal, weighted by posterior over proposal; with the evidence and its error.

    Parameters
    ----------
    draws
        Number of draws.
    proposal
        "laplace": the Laplace approximation with the tails of Student's t of five degrees of freedom, so that no
        weight is large only because the posterior's tails are. "prior": the prior.
    start
        Method that finds the maximum and the covariance of the Laplace approximation. Around an answer without a
        covariance, such as that of a query or a network, the draws are as wide as the prior.
    checkpoint
        A file that keeps what is done, with a checksum; None keeps nothing.
    """

    name: ClassVar[str] = "importance"
    title: ClassVar[str] = "importance sampling"
    summary: ClassVar[str] = "weighted draws from the Laplace approximation, for reference"
    options: ClassVar[tuple[Option, ...]] = (draws_option("number of draws (default: 1000)"), SEED, CHECKPOINT)
    # Its draws are those of the approximation itself.
    dispersion: ClassVar[float] = 1.0

    draws: int = eqx.field(static=True, default=1000)
    proposal: Literal["laplace", "prior"] = eqx.field(static=True, default="laplace")
    start: AbstractMethod | None = LBFGS()
    checkpoint: str | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        check_counts(self, draws=2)
        if self.proposal not in ("laplace", "prior"):
            raise ValueError(f"proposal must be 'laplace' or 'prior', got {self.proposal!r}")

    def _begin(self, target: MarginalTarget, key: Key[Array, ""], progress: SearchProgress) -> dict[str, np.ndarray]:
        return {} if self.proposal == "prior" else super()._begin(target, key, progress)

    def _layout(self, target: AbstractTarget) -> tuple[Layout, Mapping[str, int]]:
        return {"values": ("f", ("points",))}, {"points": self.draws}

    def _draw(self, work: Work) -> Sample:
        rng = generator(work.key, 0)
        points = rng.normal(size=(self.draws, work.target.size))
        log_ratio = np.zeros(self.draws)
        if self.proposal == "laplace":
            if not work.begin:
                raise ValueError("the Laplace proposal needs a centre and a covariance")
            noise = points / np.sqrt(rng.chisquare(5, size=(self.draws, 1)) / 5)
            factor = np.linalg.cholesky(work.covariance)
            points = work.centre + noise @ factor.T
            log_ratio = log_prior(points) - _log_student(noise, 5) + np.log(np.diag(factor)).sum()
        values = _evaluated(work, points)
        log_weights = values + log_ratio
        error = evidence_error(effective_number(log_weights), self.draws)
        return _weighted(work, points, values, log_weights, error)


class Stratified(AbstractTargetSampler):
    """Points spread evenly over the prior's probability, weighted by likelihood; with the evidence and its error.

    The strata are in the unit cube that the normal distribution function makes of the coordinates. Good where the
    posterior is not much narrower than the prior, in few dimensions.

    Parameters
    ----------
    draws
        Number of points; a multiple of `repeats`, and for Sobol points `repeats` times a power of two.
    strata
        "latin": a Latin hypercube, one point in each of the slices of every coordinate. "sobol": a Sobol sequence,
        scrambled by random linear maps of its digits and a shift (Matoušek).
    repeats
        Number of designs, each randomised by itself, into which the points are divided: their spread is the error.
    checkpoint
        A file that keeps what is done, with a checksum; None keeps nothing.
    """

    name: ClassVar[str] = "stratified"
    title: ClassVar[str] = "stratified sampling"
    summary: ClassVar[str] = "evenly spread points of the prior, weighted by their likelihood, for reference"
    options: ClassVar[tuple[Option, ...]] = (
        draws_option("number of points, 8 times a power of 2 (default: 1024)"),
        SEED,
        CHECKPOINT,
    )
    draws: int = eqx.field(static=True, default=1024)
    strata: Literal["latin", "sobol"] = eqx.field(static=True, default="sobol")
    repeats: int = eqx.field(static=True, default=8)
    start: AbstractMethod | None = eqx.field(default=None, init=False)
    checkpoint: str | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        check_counts(self, draws=2, repeats=2)
        if self.strata not in ("latin", "sobol"):
            raise ValueError(f"strata must be 'latin' or 'sobol', got {self.strata!r}")
        share, rest = divmod(self.draws, self.repeats)
        if rest:
            raise ValueError(f"draws must be a multiple of the {self.repeats} designs, got {self.draws}")
        if self.strata == "sobol" and share & (share - 1):
            raise ValueError(f"draws must be {self.repeats} times a power of 2 for Sobol points, got {self.draws}")

    def _layout(self, target: AbstractTarget) -> tuple[Layout, Mapping[str, int]]:
        return {"values": ("f", ("points",))}, {"points": self.draws}

    def _draw(self, work: Work) -> Sample:
        from scipy.stats import qmc

        engine: Any = qmc.LatinHypercube if self.strata == "latin" else qmc.Sobol
        designs = [
            engine(work.target.size, rng=generator(work.key, repeat)).random(self.draws // self.repeats)
            for repeat in range(self.repeats)
        ]
        # A scrambled point can round to the cube's face, where the quantile is infinite.
        points = ndtri(np.clip(np.concatenate(designs), 1e-12, 1 - 1e-12))
        values = _evaluated(work, points)
        means = np.exp(np.array([log_mean(some) for some in np.split(values, self.repeats)]) - values.max())
        error = float(means.std(ddof=1) / np.sqrt(self.repeats) / means.mean())
        return _weighted(work, points, values, values, error)


def _evaluated(work: Work, points: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m"]:
    """Return the log-likelihoods at points; continues where an earlier run ended."""
    values = work.stored.get("values", np.zeros(0))
    while len(values) < len(points):
        some = points[len(values) : len(values) + BATCH]
        values = np.concatenate([values, log_likelihoods(work.target, some, chunk=BATCH)])
        work.save(values=values)
        best = float(np.min(0.5 * np.sum(points[: len(values)] ** 2, axis=1) - values))
        work.progress("draws", len(values) / len(points), best)
    if not np.isfinite(values).any():
        raise ValueError(f"all {len(points)} points have likelihood zero, or failed: the prior excludes the data")
    return values


def _weighted(work: Work, points: np.ndarray, values: np.ndarray, log_weights: np.ndarray, error: float) -> Sample:
    """Return points whose mean weight is the evidence."""
    stats = SamplerStats(
        cost=Cost(solves=len(values), seconds=work.seconds),
        failed=int(np.sum(~np.isfinite(values))),
        effective=effective_number(log_weights),
        log_evidence_error=error,
    )
    return Sample(points[None], values[None], log_weights[None], log_mean(log_weights), stats)


def _log_student(points: np.ndarray, freedom: int) -> np.ndarray:
    """Return the log-density of the multivariate t distribution of unit scale."""
    size = points.shape[1]
    constant = gammaln((freedom + size) / 2) - gammaln(freedom / 2) - 0.5 * size * np.log(freedom * np.pi)
    return constant - 0.5 * (freedom + size) * np.log1p(np.sum(points**2, axis=1) / freedom)
