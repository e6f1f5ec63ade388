"""Uncertainty around the maximum a posteriori."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from tumorjax.calibration.cost import Cost
from tumorjax.calibration.evaluation import evaluate, growth
from tumorjax.calibration.maps import Maps
from tumorjax.calibration.moments import Moments
from tumorjax.calibration.problem import Parameters, Problem, Shown
from tumorjax.integrate import ForwardMode
from tumorjax.prior import Prior


def laplace_covariance(problem: Problem, z: Float[Array, "n"]) -> Float[Array, "n n"]:
    """Return the posterior covariance of the prior's coordinates in the Laplace approximation.

    The inverse of identity (the prior's) plus the expected Fisher information of the observations,
    J^T P J with J the derivative of the predictions: one solve that carries n tangents forward, positive
    definite everywhere, and free of the noise of the labels.

    Parameters
    ----------
    problem
        The problem that was calibrated.
    z
        (n,): the maximum a posteriori in the prior's coordinates.
    """
    return evaluate(_covariance, problem, z)


def _covariance(problem: Problem, z: Float[Array, "n"]) -> Float[Array, "n n"]:
    return jnp.linalg.inv(fisher_information(problem, linearised(problem, z), jnp.zeros_like(z)))


def linearised(problem: Problem, z: Float[Array, "n"]) -> Callable[[Float[Array, "n"]], tuple[Shown, Array]]:
    """Return a function from a step in the coordinates to the fields that images show, to first order, and z there.

    The solver is run once, with tangents, and not again for each step.
    """
    shown, columns = _fields_and_columns(problem, z)

    def at(step: Float[Array, "n"]) -> tuple[Shown, Array]:
        return jax.tree.map(lambda f, c: f + jnp.tensordot(step, c, axes=1), shown, columns), z + step

    return at


def fisher_information(
    problem: Problem, at: Callable[[Float[Array, "k"]], tuple[Shown, Array]], step: Float[Array, "k"]
) -> Float[Array, "k k"]:
    """Return the expected information of the observations at a step, with the prior's identity.

    Parameters
    ----------
    problem
        The problem, for its observations and its prior.
    at
        Returns the fields that images show after a step, and the prior's coordinates there.
    step
        (k,): the step at which the information is wanted.
    """
    return sum(information_of_images(problem, at, step).values(), jnp.eye(step.size, dtype=step.dtype))


def information_of_images(
    problem: Problem, at: Callable[[Float[Array, "k"]], tuple[Shown, Array]], step: Float[Array, "k"]
) -> dict[str, Float[Array, "k k"]]:
    """Return the expected information of each image, by the name that it has of its own; see `fisher_information`."""

    def expectations(step: Array) -> dict[str, list[tuple[Array, Array]]]:
        shown, z = at(step)
        params = problem.prior.constrain(z)
        seen = problem.seen(shown)
        return {own: list(o.expected(field, params.observations[name])) for own, name, o, field in seen}

    def means(step: Array) -> dict[str, list[Array]]:
        return {own: [mean for mean, _ in pairs] for own, pairs in expectations(step).items()}

    directions = jnp.eye(step.size, dtype=step.dtype)
    slopes = jax.vmap(lambda direction: jax.jvp(means, (step,), (direction,))[1])(directions)

    def information(slope: Array, precision: Array) -> Array:
        rows = slope.reshape(step.size, -1)
        return (rows * precision.reshape(1, -1)) @ rows.T

    return {
        own: sum(
            (information(slope, precision) for slope, (_, precision) in zip(slopes[own], pairs, strict=True)),
            jnp.zeros_like(directions),
        )
        for own, pairs in expectations(step).items()
    }


def _fields_and_columns(problem: Problem, z: Array) -> tuple[Shown, Shown]:
    """Return the fields that images show, and their derivative in every coordinate as (n, x, y, z)."""
    params = problem.prior.constrain(z)
    rest = {name: value for name, value in problem.prior.unknown(params).items() if not _moves(name)}

    def grown(moving: dict[str, Any]) -> Shown:
        return problem.predict(problem.prior.completed({**rest, **moving}, z.dtype), ForwardMode())

    # Only growth and treatments move the fields: carry as many tangents as they have unknown numbers, and no more.
    flat, unravel = ravel_pytree(_moving(problem.prior, params))
    slopes = _slopes_of_growth(problem.prior, z)
    # Tangents of a standard deviation of the prior: in single precision, squares of those of a pascal would vanish, and
    # with them solves that are run forwards.
    sizes = jnp.abs(slopes).max(axis=1)

    def both(direction: Array) -> tuple[Shown, Shown]:
        return jax.jvp(lambda numbers: grown(unravel(numbers)), (flat,), (direction,))

    # One loop carries the fields, which are the same for all directions, and their tangents. `jax.linearize` would make
    # one for the fields, and a second one for these and the tangents: with mass effect a program two thirds larger.
    same, columns = jax.vmap(both)(jnp.diag(sizes))
    shown = jax.tree.map(lambda field: field[0], same)
    shares = slopes / jnp.where(sizes > 0, sizes, 1)[:, None]
    return shown, jax.tree.map(lambda column: jnp.tensordot(shares.T, column, axes=1), columns)


def laplace_maps(problem: Problem, z: Float[Array, "n"], covariance: Float[Array, "n n"] | None) -> Maps:
    """Return density and displacement at a point, and their standard deviations under the Laplace approximation there.

    The deviations are those of the third-degree spherical cubature rule over the coordinates of the growth: exact for
    linear and quadratic functions, deterministic, and aware that densities stay in [0, 1], which the derivative is not.
    It costs two solves for each coordinate. Without a covariance the deviations are zero.

    Parameters
    ----------
    problem
        The problem that was calibrated.
    z, covariance
        (n,), (n, n): the maximum a posteriori and the covariance, in the prior's coordinates.

    References
    ----------
    Arasaratnam and Haykin, "Cubature Kalman filters", IEEE Trans. Automatic Control 54 (2009).
    """
    density, displacement = _grown(problem, np.asarray(z))
    points = [] if covariance is None else _cubature_points(problem, np.asarray(z, float), covariance)
    densities, displacements = Moments(), Moments()
    for point in points:
        for sums, field in zip((densities, displacements), _grown(problem, point), strict=True):
            if field is not None:
                sums.add(field)
    still = np.zeros_like(density)
    return Maps(
        density=density,
        deviation=densities.deviation if points else still,
        displacement=displacement,
        displacement_deviation=(
            None if displacement is None else np.linalg.norm(displacements.deviation, axis=-1) if points else still
        ),
        # The Laplace approximation itself has taken a solve that carried the tangents.
        cost=Cost(solves=1 + len(points) + (covariance is not None)),
    )


def _cubature_points(problem: Problem, z: np.ndarray, covariance: Array) -> list[np.ndarray]:
    """Return the points of the cubature rule in the coordinates on which the growth depends."""
    # On the host: of the small operations each would be compiled by itself.
    moving = np.flatnonzero(np.asarray(_slopes_of_growth(problem.prior, jnp.asarray(z, problem.dtype))).any(axis=0))
    spread = np.asarray(covariance, float)[np.ix_(moving, moving)]
    points = []
    for column in np.linalg.cholesky(spread).T * np.sqrt(moving.size):
        for sign in (1, -1):
            point = z.copy()
            point[moving] += sign * column
            points.append(point)
    return points


def _grown(problem: Problem, point: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return density and displacement at a point, in double precision."""
    density, displacement = evaluate(growth, problem, point)
    return np.asarray(density, float), None if displacement is None else np.asarray(displacement, float)


@eqx.filter_jit
def _slopes_of_growth(prior: Prior, z: Array) -> Array:
    """Return the derivative of the unknown numbers of growth and treatments by the coordinates, (g, n)."""
    return jax.jacfwd(lambda c: ravel_pytree(_moving(prior, prior.constrain(c)))[0])(z)


def _moving(prior: Prior, params: Parameters) -> dict[str, Any]:
    """Return the unknown values on which the fields depend, by name; a known density at time zero is none of them."""
    return {name: value for name, value in prior.unknown(params).items() if _moves(name)}


def _moves(name: str) -> bool:
    return name.startswith(("growth.", "treatments."))
