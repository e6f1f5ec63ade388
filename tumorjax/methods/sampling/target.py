"""The target of samplers: a likelihood over coordinates in which the prior is standard normal."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.calibration.problem import Problem
from tumorjax.integrate import each

# Runs fold the numbers of their stages and steps into their keys, which are smaller.
_COMPLETION = 2**31 - 1


class Completed(NamedTuple):
    """All coordinates of draws, N, and their log-likelihoods, nat.

    Parameters
    ----------
    points
        (m, N), in the prior's order.
    values
        (m,): log-likelihoods of all coordinates.
    drawn
        (m,): log-likelihoods of those that were drawn, the others integrated out.
    """

    points: Float[Any, "*m N"]
    values: Float[Any, "*m"]
    drawn: Float[Any, "*m"]


class AbstractTarget(eqx.Module):
    """A log-likelihood over `size` coordinates whose prior is the standard normal density.

    There may be further coordinates, which the likelihood integrates out, and which are drawn afterwards.
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of coordinates, n."""

    @property
    @abstractmethod
    def dtype(self) -> Any:
        """The dtype in which the likelihood is computed."""

    @property
    def kept(self) -> list[int]:
        """The numbers of these coordinates among all."""
        return list(range(self.size))

    @abstractmethod
    def log_likelihood(self, z: Float[Array, "n"]) -> Float[Array, ""]:
        """Return the log-likelihood, nat."""

    def completed(self, z: Float[Array, "n"], key: Key[Array, ""]) -> Completed:
        """Return all coordinates, those that are integrated out drawn given the others; by default there are none."""
        value = self.log_likelihood(z)
        return Completed(z, value, value)

    def log_posterior(self, z: Float[Array, "n"]) -> Float[Array, ""]:
        """Return the log-density of the posterior, up to the evidence and the prior's constant, nat."""
        return self.log_likelihood(z) - 0.5 * jnp.sum(z**2)


class ProblemTarget(AbstractTarget):
    """The target of a problem, in its prior's coordinates."""

    problem: Problem

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.problem.prior.size

    @property
    def dtype(self) -> Any:
        """The anatomy's dtype."""
        return self.problem.dtype

    def log_likelihood(self, z: Float[Array, "n"]) -> Float[Array, ""]:
        """Return the log-likelihood of the problem's observations, nat."""
        params = self.problem.prior.constrain(z)
        return self.problem.log_likelihood(self.problem.predict(params), params)


class AbstractDerivedTarget(AbstractTarget):
    """A target made of another one, over as many coordinates."""

    target: AbstractTarget

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.target.size

    @property
    def dtype(self) -> Any:
        """The other target's dtype."""
        return self.target.dtype


class Screened(AbstractDerivedTarget):
    """A target with an approximation of it that costs less, for samplers that can use one.

    Parameters
    ----------
    target
        What to draw from.
    screen
        The approximation.
    """

    screen: AbstractTarget

    def log_likelihood(self, z: Float[Array, "n"]) -> Float[Array, ""]:
        """Return the log-likelihood of the target itself, nat."""
        return self.target.log_likelihood(z)


def goals_of(target: AbstractTarget) -> tuple[AbstractTarget, ...]:
    """Return the targets that a sampler evaluates, one after another: the screen, if there is one, and the target."""
    return (target.screen, target.target) if isinstance(target, Screened) else (target,)


class Recentred(AbstractDerivedTarget):
    """A target's posterior in the coordinates of a normal approximation of it: z = centre + factor w.

    Its evidence lacks the logarithm of the factor's determinant, so that `log_posterior` is the target's own.

    Parameters
    ----------
    target
        The target over z.
    centre
        (n,): mean of the approximation.
    factor
        (n, n): Cholesky factor of its covariance.
    """

    centre: Float[np.ndarray, "n"]
    factor: Float[np.ndarray, "n n"]

    def log_likelihood(self, z: Float[Array, "n"]) -> Float[Array, ""]:
        """Return the density of the posterior over that of the approximation, up to constants, as a logarithm, nat."""
        there = jnp.asarray(self.centre, z.dtype) + jnp.asarray(self.factor, z.dtype) @ z
        return self.target.log_posterior(there) + 0.5 * jnp.sum(z**2)


def log_likelihoods(
    target: AbstractTarget,
    points: Float[np.ndarray, "m n"],
    *,
    chunk: int = 64,
    progress: Callable[[float], None] = lambda share: None,
) -> Float[np.ndarray, "m"]:
    """Return the log-likelihood at every point; minus infinity where it is not a number, as where a solve failed.

    Parameters
    ----------
    target
        Compiled once for all targets of a structure.
    points
        (m, n), in the prior's coordinates.
    chunk, progress
        See `tumorjax.integrate.each`.
    """
    found = each(_value, target, np.asarray(points, target.dtype), chunk=chunk, progress=progress).astype(float)
    return np.where(np.isfinite(found), found, -np.inf)


def log_likelihoods_and_gradients(
    target: AbstractTarget,
    points: Float[np.ndarray, "m n"],
    *,
    chunk: int = 16,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m n"]]:
    """Return the log-likelihood and its gradient at every point, as `log_likelihoods`; no gradient where it failed."""
    found = each(_value_and_gradient, target, np.asarray(points, target.dtype), chunk=chunk, progress=progress)
    values, gradients = (part.astype(float) for part in found)
    known = np.isfinite(values) & np.all(np.isfinite(gradients), axis=1)
    return np.where(np.isfinite(values), values, -np.inf), np.where(known[:, None], gradients, 0.0)


def complete(
    target: AbstractTarget,
    points: Float[np.ndarray, "m n"],
    key: Key[Array, ""],
    *,
    chunk: int = 64,
    progress: Callable[[float], None] = lambda share: None,
) -> Completed:
    """Return all coordinates of draws; where a log-likelihood is not a number, it is minus infinity.

    Parameters
    ----------
    target
        Compiled once for all targets of a structure.
    points
        (m, n).
    key
        Random key of the run, with which the coordinates that were integrated out are drawn.
    chunk, progress
        See `tumorjax.integrate.each`.
    """
    held, numbers = (target, jax.random.fold_in(key, _COMPLETION)), np.arange(len(points), dtype=np.int32)
    found = each(_completed, held, (np.asarray(points, target.dtype), numbers), chunk=chunk, progress=progress)
    values, drawn = (np.where(np.isfinite(some), some, -np.inf).astype(float) for some in found[1:])
    return Completed(np.asarray(found[0], float), values, drawn)


def _completed(held: tuple[AbstractTarget, Array], point: tuple[Array, Array]) -> Completed:
    target, key = held
    return target.completed(point[0], jax.random.fold_in(key, point[1]))


def _value(target: AbstractTarget, z: Array) -> Array:
    return target.log_likelihood(z)


def _value_and_gradient(target: AbstractTarget, z: Array) -> tuple[Array, Array]:
    return jax.value_and_grad(target.log_likelihood)(z)
