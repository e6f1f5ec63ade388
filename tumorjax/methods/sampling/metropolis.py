"""Random-walk Metropolis in several chains."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int

from tumorjax.calibration.cost import Cost
from tumorjax.calibration.method import AbstractMethod
from tumorjax.calibration.problem import Problem
from tumorjax.checks import check_counts
from tumorjax.methods.checkpoint import CHECKPOINT, Layout
from tumorjax.methods.sampling.chains import CHAINS, AbstractChains, dispersed
from tumorjax.methods.sampling.diagnostics import mixing
from tumorjax.methods.sampling.moves import accepted_twice, adapted, generator
from tumorjax.methods.sampling.sample import Sample, SamplerStats
from tumorjax.methods.sampling.sampler import SEED, Work, draws_option
from tumorjax.methods.sampling.screen import SCREEN, Screen, check_screen, refuses_screen, screen_named, screened
from tumorjax.methods.sampling.target import AbstractTarget, goals_of, log_likelihoods
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
    screen
        What screens solves; see `tumorjax.methods.sampling.screen`. The problem is solved only for proposals that the
        screen's posterior accepts (delayed acceptance). The draws follow the problem's posterior all the same, except
        where the screen has no answer.
    checkpoint
        A file that keeps what is done, with a checksum; None keeps nothing.

    References
    ----------
    .. [1] H. Haario, E. Saksman, J. Tamminen, "An adaptive Metropolis algorithm", Bernoulli 7 (2001).
    .. [2] C. Andrieu, J. Thoms, "A tutorial on adaptive MCMC", Statistics and Computing 18 (2008), Sec. 5.1.
    """

    name: ClassVar[str] = "metropolis"
    title: ClassVar[str] = "random-walk Metropolis"
    references: ClassVar[tuple[str, ...]] = (
        "H. Haario, E. Saksman, J. Tamminen, An adaptive Metropolis algorithm, Bernoulli 7 (2001).",
    )
    summary: ClassVar[str] = "draws from the posterior by random walks, for reference"
    options: ClassVar[tuple[Option, ...]] = (
        draws_option("draws of each chain (default: 2000)"),
        CHAINS,
        SCREEN,
        SEED,
        CHECKPOINT,
    )

    chains: int = eqx.field(static=True, default=4)
    draws: int = eqx.field(static=True, default=2000)
    burn_in: int = eqx.field(static=True, default=1000)
    start: AbstractMethod | None = LBFGS()
    block: int = eqx.field(static=True, default=50)
    screen: Screen = None
    checkpoint: str | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        check_counts(self, burn_in=0)
        check_screen(self.screen)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> AbstractMethod:
        """Return the sampler that the options of a command describe."""
        settings = {name: value for name, value in options.items() if name != "screen"}
        return dataclasses.replace(super().from_options(settings), screen=screen_named(options))

    def refuses(self, problem: Problem) -> str | None:
        """Return in one line why the chains cannot be run; None if they can."""
        return refuses_screen(problem, self.screen) or super().refuses(problem)

    def _target(self, problem: Problem) -> AbstractTarget:
        return screened(problem, self.screen)

    def _layout(self, target: AbstractTarget) -> tuple[Layout, Mapping[str, int]]:
        size, history, goals = target.size, (self.chains, "transitions"), len(goals_of(target))
        columns: Layout = {"values": ("f", history), "moved": ("b", history), "points": ("f", (*history, size))}
        numbers: Layout = {"scale": ("f", ()), "unknown": ("i", ()), "proposals": ("f", (size, size))}
        ends: Layout = {"ends": ("f", (goals, self.chains)), "counts": ("i", (goals, 2))}
        return {**columns, **numbers, **ends}, {"transitions": 1 + self.burn_in + self.draws}

    def _draw(self, work: Work) -> Sample:
        key, stored, covariance, goals = work.key, work.stored, work.covariance, goals_of(work.target)
        count, size, total = self.chains, work.target.size, self.burn_in + self.draws
        if "points" in stored:
            points, values, moved, ends = (stored[name] for name in ("points", "values", "moved", "ends"))
            proposals, scale, unknown = stored["proposals"], float(stored["scale"]), int(stored["unknown"])
            counts = stored["counts"].copy()
        else:
            points, ends, counts = self._begun(goals, work)
            values, moved = ends[-1][:, None], np.zeros((count, 1), bool)
            proposals, scale, unknown = covariance, 2.38 / np.sqrt(size), 0
        # The first entry of each history is where the chains began.
        for begin in range(points.shape[1] - 1, total, self.block):
            steps = min(self.block, total - begin)
            rng = generator(key, 1, begin)
            noise, uniform = rng.normal(size=(self.block, count, size)), rng.uniform(size=(2, self.block, count))
            factor = scale * np.linalg.cholesky(proposals)
            here, walked, reached, gone = points[:, -1], [], [], []
            for i in range(steps):
                there = here + noise[i] @ factor.T
                goes, found, evaluated = _step(goals, here, ends, there, uniform[:, i])
                counts = counts + evaluated
                unknown += int(evaluated[0, 1]) if begin >= self.burn_in else 0
                here, ends = np.where(goes[:, None], there, here), np.where(goes, found, ends)
                walked.append(here)
                reached.append(ends[-1])
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
            state = {"points": points, "values": values, "moved": moved, "ends": ends, "counts": counts}
            work.save(**state, proposals=proposals, scale=scale, unknown=unknown)
            stage, share = ("draws", end - self.burn_in) if end > self.burn_in else ("burn-in", end)
            best = float(np.min(0.5 * np.sum(points**2, axis=2) - values))
            work.progress(stage, share / (self.draws if stage == "draws" else self.burn_in), best)
        kept = slice(self.burn_in + 1, None)
        r_hat, ess = mixing(points[:, kept])
        stats = SamplerStats(
            cost=Cost(int(counts[-1, 0]), coarse_solves=int(counts[:-1, 0].sum()), seconds=work.seconds),
            failed=int(counts[:, 1].sum()),
            acceptance=tuple(moved[:, kept].mean(axis=1).tolist()),
            r_hat=r_hat,
            ess=ess,
            unscreened=unknown / (count * self.draws) if len(goals) > 1 else None,
            details={"scale": scale},
        )
        return Sample(points[:, kept], values[:, kept], stats=stats)

    def _begun(
        self, goals: tuple[AbstractTarget, ...], work: Work
    ) -> tuple[Float[np.ndarray, "c 1 n"], Float[np.ndarray, "goals c"], Int[np.ndarray, "goals 2"]]:
        """Return where the chains begin, the log-likelihoods there, and the numbers of evaluations and failures."""
        counts, factor = np.zeros((len(goals), 2), int), np.linalg.cholesky(work.covariance)

        def evaluate(points: Float[np.ndarray, "c n"]) -> tuple[np.ndarray, ...]:
            found = np.stack([log_likelihoods(goal, points, chunk=self.chains) for goal in goals])
            counts[:, 0] += self.chains
            counts[:, 1] += np.sum(~np.isfinite(found), axis=1)
            # A chain needs a value of each.
            return np.where(np.isfinite(found).all(axis=0), found[-1], -np.inf), found.T

        away, (_, ends), _ = dispersed(evaluate, work.centre, factor, self.chains, work.key)
        return (work.centre + away @ factor.T)[:, None], ends.T, counts


