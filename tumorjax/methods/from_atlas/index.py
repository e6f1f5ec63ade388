"""The index of a database of simulated tumours: built once, and kept in the user's cache."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from tumorjax.ensemble import Database
from tumorjax.retrieval import Index
from tumorjax.retrieval.folders import DamagedFolderError
from tumorjax.retrieval.masks import THRESHOLDS, check_thresholds
from tumorjax.storage import exclusive, user_cache


class DamagedIndex(UserWarning):
    """The index of a database in the user's cache was damaged, and is built anew."""


def index_of(
    database: Database,
    folder: str | os.PathLike | None = None,
    *,
    variants: Iterable[str] = ("direct",),
    thresholds: tuple[float, float] = THRESHOLDS,
    progress: Callable[[float], None] = lambda share: None,
) -> Index:
    """Return the index of a database, ready to be queried; it is built where it is not there yet.

    Building reads the whole database once; a second process waits for that. What lies outside the tissue of the
    database's anatomy has no bits in the index: no tumour grows there, so that queries are the same as with fluid, and
    shorter.

    Parameters
    ----------
    database
        Of simulated tumours.
    folder
        Of the index; by default one of the user's cache (`$XDG_CACHE_HOME` or `~/.cache`), named after the database.
    variants
        Ways to query: see `tumorjax.retrieval.VARIANTS`. An index that lacks one is built anew, with those it had.
    thresholds
        Densities at the outlines of core and lesion.
    progress
        Told the share of the database that has been read.

    Raises
    ------
    ValueError
        If the folder holds another thing, the index of another database or of other thresholds, or is damaged; if a
        variant is unknown.

    Warns
    -----
    DamagedIndex
        If that of the cache is damaged: it is built anew.
    """
    thresholds, wanted = check_thresholds(thresholds), {"direct", *variants}
    place = _in_the_cache(database, thresholds) if folder is None else Path(folder)
    with suppress(DamagedFolderError):
        if place.exists() and wanted <= set((kept := _kept(place, database, thresholds)).variants):
            return kept
    # Whoever waited for another process finds what that has built.
    with exclusive(place, wait=True):
        kept = None
        if place.exists():
            try:
                kept = _kept(place, database, thresholds)
            except DamagedFolderError as error:
                if folder is not None:
                    raise
                message = f"the index of simulated tumours in the cache is damaged, and is built anew: {error}"
                warnings.warn(message, DamagedIndex, stacklevel=2)
                shutil.rmtree(place) if place.is_dir() else place.unlink()
        if kept is not None and wanted <= set(kept.variants):
            return kept
        return Index.build(
            database.blocks(progress=progress),
            np.asarray(database.anatomy.tissue),
            database.grid.spacing,
            place,
            thresholds=thresholds,
            variants=wanted if kept is None else wanted | set(kept.variants),
            source=database.fingerprint,
            overwrite=kept is not None,
        )


def _in_the_cache(database: Database, thresholds: tuple[float, float]) -> Path:
    core, lesion = thresholds
    return user_cache() / "indices" / f"{database.fingerprint}-{core:g}-{lesion:g}"


def _kept(place: Path, database: Database, thresholds: tuple[float, float]) -> Index:
    """Return the index in a folder."""
    index = Index.open(place, source=database.fingerprint)
    if index.masks.thresholds != thresholds:
        raise ValueError(
            f"{place} has outlines at densities of {index.masks.thresholds}, asked for were {thresholds}; "
            "give another folder"
        )
    return index
