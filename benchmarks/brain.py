"""The brain and the tumours on which the forward solvers are measured."""

import functools

import numpy as np

from tumorjax import Anatomy, GrowthParams
from tumorjax.atlas import load_atlas

ORIGIN = np.array([28.5, 30.5, 18.5], np.float32)
"""mm: in white matter of the ICBM152 brain."""

GROWTH = GrowthParams(0.5, 0.05, ORIGIN, 250.0)
"""D 0.5 mm^2/day, rho 0.05 /day, 250 days: a large tumour."""


@functools.cache
def _atlas(spacing: int) -> Anatomy:
    anatomy = load_atlas("icbm152").anatomy()
    return anatomy if spacing == 1 else anatomy.coarsen(spacing)


def head(spacing: int) -> Anatomy:
    """Return the ICBM152 head on voxels of so many mm, in float32."""
    return _atlas(spacing)


def brain(spacing: int) -> Anatomy:
    """Return the same, cropped to white and grey matter."""
    anatomy = _atlas(spacing)
    return anatomy.crop(*anatomy.box())
