"""Tables 2 and S2: neither the seed nor the healthy anatomy is known; atlases stand for the anatomy."""

import time
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.displaced import Displaced, displaced, problem_of
from benchmarks.multi_atlas.errors import errors, field_errors, grown, plain
from benchmarks.multi_atlas.published import UNKNOWN_ANATOMY
from benchmarks.multi_atlas.setting import Setting
from benchmarks.patients import DATA
from benchmarks.record import Record
from tumorjax import calibrate
from tumorjax.atlas import AtlasImages, deformed_atlas, load_atlas

QUESTION = "unknown_anatomy"

# Typical difference (mm) between the brains of different people after an affine alignment.
_MAGNITUDE, _SMOOTHNESS = 4.0, 15.0
_SEEDS = (1, 2, 3)
_REAL = {
    "sri24": DATA / "atlas_sri24",
    "nirep1": DATA / "brains_nirep" / "brain01.nii.gz",
    "nirep2": DATA / "brains_nirep" / "brain02.nii.gz",
}


def atlases_of(kind: str) -> dict[str, AtlasImages]:
    """Return the brains that stand for the patient's, which is ICBM152 itself, by the names that records have."""
    if kind == "real":
        found = {name: load_atlas(place) for name, place in _REAL.items()}
    else:
        brain, settings = load_atlas("icbm152"), {"magnitude": _MAGNITUDE, "smoothness": _SMOOTHNESS}
        found = {f"random{seed}": deformed_atlas(brain, seed, **settings)[0] for seed in _SEEDS}
    # Not the paths of a machine.
    return {name: replace(images, name=name) for name, images in found.items()}


def unknown_anatomy(case: str, setting: Setting) -> list[Record]:
    """Return the errors of a case as means over atlases, and those of the mean over atlases."""
    one = displaced(case, setting.spacing)
    begun, notes = time.perf_counter(), list[str]()
    images = atlases_of(setting.atlases)
    # As for any patient: what cannot be aligned is left out.
    method = setting.method(tuple(images.values())).prepare(
        one.patient, one.model, healthy=setting.healthy, notes=notes, progress=_quiet
    )
    registered = time.perf_counter() - begun
    found = calibrate(problem_of(one, seen=setting.seen, fluid=setting.fluid), method)
    seconds = time.perf_counter() - begun
    solutions = {atlas.name: grown(one, found.samples, i, atlas.anatomy) for i, atlas in enumerate(found.atlases)}
    details = {
        "seconds": seconds,
        "seconds of registration": registered,
        "notes": [str(note) for note in notes],
        "weights": np.exp(np.asarray(found.log_weights, float)).tolist(),
        "stats": plain(found.stats),
    }
    return [
        *_in_each(case, setting, one, solutions, details),
        *_of_the_mean(case, setting, one, list(solutions.values())),
        Record(setting.name(QUESTION, f"{case}_seconds"), seconds, "s", "<= 900"),
    ]


def _quiet(stage: str, share: float | None) -> None:
    pass


def _in_each(
    case: str, setting: Setting, one: Displaced, solutions: dict[str, Any], details: dict[str, Any]
) -> list[Record]:
    """Return the mean over atlases of the errors in each, as in the paper."""
    each = {name: errors(one, *solution) for name, solution in solutions.items()}
    of_growth = "T rho, T kappa, gamma"
    for what, which in (("largest displacement, voxels", "largest"), (of_growth, of_growth)):
        details[what] = {name: told[which] for name, (_, told) in each.items()}
    targets = {"displacement_field": "<= 0.15", "tumour": "<= 0.18"} if case in "cd" else {}
    records = []
    for row in next(iter(each.values()))[0]:
        values = {name: found[row] for name, (found, _) in each.items()}
        told = {"atlases": values, "published": UNKNOWN_ANATOMY[case].get(row), **(details if row == "tumour" else {})}
        name = setting.name(QUESTION, f"{case}_{row}_error")
        records.append(Record(name, float(np.mean(list(values.values()))), "1", targets.get(row, ""), told))
    return records


def _of_the_mean(case: str, setting: Setting, one: Displaced, solutions: list[Any]) -> list[Record]:
    """Return the errors of what a user gets: the mean density and the mean displacement."""
    density, displacement = (
        np.mean([np.asarray(getattr(solution, field)) for _, solution in solutions], axis=0)
        for field in ("density", "displacement")
    )
    found = field_errors(one, density, displacement)
    # If fields point in different directions, the size of their mean may be right by chance.
    del found["displacement"]
    return [
        Record(setting.name(QUESTION, f"{case}_{row}_error_of_the_mean"), value, "1") for row, value in found.items()
    ]
