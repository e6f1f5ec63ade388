"""The published priors of simulated tumours."""

from typing import Literal

import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.growth import GrowthParams
from tumorjax.prior import Prior, Uniform

# D_w, mm^2/day; rho, 1/day; T, day.
_BOXES = {
    "learn-morph-infer": ((0.02, 1.5), (0.002, 0.2), (50.0, 1500.0)),
    "surrogate": ((0.01, 0.08), (0.0001, 0.03), (50.0, 1000.0)),
}


def published_box(anatomy: Anatomy, *, box: Literal["learn-morph-infer", "surrogate"] = "learn-morph-infer") -> Prior:
    """Return the prior of the published simulations in an atlas: all is uniform.

    The seed is uniform in the box of the tissue in the world; who draws from it leaves out what lies in no tissue.

    Parameters
    ----------
    anatomy
        Concrete maps.
    box
        "learn-morph-infer": D_w in 0.02 to 1.5 mm^2/day, rho in 0.002 to 0.2 /day, T in 50 to 1500 days.
        "surrogate": 0.01 to 0.08, 0.0001 to 0.03, and 50 to 1000.

    References
    ----------
    Ezhov et al., "Learn-Morph-Infer", Medical Image Analysis 2023, section 3; "Geometry-aware neural solver for fast
    Bayesian calibration of brain tumor models", IEEE Trans. Med. Imaging 2022, table I.
    """
    if box not in _BOXES:
        raise ValueError(f"box must be one of {sorted(_BOXES)}, got {box!r}")
    start, shape = anatomy.box()
    ends = np.stack([np.asarray(start) - 0.5, np.asarray(start) + np.asarray(shape) - 0.5])
    corners = np.stack(np.meshgrid(*ends.T, indexing="ij"), axis=-1).reshape(-1, 3)
    affine = np.asarray(anatomy.grid.affine, float)
    world = corners @ affine[:3, :3].T + affine[:3, 3]
    diffusivity, proliferation, duration = (Uniform(*bounds) for bounds in _BOXES[box])
    return Prior(GrowthParams(diffusivity, proliferation, Uniform(world.min(axis=0), world.max(axis=0)), duration))
