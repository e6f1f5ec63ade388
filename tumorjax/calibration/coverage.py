"""Tests of whether posteriors are right: ranks of the truth among draws, coverage, and checks of predictions.

All of them apply to any method and use `ranks`: over simulated truths and data, the rank of any quantity of the truth
among that of the posterior's draws is uniform in (0, 1) if the posteriors are right. The quantity may be a parameter
(simulation-based calibration), the density of the posterior (regions of highest density), or the distance to a random
point (TARP).

Truths are (s, ...) and draws (s, d, ...) for s simulated data sets with d draws each; log-weights are (s, d).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats


def ranks(
    truths: Float[np.ndarray, "s ..."],
    draws: Float[np.ndarray, "s d ..."],
    log_weights: Float[np.ndarray, "s d"] | None = None,
    *,
    seed: int = 0,
) -> Float[np.ndarray, "s ..."]:
    """Return the rank of each truth among its draws, in (0, 1): uniform over data sets if the posteriors are right.

    The share p of the weight of draws below the truth becomes (p m + u) / (m + 1) with u uniform in (0, 1) and m the
    effective number of draws: exactly uniform for m independent draws of one weight, close to it for weighted ones.
    Draws that equal the truth count as below it in a random share.

    Parameters
    ----------
    truths
        (s, ...): numbers of the truths from which the data were simulated.
    draws
        (s, d, ...): the same numbers of the draws from each posterior. Thin Markov chains until their draws are
        independent; otherwise ranks gather at the ends.
    log_weights
        (s, d): logarithms of the draws' weights, up to a constant; by default all weigh the same.
    seed
        Seed of the random numbers u.

    Raises
    ------
    ValueError
        If shapes do not fit, or a number is not finite.

    References
    ----------
    Talts et al., "Validating Bayesian inference algorithms with simulation-based calibration", arXiv 1804.06788.
    """
    truths, draws = np.asarray(truths, float), np.asarray(draws, float)
    if draws.ndim < 2 or truths.shape != (draws.shape[0], *draws.shape[2:]):
        raise ValueError(f"truths (s, ...) and draws (s, d, ...) do not fit: {truths.shape} and {draws.shape}")
    if not (np.isfinite(truths).all() and np.isfinite(draws).all()):
        raise ValueError("truths and draws must be finite; leave out data sets whose posterior failed, and count them")
    weights = _weights(log_weights, draws.shape[:2])
    count = 1 / np.sum(weights**2, axis=1)
    random = np.random.default_rng(seed).uniform(size=(2, *truths.shape))
    below = np.einsum("sd,sd...->s...", weights, (draws < truths[:, None]).astype(float))
    ties = np.einsum("sd,sd...->s...", weights, (draws == truths[:, None]).astype(float))
    count = count.reshape(-1, *(1,) * (truths.ndim - 1))
    return ((below + random[0] * ties) * count + random[1]) / (count + 1)


def central_credibility(rank: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return the level of the smallest central credible interval that holds the truth, |2 rank - 1|."""
    return np.abs(2 * np.asarray(rank, float) - 1)


def density_credibility(
    log_truths: Float[np.ndarray, "s"],
    log_draws: Float[np.ndarray, "s d"],
    log_weights: Float[np.ndarray, "s d"] | None = None,
    *,
    seed: int = 0,
) -> Float[np.ndarray, "s"]:
    """Return the level of the smallest region of highest density that holds the truth: the share of denser draws.

    Parameters
    ----------
    log_truths, log_draws
        (s,) and (s, d): logarithm of the posterior density at the truths and at the draws, up to a constant for each
        data set. In the prior's coordinates that is the log-likelihood minus half the squared coordinates.
    log_weights, seed
        See `ranks`.
    """
    return 1 - ranks(log_truths, log_draws, log_weights, seed=seed)


