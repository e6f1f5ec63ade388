"""L-BFGS with a strong-Wolfe line search, driven from the host one evaluation at a time.

The search is a generator: it yields points and is sent value and gradient there, so that several searches can go on
side by side with one evaluation for all of them.
"""

import functools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from tumorjax.calibration.result import CalibrationResult

# Armijo and curvature constants of Nocedal and Wright, section 3.1, as for every quasi-Newton method.
_DECREASE, _CURVATURE = 1e-4, 0.9
_MAX_TRIALS = 12

ValueAndGradient = Callable[[np.ndarray], tuple[float, np.ndarray]]
Asking = Generator[np.ndarray, Any, Any]
"""A search that yields points, is sent the values there, and returns its result."""


@dataclass
class Minimum:
    """The result of a minimisation.

    Parameters
    ----------
    point, value, gradient
        The best point found, and the objective and its gradient there.
    result
        Why it stopped.
    history
        The objective after each iteration, the start first.
    evaluations
        Number of evaluations of value and gradient.
    """

    point: np.ndarray
    value: float
    gradient: np.ndarray
    result: CalibrationResult
    history: list[float] = field(default_factory=list)
    evaluations: int = 0


def minimise(objective: ValueAndGradient, start: np.ndarray, **settings: Any) -> Minimum:
    """Minimise a function; see `search` for the settings."""
    return answer(search(start, **settings), objective)


def answer(asking: Asking, objective: Callable[[np.ndarray], Any]) -> Any:
    """Run a search, which yields the points at which it needs the objective, and return its result."""
    try:
        point = next(asking)
        while True:
            point = asking.send(objective(point))
    except StopIteration as done:
        return done.value


def answer_together(asking: Sequence[Asking], objective: Callable[[list[np.ndarray]], list[Any]]) -> list[Any]:
    """Run searches side by side, each on its own objective, with one evaluation of all objectives at a time.

    For a search that has finished its last point is evaluated again, and the result is dropped.
    """
    ended: dict[int, Any] = {}
    points = [next(one) for one in asking]
    while len(ended) < len(asking):
        for i, values in enumerate(objective(points)):
            if i not in ended:
                try:
                    points[i] = asking[i].send(values)
                except StopIteration as done:
                    ended[i] = done.value
    return [ended[i] for i in range(len(asking))]


def search(
    start: np.ndarray,
    *,
    budget: int,
    gradient_tolerance: float,
    value_tolerance: float,
    memory: int = 10,
    progress: Callable[[int, float], None] = lambda evaluations, value: None,
) -> Asking:
    """Minimise a function of few variables whose gradient costs as much as several evaluations.

    The direction is optax's L-BFGS; the loop runs on the host, because inside a compiled program the
    objective would be compiled once for each place of the line search that evaluates it, which takes longer
    than the minimisation.

    Parameters
    ----------
    start
        (n,).
    budget
        Largest number of evaluations.
    gradient_tolerance
        Stop where the largest component of the gradient is below this.
    value_tolerance
        Stop where two iterations together improve the objective by less than this.
    memory
        Number of pairs that the L-BFGS approximation keeps.
    progress
        Receives the number of evaluations and the best value so far, after each evaluation.

    Yields
    ------
    point
        The next point at which it needs value and gradient. In the end it returns a `Minimum`.
    """
    value, gradient = _on_host((yield start))
    best = Minimum(start, value, gradient, CalibrationResult.BUDGET, [value], 1)
    if not (np.isfinite(value) and np.all(np.isfinite(gradient))):
        best.result = CalibrationResult.NOT_FINITE
        return best
    direction_of = Direction(start, memory)
    while True:
        if np.abs(best.gradient).max() < gradient_tolerance:
            best.result = CalibrationResult.GRADIENT
            return best
        if len(best.history) > 3 and best.history[-3] - best.value < value_tolerance:
            best.result = CalibrationResult.VALUE
            return best
        direction = direction_of(best.gradient, best.point)
        # Without curvature pairs the direction has the gradient's length: begin with a step of half a unit.
        step = min(1.0, 0.5 / float(np.linalg.norm(direction))) if len(best.history) == 1 else 1.0
        found = yield from _line_search(best, direction, step, budget, progress)
        if found is None:
            best.result = CalibrationResult.BUDGET if best.evaluations >= budget else CalibrationResult.LINE_SEARCH
            return best
        best.point, best.value, best.gradient = found
        best.history.append(best.value)
        if best.evaluations >= budget:
            return best


