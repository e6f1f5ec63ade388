"""How calibrations in several atlases become a mixture of their Laplace approximations."""

from collections.abc import Generator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, softmax

from tumorjax.calibration.calibration import Calibration
from tumorjax.calibration.problem import Fields, Problem
from tumorjax.calibration.result import CalibrationResult
from tumorjax.calibration.scoring import Scored, scoring
from tumorjax.growth import GaussianBasis
from tumorjax.growth.gaussian_basis import held
from tumorjax.methods.multi_atlas.atlas_mixture import AtlasMixture, mixed
from tumorjax.methods.multi_atlas.stages import growth_alone, in_use, with_basis
from tumorjax.prior import Prior


def weights_of(values: Sequence[float], how: str) -> Float[np.ndarray, "m"]:
    """Return the weight of each atlas from minus its log-posterior, nat.

    "mean" weighs all alike, as published. "posterior" is the posterior probability, which soon leaves all to one
    atlas, since the likelihood knows of no error of the anatomy. "tempered" divides the differences by that error as it
    is measured: the standard deviation over the atlases, none of which is the patient's brain, where it exceeds one
    nat. So an atlas counts for less where it explains the scan worse than others do, and never for nothing.
    """
    found = np.asarray(values, float)
    if how == "mean":
        return np.full(len(found), 1 / len(found))
    # Of two, the deviation is half the difference.
    scale = max(1.0, float(np.std(found))) if how == "tempered" else 1.0
    return softmax(-(found - found.min()) / scale)


def information_at(problem: Problem, point: np.ndarray) -> Generator[np.ndarray, Fields, Scored]:
    """Ask for the information on growth and seed together, as `scoring` does.

    Gaussians that hold next to nothing are left out: the scan does not see them.
    """
    return scoring(problem, point, in_use(problem.prior, point), iterations=0, value_tolerance=0.0)


def covariance_of(scored: Scored) -> Float[np.ndarray, "n n"]:
    """Return the covariance of all coordinates; those that did not move have the prior's, one."""
    covariance = np.eye(scored.point.size)
    covariance[np.ix_(scored.moved, scored.moved)] = np.linalg.inv(scored.information)
    return covariance


def deviations(uncertain: list[Scored]) -> Float[np.ndarray, "m x y z"]:
    """Return the standard deviation of the density in each atlas.

    It is that of the linear model, but no larger than a quantity between zero and one of this mean can have.
    """
    found = []
    for one in uncertain:
        columns = np.stack([np.asarray(each.density, float) for each in one.derivatives.values()])
        moved = list(one.derivatives)
        spread = covariance_of(one)[np.ix_(moved, moved)]
        variance = np.einsum("i...,ij,j...->...", columns, spread, columns, optimize=True)
        density = np.clip(np.asarray(one.fields.density, float), 0, 1)
        found.append(np.sqrt(np.minimum(variance, density * (1 - density))))
    return np.stack(found)


def average(
    problem: Problem,
    bases: list[GaussianBasis],
    place_spread: float,
    problems: list[Problem],
    final: list[Scored],
    uncertain: list[Scored],
    result: CalibrationResult,
    *,
    weights: str = "mean",
    **more: Any,
) -> AtlasMixture:
    """Return the calibration that all atlases give together.

    Parameters
    ----------
    problem
        The problem in the patient.
    bases
        The state in the patient with which the calibration in each atlas began.
    place_spread
        mm: prior standard deviation of the Gaussians' places about these.
    problems, final
        In each atlas, and where its calibration ended.
    uncertain
        The information of all coordinates there.
    result
        How the searches ended.
    weights
        How the atlases are weighed; see `weights_of`.
    more
        Further fields of the mixture.
    """
    dtype, count = problem.anatomy.dtype, len(final)
    grows = np.array([bool(np.any(np.asarray(s.fields.density) > 0)) for s in final])
    shares = np.full(count, 1 / count)
    if grows.any():
        shares = np.zeros(count)
        shares[grows] = weights_of([s.value for s, counts in zip(final, grows, strict=True) if counts], weights)
    log_weights = log_softmax([-s.value for s in final])
    members = []
    for basis, end, known in zip(bases, final, uncertain, strict=True):
        prior = with_basis(problem.prior, basis, place_spread, dtype)
        z = jnp.asarray(end.point, dtype)
        covariance = jnp.asarray(covariance_of(known), dtype)
        members.append(Calibration(prior.constrain(z), prior, z, covariance, result))
    together = _together([member.params.growth.growth.origin for member in members], shares, dtype)
    prior = Prior(eqx.tree_at(lambda p: p.growth.growth.origin, problem.prior.distributions, together))
    shared = growth_alone(members[0].prior)
    counted = np.flatnonzero(shares > 0)
    points, own = np.stack([final[i].point for i in counted])[:, shared], shares[counted]
    off = points - own @ points
    within = [np.asarray(members[i].covariance, float)[np.ix_(shared, shared)] for i in counted]
    covariance = off.T @ (own[:, None] * off) + np.tensordot(own, within, 1)
    # The mean of the numbers themselves, as in the paper, and not of their coordinates.
    params = mixed([prior.constrain(jnp.asarray(point, dtype)) for point in points], own)
    samples = [p.prior.constrain(jnp.asarray(s.point, dtype)) for p, s in zip(problems, final, strict=True)]
    return AtlasMixture(
        params=params,
        prior=prior,
        coordinates=prior.unconstrain(params),
        covariance=jnp.asarray(covariance, dtype),
        result=result,
        samples=jax.tree.map(lambda *leaves: jnp.stack(leaves), *samples),
        log_weights=jnp.asarray(log_weights, dtype),
        members=tuple(members),
        shares=shares,
        weighed=weights,
        problems=tuple(problems),
        **more,
    )


def _together(origins: list[GaussianBasis], shares: Float[np.ndarray, "m"], dtype: Any) -> GaussianBasis:
    """Return the Gaussians in use of several states, of which each has its share of the weight."""
    places, weights = [], []
    for origin, share in zip(origins, shares, strict=True):
        own = np.asarray(origin.weights, float)
        used = held(own)
        if share > 0:
            own = own[used]
            places.append(np.asarray(origin.centres, float)[used])
            weights.append(share * own / own.sum())
    centres, weights = np.concatenate(places), np.concatenate(weights)
    return GaussianBasis(centres.astype(dtype), weights.astype(dtype), origins[0].width, unit_peak=True)
