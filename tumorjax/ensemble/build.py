"""The function `build_database`."""

import os
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

from tumorjax.anatomy import Anatomy
from tumorjax.ensemble import store
from tumorjax.ensemble.database import Database
from tumorjax.ensemble.distribute import grow_here, grow_on_dask
from tumorjax.ensemble.files import Files
from tumorjax.ensemble.recipe import Recipe
from tumorjax.prior import Prior


class BuildProgress(NamedTuple):
    """Progress of a build.

    Parameters
    ----------
    done, total
        Number of tumours stored so far, including earlier builds, and number of tumours to store.
    rate
        Tumours per second since this call began; zero before the first shard.
    remaining
        Expected time for the remaining tumours, s; None before the first shard.
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
    """Simulate tumours with parameters drawn from a prior, and store those of clinical size in a Zarr store.

    To continue an interrupted build, make the same call again; the result has the same bytes as an uninterrupted one.
    The bytes do not depend on the number of workers either, as long as all processors are of the same kind.

    Parameters
    ----------
    model
        Growth model: `FisherKolmogorov` or `MassEffect`.
    prior
        Prior over the model's parameters alone, such as `published_box(anatomy)`; see `Recipe`.
    anatomy
        Anatomy with concrete maps. Simulations and stored densities cover only the box in which tumours can grow, in
        single precision.
    count
        Number of tumours to store.
    url
        A folder, or a URL of fsspec (`s3://bucket/name`, `memory://name`).
    overwrite
        Replace a database with another recipe.
    repair
        Compare all checksums, and build damaged shards again, or all shards if the list of checksums is damaged.
    workers
        Number of threads, each of which grows one tumour at a time; by default one per core. On accelerators a thread
        grows a batch, and there is one for each of them.
    scheduler
        Address of a Dask scheduler, whose workers grow the shards instead and write them to `url` themselves.
    progress
        Function that is called when the build begins, and after each shard.
    settings
        `seed`, `draws`, `sizes`, `dtype`, `shard_length`, `screening`; see `Recipe`.

    Returns
    -------
    Database
        The finished database.

    Raises
    ------
    ValueError
        If an argument is out of range, `url` contains something else, another build writes there, hardly any draw is
        accepted, or no scheduler answers.
    OSError
        If files cannot be written, for example because the disk is full; finished shards are kept.
    """
    if workers is not None and (scheduler is not None or workers < 1):
        raise ValueError(f"workers must be at least 1, and not be given with a scheduler; got {workers}")
    files = Files(url)
    recipe = Recipe.of(model, prior, anatomy, count, **settings)
    with files.held():
        shards = _begun(files, recipe, overwrite=overwrite, repair=repair)
        missing = [index for index in range(recipe.shards) if index not in shards]
        clock = _Clock(recipe, missing, progress)
        if missing:
            if scheduler is None:
                written = grow_here(files.url, recipe.fingerprint, missing, workers)
            else:
                written = grow_on_dask(files.url, recipe.fingerprint, missing, scheduler)
            # Closed before the lock is released, whatever the progress raises.
            with closing(written):
                for index in written:
                    clock.finished(index)
            shards, _ = store.read_manifest(files, files.sizes(), recipe.fingerprint, damaged_too=repair)
        store.finish(files, recipe, shards)
    return Database(files.url)


def _begun(files: Files, recipe: Recipe, *, overwrite: bool, repair: bool) -> dict[int, store.Entry]:
    """Prepare a store with this recipe, and return the entries of the complete shards in it."""
    sizes = files.sizes()
    if "zarr.json" in sizes:
        try:
            found = store.read_attributes(files, sizes)
        except store.DamagedError:
            # The manifest shows whether the store belongs to this recipe, and so can be repaired.
            if not store.is_of(files, sizes, recipe.fingerprint):
                raise
        else:
            if found["fingerprint"] != recipe.fingerprint:
                if not overwrite:
                    raise ValueError(f"{files.url} contains another database ({_difference(found['recipe'], recipe)})")
                store.erase(files)
                sizes = files.sizes()
    elif any(not key.endswith(".partial") for key in sizes):
        raise ValueError(f"{files.url} is not empty and contains no database; give another folder or URL")
    shards, _ = store.read_manifest(files, sizes, recipe.fingerprint, damaged_too=repair)
    # Nothing is changed before this line, after which the build cannot be refused.
    files.remove_partial()
    store.write_common(files, recipe)
    bad = store.damaged(files, recipe, shards, deep=repair)
    return {index: entry for index, entry in shards.items() if index not in bad}


def _difference(found: dict[str, Any], recipe: Recipe) -> str:
    other = [name for name, value in recipe.description.items() if found.get(name) != value]
    return f"it differs in {', '.join(other)}; give another folder or URL, or permit overwriting"


class _Clock:
    """The clock that reports the progress of a build."""

    def __init__(self, recipe: Recipe, missing: list[int], report: Callable[[BuildProgress], None]) -> None:
        self._recipe, self._report, self._start = recipe, report, time.monotonic()
        self._before = recipe.count - sum(self._length(index) for index in missing)
        self._grown = 0
        report(BuildProgress(self._before, recipe.count, 0.0, None))

    def finished(self, index: int) -> None:
        self._grown += self._length(index)
        done, total = self._before + self._grown, self._recipe.count
        rate = self._grown / max(time.monotonic() - self._start, 1e-9)
        self._report(BuildProgress(done, total, rate, (total - done) / rate))

    def _length(self, index: int) -> int:
        rows = self._recipe.rows(index)
        return rows.stop - rows.start
