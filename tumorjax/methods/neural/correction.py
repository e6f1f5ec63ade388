"""Draws from the posterior by the likelihood, with the answer of a network as the proposal."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.methods.neural.gaussians import Gaussians, kernels
from tumorjax.methods.sampling.moves import next_temperature
from tumorjax.methods.sampling.sample import effective_number, log_mean, log_prior
from tumorjax.methods.sampling.target import AbstractTarget, complete
from tumorjax.progress import SearchProgress

# Where the effective number is a smaller share of the draws, the proposal is improved, at most so many times.
_ENOUGH, _REPEATS = 0.1, 6
# Coefficient of variation of weights with which about a tenth of the draws counts.
_VARIATION = 3.0
# Width of the second part of a proposal, since weights do not show what a proposal leaves out, and the share of that
# part: beside the network's own proposal, and beside an improved one.
_WIDTH, _WIDE, _WIDE_LATER = 2.0, 0.2, 0.5


class Corrected(NamedTuple):
    """Weighted draws of a posterior, without those that are impossible.

    Parameters
    ----------
    points
        (m, N): all coordinates.
    values
        (m,): log-likelihoods, nat.
    log_weights
        (m,): logarithms of prior times likelihood over the density of the proposal.
    log_evidence
        Logarithm of the mean weight of all draws, nat.
    ess
        Effective number of draws.
    repeats
        Number of times that the proposal had to be improved.
    failed
        Number of failed solves, those for earlier proposals among them.
    """

    points: Float[np.ndarray, "m N"]
    values: Float[np.ndarray, "m"]
    log_weights: Float[np.ndarray, "m"]
    log_evidence: float
    ess: float
    repeats: int
    failed: int


def corrected(
    mixture: Gaussians,
    target: AbstractTarget,
    random: np.random.Generator,
    key: Key[Array, ""],
    draws: int,
    *,
    chunk: int,
    progress: SearchProgress,
) -> Corrected:
    """Return draws that are weighted by posterior over proposal, at one solve each.

    The first proposal is the mixture that a network gives. Where few draws would count, it is improved by population
    Monte Carlo [1]_: the next one consists of Gaussians about these draws [2]_, with weights that are tempered until a
    tenth of the draws counts.

    Parameters
    ----------
    mixture
        The network's answer in the coordinates that the target keeps.
    target
        The likelihood.
    random, key
        Random generator of the proposals, and random key of the coordinates that the target integrates out.
    draws
        Number of draws.
    chunk
        Number of solves in a batch on an accelerator.
    progress
        As in `calibrate`.

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
        found = complete(
            target, points, key, chunk=chunk, progress=lambda share, stage=stage: progress(stage, share, np.nan)
        )
        failed += int(np.sum(found.drawn == -np.inf))
        log_weights = found.drawn + log_prior(points) - proposal.log_prob(points)
        if not np.isfinite(log_weights).any():
            raise ValueError(f"none of the {draws} draws of the network is possible; simulate more, or take TMCMC")
        ess = effective_number(log_weights)
        if ess >= _ENOUGH * draws or repeat == _REPEATS:
            used = np.isfinite(log_weights)
            points, values, kept = found.points[used], found.values[used], log_weights[used]
            return Corrected(points, values, kept, log_mean(log_weights), ess, repeat, failed)
        mixture = kernels(points, next_temperature(0.0, log_weights, _VARIATION) * log_weights)
        repeat += 1
