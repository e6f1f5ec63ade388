"""One function at many points: on all cores of a CPU, on all local devices, a batch at a time."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

# Points that a core computes one after another in one program, so that a function of microseconds is not all overhead.
_TURN = 64
# Parts for each core, at least, so that all cores end at about the same time.
_SHARES = 16


def each(
    function: Callable[[Any, Any], PyTree],
    shared: Any,
    points: PyTree,
    *,
    chunk: int = 64,
    progress: Callable[[float], None] = lambda share: None,
) -> PyTree:
    """Return the values of a function at all points, on the host.

    Parameters
    ----------
    function
        Compiled once for all first arguments of a structure.
    shared
        Its first argument: a tree of arrays, for example a problem, that all points share.
    points
        A tree of arrays (m, ...), at least one; a row of each is the second argument.
    chunk
        Points in a batch on an accelerator. On a CPU, where a batch is no faster than its members, points are computed
        one by one, as many at a time as there are cores.
    progress
        Receives the share that is done.

    Returns
    -------
    PyTree
        What the function returns, along a leading axis m.
    """
    count, done, parts = _count(points), 0, list[PyTree]()
    for part in in_parts(function, shared, points, chunk=chunk, turn=_TURN):
        parts.append(jax.device_get(part))
        done += _count(part)
        progress(done / count if count else 1.0)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def in_parts(
    function: Callable[[Any, Any], PyTree], shared: Any, points: PyTree, *, chunk: int = 64, turn: int = 1
) -> Iterator[PyTree]:
    """Yield the values of a function at all points in order, some at a time, each part on the device that computed it.

    A few parts are computed ahead of the one that is yielded, and no more, so that the memory does not grow with the
    number of points. Each device, and on a CPU each core, takes the next part when it is free.

    Parameters
    ----------
    function, shared, points, chunk
        See `each`.
    turn
        Most points in a part on a CPU; a program writes the values of so many, however few it computes.
    """
    points = jax.tree.map(np.asarray, points)
    count, devices = _count(points), _devices()
    program, threads, size, room = _at_once, len(devices), chunk, chunk
    if devices[0].platform == "cpu":
        threads = max(threads, os.cpu_count() or 1)
        program, size, room = _in_turn, max(1, min(turn, count // (_SHARES * threads))), turn
        if turn == 1:
            program = _alone
    held = {device: _placed(shared, device) for device in devices}
    free: SimpleQueue[Any] = SimpleQueue()
    for i in range(threads):
        free.put(devices[i % len(devices)])
    settings = _settings()

    def solve(begin: int) -> PyTree:
        device, some = free.get(), min(size, count - begin)
        try:
            with settings():
                # All parts have one shape, so that one program serves them.
                rows = jax.tree.map(lambda rows: _rows(rows, begin, some, room), points)
                found = program(function, held[device], _placed(rows, device), jnp.asarray(some))
                return jax.block_until_ready(jax.tree.map(lambda leaf: leaf[:some], found))
        finally:
            free.put(device)

    # The first by itself, so that it is compiled once. Without points it gives the structure of the values.
    yield solve(0)
    waiting: deque[Future[PyTree]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for begin in range(size, count, size):
                waiting.append(pool.submit(solve, begin))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # Whoever stops listening, or an error, does not wait for what has not begun.
            for future in waiting:
                future.cancel()


def _count(points: PyTree) -> int:
    return len(jax.tree.leaves(points)[0])


def _devices() -> list[Any]:
    """Return the devices to compute on: the one that JAX was told to prefer, or all of this process."""
    config: Any = jax.config
    preferred = config.jax_default_device
    return [preferred] if isinstance(preferred, jax.Device) else jax.local_devices()


def _placed(tree: Any, device: Any) -> Any:
    """Return a tree with its arrays on a device; as it is where that is the device where they are anyway."""
    if device == jax.devices()[0]:
        return tree
    return jax.tree.map(lambda leaf: jax.device_put(leaf, device) if eqx.is_array(leaf) else leaf, tree)


def _rows(rows: np.ndarray, begin: int, some: int, room: int) -> Array:
    """Return some rows of an array, repeated until they fill the room."""
    return jnp.asarray(np.resize(rows[begin : begin + some], (room, *rows.shape[1:])))


def _settings() -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Return a context with this thread's settings of JAX, which other threads do not inherit."""
    config: Any = jax.config
    wide, promotion = config.jax_enable_x64, config.jax_numpy_dtype_promotion

    @contextlib.contextmanager
    def entered() -> Iterator[None]:
        with jax.enable_x64(wide), jax.numpy_dtype_promotion(promotion):
            yield

    return entered


@eqx.filter_jit
def at_one(function: Callable[[Any, Any], PyTree], shared: Any, point: PyTree) -> PyTree:
    """Return the value of a function at one point, compiled once for all first arguments of a structure."""
    return function(shared, point)


def _alone(function: Callable[[Any, Any], PyTree], shared: Any, points: PyTree, _: Any) -> PyTree:
    """Return the function at the only point, by the program of single points, which may be compiled already."""
    found = at_one(function, shared, jax.tree.map(lambda rows: rows[0], points))
    return jax.tree.map(lambda leaf: leaf[None], found)


@eqx.filter_jit
def _in_turn(function: Callable[[Any, Any], PyTree], shared: Any, points: PyTree, count: Array) -> PyTree:
    """Return the function at the first points, one after another."""

    def at(i: Any) -> PyTree:
        return function(shared, jax.tree.map(lambda rows: rows[i], points))

    def one(i: Array, found: PyTree) -> PyTree:
        return jax.tree.map(lambda all_, new: all_.at[i].set(new), found, at(i))

    shapes = jax.eval_shape(lambda: at(0))
    empty = jax.tree.map(lambda shape: jnp.zeros((_count(points), *shape.shape), shape.dtype), shapes)
    return jax.lax.fori_loop(0, count, one, empty)


@eqx.filter_jit
def _at_once(function: Callable[[Any, Any], PyTree], shared: Any, points: PyTree, _: Array) -> PyTree:
    """Return the function at all points, in one batch."""
    return jax.vmap(lambda point: function(shared, point))(points)
