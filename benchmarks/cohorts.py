"""Simulated cohorts that benchmarks share: built once, stored in a cache, and resumed after an interruption."""

import os
import tempfile
import time
from pathlib import Path

import numpy as np

from tumorjax import Anatomy, FisherKolmogorov
from tumorjax.atlas import deformed_atlas, load_atlas
from tumorjax.ensemble import BuildProgress, Database, Size, build_database, published_box
from tumorjax.growth import AbstractGrowth
from tumorjax.storage import user_cache

# A range of volumes (ml) that accepts every tumour.
_ANY = Size(0.2, 0.0, 1e6)


def folder() -> Path:
    """Return the folder of cohorts: TUMORJAX_COHORTS, or a folder of the user's cache."""
    return Path(os.environ.get("TUMORJAX_COHORTS") or user_cache() / "cohorts")


def atlas(resolution: float, name: str | Path = "icbm152", deformed: int | None = None) -> Anatomy:
    """Return a brain on voxels of `resolution` mm, as in `tumorjax database build`; `deformed` is a seed."""
    images = load_atlas(name)
    return (images if deformed is None else deformed_atlas(images, deformed)[0]).anatomy(resolution)


def cohort(
    count: int,
    *,
    seed: int = 0,
    box: str = "surrogate",
    resolution: float = 2.0,
    within: Path | None = None,
    brain: str | Path = "icbm152",
    deformed: int | None = None,
    filtered: bool = True,
    model: AbstractGrowth | None = None,
) -> Database:
    """Return a cohort of a published box in a brain, with the same bytes as from `tumorjax database build`.

    Only tumours of clinical size are stored; without the filter, all draws that begin in tissue are, as in some papers.
    """
    place = (within or folder()) / f"{box}-{resolution:g}mm-{count}-{seed}"
    if (brain, deformed) != ("icbm152", None):
        place = place.with_name(f"{place.name}-{Path(brain).name}{'' if deformed is None else f'-deformed-{deformed}'}")
    if not filtered:
        place = place.with_name(f"{place.name}-unfiltered")

    def told(state: BuildProgress) -> None:
        if state.done % 6400 == 0:
            print(f"{place.name}: {state.done} of {state.total} tumours", flush=True)

    if model is not None:
        place = place.with_name(f"{place.name}-{type(model).__name__}")
    model = model or FisherKolmogorov()
    anatomy = atlas(resolution, brain, deformed)
    prior = published_box(anatomy, box=box, model=model)
    settings = {} if filtered else {"sizes": (_ANY,)}
    return build_database(model, prior, anatomy, count, place, seed=seed, progress=told, **settings)


def seconds_of_building(count: int, resolution: float, model: AbstractGrowth | None = None) -> float:
    """Return the seconds in which a cohort that nothing is stored of yet is built, with compilation."""
    with tempfile.TemporaryDirectory() as place:
        begun = time.perf_counter()
        cohort(count, seed=2, resolution=resolution, within=Path(place), model=model)
        return time.perf_counter() - begun


def outlines(densities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cores and lesions of stored densities, by dividing and comparing floating-point numbers."""
    fractions = densities / 255.0
    return fractions > 0.6, fractions > 0.2
