"""What draws from the posterior say of each voxel."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.calibration.evaluation import evaluate, fields
from tumorjax.calibration.problem import Problem
from tumorjax.calibration.sampling.posterior import Posterior

# Solves in a batch on an accelerator.
_BATCH = 8


class PosteriorMaps(NamedTuple):
    """Posterior predictions of the density in each voxel.

    Parameters
    ----------
    mean, std
        (x, y, z): of the density.
    thresholds
        (t,): densities.
    probabilities
        (t, x, y, z): probability that the density is above each threshold.
    solves
        How many draws were solved.
    failed
        How many of them gave no density, and were left out.
    """

    mean: Float[np.ndarray, "x y z"]
    std: Float[np.ndarray, "x y z"]
    thresholds: Float[np.ndarray, "t"]
    probabilities: Float[np.ndarray, "t x y z"]
    solves: int
    failed: int


def posterior_maps(
    problem: Problem,
    posterior: Posterior,
    thresholds: Sequence[float],
    *,
    count: int = 200,
    key: Key[Array, ""] | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> PosteriorMaps:
    """Return mean, standard deviation and exceedance probabilities of the density over the posterior.

    One solve for each distinct draw, of which no more is kept than sums. With no more distinct draws than `count`,
    all enter with their weights, and the maps are exact for these draws. Otherwise `count` are taken by systematic
    resampling: evenly along the chains, each as often as its weight says, up to one.

    Parameters
    ----------
    problem
        Whose densities; a larger box than the one that was sampled, for one.
    posterior
        What a sampler returned.
    thresholds
        Densities, as fractions of the carrying capacity.
    count
        Most solves.
    key
        Random key of where the resampling begins; None begins in the middle of the first of `count` equal parts.
    progress
        Told the share that is done.

    Raises
    ------
    ValueError
        If `count` is below one, or every solve fails.
    """
    if count < 1:
        raise ValueError(f"the maps need at least one draw, got count {count}")
    points, weights = _distinct(posterior, count, key)
    shape = problem.anatomy.grid.shape
    mean, square, total, failed = np.zeros(shape), np.zeros(shape), 0.0, 0
    above = np.zeros((len(thresholds), *shape))
    for place, found in enumerate(_densities(problem, points)):
        density = np.asarray(found, float)
        if np.isfinite(density).all():
            weight = weights[place]
            total += weight
            mean += weight * density
            square += weight * density**2
            for row, threshold in zip(above, thresholds, strict=True):
                row += weight * (density > threshold)
        else:
            failed += 1
        progress((place + 1) / len(points))
    if not total > 0:
        raise ValueError(f"none of the {len(points)} solves for the maps gave a density; look at the draws")
    mean /= total
    std = np.sqrt(np.maximum(square / total - mean**2, 0))
    return PosteriorMaps(mean, std, np.asarray(thresholds, float), np.minimum(above / total, 1), len(points), failed)


def _densities(problem: Problem, points: Float[np.ndarray, "m n"]) -> Iterator[np.ndarray]:
    """Yield the density at every point; no more than a batch of them lies in memory."""
    dtype = problem.anatomy.dtype
    if jax.default_backend() != "cpu":
        for first in range(0, len(points), _BATCH):
            some = points[first : first + _BATCH]
            # One shape, and so one program, for all batches.
            padded = np.concatenate([some, np.repeat(some[:1], _BATCH - len(some), axis=0)])
            yield from np.asarray(_batch(problem, jnp.asarray(padded, dtype)))[: len(some)]
        return
    # On the CPU a batch is no faster than its members, which threads share; the first alone, to compile once.
    one = lambda point: np.asarray(evaluate(fields, problem, point).density)  # noqa: E731
    yield one(points[0])
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as threads:
        for first in range(1, len(points), workers):
            yield from threads.map(one, points[first : first + workers])


@eqx.filter_jit
def _batch(problem: Problem, points: Array) -> Array:
    return jax.vmap(lambda z: fields(problem, z).density)(points)


def _distinct(posterior: Posterior, count: int, key: Array | None) -> tuple[np.ndarray, np.ndarray]:
    """Return draws (k, n) of which no two are the same, at most `count`, and their weights."""
    draws = np.asarray(posterior.draws)
    draws = draws.reshape(-1, draws.shape[-1])
    weights = np.exp(np.asarray(posterior.log_weights, float))
    weights /= weights.sum()
    draws, weights = _merged(draws, weights)
    if len(draws) <= count:
        return draws, weights
    begin = 0.5 if key is None else float(jax.random.uniform(key))
    places = (begin + np.arange(count)) / count
    chosen = np.minimum(np.searchsorted(np.cumsum(weights), places), len(draws) - 1)
    return _merged(draws[chosen], np.full(count, 1 / count))


def _merged(draws: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows that have a weight, in the order in which they first appear, and their weights."""
    draws, weights = draws[weights > 0], weights[weights > 0]
    _, first, inverse = np.unique(draws, axis=0, return_index=True, return_inverse=True)
    summed = np.bincount(inverse.ravel(), weights)
    order = np.argsort(first)
    return draws[first[order]], summed[order]
