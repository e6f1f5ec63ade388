"""Evaluation of problems for several searches: side by side in threads, or all in one batch."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tumorjax.calibration.problem import Fields, Problem, Shown
from tumorjax.calibration.quasi_newton import Asking, answer_together
from tumorjax.integrate import DevicePool, at_one

# Of so many voxels a hundred gradients take some seconds, in which they can be compiled.
_FEW_VOXELS = 2**17


def value_and_gradient(problem: Problem, z: Float[Array, "n"]) -> tuple[Float[Array, ""], Float[Array, "n"]]:
    """Return minus the log-posterior, nat, and its gradient in the prior's coordinates."""
    return jax.value_and_grad(lambda c: -problem.log_posterior(c))(z)


def fields(problem: Problem, z: Float[Array, "n"]) -> Shown:
    """Return the fields that images show at a point of the prior's coordinates."""
    return problem.predict(problem.prior.constrain(z))


def growth(problem: Problem, z: Float[Array, "n"]) -> tuple[Float[Array, "x y z"], Float[Array, "x y z 3"] | None]:
    """Return density and displacement at a point of the prior's coordinates; None for the latter where tissue stays."""
    if problem.anatomy is None:
        raise ValueError(f"{type(problem.model).__name__} is a law of a volume, which has no maps")
    solution = problem.solve(problem.prior.constrain(z))
    return solution.density, solution.displacement


def refined_fields(coarse: Fields, factor: int, shape: tuple[int, int, int]) -> Fields:
    """Return the fields of a coarsened problem on the original voxels; the last block of an axis may be incomplete."""
    x, y, z = shape

    def refined(field: Array) -> Array:
        for axis in range(3):
            field = jnp.repeat(field, factor, axis=axis)
        return field[:x, :y, :z]

    return jax.tree.map(refined, coarse)


def evaluate(function: Callable[[Problem, Array], Any], problem: Problem, point: Array | np.ndarray) -> Any:
    """Return a function of a problem and a point at that point, compiled once for all problems of one shape.

    It is meant for some hundred points at most. A program of few voxels takes less time for these than to be compiled.
    """
    few = not problem.model.displaces and (problem.anatomy is None or problem.anatomy.white_matter.size <= _FEW_VOXELS)
    return at_one(function, problem, jnp.asarray(point, problem.dtype), seldom=few)


def answers(
    asking: Sequence[Asking], problems: Sequence[Problem], function: Callable[[Problem, Array], Any]
) -> Iterator[Any]:
    """Run several searches, each on its own problem, side by side, and yield their results in order.

    The searches themselves go on in this thread. What they ask for is computed on all cores of a CPU, or on all local
    devices, a point of each search at a time.

    Parameters
    ----------
    asking
        The searches: generators that yield points and are sent the function there.
    problems
        One problem for each search, all of one shape.
    function
        The function of a problem and a point that the searches need.
    """
    ended: dict[int, Any] = {}
    with DevicePool() as pool:

        def ask(i: int, point: np.ndarray) -> Future[Any]:
            return pool.submit(lambda _: jax.block_until_ready(evaluate(function, problems[i], point)))

        waiting = {ask(i, next(one)): i for i, one in enumerate(asking)}
        for i in range(len(asking)):
            while i not in ended:
                for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                    number = waiting.pop(done)
                    try:
                        waiting[ask(number, asking[number].send(done.result()))] = number
                    except StopIteration as end:
                        ended[number] = end.value
            yield ended.pop(i)


def answers_together(
    asking: Sequence[Asking], problems: Sequence[Problem], function: Callable[[Problem, Array], Any]
) -> list[Any]:
    """Run several searches as `answers` does, with one batch of evaluations for all of them at a time."""
    stacked = _stack(problems)

    def all_(points: list[np.ndarray]) -> list[Any]:
        found = _compiled_together(function, stacked, jnp.asarray(np.stack(points), problems[0].dtype))
        return [jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(len(problems))]

    return answer_together(asking, all_)


def _stack(problems: Sequence[Problem]) -> Problem:
    """Return one problem with a leading axis on every array."""
    arrays, static = zip(*(eqx.partition(p, eqx.is_array_like) for p in problems), strict=True)
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *arrays)
    return eqx.combine(stacked, static[0])


@eqx.filter_jit
def _compiled_together(function: Callable[[Problem, Array], Any], problems: Problem, z: Array) -> Any:
    return eqx.filter_vmap(function, in_axes=(eqx.if_array(0), 0))(problems, z)
