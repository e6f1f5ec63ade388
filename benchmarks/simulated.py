"""Patients drawn from a prior and from the likelihood itself, for which a right posterior is calibrated."""

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

# World (mm) of seeds: about the middle of the left hemisphere's white matter, which is all that is simulated.
_MIDDLE, _SPREAD, _REACH = np.array([-28.0, -20.0, 28.0]), 5.0, 50.0
_ERRORS = {"false_positive": 0.02, "false_negative": 0.05}


@dataclass(frozen=True, eq=False)
class Simulated:
    """A patient whose truth `z`, in the coordinates of the problem's prior, was drawn from that prior."""

    problem: Problem
    z: np.ndarray


def brain(spacing: int) -> Anatomy:
    """Return the tissue of ICBM152 on voxels of `spacing` mm, float32, in a box of 10 cm about where tumours begin.

    The box is these patients' head: its walls are in their data as in what is calibrated on them.
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
    outlines = (
        OutlineParams(Uniform(0.5, 0.85), LogNormal(3.0, 0.3)),
        OutlineParams(Uniform(0.05, 0.5), LogNormal(3.0, 0.3)),
    )
    return Prior(Parameters(growth, outlines))


def simulated(anatomy: Anatomy, seed: int, *, correlation: float = 0.0, worth: float = np.inf) -> Simulated:
    """Draw a patient.

    Parameters
    ----------
    anatomy
        Where.
    seed
        Of the random numbers.
    correlation
        mm: length over which the errors of the outlines are correlated; zero labels every voxel by itself.
    worth
        Voxels as which the inside of an outline counts in the likelihood; infinity counts each.
    """
    random = np.random.default_rng(seed)
    model, distribution = FisherKolmogorov(), prior()
    tissue = np.asarray(anatomy.tissue)
    while True:
        z = random.normal(size=distribution.size)
        params: Parameters = distribution.constrain(jax.numpy.asarray(z, anatomy.dtype))
        density = simulate(model, params.growth, anatomy).density
        outlines = []
        for unknown in params.observations:
            # Any outline, to ask it for its probabilities.
            asked = Outline(tissue.astype(np.float32), tissue, **_ERRORS)
            probability = np.asarray(asked.probability(density, unknown))
            label = (_uniform(random, anatomy, correlation) < probability) & tissue
            outlines.append(label.astype(np.float32))
        # What shows nothing at all is no patient.
        if all(label.any() for label in outlines):
            break
    observations = tuple(Outline(label, tissue, effective_voxels=worth, **_ERRORS) for label in outlines)
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
