"""How a calibrated tumour grew: density and displacement at times between its seed and a last day."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import equinox as eqx
import numpy as np
from jaxtyping import Float

from tumorjax.calibration.calibration import Calibration
from tumorjax.calibration.draws import Tumour
from tumorjax.calibration.forecast import without_images
from tumorjax.calibration.problem import Parameters, Problem
from tumorjax.calibration.visit import Visit
from tumorjax.growth import AbstractGrowth, Treatment
from tumorjax.integrate import Solution


@dataclass(frozen=True, eq=False)
class Retraced:
    """A tumour at several times since its seed.

    Parameters
    ----------
    shares
        (t,): time since the seed, as a share of the whole.
    density
        (t, x, y, z): fraction of the carrying capacity.
    displacement
        (t, x, y, z, 3), mm in RAS world: by how much the tissue now at a voxel has moved; None where tissue stays.
    """

    shares: Float[np.ndarray, "t"]
    density: Float[np.ndarray, "t x y z"]
    displacement: Float[np.ndarray, "t x y z 3"] | None


def why_not_retraced(problem: Problem, calibration: Calibration) -> str | None:
    """Return in one line why the growth of a calibrated tumour cannot be retraced; None if it can."""
    if type(problem.model).predict is not AbstractGrowth.predict:
        return f"the {problem.model.title} gives the end of the growth alone"
    if not calibration.tumours(problem):
        return "the density did not grow in this patient, but was carried over from an atlas"
    return None


def retrace(
    problem: Problem,
    calibration: Calibration,
    shares: Sequence[float],
    *,
    until: float | None = None,
    treatments: Mapping[str, Treatment] | None = None,
) -> Retraced:
    """Return the calibrated tumour at several times since its seed, by one solve; in several atlases by one in each.

    Of one date nothing is known of how long the growth took, so that times are shares of it.

    Parameters
    ----------
    problem, calibration
        The problem that was calibrated, and what any method returned for it.
    shares
        Times since the seed, as shares of the time from the seed to `until`: above zero, rising, one at most.
    until
        The last day, on the clock of the visits; by default that of the last visit.
    treatments
        What is done besides the treatments of the problem, under other names. What begins on the last of these times
        or later is left out.

    Raises
    ------
    ValueError
        If there are less than two times, or they are no shares in their order; if the growth cannot be retraced, see
        `why_not_retraced`; if the last day is not after the seed; if a solve fails.
    """
    times = np.asarray([float(share) for share in shares])
    if len(times) < 2 or not times[0] > 0 or not (np.diff(times) > 0).all() or not times[-1] <= 1:
        raise ValueError(f"give two times or more, rising from above zero to one at most, got {times.tolist()}")
    if reason := why_not_retraced(problem, calibration):
        raise ValueError(f"the growth cannot be retraced: {reason}")
    density, displacement = 0.0, None
    tumours = calibration.tumours(problem)
    for each in tumours:
        solution = _grown(each, times, until, treatments or {})
        assert solution.series is not None
        density = density + each.share * np.asarray(solution.series)
        if solution.moved is not None and "displacement" in solution.moved:
            moved = each.share * np.asarray(solution.moved["displacement"])
            displacement = moved if displacement is None else displacement + moved
    found = np.asarray(density)
    if not np.isfinite(found).all():
        raise ValueError("the growth cannot be retraced: a solve for the calibrated parameters failed")
    return Retraced(times, found, displacement)


def _grown(tumour: Tumour, shares: np.ndarray, until: float | None, treatments: Mapping[str, Treatment]) -> Solution:
    """Return the solve of one tumour, whose series are the times."""
    problem, growth = tumour.problem, tumour.params.growth
    visits = problem.visits
    seed = float(visits[0].day) - float(growth.duration)
    end = float(visits[-1].day) if until is None else float(until)
    if not end > seed:
        raise ValueError(f"the last day must be after that of the seed, {seed:g}, got {end:g}")
    if twice := sorted(problem.treatments.keys() & treatments.keys()):
        raise ValueError(f"the problem has a treatment {twice[0]!r} already; give the other one another name")
    days = seed + shares * (end - seed)
    done = {
        name: each for name, each in {**problem.dated, **treatments}.items() if max(each.begins, default=end) < days[-1]
    }
    # What images show is not looked at, but the unknowns of all of them belong to the prior.
    images = {name: image for visit in visits for name, image in visit.observations.items()}
    seen = [Visit(float(day), images) for day in days]
    followed = Problem(problem.model, problem.anatomy, seen, problem.prior, problem.stepper, done)
    params = eqx.tree_at(lambda p: p.growth, tumour.params, growth.lasting(days[0] - seed))
    return _solved(without_images(followed), params)


@eqx.filter_jit
def _solved(problem: Problem, params: Parameters) -> Solution:
    # One program for all atlases: outside `jit` each would be cropped to a box of its own.
    return problem.solve(params)
