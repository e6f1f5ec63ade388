"""The problems of the multi-atlas inversion's stages: without mass effect, in an atlas, with few Gaussians."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from tumorjax.anatomy import Anatomy
from tumorjax.calibration.differences import ITERATIONS, by_differences
from tumorjax.calibration.evaluation import answers, answers_together, fields
from tumorjax.calibration.foci import core_and_lesion
from tumorjax.calibration.problem import Fields, Parameters, Problem
from tumorjax.calibration.quasi_newton import Asking
from tumorjax.calibration.scoring import Scored, scoring
from tumorjax.growth import GaussianBasis, MassEffectParams, ScaledGrowthParams
from tumorjax.growth.gaussian_basis import held
from tumorjax.integrate import FlowSplitting
from tumorjax.methods.checkpoint import Stages
from tumorjax.methods.multi_atlas.sparse import SparseOrigin, free_basis
from tumorjax.prior import Prior
from tumorjax.progress import SearchProgress


def without_mass_effect(problem: Problem) -> Problem:
    """Return the problem of the growth alone, for what shows the density."""
    model: Any = problem.model
    seen = {name: o for name, o in problem.observations.items() if o.shows == "density"}
    unknown = problem.prior.distributions
    prior = Prior(Parameters(unknown.growth.growth, {name: unknown.observations[name] for name in seen}))
    return Problem(model.growth, problem.anatomy, seen, prior)


def unsuitable(problem: Problem, atlases: Sequence[Anatomy]) -> str | None:
    """Return in one line why a problem cannot be calibrated in these atlases; None if it can."""
    growth = problem.prior.distributions.growth
    if not isinstance(growth, MassEffectParams) or not isinstance(growth.growth, ScaledGrowthParams):
        return "multi-atlas calibration needs a prior of MassEffectParams with ScaledGrowthParams"
    if not isinstance(growth.growth.origin, GaussianBasis) and core_and_lesion(problem.observations) is None:
        return (
            "multi-atlas calibration needs an outline of the core, under this name, or a prior with a "
            "GaussianBasis of candidates as origin"
        )
    for i, atlas in enumerate(atlases):
        if atlas.grid.shape != problem.anatomy.grid.shape:
            return (
                f"atlas {i + 1} has shape {atlas.grid.shape}, the patient {problem.anatomy.grid.shape}; "
                "resample it to the patient's grid"
            )
        # Voxels of one shape that lie elsewhere would be another part of the head.
        own, there = (np.asarray(each.grid.affine, float) for each in (problem.anatomy, atlas))
        if not np.allclose(own, there, atol=1e-2 * float(np.min(np.asarray(problem.anatomy.grid.spacing)))):
            return (
                f"atlas {i + 1} has the affine {there.round(3).tolist()}, the patient {own.round(3).tolist()}; "
                "resample it to the patient's grid"
            )
        if problem.anatomy.fibres is not None and atlas.fibres is None:
            return f"atlas {i + 1} has no fibres, the patient's anatomy has; give both fibres, or neither"
        if not float(np.asarray(atlas.csf).max()) > 0.5:
            return f"atlas {i + 1} has no voxel of CSF, so no ventricles; give one with a map of CSF"
    return None


def in_atlas(problem: Problem, atlas: Anatomy, prior: Prior) -> Problem:
    """Return the problem with an atlas in place of the patient's anatomy."""
    return eqx.tree_at(lambda p: (p.anatomy, p.prior), problem, (atlas, prior))


def start_of(problem: Problem, prior: Prior, seed: SparseOrigin) -> Float[np.ndarray, "n"]:
    """Return where S.3 begins: what S.1 found, and the prior's medians of what it could not see."""
    still = without_mass_effect(problem).prior
    rest = Prior(eqx.tree_at(lambda p: p.growth.origin, still.distributions, seed.basis))
    # A flow that is too fast at first could not be followed: begin with a weak one.
    known = {"growth.mass_effect": -1.0}
    for name, value in zip(rest.names, seed.point, strict=True):
        known["growth." + name if name.startswith("growth.") else name] = value
    # The state is where the prior's mean is.
    return np.array([known.get(name, 0.0) for name in prior.names])


def with_basis(prior: Prior, basis: GaussianBasis, place_spread: float, dtype: Any) -> Prior:
    """Return the problem's prior with Gaussians near these instead of the candidates."""
    return Prior(
        eqx.tree_at(lambda p: p.growth.growth.origin, prior.distributions, free_basis(basis, place_spread, dtype))
    )


