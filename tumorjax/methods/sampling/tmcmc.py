"""Transitional Markov chain Monte Carlo: posterior and evidence from particles led from the prior to it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import equinox as eqx
import numpy as np

from tumorjax.calibration.method import AbstractMethod
from tumorjax.calibration.problem import Problem
from tumorjax.checks import check_counts, check_positive
from tumorjax.methods.checkpoint import CHECKPOINT, Layout
from tumorjax.methods.sampling.sample import Sample
from tumorjax.methods.sampling.sampler import OVERDISPERSION, SEED, AbstractTargetSampler, Work
from tumorjax.methods.sampling.screen import SCREEN, Screen, check_screen, refuses_screen, screen_named, screened
from tumorjax.methods.sampling.target import AbstractTarget, Recentred, goals_of
from tumorjax.methods.sampling.tempering import State, Tempering
from tumorjax.option import Option

# Up to such voxels (mm) a tumour on coarser ones resembles itself, and shows which particles are worth a solve.
_SCREENED = 3.0


class TMCMC(AbstractTargetSampler):
    """Transitional Markov chain Monte Carlo: draws from the posterior, also of several modes, and the evidence.

    Particles from the prior are led to the posterior through p(z) L(z)^t, with t from 0 to 1. Each stage raises the
    temperature t, resamples the particles by their weights, and moves them by Metropolis steps.

    Parameters
    ----------
    particles
        Number of particles; the evidence errs by the square root of (stages / particles), nat, at the very least.
    variation
        Coefficient of variation of a stage's weights, which sets the temperature. 1 is the paper's.
    scale
        Length of a proposal in units of the particles' own covariance: 0.2 is the paper's beta. None: 2.38 / sqrt(n)
        for a random walk, and for Langevin steps 1.65 / n^(1/6), from stage to stage adapted to their acceptance.
    steps
        Metropolis steps in each stage; the paper takes 1. Too few leave particles where others have been: for a
        Gaussian in five coordinates 2048 particles give the evidence to 0.15 nat with 3 steps, and to 0.09 with 5.
    move
        "random-walk", or "langevin" for proposals along the gradient (MALA).
    screen
        What screens solves; see `tumorjax.methods.sampling.screen`. The particles are led to its posterior first, and
        from there to that of the problem, which is solved only for proposals that the screen accepts (delayed
        acceptance). The draws follow the problem's posterior however rough the screen; only where the screen has no
        answer are there no draws, which `stats.unscreened` counts. The rougher it is, the more particles and steps it
        takes.
    start
        Method around whose answer the particles begin, overdispersed by its covariance, or as widely as the prior where
        it has none, as that of a query or a network; None begins with the prior.
    chunk
        Number of solves in a batch on an accelerator; a quarter of it with gradients.
    checkpoint
        Path of a file in which to keep the particles after every step. The same run, started again, continues from
        there to the same draws.

    References
    ----------
    Ching and Chen, "Transitional Markov chain Monte Carlo method for Bayesian model updating, model class selection,
    and model averaging", J. Engineering Mechanics 133 (2007). Christen and Fox, "Markov chain Monte Carlo using an
    approximation", J. Computational and Graphical Statistics 14 (2005). Roberts and Tweedie, "Exponential convergence
    of Langevin distributions and their discrete approximations", Bernoulli 2 (1996).
    """

    name: ClassVar[str] = "tmcmc"
    title: ClassVar[str] = "transitional Markov chain Monte Carlo (TMCMC)"
    references: ClassVar[tuple[str, ...]] = (
        "J. Ching, Y.-C. Chen, Transitional Markov chain Monte Carlo method for Bayesian model updating, model class "
        "selection, and model averaging, Journal of Engineering Mechanics 133 (2007).",
    )
    summary: ClassVar[str] = (
        "draws from the posterior, also of several modes, and the evidence, by transitional Markov chain Monte Carlo"
    )
    options: ClassVar[tuple[Option, ...]] = (
        Option("particles", "number of particles (default: 2048)", int, "N"),
        SCREEN,
        SEED,
        CHECKPOINT,
    )

    particles: int = eqx.field(static=True, default=2048)
    variation: float = eqx.field(static=True, default=1.0)
    scale: float | None = eqx.field(static=True, default=None)
    steps: int = eqx.field(static=True, default=5)
    move: Literal["random-walk", "langevin"] = eqx.field(static=True, default="random-walk")
    screen: Screen = None
    start: AbstractMethod | None = None
    chunk: int = eqx.field(static=True, default=64)
    checkpoint: str | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        check_counts(self, particles=1, steps=1, chunk=1)
        check_positive("variation", self.variation)
        if self.scale is not None:
            check_positive("scale", self.scale)
        if self.move not in ("random-walk", "langevin"):
            raise ValueError(f"move must be 'random-walk' or 'langevin', got {self.move!r}")
        check_screen(self.screen)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> AbstractMethod:
        """Return the sampler that the options of a command describe; coarser voxels screen fine ones."""
        coarse = 2 if options.get("resolution", np.inf) <= _SCREENED else None
        settings = {name: value for name, value in options.items() if name != "screen"}
        return dataclasses.replace(super().from_options(settings), screen=screen_named(options, coarse))

    def refuses(self, problem: Problem) -> str | None:
        """Return in one line why the sampler cannot draw from a problem's posterior; None if it can."""
        return refuses_screen(problem, self.screen) or super().refuses(problem)

    def _refuses(self, size: int) -> str | None:
        if self.particles < 2 * size:
            return f"{self.particles} particles do not span {size} coordinates; take at least {2 * size}"
        return None

    def _target(self, problem: Problem) -> AbstractTarget:
        return screened(problem, self.screen)

    def _layout(self, target: AbstractTarget) -> tuple[Layout, Mapping[str, int]]:
        return State.layout(self.particles, target.size, len(goals_of(target))), {}

    def _draw(self, work: Work) -> Sample:
        goals = goals_of(work.target)
        factor = OVERDISPERSION * np.linalg.cholesky(work.covariance) if work.begin else None
        if factor is not None:
            goals = tuple(Recentred(goal, work.centre, factor) for goal in goals)
        run = Tempering(
            goals=goals,
            source="prior" if factor is None else "approximation",
            key=work.key,
            progress=work.progress,
            particles=self.particles,
            variation=self.variation,
            scale=self.scale,
            steps=self.steps,
            chunk=self.chunk,
            langevin=self.move == "langevin",
        )
        state = run.checked(State.from_arrays(work.stored)) if work.stored else run.start()
        while not run.done(state):
            state = run.advance(state)
            work.save(**state._asdict())
        points, values, log_evidence = state.points, state.values[-1], state.log_evidence
        if factor is not None:
            points = work.centre + state.points @ factor.T
            values = values + 0.5 * np.sum(points**2 - state.points**2, axis=1)
            log_evidence += float(np.log(np.diag(factor)).sum())
        stats = run.stats(state, work.seconds)
        return Sample(points[None], values[None], log_evidence=log_evidence, stats=stats)
