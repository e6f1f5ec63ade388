"""Particles on their way from the prior, or an approximation, to the posterior, stage by stage."""

import dataclasses
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, Key

from tumorjax.calibration.cost import Cost
from tumorjax.methods.checkpoint import Layout
from tumorjax.methods.sampling.moves import (
    accepted_twice,
    adapted,
    generator,
    log_reverse_ratio,
    next_temperature,
    propose,
    systematic,
)
from tumorjax.methods.sampling.sample import SamplerStats
from tumorjax.methods.sampling.target import AbstractTarget, log_likelihoods, log_likelihoods_and_gradients
from tumorjax.progress import SearchProgress


class State(NamedTuple):
    """Everything on which the next step depends.

    Parameters
    ----------
    leg
        Number of the goal to which the particles are led; -1 at the source.
    step
        Number of Metropolis steps done in this stage.
    temperature
        t: the particles follow p L_0^t on the first leg, and p L_0^(1 - t) L_1^t on the second, p being the source.
    scale, factor
        Length of the stage's proposals, and the Cholesky factor of their covariance.
    points
        The particles.
    values
        Log-likelihood of each goal; zero where it has not been evaluated.
    gradients
        Gradients of the first goal's log-likelihood.
    log_evidence
        Logarithm of the evidence so far, nat.
    history
        For each stage the leg, the temperature, the effective sample size, the numbers of proposals that were
        accepted by the first goal and in the end, and of those for which the first goal failed.
    counts
        For each goal the numbers of evaluations, of those with a gradient, and of those that failed.
    """

    leg: int
    step: int
    temperature: float
    scale: float
    factor: Float[np.ndarray, "n n"]
    points: Float[np.ndarray, "m n"]
    values: Float[np.ndarray, "goals m"]
    gradients: Float[np.ndarray, "m n"]
    log_evidence: float
    history: Float[np.ndarray, "stages 6"]
    counts: Int[np.ndarray, "goals 3"]

    @staticmethod
    def layout(particles: int, size: int, goals: int) -> Layout:
        """Return the kinds and shapes of the arrays of a state."""
        m, n = particles, size
        reals: Layout = {name: ("f", ()) for name in ("temperature", "scale", "log_evidence")}
        counts: Layout = {"leg": ("i", ()), "step": ("i", ()), "counts": ("i", (goals, 3))}
        particle: Layout = {"points": ("f", (m, n)), "values": ("f", (goals, m)), "gradients": ("f", (m, n))}
        return {**reals, **counts, **particle, "factor": ("f", (n, n)), "history": ("f", ("stages", 6))}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> "State":
        """Return the state that was saved as arrays."""
        return cls(**{name: array if array.ndim else array.item() for name in cls._fields for array in (arrays[name],)})

    @property
    def gain(self) -> Float[np.ndarray, "m"]:
        """Derivative of the log-density with respect to the temperature."""
        return self.values[0] if self.leg == 0 else self.values[self.leg] - self.values[self.leg - 1]


