"""Draws from the posterior by the likelihood, with the answer of a network as the proposal."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tumorjax.calibration.method import Progress
from tumorjax.methods.neural.gaussians import Gaussians, kernels
from tumorjax.methods.sampling.moves import next_temperature
from tumorjax.methods.sampling.sample import effective_number, log_prior
from tumorjax.methods.sampling.target import AbstractTarget, log_likelihoods

# Where the effective number is a smaller share of the draws, the proposal is improved, at most so many times.
_ENOUGH, _REPEATS = 0.1, 6
# Coefficient of variation of weights with which about a tenth of the draws counts.
_VARIATION = 3.0
# Width of the second part of a proposal, since weights do not show what a proposal leaves out, and the share of that
# part: beside the network's own proposal, and beside an improved one.
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
        Number of times that the proposal had to be improved.
    failed
        Number of failed solves, those for earlier proposals among them.
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
    """Return draws that are weighted by posterior over proposal, at one solve for each draw.

    The first proposal is the mixture that a network gives. Where few draws would count, it is improved by population
    Monte Carlo [1]_: the next one consists of Gaussians about these draws [2]_, with weights that are tempered until a
    tenth of the draws counts.

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
        ess = effective_number(log_weights)
        if ess >= _ENOUGH * draws or repeat == _REPEATS:
            return Corrected(points, values, log_weights, ess, repeat, failed)
        mixture = kernels(points, next_temperature(0.0, log_weights, _VARIATION) * log_weights)
        repeat += 1
