"""What a calibration returns."""

import enum
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tumorjax.calibration.problem import Parameters
from tumorjax.prior import Prior


class CalibrationResult(enum.Enum):
    """Why a calibration stopped; the value says it in words."""

    GRADIENT = "converged: the gradient is small"
    VALUE = "converged: the objective no longer improves"
    BUDGET = "stopped: the budget of gradient evaluations is used up"
    LINE_SEARCH = "stopped: no step along the search direction improves the objective"
    NOT_FINITE = "failed: the objective is not finite where the search begins"
    SAMPLED = "sampled: the draws were all made"
    MATCHED = "matched: the simulated tumours that resemble the patient's most were found"
    INFERRED = "inferred: a network told the parameters, and their tumour resembles the patient's"
    IMPLAUSIBLE = "doubtful: a network told the parameters, and their tumour does not resemble the patient's"


class Calibration(eqx.Module):
    """Calibrated parameters, with their uncertainty.

    Parameters
    ----------
    params
        The maximum a posteriori, as the problem's prior arranges its parameters.
    prior
        The prior; it names the coordinates.
    coordinates
        (n,): `params` in the prior's coordinates, where the prior is standard normal.
    covariance
        (n, n): posterior covariance of the coordinates (Laplace approximation); None where nothing is known of it.
    result
        Why it stopped.
    stats
        What it cost: see the method.
    samples
        Parameters with a leading axis, for a method that returns several; None otherwise.
    log_weights
        Logarithms of their weights, which sum to one.
    """

    params: Parameters
    prior: Prior
    coordinates: Float[Array, "n"]
    covariance: Float[Array, "n n"] | None
    result: CalibrationResult = eqx.field(static=True)
    stats: Any
    samples: Parameters | None = None
    log_weights: Float[Array, "m"] | None = None

    def sample(self, key: Key[Array, ""], count: int) -> Parameters:
        """Draw parameters from the Laplace approximation, with a leading axis of `count`."""
        # Unlike a Cholesky factor this one exists where the spread of few matches is singular, too.
        variances, axes = jnp.linalg.eigh(self._known())
        factor = axes * jnp.sqrt(jnp.maximum(variances, 0))
        z = jax.random.normal(key, (count, self.coordinates.size), self.coordinates.dtype)
        return jax.vmap(self.prior.constrain)(self.coordinates + z @ factor.T)

    def mean(self, quantity: Callable[[Parameters], Any] = lambda params: params) -> Any:
        """Return a quantity at the calibrated parameters; of draws and of a mixture over atlases its mean over them."""
        return quantity(self.params)

    def standard_deviations(self, quantity: Callable[[Parameters], Any] = lambda params: params) -> Any:
        """Return the standard deviation of every number of a quantity, by default of the parameters themselves.

        To first order in the coordinates' covariance; zero for what is known.
        """
        covariance = self._known()
        slopes = jax.jacfwd(lambda z: quantity(self.prior.constrain(z)))(self.coordinates)
        return jax.tree.map(lambda slope: jnp.sqrt(jnp.einsum("...i,ij,...j->...", slope, covariance, slope)), slopes)

    def correlation(self) -> Float[Array, "n n"]:
        """Return the posterior correlation of the coordinates, in the order of `prior.names`."""
        covariance = self._known()
        scale = jnp.sqrt(jnp.diagonal(covariance))
        return covariance / scale[:, None] / scale[None, :]

    def _known(self) -> Float[Array, "n n"]:
        if self.covariance is None:
            raise ValueError(
                "this calibration has no uncertainty: a single match, or the answer of a network; refine it, or ask "
                "for several matches"
            )
        return self.covariance
