"""A sparse state at time zero: few Gaussians out of many, found by compressive sampling, and slid into place."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from tumorjax.calibration.evaluation import evaluate, value_and_gradient
from tumorjax.calibration.problem import Problem
from tumorjax.calibration.quasi_newton import minimise
from tumorjax.growth import GaussianBasis
from tumorjax.growth.gaussian_basis import held
from tumorjax.prior import LogNormal, Normal, Prior

# What a Gaussian has when it joins, relative to the largest, and what one has that only fills a place.
_NEW, _NOTHING = 0.1, 1e-3


@dataclass
class SparseOrigin:
    """What the search for a sparse state found.

    Parameters
    ----------
    basis
        The Gaussians, the largest first; those beyond what it took have next to no weight. The sum peaks at one.
    point
        Coordinates of the other parameters, in the problem's prior without its origin.
    value
        Minus the log-posterior, nat.
    """

    basis: GaussianBasis
    point: np.ndarray
    value: float


def with_origin(prior: Prior, origin: Any) -> Prior:
    """Return the prior of `ScaledGrowthParams` in which another tree of distributions stands for the origin."""
    return Prior(eqx.tree_at(lambda p: p.growth.origin, prior.distributions, origin))


def free_basis(basis: GaussianBasis, place_spread: float, dtype: Any) -> GaussianBasis:
    """Return the distributions of Gaussians near these: of log-normal weights, and normal about their places."""
    places = np.asarray(basis.centres, dtype)
    weights = np.asarray(basis.weights, dtype)
    return GaussianBasis(
        Normal(places, np.full_like(places, place_spread)), LogNormal(weights, 1.0), basis.width, unit_peak=True
    )


def sparse_origins(
    problem: Problem,
    candidates: GaussianBasis,
    sparsity: int,
    *,
    place_spread: float = 3.0,
    rounds: int = 2,
    budget: int = 25,
    value_tolerance: float = 0.05,
    foci: Int[np.ndarray, "n"] | None = None,
    begun: Float[np.ndarray, "f"] | None = None,
    progress: Callable[[float, float], None] = lambda share, value: None,
) -> tuple[list[SparseOrigin], int]:
    """Find states of one and of at most `sparsity` Gaussians with which the tumour fits the images.

    A tumour of several foci has one in each to begin with, and keeps it: none far from a focus would be led to it.

    Compressive sampling: the gradient with respect to the weights of all candidates names those that would help most;
    a regularised solve with them and the ones in use decides; all but the largest are dropped; and so on while that
    helps. Neighbours of a named candidate, which would help nearly as much and for the same reason, are passed over.
    In each solve Gaussians also slide from the candidates' places, so that these may be far apart.

    Parameters
    ----------
    problem
        Of a model without mass effect, whose prior has `ScaledGrowthParams`; its origin is not looked at.
    candidates
        Gaussians (phi_i) of whatever weights.
    sparsity
        s, the l0 limit.
    place_spread
        mm: prior standard deviation of places about those of the candidates.
    rounds
        At most.
    budget
        Evaluations of value and gradient in each solve.
    value_tolerance
        nat: stop where a round brings less.
    foci
        The number of the focus in which each candidate lies; by default there is one focus.
    begun
        Weights with which the Gaussians of the foci begin, one each.
    progress
        Told the share that is done, and the best value.

    Returns
    -------
    origins, evaluations
        The state of one Gaussian in each focus and, if more fit better, that of several, each of `sparsity` places; and
        the evaluations of value and gradient.

    References
    ----------
    Subramanian, Scheufele, Himthani, Biros, MICCAI 2020, stage S.1. Needell and Tropp, "CoSaMP", Appl. Comput. Harmon.
    Anal. 26 (2009). Boyd, Schiebinger, Recht, "The alternating descent conditional gradient method for sparse inverse
    problems", SIAM J. Optim. 27 (2017), for the sliding.
    """
    dtype = problem.anatomy.dtype
    everywhere = np.asarray(candidates.centres, float)
    width = float(candidates.width)
    apart = 1.5 * width
    # One shape, and so one compiled program, for all solves: places that are not in use hold next to nothing.
    size = 2 * sparsity
    evaluations = 0
    foci = np.zeros(len(everywhere), int) if foci is None else foci
    count = int(foci.max()) + 1
    if count > sparsity:
        raise ValueError(f"{count} foci need as many Gaussians, got a sparsity of {sparsity}")

    def solve(places: np.ndarray, weights: np.ndarray, point: np.ndarray) -> SparseOrigin:
        nonlocal evaluations
        basis = free_basis(_filled(places, weights, width, size), place_spread, dtype)
        restricted = eqx.tree_at(lambda p: p.prior, problem, with_origin(problem.prior, basis))
        own = np.array([name.startswith("growth.origin") for name in restricted.prior.names])
        start = np.zeros(own.size)
        start[~own] = point
        found = minimise(
            lambda z: evaluate(value_and_gradient, restricted, z),
            start,
            budget=budget,
            gradient_tolerance=0.02,
            value_tolerance=value_tolerance,
            progress=lambda count, value: progress(done, value),
        )
        evaluations += found.evaluations
        basis = restricted.prior.constrain(jnp.asarray(found.point, dtype)).growth.origin
        return SparseOrigin(basis, found.point[~own], found.value)

    def largest(origin: SparseOrigin) -> tuple[np.ndarray, np.ndarray]:
        places, weights = np.asarray(origin.basis.centres, float), np.asarray(origin.basis.weights, float)
        order = np.argsort(-weights)
        own = firsts(places, order)
        order = [*own, *(i for i in order if held(weights)[i] and i not in own)][:sparsity]
        order = sorted(order, key=lambda i: -weights[i])
        return places[order], weights[order] / weights.max()

    def firsts(places: np.ndarray, order: np.ndarray) -> list[int]:
        """Return the first Gaussian of each focus in this order."""
        near = np.linalg.norm(places[:, None] - everywhere, axis=-1).argmin(axis=1)
        _, first = np.unique(foci[near][order], return_index=True)
        return [int(i) for i in order[first]]

    done = 0.0
    none = with_origin(problem.prior, _filled(everywhere[:1], np.ones(1), width, 1))
    middles = np.stack([everywhere[foci == i].mean(axis=0) for i in range(count)])
    one = solve(middles, np.ones(count) if begun is None else begun, np.zeros(none.size))
    places, weights = largest(one)
    if len(weights) > count:
        # Fillers that grew are part of the round that follows, not of the state of one.
        own = sorted(firsts(places, np.arange(len(places))))
        one = solve(places[own], weights[own], one.point)
    best = one
    for number in range(rounds):
        done = (number + 1) / (rounds + 1)
        places, weights = largest(best)
        slopes = _slopes(problem, everywhere, best, none)
        added = _named(slopes, everywhere, places, size - len(places), apart)
        if not added:
            break
        joined = np.concatenate([places, everywhere[added]])
        trial = solve(joined, np.append(weights, np.full(len(added), _NEW)), best.point)
        trial = solve(*largest(trial), trial.point)
        gained = best.value - trial.value
        best = trial if gained > 0 else best
        if gained < value_tolerance:
            break
    # A round may also have shown that one is enough.
    found = [best] if best is one or len(largest(best)[1]) == count else [one, best]
    return [
        SparseOrigin(_filled(*largest(each), width, sparsity), each.point, each.value) for each in found
    ], evaluations


def _filled(places: np.ndarray, weights: np.ndarray, width: float, size: int) -> GaussianBasis:
    """Return Gaussians at `size` places, of which those beyond the given ones hold next to nothing."""
    missing = size - len(places)
    places = np.concatenate([places, np.repeat(places[:1], missing, axis=0)])
    weights = np.concatenate([np.maximum(weights, _NOTHING), np.full(missing, _NOTHING)])
    return GaussianBasis(places, weights, width, unit_peak=True)


def _named(slopes: np.ndarray, candidates: np.ndarray, used: np.ndarray, count: int, apart: float) -> list[int]:
    """Return the candidates of steepest descent that are apart from each other and from those in use."""
    named: list[int] = []
    for i in np.argsort(slopes):
        if len(named) == count or slopes[i] >= 0:
            break
        taken = np.concatenate([used, candidates[named]])
        if np.linalg.norm(taken - candidates[i], axis=1).min() > apart:
            named.append(int(i))
    return named


def _slopes(problem: Problem, candidates: np.ndarray, origin: SparseOrigin, prior: Prior) -> np.ndarray:
    """Return the derivative of minus the log-likelihood in the weight of every candidate."""
    dtype = problem.anatomy.dtype
    # Without the unit peak, which would let a joining weight lower all others.
    basis = origin.basis
    places = np.concatenate([np.asarray(basis.centres, float), candidates])
    weights = jnp.concatenate([basis.heights(dtype), jnp.zeros(len(candidates), dtype)])
    slopes = _weight_gradient(
        problem, prior, jnp.asarray(places), basis.width, weights, jnp.asarray(origin.point, dtype)
    )
    return np.asarray(slopes, float)[len(basis.weights) :]


@eqx.filter_jit
def _weight_gradient(
    problem: Problem, prior: Prior, places: Array, width: Array, weights: Float[Array, "m"], z: Array
) -> Array:
    def misfit(weights: Array) -> Array:
        params = eqx.tree_at(lambda p: p.growth.origin, prior.constrain(z), GaussianBasis(places, weights, width))
        return -problem.log_likelihood(problem.predict(params), params)

    return jax.grad(misfit)(weights)
