"""Simulated cohorts that benchmarks share: built once, kept in a cache, resumed where a build was interrupted."""

import os
from pathlib import Path

import numpy as np

from tumorjax import Anatomy, FisherKolmogorov
from tumorjax.atlas import load_atlas
from tumorjax.ensemble import BuildProgress, Database, build_database, published_box
from tumorjax.pipeline.tissue import TissueSource


def folder() -> Path:
    """Return where cohorts are kept: TUMORJAX_COHORTS, or a folder of the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TUMORJAX_COHORTS") or Path(cache) / "tumorjax" / "cohorts")


def atlas(resolution: float) -> Anatomy:
    """Return ICBM152 on voxels of `resolution` mm, as `tumorjax database build` has it."""
    source = TissueSource.of(load_atlas("icbm152"))
    grid = source.white_matter.grid.with_spacing(resolution)
    return Anatomy(grid, *source.on(grid))


def cohort(
    count: int, *, seed: int = 0, box: str = "surrogate", resolution: float = 2.0, within: Path | None = None
) -> Database:
    """Return a cohort of a published box in ICBM152, with the bytes of `tumorjax database build`."""
    place = (within or folder()) / f"{box}-{resolution:g}mm-{count}-{seed}"

    def told(state: BuildProgress) -> None:
        if state.done % 6400 == 0:
            print(f"{place.name}: {state.done} of {state.total} tumours", flush=True)

    anatomy = atlas(resolution)
    prior = published_box(anatomy, box=box)
    return build_database(FisherKolmogorov(), prior, anatomy, count, place, seed=seed, progress=told)


def outlines(densities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cores and lesions of stored densities, by division and comparison of floating-point numbers."""
    fractions = densities / 255.0
    return fractions > 0.6, fractions > 0.2
