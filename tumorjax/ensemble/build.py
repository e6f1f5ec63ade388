"""The verb `build_database`."""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tumorjax.anatomy import Anatomy
from tumorjax.ensemble import store
from tumorjax.ensemble.database import Database
from tumorjax.ensemble.distribute import grow_here, grow_on_dask
from tumorjax.ensemble.files import Files
from tumorjax.ensemble.recipe import Recipe
from tumorjax.prior import Prior


class BuildProgress(NamedTuple):
    """How far a build is.

    Parameters
    ----------
    done, total
        Tumours that are stored, also by earlier builds, and that there will be.
    rate
        Tumours per second since the build went on; zero before the first.
    remaining
        Seconds that the others will take at this rate, or None before the first.
    """

    done: int
    total: int
    rate: float
    remaining: float | None


def build_database(
    model: Any,
    prior: Prior,
    anatomy: Anatomy,
    count: int,
    url: str | os.PathLike,
    *,
    overwrite: bool = False,
    repair: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Callable[[BuildProgress], None] = lambda progress: None,
    **settings: Any,
) -> Database:
    """Simulate tumours with parameters drawn from a prior, and keep those of clinical size in a Zarr store.

    A build that was interrupted, whenever and however, is gone on with by the same call, and ends in the same bytes as
    one that was not. Who computes does not matter for them either, as long as the processors are of one kind.

    Parameters
    ----------
    model
        What grows: `FisherKolmogorov` or `MassEffect`.
    prior
        Over the model's parameters alone, such as `published_box(anatomy)`; see `Recipe`.
    anatomy
        Where; concrete maps. Computed and stored is the box outside which nothing grows, in single precision.
    count
        Tumours to keep.
    url
        A folder, or a URL of fsspec (`s3://bucket/name`, `memory://name`).
    overwrite
        Replace a database of another recipe.
    repair
        Compare all checksums, and make damaged shards anew; all of them, where the list of their checksums is damaged.
    workers
        Threads, each of which grows one tumour at a time; by default as many as there are cores. On an accelerator
        one, which grows a batch.
    scheduler
        Address of a Dask scheduler, whose workers grow the shards instead and write them to `url` themselves.
    progress
        Called when the build begins, and after each shard.
    settings
        `seed`, `draws`, `sizes`, `dtype`, `shard_length`, `screening`; see `Recipe`.

    Returns
    -------
    Database

    Raises
    ------
    ValueError
        If an argument is out of range, the place holds something else, another build writes there, hardly any draw is
        accepted, or there is no scheduler.
    OSError
        If files cannot be written, as on a full disk; what is finished is kept.
    """
    if workers is not None and (scheduler is not None or workers < 1):
        raise ValueError(f"workers must be at least 1, and are a scheduler's own where one is given; got {workers}")
    files = Files(url)
    recipe = Recipe.of(model, prior, anatomy, count, **settings)
    with files.held():
        shards = _begun(files, recipe, overwrite=overwrite, repair=repair)
        missing = [index for index in range(recipe.shards) if index not in shards]
        told = _Clock(recipe, missing, progress)
        if missing:
            if scheduler is None:
                written = grow_here(files.url, recipe.fingerprint, missing, workers)
            else:
                written = grow_on_dask(files.url, recipe.fingerprint, missing, scheduler)
            for index in written:
                told(index)
            shards, _ = store.read_manifest(files, files.sizes(), recipe.fingerprint, damaged_too=repair)
        store.finish(files, recipe, shards)
    return Database(files.url)


def _begun(files: Files, recipe: Recipe, *, overwrite: bool, repair: bool) -> dict[int, store.Entry]:
    """Return the entries of the shards that are there and whole, once there is a store with this recipe."""
    sizes = files.sizes()
    if "zarr.json" in sizes:
        try:
            found = store.read_attributes(files, sizes)
        except store.DamagedError:
            # What else the store has says whether this recipe mends it.
            if not store.is_of(files, sizes, recipe.fingerprint):
                raise
        else:
            if found["fingerprint"] != recipe.fingerprint:
                if not overwrite:
                    raise ValueError(f"{files.url} holds another database ({_difference(found['recipe'], recipe)})")
                store.erase(files)
                sizes = files.sizes()
    elif any(not key.endswith(".partial") for key in sizes):
        raise ValueError(f"{files.url} is not empty and holds no database; give another place")
    shards, _ = store.read_manifest(files, sizes, recipe.fingerprint, damaged_too=repair)
    # Nothing is touched before all that may be refused.
    files.remove_partial()
    store.write_common(files, recipe)
    bad = store.damaged(files, recipe, shards, deep=repair)
    return {index: entry for index, entry in shards.items() if index not in bad}


def _difference(found: dict[str, Any], recipe: Recipe) -> str:
    other = [name for name, value in recipe.description.items() if found.get(name) != value]
    return f"other {', '.join(other)}; give another place, or permit overwriting"


class _Clock:
    """Reports the progress of a build."""

    def __init__(self, recipe: Recipe, missing: list[int], tell: Callable[[BuildProgress], None]) -> None:
        self._recipe, self._tell, self._start = recipe, tell, time.monotonic()
        self._before = recipe.count - sum(self._length(index) for index in missing)
        self._grown = 0
        tell(BuildProgress(self._before, recipe.count, 0.0, None))

    def __call__(self, index: int) -> None:
        self._grown += self._length(index)
        done, total = self._before + self._grown, self._recipe.count
        rate = self._grown / max(time.monotonic() - self._start, 1e-9)
        self._tell(BuildProgress(done, total, rate, (total - done) / rate))

    def _length(self, index: int) -> int:
        rows = self._recipe.rows(index)
        return rows.stop - rows.start
