"""Hamiltonian Monte Carlo around a maximum of the posterior, where a normal distribution does not describe it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tumorjax.calibration.quasi_newton import ValueAndGradient
from tumorjax.integrate import DevicePool

# Acceptance to which step sizes are adapted (Beskos et al., 2013, find two thirds for a normal distribution in many
# dimensions; the walls here are steeper).
_ACCEPTANCE = 0.8
# A quarter of a period of a standard normal distribution leads to an independent point, but one at most so many steps.
_QUARTER, _MOST_STEPS = np.pi / 2, 25


class Trajectories(NamedTuple):
    """Draws by Hamiltonian Monte Carlo.

    Parameters
    ----------
    steps
        (k, n): the draws, chain by chain, from where the chains begin.
    acceptance
        Mean probability with which the ends of trajectories were accepted after the warm-up.
    gradients
        Number of gradients, also those of the warm-up.
    """

    steps: Float[np.ndarray, "k n"]
    acceptance: float
    gradients: int


def trajectories(
    objective: ValueAndGradient,
    centre: Float[np.ndarray, "n"],
    factor: Float[np.ndarray, "n n"],
    draws: int,
    *,
    chains: int = 2,
    warmup: int = 16,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> Trajectories:
    """Return draws from exp(-objective), by chains that begin at a minimum of it.

    Trajectories run in coordinates in which the normal approximation of the posterior is standard normal, so that one
    step size suits them all [1]_. Their lengths are random, which no period of the density can then match [2]_.

    Parameters
    ----------
    objective
        Returns minus the log-density, up to a constant, and its gradient; not finite where there is no density.
    centre
        (n,): where the chains begin.
    factor
        (n, n): Cholesky factor of the covariance of the normal approximation.
    draws
        Number of draws of all chains together.
    chains
        Number of chains, each in a thread of its own.
    warmup
        Trajectories of each chain by which its step size is adapted, and that are not kept.
    seed
        Of the momenta, the lengths and what is accepted.
    progress
        Called with the share that is done.

    References
    ----------
    .. [1] R. M. Neal, "MCMC using Hamiltonian dynamics", Handbook of Markov Chain Monte Carlo (2011), section 4.
    .. [2] P. B. Mackenzie, "An improved hybrid Monte Carlo method", Physics Letters B 226 (1989).
    """

    def whitened(away: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(centre + factor @ away)
        return float(value), factor.T @ np.asarray(gradient, float)

    count = -(-draws // chains)
    walks = [_Walk(whitened, len(centre), np.random.default_rng([seed, i])) for i in range(chains)]
    with DevicePool(chains) as pool:
        for number in range(warmup + count):
            for waiting in [pool.submit(lambda _, walk=walk: walk.advance()) for walk in walks]:
                waiting.result()
            if number < warmup:
                for walk in walks:
                    walk.adapt(number, warmup)
            progress((number + 1) / (warmup + count))
    away = np.concatenate([walk.places[warmup:] for walk in walks])[:draws]
    accepted = np.mean([walk.acceptances[warmup:] for walk in walks])
    return Trajectories(away @ factor.T, float(accepted), sum(walk.gradients for walk in walks))


class _Walk:
    """A chain: where it is, and the step size of its trajectories."""

    def __init__(
        self, objective: Callable[[np.ndarray], tuple[float, np.ndarray]], size: int, random: np.random.Generator
    ) -> None:
        self._objective, self._random = objective, random
        self.place, self._step = np.zeros(size), size**-0.25
        self._value, self._slope = objective(self.place)
        self.gradients, self.acceptances, self.places, self._steps = 1, [], [], []

    def advance(self) -> None:
        """Follow a trajectory, and stay at its end, or where it began."""
        length = self._random.uniform(0.5, 1.0) * _QUARTER
        steps = min(max(1, round(length / self._step)), _MOST_STEPS)
        momentum = self._random.normal(size=self.place.size)
        begun = self._value + 0.5 * momentum @ momentum
        place, value, slope = self.place, self._value, self._slope
        momentum = momentum - 0.5 * self._step * slope
        for i in range(steps):
            place = place + self._step * momentum
            value, slope = self._objective(place)
            self.gradients += 1
            if not (np.isfinite(value) and np.isfinite(slope).all()):
                value = np.inf
                break
            momentum = momentum - (self._step if i < steps - 1 else 0.5 * self._step) * slope
        acceptance = float(np.exp(min(0.0, begun - value - 0.5 * momentum @ momentum)))
        self.acceptances.append(acceptance)
        if self._random.uniform() < acceptance:
            self.place, self._value, self._slope = place, value, slope
        self.places.append(self.place)

    def adapt(self, number: int, warmup: int) -> None:
        """Adapt the step size to the last acceptance, by ever less (Robbins and Monro, 1951).

        What stays after the warm-up is the geometric mean of its second half: the last one alone may be so large that
        a chain hardly leaves a wall.
        """
        self._step *= np.exp((self.acceptances[-1] - _ACCEPTANCE) / np.sqrt(number + 1))
        self._steps.append(self._step)
        if number == warmup - 1:
            self._step = float(np.exp(np.mean(np.log(self._steps[warmup // 2 :]))))
