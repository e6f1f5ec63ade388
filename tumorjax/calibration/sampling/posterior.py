"""What samplers return."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.calibration.calibration import Calibration, CalibrationResult
from tumorjax.calibration.problem import Parameters, Problem


class Posterior(Calibration):
    """A calibration by draws from the posterior; `params` are those of the draw of highest posterior density.

    Parameters
    ----------
    draws
        (c, d, n): d draws of c chains, in the prior's coordinates. `samples` are the same as parameters, chain after
        chain, with their `log_weights`.
    log_likelihoods
        (c, d), nat.
    log_evidence
        Logarithm of the evidence, nat; NaN of a method that does not estimate it.
    """

    draws: Float[Array, "c d n"] | None = None
    log_likelihoods: Float[Array, "c d"] | None = None
    log_evidence: Float[Array, ""] | None = None

    def sample(self, key: Key[Array, ""], count: int) -> Parameters:
        """Draw parameters from the draws, by their weights, with a leading axis of `count`."""
        chosen = jax.random.categorical(key, jnp.asarray(self.log_weights), shape=(count,))
        return jax.tree.map(lambda leaf: leaf[chosen], self.samples)

    def mean(self, quantity: Callable[[Parameters], Any] = lambda params: params) -> Any:
        """Return the mean of a quantity over the draws, by their weights; it is computed for one after another."""
        return self._average(jax.lax.map(quantity, self.samples))

    def standard_deviations(self, quantity: Callable[[Parameters], Any] = lambda params: params) -> Any:
        """Return the standard deviation of every number of a quantity over the draws, by their weights.

        Where a draw of the highest density lies near a wall of the prior, a slope there says nothing of the others.
        """
        found = jax.lax.map(quantity, self.samples)
        away = jax.tree.map(lambda leaf, mean: (leaf - mean) ** 2, found, self._average(found))
        return jax.tree.map(jnp.sqrt, self._average(away))

    def _average(self, values: Any) -> Any:
        weights = jnp.exp(jnp.asarray(self.log_weights))
        return jax.tree.map(lambda leaf: jnp.tensordot(weights / weights.sum(), leaf, axes=1), values)


def posterior_of(
    problem: Problem,
    draws: Float[np.ndarray, "c d n"],
    log_likelihoods: Float[np.ndarray, "c d"],
    *,
    log_weights: Float[np.ndarray, "c d"] | None = None,
    log_evidence: float = np.nan,
    result: CalibrationResult = CalibrationResult.SAMPLED,
    stats: Any,
) -> Posterior:
    """Return the calibration that weighted draws make; by default all weigh the same."""
    dtype = problem.anatomy.dtype
    flat = draws.reshape(-1, draws.shape[-1])
    shares = np.zeros(len(flat)) if log_weights is None else log_weights.reshape(-1)
    shares = shares - np.logaddexp.reduce(shares)
    weights = np.exp(shares)
    from_mean = flat - weights @ flat
    best = int(np.argmax(log_likelihoods.reshape(-1) - 0.5 * np.sum(flat**2, axis=1)))
    coordinates = jnp.asarray(flat[best], dtype)
    return Posterior(
        params=problem.prior.constrain(coordinates),
        prior=problem.prior,
        coordinates=coordinates,
        covariance=jnp.asarray(from_mean.T @ (weights[:, None] * from_mean), dtype),
        result=result,
        stats=stats,
        samples=jax.vmap(problem.prior.constrain)(jnp.asarray(flat, dtype)),
        log_weights=jnp.asarray(shares, dtype),
        draws=jnp.asarray(draws, dtype),
        log_likelihoods=jnp.asarray(log_likelihoods, dtype),
        log_evidence=jnp.asarray(log_evidence, dtype),
    )
