"""Draws from a calibration, each with the problem that its parameters solve."""

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from jaxtyping import Array, Key

from tumorjax.calibration.problem import Parameters, Problem
from tumorjax.checks import check_count
from tumorjax.prior import AbstractDistribution, Prior

if TYPE_CHECKING:
    from tumorjax.calibration.calibration import Calibration


class Draws(NamedTuple):
    """Draws of parameters, with the problem that they are parameters of: a calibration in several brains has several.

    Parameters
    ----------
    problem
        Model, anatomy and prior.
    params
        The draws, one by one.
    """

    problem: Problem
    params: list[Parameters]


class Tumour(NamedTuple):
    """A tumour that stands for a calibration, alone or with others.

    Parameters
    ----------
    problem
        What it grows in: model and anatomy.
    params
        Its parameters.
    share
        Its share in the mean over all that stand for the calibration.
    """

    problem: Problem
    params: Parameters
    share: float = 1.0


def draws_of(
    problem: Problem,
    calibration: "Calibration",
    key: Key[Array, ""],
    count: int,
    speed: AbstractDistribution | None = None,
) -> list[Draws]:
    """Return draws from a calibration, for each brain those of it.

    Parameters
    ----------
    problem, calibration
        The problem that was calibrated, and what any method returned for it.
    key
        Random key.
    count
        Number of draws.
    speed
        mm/day: of a problem of one date the distribution of the speed of growth, which it does not show; None leaves
        the speed as it is in the problem.

    Raises
    ------
    ValueError
        If there is to be no draw, the calibration has other unknowns than the problem, or there is a distribution of
        the speed where the problem has one already, or has no speed.
    """
    check_count("count", count)
    found = calibration.drawn(problem, key, count)
    if speed is None:
        return found
    return [_at_speeds(each, speed, jax.random.fold_in(key, i)) for i, each in enumerate(found)]


def one_by_one(several: Any, count: int) -> list[Parameters]:
    """Return parameters with a leading axis as a list."""
    return [jax.tree.map(lambda leaf, i=i: leaf[i], several) for i in range(count)]


def at_unknown_speed(problem: Problem, speed: AbstractDistribution) -> Problem | None:
    """Return a problem of one date with a distribution of the speed that it assumes, of which images are independent.

    None where the speed is no assumption: with several visits, with treatments before the only one, where the prior
    has a distribution of it, or where the parameters have no speed.
    """
    unknown = problem.prior.distributions
    growth: Any = unknown.growth.at_speed(speed) if problem.anatomy is not None else None
    if growth is None or problem.calendar is not None:
        return None
    prior = Prior(dataclasses.replace(unknown, growth=growth))
    return None if prior.size == problem.prior.size else dataclasses.replace(problem, prior=prior)


def _at_speeds(draws: Draws, speed: AbstractDistribution, key: Key[Array, ""]) -> Draws:
    """Return the same tumours at speeds from a distribution."""
    problem = at_unknown_speed(draws.problem, speed)
    if problem is None:
        raise ValueError(
            "a distribution of the speed is for a problem of one date, whose speed of growth is assumed; leave it out"
        )
    drawn = speed.transport(jax.random.normal(key, (len(draws.params),), problem.dtype))
    pairs = zip(draws.params, drawn, strict=True)
    return Draws(problem, [dataclasses.replace(each, growth=each.growth.at_speed(own)) for each, own in pairs])
