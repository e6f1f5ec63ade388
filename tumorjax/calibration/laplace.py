"""Uncertainty around the maximum a posteriori."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from tumorjax.calibration.evaluation import evaluate, fields
from tumorjax.calibration.problem import Fields, Parameters, Problem
from tumorjax.integrate import ForwardMode
from tumorjax.prior import Prior


@eqx.filter_jit
def laplace_covariance(problem: Problem, z: Float[Array, "n"]) -> Float[Array, "n n"]:
    """Return the posterior covariance of the prior's coordinates in the Laplace approximation.

    The inverse of identity (the prior's) plus the expected Fisher information of the observations,
    J^T P J with J the derivative of the predictions: one solve that carries n tangents forward, positive
    definite everywhere, and free of the noise of the labels.

    Parameters
    ----------
    problem
        What was calibrated.
    z
        (n,): the maximum a posteriori in the prior's coordinates.
    """
    shown, columns = _fields_and_columns(problem, z)

    def at(step: Float[Array, "n"]) -> tuple[Fields, Array]:
        # The solver enters through its derivative, so that it is not run again for each direction.
        return jax.tree.map(lambda f, c: f + jnp.tensordot(step, c, axes=1), shown, columns), z + step

    return jnp.linalg.inv(fisher_information(problem, at, jnp.zeros_like(z)))


def fisher_information(
    problem: Problem, at: Callable[[Float[Array, "k"]], tuple[Fields, Array]], step: Float[Array, "k"]
) -> Float[Array, "k k"]:
    """Return the expected information of the observations at a step, with the prior's identity.

    Parameters
    ----------
    problem
        Whose observations.
    at
        Gives what images show after a step, and the prior's coordinates there.
    step
        (k,).
    """

    def expectations(step: Array) -> list[tuple[Array, Array]]:
        shown, z = at(step)
        params = problem.prior.constrain(z)
        return [
            pair
            for observation, p in zip(problem.observations, params.observations, strict=True)
            for pair in observation.expected(getattr(shown, observation.shows), p)
        ]

    information = jnp.eye(step.size, dtype=step.dtype)
    slopes = jax.vmap(lambda direction: jax.jvp(lambda s: [m for m, _ in expectations(s)], (step,), (direction,))[1])(
        information
    )
    for slope, (_, precision) in zip(slopes, expectations(step), strict=True):
        rows = slope.reshape(step.size, -1)
        information = information + (rows * precision.reshape(1, -1)) @ rows.T
    return information


def _fields_and_columns(problem: Problem, z: Array) -> tuple[Fields, Fields]:
    """Return what images show, and its derivative in every coordinate as (n, x, y, z)."""
    params = problem.prior.constrain(z)

    def grown(growth: object) -> Fields:
        return problem.predict(Parameters(growth, params.observations), ForwardMode())

    # Only the growth moves the fields: carry as many tangents as it has numbers, and no more.
    flat, unravel = ravel_pytree(params.growth)
    shown, push = jax.linearize(lambda g: grown(unravel(g)), flat)
    columns = jax.vmap(push)(jnp.eye(flat.size, dtype=flat.dtype))
    slopes = _slopes_of_growth(problem.prior, z)
    return shown, jax.tree.map(lambda column: jnp.tensordot(slopes.T, column, axes=1), columns)


def density_and_deviation(
    problem: Problem, z: Float[Array, "n"], covariance: Float[Array, "n n"]
) -> tuple[Float[Array, "x y z"], Float[Array, "x y z"]]:
    """Return the density at a point, and its standard deviation under the Laplace approximation there.

    The deviation is that of the third-degree spherical cubature rule over the coordinates of the growth: exact
    for linear and quadratic functions, deterministic, and aware that densities stay in [0, 1], which the derivative
    is not. Costs two solves a coordinate.

    Parameters
    ----------
    problem
        What was calibrated.
    z, covariance
        (n,), (n, n): the maximum a posteriori and the covariance, in the prior's coordinates.

    References
    ----------
    Arasaratnam and Haykin, "Cubature Kalman filters", IEEE Trans. Automatic Control 54 (2009).
    """
    # On the host: of the small operations each would be compiled by itself.
    moving = np.flatnonzero(np.asarray(_slopes_of_growth(problem.prior, z)).any(axis=0))
    spread = np.asarray(covariance, float)[np.ix_(moving, moving)]
    total = square = np.zeros(problem.anatomy.grid.shape)
    for column in np.linalg.cholesky(spread).T * np.sqrt(moving.size):
        for sign in (1, -1):
            point = np.array(z, float)
            point[moving] += sign * column
            density = np.asarray(evaluate(fields, problem, point).density, float)
            total, square = total + density, square + density**2
    count = 2 * moving.size
    deviation = np.sqrt(np.maximum(square / count - (total / count) ** 2, 0))
    return evaluate(fields, problem, np.asarray(z)).density, jnp.asarray(deviation, z.dtype)


@eqx.filter_jit
def _slopes_of_growth(prior: Prior, z: Array) -> Array:
    """Return the derivative of the numbers of the growth by the coordinates, (g, n)."""
    return jax.jacfwd(lambda c: ravel_pytree(prior.constrain(c).growth)[0])(z)
