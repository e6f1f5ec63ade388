"""Threads that compute on the devices of this process, each on one that no other uses at the time."""

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

import jax

T = TypeVar("T")


class DevicePool:
    """A pool of threads, each of which computes on a device that is free: a CPU serves as many as it has cores.

    The devices are all of this process, or the one that JAX was told to prefer (`jax.default_device`). Threads have the
    settings of JAX of the thread that made the pool.

    Parameters
    ----------
    most
        Most threads; by default one for each device, and on a CPU one for each core.
    """

    def __init__(self, most: int | None = None) -> None:
        config: Any = jax.config
        self.devices = _preferred()
        """The devices among which the threads share."""
        cores = (os.cpu_count() or 1) if self.on_cpu else 1
        self.threads = max(1, most or max(len(self.devices), cores))
        """How many compute at a time."""
        self._wide, self._promotion = config.jax_enable_x64, config.jax_numpy_dtype_promotion
        self._free: SimpleQueue[Any] = SimpleQueue()
        for i in range(self.threads):
            self._free.put(self.devices[i % len(self.devices)])
        self._pool = ThreadPoolExecutor(self.threads)

    @property
    def on_cpu(self) -> bool:
        """Whether the devices are a CPU."""
        return self.devices[0].platform == "cpu"

    def submit(self, function: Callable[[Any], T]) -> Future[T]:
        """Have a function called in a thread, with the device that is its own until it returns, and the default."""
        return self._pool.submit(self._lent, function)

    def __enter__(self) -> "DevicePool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        # Whoever stops listening, or an error, waits for nothing.
        self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def _lent(self, function: Callable[[Any], T]) -> T:
        device = self._free.get()
        try:
            with contextlib.ExitStack() as settings:
                settings.enter_context(jax.enable_x64(self._wide))
                settings.enter_context(jax.numpy_dtype_promotion(self._promotion))
                # Programs for the device that is the default anyway have it in no setting, and are found again. The
                # default of this thread may be another one than that of the thread that made the pool.
                if device != _preferred()[0]:
                    settings.enter_context(jax.default_device(device))
                return function(device)
        finally:
            self._free.put(device)


def _preferred() -> list[Any]:
    """Return the device that JAX was told to prefer in this thread, or all that this process has of its kind."""
    config: Any = jax.config
    told = config.jax_default_device
    return [told] if isinstance(told, jax.Device) else jax.local_devices(backend=told)
