"""Several visits: the price of a gradient, whether speed and radiosensitivity are found, a real rat, real patients."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.brain import GROWTH, brain
from benchmarks.cohorts import folder
from benchmarks.follow_up import follow_ups
from benchmarks.rat import rat
from benchmarks.record import NINETY, Record, code, kept, medians_by_turns
from tumorjax import (
    LBFGS,
    Anatomy,
    Calendar,
    FisherKolmogorov,
    LogNormal,
    Normal,
    Outline,
    OutlineParams,
    Parameters,
    Prior,
    Problem,
    Radiotherapy,
    ScaledGrowthParams,
    Uniform,
    Visit,
    calibrate,
    simulate,
)
from tumorjax.growth.parameters import PUBLISHED_SPEED
from tumorjax.methods.neural.simulator import ProblemSimulator

MODEL = FisherKolmogorov()
TWO, THREE = (0.0, 60.0), (0.0, 60.0, 120.0)
# 30 fractions of 2 Gy in six weeks.
COURSE = Radiotherapy.course(10.0, 30, 2.0, LogNormal(0.035, 0.5))
# Lesions of patients, ml, on the first day and the last.
_SIZES = (3.0, 150.0)


PARTS = ("rat", "gradient", "speed", "alpha", "rat-mass-effect", "follow-up")
"""The parts of the benchmark that can be measured separately."""


def add_arguments(group: Any) -> None:
    """Add options to the command line."""
    group.add_argument("--cases", type=int, default=50, metavar="N", help="synthetic patients of each kind")
    known = ", ".join(PARTS)
    group.add_argument("--parts", nargs="+", choices=PARTS, metavar="PART", help=f"all, or some of {known}")


def run(size: str, cases: int = 50, parts: Sequence[str] | None = None) -> list[Record]:
    """All figures; the result of each patient is stored beside the cohorts, so that the same command continues.

    `small` has coarse voxels, one untreated patient, and neither the rat nor real patients.
    """
    small = size == "small"
    chosen = parts or (PARTS[1:3] if small else PARTS)
    cases, spacing = (1, 8) if small else (cases, 4)
    measured = {
        "rat": rat,
        "rat-mass-effect": lambda: rat(pushing=True),
        "follow-up": follow_ups,
        "gradient": lambda: gradient(8 if small else 2),
        "speed": lambda: _summary("speed", covered(TWO, {}, cases, spacing), "growth.speed"),
        "alpha": lambda: _summary(
            "alpha", covered(THREE, {"radiation": COURSE}, cases, spacing), "treatments.radiation.alpha"
        ),
    }
    return [record for part in chosen for record in measured[part]()]


def gradient(spacing: int) -> list[Record]:
    """The price of a value with its gradient by six parameters, for one visit and for three."""
    anatomy = brain(spacing)
    scaled = jax.tree.map(lambda leaf: jnp.asarray(leaf, anatomy.dtype), GROWTH.scaled())
    point = jnp.concatenate([jnp.stack([scaled.mu1, scaled.mu2, scaled.speed]), scaled.origin])
    # The same whole time, from the seed to the last visit.
    shares = {"one": 1.0, "three": float((GROWTH.duration - THREE[-1]) / GROWTH.duration) ** 0.5}
    records = []
    for name, calendar in (("one", None), ("three", Calendar.of(THREE))):

        def seen(point: Any, anatomy: Anatomy, calendar: Any = calendar, share: float = shares[name]) -> Any:
            params = ScaledGrowthParams(share * point[0], share * point[1], point[3:], point[2])
            solution = simulate(MODEL, params, anatomy, calendar=calendar, throw=False)
            return solution.density if solution.series is None else solution.series

        forward = jax.jit(seen)
        both = jax.jit(jax.value_and_grad(lambda point, anatomy, seen=seen: jnp.sum(seen(point, anatomy) ** 2)))
        solve, reverse = medians_by_turns([lambda f=forward: f(point, anatomy), lambda f=both: f(point, anatomy)], 9)
        memory = both.lower(point, anatomy).compile().memory_analysis()
        fields = np.nan if memory is None else memory.temp_size_in_bytes / anatomy.white_matter.nbytes
        details = {"spacing": spacing, "forward seconds": solve, "seconds": reverse, "memory in fields": fields}
        plural = "" if name == "one" else "s"
        target = "" if name == "one" else "<= 3.5"
        records.append(Record(f"gradient_ratio_{name}_visit{plural}", reverse / solve, "solves", target, details))
    return records


def covered(days: tuple[float, ...], treatments: dict[str, Radiotherapy], count: int, spacing: int) -> list[dict]:
    """Calibrate synthetic patients drawn from the prior, whose images are drawn from the likelihood."""
    anatomy, place, by, rows = brain(spacing), folder() / f"visits-{spacing}mm", code("visits"), []
    for number in range(count):
        file = place / f"{len(days)}-visits-{number:02d}.json"
        rows.append(kept(file, by, functools.partial(_calibrated, anatomy, days, treatments, number)))
        print(f"{len(days)} visits, patient {number + 1} of {count}: {rows[-1]['seconds']:.0f} s", flush=True)
    return rows


def _calibrated(
    anatomy: Anatomy, days: tuple[float, ...], treatments: dict[str, Radiotherapy], number: int
) -> dict[str, Any]:
    """Return errors and deviations of the coordinates of a patient."""
    random, made = np.random.default_rng([len(days), number]), None
    while made is None:
        made = _patient(anatomy, days, treatments, random)
    problem, truth = made
    begun = time.monotonic()
    found = calibrate(problem, LBFGS(starts=2))
    deviations = np.sqrt(np.diagonal(np.asarray(found.covariance, float)))
    errors = (np.asarray(found.coordinates, float) - truth) / deviations
    names = found.prior.names
    return {
        "seconds": time.monotonic() - begun,
        "result": found.result.name,
        "errors": dict(zip(names, errors.tolist(), strict=True)),
        "deviations": dict(zip(names, deviations.tolist(), strict=True)),
    }


def _patient(
    anatomy: Anatomy, days: tuple[float, ...], treatments: dict[str, Radiotherapy], random: np.random.Generator
) -> tuple[Problem, np.ndarray] | None:
    """Return a patient's problem and the truth in the prior's coordinates; None if the lesion is of unusual size."""
    white = np.argwhere(np.asarray(anatomy.white_matter) > 0.8)
    middle = np.asarray(anatomy.grid.to_world(random.permutation(white)[0].astype(float)), np.float32)
    growth = ScaledGrowthParams(
        LogNormal(7.0, 0.5), LogNormal(3.5, 0.25), Normal(middle, np.full(3, 4.0, np.float32)), _speed()
    )
    unknown = {name: OutlineParams(Uniform(*box), LogNormal(4.0, 0.3)) for name, box in _THRESHOLDS.items()}
    alphas = {name: {"alpha": each.alpha} for name, each in treatments.items()}
    prior = Prior(Parameters(growth, unknown, alphas))
    z = random.normal(size=prior.size)
    params = prior.constrain(jnp.asarray(z, anatomy.dtype))
    tissue = np.asarray(anatomy.tissue)
    unseen = [
        Visit(day, {name: Outline(inside=tissue.astype(np.float32), valid=tissue) for name in unknown}) for day in days
    ]
    asked = Problem(MODEL, anatomy, unseen, prior, treatments=treatments)
    probabilities = {
        own: np.asarray(image.expected(field, params.observations[name])[0][0])
        for own, name, image, field in asked.seen(asked.predict(params))
    }
    sure = [_outlines(probabilities, tissue, i) for i in range(len(days))]
    volumes = [float(each["lesion"].sum() * anatomy.grid.voxel_volume) / 1000 for each in sure]
    if not _SIZES[0] < min(volumes) < max(volumes) < _SIZES[1] or not all(each["core"].any() for each in sure):
        return None
    # How far errors are correlated follows from the size of the lesion.
    sized = Problem(MODEL, anatomy, _visits(days, sure, tissue), prior, treatments=treatments)
    simulator = ProblemSimulator.of(sized)
    key = jax.random.key(int(random.integers(2**31)))
    labels = np.asarray(simulator.draw(simulator.predict(jnp.asarray(z, anatomy.dtype)), key)[0])
    drawn = np.split(labels, 2 * len(days))
    # The simulator has images in the order of their names.
    names = sorted(f"{name}_{i + 1}" for name in unknown for i in range(len(days)))
    images = {own: part.reshape(tissue.shape) for own, part in zip(names, drawn, strict=True)}
    seen = [{name: images[f"{name}_{i + 1}"] & tissue for name in unknown} for i in range(len(days))]
    # In the whole brain, whose shape all patients share: in the box of its lesion each would compile anew, which takes
    # ten times as long as its solves.
    return dataclasses.replace(sized, **_fields(_visits(days, seen, tissue))), z


_THRESHOLDS = {"core": (0.5, 0.85), "lesion": (0.05, 0.5)}


def _speed() -> LogNormal:
    return LogNormal(PUBLISHED_SPEED, 0.7)


def _outlines(probabilities: dict[str, np.ndarray], tissue: np.ndarray, i: int) -> dict[str, np.ndarray]:
    """Return the most probable outlines of a visit."""
    return {name: (probabilities[f"{name}_{i + 1}"] > 0.4) & tissue for name in _THRESHOLDS}


def _visits(days: tuple[float, ...], outlines: list[dict[str, np.ndarray]], tissue: np.ndarray) -> list[Visit]:
    return [
        Visit(day, {name: Outline(inside=inside.astype(np.float32), valid=tissue) for name, inside in each.items()})
        for day, each in zip(days, outlines, strict=True)
    ]


def _fields(visits: list[Visit]) -> dict[str, Any]:
    return {"earlier": tuple(visits[:-1]), "observations": visits[-1].observations}


def _summary(name: str, rows: list[dict], coordinate: str) -> list[Record]:
    """How often the 90 % interval of a number holds the truth, and how wide it is beside that of the prior."""
    errors = np.array([row["errors"][coordinate] for row in rows])
    deviations = np.array([row["deviations"][coordinate] for row in rows])
    target = {"speed": "0.85 to 0.95", "alpha": ""}[name]
    details = {"patients": len(rows), "rows": rows}
    return [
        Record(f"{name}_coverage_90", float(np.mean(np.abs(errors) < NINETY)), "1", target, details),
        Record(
            f"{name}_deviation_over_prior",
            float(np.median(deviations)),
            "1",
            "<= 0.25" if name == "speed" else "",
            {"largest": float(deviations.max())},
        ),
    ]