def growth_alone(prior: Prior) -> Bool[np.ndarray, "n"]:
    """Return the coordinates that S.3 moves: all but those of the state at time zero."""
    return np.array([not name.startswith("growth.growth.origin") for name in prior.names])


def in_use(prior: Prior, point: Float[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Return the coordinates but those of Gaussians that hold next to nothing at a point."""
    idle = np.flatnonzero(~held(np.asarray(prior.constrain(jnp.asarray(point)).growth.growth.origin.weights)))
    path = "growth.growth.origin"
    names = {f"{path}.weights[{i}]" for i in idle}
    names |= {f"{path}.centres[{3 * i + axis}]" for i in idle for axis in range(3)}
    return np.array([name not in names for name in prior.names])


def rough_of(problem: Problem, factor: int) -> Problem:
    """Return the problem of S.3 and S.4, whose equilibria are found to the tolerance that the paper has for all."""
    if factor == 1:
        return problem
    problem = problem.coarsen(factor)
    return dataclasses.replace(problem, stepper=problem.stepper or FlowSplitting(tolerance=1e-3))


def scored(
    problems: list[Problem],
    starts: list[Float[np.ndarray, "n"]],
    moving: list[Bool[np.ndarray, "n"]],
    iterations: int,
    *,
    value_tolerance: float,
    together: bool,
    stage: str,
    progress: SearchProgress,
    kept: Stages,
    by: str = "scoring",
    derivatives: list[dict[int, Fields]] | None = None,
) -> list[Scored]:
    """Return where the search for the growth ends in each atlas: by Fisher "scoring", or by "differences".

    The derivatives there are returned only if nothing was to move: no other stage needs their images. A ValueError says
    that an objective is not finite.
    """
    shares = np.zeros(len(problems))

    def told(i: int, most: int) -> Callable[[int, float], None]:
        def reached(iteration: int, value: float) -> None:
            shares[i] = iteration / most
            progress(stage, float(shares.mean()), value)

        return reached

    each = enumerate(zip(problems, starts, moving, strict=True))
    if by == "differences" and iterations:
        # To its own tolerances and limit.
        asking = [by_differences(*given, progress=told(i, ITERATIONS)) for i, given in each]
    else:
        asking = [
            scoring(
                *given,
                iterations=iterations,
                value_tolerance=value_tolerance,
                derivatives=None if derivatives is None else derivatives[i],
                progress=told(i, iterations),
            )
            for i, given in each
        ]
    asking = [_without_derivatives(one) for one in asking] if iterations else asking
    found = answered(stage, asking, problems, fields, together=together, kept=kept)
    for i, one in enumerate(found):
        if not np.isfinite(one.value):
            raise ValueError(
                f"the objective is not finite in atlas {i + 1}: the tissue moves too fast, or the seed lies in no "
                "tissue there"
            )
    return found


def _without_derivatives(asking: Asking) -> Asking:
    found = yield from asking
    return dataclasses.replace(found, derivatives={})


def refined(
    problems: list[Problem],
    starts: list[Float[np.ndarray, "n"]],
    iterations: int,
    *,
    value_tolerance: float,
    **settings: Any,
) -> list[Scored]:
    """Return where the search for growth and state at time zero together ends in each atlas (S.4), as `scored` does.

    Fisher scoring again: the Gaussians in use have some twenty coordinates, and solves for these cost less than the
    twenty gradients of a quasi-Newton search, whose program takes longest of all to compile.
    """
    moving = [in_use(one.prior, start) for one, start in zip(problems, starts, strict=True)]
    settings |= {"stage": "refinement in the atlases", "value_tolerance": 10 * value_tolerance}
    return scored(problems, starts, moving, iterations, **settings)


def answered(
    stage: str,
    asking: Sequence[Asking],
    problems: list[Problem],
    function: Callable[[Problem, Any], Any],
    *,
    together: bool,
    kept: Stages,
) -> list[Any]:
    """Return the results of the searches of a stage: side by side, each kept when it has ended, or in one batch."""
    if together:
        return kept(stage, lambda: answers_together(asking, problems, function))
    names = [f"{stage}, atlas {i + 1}" for i in range(len(problems))]
    return kept.each(names, lambda first: answers(asking[first:], problems[first:], function))
