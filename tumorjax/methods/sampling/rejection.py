"""Rejection sampling from the prior: exact draws, for small problems."""

from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import numpy as np

from tumorjax.calibration.cost import Cost
from tumorjax.calibration.method import AbstractMethod
from tumorjax.calibration.quasi_newton import minimise
from tumorjax.checks import check_counts
from tumorjax.methods.checkpoint import CHECKPOINT, Layout
from tumorjax.methods.sampling.moves import generator
from tumorjax.methods.sampling.sample import Sample, SamplerStats
from tumorjax.methods.sampling.sampler import SEED, AbstractTargetSampler, Work, draws_option
from tumorjax.methods.sampling.target import AbstractTarget, log_likelihoods, log_likelihoods_and_gradients
from tumorjax.methods.sampling.weighted import BATCH
from tumorjax.methods.search.lbfgs import LBFGS
from tumorjax.option import Option


class Rejection(AbstractTargetSampler):
    """Exact independent draws: draws of the prior, each accepted with probability likelihood over largest likelihood.

    The bound is the largest likelihood that L-BFGS finds from the start's maximum. Where a draw exceeds it, that
    becomes the bound for all draws, those before included (Caffo et al., 2002).

    Parameters
    ----------
    draws
        Number of draws.
    budget
        Largest number of solves.
    start
        Method from whose maximum the search for the largest likelihood begins; None begins at the middle of the prior.
    checkpoint
        A file that keeps what is done, with a checksum; None keeps nothing.

    References
    ----------
    .. [1] B. S. Caffo, J. G. Booth, A. C. Davis, "Empirical supremum rejection sampling", Biometrika 89 (2002).
    .. [2] J. B. S. Haldane, "On a method of estimating frequencies", Biometrika 33 (1945).
    """

    name: ClassVar[str] = "rejection"
    title: ClassVar[str] = "rejection sampling"
    references: ClassVar[tuple[str, ...]] = (
        "B. S. Caffo, J. G. Booth, A. C. Davis, Empirical supremum rejection sampling, Biometrika 89 (2002).",
    )
    summary: ClassVar[str] = "exact draws from a posterior that is not much narrower than the prior, for reference"
    options: ClassVar[tuple[Option, ...]] = (
        draws_option("number of draws (default: 100)"),
        Option("budget", "largest number of solves (default: 10000)", int, "N"),
        SEED,
        CHECKPOINT,
    )

    draws: int = eqx.field(static=True, default=100)
    budget: int = eqx.field(static=True, default=10_000)
    start: AbstractMethod | None = LBFGS()
    checkpoint: str | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        check_counts(self, draws=2, budget=1)
        if self.budget < self.draws:
            raise ValueError(f"budget must be at least draws, got {self.budget} and {self.draws}")

    def _layout(self, target: AbstractTarget) -> tuple[Layout, Mapping[str, int]]:
        numbers: Layout = {"bound": ("f", ()), "gradients": ("i", ())}
        return {"values": ("f", ("points",)), **numbers}, {"points": self.budget}

    def _draw(self, work: Work) -> Sample:
        target, stored = work.target, work.stored
        if "bound" in stored:
            bound, gradients, values = float(stored["bound"]), int(stored["gradients"]), stored["values"]
        else:
            bound, gradients = _largest(target, work.centre)
            values = np.zeros(0)
        uniform, points, chosen, top = np.zeros(0), np.zeros((0, target.size)), np.zeros(0, int), bound
        for batch in range(-(-self.budget // BATCH)):
            rng = generator(work.key, batch)
            some = min(BATCH, self.budget - len(points))
            points = np.concatenate([points, rng.normal(size=(BATCH, target.size))[:some]])
            uniform = np.concatenate([uniform, rng.uniform(size=BATCH)[:some]])
            if len(values) < len(points):
                values = np.concatenate([values, log_likelihoods(target, points[len(values) :], chunk=BATCH)])
                work.save(bound=bound, gradients=gradients, values=values)
            top = max(bound, float(values[: len(points)].max()))
            chosen = np.flatnonzero(np.log(uniform) < values[: len(points)] - top)
            work.progress("draws", min(len(chosen) / self.draws, 1.0), -top)
            if len(chosen) >= self.draws:
                break
        else:
            failed = int(np.sum(~np.isfinite(values)))
            lost = f", of which {failed} gave no likelihood" if failed else ""
            raise ValueError(
                f"{len(chosen)} of the {self.draws} draws wanted were accepted within the budget of {self.budget} "
                f"solves{lost}: the posterior is much narrower than the prior; take TMCMC or NUTS, or raise the budget"
            )
        # Up to the last one that was wanted: then successes less one over trials less one is unbiased (Haldane).
        chosen = chosen[: self.draws]
        trials = int(chosen[-1]) + 1
        share = (self.draws - 1) / (trials - 1) if trials > 1 else 1.0
        acceptance = self.draws / trials
        stats = SamplerStats(
            cost=Cost(len(values) + gradients, gradients, seconds=work.seconds),
            failed=int(np.sum(~np.isfinite(values))),
            acceptance=(acceptance,),
            log_evidence_error=float(np.sqrt((1 - acceptance) / self.draws)),
            # Largest log-likelihood seen, nat.
            details={"bound": top},
        )
        log_evidence = float(top + (np.log(share) if share else np.nan))
        return Sample(points[chosen][None], values[chosen][None], log_evidence=log_evidence, stats=stats)


def _largest(target: AbstractTarget, start: np.ndarray) -> tuple[float, int]:
    """Return the largest log-likelihood that is found from a point, and the gradients that it took."""

    def minus(point: np.ndarray) -> tuple[float, np.ndarray]:
        values, gradients = log_likelihoods_and_gradients(target, point[None], chunk=1)
        return -float(values[0]), -gradients[0]

    found = minimise(minus, np.asarray(start, float), budget=60, gradient_tolerance=1e-3, value_tolerance=1e-3)
    if not np.isfinite(found.value):
        raise ValueError("the likelihood is zero or fails where the search for its largest value begins")
    return -found.value, found.evaluations
