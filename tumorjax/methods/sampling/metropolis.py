"""Random-walk Metropolis in several chains."""

from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import numpy as np

from tumorjax.calibration.cost import Cost
from tumorjax.calibration.method import AbstractMethod
from tumorjax.methods.checkpoint import CHECKPOINT, Layout
from tumorjax.methods.sampling.chains import CHAINS, AbstractChains, check_chains, dispersed, mixing
from tumorjax.methods.sampling.moves import accepted, adapted, generator
from tumorjax.methods.sampling.sample import Sample, SamplerStats
from tumorjax.methods.sampling.sampler import SEED, Work, draws_option
from tumorjax.methods.sampling.target import AbstractTarget, log_likelihoods
from tumorjax.methods.search.lbfgs import LBFGS
from tumorjax.option import Option


class Metropolis(AbstractChains):
    """Draws from the posterior by random walks that need no gradients; for reference, in few dimensions.

    During burn-in the proposals take the covariance of the later half of the chains so far (Haario et al., 2001) and
    the length that is accepted at a rate of 0.234; both are frozen afterwards. All chains step together, so that an
    accelerator solves for them in one batch.

    Parameters
    ----------
    chains, draws, burn_in
        Number of chains, number of draws that are kept of each, and number of steps before them.
    start
        Method around whose answer the chains begin, overdispersed by its covariance, or as widely as the prior where it
        has none, as that of a query or a network; None begins at draws from the prior.
    block
        Steps between two adaptations, and between two checkpoints.
    checkpoint
        A file that keeps what is done, with a checksum; None keeps nothing.

    References
    ----------
    .. [1] H. Haario, E. Saksman, J. Tamminen, "An adaptive Metropolis algorithm", Bernoulli 7 (2001).
    .. [2] C. Andrieu, J. Thoms, "A tutorial on adaptive MCMC", Statistics and Computing 18 (2008), Sec. 5.1.
    """

    name: ClassVar[str] = "metropolis"
    title: ClassVar[str] = "random-walk Metropolis"
    summary: ClassVar[str] = "draws from the posterior by random walks, for reference"
    options: ClassVar[tuple[Option, ...]] = (
        draws_option("draws of each chain (default: 2000)"),
        CHAINS,
        SEED,
        CHECKPOINT,
    )

    chains: int = eqx.field(static=True, default=4)
    draws: int = eqx.field(static=True, default=2000)
    burn_in: int = eqx.field(static=True, default=1000)
    start: AbstractMethod | None = LBFGS()
    block: int = eqx.field(static=True, default=50)
    checkpoint: str | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        check_chains(self.chains, self.draws, self.block)
        if self.burn_in < 0:
            raise ValueError(f"burn_in must not be negative, got {self.burn_in}")

    def _layout(self, target: AbstractTarget) -> tuple[Layout, Mapping[str, int]]:
        size, history = target.size, (self.chains, "transitions")
        columns: Layout = {"values": ("f", history), "moved": ("b", history), "points": ("f", (*history, size))}
        numbers: Layout = {"scale": ("f", ()), "failed": ("i", ()), "proposals": ("f", (size, size))}
        return {**columns, **numbers}, {"transitions": 1 + self.burn_in + self.draws}

    def _draw(self, work: Work) -> Sample:
        target, key, stored, covariance = work.target, work.key, work.stored, work.covariance
        count, size, total = self.chains, target.size, self.burn_in + self.draws
        if "points" in stored:
            points, values, moved = stored["points"], stored["values"], stored["moved"]
            proposals, scale, failed = stored["proposals"], float(stored["scale"]), int(stored["failed"])
        else:
            factor = np.linalg.cholesky(covariance)
            away, (found,), failed = dispersed(
                lambda some: (log_likelihoods(target, some, chunk=count),), work.centre, factor, count, key
            )
            points, values = (work.centre + away @ factor.T)[:, None], found[:, None]
            moved, proposals, scale = np.zeros((count, 1), bool), covariance, 2.38 / np.sqrt(size)
        # The first entry of each history is where the chains began.
        for begin in range(points.shape[1] - 1, total, self.block):
            steps = min(self.block, total - begin)
            rng = generator(key, 1, begin)
            noise, uniform = rng.normal(size=(self.block, count, size)), rng.uniform(size=(self.block, count))
            factor = scale * np.linalg.cholesky(proposals)
            here, value = points[:, -1], values[:, -1]
            walked, reached, gone = [], [], []
            for i in range(steps):
                there = here + noise[i] @ factor.T
                found = log_likelihoods(target, there, chunk=count)
                failed += int(np.sum(~np.isfinite(found)))
                goes = accepted(found - value + 0.5 * np.sum(here**2 - there**2, axis=1), uniform[i])
                here, value = np.where(goes[:, None], there, here), np.where(goes, found, value)
                walked.append(here)
                reached.append(value)
                gone.append(goes)
            points = np.concatenate([points, np.stack(walked, axis=1)], axis=1)
            values = np.concatenate([values, np.stack(reached, axis=1)], axis=1)
            moved = np.concatenate([moved, np.stack(gone, axis=1)], axis=1)
            end = begin + steps
            if end <= self.burn_in:
                scale = adapted(scale, float(np.mean(gone)), 0.234, 1)
                half = slice(end // 2, end + 1)
                seen, known = int(moved[:, half].sum()), 10 * size
                # While few moves were accepted, their covariance would be degenerate.
                recent = np.cov(points[:, half].reshape(-1, size).T, bias=True).reshape(size, size)
                proposals = (seen * recent + known * covariance) / (seen + known)
            work.save(points=points, values=values, moved=moved, proposals=proposals, scale=scale, failed=failed)
            stage, share = ("draws", end - self.burn_in) if end > self.burn_in else ("burn-in", end)
            best = float(np.min(0.5 * np.sum(points**2, axis=2) - values))
            work.progress(stage, share / (self.draws if stage == "draws" else self.burn_in), best)
        kept = slice(self.burn_in + 1, None)
        r_hat, ess = mixing(points[:, kept])
        stats = SamplerStats(
            cost=Cost(solves=count * (total + 1), seconds=work.seconds),
            failed=failed,
            acceptance=tuple(moved[:, kept].mean(axis=1).tolist()),
            r_hat=r_hat,
            ess=ess,
            details={"scale": scale},
        )
        return Sample(points[:, kept], values[:, kept], stats=stats)
