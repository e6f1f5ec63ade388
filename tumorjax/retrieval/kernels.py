"""Counting the voxels that many packed outlines share with one."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt

# Tumours per batch: few enough to occupy all cores, and for NumPy's intermediate results to fit into a cache.
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
        The packed outlines; the array may lie on the disk, or on a device in the layout of `device_words`.
    mask
        Zero for cores, one for lesions.
    rows
        Indices of the tumours.
    runs
        First word, and the one after the last, of the ranges outside which the query is zero; only these are read.
    query
        All words of the outline to compare with.
    """
    if isinstance(words, jax.Array):
        # Reading all rows in a device's memory is faster than gathering some of them.
        return np.asarray(_bits_on_device(words, mask, jnp.asarray(device_words(query))), np.int64)[rows]
    kernel = _compiled() or _bits

    def some(begin: int) -> np.ndarray:
        return kernel(words, mask, rows[begin : begin + _FEW], runs, query)

    begins = range(0, len(rows), _FEW)
    if len(begins) == 1:
        return some(0)
    # A thread pool instead of numba's threads, which two threads of a program, such as a server, cannot use at once.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.concatenate(list(pool.map(some, begins)))


def shared_counts(counts: UInt[np.ndarray, "2 b n"], mask: int, query: UInt[np.ndarray, "b"]) -> Int[np.ndarray, "n"]:
    """Return, for each tumour, the sum over blocks of the smaller of its count and the query's."""
    columns = np.flatnonzero(query)
    found = np.zeros(counts.shape[2], np.uint32)
    # One core is enough, because the speed of memory is the limit.
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
    """Return words of 64 bits as twice as many of 32, which work without JAX's 64-bit mode."""
    return np.ascontiguousarray(words).view("<u4")


@functools.partial(jax.jit, static_argnames="mask")
def _bits_on_device(words: UInt[Array, "n 2 v"], mask: int, query: UInt[Array, "v"]) -> Int[Array, "n"]:
    return jax.lax.population_count(words[:, mask] & query).sum(axis=1, dtype=jnp.int32)


@functools.cache
def _compiled() -> Callable[..., np.ndarray] | None:
    """Return `_bits` compiled by numba, or None if numba is not installed."""
    try:
        from numba import njit, types
        from numba.extending import intrinsic
    except ImportError:
        return None

    @intrinsic
    def ones(_: Any, word: Any) -> Any:
        return types.int64(word), lambda context, builder, signature, args: builder.ctpop(args[0])

    # Compiled in each process, which takes a second, because a cache beside the code may not be writable.
    @njit(nogil=True)
    def bits(words: Any, mask: Any, rows: Any, runs: Any, query: Any) -> Any:
        found = np.zeros(len(rows), np.int64)
        for i in range(len(rows)):
            row = words[rows[i], mask]
            total = 0
            for j in range(len(runs)):
                # Contiguous slices, so that the compiler can vectorise the loop.
                ours, theirs = query[runs[j, 0] : runs[j, 1]], row[runs[j, 0] : runs[j, 1]]
                for k in range(len(ours)):
                    total += ones(ours[k] & theirs[k])  # pyright: ignore[reportCallIssue]
            found[i] = total
        return found

    return bits
