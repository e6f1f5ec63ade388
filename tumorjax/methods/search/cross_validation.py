"""Cross-validation over blocks of voxels: how well a search that knows half of the images predicts the other half."""

from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float

from tumorjax.calibration.problem import Problem
from tumorjax.grid import Grid
from tumorjax.methods.search.weakened import Weakened


class Fold(NamedTuple):
    """A half of the images, from which a search learns, and the other half, which it is to predict."""

    learned: Problem
    held_out: Problem


def folds(problem: Problem, width: float) -> tuple[Fold, ...]:
    """Return the two folds of a problem; none where an image shows no tumour in one of the halves.

    The halves are the black and the white cubes of a board in three dimensions. A cube should be about as wide as
    errors of surfaces are correlated. In smaller ones, a search would learn the errors of what is held out from the
    voxels around it; of larger ones it could not know how the density leaves the equation in their middle.

    Parameters
    ----------
    problem
        The problem, of one day or several.
    width
        Edge of a cube, mm; it is rounded to whole voxels.
    """
    black = _board(problem.anatomy.grid, width)
    for visit in problem.visits:
        for image in visit.observations.values():
            if image.extent is None:
                continue
            shown = (np.asarray(image.extent) > 0) & np.asarray(image.valid)
            if not (shown & black).any() or not (shown & ~black).any():
                return ()
    first, second = problem.within(black), problem.within(~black)
    return Fold(first, second), Fold(second, first)


@eqx.filter_jit
def log_likelihood(weakened: Weakened, point: Float[Array, "n"]) -> Float[Array, ""]:
    """Return the log-likelihood of the images at a point, nat."""
    shown, params = weakened.shown(point)
    return weakened.problem.log_likelihood(shown, params)


def knowing(weakened: Weakened, problem: Problem) -> Weakened:
    """Return the same with another part of its problem."""
    return eqx.tree_at(lambda each: each.problem, weakened, problem)


def _board(grid: Grid, width: float) -> Bool[np.ndarray, "x y z"]:
    """Return the black voxels of a board."""
    edges = np.maximum(np.round(width / np.asarray(grid.spacing, float)), 1).astype(int)
    places = np.indices(grid.shape) // edges[:, None, None, None]
    return places.sum(axis=0) % 2 == 0
