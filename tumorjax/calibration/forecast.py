"""What a calibration predicts for other days."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.calibration.calibration import Calibration
from tumorjax.calibration.draws import draws_of
from tumorjax.calibration.estimates import Spread, weighted_spread
from tumorjax.calibration.moments import Mean, Moments
from tumorjax.calibration.problem import Parameters, Problem
from tumorjax.calibration.visit import Visit
from tumorjax.growth import Treatment
from tumorjax.observation import Outline
from tumorjax.prior import AbstractDistribution


@dataclass(frozen=True, eq=False)
class Forecast:
    """What a calibration predicts for some days.

    Parameters
    ----------
    days
        (t,), day: on the clock of the visits, on which the only day of a problem of one date is zero.
    mapped
        (k,), day: those of the days that have maps.
    volumes
        By the name of each outline (m, t), mm^3: of each draw, the volume of the density above its own threshold. The
        law of a volume has a single one, "volume"; where nobody has drawn an outline there are the "cells", as the
        volume that all of them would fill.
    density, deviation
        (k, x, y, z): mean and standard deviation of the density; None for the law of a volume.
    probabilities
        (k, x, y, z), by threshold: probability that the density is above it.
    inside
        (k, x, y, z), by the name of each outline: probability that a voxel lies inside it, with the threshold of each
        draw.
    failed
        Number of draws whose solve failed, which are left out.
    """

    days: Float[np.ndarray, "t"]
    mapped: Float[np.ndarray, "k"]
    volumes: dict[str, Float[np.ndarray, "m t"]]
    density: Float[np.ndarray, "k x y z"] | None = None
    deviation: Float[np.ndarray, "k x y z"] | None = None
    probabilities: dict[float, Float[np.ndarray, "k x y z"]] = field(default_factory=dict)
    inside: dict[str, Float[np.ndarray, "k x y z"]] = field(default_factory=dict)
    failed: int = 0

    def volume(self, name: str) -> Spread:
        """Return mean, standard deviation, median and ends of the 90 % interval of a volume on each day, mm^3."""
        draws = self.volumes[name]
        return weighted_spread(draws, np.zeros(len(draws)), np.median(draws, axis=0))


def forecast(
    problem: Problem,
    calibration: Calibration,
    days: Sequence[float],
    *,
    key: Key[Array, ""],
    treatments: Mapping[str, Treatment] | None = None,
    thresholds: Sequence[float] = (),
    mapped: Sequence[float] | None = None,
    speed: AbstractDistribution | None = None,
    count: int = 100,
    progress: Callable[[float], None] = lambda share: None,
) -> Forecast:
    """Return what a calibration predicts for some days, by solves of draws from it.

    The draws are those of a sampler, or of the Laplace approximation; what is known without uncertainty, such as a
    single match, is one draw. Those of a calibration in several atlases grow in their own. A solve goes from the seed
    through all visits and treatments, so that the forecast for the day of a visit is the fit to it.

    Parameters
    ----------
    problem
        The problem that was calibrated.
    calibration
        What any method returned for it.
    days
        Days on the clock of the visits, in any order, not before the first visit.
    key
        Random key of the draws.
    treatments
        What is done besides the treatments of the problem, under other names, before the last of the days. In place of
        a number there may be `SameAs("treatments.radiation.alpha")`, the calibrated number of another treatment.
    thresholds
        Densities above which probabilities are wanted.
    mapped
        Those of the days for which maps are wanted, by default all: volumes of many days take little memory.
    speed
        mm/day: of a problem of one date the distribution of the speed of growth, which it does not show, such as
        `tumorjax.calibration.UNKNOWN_SPEED`. By default the speed is the one that is assumed, as if it were known.
    count
        Number of draws.
    progress
        Receives the share that is done.

    Raises
    ------
    ValueError
        If there is no day, or one is before the first visit, or maps are wanted for another; if a treatment has the
        name of another one, or no effect on any of the days; if the calibration has other unknowns than the problem, or
        `speed` is given where the speed is unknown already; if every solve fails.
    """
    wanted = np.asarray([float(day) for day in days])
    shown = wanted if mapped is None else np.asarray([float(day) for day in mapped])
    if extra := sorted(set(shown.tolist()) - set(wanted.tolist())):
        raise ValueError(
            f"maps are wanted for day {extra[0]:g}, which is none of the days of the forecast; add it there"
        )
    drawn = draws_of(problem, calibration, key, count, speed)
    names, volumes, failed = _outlines(problem), [], 0
    densities, inside = Moments(thresholds), {name: Mean() for name in names if name not in ("volume", "cells")}
    order, done, total = wanted.tolist(), 0, sum(len(draws.params) for draws in drawn)
    for own, draws in drawn:
        followed, places = continued(own, wanted, treatments or {})
        bare, kept = without_images(followed), np.array([places[order.index(day)] for day in shown.tolist()], int)
        for params in draws:
            series, found = _followed(bare, params, names)
            found = np.asarray(found, float)
            if np.isfinite(found).all():
                volumes.append(found[:, places])
                if series is not None:
                    density = np.asarray(series[kept])
                    densities.add(density)
                    # The threshold of an outline is each draw's own.
                    for name, mean in inside.items():
                        mean.add(density > float(params.observations[name].threshold))
            else:
                failed += 1
            done += 1
            progress(done / total)
    if not volumes:
        raise ValueError(f"none of the {total} solves of the forecast gave a density; look at the draws")
    by_name = dict(zip(names, np.stack(volumes, axis=1), strict=True))
    if not densities.weight:
        return Forecast(wanted, shown, by_name, failed=failed)
    return Forecast(
        wanted,
        shown,
        by_name,
        densities.mean,
        densities.deviation,
        densities.probabilities,
        {name: mean.value for name, mean in inside.items()},
        failed,
    )


def follow(
    problem: Problem,
    calibration: Calibration,
    days: Sequence[float],
    *,
    treatments: Mapping[str, Treatment] | None = None,
) -> Float[np.ndarray, "t x y z"]:
    """Return the density on some days for the calibrated parameters alone, by one solve.

    Parameters
    ----------
    problem, calibration, days, treatments
        See `forecast`, whose program it shares where the days are the same.

    Raises
    ------
    ValueError
        If a day or a treatment cannot be, as of `forecast`.
    """
    followed, places = continued(problem, np.asarray([float(day) for day in days]), treatments or {})
    params = jax.tree.map(jnp.asarray, calibration.centre)
    series, _ = _followed(without_images(followed), params, _outlines(problem))
    return np.asarray(series)[places]


def continued(problem: Problem, days: np.ndarray, treatments: Mapping[str, Treatment]) -> tuple[Problem, list[int]]:
    """Return the problem with visits on further days, and where the days are among all of its visits.

    Images of further days are those of the last visit, so that a solve shows them all; what they hold is of no account.
    """
    known = [float(visit.day) for visit in problem.visits]
    if not days.size or not np.isfinite(days).all():
        raise ValueError(f"a forecast needs days that are finite numbers, got {days.tolist()}")
    if days.min() < known[0]:
        raise ValueError(f"a forecast begins with the first visit on day {known[0]:g}, got day {days.min():g}")
    if twice := sorted(problem.treatments.keys() & treatments.keys()):
        raise ValueError(f"the problem has a treatment {twice[0]!r} already; give the other one another name")
    together = sorted({*known, *days.tolist()})
    # What images show on further days is not looked at, but they have to show something.
    by_day = {float(visit.day): visit.observations for visit in problem.visits}
    visits = [Visit(day, by_day.get(day, problem.observations)) for day in together]
    done = {**problem.dated, **treatments}
    model, anatomy, prior = problem.model, problem.anatomy, problem.prior
    continued = Problem(model, anatomy, visits, prior, problem.stepper, done)
    return continued, [together.index(day) for day in days.tolist()]


def without_images(problem: Problem) -> Problem:
    """Return the problem for solves alone, whose images would be copied to the device for each day and each draw."""
    return eqx.tree_at(lambda p: (p.earlier, p.observations), problem, ((), {}))


def _outlines(problem: Problem) -> tuple[str, ...]:
    """Return the names of the outlines; of the law of a volume, and of a patient without outlines, what is summed."""
    if problem.anatomy is None:
        return ("volume",)
    seen = {name for visit in problem.visits for name, o in visit.observations.items() if isinstance(o, Outline)}
    return tuple(sorted(seen)) or ("cells",)


@eqx.filter_jit
def _followed(problem: Problem, params: Parameters, names: tuple[str, ...]) -> tuple[Any, Float[Array, "o t"]]:
    """Return the densities at all visits, None for the law of a volume, and the volumes within the outlines."""
    solution = problem.solve(params)
    if problem.anatomy is None:
        volumes = solution.volume[None] if solution.series is None else solution.series
        return None, volumes[None]
    series = solution.density[None] if solution.series is None else solution.series
    voxel = jnp.asarray(problem.anatomy.grid.voxel_volume, series.dtype)

    def volume(threshold: Array) -> Float[Array, "t"]:
        inside = (series > threshold).astype(series.dtype)
        return voxel * jnp.sum(jnp.where(jnp.isnan(series), jnp.nan, inside), axis=(1, 2, 3))

    if names == ("cells",):
        volumes = voxel * jnp.sum(series, axis=(1, 2, 3))[None, :]
    else:
        volumes = jnp.stack([volume(params.observations[name].threshold) for name in names])
    return series, volumes
