"""The verb `calibrate`."""

from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Key

from tumorjax.calibration.calibration import Calibration
from tumorjax.calibration.problem import Problem

# Told the stage, the share of it that is done, and the best objective so far.
Progress = Callable[[str, float, float], None]


class AbstractMethod(eqx.Module):
    """An inverse method."""

    @property
    def single_seed(self) -> bool:
        """Whether the method, or one that it begins with, knows tumours of a single seed only."""
        return any(each.single_seed for each in vars(self).values() if isinstance(each, AbstractMethod))

    @abstractmethod
    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: Progress) -> Calibration:
        """Calibrate the problem."""


def calibrate(
    problem: Problem,
    method: AbstractMethod,
    *,
    key: Key[Array, ""] | None = None,
    progress: Progress = lambda stage, share, objective: None,
) -> Calibration:
    """Find the parameters with which the model explains the observations.

    Parameters
    ----------
    problem
        Model, anatomy, observations, prior.
    method
        How: `LBFGS()`, for one.
    key
        Random key, for methods that draw random numbers.
    progress
        Called now and then with the stage's name, the share of it that is done, and the best objective.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        If the method is no method object or the problem no `Problem`; if the objective is not finite at any start.
    """
    if not isinstance(problem, Problem):
        raise ValueError(
            f"calibrate needs a Problem (model, anatomy, observations, prior), got {type(problem).__name__}"
        )
    if not isinstance(method, AbstractMethod):
        name = method.__name__ if isinstance(method, type) else repr(method)
        what = f"the class {name}; give an object of it, {name}()" if isinstance(method, type) else f"{name}; give one"
        raise ValueError(f"method must be a method object such as LBFGS(), got {what}")
    return method.run(problem, key, progress)
