"""Mixtures of Gaussians on the host, and draws from the prior within the region where one is dense."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import logsumexp

from tumorjax.methods.sampling.moves import systematic

# Number of draws of the mixture from which the density at the border of a region of highest density is estimated.
_BORDER_DRAWS = 100_000
# Number of draws of the prior, for each one wanted, among which the region may hold enough.
_PRIOR_DRAWS = 100
# Metropolis steps otherwise, and their lengths in units of 2.38 / sqrt(n) of the mixture's own covariance.
_STEPS, _LENGTHS = 200, (0.3, 1.0, 3.0)


class Gaussians(NamedTuple):
    """A mixture of m Gaussians of n coordinates.

    Parameters
    ----------
    log_weights
        (m,): logarithms of weights that sum to one.
    means
        (m, n).
    factors
        (m, n, n): Cholesky factors of the covariances.
    """

    log_weights: Float[np.ndarray, "m"]
    means: Float[np.ndarray, "m n"]
    factors: Float[np.ndarray, "m n n"]

    def log_prob(self, points: Float[np.ndarray, "k n"]) -> Float[np.ndarray, "k"]:
        """Return the log-density at points."""
        inverse = np.linalg.inv(self.factors)
        found = []
        # In parts that stay in the processor's caches.
        for some in np.array_split(points, max(1, len(points) // 2000)):
            away = np.einsum("mij,mkj->mki", inverse, some[None] - self.means[:, None])
            found.append(-0.5 * np.sum(away**2, axis=2))
        steep = np.log(np.diagonal(self.factors, axis1=1, axis2=2)).sum(axis=1)
        constant = 0.5 * self.means.shape[1] * np.log(2 * np.pi)
        heights = (self.log_weights - steep - constant)[:, None]
        return np.asarray(logsumexp(np.concatenate(found, axis=1) + heights, axis=0))

    def sample(self, random: np.random.Generator, count: int) -> Float[np.ndarray, "k n"]:
        """Draw points."""
        chosen = random.choice(len(self.log_weights), size=count, p=_shares(self.log_weights))
        noise = random.normal(size=(count, self.means.shape[1]))
        return self.means[chosen] + np.einsum("kij,kj->ki", self.factors[chosen], noise)

    def moments(self) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n n"]]:
        """Return mean and covariance."""
        weights = _shares(self.log_weights)
        mean = weights @ self.means
        away = self.means - mean
        inside = np.einsum("m,mij,mkj->ik", weights, self.factors, self.factors)
        return mean, inside + (away * weights[:, None]).T @ away

    def mixed(self, other: "Gaussians", share: float) -> "Gaussians":
        """Return a mixture in which another one has a share."""
        return Gaussians(
            np.concatenate([self.log_weights + np.log1p(-share), other.log_weights + np.log(share)]),
            np.concatenate([self.means, other.means]),
            np.concatenate([self.factors, other.factors]),
        )

    def marginal(self, kept: Sequence[int]) -> "Gaussians":
        """Return the mixture of some of the coordinates."""
        if len(kept) == self.means.shape[1]:
            return self
        covariances = self.factors @ np.swapaxes(self.factors, 1, 2)
        return Gaussians(self.log_weights, self.means[:, kept], np.linalg.cholesky(covariances[:, kept][:, :, kept]))

    def widened(self, factor: float) -> "Gaussians":
        """Return the mixture with its standard deviations multiplied by a factor."""
        return self._replace(factors=factor * self.factors)


def standard(size: int) -> Gaussians:
    """Return the prior, which is standard normal."""
    return Gaussians(np.zeros(1), np.zeros((1, size)), np.eye(size)[None])


def kernels(points: Float[np.ndarray, "m n"], log_weights: Float[np.ndarray, "m"]) -> Gaussians:
    """Return a mixture of Gaussians about weighted points, which has their mean and covariance.

    Each Gaussian is moved towards the mean so that its width does not add to the covariance (Liu and West, 2001); the
    width is that of Silverman's rule for the effective number of points.
    """
    weights, size = _shares(log_weights), points.shape[1]
    width = min((4 / (size + 2) * np.sum(weights**2)) ** (1 / (size + 4)), 1.0)
    # The others do not show.
    kept = weights > 1e-4 * weights.max()
    mean, away = weights @ points, points - weights @ points
    covariance = (away * weights[:, None]).T @ away
    # Fewer points than coordinates leave directions without width.
    covariance += 1e-6 * np.trace(covariance) / size * np.eye(size)
    factor = width * np.linalg.cholesky(covariance)
    return Gaussians(
        np.log(weights[kept] / weights[kept].sum()),
        mean + np.sqrt(1 - width**2) * away[kept],
        np.broadcast_to(factor, (int(kept.sum()), size, size)),
    )


class Region(NamedTuple):
    """The region in which a mixture is denser than at a border.

    Parameters
    ----------
    mixture
        Mixture of Gaussians.
    border
        Logarithm of the density at the border.
    """

    mixture: Gaussians
    border: float

    @classmethod
    def of(cls, mixture: Gaussians, tail: float, random: np.random.Generator) -> "Region":
        """Return the region of highest density that leaves out a tail of this probability."""
        return cls(mixture, float(np.quantile(mixture.log_prob(mixture.sample(random, _BORDER_DRAWS)), tail)))

    def holds(self, points: Float[np.ndarray, "k n"]) -> Bool[np.ndarray, "k"]:
        """Return which points are in the region."""
        return self.mixture.log_prob(points) > self.border

    def prior_draws(self, random: np.random.Generator, count: int) -> Float[np.ndarray, "k n"]:
        """Draw from the prior within the region.

        By rejection, where the region has more than about a hundredth of the prior's probability. Otherwise by chains
        that begin at draws of the mixture, resampled by prior over mixture: 200 steps, of random walks and of
        independent draws of the mixture. That is approximate where the region has parts that nothing connects.
        """
        size = self.mixture.means.shape[1]
        tried = random.normal(size=(_PRIOR_DRAWS * count, size))
        tried = tried[: 10 * count] if not self.holds(tried[: 10 * count]).any() else tried
        found = tried[self.holds(tried)]
        if len(found) >= count:
            return found[:count]
        points = self._resampled(random, count)
        _, covariance = self.mixture.moments()
        walk = 2.38 / np.sqrt(size) * np.linalg.cholesky(covariance)
        density = self.mixture.log_prob(points)
        for step in range(_STEPS):
            if step % 4 == 3:
                there = self.mixture.sample(random, count)
                dense = self.mixture.log_prob(there)
                log_ratio = density - dense
            else:
                there = points + _LENGTHS[step % 4] * random.normal(size=points.shape) @ walk.T
                dense = self.mixture.log_prob(there)
                log_ratio = np.zeros(count)
            log_ratio = log_ratio + 0.5 * np.sum(points**2 - there**2, axis=1)
            moves = (np.log(random.uniform(size=count)) < log_ratio) & (dense > self.border)
            points, density = np.where(moves[:, None], there, points), np.where(moves, dense, density)
        return points

    def _resampled(self, random: np.random.Generator, count: int) -> Float[np.ndarray, "k n"]:
        # Wider than the mixture, whose own draws seldom come near the border.
        wide = self.mixture.mixed(self.mixture.widened(1.5), 0.5)
        tried = wide.sample(random, 20 * count)
        tried = tried[self.holds(tried)]
        log_weights = -0.5 * np.sum(tried**2, axis=1) - wide.log_prob(tried)
        return tried[systematic(_shares(log_weights), random.uniform())][random.integers(len(tried), size=count)]


def _shares(log_weights: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum()
