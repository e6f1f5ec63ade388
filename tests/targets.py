"""Targets with a standard normal prior and known evidence, mean and covariance."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from tumorjax.methods.sampling.target import AbstractDerivedTarget, AbstractTarget


class AbstractKnown(AbstractTarget):
    """A target of n coordinates in float64 whose posterior is known."""

    n: int = eqx.field(static=True, default=2)

    @property
    def size(self) -> int:
        return self.n

    @property
    def dtype(self) -> Any:
        return jnp.zeros(()).dtype


class Gaussian(AbstractKnown):
    """A correlated Gaussian, much narrower than the prior, off its middle."""

    @property
    def centre(self) -> np.ndarray:
        """Where the likelihood is largest."""
        return np.linspace(-1.0, 1.0, self.n)

    @property
    def precision(self) -> np.ndarray:
        """The covariance of the likelihood: standard deviations of 0.1 to 0.5 along rotated axes."""
        axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(self.n, self.n)))
        return axes @ np.diag(np.linspace(0.1, 0.5, self.n) ** -2.0) @ axes.T

    def log_likelihood(self, z):
        away = z - jnp.asarray(self.centre, z.dtype)
        return -0.5 * away @ jnp.asarray(self.precision, z.dtype) @ away

    @property
    def covariance(self) -> np.ndarray:
        return np.linalg.inv(np.eye(self.n) + self.precision)

    @property
    def mean(self) -> np.ndarray:
        return self.covariance @ self.precision @ self.centre

    @property
    def log_evidence(self) -> float:
        misfit = self.centre @ self.precision @ self.covariance @ self.centre
        return float(-0.5 * misfit + 0.5 * np.linalg.slogdet(self.covariance)[1])


class Banana(AbstractKnown):
    """A bent ridge z1 = bend (z0^2 - 1), with deviation 0.7 along and 0.15 across; 0.3 in further coordinates."""

    bend: float = eqx.field(static=True, default=1.0)

    def log_likelihood(self, z):
        across = z[1] - self.bend * (z[0] ** 2 - 1)
        return -0.5 * ((z[0] / 0.7) ** 2 + (across / 0.15) ** 2 + jnp.sum((z[2:] / 0.3) ** 2))

    def _moments(self) -> tuple[float, np.ndarray]:
        """Evidence of the first two coordinates, and the second moments of z0, z1 and their means' z1.

        z1 given z0 is Gaussian; z0 is left, for a sum that converges faster than any power of its step.
        """
        z0 = np.linspace(-8, 8, 4001)
        ridge = self.bend * (z0**2 - 1)
        narrow = 0.15**2
        weights = np.exp(-0.5 * z0**2 - 0.5 * (z0 / 0.7) ** 2 - 0.5 * ridge**2 / (1 + narrow))
        weights *= np.sqrt(narrow / (1 + narrow)) * (z0[1] - z0[0]) / np.sqrt(2 * np.pi)
        evidence = weights.sum()
        middle, spread = ridge / (1 + narrow), narrow / (1 + narrow)
        return float(evidence), np.array([weights @ z0**2, weights @ middle, weights @ (middle**2 + spread)]) / evidence

    @property
    def mean(self) -> np.ndarray:
        return np.array([0.0, self._moments()[1][1]] + [0.0] * (self.n - 2))

    @property
    def covariance(self) -> np.ndarray:
        first, middle, second = self._moments()[1]
        # Odd in z0: the two are uncorrelated, though not independent.
        return np.diag([first, second - middle**2] + [0.3**2 / (1 + 0.3**2)] * (self.n - 2))

    @property
    def log_evidence(self) -> float:
        return float(np.log(self._moments()[0]) + 0.5 * (self.n - 2) * np.log(0.3**2 / (1 + 0.3**2)))


class TwoModes(AbstractKnown):
    """Two well-separated Gaussians of standard deviation 0.15, at plus and minus one in every coordinate.

    Parameters
    ----------
    share
        Posterior probability of the one at plus one.
    """

    share: float = eqx.field(static=True, default=0.5)

    def log_likelihood(self, z):
        shares = jnp.log(jnp.asarray([self.share, 1 - self.share], z.dtype))
        misfits = jnp.stack([jnp.sum((z - side) ** 2) for side in (1, -1)]) / 0.15**2
        return logsumexp(shares - 0.5 * misfits)

    @property
    def mean(self) -> np.ndarray:
        return np.full(self.n, (2 * self.share - 1) / (1 + 0.15**2))

    @property
    def covariance(self) -> np.ndarray:
        between = 4 * self.share * (1 - self.share) / (1 + 0.15**2) ** 2
        return np.full((self.n, self.n), between) + np.eye(self.n) * 0.15**2 / (1 + 0.15**2)

    @property
    def log_evidence(self) -> float:
        return float(0.5 * self.n * (np.log(0.15**2 / (1 + 0.15**2)) - 1 / (1 + 0.15**2)))


class Failing(AbstractDerivedTarget):
    """A target that is NaN where the first coordinate is above a bound."""

    bound: float = 0.0

    def log_likelihood(self, z):
        return jnp.where(z[0] > self.bound, jnp.nan, self.target.log_likelihood(z))


class Rough(AbstractDerivedTarget):
    """An approximation of a target, like that on coarser voxels: shifted, and with a scaled logarithm."""

    shift: float = 0.05
    factor: float = 0.8

    def log_likelihood(self, z):
        return self.factor * self.target.log_likelihood(z - self.shift)


def same_stats(first, second):
    """Tell whether two runs of a sampler went alike, however long they took."""

    def untimed(stats):
        return jax.tree.leaves(stats._replace(cost=dataclasses.replace(stats.cost, seconds=0.0)))

    return all(np.array_equal(one, two) for one, two in zip(untimed(first), untimed(second), strict=True))
