"""Who grows which shard: threads of this process, or the workers of a Dask cluster.

Each shard is one task, whose result its worker writes itself. A task that is run twice writes the same bytes twice.
"""

import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import lru_cache
from typing import TYPE_CHECKING

import jax

from tumorjax.ensemble import store
from tumorjax.ensemble.files import Files, require
from tumorjax.ensemble.growing import Grower

if TYPE_CHECKING:
    from distributed import Client

# How often a shard is begun anew when its worker dies, or cannot write.
_RETRIES = 10
_COMPILING = threading.Lock()


def grow_here(url: str, fingerprint: str, shards: Sequence[int], workers: int | None) -> Iterator[int]:
    """Grow shards in threads, as many as there are cores or, on an accelerator, one; yield each that is finished."""
    if workers is None:
        workers = (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1
    with ThreadPoolExecutor(max(1, min(workers, len(shards)))) as pool:
        try:
            for task in as_completed([pool.submit(write_shard, url, fingerprint, index) for index in shards]):
                yield task.result()
        except BaseException:
            # What has begun is worth finishing.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def grow_on_dask(url: str, fingerprint: str, shards: Sequence[int], scheduler: str) -> Iterator[int]:
    """Grow shards on the workers of a scheduler, which must reach the same place; yield each that is finished."""
    require("dask", "distributed")
    from distributed import KilledWorker, as_completed

    with client_of(scheduler) as client:
        # Results of an earlier build at the same place are none of this one.
        run = uuid.uuid4().hex
        tasks = [
            client.submit(attempt_shard, url, fingerprint, index, key=f"shard-{index}-{run}", retries=_RETRIES)
            for index in shards
        ]
        try:
            # Without the loop it would ask for a client of the caller's.
            for task in as_completed(tasks, loop=client.loop):
                if isinstance(found := task.result(), str):
                    raise ValueError(found)
                yield found
        except KilledWorker as error:
            raise OSError(f"workers die again and again ({error}); see their logs, perhaps they lack memory") from None
        finally:
            client.cancel(tasks)


def client_of(scheduler: str) -> "Client":
    """Return a client of the Dask scheduler at an address, which is nobody's default; a ValueError if none answers."""
    from distributed import Client

    try:
        return Client(scheduler, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no Dask scheduler answers at {scheduler} ({error}); start one, or correct the address"
        ) from None


def attempt_shard(url: str, fingerprint: str, index: int) -> int | str:
    """Write a shard; return its index, or what no second attempt would mend."""
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
        return _compiled(url, fingerprint)


@lru_cache(maxsize=1)
def _compiled(url: str, fingerprint: str) -> Grower:
    """Return what grows the shards of a store; once for all threads of a process."""
    files = Files(url)
    recipe = store.read_recipe(files, _found(files))
    if recipe.fingerprint != fingerprint:
        raise ValueError(
            f"the database {url} is not what is built, or this worker has other versions of "
            f"the libraries: {recipe.description['code']}"
        )
    grower = Grower(recipe)
    grower.compile()
    return grower


def _found(files: Files) -> dict:
    return store.read_attributes(files, files.sizes())
