"""Sums over a part of a large table: the voxels that many outlines share with one."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt

# Tumours in one go: few enough for all cores to have some, and for what NumPy makes of them to stay in a cache.
_FEW, _MANY = 512, 4096


def shared_bits(
    words: UInt[np.ndarray, "n 2 w"] | UInt[Array, "n 2 v"],
    mask: int,
    rows: Int[np.ndarray, "m"],
    runs: Int[np.ndarray, "r 2"],
    query: UInt[np.ndarray, "w"],
) -> Int[np.ndarray, "m"]:
    """Return the number of bits that words[rows, mask] and the query share.

    Parameters
    ----------
    words
        May lie on the disk; or, as `device_words` has them, on a device.
    mask
        Zero or one.
    rows
        Which of the table.
    runs
        First word, and the one after the last, of the stretches outside which the query is zero: nothing else is read.
    query
        All words.
    """
    if isinstance(words, jax.Array):
        # What lies in a device's memory is read faster than parts of it are gathered.
        return np.asarray(_bits_on_device(words, mask, jnp.asarray(device_words(query))), np.int64)[rows]
    kernel = _compiled() or _bits

    def some(begin: int) -> np.ndarray:
        return kernel(words, mask, rows[begin : begin + _FEW], runs, query)

    begins = range(0, len(rows), _FEW)
    if len(begins) == 1:
        return some(0)
    # Threads of our own, not numba's: those may not be entered from two threads, such as those of a server, at once.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.concatenate(list(pool.map(some, begins)))


def shared_counts(counts: UInt[np.ndarray, "2 b n"], mask: int, query: UInt[np.ndarray, "b"]) -> Int[np.ndarray, "n"]:
    """Return the sum over blocks of the smaller of each tumour's count and the query's."""
    columns = np.flatnonzero(query)
    found = np.zeros(counts.shape[2], np.uint32)
    # By one core: it takes as long as memory does.
    for begin in range(0, len(found), _MANY):
        some = counts[mask, columns, begin : begin + _MANY]
        found[begin : begin + _MANY] = np.minimum(some, query[columns, None]).sum(axis=0, dtype=np.uint32)
    return found


def _bits(words: np.ndarray, mask: int, rows: np.ndarray, runs: np.ndarray, query: np.ndarray) -> np.ndarray:
    found = np.zeros(len(rows), np.int64)
    for begin, end in runs:
        found += np.bitwise_count(words[rows, mask, begin:end] & query[begin:end]).sum(axis=1, dtype=np.int64)
    return found


def device_words(words: UInt[np.ndarray, "... w"]) -> UInt[np.ndarray, "... v"]:
    """Return words of 64 bits as twice as many of 32, which devices have whatever JAX is set to."""
    return np.ascontiguousarray(words).view("<u4")


@functools.partial(jax.jit, static_argnames="mask")
def _bits_on_device(words: UInt[Array, "n 2 v"], mask: int, query: UInt[Array, "v"]) -> Int[Array, "n"]:
    return jax.lax.population_count(words[:, mask] & query).sum(axis=1, dtype=jnp.int32)


@functools.cache
def _compiled() -> Callable[..., np.ndarray] | None:
    """Return `_bits` in machine code, or None without numba."""
    try:
        from numba import njit, types
        from numba.extending import intrinsic
    except ImportError:
        return None

    @intrinsic
    def ones(_: Any, word: Any) -> Any:
        return types.int64(word), lambda context, builder, signature, args: builder.ctpop(args[0])

    # Compiled in each process, which takes a second: a cache beside the code may not be writable.
    @njit(nogil=True)
    def bits(words: Any, mask: Any, rows: Any, runs: Any, query: Any) -> Any:
        found = np.zeros(len(rows), np.int64)
        for i in range(len(rows)):
            row = words[rows[i], mask]
            total = 0
            for j in range(len(runs)):
                # Contiguous, so that the compiler makes vectors of the words.
                ours, theirs = query[runs[j, 0] : runs[j, 1]], row[runs[j, 0] : runs[j, 1]]
                for k in range(len(ours)):
                    total += ones(ours[k] & theirs[k])  # pyright: ignore[reportCallIssue]
            found[i] = total
        return found

    return bits
