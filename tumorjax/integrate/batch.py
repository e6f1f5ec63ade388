"""Many simulations of one model in one anatomy: on all cores, or a device's fill at a time."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, PyTree

from tumorjax.anatomy import Anatomy
from tumorjax.integrate.many import in_parts
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

    All devices of this process take part, unless JAX was told to prefer one (`jax.default_device`). The program of a
    batch is compiled once for a shape: the last batch is filled up. Results are written into one array, which is handed
    from batch to batch without a copy.

    Parameters
    ----------
    model, anatomy
        Common to all.
    params
        The model's parameters, every number of which has a leading axis n.
    batch_size
        Simulations in one program. By default as many as half of a device's memory holds; on a CPU single ones, since a
        batch would outgrow the caches.
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
    if not anatomy.traced:
        anatomy = jax.tree.map(jnp.asarray, anatomy)
    fixed = (model, anatomy, summary, settings)
    size = min(_fill(anatomy) if batch_size is None else batch_size, count)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((fixed, params))):
        # What is traced has no values that could be handed to threads and devices.
        return jax.lax.map(lambda one: _one(fixed, one), jax.tree.map(jnp.asarray, params), batch_size=size)
    results, begin = None, 0
    for part in in_parts(_one, fixed, params, chunk=size, turn=batch_size or 1):
        if results is None:
            results = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape[1:]), leaf.dtype), part)
        results = _written(part, begin, results)
        begin += len(jax.tree.leaves(part)[0])
    return results


def _one(fixed: tuple[Any, Anatomy, Callable, dict], params: Any) -> PyTree:
    model, anatomy, summary, settings = fixed
    return summary(simulate(model, params, anatomy, throw=False, **settings))


def _written(part: PyTree, begin: int, results: PyTree) -> PyTree:
    """Return results with a part of them written into their place, on the device of the results."""
    (here,) = jax.tree.leaves(results)[0].devices()
    return _write(jax.device_put(part, here), jnp.asarray(begin), results)


@functools.partial(jax.jit, donate_argnums=2)
def _write(part: PyTree, begin: Array, results: PyTree) -> PyTree:
    return jax.tree.map(
        lambda whole, some: jax.lax.dynamic_update_slice_in_dim(whole, some, begin, axis=0), results, part
    )


def _fill(anatomy: Anatomy) -> int:
    """Return how many simulations fill half of the memory of the default device."""
    memory = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    if memory is None:
        return 1
    voxels = anatomy.white_matter.size
    return max(1, memory // (2 * _FIELDS * voxels * anatomy.dtype.itemsize))
