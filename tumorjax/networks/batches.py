"""Batches of a training: the order of the rows, and preparing batches ahead of time."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int
from threadpoolctl import threadpool_limits


def shuffled(count: int, batch: int, seed: int) -> Callable[[int], Int[np.ndarray, "b"]]:
    """Return a function from a step to the rows of its batch; every row occurs once before any is repeated."""

    def order(epoch: int) -> Int[np.ndarray, "n"]:
        return np.random.default_rng([seed, epoch]).permutation(count)

    def rows(step: int) -> Int[np.ndarray, "b"]:
        begin, end = step * batch, (step + 1) * batch
        epochs = range(begin // count, (end - 1) // count + 1)
        return np.concatenate([order(epoch) for epoch in epochs])[begin - epochs[0] * count :][:batch]

    return rows


class Ahead:
    """Prepares the batch of the next step in a thread while a step is computed.

    Until it is closed, products of NumPy use one thread of their own: they are small, and several threads would wait
    for each other, and for those that compute the step.
    """

    def __init__(self, batches: Callable[[int], Any], steps: int) -> None:
        self._batches, self._steps = batches, steps
        self._limits = threadpool_limits(1, "blas")
        self._pool = ThreadPoolExecutor(1)
        self._made: dict[int, Future[Any]] = {}

    def __call__(self, step: int) -> Any:
        """Return the batch of a step, and start preparing the next one."""
        this = self._made.pop(step, None) or self._pool.submit(self._batches, step)
        if step + 1 < self._steps and step + 1 not in self._made:
            self._made[step + 1] = self._pool.submit(self._batches, step + 1)
        return this.result()

    def close(self) -> None:
        """Stop preparing batches."""
        self._pool.shutdown(cancel_futures=True)
        self._limits.restore_original_limits()
