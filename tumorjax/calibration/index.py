"""The index of a database of simulated tumours: built once, and kept in the user's cache."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from tumorjax.ensemble import Database
from tumorjax.retrieval import Index
from tumorjax.retrieval.masks import THRESHOLDS, check_thresholds


def index_of(
    database: Database,
    folder: str | os.PathLike | None = None,
    *,
    variants: Iterable[str] = ("direct",),
    thresholds: tuple[float, float] = THRESHOLDS,
    progress: Callable[[float], None] = lambda share: None,
) -> Index:
    """Return the index of a database, ready to be queried; it is built where it is not there yet.

    Building reads the whole database once. What lies outside the tissue of the database's anatomy has no bits in the
    index: no tumour grows there, so that queries are the same as with fluid, and shorter.

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
        If the folder holds another thing, the index of another database or of other thresholds; if a variant is
        unknown.
    """
    thresholds, wanted = check_thresholds(thresholds), {"direct", *variants}
    place = _in_the_cache(database, thresholds) if folder is None else Path(folder)
    kept = _kept(place, database, thresholds, mine=folder is None) if place.exists() else None
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
        overwrite=kept is not None or folder is None,
    )


def _in_the_cache(database: Database, thresholds: tuple[float, float]) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    core, lesion = thresholds
    return Path(cache) / "tumorjax" / "indices" / f"{database.fingerprint}-{core:g}-{lesion:g}"


def _kept(place: Path, database: Database, thresholds: tuple[float, float], mine: bool) -> Index | None:
    """Return the index in a folder; None where a folder of the cache holds a damaged one."""
    try:
        index = Index.open(place, source=database.fingerprint)
    except ValueError:
        if mine:
            return None
        raise
    if index.masks.thresholds != thresholds:
        raise ValueError(
            f"{place} has outlines at densities of {index.masks.thresholds}, asked for were {thresholds}; "
            "give another folder"
        )
    return index
