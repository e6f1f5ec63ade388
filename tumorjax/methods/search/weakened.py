"""A problem whose density may leave the equation of growth at a price."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.ndimage import binary_dilation

from tumorjax.calibration.problem import Problem, Shown
from tumorjax.growth import Forcing
from tumorjax.integrate import AbstractAdjoint, ForwardMode
from tumorjax.observation import AbstractObservation, Outline, SurfaceErrors

# Tangents that one solve carries.
_TANGENTS = 16


class Weakened(eqx.Module):
    """A problem with a free forcing of its model, over coordinates (z, w): the prior's, and one for each knot.

    All of them are standard normal. The forcing has the standard deviation of one over the root of the price.

    Parameters
    ----------
    problem
        The problem, whose model keeps to its equation.
    lattice
        A forcing, whose weights are not looked at.
    deviation
        Standard deviation of the forcing, dimensionless: that of the logarithm of the rate of division.
    """

    problem: Problem
    lattice: Forcing
    deviation: Float[Any, ""]

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.problem.prior.size + int(np.prod(self.lattice.lattice.shape))

    @property
    def dtype(self) -> Any:
        """The anatomy's dtype."""
        return self.problem.dtype

    def forcing(self, point: Float[Any, "n"]) -> Forcing:
        """Return the forcing at a point."""
        weights = jnp.asarray(self.deviation, point.dtype) * point[self.problem.prior.size :]
        return dataclasses.replace(self.lattice, weights=weights.reshape(self.lattice.lattice.shape))

    def at(self, point: Float[Array, "n"]) -> tuple[Problem, Float[Array, "k"]]:
        """Return the problem with the forcing of a point, and the prior's coordinates there."""
        return forced(self.problem, self.forcing(point)), point[: self.problem.prior.size]

    def objective(self, point: Float[Array, "n"]) -> Float[Array, ""]:
        """Return minus the log-posterior of the coordinates up to a constant, nat."""
        problem, z = self.at(point)
        return 0.5 * jnp.sum(point[z.size :] ** 2) - problem.log_posterior(z)

    def coarsen(self, factor: int) -> "Weakened":
        """Return the same on voxels `factor` times as long; the lattice stays."""
        return dataclasses.replace(self, problem=self.problem.coarsen(factor))

    def shown(self, point: Float[Array, "n"], adjoint: AbstractAdjoint | None = None) -> tuple[Shown, Any]:
        """Return what images show at a point, and the parameters there."""
        problem, z = self.at(point)
        params = problem.prior.constrain(z)
        return problem.predict(params, adjoint), params


def weaken(problem: Problem, length: float, reach: float, deviation: float) -> Weakened:
    """Return a problem with a free forcing around what its outlines show.

    Parameters
    ----------
    problem
        Has an outline.
    length
        mm: distance of the knots.
    reach
        mm: how far beyond the outlines the knots go.
    deviation
        See `Weakened`.
    """
    outlines = [o for visit in problem.visits for o in visit.observations.values() if isinstance(o, Outline)]
    lesion = np.any([np.asarray(o.valid) & (np.asarray(o.inside) > 0) for o in outlines], axis=0)
    grid = problem.anatomy.grid
    steps = np.ceil(np.minimum(reach / np.asarray(grid.spacing), grid.shape)).astype(int)
    for axis, count in enumerate(steps.tolist()):
        if count:
            along = np.ones([3 if axis == each else 1 for each in range(3)], bool)
            lesion = binary_dilation(lesion, along, iterations=count)
    lattice = Forcing.around(lesion, grid, length)
    return Weakened(problem, lattice, np.asarray(deviation))


def forced(problem: Problem, forcing: Forcing) -> Problem:
    """Return a problem whose model has a forcing."""
    return dataclasses.replace(problem, model=problem.model.forced(forcing))


def doubted(weakened: Weakened, model_deviation: float) -> Weakened:
    """Return the same with outlines that count for what they do where the model may miss them by so much, mm.

    An outline counts as before where its errors are known to be as large, and where every voxel of it counts.
    """
    problem = weakened.problem

    def worth(outline: Outline, errors: SurfaceErrors) -> Any:
        rates = outline.false_positive, outline.false_negative
        return errors.independent_voxels(outline.size, problem.anatomy.grid, *rates)

    def image(o: AbstractObservation) -> AbstractObservation:
        if not isinstance(o, Outline) or o.effective_voxels is None or np.isinf(o.effective_voxels):
            return o
        if o.errors.model_deviation >= model_deviation:
            return o
        errors = dataclasses.replace(o.errors, model_deviation=model_deviation)
        least, known = worth(o, errors), o.effective_voxels
        # A number of the user's own need not be that of the errors, and is not less than these leave.
        left = jnp.minimum(known, jnp.maximum(least, known * least / worth(o, o.errors)))
        return dataclasses.replace(o, effective_voxels=left, errors=errors)

    def images(observations: dict[str, AbstractObservation]) -> dict[str, AbstractObservation]:
        return {name: image(each) for name, each in observations.items()}

    earlier = tuple(dataclasses.replace(each, observations=images(each.observations)) for each in problem.earlier)
    less = dataclasses.replace(problem, observations=images(problem.observations), earlier=earlier)
    return dataclasses.replace(weakened, problem=less)


def objective_and_gradient(weakened: Weakened, point: Float[Array, "n"]) -> tuple[Array, Array]:
    """Return the objective and its gradient at a point."""
    return jax.value_and_grad(weakened.objective)(point)


@eqx.filter_jit
def information(weakened: Weakened, point: Float[Array, "n"], problems: Sequence[Problem]) -> list[Float[Array, "n n"]]:
    """Return the expected information of the images at a point, with that of the prior, the identity.

    J^T P J + I, with J the derivative of the predictions and P their precision: a solve for every sixteen coordinates,
    which carries their tangents. It is given for each of several problems that differ in what their images are worth.
    """

    def expected(at: Array, problem: Problem) -> list[tuple[Array, Array]]:
        shown, params = weakened.shown(at, ForwardMode())
        seen = problem.seen(shown)
        return [pair for _, name, o, field in seen for pair in o.expected(field, params.observations[name])]

    def means(at: Array) -> list[Array]:
        return [mean for mean, _ in expected(at, weakened.problem)]

    def slopes(direction: Array) -> list[Array]:
        return jax.jvp(means, (point,), (direction,))[1]

    directions = jnp.eye(point.size, dtype=point.dtype)
    rows = jax.lax.map(slopes, directions, batch_size=min(_TANGENTS, point.size))
    found = []
    for problem in problems:
        total = directions
        for slope, (_, precision) in zip(rows, expected(point, problem), strict=True):
            flat = slope.reshape(point.size, -1)
            total = total + (flat * precision.reshape(1, -1)) @ flat.T
        found.append(total)
    return found
