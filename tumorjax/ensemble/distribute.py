"""Distribution of shards over threads of this process, or over the workers of a Dask cluster.

Each shard is one task, whose worker writes the result itself. A task that runs twice writes the same bytes twice.
"""

import threading
import uuid
from collections.abc import Generator, Sequence
from concurrent.futures import as_completed, wait
from functools import lru_cache
from typing import Any

import jax

from tumorjax.ensemble import store
from tumorjax.ensemble.files import Files, require
from tumorjax.ensemble.growing import Grower
from tumorjax.integrate import DevicePool
from tumorjax.workers import client_of

# Programs are kept for so many devices: as many as a machine has, as a rule.
_DEVICES = 8
# Number of retries of a shard whose worker dies or cannot write.
_RETRIES = 10
_COMPILING = threading.Lock()


def grow_here(url: str, fingerprint: str, shards: Sequence[int], workers: int | None) -> Generator[int, None, None]:
    """Grow shards in threads, as many as there are cores or accelerators; yield each that is finished."""
    with DevicePool(workers) as pool:
        tasks = [pool.submit(lambda _, i=index: write_shard(url, fingerprint, i)) for index in shards]
        try:
            for task in as_completed(tasks):
                yield task.result()
        finally:
            # Running tasks finish after an error too, because their shards will be needed, and while the store is
            # still locked.
            wait([task for task in tasks if not task.cancel()])


def grow_on_dask(url: str, fingerprint: str, shards: Sequence[int], scheduler: str) -> Generator[int, None, None]:
    """Grow shards on the workers of a scheduler, which must reach the same place; yield each that is finished."""
    require("dask", "distributed")
    from distributed import KilledWorker, as_completed

    with client_of(scheduler) as client:
        # A unique key, so that Dask does not return results of an earlier build at the same URL.
        run = uuid.uuid4().hex
        tasks = [
            client.submit(attempt_shard, url, fingerprint, index, key=f"shard-{index}-{run}", retries=_RETRIES)
            for index in shards
        ]
        try:
            # Without the loop, Dask would look for a default client.
            for task in as_completed(tasks, loop=client.loop):
                if isinstance(found := task.result(), str):
                    raise ValueError(found)
                yield found
        except KilledWorker as error:
            raise OSError(f"workers die repeatedly ({error}); check their logs, they may lack memory") from None
        finally:
            client.cancel(tasks)


def attempt_shard(url: str, fingerprint: str, index: int) -> int | str:
    """Write a shard; return its index, or the message of an error that retries would not resolve."""
    try:
        return write_shard(url, fingerprint, index)
    except ValueError as error:
        return str(error)


def write_shard(url: str, fingerprint: str, index: int) -> int:
    """Grow a shard of the store at a URL, write it, and return its index.

    Raises
    ------
    ValueError
        If the store there has another fingerprint, or hardly any draw is accepted.
    """
    shard = (grower := _grower(url, fingerprint)).shard(index)
    files = Files(url)
    if _found(files)["fingerprint"] != fingerprint:
        raise ValueError(f"the database {url} was replaced while it was built")
    store.write_shard(files, grower.recipe, index, shard)
    return index


def _grower(url: str, fingerprint: str) -> Grower:
    with _COMPILING:
        config: Any = jax.config
        return _compiled(url, fingerprint, config.jax_default_device)


@lru_cache(maxsize=_DEVICES)
def _compiled(url: str, fingerprint: str, device: Any) -> Grower:
    """Return the compiled `Grower` of a store on a device, which all threads of a process that use it share."""
    files = Files(url)
    recipe = store.read_recipe(files, _found(files))
    if recipe.fingerprint != fingerprint:
        raise ValueError(
            f"the database {url} is not the one being built, or this worker has other versions of "
            f"the libraries: {recipe.description['code']}"
        )
    grower = Grower(recipe)
    grower.compile()
    return grower


def _found(files: Files) -> dict:
    return store.read_attributes(files, files.sizes())
