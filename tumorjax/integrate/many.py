"""One function at many points: on all cores of a CPU, on all local devices, a batch at a time."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from tumorjax.integrate.devices import DevicePool

# Options with which a program compiles in half of the time; on other devices the second has no effect.
_QUICKLY: dict[str, Any] = {
    "compiler_options": {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}
}
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
    count, program, size, room = _count(points), _at_once, chunk, chunk
    waiting: deque[Future[PyTree]] = deque()
    with DevicePool() as pool:
        if pool.on_cpu:
            program, size, room = _in_turn, max(1, min(turn, count // (_SHARES * pool.threads))), turn
            if turn == 1:
                program = _alone
        held = {device: _placed(shared, device) for device in pool.devices}

        def solve(begin: int, device: Any) -> PyTree:
            some = min(size, count - begin)
            # All parts have one shape, so that one program serves them.
            rows = jax.tree.map(lambda rows: _rows(rows, begin, some, room), points)
            found = program(function, held[device], _placed(rows, device), jnp.asarray(some))
            return jax.block_until_ready(jax.tree.map(lambda leaf: leaf[:some], found))

        # Without points the first part gives the structure of the values.
        for begin in range(0, max(count, 1), size):
            waiting.append(pool.submit(partial(solve, begin)))
            if len(waiting) > 2 * pool.threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _count(points: PyTree) -> int:
    return len(jax.tree.leaves(points)[0])


def _placed(tree: Any, device: Any) -> Any:
    """Return a tree with its arrays on a device; as it is where that is the device where they are anyway."""
    if device == jax.devices()[0]:
        return tree
    return jax.tree.map(lambda leaf: jax.device_put(leaf, device) if eqx.is_array(leaf) else leaf, tree)


def _rows(rows: np.ndarray, begin: int, some: int, room: int) -> Array:
    """Return some rows of an array, repeated until they fill the room."""
    return jnp.asarray(np.resize(rows[begin : begin + some], (room, *rows.shape[1:])))


def at_one(function: Callable[[Any, Any], PyTree], shared: Any, point: PyTree, *, seldom: bool = False) -> PyTree:
    """Return the value of a function at one point, compiled once for all first arguments of a structure.

    What is `seldom` evaluated is compiled in half of the time, and then takes one and a half times as long.
    """
    return (_compiled_quickly if seldom else _compiled)(function, shared, point)


def _evaluated(function: Callable[[Any, Any], PyTree], shared: Any, point: PyTree) -> PyTree:
    return function(shared, point)


_compiled = eqx.filter_jit(_evaluated)
_compiled_quickly = eqx.filter_jit(_evaluated, **_QUICKLY)


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
