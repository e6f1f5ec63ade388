"""Number of independent voxels that correlated voxels are worth."""

import dataclasses
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float

from tumorjax.checks import check_positive
from tumorjax.grid import Grid

T = TypeVar("T", bound=Any)


def independent_voxels(
    counted: Bool[Any, "x y z"] | Float[Any, "x y z"], grid: Grid, correlation_length: float
) -> float:
    """Return how many independent voxels determine a region's mean as well as its voxels with correlated errors do.

    The errors of two voxels a distance d apart are taken to have the correlation r(d) = exp(-d^2 / (2 l^2)). The
    mean over N voxels then has the variance sigma^2 / N_eff with N_eff = N^2 / (sum of r over all pairs, a voxel with
    itself among them). That is N where l is far below a voxel; volume / ((2 pi)^(3/2) l^3), by the integral of r,
    where l is a voxel or more and the region far wider than l; and one where the region is far smaller than l.

    As `effective_voxels` of an observation, the number tempers its likelihood such that quantities that all voxels
    determine together (a scale, a volume) have the right variance. Detail finer than l is then less certain than it
    should be.

    Parameters
    ----------
    counted
        (x, y, z): the region, `valid` of a `Pet` or `inside` of an `Outline`; or shares of its voxels.
    grid
        The grid of the region.
    correlation_length
        l, mm. White noise seen with a resolution of full width at half maximum w (as by a scanner) has l = 0.60 w: its
        correlation is that of a Gaussian sqrt(2) times as wide as the kernel, whose standard deviation is w / 2.355.

    Raises
    ------
    ValueError
        If the region is empty, or of another shape than the grid, or the length is not positive.

    Notes
    -----
    The papers of the 11-parameter model multiply the likelihoods of all voxels as if they were independent
    (`effective_voxels=inf`), which makes standard deviations too small by sqrt(N / N_eff).
    """
    share = np.asarray(counted, float)
    if share.shape != grid.shape:
        raise ValueError(f"the region has shape {share.shape} on a grid of shape {grid.shape}; resample it")
    check_positive("correlation_length", correlation_length)
    if not share.sum() > 0:
        raise ValueError("the region is empty; give the voxels that count")
    # The correlation is a product over the axes, so pairs are summed along one axis after the other.
    near = share
    for axis, spacing in enumerate(np.asarray(grid.spacing)):
        place = np.arange(grid.shape[axis]) * float(spacing) / correlation_length
        correlation = np.exp(-0.5 * (place[:, None] - place) ** 2)
        near = np.moveaxis(np.tensordot(correlation, near, axes=(1, axis)), 0, axis)
    return float(share.sum() ** 2 / np.vdot(share, near))


def placed_by_length(observation: T, grid: Grid) -> T:
    """Return an image with the number of independent voxels that follows from its `length`, unless it has one.

    The number is the volume of the valid voxels divided by (2 pi)^(3/2) l^3, at least one.
    """
    if observation.effective_voxels is not None:
        return observation
    volume = observation.size * jnp.asarray(grid.voxel_volume, observation.size.dtype)
    worth = jnp.maximum(volume / ((2 * np.pi) ** 1.5 * observation.length**3), 1.0)
    return dataclasses.replace(observation, effective_voxels=worth if isinstance(worth, Tracer) else np.asarray(worth))
