"""What calibrations in several atlases say together: a mixture in which each counts the same."""

from collections.abc import Callable, Generator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.special import log_softmax

from tumorjax.calibration.calibration import Calibration, CalibrationResult
from tumorjax.calibration.problem import Fields, Parameters, Problem
from tumorjax.calibration.scoring import Scored, scoring
from tumorjax.calibration.sparse import held
from tumorjax.calibration.stages import growth_alone, in_use, with_basis
from tumorjax.growth import GaussianBasis
from tumorjax.prior import Prior


def information_at(problem: Problem, point: np.ndarray) -> Generator[np.ndarray, Fields, Scored]:
    """Ask for the information of growth and seed together, as `scoring` does.

    Of Gaussians that hold next to nothing nothing is asked: the scan does not see them.
    """
    return scoring(problem, point, in_use(problem.prior, point), iterations=0, value_tolerance=0.0)


def covariance_of(scored: Scored) -> Float[np.ndarray, "n n"]:
    """Return the covariance of all coordinates; that of those that did not move is the prior's, one."""
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


def without_basis(params: Parameters) -> Parameters:
    """Return parameters with the centre of mass of the state at time zero, (3,) mm, in place of its Gaussians."""
    origin = params.growth.growth.origin
    return eqx.tree_at(lambda p: p.growth.growth.origin, params, origin.centre_of_mass)


class AtlasMixture(Calibration):
    """What calibrations in several atlases say together, in the patient's world: each that counts, counts the same.

    Parameters are plain means over atlases. Numbers that each atlas has in a basis of its own have no mean: those of
    the state at time zero are no coordinates here, and `params` hold the Gaussians of all atlases, of which each atlas
    has the same share, so that their centre of mass is the mean of those in the atlases. The covariance is of the
    other coordinates, with the spread over atlases; what is asked of the parameters, the state among them, is answered
    from the members.

    Parameters
    ----------
    members
        The calibration in each atlas, its state at time zero carried back to the patient.
    shares
        (m,): of each in the mixture; zero for an atlas in which no tumour grows, unless there is none in any.
    """

    members: tuple[Calibration, ...] = ()
    shares: Float[np.ndarray, "m"] = eqx.field(default_factory=lambda: np.zeros(0))

    def sample(self, key: Key[Array, ""], count: int) -> Parameters:
        """Draw parameters from the mixture of Laplace approximations, with a leading axis of `count`."""
        choice, *keys = jax.random.split(key, len(self.members) + 1)
        chosen = jax.random.choice(choice, len(self.members), (count,), p=jnp.asarray(self.shares))
        drawn = [member.sample(own, count) for member, own in zip(self.members, keys, strict=True)]
        each = jnp.arange(count)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[chosen, each], *drawn)

    def mean(self, quantity: Callable[[Parameters], Any] = without_basis) -> Any:
        """Return the plain mean of a quantity over atlases; by default of the parameters, in a form without basis.

        What a quantity makes of the state at time zero must not depend on which Gaussians that is made of: the third
        Gaussian of one atlas has nothing to do with that of another.
        """
        counted, shares = self._counted()
        return _mixed([member.mean(quantity) for member in counted], shares)

    def standard_deviations(self, quantity: Callable[[Parameters], Any] = without_basis) -> Any:
        """Return the standard deviation of every number of a quantity, over atlases and within each: see `mean`."""
        counted, shares = self._counted()
        means = [member.mean(quantity) for member in counted]
        within = [member.standard_deviations(quantity) for member in counted]
        middle = _mixed(means, shares)
        squares = [
            jax.tree.map(lambda mean, own, spread: (mean - own) ** 2 + spread**2, middle, *pair)
            for pair in zip(means, within, strict=True)
        ]
        return jax.tree.map(jnp.sqrt, _mixed(squares, shares))

    def _counted(self) -> tuple[list[Calibration], Float[np.ndarray, "k"]]:
        """Return the members that have a share, and these: what is not finite in another one does not matter."""
        counted = np.flatnonzero(self.shares > 0)
        return [self.members[i] for i in counted], self.shares[counted]


def average(
    problem: Problem,
    bases: list[GaussianBasis],
    place_spread: float,
    problems: list[Problem],
    final: list[Scored],
    uncertain: list[Scored],
    result: CalibrationResult,
    stats: Any,
) -> AtlasMixture:
    """Return the calibration that all atlases give together.

    Parameters
    ----------
    problem
        In the patient.
    bases
        The state in the patient with which the calibration in each atlas began.
    place_spread
        mm: prior standard deviation of the Gaussians' places about these.
    problems, final
        In each atlas, and where its calibration ended.
    uncertain
        The information of all coordinates there.
    result, stats
        Of the calibration.
    """
    dtype, count = problem.anatomy.dtype, len(final)
    grows = np.array([bool(np.any(np.asarray(s.fields.density) > 0)) for s in final])
    shares = grows / grows.sum() if grows.any() else np.full(count, 1 / count)
    log_weights = log_softmax([-s.value for s in final])
    members = []
    for basis, end, told in zip(bases, final, uncertain, strict=True):
        prior = with_basis(problem.prior, basis, place_spread, dtype)
        z = jnp.asarray(end.point, dtype)
        covariance = jnp.asarray(covariance_of(told), dtype)
        members.append(Calibration(prior.constrain(z), prior, z, covariance, result, None))
    together = _together([member.params.growth.growth.origin for member in members], shares, dtype)
    prior = Prior(eqx.tree_at(lambda p: p.growth.growth.origin, problem.prior.distributions, together))
    shared = growth_alone(members[0].prior)
    counted = np.flatnonzero(shares > 0)
    points, own = np.stack([final[i].point for i in counted])[:, shared], shares[counted]
    off = points - own @ points
    within = [np.asarray(members[i].covariance, float)[np.ix_(shared, shared)] for i in counted]
    covariance = off.T @ (own[:, None] * off) + np.tensordot(own, within, 1)
    # The plain mean of the numbers themselves, as in the paper, and not of their coordinates.
    params = _mixed([prior.constrain(jnp.asarray(point, dtype)) for point in points], own)
    samples = [p.prior.constrain(jnp.asarray(s.point, dtype)) for p, s in zip(problems, final, strict=True)]
    return AtlasMixture(
        params=params,
        prior=prior,
        coordinates=prior.unconstrain(params),
        covariance=jnp.asarray(covariance, dtype),
        result=result,
        stats=stats,
        samples=jax.tree.map(lambda *leaves: jnp.stack(leaves), *samples),
        log_weights=jnp.asarray(log_weights, dtype),
        members=tuple(members),
        shares=shares,
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


def _mixed(values: list[Any], shares: Float[np.ndarray, "m"]) -> Any:
    """Return the mean of trees of numbers by their shares."""

    def mean(*leaves: Any) -> Array:
        stacked = jnp.stack([jnp.asarray(leaf) for leaf in leaves])
        return jnp.tensordot(jnp.asarray(shares, stacked.dtype), stacked, axes=1)

    return jax.tree.map(mean, *values)
