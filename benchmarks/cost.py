"""Cost as work grows: seconds and memory over the voxels, members of a batch, atlases, and tumours of a database.

Each point has a process of its own, whose largest resident memory is that of this work, of the libraries and of what
was compiled. Its seconds are those of a call after one that compiles, but for atlases and databases, which compile once
in all of their work.
"""

import argparse
import functools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.brain import GROWTH, ORIGIN
from benchmarks.cohorts import atlas, folder, seconds_of_building
from benchmarks.mass_effect import case
from benchmarks.memory import forget_peak, peak
from benchmarks.record import Record, code, kept
from benchmarks.suite import synthetic
from tumorjax import Anatomy, FisherKolmogorov, MassEffect, MultiAtlas, ScaledGrowthParams, simulate, simulate_many
from tumorjax.atlas import deformed_atlas, load_atlas
from tumorjax.pipeline.personalize import personalize

MODEL = FisherKolmogorov()
# Voxels (mm) of batches, atlases and databases.
_SPACING = 4.0
# First seed of the atlases besides ICBM152.
_SEED = 8001
# Calls that are timed, as many as take less than these seconds together, and at least one.
_SECONDS, _CALLS = 20.0, 7

# Those of the benchmarks that determine the figures.
_MODULES = ("cost", "brain", "cohorts", "mass_effect", "memory", "suite")

Work = Callable[[], Any]

SIZES: dict[str, dict[str, tuple[float, ...]]] = {
    "full": {
        "growth": (8, 6, 4, 3, 2, 1.5, 1, 0.75),
        "gradient": (8, 6, 4, 3, 2, 1.5, 1, 0.75),
        "mass_effect": (8, 6, 4, 3, 2, 1.5),
        "members": (1, 4, 16, 64, 256, 1024),
        "atlases": (1, 2, 4, 6),
        "tumours": (1_000, 10_000, 100_000),
    },
    "small": {"growth": (8,), "gradient": (8,), "members": (2,), "tumours": (20,)},
}
"""What each part measures: edges of voxels in mm, and numbers."""

_VOXELS = "voxels"
AXES = {
    **dict.fromkeys(("growth", "gradient", "mass_effect"), _VOXELS),
    "members": "members of a batch, 4 mm",
    "atlases": "atlases, mass effect, 4 mm",
    "tumours": "tumours of a database, 4 mm",
}
"""What the cost of each part is drawn over."""


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--parts", nargs="+", choices=tuple(AXES), metavar="PART", help=f"of {', '.join(AXES)}")


def run(size: str, parts: list[str] | None = None) -> list[Record]:
    """Seconds and gigabytes of each point; those that were measured before are kept in the folder of cohorts."""
    records = []
    for part, points in SIZES[size].items():
        if parts is not None and part not in parts:
            continue
        for point in points:
            name = f"{part}_{point:g}{'mm' if AXES[part] == _VOXELS else ''}"
            file = folder() / "cost" / f"{size}_{name}.json"
            found = kept(
                file,
                code(*_MODULES),
                functools.partial(_alone, part, point, size),
            )
            print(f"{name}: {found['seconds']:.3g} s", flush=True)
            details = {"at": found["at"], "calls": found["calls"]}
            records.append(Record(f"{name}_seconds", found["seconds"], "s", "", details))
            # Where the system counts the memory of processes.
            if found["gigabytes"] is not None:
                records.append(Record(f"{name}_gigabytes", found["gigabytes"], "GB", "", details))
    return records


def _alone(part: str, point: float, size: str) -> dict[str, Any]:
    # A child that was forked would have the memory of its parent, and no working JAX.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured, part, point, size).result()


def measured(part: str, point: float, size: str) -> dict[str, Any]:
    """Return what a point costs, in a process that does nothing else."""
    at, once, work = PREPARE[part](point, 8.0 if size == "small" else _SPACING)
    if not once:
        work()
    forget_peak()
    seconds: list[float] = []
    while not seconds or (not once and len(seconds) < _CALLS and sum(seconds) < _SECONDS):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return {"seconds": statistics.median(seconds), "gigabytes": peak(), "at": at, "calls": len(seconds)}


def _brain(spacing: float) -> Anatomy:
    anatomy = atlas(spacing)
    return anatomy.crop(*anatomy.box())


