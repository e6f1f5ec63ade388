"""Which rows a training sees when, and their batches, made ahead of time."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int


def shuffled(count: int, batch: int, seed: int) -> Callable[[int], Int[np.ndarray, "b"]]:
    """Return a function that gives the rows of the batch of a step: every row once before any comes again."""

    def order(epoch: int) -> Int[np.ndarray, "n"]:
        return np.random.default_rng([seed, epoch]).permutation(count)

    def rows(step: int) -> Int[np.ndarray, "b"]:
        begin, end = step * batch, (step + 1) * batch
        epochs = range(begin // count, (end - 1) // count + 1)
        return np.concatenate([order(epoch) for epoch in epochs])[begin - epochs[0] * count :][:batch]

    return rows


class Ahead:
    """Makes the batch of the next step while one is computed."""

    def __init__(self, batches: Callable[[int], Any], steps: int) -> None:
        self._batches, self._steps = batches, steps
        self._pool = ThreadPoolExecutor(1)
        self._made: dict[int, Future[Any]] = {}

    def __call__(self, step: int) -> Any:
        """Return the batch of a step, and begin with the next."""
        this = self._made.pop(step, None) or self._pool.submit(self._batches, step)
        if step + 1 < self._steps and step + 1 not in self._made:
            self._made[step + 1] = self._pool.submit(self._batches, step + 1)
        return this.result()

    def close(self) -> None:
        """Make no more."""
        self._pool.shutdown(cancel_futures=True)