def _step(
    goals: tuple[AbstractTarget, ...],
    here: Float[np.ndarray, "c n"],
    values: Float[np.ndarray, "goals c"],
    there: Float[np.ndarray, "c n"],
    uniform: Float[np.ndarray, "2 c"],
) -> tuple[Bool[np.ndarray, "c"], Float[np.ndarray, "goals c"], Int[np.ndarray, "goals 2"]]:
    """Return which chains move, the log-likelihoods of the goals there, and numbers of evaluations and failures."""
    found, evaluated = np.full(values.shape, -np.inf), np.zeros((len(goals), 2), int)

    def evaluate(goal: int, some: Int[np.ndarray, "k"]) -> None:
        found[goal, some] = log_likelihoods(goals[goal], there[some], chunk=len(there))
        evaluated[goal] = len(some), np.sum(~np.isfinite(found[goal, some]))

    def correction(some: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
        evaluate(1, some)
        gained = found[:, some] - values[:, some]
        return gained[1] - gained[0]

    evaluate(0, np.arange(len(there)))
    log_ratio = found[0] - values[0] + 0.5 * np.sum(here**2 - there**2, axis=1)
    _, moving = accepted_twice(log_ratio, uniform, correction if len(goals) > 1 else None)
    return moving, found, evaluated
