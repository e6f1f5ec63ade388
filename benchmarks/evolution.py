"""CMA-ES as a method of calibration: the common gradient-free baseline of the field."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from tumorjax import Calibration, CalibrationResult, Problem
from tumorjax.calibration.cost import Cost
from tumorjax.calibration.evaluation import evaluate
from tumorjax.calibration.method import AbstractMethod
from tumorjax.methods.search.starts import starting_points
from tumorjax.progress import SearchProgress


class EvolutionStats(NamedTuple):
    """Minus the log-posterior at the end, nat."""

    objective: float


class CMAES(AbstractMethod):
    """The covariance matrix adaptation evolution strategy of the library `cma`, on the log-posterior [1]_.

    Parameters
    ----------
    budget
        Largest number of solves of the model.
    width
        Standard deviation of the first generation, in the prior's coordinates.

    References
    ----------
    .. [1] N. Hansen, "The CMA evolution strategy: a tutorial", 2016, arXiv:1604.00772.
    """

    budget: int = eqx.field(static=True, default=1000)
    width: float = eqx.field(static=True, default=0.5)

    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: SearchProgress) -> Calibration:
        """Search from the start that the outlines' geometry suggests, as in `LBFGS`; `key` determines the seed."""
        import cma

        seed = 1 if key is None else int(jax.random.randint(key, (), 1, 2**31 - 1))
        (start,) = starting_points(problem, 1)
        options = {"seed": seed, "maxfevals": self.budget, "verbose": -9, "verb_log": 0}
        search = cma.CMAEvolutionStrategy(start, self.width, options)
        while not search.stop():
            points = search.ask()
            search.tell(points, [float(evaluate(_loss, problem, point)) for point in points])
            progress("evolution", min(search.countevals / self.budget, 1.0), float(search.result.fbest))
        z = jnp.asarray(search.result.xbest, problem.anatomy.dtype)
        return Calibration(
            problem.prior.constrain(z),
            problem.prior,
            z,
            None,
            CalibrationResult.BUDGET,
            EvolutionStats(float(search.result.fbest)),
            cost=Cost(solves=int(search.countevals)),
        )


def _loss(problem: Problem, z: Array) -> Any:
    # A solve that fails is as bad as can be, and not NaN.
    return jnp.nan_to_num(-problem.log_posterior(z), nan=1e9, posinf=1e9)
