"""Synthetic patients: tumours whose truth is known, made by other means than the calibration's."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy import ndimage

from tumorjax.anatomy import Anatomy
from tumorjax.atlas import AtlasImages, load_atlas
from tumorjax.grid import Grid, tissue_box
from tumorjax.growth import FisherKolmogorov, MassEffect, MassEffectParams, ScaledGrowthParams
from tumorjax.integrate import FlowSplitting, Result, Solution, SplitEuler, simulate
from tumorjax.io import Volume
from tumorjax.operators import block_mean

# Lesions of this volume (ml) at the FLAIR threshold resemble those of clinical cohorts.
_LESION_ML = (20.0, 160.0)
_CORE_ML = 2.0
# Voxels (mm) on which a draw's size is judged.
_ROUGH = 4.0
# Scale (mm) of the outlines' displacement; a density that no outline follows, and room (mm) around it.
_SMOOTHNESS, _NOWHERE, _MARGIN = 5.0, 0.02, 10.0


@dataclass(frozen=True, eq=False)
class SyntheticPatient:
    """A made-up patient in an atlas, with the truth.

    Parameters
    ----------
    t1, segmentation
        The images that a scanner and a reader would give; labels 1 = core, 2 = oedema.
    density
        (x, y, z): the true cell density, on the voxels of the images.
    displacement
        (x, y, z, 3), mm in RAS world: by how much the tissue has moved; None of a tumour that does not push.
    truth
        True parameters by name.
    """

    t1: Volume
    segmentation: Volume
    density: np.ndarray
    displacement: np.ndarray | None
    truth: dict[str, float]


def synthetic_patient(
    seed: int,
    *,
    brain: AtlasImages | None = None,
    mass_effect: float = 0.0,
    resolution: float = 1.0,
    wobble: float = 1.5,
) -> SyntheticPatient:
    """Grow a random tumour in a healthy brain and outline it as an imperfect reader would.

    The truth is computed with first-order split Euler steps on voxels of `resolution`, not with the scheme
    or the grid of the calibration; that of a tumour that pushes, on these voxels with the scheme of `MassEffect`.
    Each outline is an isoline seen through its own random smooth displacement.

    Parameters
    ----------
    seed
        Of the random parameters and displacements.
    brain
        Where; ICBM152 if not given.
    mass_effect
        gamma, Pa: how strongly the tumour pushes the tissue.
    resolution
        mm: 1 is that of ICBM152.
    wobble
        mm: standard deviation of the outlines' displacement along each axis; correlated over about 8 mm.
    """
    random = np.random.default_rng(seed)
    atlas = brain or load_atlas("icbm152")
    factor = max(1, round(resolution / float(np.asarray(atlas.t1.grid.spacing)[0])))
    anatomy = atlas.anatomy() if factor == 1 else atlas.anatomy().coarsen(factor)
    t1 = np.asarray(block_mean(jnp.asarray(atlas.t1.data, jnp.float32), factor))
    grid, displacement = anatomy.grid, None
    growth, thresholds = _draw(random, anatomy)
    if mass_effect:
        solution = _pushing(growth, mass_effect, anatomy)
        # A tumour that pushes is thinner than the one that was drawn, and may lack a core or flow too fast.
        while solution.result != Result.SUCCESS or not _clinical(solution.density, grid, thresholds):
            growth, thresholds = _draw(random, anatomy)
            solution = _pushing(growth, mass_effect, anatomy)
        anatomy, displacement = solution.anatomy, np.asarray(solution.displacement)
        t1 = _carried(t1, displacement, grid)
    else:
        solution = simulate(FisherKolmogorov(), growth, anatomy, stepper=SplitEuler())
    density = np.asarray(solution.density)
    core, lesion = (_outline(random, density, u, wobble, np.asarray(grid.spacing)) for u in thresholds)
    # A reader labels nothing outside the brain, and the lesion holds its core.
    assert anatomy is not None
    inside = np.asarray(anatomy.white_matter + anatomy.grey_matter + anatomy.csf) >= 0.5
    labels = np.where(core & inside, 1, np.where(lesion & inside, 2, 0)).astype(np.uint8)
    origin = np.asarray(growth.origin)
    truth = {
        "mu1": float(growth.mu1),
        "mu2": float(growth.mu2),
        **{f"origin_{axis}": float(origin[i]) for i, axis in enumerate("xyz")},
        "threshold_core": thresholds[0],
        "threshold_lesion": thresholds[1],
        **({"mass_effect": mass_effect} if mass_effect else {}),
    }
    affine = np.asarray(grid.affine)
    # An enhancing core and bright oedema are not drawn into the T1 image: only its anatomy is used.
    return SyntheticPatient(
        replace(atlas.t1, data=t1, affine=affine, header=None, name="T1"),
        Volume(labels, affine, name="segmentation"),
        density,
        displacement,
        truth,
    )


def _draw(random: np.random.Generator, anatomy: Anatomy) -> tuple[ScaledGrowthParams, tuple[float, float]]:
    """Draw parameters until the lesion has a clinical size; coarse voxels are enough to tell."""
    white = np.argwhere(np.asarray(anatomy.white_matter) > 0.6)
    rough = anatomy.coarsen(max(1, round(_ROUGH / float(anatomy.grid.spacing[0]))))
    while True:
        origin = np.asarray(anatomy.grid.to_world(white[random.integers(len(white))] + random.uniform(-0.5, 0.5, 3)))
        growth = ScaledGrowthParams(float(random.uniform(4, 10)), float(random.uniform(2.5, 4.5)), origin)
        # The thresholds of the literature's simulations, away from the ends of the prior's box.
        core, lesion = float(random.uniform(0.6, 0.8)), float(random.uniform(0.1, 0.4))
        density = simulate(FisherKolmogorov(), growth, rough, throw=False).density
        if _clinical(density, rough.grid, (core, lesion)):
            return growth, (core, lesion)


def _clinical(density: Array, grid: Grid, thresholds: tuple[float, float]) -> bool:
    """Return whether core and lesion are as large as those of clinical cohorts."""
    core, lesion = (float((density > u).sum()) * float(grid.voxel_volume) / 1000 for u in thresholds)
    return _LESION_ML[0] < lesion < _LESION_ML[1] and core > _CORE_ML


def _pushing(growth: ScaledGrowthParams, mass_effect: float, anatomy: Anatomy) -> Solution:
    params, stepper = MassEffectParams(growth, mass_effect), FlowSplitting(max_substeps=32)
    return simulate(MassEffect(force="tanh"), params, anatomy, stepper=stepper, throw=False)


def _carried(image: np.ndarray, displacement: np.ndarray, grid: Grid) -> np.ndarray:
    """Return an image of tissue that has moved: what is now at x came from x - u."""
    places = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).astype(float))
    came = np.moveaxis(np.asarray(grid.to_index(np.asarray(places) - displacement)), -1, 0)
    return ndimage.map_coordinates(image, came, order=1, mode="nearest")


def _outline(
    random: np.random.Generator, density: np.ndarray, threshold: float, wobble: float, spacing: np.ndarray
) -> np.ndarray:
    if wobble == 0:
        return density > threshold
    start, shape = tissue_box(density > _NOWHERE, margin=int(np.ceil(_MARGIN / spacing.min())))
    box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
    where = np.indices(shape, dtype=np.float32)
    for axis in range(3):
        noise = ndimage.gaussian_filter(random.standard_normal(shape, dtype=np.float32), _SMOOTHNESS / spacing)
        where[axis] += noise * (wobble / spacing[axis] / noise.std())
    outline = np.zeros(density.shape, bool)
    outline[box] = np.asarray(ndimage.map_coordinates(density[box], where, order=1)) > threshold
    return outline