def distance_credibility(
    truths: Float[np.ndarray, "s n"],
    draws: Float[np.ndarray, "s d n"],
    log_weights: Float[np.ndarray, "s d"] | None = None,
    *,
    references: Float[np.ndarray, "s n"] | None = None,
    seed: int = 0,
) -> Float[np.ndarray, "s"]:
    """Return the level of the smallest ball about a random point that holds the truth (TARP): the share of draws in it.

    Parameters
    ----------
    truths, draws
        (s, n) and (s, d, n). Each coordinate is divided by its range over the truths.
    log_weights, seed
        See `ranks`.
    references
        (s, n): the points; by default uniform over the range of the truths. They must not depend on the truths, but
        may depend on the data; only then can the test detect a posterior that ignores the data, such as the prior.

    References
    ----------
    Lemos et al., "Sampling-based accuracy testing of posterior estimators for general inference", ICML 2023.
    """
    truths, draws = np.asarray(truths, float), np.asarray(draws, float)
    low, high = truths.min(axis=0), truths.max(axis=0)
    scale = np.where(high > low, high - low, 1)
    if references is None:
        # A stream of its own: that of the ranks would tie each point to the random part of its rank.
        random = np.random.default_rng([seed, 1]).uniform(size=truths.shape)
        references = low + random * (high - low)

    def distance(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
        return np.linalg.norm((points - centres) / scale, axis=-1)

    references = np.asarray(references, float)
    return ranks(distance(truths, references), distance(draws, references[:, None]), log_weights, seed=seed)


class Coverage(NamedTuple):
    """How often credible regions held the truth.

    Parameters
    ----------
    levels
        (k,): nominal coverage, in (0, 1).
    found
        (k, ...): share of the data sets in which the region of the level held the truth.
    low, high
        (k,): bounds of that share, for each level by itself, if the posteriors are right.
    """

    levels: np.ndarray
    found: np.ndarray
    low: np.ndarray
    high: np.ndarray


def coverage(
    credibility: Float[np.ndarray, "s ..."],
    levels: Float[np.ndarray, "k"] | None = None,
    *,
    probability: float = 0.99,
) -> Coverage:
    """Return the expected coverage of credible regions.

    Parameters
    ----------
    credibility
        (s, ...): the level of the smallest region that held the truth, from one of the three functions above.
    levels
        (k,): nominal levels; by default 0.05 to 0.95.
    probability
        Probability with which a share stays within its bounds, low and high, if the posteriors are right (binomial).
    """
    credibility = np.asarray(credibility, float)
    levels = np.linspace(0.05, 0.95, 19) if levels is None else np.atleast_1d(np.asarray(levels, float))
    count = credibility.shape[0]
    found = np.stack([np.mean(credibility < level, axis=0) for level in levels])
    low, high = (
        stats.binom.ppf(tail, count, levels) / count for tail in ((1 - probability) / 2, (1 + probability) / 2)
    )
    return Coverage(levels, found, low, high)


def uniformity(values: Float[np.ndarray, "s ..."], *, bins: int | None = None) -> Float[np.ndarray, "..."]:
    """Return the p-value of a chi-squared test that values in (0, 1) are uniform over the first axis.

    Parameters
    ----------
    values
        (s, ...): ranks or credibilities of s data sets. Each of the n numbers behind the first axis has its own
        p-value: compare the smallest of them with a level divided by n.
    bins
        Number of bins; by default 2 s^(2/5) (Mann and Wald), but so few that at least five values are expected in each.

    Raises
    ------
    ValueError
        If there are fewer than ten values, or one lies outside [0, 1].
    """
    values = np.asarray(values, float)
    count = values.shape[0]
    if count < 10:
        raise ValueError(f"uniformity needs at least ten data sets, got {count}")
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"ranks lie in [0, 1], got values from {values.min():g} to {values.max():g}")
    bins = max(2, min(round(2 * count**0.4), count // 5)) if bins is None else bins
    place = np.minimum((values * bins).astype(int), bins - 1)
    counts = np.stack([np.sum(place == i, axis=0) for i in range(bins)])
    return np.asarray(stats.chi2.sf(np.sum((counts - count / bins) ** 2, axis=0) * bins / count, bins - 1))


def predictive_p_values(
    observed: Float[np.ndarray, "..."],
    predicted: Float[np.ndarray, "d ..."],
    log_weights: Float[np.ndarray, "d"] | None = None,
) -> Float[np.ndarray, "..."]:
    """Return the posterior predictive p-values of statistics: the probability of one at least as large as observed.

    Values near zero or one mean that the model does not produce what was observed. For data that were fitted the
    values gather about one half, so that the test is conservative.

    Parameters
    ----------
    observed
        (...): statistics of the data, such as volumes and distances.
    predicted
        (d, ...): the same statistics of data simulated from each draw, noise included.
    log_weights
        (d,): logarithms of the draws' weights. Draws that equal the observation count with half of their weight.
    """
    observed, predicted = np.asarray(observed, float), np.asarray(predicted, float)
    if predicted.shape[1:] != observed.shape:
        raise ValueError(f"statistics have shape {observed.shape}, those of the draws (d, ...) {predicted.shape}")
    weights = _weights(None if log_weights is None else np.asarray(log_weights)[None], (1, len(predicted)))[0]
    reached = (predicted > observed) + 0.5 * (predicted == observed)
    return np.einsum("d,d...->...", weights, reached)


def _weights(log_weights: Float[np.ndarray, "s d"] | None, shape: tuple[int, ...]) -> Float[np.ndarray, "s d"]:
    """Return weights that sum to one for each data set."""
    if log_weights is None:
        return np.full(shape, 1 / shape[1])
    log_weights = np.asarray(log_weights, float)
    if log_weights.shape != shape:
        raise ValueError(f"log_weights have shape {log_weights.shape} for draws {shape}")
    top = log_weights.max(axis=1, keepdims=True)
    if not np.isfinite(top).all():
        raise ValueError("in each data set a draw must have a finite log-weight, and none may be NaN or infinite")
    weights = np.exp(log_weights - top)
    return weights / weights.sum(axis=1, keepdims=True)
