"""The forward solver on JAX's default device: batches, bandwidth, gradients.

The code runs on any device, but the full size is meant for a GPU and takes long on two CPU cores.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.brain import GROWTH, brain
from benchmarks.forward import bytes_moved, copy_bandwidth, evaluations
from benchmarks.record import Record, median_seconds
from tumorjax import Anatomy, FisherKolmogorov, ScaledGrowthParams, simulate

MODEL = FisherKolmogorov()


def run(size: str) -> list[Record]:
    """Seconds of one simulation and of many at once; `small` uses coarse voxels."""
    runs = ((8, 1), (8, 4)) if size == "small" else ((2, 1), (2, 16), (2, 256), (1, 1))
    records = []
    for spacing, count in runs:
        anatomy = brain(spacing)
        params = many(count)
        solve = jax.jit(jax.vmap(lambda p, anatomy: end(p, anatomy), in_axes=(0, None)))
        seconds = median_seconds(functools.partial(solve, params, anatomy), 3)
        operators, steps = evaluations(anatomy, GROWTH)
        moved = count * bytes_moved(anatomy, operators, steps)
        copied = copy_bandwidth(min(moved, 2**31))
        name = f"{count}_at_{spacing}mm"
        records.append(Record(f"seconds_{name}", seconds, "s", "", {"simulations a second": count / seconds}))
        records.append(Record(f"bandwidth_fraction_{name}", moved / seconds / copied, "1", ">= 0.5"))
        if count <= 16:
            gradient = jax.jit(jax.vmap(jax.grad(lambda p, anatomy: jnp.sum(end(p, anatomy) ** 2)), in_axes=(0, None)))
            reverse = median_seconds(functools.partial(gradient, params, anatomy), 3)
            records.append(Record(f"gradient_ratio_{name}", reverse / seconds, "forward solves"))
    return records


def end(params: ScaledGrowthParams, anatomy: Anatomy) -> Any:
    """Return the density at the end."""
    return simulate(MODEL, params, anatomy, throw=False).density


def many(count: int) -> ScaledGrowthParams:
    """Return this number of tumours, all with mu1 and mu2 of the large one, so that all take the same work."""
    scaled = GROWTH.scaled()
    shift = np.random.default_rng(0).uniform(-5, 5, (count, 3))
    return ScaledGrowthParams(
        jnp.full(count, scaled.mu1, jnp.float32),
        jnp.full(count, scaled.mu2, jnp.float32),
        jnp.asarray(GROWTH.origin + shift, jnp.float32),
        jnp.full(count, scaled.speed, jnp.float32),
    )