def _growth(spacing: float, _: float) -> tuple[int, bool, Work]:
    anatomy = _brain(spacing)
    solve = jax.jit(lambda anatomy, params: simulate(MODEL, params, anatomy, throw=False).density)
    return anatomy.white_matter.size, False, lambda: solve(anatomy, GROWTH).block_until_ready()


def _gradient(spacing: float, _: float) -> tuple[int, bool, Work]:
    anatomy = _brain(spacing)
    scaled = jax.tree.map(lambda leaf: jnp.asarray(leaf, anatomy.dtype), GROWTH.scaled())

    @jax.jit
    @jax.value_and_grad
    def loss(params: ScaledGrowthParams, anatomy: Anatomy) -> Any:
        return jnp.sum(simulate(MODEL, params, anatomy, throw=False).density ** 2)

    return anatomy.white_matter.size, False, lambda: jax.block_until_ready(loss(scaled, anatomy))


def _mass_effect(spacing: float, _: float) -> tuple[int, bool, Work]:
    anatomy = _brain(spacing)
    model, params = case("c")
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, anatomy.dtype), params)
    solve = jax.jit(lambda anatomy, params: simulate(model, params, anatomy, throw=False).density)
    return anatomy.white_matter.size, False, lambda: solve(anatomy, params).block_until_ready()


def _members(count: float, spacing: float) -> tuple[int, bool, Work]:
    n, anatomy, rng = int(count), _brain(spacing), np.random.default_rng(0)
    params = ScaledGrowthParams(
        jnp.asarray(rng.uniform(4, 12, n), jnp.float32),
        jnp.asarray(rng.uniform(2, 4, n), jnp.float32),
        jnp.asarray(ORIGIN + rng.uniform(-5, 5, (n, 3)), jnp.float32),
        jnp.full(n, 0.5, jnp.float32),
    )
    return n, False, lambda: jax.block_until_ready(simulate_many(MODEL, params, anatomy))


def _atlases(count: float, spacing: float) -> tuple[int, bool, Work]:
    one, patient = load_atlas("icbm152"), synthetic(1, spacing).patient
    others = (deformed_atlas(one, seed)[0] for seed in range(_SEED, _SEED + int(count) - 1))
    method = MultiAtlas((one, *others))
    model = MassEffect(FisherKolmogorov(), force="tanh")
    return int(count), True, lambda: personalize(patient, method=method, model=model, plan_despite_failure=True)


def _tumours(count: float, spacing: float) -> tuple[int, bool, Work]:
    return int(count), True, lambda: seconds_of_building(int(count), spacing)


PREPARE: dict[str, Callable[[float, float], tuple[int, bool, Work]]] = {
    "growth": _growth,
    "gradient": _gradient,
    "mass_effect": _mass_effect,
    "members": _members,
    "atlases": _atlases,
    "tumours": _tumours,
}
"""Functions that return what a point is drawn at, whether it is called once with compilation, and the work."""


def figures(records: list[Record], place: Path) -> None:
    """Draw seconds and memory of each part over what grows."""
    from matplotlib.figure import Figure

    place.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(AXES.values()))
    figure = Figure(figsize=(3.1 * len(columns), 5.6), layout="constrained")
    rows = figure.subplots(2, len(columns), sharex="col", squeeze=False)
    for part, label in AXES.items():
        for axes, unit in zip(rows[:, columns.index(label)], ("seconds", "gigabytes"), strict=True):
            points = sorted(_points(records, part, unit))
            if points:
                axes.plot(*zip(*points, strict=True), "o-", markersize=4, label=part.replace("_", " "))
    for column, label in enumerate(columns):
        for axes, unit in zip(rows[:, column], ("seconds", "memory of the process, GB"), strict=True):
            axes.set(xscale="log", yscale="log", ylabel=unit if column == 0 else "")
            axes.grid(alpha=0.25)
        rows[1, column].set_xlabel(label)
    rows[0, 0].legend(frameon=False)
    figure.savefig(place / "cost.png", dpi=160)


def _points(records: list[Record], part: str, unit: str) -> Iterator[tuple[float, float]]:
    for record in records:
        if record.name.rpartition("_")[2] == unit and record.name.startswith(f"{part}_"):
            yield record.details["at"], record.value
