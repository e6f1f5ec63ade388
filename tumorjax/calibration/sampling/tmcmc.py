"""Transitional Markov chain Monte Carlo: posterior and evidence from particles led from the prior to it."""

import dataclasses
import time
from typing import Any, Literal, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.calibration.calibrate import AbstractMethod, Progress
from tumorjax.calibration.problem import Problem
from tumorjax.calibration.sampling.chains import OVERDISPERSION, begin_layout, begun, needed
from tumorjax.calibration.sampling.checkpoint import Checkpoint
from tumorjax.calibration.sampling.posterior import Posterior, posterior_of
from tumorjax.calibration.sampling.target import AbstractTarget, ProblemTarget, Recentred
from tumorjax.calibration.sampling.tempering import State, Tempering, TMCMCStats


class TMCMCDraws(NamedTuple):
    """Draws of equal weight, (m, n), their log-likelihoods and the logarithm of the evidence, nat."""

    points: Float[np.ndarray, "m n"]
    log_likelihoods: Float[np.ndarray, "m"]
    log_evidence: float
    stats: TMCMCStats


class TMCMC(AbstractMethod):
    """Transitional Markov chain Monte Carlo: draws from the posterior, also of several modes, and the evidence.

    Particles from the prior are led to the posterior through p(z) L(z)^t, with t from 0 to 1. Each stage raises the
    temperature t, resamples the particles by their weights, and moves them by Metropolis steps.

    Parameters
    ----------
    particles
        How many; the evidence errs by the square root of (stages / particles), nat, at the very least.
    variation
        Coefficient of variation of a stage's weights, which sets the temperature. 1 is the paper's.
    scale
        Length of a proposal in units of the particles' own covariance: 0.2 is the paper's beta. None: 2.38 / sqrt(n)
        for a random walk, and for Langevin steps 1.65 / n^(1/6), from stage to stage adapted to their acceptance.
    steps
        Metropolis steps a stage; the paper's is 1. Too few leave particles where others have been: of a Gaussian in
        five coordinates 2048 particles tell the evidence to 0.15 nat with 3 steps, and to 0.09 with 5.
    move
        "random-walk", or "langevin" for proposals along the gradient (MALA).
    screening
        Factor between coarser voxels and the problem's. If above 1, the particles are led to the posterior on coarser
        voxels first and from there to the problem's, where only what coarser voxels accept is solved (delayed
        acceptance). Whatever coarser voxels say, the draws follow the problem's posterior; only where solves on them
        fail are there none. The less they say, the more particles and steps it takes.
    chunk
        Solves in a batch on an accelerator; a quarter of it with gradients.
    checkpoint
        Path of a file in which to keep the particles after every step. The same run, started again, goes on from there
        to the same draws.

    References
    ----------
    Ching and Chen, "Transitional Markov chain Monte Carlo method for Bayesian model updating, model class selection,
    and model averaging", J. Engineering Mechanics 133 (2007). Christen and Fox, "Markov chain Monte Carlo using an
    approximation", J. Computational and Graphical Statistics 14 (2005). Roberts and Tweedie, "Exponential convergence
    of Langevin distributions and their discrete approximations", Bernoulli 2 (1996).
    """

    particles: int = eqx.field(static=True, default=2048)
    variation: float = eqx.field(static=True, default=1.0)
    scale: float | None = eqx.field(static=True, default=None)
    steps: int = eqx.field(static=True, default=5)
    move: Literal["random-walk", "langevin"] = eqx.field(static=True, default="random-walk")
    screening: int = eqx.field(static=True, default=1)
    start: AbstractMethod | None = None
    chunk: int = eqx.field(static=True, default=64)
    checkpoint: str | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        for name in ("particles", "steps", "screening", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.variation > 0 or (self.scale is not None and not self.scale > 0):
            raise ValueError(f"variation and scale must be positive, got {self.variation} and {self.scale}")
        if self.move not in ("random-walk", "langevin"):
            raise ValueError(f"move must be 'random-walk' or 'langevin', got {self.move!r}")

    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: Progress) -> Posterior:
        """Draw from the posterior of the problem."""
        key, target = needed(key, "TMCMC"), ProblemTarget(problem)
        self._check(target)
        screen = ProblemTarget(problem.coarsen(self.screening)) if self.screening > 1 else None
        with self._checkpoint(target, screen, key) as checkpoint:
            stored = begun(problem, self.start, key, progress, checkpoint) if self.start else checkpoint.load() or {}
            draws = self._draw(target, screen, key, progress, checkpoint, stored)
        return posterior_of(
            problem,
            draws.points[None],
            draws.log_likelihoods[None],
            log_evidence=draws.log_evidence,
            stats=draws.stats,
        )

    def draw(
        self,
        target: AbstractTarget,
        key: Key[Array, ""] | None,
        progress: Progress = lambda stage, share, objective: None,
        *,
        screen: AbstractTarget | None = None,
        centre: Float[np.ndarray, "n"] | None = None,
        covariance: Float[np.ndarray, "n n"] | None = None,
    ) -> TMCMCDraws:
        """Draw from the posterior of any target.

        Parameters
        ----------
        target
            Likelihood over coordinates whose prior is standard normal.
        key
            Random key.
        progress
            As in `calibrate`.
        screen
            An approximation of the target that costs less: see `screening`.
        centre, covariance
            Of a normal approximation of the posterior, in place of the prior: see `start`.

        Raises
        ------
        ValueError
            If there is no key, there are too few particles, or too few draws from the prior are possible.
        """
        key = needed(key, "TMCMC")
        self._check(target)
        begin = {} if centre is None or covariance is None else {"centre": centre, "covariance": covariance}
        with self._checkpoint(target, screen, key, begin) as checkpoint:
            return self._draw(target, screen, key, progress, checkpoint, checkpoint.load() or begin)

    def _check(self, target: AbstractTarget) -> None:
        """Raise a ValueError, before any work, if there are too few particles."""
        if self.particles < 2 * target.size:
            raise ValueError(
                f"{self.particles} particles do not span {target.size} coordinates; take at least {2 * target.size}"
            )

    def _checkpoint(self, target: AbstractTarget, screen: AbstractTarget | None, *identity: Any) -> Checkpoint:
        begin, state = begin_layout(target.size), State.layout(self.particles, target.size, 1 if screen is None else 2)
        settings = dataclasses.replace(self, checkpoint=None)
        layouts = (begin, state, {**begin, **state})
        return Checkpoint(self.checkpoint, settings, target, screen, *identity, layouts=layouts)

    def _draw(
        self,
        target: AbstractTarget,
        screen: AbstractTarget | None,
        key: Key[Array, ""],
        progress: Progress,
        checkpoint: Checkpoint,
        stored: dict[str, np.ndarray],
    ) -> TMCMCDraws:
        began = time.monotonic()
        goals = (target,) if screen is None else (screen, target)
        begin = {name: stored[name] for name in ("centre", "covariance") if name in stored}
        factor = OVERDISPERSION * np.linalg.cholesky(begin["covariance"]) if begin else None
        if factor is not None:
            goals = tuple(Recentred(goal, begin["centre"], factor) for goal in goals)
        run = Tempering(
            goals=goals,
            source="approximation" if begin else "prior",
            key=key,
            progress=progress,
            particles=self.particles,
            variation=self.variation,
            scale=self.scale,
            steps=self.steps,
            chunk=self.chunk,
            langevin=self.move == "langevin",
        )
        state = run.start() if "points" not in stored else run.checked(State.from_arrays(stored))
        before = state.seconds
        while not run.done(state):
            state = run.advance(state)
            state = state._replace(seconds=before + time.monotonic() - began)
            checkpoint.save(**begin, **state._asdict())
        points, values, log_evidence = state.points, state.values[-1], state.log_evidence
        if factor is not None:
            points = begin["centre"] + state.points @ factor.T
            values = values + 0.5 * np.sum(points**2 - state.points**2, axis=1)
            log_evidence += float(np.log(np.diag(factor)).sum())
        return TMCMCDraws(points, values, log_evidence, run.stats(state))
