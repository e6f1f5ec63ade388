"""A tumour over several visits: volumes and densities by day, the day of its seed, and how well visits are met."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Array, Key

from tumorjax.calibration import Calibration, Estimate, Forecast, Problem, forecast
from tumorjax.calibration.estimates import weighted_spread
from tumorjax.calibration.forecast import follow
from tumorjax.growth import Treatment
from tumorjax.io import InputError
from tumorjax.patient import Patient
from tumorjax.pipeline.fit import UNRELATED, overlaps_in_words
from tumorjax.pipeline.volumes import cells_on_voxels
from tumorjax.planning import coverage, dice
from tumorjax.quality import FAIR, Note, Status
from tumorjax.results.slices import Slices

# Solves of the forecast, and draws of numbers, which cost no solve; a 90 % interval of the latter errs by 3 %.
_SOLVES, _DRAWS = 100, 4000
# Ends of the 90 % band.
_TAILS = (0.05, 0.95)
_NAMES = {"core": "core", "lesion": "whole lesion"}
# Days besides those that are asked for, on which curves of volumes have points.
_POINTS = 25


def check_forecast(days: Sequence[float], visits: Sequence[float]) -> list[float]:
    """Return the days of a forecast in order, each once.

    Raises
    ------
    InputError
        If a day is not after the last visit, or there is one visit alone, which says nothing of the speed of growth.
    """
    found = sorted({float(day) for day in days})
    if not found:
        return []
    if not all(math.isfinite(day) for day in found):
        raise InputError(f"forecast: got the days {', '.join(f'{day:g}' for day in found)}; give finite numbers")
    if len(visits) < 2:
        raise InputError("forecast: one date says nothing of the speed of growth; give the visits of two days or more")
    if found[0] <= visits[-1]:
        raise InputError(
            f"forecast: got day {found[0]:g}, but the last visit is on day {visits[-1]:g}; give later days, on the "
            "clock of the visits"
        )
    return found


def forecast_of(
    patient: Patient,
    problem: Problem,
    calibration: Calibration,
    days: Sequence[float],
    *,
    treatments: Mapping[str, Treatment],
    key: Key[Array, ""] | None,
    progress: Callable[[str, float | None], None],
) -> Forecast:
    """Return volumes on many days, and densities on the patient's voxels on those of the visits and of the forecast.

    Parameters
    ----------
    patient, problem, calibration
        What was calibrated, and the outcome.
    days
        Days of the forecast, day, after the last visit.
    treatments
        Those to come.
    key
        Random key of the draws; None for a fixed one.
    progress
        Receives the stage and the share that is done.
    """
    seen = {float(visit.day): each for visit, each in zip(problem.visits, patient.visits, strict=True)}
    asked = [*seen, *days]
    # A curve bends where a treatment begins, and on the day after its last fraction.
    bends = [
        day
        for each in (*problem.dated.values(), *treatments.values())
        for day in (min(each.begins), max(each.begins) + 1)
        if asked[0] < day < asked[-1]
    ]
    between = np.unique([*np.linspace(asked[0], asked[-1], _POINTS), *bends])
    # Days that differ by rounding alone would be one.
    apart = np.abs(between[:, None] - asked).min(axis=1) > (asked[-1] - asked[0]) / _POINTS / 10
    curve = sorted([*asked, *between[apart].tolist()])
    found = forecast(
        problem,
        calibration,
        curve,
        key=jax.random.key(0) if key is None else jax.random.fold_in(key, len(asked)),
        treatments=treatments,
        mapped=asked,
        count=_SOLVES,
        progress=lambda share: progress("forecast", share),
    )
    assert found.density is not None and found.deviation is not None
    to_voxels = {day: cells_on_voxels(each, problem) for day, each in seen.items()}

    def placed(series: np.ndarray) -> np.ndarray:
        # After the last visit the tissue is that of the last visit.
        fine = [to_voxels.get(day, to_voxels[patient.day]) for day in asked]
        return np.stack([np.maximum(each(field), 0) for each, field in zip(fine, series, strict=True)])

    return replace(
        found,
        density=np.minimum(placed(found.density), 1),
        deviation=placed(found.deviation),
        inside={name: np.minimum(placed(each), 1) for name, each in found.inside.items()},
    )


def slices_of(
    patient: Patient,
    problem: Problem,
    calibration: Calibration,
    found: Forecast,
    *,
    treatments: Mapping[str, Treatment],
) -> Slices:
    """Return the density for the calibrated parameters on all days of a forecast, in the slice through the lesion.

    Parameters
    ----------
    patient, problem, calibration
        What was calibrated, and the outcome.
    found
        The forecast, from `forecast_of`.
    treatments
        Those to come.
    """
    from nibabel.orientations import io_orientation

    # The axis of the patient's voxels that runs up.
    (axis,) = np.flatnonzero(io_orientation(np.asarray(patient.reference.affine))[:, 0] == 2)
    inside = np.argwhere(patient.core)
    away = np.linalg.norm((inside - inside.mean(axis=0)) * np.asarray(patient.reference.grid.spacing), axis=1)
    at = int(inside[away.argmin(), axis])
    box = tuple(slice(at, at + 1) if each == axis else slice(None) for each in range(3))
    series = follow(problem, calibration, found.days.tolist(), treatments=treatments)
    fine = {each.day: cells_on_voxels(each, problem, box) for each in patient.visits}
    # Between two visits the tissue is that of the former.
    days = [max(day for day in fine if day <= each) for each in found.days]
    cut = [np.clip(fine[day](density), 0, 1) for day, density in zip(days, series, strict=True)]
    return Slices(found.days, np.stack(cut), box)


def estimates_of_visits(
    rows: Sequence[Estimate], patient: Patient, calibration: Calibration, key: Key[Array, ""] | None
) -> list[Estimate]:
    """Return estimates with their 90 % intervals, and with the day of the seed after them.

    Intervals are those of draws, also where the posterior is approximated: numbers that several visits determine differ
    by factors, so that their intervals are not symmetric.
    """
    first = patient.visits[0].day
    quantities = calibration.quantities()
    values = [quantity.value for quantity in quantities]

    def numbers(params: object) -> list[Array]:
        return [*(value(params) for value in values), first - params.growth.duration]  # pyright: ignore

    spread = calibration.spread(numbers)
    low, high = spread.low, spread.high
    if low is None and calibration.covariance is not None:
        drawn = calibration.sample(jax.random.key(1) if key is None else jax.random.fold_in(key, 1), _DRAWS)
        many = jax.device_get(jax.jit(jax.vmap(numbers))(drawn))
        low, high = weighted_spread(many, np.zeros(_DRAWS), spread.mode)[3:]
    known = {quantity.name: i for i, quantity in enumerate(quantities)}

    def interval(i: int) -> tuple[float, float] | None:
        return None if low is None or high is None else (float(low[i]), float(high[i]))

    found = [row if row.fixed else replace(row, interval=row.interval or interval(known[row.name])) for row in rows]
    deviation = None if spread.deviation is None else float(spread.deviation[-1])
    seed = Estimate(
        "seed_day",
        "t_0",
        float(spread.value[-1]),
        deviation,
        "day",
        "day of the seed on the clock of the visits, at constant rates",
        mode=float(spread.mode[-1]),
        interval=interval(-1),
    )
    return [*found, seed]


def figures_of_speed(rows: Sequence[Estimate]) -> dict[str, float | int | None]:
    """Return the speed of the front with the ends of its 90 % interval, mm/day; nothing of a model without one."""
    for row in rows:
        if row.name == "speed" and not row.fixed:
            low, high = (None, None) if row.interval is None else row.interval
            return {"speed_mm_per_day": row.value, "speed_mm_per_day_5": low, "speed_mm_per_day_95": high}
    return {}


def check_of_forecast(found: Forecast, known: Patient, kept: Patient) -> dict[str, float | int | None]:
    """Return how well a forecast meets a scan that was kept back, for each outline.

    Parameters
    ----------
    found
        The forecast, with maps at the patient's voxels.
    known
        The patient without that scan.
    kept
        The patient on the day of the scan.

    Returns
    -------
    dict
        "held_out_dice_core": Dice of the voxels that lie inside the outline with a probability of at least one half;
        "held_out_dice_core_unchanged": that of the last known outline, as if nothing had grown;
        "held_out_covered_core": share of the outline in voxels that lie inside with a probability above 5 %;
        "held_out_rank_core": share of the draws with a smaller volume than was outlined, between 0.05 and 0.95 where
        the volume lies in the band. The same for the lesion, as far as it was outlined on that day and before it.
    """
    place, day = found.mapped.tolist().index(kept.day), found.days.tolist().index(kept.day)
    voxel = float(kept.reference.grid.voxel_volume)
    figures: dict[str, float | int | None] = {}
    for name, outlined in kept.outlines.items():
        before = [each.outlines[name] for each in known.visits if name in each.outlines]
        if not before:
            continue
        inside, volumes = found.inside[name][place], found.volumes[name][:, day]
        figures |= {
            f"held_out_dice_{name}": dice(inside >= 0.5, outlined),
            f"held_out_dice_{name}_unchanged": dice(before[-1], outlined),
            f"held_out_covered_{name}": coverage(inside > 0.05, outlined),
            f"held_out_rank_{name}": float(np.mean(volumes < outlined.sum() * voxel)),
        }
    return figures


def notes_on_forecast(found: Forecast, kept: Patient, figures: Mapping[str, float | int | None]) -> list[str]:
    """Return a note for each outline of a scan that was kept back whose volume lies outside the forecast's 90 % band.

    Parameters
    ----------
    found, kept
        See `check_of_forecast`.
    figures
        What that returned.
    """
    day, voxel, notes = found.days.tolist().index(kept.day), float(kept.reference.grid.voxel_volume), list[str]()
    for name, outlined in kept.outlines.items():
        rank = figures.get(f"held_out_rank_{name}")
        if rank is None or _TAILS[0] <= rank <= _TAILS[1]:
            continue
        spread, side = found.volume(name), "above" if rank > _TAILS[1] else "below"
        low, high = (float(end[day]) / 1000 for end in (spread.low, spread.high))
        text = (
            f"On day {kept.day:g}, which was kept back, the {_NAMES.get(name, name)} has "
            f"{float(outlined.sum()) * voxel / 1000:.1f} ml, {side} the forecast's 90 % band of {low:.1f} to "
            f"{high:.1f} ml: later forecasts may err in the same direction."
        )
        notes.append(Note(text, Status.DOUBTFUL))
    return notes


def fit_of_visits(
    patient: Patient, calibration: Calibration, found: Forecast
) -> tuple[dict[str, float | int | None], list[str]]:
    """Return how well the density of each earlier day meets its outlines, and notes where it does not.

    A note counts the draws whose solve failed, too.
    """
    unknown, figures, notes = calibration.centre.observations, dict[str, float | int | None](), list[str]()
    assert found.density is not None
    if found.failed:
        count = found.failed + len(next(iter(found.volumes.values())))
        notes.append(f"{found.failed} of the {count} solves of the forecast gave no density and are left out of it.")
    for each in patient.earlier:
        density = found.density[found.mapped.tolist().index(each.day)]
        overlaps = {
            name: dice(density > float(unknown[name].threshold), outlined) for name, outlined in each.outlines.items()
        }
        figures |= {f"dice_{name}_day_{each.day:g}": value for name, value in overlaps.items()}
        if (worst := min(overlaps.values())) < FAIR:
            text = (
                f"On day {each.day:g} the model's {overlaps_in_words(overlaps)}: one tumour of constant rates does not "
                "explain all visits."
            )
            notes.append(Note(text, Status.DOUBTFUL if worst >= UNRELATED else Status.FAILED))
    return figures, notes
