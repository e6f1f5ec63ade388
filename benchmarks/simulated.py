"""Patients drawn from a prior and the likelihood, for which a correct posterior must be calibrated."""

from dataclasses import dataclass

import jax
import numpy as np
from scipy import ndimage
from scipy.special import ndtr

from tumorjax import (
    Anatomy,
    FisherKolmogorov,
    LogNormal,
    Normal,
    Outline,
    OutlineParams,
    Parameters,
    Prior,
    Problem,
    ScaledGrowthParams,
    Uniform,
    simulate,
)
from tumorjax.atlas import load_atlas

# World coordinates (mm) around which seeds lie: the middle of the left hemisphere's white matter.
_MIDDLE, _SPREAD, _REACH = np.array([-28.0, -20.0, 28.0]), 5.0, 50.0
_ERRORS = {"false_positive": 0.02, "false_negative": 0.05}


@dataclass(frozen=True, eq=False)
class Simulated:
    """A patient whose truth `z`, in the coordinates of the problem's prior, was drawn from that prior."""

    problem: Problem
    z: np.ndarray


def brain(spacing: int) -> Anatomy:
    """Return the tissue of ICBM152 on voxels of `spacing` mm, float32, in a box of 10 cm around the seeds.

    The box is used both for simulating the data and for calibration, so its walls cause no error.
    """
    anatomy = load_atlas("icbm152").anatomy().coarsen(spacing)
    anatomy = anatomy.crop(*anatomy.box())
    shape = np.asarray(anatomy.grid.shape)
    corners = [np.round(anatomy.grid.to_index(_MIDDLE + side * _REACH)).astype(int) for side in (-1, 1)]
    first, last = np.clip(np.sort(corners, axis=0), 0, shape)
    return anatomy.crop(tuple(first.tolist()), tuple((last - first).tolist()))


def prior() -> Prior:
    """Return the prior of the simulated patients; narrow enough that most lesions have a clinical size."""
    growth = ScaledGrowthParams(LogNormal(7.0, 0.2), LogNormal(3.3, 0.08), Normal(_MIDDLE, np.full(3, _SPREAD)))
    outlines = {
        "core": OutlineParams(Uniform(0.5, 0.85), LogNormal(3.0, 0.3)),
        "lesion": OutlineParams(Uniform(0.05, 0.5), LogNormal(3.0, 0.3)),
    }
    return Prior(Parameters(growth, outlines))


def simulated(anatomy: Anatomy, seed: int, *, correlation: float = 0.0, worth: float = np.inf) -> Simulated:
    """Draw a patient.

    Parameters
    ----------
    anatomy
        The anatomy of the patient.
    seed
        Seed of the random numbers.
    correlation
        Correlation length of the errors of the outlines, mm; zero labels every voxel independently.
    worth
        Number of effective voxels of the inside of an outline in the likelihood; infinity counts every voxel.
    """
    random = np.random.default_rng(seed)
    model, distribution = FisherKolmogorov(), prior()
    tissue = np.asarray(anatomy.tissue)
    while True:
        z = random.normal(size=distribution.size)
        params: Parameters = distribution.constrain(jax.numpy.asarray(z, anatomy.dtype))
        density = simulate(model, params.growth, anatomy).density
        outlines = {}
        # Any outline: it has the probabilities of all.
        outline = Outline(tissue.astype(np.float32), tissue, **_ERRORS)
        for name in ("core", "lesion"):
            probability = np.asarray(outline.probability(density, params.observations[name]))
            label = (_uniform(random, anatomy, correlation) < probability) & tissue
            outlines[name] = label.astype(np.float32)
        # A patient without any visible tumour is discarded.
        if all(label.any() for label in outlines.values()):
            break
    observations = {name: Outline(label, tissue, effective_voxels=worth, **_ERRORS) for name, label in outlines.items()}
    return Simulated(Problem(model, anatomy, observations, distribution), z)


def _uniform(random: np.random.Generator, anatomy: Anatomy, correlation: float) -> np.ndarray:
    """Return uniform numbers in (0, 1) at every voxel, whose normal quantiles are correlated as a Gaussian."""
    noise = random.normal(size=anatomy.grid.shape)
    if correlation > 0:
        # White noise through a kernel is correlated over sqrt(2) times the kernel's width.
        width = correlation / np.sqrt(2) / np.asarray(anatomy.grid.spacing)
        noise = ndimage.gaussian_filter(noise, width, mode="wrap")
        noise /= noise.std()
    return ndtr(noise)
