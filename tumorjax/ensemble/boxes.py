"""Priors of published databases of simulated tumours."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from tumorjax.anatomy import Anatomy
from tumorjax.growth import AbstractGrowth, GrowthParams
from tumorjax.prior import Prior, Uniform, UniformSteps

# D_w, mm^2/day; rho, 1/day; T, day.
_BOXES = {
    "learn-morph-infer": (Uniform(0.02, 1.5), Uniform(0.002, 0.2), Uniform(50.0, 1500.0)),
    "surrogate": (Uniform(0.01, 0.08), Uniform(0.0001, 0.03), UniformSteps(50.0, 1000.0, 50.0)),
}
# The range of seeds in Learn-Morph-Infer, as fractions of its solver's cube, which begins at the first corner of the
# atlas image (193 x 229 x 193 mm) and has the length of its longest edge.
_LOW, _HIGH = np.array([0.15, 0.2, 0.15]), np.array([0.7, 0.8, 0.7])
_IMAGE = np.array([193.0, 229.0, 193.0])


def published_box(
    anatomy: Anatomy,
    *,
    box: Literal["learn-morph-infer", "surrogate"] = "learn-morph-infer",
    model: AbstractGrowth | None = None,
) -> Prior:
    """Return the uniform prior of published simulations in an atlas.

    It includes seeds outside the tissue; reject such draws, as `build_database` does.

    Parameters
    ----------
    anatomy
        Anatomy with concrete maps, on the whole grid of the atlas.
    box
        "learn-morph-infer": D_w in 0.02 to 1.5 mm^2/day, rho in 0.002 to 0.2 /day, T in 50 to 1500 days. The paper
        draws the seed from 0.15 to 0.7 in x and z, and 0.2 to 0.8 in y, of the cube around its atlas. That is 0.178 to
        0.831 of the width and height of the atlas image, and 0.2 to 0.8 of its depth; the same fractions of this grid
        are used, along the world axes.
        "surrogate": D_w in 0.01 to 0.08 mm^2/day, rho in 0.0001 to 0.03 /day, T of 50, 100 to 1000 days, and the seed
        anywhere in the bounding box of the tissue.
    model
        What grows, `FisherKolmogorov()` by default. What a model has beside the growth of the cells has its default
        prior: gamma of `MassEffect` is uniform up to 2e5 Pa.

    References
    ----------
    Ezhov et al., "Learn-Morph-Infer", Medical Image Analysis 2023, section 3; "Geometry-aware neural solver for fast
    Bayesian calibration of brain tumor models", IEEE Trans. Med. Imaging 2022, section IV.
    """
    if box not in _BOXES:
        raise ValueError(f"box must be one of {sorted(_BOXES)}, got {box!r}")
    if box == "surrogate":
        low, high = _edges(anatomy, *anatomy.box())
    else:
        first, last = _edges(anatomy, (0, 0, 0), anatomy.grid.shape)
        share = _IMAGE.max() / _IMAGE
        low, high = (first + share * fractions * (last - first) for fractions in (_LOW, _HIGH))
    diffusivity, proliferation, duration = _BOXES[box]
    growth = GrowthParams(diffusivity, proliferation, Uniform(low, high), duration)
    return Prior(growth if model is None else model.with_growth(growth))


def _edges(
    anatomy: Anatomy, start: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Return the lower and upper ends of a box of voxels along the world axes, mm."""
    ends = np.stack([np.asarray(start) - 0.5, np.asarray(start) + np.asarray(shape) - 0.5])
    corners = np.stack(np.meshgrid(*ends.T, indexing="ij"), axis=-1).reshape(-1, 3)
    affine = np.asarray(anatomy.grid.affine, float)
    world = corners @ affine[:3, :3].T + affine[:3, 3]
    return world.min(axis=0), world.max(axis=0)
