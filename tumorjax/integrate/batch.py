"""Many simulations of one model in one anatomy: on all cores, or a device's fill at a time."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from tumorjax.anatomy import Anatomy
from tumorjax.integrate.simulate import simulate
from tumorjax.integrate.solution import Solution

# What a simulation holds at once: state, stages, conductances, growth, and the compiler's temporaries.
_FIELDS = 16


def density(solution: Solution) -> Array:
    """Return the density at the end."""
    return solution.density


def simulate_many(
    model: Any,
    params: Any,
    anatomy: Anatomy,
    *,
    batch_size: int | None = None,
    summary: Callable[[Solution], PyTree] = density,
    **settings: Any,
) -> PyTree:
    """Simulate for each of many parameters: on a CPU one on each core, elsewhere in batches that fill the memory.

    The program of a batch is compiled once for a shape: the last batch begins early enough to be full, too. Results
    are written into one array, which is handed from batch to batch without a copy.

    Parameters
    ----------
    model, anatomy
        Common to all.
    params
        The model's parameters, every number of which has a leading axis n.
    batch_size
        Simulations in one program. By default as many as half of the device's memory holds; on a CPU single ones, in as
        many threads as there are cores, since a batch would outgrow the caches.
    summary
        What to keep of each solution; the same function from call to call, or it is compiled anew.
    settings
        Keyword arguments of `simulate`, except `save_every`, which needs a concrete duration.

    Returns
    -------
    PyTree
        What `summary` returns, along a leading axis n.

    Raises
    ------
    ValueError
        If there are no parameters, their leading axes differ, or the batch size is not positive.
    """
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(params)}
    if len(counts) != 1 or counts <= {(), (0,)}:
        raise ValueError(f"every parameter needs the same leading axis, got lengths {sorted(counts)}; stack them")
    (count,) = counts.pop()
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    anatomy = anatomy if anatomy.traced else jax.tree.map(jnp.asarray, anatomy)
    one = jax.tree.map(lambda leaf: leaf[0], params)
    fixed = (model, anatomy, summary, settings)
    shapes = eqx.filter_eval_shape(_one, fixed, one)
    # What is traced has no values that threads could compute.
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((fixed, params)))
    if batch_size is None and not traced and jax.default_backend() == "cpu":
        return _on_cores(fixed, params, shapes, count)
    size = min(_fill(anatomy) if batch_size is None else batch_size, count)
    results = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), shapes)
    for start in range(0, count, size):
        first = min(start, count - size)
        chunk = jax.tree.map(lambda leaf, first=first: leaf[first : first + size], params)
        results = _write((fixed, chunk, jnp.asarray(first)), results)
    return results


def _one(fixed: tuple[Any, Anatomy, Callable, dict], params: Any) -> PyTree:
    model, anatomy, summary, settings = fixed
    return summary(simulate(model, params, anatomy, throw=False, **settings))


def _on_cores(fixed: tuple[Any, Anatomy, Callable, dict], params: Any, shapes: PyTree, count: int) -> PyTree:
    """Simulate one by one in several threads: a single solve leaves cores idle between its small operations."""
    results = jax.tree.map(lambda leaf: np.empty((count, *leaf.shape), leaf.dtype), shapes)

    def solve(i: int) -> None:
        found = _single(fixed, jax.tree.map(lambda leaf: leaf[i], params))
        for whole, part in zip(jax.tree.leaves(results), jax.tree.leaves(found), strict=True):
            whole[i] = part

    # The first by itself, so that it is compiled once.
    solve(0)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(solve, range(1, count)):
            pass
    return jax.tree.map(jnp.asarray, results)


@eqx.filter_jit
def _single(fixed: tuple[Any, Anatomy, Callable, dict], params: Any) -> PyTree:
    return _one(fixed, params)


@eqx.filter_jit(donate="all-except-first")
def _write(inputs: tuple[Any, Any, Array], results: PyTree) -> PyTree:
    """Simulate a batch and write it into the results, from `first` on."""
    fixed, chunk, first = inputs
    batch = jax.vmap(lambda params: _one(fixed, params))(chunk)
    return jax.tree.map(
        lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, first, axis=0), results, batch
    )


def _fill(anatomy: Anatomy) -> int:
    """Return how many simulations fill half of the memory of the default device."""
    memory = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    if memory is None:
        return 1
    voxels = anatomy.white_matter.size
    return max(1, memory // (2 * _FIELDS * voxels * anatomy.dtype.itemsize))
