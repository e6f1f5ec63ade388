"""Fisher scoring over a few parameters that a scan determines well, with derivatives by differences of solves."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tumorjax.calibration.laplace import fisher_information
from tumorjax.calibration.problem import Fields, Problem

# Levenberg and Marquardt's damping: at first, its factor after success and failure, and where there is no way down.
_DAMPING, _EASE, _TIGHTEN, _STUCK = 1e-3, 0.2, 8.0, 1e3
# Derivatives are good enough while a step gains this share of what they predict.
_KEPT_PROMISE = 0.5


@dataclass
class Scored:
    """The result of a search by Fisher scoring.

    Parameters
    ----------
    point, value
        The best point, and minus the log-posterior there, nat.
    fields
        The fields that images show there.
    moved
        (k,): indices of the coordinates that could move.
    information
        (k, k): Fisher information of these, with the prior's.
    derivatives
        Derivatives of the fields with respect to each coordinate on which the growth depends.
    history
        The value after each iteration, the start first.
    solves
        Number of forward solves.
    """

    point: np.ndarray
    value: float
    fields: Fields
    moved: np.ndarray
    information: np.ndarray
    derivatives: dict[int, Fields] = field(default_factory=dict)
    history: list[float] = field(default_factory=list)
    solves: int = 1


def scoring(
    problem: Problem,
    start: np.ndarray,
    moving: np.ndarray,
    *,
    iterations: int,
    value_tolerance: float,
    difference: float = 0.02,
    derivatives: dict[int, Fields] | None = None,
    progress: Callable[[int, float], None] = lambda iteration, value: None,
) -> Generator[np.ndarray, Fields, Scored]:
    """Minimise minus the log-posterior over some coordinates by damped Fisher scoring.

    The Hessian is the expected information, as of `laplace_covariance`; derivatives of the images are one-sided
    differences, one forward solve for each coordinate on which the growth depends. For three coordinates that is
    cheaper than an adjoint solve, and the method takes a handful of iterations where quasi-Newton methods take twenty.
    As long as steps gain as much as the derivatives predict, these are not computed again but follow the steps by
    Broyden's update.

    Parameters
    ----------
    problem
        The problem that is calibrated.
    start
        (n,), in the prior's coordinates.
    moving
        (n,), bool: the coordinates that may move.
    iterations
        Largest number of iterations.
    value_tolerance
        nat: stop where an iteration promises to gain, or gains, less than this.
    difference
        Step of the differences, in the prior's coordinates: well above the tolerance of the elasticity solves.
    derivatives
        Derivatives of the fields at the start, if an estimate is known, for example from coarser voxels.
    progress
        Receives the number of iterations and the value.

    Yields
    ------
    point
        The next point at which it needs the fields. In the end it returns a `Scored`.

    References
    ----------
    Moré, "The Levenberg-Marquardt algorithm: implementation and theory", Numerical Analysis 1977. Broyden, "A class of
    methods for solving nonlinear simultaneous equations", Mathematics of Computation 19 (1965).
    """
    indices = np.flatnonzero(moving)
    solved = [i for i in indices.tolist() if moves_growth(problem, start, i)]
    fields = yield start
    value = float(minus_log_posterior(problem, fields, jnp.asarray(start, fields.density.dtype)))
    best = Scored(start, value, fields, indices, np.eye(0))
    best.history.append(best.value)
    best.derivatives = derivatives or {}
    damping, iteration, fresh = _DAMPING, 0, False
    while True:
        if not best.derivatives:
            for i in solved:
                shifted = yield best.point + difference * np.eye(len(start))[i]
                best.solves += 1
                best.derivatives[i] = jax.tree.map(lambda a, b: (a - b) / difference, shifted, best.fields)
            fresh = True
        gradient, best.information = _model(problem, best)
        if iteration == iterations or not np.all(np.isfinite(best.information)):
            return best
        progress(iteration, best.value)
        while True:
            step = np.zeros(len(start))
            system = best.information + damping * np.diag(np.diag(best.information))
            step[indices] = -np.linalg.solve(system, gradient)
            promised = -float(gradient @ step[indices] + 0.5 * step[indices] @ best.information @ step[indices])
            if promised < value_tolerance:
                return best
            step = np.clip(step, -1.5, 1.5)
            fields = yield best.point + step
            best.solves += 1
            value = float(minus_log_posterior(problem, fields, jnp.asarray(best.point + step, fields.density.dtype)))
            if value < best.value or not fresh:
                break
            damping *= _TIGHTEN
            if damping > _STUCK:
                return best
        gained = best.value - value
        if gained > 0:
            best.derivatives = _updated(best.derivatives, jax.tree.map(jnp.subtract, fields, best.fields), step)
            best.point, best.value, best.fields = best.point + step, value, fields
            best.history.append(value)
            iteration += 1
            damping *= _EASE
            if fresh and gained < value_tolerance:
                return best
        # Also where a solve failed, so that what was gained is no number.
        if not gained >= _KEPT_PROMISE * promised and iteration < iterations:
            best.derivatives = {}
        fresh = False


def moves_growth(problem: Problem, point: np.ndarray, index: int) -> bool:
    """Return whether the growth depends on a coordinate."""
    z = jnp.asarray(point)
    tangent = jnp.zeros_like(z).at[index].set(1)
    _, slope = jax.jvp(lambda c: problem.prior.constrain(c).growth, (z,), (tangent,))
    return any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(slope))


def _updated(derivatives: dict[int, Fields], change: Fields, step: np.ndarray) -> dict[int, Fields]:
    """Return derivatives that reproduce the change of the last step and differ least from before (Broyden's update)."""
    length = sum(float(step[i]) ** 2 for i in derivatives)
    if length == 0:
        return derivatives
    missed = change
    for i, column in derivatives.items():
        missed = jax.tree.map(lambda m, c, by=float(step[i]): m - by * c, missed, column)
    return {
        i: jax.tree.map(lambda c, m, by=float(step[i]) / length: c + by * m, column, missed)
        for i, column in derivatives.items()
    }


def _model(problem: Problem, best: Scored) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradient and the expected Hessian over the moving coordinates."""
    dtype = best.fields.density.dtype
    zero = jax.tree.map(jnp.zeros_like, best.fields)
    columns = [best.derivatives.get(i, zero) for i in best.moved.tolist()]
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *columns)
    z = jnp.asarray(best.point, dtype)
    gradient, information = _gradient_and_information(problem, best.fields, stacked, z, jnp.asarray(best.moved))
    return np.asarray(gradient, float), np.asarray(information, float)


@eqx.filter_jit
def minus_log_posterior(problem: Problem, fields: Fields, z: Array) -> Array:
    """Return minus the log-posterior, nat, where a solve has given these fields."""
    return 0.5 * jnp.sum(z**2) - problem.log_likelihood(fields, problem.prior.constrain(z))


@eqx.filter_jit
def _gradient_and_information(
    problem: Problem, fields: Fields, columns: Fields, z: Array, indices: Array
) -> tuple[Array, Array]:
    def at(step: Array) -> tuple[Fields, Array]:
        linear = jax.tree.map(lambda f, c: f + jnp.tensordot(step, c, axes=1), fields, columns)
        return linear, z.at[indices].add(step)

    none = jnp.zeros(indices.shape, z.dtype)
    gradient = jax.grad(lambda step: minus_log_posterior(problem, *at(step)))(none)
    return gradient, fisher_information(problem, at, none)