@dataclasses.dataclass(frozen=True)
class Tempering:
    """Particles on their way from the prior, as `TMCMC` describes it.

    Parameters
    ----------
    goals
        Targets to which the particles are led, one after another: the target itself, perhaps after its screen.
    source
        Name of the distribution that the particles are drawn from; in the goals' coordinates it is standard normal.
    key
        Random key; stage and step are folded in, so that a run that continues needs no stream to be replayed.
    progress
        As in `calibrate`.
    particles, variation, scale, steps, chunk
        As in `TMCMC`.
    langevin
        Whether proposals follow the gradient.
    """

    goals: tuple[AbstractTarget, ...]
    source: Literal["prior", "approximation"]
    key: Key[Array, ""]
    progress: SearchProgress
    particles: int
    variation: float
    scale: float | None
    steps: int
    chunk: int
    langevin: bool

    def start(self) -> State:
        """Return draws from the source."""
        m, n = self.particles, self.goals[0].size
        return State(
            leg=-1,
            step=self.steps,
            temperature=1.0,
            scale=self.scale or (1.65 / n ** (1 / 6) if self.langevin else 2.38 / n**0.5),
            factor=np.eye(n),
            points=generator(self.key, 0).standard_normal((m, n)),
            values=np.zeros((len(self.goals), m)),
            gradients=np.zeros((m, n)),
            log_evidence=0.0,
            history=np.zeros((0, 6)),
            counts=np.zeros((len(self.goals), 3), int),
        )

    def checked(self, state: State) -> State:
        """Return a state that was kept, or raise a ValueError where its numbers are impossible."""
        fine = -1 <= state.leg < len(self.goals) and 0 <= state.step <= self.steps and 0 <= state.temperature <= 1
        numbers = (state.scale, state.factor, state.points, state.log_evidence, state.history)
        if not fine or not all(np.isfinite(number).all() for number in numbers):
            raise ValueError("the checkpoint is of no sampler of these particles; remove it to begin anew")
        return state

    def done(self, state: State) -> bool:
        """Return whether the particles follow the posterior of the last goal."""
        return state.leg == len(self.goals) - 1 and state.temperature == 1 and state.step == self.steps

    def advance(self, state: State) -> State:
        """Advance by one round of evaluations."""
        if state.step == self.steps:
            if state.temperature == 1:
                return self.next_leg(state)
            state = self.temper(state)
        return self.move(state)

    def next_leg(self, state: State) -> State:
        """Evaluate the next goal at the particles."""
        leg = state.leg + 1
        name = self.source if leg == 0 else "posterior of the screen"
        state, found, gradients = self._evaluate(state, leg, state.points, name, 0.0, 1.0)
        values = state.values.copy()
        values[leg] = found
        state = state._replace(leg=leg, temperature=0.0, values=values)
        return state if leg else state._replace(gradients=gradients)

    def temper(self, state: State) -> State:
        """Raise the temperature, resample, and take the proposals' covariance from the weighted particles."""
        gain, (m, n) = state.gain, state.points.shape
        possible = int(np.isfinite(gain).sum())
        if possible <= n:
            source = self.source if state.leg == 0 else "posterior of the screen"
            raise ValueError(
                f"the {source} excludes the data: only {possible} of {m} draws from it are possible; "
                "check prior, observations and anatomy, or take more particles"
            )
        temperature = next_temperature(state.temperature, gain, self.variation)
        log_weights = (temperature - state.temperature) * gain
        log_total = np.logaddexp.reduce(log_weights)
        weights = np.exp(log_weights - log_total)
        away = state.points - weights @ state.points
        # A billionth of the prior's covariance, for particles that fill a subspace only.
        factor = np.linalg.cholesky(away.T @ (weights[:, None] * away) + 1e-9 * np.eye(n))
        chosen = systematic(weights, generator(self.key, 1 + len(state.history)).uniform())
        return state._replace(
            step=0,
            temperature=temperature,
            scale=self._adapted_scale(state),
            factor=factor,
            points=state.points[chosen],
            values=state.values[:, chosen],
            gradients=state.gradients[chosen],
            log_evidence=state.log_evidence + float(log_total) - np.log(m),
            history=np.vstack([state.history, [state.leg, temperature, 1 / np.sum(weights**2), 0, 0, 0]]),
        )

    def move(self, state: State) -> State:
        """Move the particles by one Metropolis step that leaves the tempered posterior as it is."""
        rng = generator(self.key, len(state.history), 1 + state.step)
        noise, uniform = rng.standard_normal(state.points.shape), rng.uniform(size=(2, len(state.points)))
        # On the second leg the first goal's posterior screens proposals, and the second goal is evaluated only for
        # those that it accepts.
        power = state.temperature if state.leg == 0 else 1.0
        slopes = power * state.gradients - state.points if self.langevin else 0.0
        proposal = propose(state.points, slopes, state.factor, state.scale, noise)
        points = proposal.points
        values = state.values.copy()
        name = f"{'stage of the screen' if state.leg + 1 < len(self.goals) else 'stage'} {len(state.history)}"
        share = [(state.step + done) / self.steps for done in (0.0, 0.5, 1.0)]
        state, values[0], gradients = self._evaluate(state, 0, points, name, share[0], share[1 if state.leg else 2])
        log_ratio = power * (values[0] - state.values[0]) - 0.5 * np.sum(points**2 - state.points**2, axis=1)
        if self.langevin:
            log_ratio += log_reverse_ratio(proposal, power * gradients - points, state.factor, state.scale)
        history = state.history.copy()
        before = state

        def correction(some: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
            nonlocal state
            state, values[1, some], _ = self._evaluate(state, 1, points[some], name, share[1], share[2])
            # Accepted points follow p L_0; the other factor of the density, (L_1 / L_0)^t, has a ratio of its own.
            return before.temperature * ((values[1, some] - values[0, some]) - before.gain[some])

        passed, moving = accepted_twice(log_ratio, uniform, correction if before.leg else None)
        history[-1, 3] += passed.sum()
        history[-1, 5] += np.sum(values[0] == -np.inf)
        history[-1, 4] += moving.sum()
        return state._replace(
            step=state.step + 1,
            points=np.where(moving[:, None], points, state.points),
            values=np.where(moving, values, state.values),
            gradients=np.where(moving[:, None], gradients, state.gradients),
            history=history,
        )

    def stats(self, state: State, seconds: float) -> SamplerStats:
        """Return how the run went, stage by stage, which took so many seconds.

        The details are `stages`, the number of all, and `coarse_stages`, the number of those that lead to the
        posterior of the screen and come first.
        """
        legs, temperatures, ess, _, moved, unknown = state.history.T
        coarse, fine = state.counts[:-1].sum(axis=0).tolist(), state.counts[-1].tolist()
        acceptance = tuple((moved / (self.particles * self.steps)).tolist())
        return SamplerStats(
            cost=Cost(fine[0], fine[1], coarse[0], coarse[1], seconds),
            failed=fine[2] + coarse[2],
            acceptance=acceptance,
            unscreened=float(unknown[-1] / (self.particles * self.steps)) if len(self.goals) > 1 else None,
            ladder={
                "temperature": tuple(temperatures.tolist()),
                "acceptance": acceptance,
                "effective draws": tuple(ess.tolist()),
            },
            details={"stages": len(legs), "coarse_stages": int(np.sum(legs < len(self.goals) - 1))},
        )

    def _adapted_scale(self, state: State) -> float:
        """Return the length of the next stage's steps."""
        if self.scale is not None or not self.langevin or not len(state.history):
            return state.scale
        acceptance = state.history[-1, 3] / (self.particles * self.steps)
        return adapted(state.scale, acceptance, wanted=0.574, order=3)

    def _evaluate(
        self, state: State, goal: int, points: Float[np.ndarray, "k n"], name: str, begin: float, end: float
    ) -> tuple[State, Float[np.ndarray, "k"], Float[np.ndarray, "k n"]]:
        """Return the state with its counts, log-likelihoods at points, and gradients where wanted; zeros otherwise."""
        objective = float(np.min(0.5 * np.sum(state.points**2, axis=1) - state.values[max(state.leg, 0)]))
        target, chunk = self.goals[goal], self.chunk

        def progress(share: float) -> None:
            self.progress(name, begin + share * (end - begin), objective)

        with_gradients = goal == 0 and self.langevin
        if with_gradients:
            values, gradients = log_likelihoods_and_gradients(target, points, chunk=-(-chunk // 4), progress=progress)
        else:
            values, gradients = log_likelihoods(target, points, chunk=chunk, progress=progress), np.zeros_like(points)
        counts = state.counts.copy()
        counts[goal] += [len(points), len(points) * with_gradients, np.sum(values == -np.inf)]
        return state._replace(counts=counts), values, gradients
