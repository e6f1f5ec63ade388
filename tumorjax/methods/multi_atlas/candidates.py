"""Where a tumour may have begun: Gaussians in its core, and the foci among which they are divided."""

import dataclasses

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from tumorjax.calibration.foci import centre_and_radius, foci_of, lag, nearest
from tumorjax.calibration.problem import Problem
from tumorjax.growth import GaussianBasis
from tumorjax.prior import Prior

# Gaussians stand this many voxels apart.
_SPACING = 2.0
# sqrt(rho T), the prior's median, by which a smaller focus is later; and the least weight with which one begins.
_NUMBER, _LEAST = 3.5, 0.05


def with_candidates(problem: Problem) -> Problem:
    """Return the problem with a state at time zero that may be made of Gaussians in the core.

    They stand two voxels apart and are one voxel wide. A problem whose prior has Gaussians already keeps those.
    """
    if isinstance(problem.prior.distributions.growth.growth.origin, GaussianBasis):
        return problem
    grid, tissue = problem.anatomy.grid, np.asarray(problem.anatomy.tissue)
    voxel, share = float(np.cbrt(grid.voxel_volume)), np.asarray(problem.observations["core"].image)
    # A small core may fill half of no voxel.
    core = tissue & (share >= min(0.5, float(share[tissue].max()) / 2))
    candidates = GaussianBasis.from_outline(core, grid, spacing=_SPACING * voxel, width=voxel)
    prior = Prior(eqx.tree_at(lambda p: p.growth.growth.origin, problem.prior.distributions, candidates))
    return dataclasses.replace(problem, prior=prior)


def focus_of_each(problem: Problem, candidates: GaussianBasis) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "f"]]:
    """Return the number of the focus in which each candidate lies, and with which weights the foci begin."""
    grid, places = problem.anatomy.grid, np.asarray(candidates.centres, float)
    foci = foci_of(problem.observations, grid)
    if len(foci) < 2:
        return np.zeros(len(places), int), np.ones(1)
    voxels = np.round(np.asarray(grid.to_index(places))).astype(int)
    near = nearest([focus.core for focus in foci], grid)
    numbers = near[tuple(np.clip(voxels, 0, np.array(grid.shape) - 1).T)]
    # A focus in which no candidate lies has no beginning.
    known, numbers = np.unique(numbers, return_inverse=True)
    radii = [centre_and_radius(problem.anatomy, foci[i].lesion)[1] for i in known]
    weights = np.array([lag(_NUMBER, radius, max(radii)) for radius in radii])
    return numbers, np.maximum(weights, _LEAST)


def middles_of_foci(problem: Problem) -> Float[np.ndarray, "f 3"]:
    """Return the middle of each focus, mm; an empty array for a tumour of a single one."""
    foci = foci_of(problem.observations, problem.anatomy.grid)
    middles = [centre_and_radius(problem.anatomy, focus.core)[0] for focus in foci if len(foci) > 1]
    return np.array(middles).reshape(-1, 3)
