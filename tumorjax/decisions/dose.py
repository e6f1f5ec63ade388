"""A dose map that leaves the fewest cells of a posterior's tumours, at a given integral dose."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from tumorjax.calibration import Calibration, Problem
from tumorjax.calibration.draws import Draws, draws_of
from tumorjax.calibration.forecast import continued, without_images
from tumorjax.checks import check_count
from tumorjax.growth import Radiotherapy, Treatment
from tumorjax.integrate import in_parts
from tumorjax.prior import AbstractDistribution

# The name of the treatment among those of the problem.
_PLANNED = "planned"
# Doses at which the rate of killing in a voxel is tabulated; between them it is interpolated.
_LEVELS = 65
# Halvings of the interval of the rate of killing at which the dose is spent.
_HALVINGS = 60
# A map that leaves less than this share fewer cells than the last one is the last one.
_ENOUGH = 1e-4
# mm^3, a millionth of one cell: what is less counts as so much, because zero has no logarithm.
_LEAST = 1e-12
# Shares of the way to the next map that are tried; the first one that leaves fewer cells is taken.
_SHARES = (1.0, 0.5, 0.25, 0.125)


Objective = Literal["cells", "log-kill"]
"""What a dose plan minimises; see `plan_dose`."""


class Left(NamedTuple):
    """What a dose leaves in one draw: cells, mm^3; their slope in the dose of each voxel; alpha and alpha/beta."""

    cells: Any
    slope: Float[Any, "x y z"]
    alpha: Any
    ratio: Any


@dataclass(frozen=True, eq=False)
class DosePlan:
    """A dose map, and what it leaves of the tumour, beside the map of the same integral dose that it began with.

    Parameters
    ----------
    dose
        (x, y, z), Gy a fraction.
    given
        (x, y, z), Gy a fraction: the map whose integral dose `dose` does not exceed.
    cells, given_cells
        (m,), mm^3: cells that are left in each draw of the posterior by `dose` and by `given`, as the volume that they
        would fill.
    history
        mm^3: cells that are left in the mean over the draws, of `given` and after each step; by "log-kill" in the
        geometric mean.
    days, day
        Days of the fractions, and the day on which cells are counted.
    objective
        What was minimised; see `plan_dose`.
    failed
        Number of draws whose solve failed, which are left out.
    """

    dose: Float[np.ndarray, "x y z"]
    given: Float[np.ndarray, "x y z"]
    cells: Float[np.ndarray, "m"]
    given_cells: Float[np.ndarray, "m"]
    history: tuple[float, ...]
    days: tuple[float, ...]
    day: float
    objective: Objective = "cells"
    failed: int = 0

    @property
    def ratio(self) -> Float[np.ndarray, "m"]:
        """Cells that `dose` leaves over those that `given` leaves, in each draw; one where both leave none."""
        return np.maximum(self.cells, _LEAST) / np.maximum(self.given_cells, _LEAST)


def plan_dose(
    problem: Problem,
    calibration: Calibration,
    treatment: Radiotherapy,
    day: float,
    *,
    key: Key[Array, ""],
    treatments: Mapping[str, Treatment] | None = None,
    maximum: float | None = None,
    spare: Mapping[str, tuple[Bool[Any, "x y z"], float]] | None = None,
    speed: AbstractDistribution | None = None,
    objective: Objective = "cells",
    count: int = 20,
    iterations: int = 10,
    progress: Callable[[float], None] = lambda share: None,
) -> DosePlan:
    """Return the dose map that leaves the fewest cells in expectation, within the integral dose of a given treatment.

    All draws of the posterior grow through the whole course of radiation, and the adjoint of each gives what a little
    more dose in any voxel changes. Between two sets of solves, the dose goes to where a linear-quadratic survival says
    that it kills most: such a map has the same rate of killing wherever it is neither zero nor at its limit.

    What beams can deliver is not modelled, and neither are the setup of the patient and the tolerance of healthy
    tissue beyond the limits that are given. For research only; not for clinical use.

    Parameters
    ----------
    problem, calibration
        The problem that was calibrated, and what any method returned for it.
    treatment
        The course of radiation to begin with, on the clock of the visits, after the last one; its dose is a map, such
        as 2 Gy inside a target volume. `SameAs("treatments.NAME.alpha")` is the calibrated sensitivity of an earlier
        treatment.
    day
        The day on which cells are counted, after the last fraction.
    key
        Random key of the draws.
    treatments
        What else is done before that day besides the treatments of the problem, as of `forecast`.
    maximum
        Gy a fraction: highest dose of a voxel; by default 1.2 times the highest dose of the given map.
    spare
        By the name of an organ its mask and its highest dose, Gy a fraction: that of the whole course over the number
        of fractions.
    speed
        Distribution of the speed of growth where there is one date, as of `forecast`.
    objective
        What is minimised: "cells", the expected number of surviving cells, which is dominated by the draws with the
        largest tumours; or "log-kill", the expected logarithm of that number, in which all draws have the same weight.
        With one date the speed is as uncertain as its prior, and the fastest draws hold most of the cells.
    count
        Number of draws.
    iterations
        Most steps, each of which takes a gradient of every draw.
    progress
        Receives the share that is done.

    Raises
    ------
    ValueError
        If the objective is unknown; if the dose is no map on the anatomy's grid, or zero everywhere; if a limit is
        negative or a mask has another shape; if the day is not after the last fraction; if every solve fails. See
        `forecast` for more.

    References
    ----------
    Survival by Rockne et al., J. Math. Biol. 58 (2009). Chaudhuri et al., "Predictive digital twin for optimizing
    patient-specific radiotherapy regimens under uncertainty in high-grade gliomas", Front. Artif. Intell. 6 (2023),
    choose the total dose for a posterior of volumes.
    """
    check_count("iterations", iterations)
    if objective not in get_args(Objective):
        raise ValueError(f"objective is one of {', '.join(get_args(Objective))}, got {objective!r}")
    given = np.asarray(treatment.dose, float)
    drawn = draws_of(problem, calibration, key, count, speed)
    limits = _limits(drawn, given, maximum, spare or {})
    if not day > treatment.days[-1]:
        raise ValueError(f"cells are counted after the last fraction on day {treatment.days[-1]:g}, got day {day:g}")
    done_besides = {**(treatments or {}), _PLANNED: treatment}
    draws = [
        Draws(without_images(continued(own, np.array([float(day)]), done_besides)[0]), several)
        for own, several in drawn
    ]
    total, steps, reached = float(given.sum()), 1 + iterations, 0.0

    def left(dose: np.ndarray, some: list[Draws], done: float) -> list[Left]:
        found, count = list[Left](), sum(len(each.params) for each in some)
        for treated, several in some:
            points = jax.tree.map(lambda *leaves: np.stack(leaves), *several)
            for part in in_parts(_cells_left, (treated, jnp.asarray(dose)), points):
                found += [Left(*(np.asarray(leaf, float) for leaf in one)) for one in zip(*part, strict=True)]
                # A step that goes less than the whole way solves anew.
                nonlocal reached
                reached = max(reached, min((done + len(found) / count) / steps, 1.0))
                progress(reached)
        return found

    first = left(given, draws, 0)
    good = [bool(np.isfinite(one.cells) and np.isfinite(one.slope).all()) for one in first]
    fine = iter(good)
    draws = [Draws(own, [params for params in several if next(fine)]) for own, several in draws]
    draws = [each for each in draws if each.params]
    first = [one for one, fine in zip(first, good, strict=True) if fine]
    if not first:
        raise ValueError(f"none of the {len(good)} solves of the plan gave a density; look at the draws")
    dose, found, history = given, first, [_mean(first, objective)]
    for step in range(iterations):
        best = _spent(dose, _weighed(found, objective), len(treatment.days), limits, total)
        # A map between two that keep to the limits keeps to them, too; the given one need not.
        within = bool(np.all(dose <= limits))
        for share in _SHARES:
            trial = dose + share * (best - dose)
            tried = left(trial, draws, 1 + step)
            value = _mean(tried, objective)
            if value < history[-1] or (not within and np.isfinite(value)):
                break
        else:
            break
        enough = within and value > (1 - _ENOUGH) * history[-1]
        dose, found = trial, tried
        history.append(value)
        if enough:
            break
    progress(1.0)
    cells, before = (np.array([float(one.cells) for one in some]) for some in (found, first))
    failed = len(good) - len(first)
    return DosePlan(dose, given, cells, before, tuple(history), treatment.days, float(day), objective, failed)


def _limits(
    drawn: list[Draws], given: np.ndarray, maximum: float | None, spare: Mapping[str, tuple[Any, float]]
) -> np.ndarray:
    """Return the highest dose of each voxel; none is spent where no draw has tissue."""
    problem = drawn[0].problem
    if problem.anatomy is None or given.shape != problem.anatomy.grid.shape:
        shape = "none" if problem.anatomy is None else problem.anatomy.grid.shape
        raise ValueError(f"the dose is a map on the anatomy's grid, of shape {shape}, got shape {given.shape}")
    if not given.any():
        raise ValueError("the given dose is zero everywhere, so there is none to plan with")
    highest = 1.2 * float(given.max()) if maximum is None else float(maximum)
    for name, limit in {"maximum": highest, **{name: float(limit) for name, (_, limit) in spare.items()}}.items():
        if not (np.isfinite(limit) and limit >= 0):
            raise ValueError(f"the limit of {name} is a dose of at least 0 Gy a fraction, got {limit}")
    tissue = np.any([_reached(draws.problem) for draws in drawn], axis=0)
    limits = np.where(tissue, highest, 0.0)
    for name, (mask, limit) in spare.items():
        if np.shape(mask) != limits.shape:
            raise ValueError(f"the mask of {name} has shape {np.shape(mask)} on a grid of shape {limits.shape}")
        limits = np.where(np.asarray(mask, bool), np.minimum(limits, float(limit)), limits)
    return limits


def _reached(problem: Problem) -> np.ndarray:
    """Return where cells can be: in the tissue, or where that moves in the whole head."""
    anatomy = problem.anatomy
    head = np.asarray(anatomy.white_matter) + np.asarray(anatomy.grey_matter) + np.asarray(anatomy.csf) >= 0.5
    tissue = np.asarray(anatomy.tissue)
    return tissue | head if problem.model.displaces else tissue


def _mean(found: list[Left], objective: Objective) -> float:
    """Return the mean of the cells that are left over the draws; by "log-kill" the geometric one."""
    cells = np.array([one.cells for one in found])
    return float(cells.mean() if objective == "cells" else np.exp(np.log(np.maximum(cells, _LEAST)).mean()))


def _weighed(found: list[Left], objective: Objective) -> list[Left]:
    """Return what a dose leaves with slopes of the objective; a logarithm lies below its tangent everywhere."""
    if objective == "cells":
        return found
    return [one._replace(slope=one.slope / max(one.cells, _LEAST)) for one in found]


def _cells_left(shared: tuple[Problem, Float[Array, "x y z"]], params: Any) -> Left:
    """Return what a dose leaves of a draw, as arrays."""
    problem, dose = shared

    def planned(dose: Array) -> Problem:
        return eqx.tree_at(lambda p: p.treatments[_PLANNED].dose, problem, dose.astype(problem.dtype))

    def cells(dose: Array) -> Array:
        density = planned(dose).density(params)
        return jnp.sum(density) * jnp.asarray(problem.anatomy.grid.voxel_volume, density.dtype)

    value, slope = jax.value_and_grad(cells)(dose)
    treated: Any = dict(zip(problem.treatments, problem.treated(params), strict=True))[_PLANNED]
    return Left(value, slope, jnp.asarray(treated.alpha), jnp.asarray(treated.ratio))


def _spent(
    dose: np.ndarray,
    found: list[Left],
    fractions: int,
    limits: np.ndarray,
    total: float,
) -> np.ndarray:
    """Return the map that leaves the fewest cells where each draw's cells in a voxel survive by its dose alone.

    In a draw the cells that come of a voxel are w exp(-n alpha d (1 + d / ratio)), with w such that the slope at the
    present dose is the draw's own. Where nothing is left to be killed, the dose stays as far as it may.
    """
    open_ = limits > 0
    levels = np.linspace(0.0, 1.0, _LEVELS) * limits[open_][:, None]
    rate = np.zeros(levels.shape)
    for _, slope, alpha, ratio in found:

        def killing(d: np.ndarray, alpha: float = alpha, ratio: float = ratio) -> np.ndarray:
            return fractions * alpha * (1 + 2 * d / ratio) * np.exp(-fractions * alpha * d * (1 + d / ratio))

        # Without any effect of radiation there is nothing to weigh.
        present = killing(dose[open_])
        weight = np.divide(-slope[open_], present, out=np.zeros_like(present), where=present > 0)
        rate += np.maximum(weight, 0)[:, None] * killing(levels)
    if not rate.any():
        return np.minimum(dose, limits)
    # Of few fractions the first gray may kill less than the next. Then a voxel has no dose at all, or as much as makes
    # the mean over all gray largest: survival gives way to its convex minorant, whose slope begins with that mean.
    parts = (rate[:, 1:] + rate[:, :-1]) / 2
    mean = np.concatenate([rate[:, :1], parts.cumsum(axis=1) / np.arange(1, _LEVELS)], axis=1)
    best = mean.argmax(axis=1)
    rate = np.where(np.arange(_LEVELS) <= best[:, None], mean.max(axis=1, keepdims=True), rate)
    rate = np.minimum.accumulate(rate, axis=1)

    def at(height: float) -> np.ndarray:
        """Return the dose of each voxel at which its rate of killing has fallen to a height."""
        index = (rate > height).sum(axis=1)
        upper = np.clip(index, 1, _LEVELS - 1)
        rows = np.arange(len(rate))
        high, low = rate[rows, upper - 1], rate[rows, upper]
        part = np.clip(np.divide(high - height, high - low, out=np.ones_like(high), where=high > low), 0, 1)
        between = levels[rows, upper - 1] + part * (levels[rows, upper] - levels[rows, upper - 1])
        return np.where(index == 0, 0.0, np.where(index == _LEVELS, levels[:, -1], between))

    low, high = 0.0, float(rate.max(initial=0.0))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).sum() > total else (low, middle)
    spent = np.zeros_like(dose)
    spent[open_] = at(high)
    return spent
