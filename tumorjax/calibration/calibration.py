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

# Most numbers of a quantity of which each is differentiated backwards by itself.
_FEW = 64


class CalibrationResult(enum.Enum):
    """Why a calibration stopped; the value says it in words."""

    GRADIENT = "converged: the gradient is small"
    VALUE = "converged: the objective no longer improves"
    BUDGET = "stopped: the budget of gradient evaluations is used up"
    LINE_SEARCH = "stopped: no step along the search direction improves the objective"
    NOT_FINITE = "failed: the objective is not finite where the search begins"
    SAMPLED = "sampled: the draws were all made"
    MATCHED = "matched: the simulated tumours that resemble the patient's most were found"
    INFERRED = "inferred: a network gave the parameters, and their tumour resembles the patient's"
    IMPLAUSIBLE = "doubtful: a network gave the parameters, and their tumour does not resemble the patient's"


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

        Parameters
        ----------
        quantity
            A function of the parameters. A solve in it (`problem.density`) has derivatives backwards only, which is
            what few numbers take; for as many as a whole image give the solve `ForwardMode()`.

        Raises
        ------
        ValueError
            If nothing is known of the uncertainty, or many numbers depend on a solve without `ForwardMode()`.
        """
        covariance = self._known()
        return jax.tree.map(lambda slope: _deviation(slope, covariance), self._slopes(quantity))

    def correlation(self) -> Float[Array, "n n"]:
        """Return the posterior correlation of the coordinates, in the order of `prior.names`."""
        covariance = self._known()
        scale = jnp.sqrt(jnp.diagonal(covariance))
        return covariance / scale[:, None] / scale[None, :]

    def _slopes(self, quantity: Callable[[Parameters], Any]) -> Any:
        """Return the derivative of a quantity in the coordinates."""

        def at(z: Float[Array, "n"]) -> Any:
            return quantity(self.prior.constrain(z))

        try:
            return jax.jacfwd(at)(self.coordinates)
        except TypeError as error:
            # What JAX says where a function has a rule for the backward mode alone, as a solve has by default.
            if "custom_vjp" not in str(error):
                raise
        size = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(at, self.coordinates)))
        if size > _FEW:
            raise ValueError(
                f"this quantity has {size} numbers, too many for derivatives backwards, one after another; "
                "give the solve in it the other mode: problem.density(params, ForwardMode())"
            )
        return jax.jacrev(at)(self.coordinates)

    def _known(self) -> Float[Array, "n n"]:
        if self.covariance is None:
            raise ValueError(
                "this calibration has no uncertainty: a single match, or the answer of a network; refine it, or ask "
                "for several matches"
            )
        return self.covariance


def _deviation(slope: Float[Array, "... n"], covariance: Float[Array, "n n"]) -> Float[Array, "..."]:
    """Return the standard deviations of numbers with these derivatives."""
    # By a power of two, which rounds nothing: the square of a number in an extreme unit may not exist.
    _, exponent = jnp.frexp(jnp.max(jnp.abs(slope)))
    slope = jnp.ldexp(slope, -exponent)
    return jnp.ldexp(jnp.sqrt(jnp.einsum("...i,ij,...j->...", slope, covariance, slope)), exponent)
