"""Tempering, resampling and moves of a population of particles."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from scipy.special import ndtri


def generator(key: Key[Array, ""], *place: int) -> np.random.Generator:
    """Return a random generator for a place (stage, step) of a run; it is in double precision even if JAX is not."""
    for number in place:
        key = jax.random.fold_in(key, number)
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def next_temperature(before: float, gain: Float[np.ndarray, "m"], variation: float) -> float:
    """Return the temperature up to 1 at which weights exp((temperature - before) gain) vary as wanted.

    The coefficient of variation grows with the temperature, so that bisection finds the temperature to rounding. Only
    particles with a finite gain enter, since impossible ones have weight zero however small the step is. The
    coefficient of variation indicates the effective number of samples (Ching and Chen, 2007, Sec. 4).
    """
    gain = gain[np.isfinite(gain)]
    gain = gain - gain.max()

    def too_far(temperature: float) -> bool:
        weights = np.exp((temperature - before) * gain)
        return bool(weights.std() > variation * weights.mean())

    low, high = before, 1.0
    if not too_far(high):
        return high
    while low < (middle := 0.5 * (low + high)) < high:
        low, high = (low, middle) if too_far(middle) else (middle, high)
    return low


def systematic(weights: Float[np.ndarray, "m"], uniform: float) -> Int[np.ndarray, "m"]:
    """Return the indices of the particles that are kept: each m w times, rounded up or down, for weights w of sum one.

    This is unbiased like the multinomial draw of the paper, but its counts have a variance of at most 1/4 instead of
    about m w.
    """
    count = len(weights)
    total = np.cumsum(weights)
    return np.searchsorted(total / total[-1], (np.arange(count) + uniform) / count, side="right")


class Proposal(NamedTuple):
    """Proposed positions of the particles.

    Parameters
    ----------
    points
        z'.
    steps
        F^-1 (z' - z), with F F^T the covariance of the population.
    noise
        Standard normal numbers from which the steps were made.
    """

    points: Float[np.ndarray, "m n"]
    steps: Float[np.ndarray, "m n"]
    noise: Float[np.ndarray, "m n"]


def propose(
    points: Float[np.ndarray, "m n"],
    slopes: Float[np.ndarray, "m n"] | float,
    factor: Float[np.ndarray, "n n"],
    scale: float,
    noise: Float[np.ndarray, "m n"],
) -> Proposal:
    """Return a step of the Langevin diffusion from every particle, preconditioned with the population's covariance.

    z' = z + (h^2 / 2) F F^T grad log pi(z) + h F noise; without the gradient it is a random walk.

    Parameters
    ----------
    points
        z.
    slopes
        Gradient of log pi at each; 0 for a random walk.
    factor
        F.
    scale
        h.
    noise
        Standard normal.
    """
    steps = 0.5 * scale**2 * (slopes @ factor if isinstance(slopes, np.ndarray) else 0.0) + scale * noise
    return Proposal(points + steps @ factor.T, steps, noise)


def log_reverse_ratio(
    proposal: Proposal, slopes: Float[np.ndarray, "m n"], factor: Float[np.ndarray, "n n"], scale: float
) -> Float[np.ndarray, "m"]:
    """Return log q(z | z') - log q(z' | z), given the gradient of log pi at z'."""
    back = (-proposal.steps - 0.5 * scale**2 * slopes @ factor) / scale
    return 0.5 * np.sum(proposal.noise**2 - back**2, axis=1)


def accepted(log_ratio: Float[np.ndarray, "m"], uniform: Float[np.ndarray, "m"]) -> Bool[np.ndarray, "m"]:
    """Return which particles move, by the rule of Metropolis; a ratio that is not a number rejects the move."""
    with np.errstate(over="ignore"):
        return uniform < np.exp(log_ratio)


def accepted_twice(
    log_ratio: Float[np.ndarray, "m"],
    uniform: Float[np.ndarray, "2 m"],
    correction: Callable[[Int[np.ndarray, "k"]], Float[np.ndarray, "k"]] | None,
) -> tuple[Bool[np.ndarray, "m"], Bool[np.ndarray, "m"]]:
    """Return which particles pass the first stage of delayed acceptance, and which move in the end.

    The first stage accepts by a density that is cheap, the second by what that lacks: with ratios exp(a) of the cheap
    density and exp(b) of the wanted over the cheap one, a move is made with probability min(1, e^a) min(1, e^b), which
    leaves the product of both, the wanted density, as it is [1]_.

    Parameters
    ----------
    log_ratio
        a, with the proposals' own ratio.
    uniform
        Uniform random numbers of both stages.
    correction
        Returns b of the particles with these indices, those that passed; nothing is computed for the others. None where
        the density of the first stage is the wanted one.

    References
    ----------
    .. [1] J. A. Christen, C. Fox, "Markov chain Monte Carlo using an approximation", Journal of Computational and
       Graphical Statistics 14 (2005), Sec. 2.
    """
    passed = accepted(log_ratio, uniform[0])
    moving, some = passed.copy(), np.flatnonzero(passed)
    if correction is not None and len(some):
        moving[some] = accepted(correction(some), uniform[1, some])
    return passed, moving


def adapted(scale: float, acceptance: float, wanted: float, order: int) -> float:
    """Return the step length that would have had the wanted acceptance.

    In many dimensions acceptance is 2 Phi(-(h / h0)^k / 2), k = `order` being 1 for a random walk and 3 for Langevin
    steps. At most a factor of two at once.

    References
    ----------
    Roberts and Rosenthal, "Optimal scaling for various Metropolis-Hastings algorithms", Statistical Science 16 (2001).
    """
    ratio = ndtri(wanted / 2) / ndtri(min(max(acceptance, 1e-3), 1 - 1e-3) / 2)
    return scale * float(np.clip(ratio ** (1 / order), 0.5, 2.0))
