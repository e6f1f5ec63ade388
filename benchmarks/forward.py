"""Forward solves of plain growth: seconds, error, bandwidth, the cost of gradients, and batches."""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.brain import GROWTH, ORIGIN, brain
from benchmarks.checkpointing import gradient_by_checkpoints
from benchmarks.record import Record, median_seconds, medians_by_turns
from tumorjax import (
    Anatomy,
    FisherKolmogorov,
    ScaledGrowthParams,
    StrangRKL2,
    simulate,
    simulate_many,
)
from tumorjax.integrate.rkl2 import stages
from tumorjax.integrate.stepper import Interval

# Number of fields that a stage reads (two previous stages, three conductances) and writes, and that a reaction does.
_STAGE_FIELDS, _REACTION_FIELDS = 6, 3
FINE = StrangRKL2(reaction_step=0.02, first_steps=200)
MODEL = FisherKolmogorov()


def run(size: str) -> list[Record]:
    """All figures; `small` uses coarse voxels only."""
    spacings, main = ((8, 4), 4) if size == "small" else ((4, 2, 1), 2)
    return growth(spacings) + gradients(main) + batches(spacings[0])


# The anatomy is an argument, as in a calibration: no constant of the compiled program.
@jax.jit
def solve(anatomy: Anatomy, params: Any) -> Any:
    """Solve once."""
    return simulate(MODEL, params, anatomy, throw=False).density


def evaluations(anatomy: Anatomy, params: Any) -> tuple[int, int]:
    """Return the numbers of evaluations of the diffusion operator and of steps in a solve."""
    stepper, terms = StrangRKL2(), MODEL.terms(params, anatomy)
    schedule = stepper.schedule(terms, Interval())
    widths = jnp.stack([schedule.width(k) for k in range(int(schedule.steps))])
    counts = [int(stages(width * schedule.stiffness, stepper.max_stages)) for width in widths]
    return sum(counts), len(counts)


def bytes_moved(anatomy: Anatomy, operators: int, steps: int) -> int:
    """Return the bytes that a solve must read and write, if every stage reads each of its fields once."""
    return anatomy.white_matter.nbytes * (operators * _STAGE_FIELDS + (steps + 1) * _REACTION_FIELDS)


