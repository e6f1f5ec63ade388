"""The brain and the tumours of the benchmarks of forward solvers."""

import functools

import numpy as np

from tumorjax import Anatomy, GrowthParams
from tumorjax.atlas import load_atlas

ORIGIN = np.array([28.5, 30.5, 18.5], np.float32)
"""Seed in white matter of the ICBM152 brain, mm."""

GROWTH = GrowthParams(0.5, 0.05, ORIGIN, 250.0)
"""D 0.5 mm^2/day, rho 0.05 /day, 250 days: a large tumour."""


@functools.cache
def _atlas(spacing: int) -> Anatomy:
    anatomy = load_atlas("icbm152").anatomy()
    return anatomy if spacing == 1 else anatomy.coarsen(spacing)


def head(spacing: int) -> Anatomy:
    """Return the ICBM152 head on voxels of this size (mm), in float32."""
    return _atlas(spacing)


def brain(spacing: int) -> Anatomy:
    """Return the ICBM152 brain on voxels of this size (mm), cropped to white and grey matter."""
    anatomy = _atlas(spacing)
    return anatomy.crop(*anatomy.box())
