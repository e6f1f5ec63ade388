"""Two real patients seen twice after treatment: how fast the tumours grew, and the second date from the first."""

import functools
import time
from typing import Any

import jax
import numpy as np
from scipy.ndimage import distance_transform_edt

from benchmarks.cohorts import folder
from benchmarks.patients import DATA
from benchmarks.record import Record, code, kept
from tumorjax import (
    LBFGS,
    LogNormal,
    Patient,
    Problem,
    Visit,
    calibrate,
    default_prior,
    forecast,
    load_visits,
    personalize,
)
from tumorjax.growth.parameters import PUBLISHED_SPEED
from tumorjax.pipeline.problems import problem_of
from tumorjax.pipeline.volumes import cells_on_voxels
from tumorjax.planning import dice, iso_volume_plan

PATIENTS = {"a": 55.0, "b": 63.0}
"""Days between the two dates."""

# mm, of the computing grid. Slices are 6 mm apart.
_RESOLUTION = 4.0
# Of the logarithm of the speed, as in the default prior of several visits.
_SPREAD = 1.0
_DRAWS = 100
_TAILS = (0.05, 0.95)


def follow_ups() -> list[Record]:
    """All figures of the patients whose images are there."""
    records, by = [], code("follow_up")
    for name, days in PATIENTS.items():
        if not (DATA / "visits" / name).is_dir():
            print(f"visits/{name} is absent, so this patient is not measured")
            continue
        row = kept(folder() / "follow-up" / f"{name}.json", by, functools.partial(measured, name, days))
        print(f"patient {name}: {row['seconds']:.0f} s", flush=True)
        records += _records(name, row)
    return records


def measured(name: str, days: float) -> dict[str, Any]:
    """Return what both dates of a patient say of the speed, and what the first one says of the second."""
    begun = time.monotonic()
    patient = visits_of(name, days)
    both = personalize(patient, method=LBFGS(starts=2))
    (speed,) = (row for row in both.estimates if row.name == "speed")
    (first,) = patient.earlier
    return {
        "days": days,
        "outlined ml": [_millilitres(each) for each in patient.visits],
        "speed": speed.value,
        "ends of 90 % of the speed": speed.interval,
        "dice": [both.metrics[f"dice_core_day_{first.day:g}"], both.metrics["dice_core"]],
        **predicted(first, patient),
        "quality": str(both.quality),
        "notes": [*patient.notes, *both.notes],
        "seconds": time.monotonic() - begun,
    }


def visits_of(name: str, days: float) -> Patient:
    """Return a patient of two dates, of whom the enhancing tumour alone is outlined."""
    place = DATA / "visits" / name
    rows = [
        {"day": day, "segmentation": place / f"{which}_enhancing.nii.gz", "t1": place / f"{which}_t1c.nii.gz"}
        for day, which in ((0.0, "first"), (days, "second"))
    ]
    return load_visits(rows, labels={"core": (1,)}, resolution=_RESOLUTION)


def predicted(first: Patient, second: Patient) -> dict[str, Any]:
    """Return how well the first date predicts the second, at speeds of the prior, of which one date says nothing."""
    asked = problem_of(first)
    speed = LogNormal(PUBLISHED_SPEED, _SPREAD)
    prior = default_prior(asked.anatomy, asked.observations, speed=speed)
    problem = Problem(asked.model, asked.anatomy, [Visit(first.day, asked.observations)], prior)
    found = calibrate(problem, LBFGS(starts=2))
    told = forecast(problem, found, [first.day, second.day], key=jax.random.key(0), count=_DRAWS)
    assert told.density is not None
    density = cells_on_voxels(first, asked)(told.density[1])
    # As many voxels as are outlined on the second day, by the density and around the first outline alike.
    count = int(second.core.sum())
    away = np.asarray(distance_transform_edt(~first.core, sampling=np.asarray(first.reference.grid.spacing)))
    dense = iso_volume_plan(density, first.brain, count, distance=away)
    margin = iso_volume_plan(np.zeros_like(density), first.brain, count, distance=away)
    volumes = told.volumes["core"] / 1000
    return {
        "dice of the prediction": dice(dense, second.core),
        "dice of the margin": dice(margin, second.core),
        "dice of no change": dice(first.core, second.core),
        "predicted ml": np.median(volumes, axis=0).tolist(),
        "ends of 90 % of the volume": np.quantile(volumes, _TAILS, axis=0)[:, 1].tolist(),
        "rank of the volume": float(np.mean(volumes[:, 1] < _millilitres(second))),
        "result": found.result.name,
    }


def _records(name: str, row: dict[str, Any]) -> list[Record]:
    label = f"follow_up_{name}"
    low, high = row["ends of 90 % of the volume"]
    inside = float(low <= row["outlined ml"][1] <= high)
    return [
        Record(f"{label}_speed", row["speed"], "mm/day", "", row),
        Record(f"{label}_speed_low", row["ends of 90 % of the speed"][0], "mm/day"),
        Record(f"{label}_speed_high", row["ends of 90 % of the speed"][1], "mm/day"),
        Record(f"{label}_dice", row["dice of the prediction"], "1"),
        Record(f"{label}_margin_dice", row["dice of the margin"], "1"),
        Record(f"{label}_no_change_dice", row["dice of no change"], "1"),
        Record(f"{label}_volume_in_90", inside, "1"),
        Record(f"{label}_volume_rank", row["rank of the volume"], "1"),
    ]


def _millilitres(patient: Patient) -> float:
    return float(patient.core.sum() * patient.reference.grid.voxel_volume) / 1000