def copy_bandwidth(bytes_: int) -> float:
    """Return the bytes per second, read and written, of an elementwise operation in place on an array of this size.

    It is in place because allocating memory costs more than reading and writing it.
    """
    scale = jax.jit(lambda x: x * 1.5, donate_argnums=0)
    field = scale(jnp.ones(bytes_ // 4, jnp.float32))
    seconds = []
    for _ in range(15):
        begun = time.perf_counter()
        field = jax.block_until_ready(scale(field))
        seconds.append(time.perf_counter() - begun)
    return 2 * field.nbytes / statistics.median(seconds)


def growth(spacings: tuple[int, ...]) -> list[Record]:
    """Fisher-Kolmogorov growth on voxels of decreasing size."""
    records, costs = [], {}
    for spacing in spacings:
        anatomy = brain(spacing)
        count, steps = evaluations(anatomy, GROWTH)
        seconds = median_seconds(lambda anatomy=anatomy: solve(anatomy, GROWTH), 3 if spacing == 1 else 11)
        voxels = anatomy.white_matter.size
        moved = bytes_moved(anatomy, count, steps)
        copied = copy_bandwidth(_STAGE_FIELDS * anatomy.white_matter.nbytes)
        costs[spacing] = seconds / (count * voxels)
        details = {
            "shape": list(anatomy.grid.shape),
            "steps": steps,
            "evaluations of the operator": count,
            "nanoseconds a voxel and evaluation": 1e9 * costs[spacing],
            "gigabytes a second": moved / seconds / 1e9,
            "gigabytes a second of a copy": copied / 1e9,
        }
        target = {2: "<= 0.15", 1: "<= 2.5"}.get(spacing, "")
        records.append(Record(f"fk_{spacing}mm_seconds", seconds, "s", target, details))
        records.append(Record(f"bandwidth_fraction_{spacing}mm", moved / seconds / copied, "1", ">= 0.5"))
        if spacing > 1:
            fine = simulate(MODEL, GROWTH, anatomy, stepper=FINE).density
            error = float(jnp.linalg.norm(solve(anatomy, GROWTH) - fine) / jnp.linalg.norm(fine))
            records.append(
                Record(
                    f"fk_{spacing}mm_relative_error",
                    error,
                    "1",
                    "<= 1e-3" if spacing == 2 else "",
                    {"reference": "steps 30 times as small"},
                )
            )
    fractions = [record.value for record in records if record.name.startswith("bandwidth")]
    records.append(Record("bandwidth_fraction", fractions[-1], "1", ">= 0.5", {"of": f"{spacings[-1]} mm"}))
    records.append(
        Record("cost_flatness", max(costs.values()) / min(costs.values()), "largest over smallest", "<= 1.5")
    )
    return records


def gradients(spacing: int) -> list[Record]:
    """Values with gradients for five parameters and for all tissue, and with plain checkpointing for comparison."""
    anatomy = brain(spacing)
    scaled = jax.tree.map(lambda leaf: jnp.asarray(leaf, anatomy.dtype), GROWTH.scaled())

    def loss(params: ScaledGrowthParams, anatomy: Anatomy) -> Any:
        return jnp.sum(simulate(MODEL, params, anatomy, throw=False).density ** 2)

    by_parameters = jax.jit(
        jax.value_and_grad(lambda p, anatomy: loss(ScaledGrowthParams(p[0], p[1], p[2:], scaled.speed), anatomy))
    )
    by_tissue = jax.jit(
        jax.value_and_grad(
            lambda white, anatomy: loss(scaled, Anatomy(anatomy.grid, white, anatomy.grey_matter, anatomy.csf))
        )
    )
    point = jnp.concatenate([jnp.stack([scaled.mu1, scaled.mu2]), scaled.origin])
    field = anatomy.white_matter.nbytes
    memory = by_parameters.lower(point, anatomy).compile().memory_analysis()
    forward = median_seconds(lambda: solve(anatomy, scaled), 9)
    reverse = median_seconds(lambda: by_parameters(point, anatomy), 9)
    tissue = median_seconds(lambda: by_tissue(anatomy.white_matter, anatomy), 5)
    other, agreement = gradient_by_checkpoints(anatomy, scaled, by_parameters(point, anatomy)[1][:2])
    details = {"spacing": spacing, "forward seconds": forward, "seconds": reverse}
    return [
        Record("gradient_ratio", reverse / forward, "forward solves", "<= 3", details),
        Record("gradient_fields", memory.temp_size_in_bytes / field, "fields", "<= 60"),
        Record("gradient_ratio_tissue", tissue / forward, "forward solves"),
        Record(
            "gradient_ratio_checkpoint",
            other / forward,
            "forward solves",
            "",
            {"by": "jax.checkpoint around steps and segments", "relative difference of gradients": agreement},
        ),
    ]


def batches(spacing: int) -> list[Record]:
    """Simulations per second, one after another, and how many times as many there are in batches."""
    anatomy = brain(spacing)
    rng = np.random.default_rng(0)
    n = 32
    params = ScaledGrowthParams(
        jnp.asarray(rng.uniform(4, 12, n), jnp.float32),
        jnp.asarray(rng.uniform(2, 4, n), jnp.float32),
        jnp.asarray(ORIGIN + rng.uniform(-5, 5, (n, 3)), jnp.float32),
        jnp.full(n, 0.5, jnp.float32),
    )

    def squares(params: ScaledGrowthParams, anatomy: Anatomy) -> Any:
        return jnp.sum(solve(anatomy, params) ** 2)

    members = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(n)]
    slope = jax.jit(jax.grad(squares))
    batch = jax.jit(jax.vmap(solve, in_axes=(None, 0)))
    slopes = jax.jit(jax.vmap(jax.grad(squares), in_axes=(0, None)))
    loop, many, at_once, loop_back, at_once_back = medians_by_turns(
        [
            lambda: [solve(anatomy, member).block_until_ready() for member in members],
            lambda: simulate_many(MODEL, params, anatomy),
            lambda: batch(anatomy, params),
            lambda: [jax.block_until_ready(slope(member, anatomy)) for member in members],
            lambda: slopes(params, anatomy),
        ],
        5,
    )
    details = {"spacing": spacing, "members": n}
    return [
        Record("loop_rate", n / loop, "simulations/s", "", details),
        Record("simulate_many_over_loop", loop / many, "1", ">= 1.3", details),
        Record("vmap_over_loop", loop / at_once, "1", ">= 1.3", details),
        Record("vmap_over_loop_gradient", loop_back / at_once_back, "1", "", details),
    ]
