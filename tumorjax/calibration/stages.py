"""The problems of the multi-atlas inversion's stages: without mass effect, in an atlas, with few Gaussians."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from tumorjax.anatomy import Anatomy
from tumorjax.calibration.problem import Parameters, Problem
from tumorjax.calibration.sparse import SparseOrigin, free_basis, held
from tumorjax.growth import GaussianBasis, MassEffect, MassEffectParams
from tumorjax.prior import Prior


def without_mass_effect(problem: Problem) -> Problem:
    """Return the problem of the growth alone, for what shows the density."""
    if not isinstance(problem.model, MassEffect):
        raise ValueError(f"the problem has no mass effect: its model is {type(problem.model).__name__}")
    seen = [i for i, o in enumerate(problem.observations) if o.shows == "density"]
    unknown = problem.prior.distributions
    prior = Prior(Parameters(unknown.growth.growth, tuple(unknown.observations[i] for i in seen)))
    return Problem(problem.model.growth, problem.anatomy, tuple(problem.observations[i] for i in seen), prior)


def checked(problem: Problem, atlases: tuple[Anatomy, ...]) -> GaussianBasis:
    """Return the candidates of the problem's prior, or raise a ValueError where atlases or problem do not fit."""
    if not isinstance(problem.model, MassEffect):
        raise ValueError(f"multi-atlas calibration is for MassEffect, got {type(problem.model).__name__}")
    growth = problem.prior.distributions.growth
    if not isinstance(growth, MassEffectParams) or not isinstance(growth.growth.origin, GaussianBasis):
        raise ValueError("multi-atlas calibration needs a prior of MassEffectParams with a GaussianBasis of candidates")
    for i, atlas in enumerate(atlases):
        if atlas.grid.shape != problem.anatomy.grid.shape:
            raise ValueError(
                f"atlas {i + 1} has shape {atlas.grid.shape}, the patient {problem.anatomy.grid.shape}; "
                "resample it to the patient's grid"
            )
        # Voxels of one shape that lie elsewhere would be another part of the head.
        own, there = (np.asarray(each.grid.affine, float) for each in (problem.anatomy, atlas))
        if not np.allclose(own, there, atol=1e-2 * float(np.min(np.asarray(problem.anatomy.grid.spacing)))):
            raise ValueError(
                f"atlas {i + 1} has the affine {there.round(3).tolist()}, the patient {own.round(3).tolist()}; "
                "resample it to the patient's grid"
            )
        if not float(np.asarray(atlas.csf).max()) > 0.5:
            raise ValueError(f"atlas {i + 1} has no voxel of CSF, so no ventricles; give one with a map of CSF")
    return growth.growth.origin


def in_atlas(problem: Problem, atlas: Anatomy, prior: Prior) -> Problem:
    """Return the problem with an atlas in place of the patient's anatomy."""
    return eqx.tree_at(lambda p: (p.anatomy, p.prior), problem, (atlas, prior))


def start_of(problem: Problem, prior: Prior, seed: SparseOrigin) -> Float[np.ndarray, "n"]:
    """Return where S.3 begins: what S.1 found, and the prior's medians of what it could not see."""
    still = without_mass_effect(problem).prior
    rest = Prior(eqx.tree_at(lambda p: p.growth.origin, still.distributions, seed.basis))
    seen = [i for i, o in enumerate(problem.observations) if o.shows == "density"]
    # A flow that is too fast at first could not be followed: begin with a weak one.
    known = {"growth.mass_effect": -1.0}
    for name, value in zip(rest.names, seed.point, strict=True):
        if name.startswith("growth."):
            known["growth." + name] = value
        else:
            number, _, tail = name.removeprefix("observations[").partition("]")
            known[f"observations[{seen[int(number)]}]{tail}"] = value
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
