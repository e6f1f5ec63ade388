"""Comparison of the surrogate with the solver: accuracy in brains outside its training data, and time.

There are two sets of tumours: those of clinical size, on which the network of the package was trained, and all tumours
of the published box, as in the paper's figures.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.cohorts import cohort
from benchmarks.patients import DATA
from benchmarks.record import Record, median_seconds
from benchmarks.retrieval import spread
from tumorjax import Anatomy, FisherKolmogorov, Grid, ScaledGrowthParams, simulate
from tumorjax.ensemble import tumours_of
from tumorjax.networks import (
    Surrogate,
    Tumours,
    load_surrogate,
    surrogate_architecture,
    surrogate_batch,
    train_surrogate,
)
from tumorjax.networks.surrogate_training import centred
from tumorjax.planning import dice

LEVELS = (0.2, 0.4, 0.8)
PUBLISHED = (0.802, 0.795, 0.794)
TISSUES = ("white matter", "grey matter", "csf")
# Seeds of brains outside the training data.
UNSEEN = (101, 102)


def run(size: str) -> list[Record]:
    """All figures; `small` trains for a few steps on voxels of 8 mm, and uses no other brains."""
    if size == "small":
        learnt, others = (tumours_of(cohort(n, seed=seed, resolution=8.0)) for n, seed in ((20, 0), (2, 1)))
        every = tumours_of(cohort(2, seed=1, resolution=8.0, filtered=False))
        architecture = replace(surrogate_architecture([learnt]), window=24, channels=(8, 8), blocks=1)
        network = train_surrogate([learnt], 2, size=architecture, batch=2).model
        records = accuracy(network, {"atlas": others}) + accuracy(network, {"atlas": every}, "surrogate_unfiltered")
        return records + seconds(network, others, 1)
    network, brains = load_surrogate(), unseen_brains(64)
    records = accuracy(network, brains) + accuracy(network, unseen_brains(64, filtered=False), "surrogate_unfiltered")
    return records + seconds(network, next(iter(brains.values())), 20)


def unseen_brains(count: int, *, filtered: bool = True) -> dict[str, Tumours]:
    """Return tumours in brains outside the training data of the package's network, of clinical size or all draws."""
    brains = {
        f"deformed_{seed}": tumours_of(cohort(count, seed=1, deformed=seed, filtered=filtered)) for seed in UNSEEN
    }
    if DATA.is_dir():
        brains["sri24"] = tumours_of(cohort(count, seed=1, brain=DATA / "atlas_sri24", filtered=filtered))
    return brains


def accuracy(network: Surrogate, brains: dict[str, Tumours], label: str = "surrogate") -> list[Record]:
    """Dice coefficients, and errors in each tissue inside the solver's tumour, for each brain and for all.

    A tumour that does not reach a level has no Dice coefficient there, and is left out.
    """
    rows = {name: [_resemblance(network, tumours, i) for i in range(len(tumours))] for name, tumours in brains.items()}
    every = [row for found in rows.values() for row in found]
    records = []
    for level, published in zip(LEVELS, PUBLISHED, strict=True):
        reached = {name: _finite(found, f"dice {level:g}") for name, found in rows.items()}
        scores = [score for found in reached.values() for score in found]
        if not scores:
            continue
        of_brains = {name: float(np.mean(found)) for name, found in reached.items() if found}
        details = {**spread(scores), **of_brains, "tumours": len(every), "tumours that reach it": len(scores)}
        name = f"{label}_dice_{level:g}".replace(".", "")
        records.append(Record(name, details["mean"], "1", f">= 0.8, published {published:g}", details))
    for tissue, published in zip(TISSUES, (0.026, 0.035, 0.007), strict=True):
        errors = _finite(every, tissue)
        name = f"{label}_error_{tissue.replace(' ', '_')}"
        if errors:
            records.append(Record(name, float(np.mean(errors)), "1", f"published {published:g}"))
    return records


def _finite(rows: list[dict[str, float]], key: str) -> list[float]:
    return [row[key] for row in rows if np.isfinite(row[key])]


@nnx.jit
def _both(network: Surrogate, tissue: jax.Array, density: jax.Array, offset: jax.Array, mu: jax.Array) -> tuple:
    maps, truth = (jax.vmap(centred)(each.astype(jnp.float32) / 255, offset) for each in (tissue, density))
    return network(maps, mu), truth, maps


def _resemblance(network: Surrogate, tumours: Tumours, row: int) -> dict[str, float]:
    batch = surrogate_batch([tumours], np.array([row]), network.architecture.window, None)
    found, truth, maps = (
        np.asarray(each)[0] for each in _both(network, batch.tissue, batch.density, batch.offset, batch.mu)
    )
    result = {
        f"dice {level:g}": float(dice(found > level, truth > level)) if (truth > level).any() else np.nan
        for level in LEVELS
    }
    kind, error = maps.argmax(axis=-1), np.abs(found - truth)
    for number, name in enumerate(TISSUES):
        # There is no tumour in CSF, so its error is over all CSF in the window.
        there = (kind == number) & (maps.sum(axis=-1) > 0.1) & ((truth > 0.5 / 255) | (name == "csf"))
        result[name] = float(error[there].mean()) if there.any() else np.nan
    return result


def seconds(network: Surrogate, tumours: Tumours, count: int) -> list[Record]:
    """Seconds per tumour of the surrogate, alone and in a batch of 8, and of the solver on the same voxels."""
    window, spacing = network.architecture.window, network.architecture.spacing
    forward = nnx.jit(lambda model, tissue, mu: model(tissue, mu))
    grid = Grid((window,) * 3, np.diag([spacing, spacing, spacing, 1.0]).astype(np.float32))
    middle = jnp.full(3, spacing * (window // 2), jnp.float32)

    @jax.jit
    def solved(maps: jax.Array, mu: jax.Array) -> jax.Array:
        growth = ScaledGrowthParams(mu[0], mu[1], middle)
        anatomy = Anatomy(grid, maps[..., 0], maps[..., 1], maps[..., 2])
        return simulate(FisherKolmogorov(), growth, anatomy).density

    of_solver, of_network = [], []
    for row in range(count):
        batch = surrogate_batch([tumours], np.array([row]), window, None)
        maps = jax.vmap(centred)(jnp.asarray(batch.tissue, jnp.float32) / 255, jnp.asarray(batch.offset))
        mu = jnp.asarray(batch.mu)
        of_network.append(median_seconds(partial(forward, network, maps, mu), 3))
        of_solver.append(median_seconds(partial(solved, maps[0], mu[0]), 3))
    eight = surrogate_batch([tumours], np.arange(8) % len(tumours), window, None)
    maps = jax.vmap(centred)(jnp.asarray(eight.tissue, jnp.float32) / 255, jnp.asarray(eight.offset))
    together = median_seconds(partial(forward, network, maps, jnp.asarray(eight.mu)), 3) / 8
    ratio = np.median(np.array(of_network) / np.array(of_solver))
    return [
        Record("surrogate_seconds", float(np.median(of_network)), "s", "", {"in a batch of 8": together}),
        Record("solver_seconds", float(np.median(of_solver)), "s", "", {"voxels": window**3, "tumours": count}),
        Record("surrogate_seconds_over_solver", float(ratio), "1", "published 0.3 s beside 15 s"),
    ]
