"""Synthetic patients with displaced tissue and known truth, grown on finer voxels than those of an inversion."""

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from benchmarks.mass_effect import case
from tumorjax import (
    Anatomy,
    FlowSplitting,
    GaussianBasis,
    GrowthParams,
    LogNormal,
    MassEffect,
    MassEffectParams,
    Outline,
    Parameters,
    PetParams,
    Prior,
    Problem,
    ScaledGrowthParams,
    Uniform,
    simulate,
)
from tumorjax.atlas import AtlasImages, load_atlas
from tumorjax.io import Volume, resample
from tumorjax.observation import FluidMap, FluidMapParams, Pet
from tumorjax.operators import block_mean
from tumorjax.patient.atlases import AlignedAtlas
from tumorjax.registration import RegistrationWarning, register

# Width of the seed, mm, and least density that the image shows, as a share of the carrying capacity.
WIDTH, _NOISE, _FLUID_NOISE = 2.0, 0.05, 0.2

THRESHOLDS = {"core": 0.6, "lesion": 0.25}
"""Densities that outlines follow."""


@dataclass(frozen=True, eq=False)
class Patient:
    """A synthetic patient on the voxels of the inversion, with the truth.

    `core` and `lesion` are the shares of each voxel in which the density exceeds the `THRESHOLDS` of the outlines.
    """

    name: str
    model: MassEffect
    healthy: Anatomy
    anatomy: Anatomy
    density: np.ndarray
    core: np.ndarray
    lesion: np.ndarray
    displacement: np.ndarray
    truth: MassEffectParams
    t1: Volume
    largest: float


@functools.cache
def patient(name: str, spacing: int, finer: int = 2) -> Patient:
    """Grow a case on voxels `finer` times shorter than `spacing`, and return it on those of the inversion."""
    images = load_atlas("icbm152")
    fine = images.anatomy()
    step = spacing // finer
    fine = fine if step == 1 else fine.coarsen(step)
    start, shape = MassEffect().box(fine)
    # Whole blocks, and blocks of them.
    (x, y, z) = (max(0, low - low % 4) for low in start)
    (u, v, w) = (
        min(n + 4, whole - low) // 4 * 4 for n, low, whole in zip(shape, (x, y, z), fine.grid.shape, strict=True)
    )
    fine = fine.crop((x, y, z), (u, v, w))
    model, params = case(name, force="tanh", coarsening=2)
    # On finer voxels tissue crosses more of them in a step.
    solution = jax.block_until_ready(simulate(model, params, fine, stepper=FlowSplitting(max_substeps=32)))
    assert solution.anatomy is not None and solution.displacement is not None
    healthy = fine.coarsen(finer)
    displacement = np.stack([np.asarray(block_mean(solution.displacement[..., i], finer)) for i in range(3)], axis=-1)
    grid = healthy.grid
    # The tissue that is now at x came from x - u.
    world = np.asarray(grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).astype(float))) - displacement
    index = np.moveaxis(np.asarray(images.t1.grid.to_index(world)), -1, 0)
    t1 = ndimage.map_coordinates(np.asarray(images.t1.data), index, order=1)
    density = np.asarray(block_mean(solution.density, finer))
    core, lesion = (
        np.asarray(block_mean((solution.density > level).astype(solution.density.dtype), finer))
        for level in THRESHOLDS.values()
    )
    largest = float(jnp.linalg.norm(solution.displacement, axis=-1).max())
    image = Volume(t1.astype(np.float32), np.asarray(grid.affine), name="patient T1")
    now = solution.anatomy.coarsen(finer)
    return Patient(name, model, healthy, now, density, core, lesion, displacement, params, image, largest)


def problem_of(one: Patient, *, seen: str = "density", fluid: bool = True) -> Problem:
    """The inverse problem: the density is observed in the tissue, or its outlines, and the fluid outside the tumour.

    Thresholds and sharpness of outlines are unknown, as they are of a real patient.
    """
    tumour = one.density > 0.5 if seen == "density" else one.core > 0.5
    anatomy = _without_tumour(one.anatomy, tumour)
    # Where there was tissue, or is.
    valid = np.asarray(one.anatomy.tissue) | (one.density > 0.01)
    observations: dict[str, Any] = {}
    if seen == "density":
        observations["pet"] = Pet(one.density, valid, effective_voxels=1e4)
        unknown: dict[str, Any] = {"pet": PetParams(1.0, _NOISE)}
    else:
        observations |= {"core": Outline(one.core, valid), "lesion": Outline(one.lesion, valid)}
        unknown = {name: each.default_prior(name, anatomy, observations) for name, each in observations.items()}
    if fluid:
        shown = np.asarray(one.anatomy.white_matter + one.anatomy.grey_matter + one.anatomy.csf) > 0.5
        healthy = one.density < 0.05 if seen == "density" else one.lesion == 0
        observations["fluid"] = FluidMap(np.asarray(one.anatomy.csf), shown & healthy, effective_voxels=1e4)
        unknown["fluid"] = FluidMapParams(_FLUID_NOISE)
    spacing = 2 * float(anatomy.grid.spacing[0])
    candidates = GaussianBasis.from_outline(tumour & valid, anatomy.grid, spacing=spacing, width=WIDTH)
    speed = float(scaled(one).speed)
    growth = ScaledGrowthParams(LogNormal(7.0, 0.7), LogNormal(3.5, 0.35), candidates, speed)
    prior = Prior(Parameters(MassEffectParams(growth, Uniform(0.0, 2e5)), unknown))
    return Problem(one.model, anatomy, observations, prior)


def aligned(one: Patient, atlas: AtlasImages) -> AlignedAtlas | None:
    """Return an atlas aligned with the patient's T1 image, the tumour masked; None if it cannot be aligned."""
    healthy = np.logical_not(ndimage.binary_dilation(one.density > 0.05, iterations=2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegistrationWarning)
        found = register(atlas.t1, one.t1, kind="deformable", mask=healthy)
    if found.failure:
        print(f"{atlas.name} is left out: {found.failure}", flush=True)
        return None
    grid = one.healthy.grid
    maps = [
        np.clip(resample(m.data, np.linalg.inv(found.matrix) @ m.affine, grid), 0, 1).astype(np.float32)
        for m in (atlas.white_matter, atlas.grey_matter, atlas.csf)
    ]
    return AlignedAtlas(atlas.name, Anatomy(grid, *maps), found)


def _without_tumour(anatomy: Anatomy, tumour: np.ndarray) -> Anatomy:
    # As in the paper: white matter in its place.
    white = np.where(tumour, 1, np.asarray(anatomy.white_matter)).astype(np.float32)
    grey, csf = (np.where(tumour, 0, np.asarray(m)).astype(np.float32) for m in (anatomy.grey_matter, anatomy.csf))
    return Anatomy(anatomy.grid, white, grey, csf)


def scaled(one: Patient) -> ScaledGrowthParams:
    """Return the true growth by its identifiable parameters."""
    growth = one.truth.growth
    return growth.scaled() if isinstance(growth, GrowthParams) else growth
