"""Synthetic patients with displaced tissue and known truth, grown on finer voxels than those of an inversion."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from scipy import ndimage

from benchmarks.mass_effect import case as published_case
from tumorjax import (
    Anatomy,
    FlowSplitting,
    GaussianBasis,
    Grid,
    GrowthParams,
    LogNormal,
    MassEffect,
    MassEffectParams,
    MultiAtlas,
    Parameters,
    PetParams,
    Prior,
    Problem,
    ScaledGrowthParams,
    Uniform,
    simulate,
)
from tumorjax.atlas import load_atlas
from tumorjax.io import Volume, resample
from tumorjax.observation import READERS, Pet
from tumorjax.patient import Patient, load_patient
from tumorjax.pipeline.problems import problem_of as patient_problem

# Width of the seed, mm, and least density that the image shows, as a share of the carrying capacity.
WIDTH, _NOISE = 2.0, 0.05
# Edge of the largest voxels of a T1 image, mm.
_T1_VOXEL = 2.0

THRESHOLDS = {"core": 0.6, "lesion": 0.25}
"""Densities that outlines follow."""


@dataclass(frozen=True, eq=False)
class Displaced:
    """A synthetic patient, read from images as any other, with the truth on the computing grid.

    Parameters
    ----------
    case
        Name of the case.
    model
        What grew.
    patient
        What methods see: T1 image, tissue maps as from a perfect segmentation, and outlines.
    healthy
        The brain before the tumour.
    density, displacement
        (x, y, z); (x, y, z, 3), mm.
    truth
        The parameters of the growth.
    largest
        The largest displacement on the finer voxels, mm.
    """

    case: str
    model: MassEffect
    patient: Patient
    healthy: Anatomy
    density: np.ndarray
    displacement: np.ndarray
    truth: MassEffectParams
    largest: float


@functools.cache
def displaced(case: str, spacing: int, finer: int = 2) -> Displaced:
    """Grow a case on voxels `finer` times shorter than `spacing`, and return it as a patient on those of `spacing`."""
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
    model, params = published_case(case, force="tanh", coarsening=2)
    # On finer voxels tissue crosses more of them in a step.
    solution = jax.block_until_ready(simulate(model, params, fine, stepper=FlowSplitting(max_substeps=32)))
    assert solution.anatomy is not None and solution.displacement is not None
    density, displacement = (np.asarray(each, np.float32) for each in (solution.density, solution.displacement))
    affine, tissue = np.asarray(fine.grid.affine), solution.anatomy

    def image(data: Any, name: str) -> Volume:
        return Volume(np.asarray(data), affine, name=name)

    labels = np.select([density > level for level in THRESHOLDS.values()], (1, 2)).astype(np.uint8)
    patient = load_patient(
        segmentation=image(labels, "segmentation"),
        labels={"core": (1,), "edema": (2,)},
        t1=_t1(images.t1, fine.grid, displacement),
        white_matter=image(tissue.white_matter, "white matter"),
        grey_matter=image(tissue.grey_matter, "grey matter"),
        csf=image(tissue.csf, "CSF"),
        resolution=float(spacing),
    )
    grid = patient.anatomy.grid

    def seen(data: Any) -> np.ndarray:
        return resample(np.asarray(data), affine, grid, kind="mean")

    maps = (seen(each) for each in (fine.white_matter, fine.grey_matter, fine.csf))
    return Displaced(
        case,
        model,
        patient,
        Anatomy(grid, *maps),
        seen(density),
        np.stack([seen(displacement[..., axis]) for axis in range(3)], axis=-1),
        params,
        float(np.linalg.norm(displacement, axis=-1).max()),
    )


def _t1(healthy: Volume, grid: Grid, displacement: np.ndarray) -> Volume:
    """Return the T1 image after the displacement, on voxels of at most 2 mm."""
    finer = grid if float(np.max(grid.spacing)) <= _T1_VOXEL else grid.with_spacing(_T1_VOXEL)
    world = np.asarray(finer.to_world(np.moveaxis(np.indices(finer.shape), 0, -1).astype(float)))
    index = np.moveaxis(np.asarray(grid.to_index(world)), -1, 0)
    moved = [ndimage.map_coordinates(displacement[..., axis], index, order=1, mode="nearest") for axis in range(3)]
    # The tissue that is now at x came from x - u.
    index = np.moveaxis(np.asarray(healthy.grid.to_index(world - np.stack(moved, axis=-1))), -1, 0)
    data = ndimage.map_coordinates(np.asarray(healthy.data), index, order=1)
    return Volume(data.astype(np.float32), np.asarray(finer.affine), name="T1")


def problem_of(one: Displaced, *, seen: str = "density", fluid: bool = True) -> Problem:
    """Return the inverse problem of a case, whose images show the density or its outlines, and the fluid.

    Of outlines the thresholds and the sharpness are unknown, as they are of a real patient. The density is observed
    with a known scale, as in the paper.
    """
    # The model is the one by which the tumour grew, so that it has no error of its own.
    problem = patient_problem(one.patient, one.model, MultiAtlas(), errors=READERS)
    observations = {name: each for name, each in problem.observations.items() if fluid or name != "fluid"}
    unknown = {name: problem.prior.distributions.observations[name] for name in observations}
    tumour = one.patient.core_fraction > 0.5
    # Where there was tissue, or is.
    valid = np.asarray(one.patient.anatomy.tissue) | (one.density > 0.01)
    if seen == "density":
        tumour = one.density > 0.5
        for name in THRESHOLDS:
            del observations[name], unknown[name]
        observations["pet"] = Pet(one.density, valid, effective_voxels=1e4)
        unknown["pet"] = PetParams(1.0, _NOISE)
    grid = problem.anatomy.grid
    candidates = GaussianBasis.from_outline(tumour & valid, grid, spacing=2 * float(grid.spacing[0]), width=WIDTH)
    growth = ScaledGrowthParams(LogNormal(7.0, 0.7), LogNormal(3.5, 0.35), candidates, float(scaled(one).speed))
    prior = Prior(Parameters(MassEffectParams(growth, Uniform(0.0, 2e5)), unknown))
    return Problem(one.model, problem.anatomy, observations, prior)


def scaled(one: Displaced) -> ScaledGrowthParams:
    """Return the true growth by its identifiable parameters."""
    growth = one.truth.growth
    return growth.scaled() if isinstance(growth, GrowthParams) else growth