class Direction:
    """Directions of descent by optax's L-BFGS, for successive gradients and points.

    Parameters
    ----------
    start
        (n,): where the search begins.
    memory
        Number of pairs that the approximation keeps.
    """

    def __init__(self, start: np.ndarray, memory: int = 10) -> None:
        self._memory, self._state = memory, optax.scale_by_lbfgs(memory).init(jnp.asarray(start))

    def __call__(self, gradient: np.ndarray, point: np.ndarray) -> np.ndarray:
        """Return minus the gradient times the approximate inverse Hessian, or minus the gradient if that ascends."""
        # optax mixes integer types, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            found, self._state = _scaled(self._memory, jnp.asarray(gradient), self._state, jnp.asarray(point))
        direction = -np.asarray(found)
        return direction if gradient @ direction < 0 else -gradient


@functools.partial(jax.jit, static_argnums=0)
def _scaled(memory: int, gradient: Array, state: Any, point: Array) -> tuple[Any, Any]:
    """Return the gradient times the approximate inverse Hessian, compiled once for all searches."""
    return optax.scale_by_lbfgs(memory).update(gradient, state, point)


def _line_search(
    best: Minimum,
    direction: np.ndarray,
    step: float,
    budget: int,
    progress: Callable[[int, float], None],
) -> Asking:
    """Return a point that satisfies the strong Wolfe conditions, or the best that decreases enough, or None.

    The step grows by a factor of 2.5 until the minimum is bracketed; then the search narrows the bracket by safeguarded
    cubic interpolation between its ends (Nocedal and Wright, algorithms 3.5 and 3.6, equation 3.59).
    """
    slope = float(best.gradient @ direction)
    low, high = (0.0, best.value, slope), None
    accepted = None
    for _ in range(_MAX_TRIALS):
        if best.evaluations >= budget:
            break
        point = best.point + step * direction
        value, gradient = _on_host((yield point))
        best.evaluations += 1
        new = (step, value, float(gradient @ direction))
        decreases = np.isfinite(value) and value <= best.value + _DECREASE * step * slope
        if decreases and (accepted is None or value < accepted[1]):
            accepted = (point, value, gradient)
        progress(best.evaluations, accepted[1] if accepted else best.value)
        if decreases and abs(new[2]) <= -_CURVATURE * slope:
            return accepted
        if not decreases or (value >= low[1] and low[0] > 0):
            high = new
        elif new[2] >= 0:
            low, high = new, low
        else:
            low = new
        if high is None:
            step = 2.5 * step
        else:
            step = _cubic(low, high, 0.5 * (low[0] + high[0]))
            width = abs(high[0] - low[0])
            step = float(np.clip(step, min(low[0], high[0]) + 0.1 * width, max(low[0], high[0]) - 0.1 * width))
    return accepted


def _cubic(a: tuple[float, float, float], b: tuple[float, float, float], fallback: float) -> float:
    """Return the minimiser of the cubic through two points (step, value, slope), or a fallback where it has none."""
    if a[0] == b[0] or not np.all(np.isfinite([*a, *b])):
        return fallback
    d1 = a[2] + b[2] - 3 * (a[1] - b[1]) / (a[0] - b[0])
    square = d1**2 - a[2] * b[2]
    if square < 0:
        return fallback
    d2 = np.sign(b[0] - a[0]) * np.sqrt(square)
    denominator = b[2] - a[2] + 2 * d2
    return float(b[0] - (b[0] - a[0]) * (b[2] + d2 - d1) / denominator) if denominator else fallback


def _on_host(sent: tuple[Any, Any]) -> tuple[float, np.ndarray]:
    return float(sent[0]), np.asarray(sent[1], float)
