"""What screens the solves of a sampler: a cheaper problem, whose posterior proposals must pass first."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tumorjax.calibration.problem import Problem
from tumorjax.growth import AbstractGrowth, LearnedGrowth
from tumorjax.io import InputError
from tumorjax.methods.registry import check_libraries
from tumorjax.methods.sampling.marginal import MarginalTarget
from tumorjax.methods.sampling.target import AbstractTarget, Screened
from tumorjax.option import Option

Screen = int | AbstractGrowth | Problem | None
"""Coarser voxels, by the factor between them and the problem's; another model of growth in place of the problem's, such
as a surrogate, which grows without fibres; or any problem over the same unknowns. None is no screen."""

# Factor of the coarser voxels that the command takes.
_COARSE = 2
SCREENS = ("surrogate", "coarse", "none")
SCREEN = Option(
    "screen",
    "solve the problem only for proposals that a cheaper one accepts first (delayed acceptance), which changes the "
    "cost, not the posterior: coarse, on voxels twice as long; surrogate, by the network of the package (needs "
    "'tumorjax[networks]'); none (default: for tmcmc coarse where voxels are 3 mm or less, otherwise none)",
    metavar="NAME",
    choices=SCREENS,
)


def screen_named(options: Mapping[str, Any], default: Screen = None) -> Screen:
    """Return the screen that the options of a command name.

    Raises
    ------
    InputError
        If a surrogate is asked for and its library is not installed.
    """
    match options.get("screen"):
        case None:
            return default
        case "coarse":
            return _COARSE
        case "surrogate":
            check_libraries("screen: surrogate", ("flax",), "networks")
            from tumorjax.networks import load_surrogate

            return LearnedGrowth.of(load_surrogate())
        case "none":
            return None
        case other:
            raise InputError(f"screen: got {other}; give one of {', '.join(SCREENS)}")


def check_screen(screen: Screen) -> None:
    """Raise a ValueError where something cannot screen any problem."""
    if isinstance(screen, bool) or not isinstance(screen, int | AbstractGrowth | Problem | None):
        raise ValueError(
            f"screen must be a factor between voxels, a model of growth, a problem, or None, got {screen!r:.60}"
        )
    if isinstance(screen, int) and screen < 2:
        raise ValueError(f"screen must be at least 2 if it is a factor between voxels, got {screen}; None is no screen")


def refuses_screen(problem: Problem, screen: Screen) -> str | None:
    """Return in one line why a screen cannot stand for a problem; None if it can."""
    if isinstance(screen, Problem):
        other = screen.prior.names
        if other != problem.prior.names:
            return f"the screen has the unknowns {', '.join(other)}; give a problem over those of the problem itself"
        if MarginalTarget(screen).kept != MarginalTarget(problem).kept:
            return "the unknowns of images are shared otherwise in the screen; give it the prior of the problem itself"
    if isinstance(screen, AbstractGrowth):
        title = screen.title or type(screen).__name__
        if problem.anatomy is None:
            return f"the screen, {title}, grows tumours in space, got a law of a volume; leave it out"
        if not isinstance(problem.prior.distributions.growth, screen.parameters) or problem.model.displaces:
            return f"the screen, {title}, does not grow what the problem's model does; take coarser voxels as a screen"
    return None


def screened(problem: Problem, screen: Screen) -> AbstractTarget:
    """Return the target of a problem, with that of its screen beside it if there is one."""
    target = MarginalTarget(problem)
    if screen is None:
        return target
    if isinstance(screen, int):
        cheap = problem.coarsen(screen)
    elif isinstance(screen, AbstractGrowth):
        # A screen may be wrong: a surrogate, which knows no fibres, stands for growth along them all the same.
        anatomy = dataclasses.replace(problem.anatomy, fibres=None)
        cheap = dataclasses.replace(problem, model=screen, anatomy=anatomy, stepper=None)
    else:
        cheap = screen
    return Screened(target, MarginalTarget(cheap))
