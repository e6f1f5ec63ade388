"""Uncertainty around the maximum a posteriori."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from tumorjax.calibration.problem import Fields, Parameters, Problem
from tumorjax.integrate import ForwardMode


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
    fields, columns = _fields_and_columns(problem, z)

    def at(step: Float[Array, "n"]) -> tuple[Fields, Array]:
        # The solver enters through its derivative, so that it is not run again for each direction.
        return jax.tree.map(lambda f, c: f + jnp.tensordot(step, c, axes=1), fields, columns), z + step

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
        fields, z = at(step)
        params = problem.prior.constrain(z)
        return [
            pair
            for observation, p in zip(problem.observations, params.observations, strict=True)
            for pair in observation.expected(getattr(fields, observation.shows), p)
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
    fields, push = jax.linearize(lambda g: grown(unravel(g)), flat)
    columns = jax.vmap(push)(jnp.eye(flat.size, dtype=flat.dtype))
    slopes = jax.jacfwd(lambda c: ravel_pytree(problem.prior.constrain(c).growth)[0])(z)
    return fields, jax.tree.map(lambda column: jnp.tensordot(slopes.T, column, axes=1), columns)


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
    slopes = jax.jacfwd(lambda c: ravel_pytree(problem.prior.constrain(c).growth)[0])(z)
    moving = jnp.flatnonzero(jnp.any(slopes != 0, axis=0))
    factor = jnp.linalg.cholesky(covariance[jnp.ix_(moving, moving)]) * jnp.sqrt(jnp.asarray(moving.size, z.dtype))
    total = square = jnp.zeros(problem.anatomy.grid.shape, z.dtype)
    for column in factor.T:
        for sign in (1, -1):
            density = _density(problem, z.at[moving].add(sign * column))
            total, square = total + density, square + density**2
    count = 2 * moving.size
    deviation = jnp.sqrt(jnp.maximum(square / count - (total / count) ** 2, 0))
    return _density(problem, z), deviation


@eqx.filter_jit
def _density(problem: Problem, z: Array) -> Array:
    return problem.density(problem.prior.constrain(z))
