"""Draws of the posterior by the likelihood, near which a network says that it is."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tumorjax.calibration.calibrate import Progress
from tumorjax.calibration.neural.gaussians import Gaussians, kernels
from tumorjax.calibration.sampling.moves import next_temperature
from tumorjax.calibration.sampling.target import AbstractTarget, log_likelihoods

# Where fewer of the draws count, the proposal is led on, so many times at most.
_ENOUGH, _REPEATS = 0.1, 6
# How much the weights vary by which it is: a tenth of the draws counts.
_VARIATION = 3.0
# Width of the second part of a proposal, for weights do not show what a proposal leaves out, and its share: of the
# network's, and of one that is on its way.
_WIDTH, _WIDE, _WIDE_LATER = 2.0, 0.2, 0.5


class Corrected(NamedTuple):
    """Weighted draws of a posterior.

    Parameters
    ----------
    points
        (m, n), coordinates.
    values
        (m,): log-likelihoods, nat.
    log_weights
        (m,): logarithms of prior times likelihood over the density of the proposal.
    ess
        Effective number of draws.
    repeats
        How often the proposal had to be led on.
    failed
        Of all solves, also for earlier proposals.
    """

    points: Float[np.ndarray, "m n"]
    values: Float[np.ndarray, "m"]
    log_weights: Float[np.ndarray, "m"]
    ess: float
    repeats: int
    failed: int


def corrected(
    mixture: Gaussians,
    target: AbstractTarget,
    random: np.random.Generator,
    draws: int,
    *,
    chunk: int,
    progress: Progress,
) -> Corrected:
    """Return draws that are weighted by posterior over proposal, at one solve a draw.

    The proposal is the mixture that a network tells. Where few draws would count, it is led on by population Monte
    Carlo [1]_: to Gaussians about these draws [2]_, with weights that are tempered until a tenth of the draws counts.

    Raises
    ------
    ValueError
        If no draw is possible.

    References
    ----------
    .. [1] O. Cappé et al., "Population Monte Carlo", Journal of Computational and Graphical Statistics 13 (2004).
    .. [2] J. Liu, M. West, "Combined parameter and state estimation in simulation-based filtering", in Sequential Monte
       Carlo Methods in Practice (2001).
    """
    failed = repeat = 0
    while True:
        proposal = mixture.mixed(mixture.widened(_WIDTH), _WIDE_LATER if repeat else _WIDE)
        points = proposal.sample(random, draws)
        stage = f"correction {repeat + 1}" if repeat else "correction"
        values = log_likelihoods(
            target, points, chunk=chunk, progress=lambda share, stage=stage: progress(stage, share, np.nan)
        )
        failed += int(np.sum(values == -np.inf))
        log_weights = values + log_prior(points) - proposal.log_prob(points)
        if not np.isfinite(log_weights).any():
            raise ValueError(f"none of the {draws} draws of the network is possible; simulate more, or take TMCMC")
        shares = np.exp(log_weights - log_weights.max())
        ess = float(shares.sum() ** 2 / np.sum(shares**2))
        if ess >= _ENOUGH * draws or repeat == _REPEATS:
            return Corrected(points, values, log_weights, ess, repeat, failed)
        mixture = kernels(points, next_temperature(0.0, log_weights, _VARIATION) * log_weights)
        repeat += 1


def log_prior(points: Float[np.ndarray, "k n"]) -> Float[np.ndarray, "k"]:
    """Return the log-density of the prior, which is standard normal."""
    return -0.5 * np.sum(points**2, axis=1) - 0.5 * points.shape[1] * np.log(2 * np.pi)
