"""L-BFGS over a few parameters with gradients by differences of forward solves, as published."""

from collections.abc import Callable, Generator

import jax.numpy as jnp
import numpy as np

from tumorjax.calibration.problem import Fields, Problem
from tumorjax.calibration.quasi_newton import Direction
from tumorjax.calibration.scoring import Scored, minus_log_posterior, moves_growth

ITERATIONS = 50
"""Most quasi-Newton iterations of the paper."""

# Armijo's constant, and the halvings of a step after which there is no way down.
_DECREASE, _HALVINGS = 1e-4, 12


def by_differences(
    problem: Problem,
    start: np.ndarray,
    moving: np.ndarray,
    *,
    iterations: int = ITERATIONS,
    gradient_tolerance: float = 1e-3,
    change_tolerance: float = 1e-3,
    difference: float = 0.02,
    progress: Callable[[int, float], None] = lambda iteration, value: None,
) -> Generator[np.ndarray, Fields, Scored]:
    """Minimise minus the log-posterior over some coordinates as the multi-atlas paper does its misfit.

    The gradient is by one-sided differences, one forward solve for each coordinate on which the growth depends, and
    Armijo's condition alone ends a line search. It is here for comparison: `scoring` needs a fraction of the solves.

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
    gradient_tolerance
        Stop where the norm of the gradient is this share of that at the start.
    change_tolerance
        Stop where an iteration gains less than this share of what all have gained. The paper's is a share of the
        misfit; a log-posterior has constants, of which no share can be taken.
    difference
        Step of the differences, in the prior's coordinates: well above the tolerance of the elasticity solves.
    progress
        Receives the number of iterations and the value.

    Yields
    ------
    point
        The next point at which it needs the fields. In the end it returns a `Scored` without information.

    References
    ----------
    Subramanian, Scheufele, Himthani, Biros, MICCAI 2020, section 2.1 and table S1.
    """
    indices = np.flatnonzero(moving)

    def value_of(point: np.ndarray, fields: Fields) -> float:
        return float(minus_log_posterior(problem, fields, jnp.asarray(point, fields.density.dtype)))

    start = np.asarray(start, float)
    solved = {i for i in indices.tolist() if moves_growth(problem, start, i)}
    fields = yield start
    best = Scored(start, value_of(start, fields), fields, indices, np.eye(0))
    best.history.append(best.value)
    direction_of, first = Direction(start[indices]), None
    for iteration in range(iterations):
        progress(iteration, best.value)
        gradient = np.zeros(len(indices))
        for k, i in enumerate(indices):
            shifted = best.point + difference * np.eye(len(start))[i]
            fields = best.fields
            if i in solved:
                fields = yield shifted
                best.solves += 1
            gradient[k] = (value_of(shifted, fields) - best.value) / difference
        length = float(np.linalg.norm(gradient))
        first = length if first is None else first
        if not np.isfinite(length) or length <= gradient_tolerance * first:
            return best
        direction = direction_of(gradient, best.point[indices])
        slope, step = float(gradient @ direction), 1.0
        if iteration == 0:
            # Without curvature pairs the direction has the gradient's length: begin with a step of half a unit.
            step = min(1.0, 0.5 / length)
        for _ in range(_HALVINGS):
            trial = best.point.copy()
            trial[indices] += step * direction
            fields = yield trial
            best.solves += 1
            value = value_of(trial, fields)
            if value <= best.value + _DECREASE * step * slope:
                break
            step /= 2
        else:
            return best
        gained = best.value - value
        best.point, best.value, best.fields = trial, value, fields
        best.history.append(value)
        if gained < change_tolerance * (best.history[0] - value):
            return best
    return best
