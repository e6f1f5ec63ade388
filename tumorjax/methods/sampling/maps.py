"""Maps of the density over draws from the posterior."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.calibration.cost import Cost
from tumorjax.calibration.evaluation import growth
from tumorjax.calibration.maps import Maps
from tumorjax.calibration.moments import Moments
from tumorjax.calibration.problem import Problem
from tumorjax.integrate import in_parts

if TYPE_CHECKING:
    from tumorjax.methods.sampling.posterior import Posterior

# Solves in a batch on an accelerator.
_BATCH = 8


def posterior_maps(
    problem: Problem,
    posterior: "Posterior",
    thresholds: Sequence[float],
    *,
    count: int = 200,
    key: Key[Array, ""] | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Maps:
    """Return mean, standard deviation and exceedance probabilities of the density over the posterior.

    One solve for each distinct draw, of which no more is kept than sums. With no more distinct draws than `count`,
    all enter with their weights, and the maps are exact for these draws. Otherwise `count` are taken by systematic
    resampling: evenly along the chains, each as often as its weight says, up to one. Where tissue moves, the maps hold
    the mean displacement and its deviation too.

    Parameters
    ----------
    problem
        The problem that was sampled, or the same on a larger box.
    posterior
        Draws of a sampler.
    thresholds
        Densities, as fractions of the carrying capacity.
    count
        Largest number of solves.
    key
        Random key of where the resampling begins; None begins in the middle of the first of `count` equal parts.
    progress
        Receives the share that is done.

    Raises
    ------
    ValueError
        If `count` is below one, or every solve fails.
    """
    if count < 1:
        raise ValueError(f"the maps need at least one draw, got count {count}")
    points, weights = _distinct(posterior, count, key)
    densities, displacements, failed = Moments(thresholds), Moments(), 0
    for place, (density, displacement) in enumerate(_grown(problem, points)):
        if np.isfinite(density).all():
            densities.add(density, weights[place])
            if displacement is not None:
                displacements.add(displacement, weights[place])
        else:
            failed += 1
        progress((place + 1) / len(points))
    if not densities.weight > 0:
        raise ValueError(f"none of the {len(points)} solves for the maps gave a density; look at the draws")
    text = f"{failed} of the {len(points)} solves for the maps gave no density and are left out of them."
    moves = displacements.weight > 0
    return Maps(
        density=densities.mean,
        deviation=densities.deviation,
        probabilities=densities.probabilities,
        displacement=displacements.mean if moves else None,
        displacement_deviation=np.linalg.norm(displacements.deviation, axis=-1) if moves else None,
        cost=Cost(solves=len(points)),
        notes=[text] if failed else [],
    )


def _grown(problem: Problem, points: Float[np.ndarray, "m n"]) -> Iterator[tuple[Any, Any]]:
    """Yield density and displacement at every point; no more than a few batches of them lie in memory."""
    for part in in_parts(growth, problem, points.astype(problem.dtype), chunk=_BATCH):
        density, displacement = jax.device_get(part)
        for i in range(len(density)):
            yield density[i], None if displacement is None else displacement[i]


def _distinct(posterior: "Posterior", count: int, key: Array | None) -> tuple[np.ndarray, np.ndarray]:
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
