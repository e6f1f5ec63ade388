"""Patients drawn from a prior, by the fitted model and its likelihood or by others, to see whether posteriors hold."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import numpy as np
from scipy import ndimage

from benchmarks.suite import pushed
from tumorjax import (
    Anatomy,
    FisherKolmogorov,
    LogNormal,
    MassEffect,
    MassEffectParams,
    Normal,
    Outline,
    OutlineParams,
    Parameters,
    Prior,
    Problem,
    Result,
    ScaledGrowthParams,
    Solution,
    SurfaceErrors,
    Uniform,
    simulate,
)
from tumorjax.atlas import load_atlas

# World coordinates (mm) around which seeds lie: the middle of the left hemisphere's white matter.
_MIDDLE, _SPREAD, _REACH = np.array([-28.0, -20.0, 28.0]), 5.0, 50.0
_ERRORS = {"false_positive": 0.02, "false_negative": 0.05}
# Of tumours that the fitted model does not know: mass effect (Pa), diffusion along fibres over that across and length
# (mm) over which fibres turn, and deviation of the threshold's log-odds and length (mm) over which it varies.
_PUSHING = (3e4, 9e4)
_RATIO, _TURNING = 3.0, 15.0
_VARYING, _OVER = 1.0, 20.0
# Log-odds a mm: at the border of tissue the density falls more steeply than a front.
_STEEPEST = 1.5

WRONG = ("pushing", "fibres", "threshold")
"""Kinds of patients that the fitted model does not know."""


@dataclass(frozen=True, eq=False)
class Simulated:
    """A patient whose truth `z`, in the coordinates of the problem's prior, was drawn from that prior.

    The sharpness has no true value where labels were not drawn from the likelihood.
    """

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


def prior(sharpness: float = 0.3) -> Prior:
    """Return the prior of the simulated patients; narrow enough that most lesions have a clinical size.

    Parameters
    ----------
    sharpness
        Standard deviation of its logarithm; that of the default prior is 0.7.
    """
    growth = ScaledGrowthParams(LogNormal(7.0, 0.2), LogNormal(3.3, 0.08), Normal(_MIDDLE, np.full(3, _SPREAD)))
    outlines = {
        "core": OutlineParams(Uniform(0.5, 0.85), LogNormal(3.0, sharpness)),
        "lesion": OutlineParams(Uniform(0.05, 0.5), LogNormal(3.0, sharpness)),
    }
    return Prior(Parameters(growth, outlines))


def simulated(anatomy: Anatomy, seed: int, kind: str = "own", errors: SurfaceErrors | None = None) -> Simulated:
    """Draw a patient.

    Parameters
    ----------
    anatomy
        The brain in which the tumour grows. Where it pushes, the fitted model sees the tissue as it lies afterwards.
    seed
        Seed of the random numbers.
    kind
        "own": the labels of voxels are drawn from the likelihood, each independent of the others. All others have
        outlines whose surfaces are displaced by a reader, as `SurfaceErrors()`. "correlated" has no other error,
        "pushing" mass effect, "fibres" diffusion along fibres, and "threshold" an outline whose threshold varies.
    errors
        What the fitted likelihood assumes of the outlines; None counts every voxel as independent.
    """
    random = np.random.default_rng(seed)
    truth = prior()
    while True:
        z = random.normal(size=truth.size)
        params: Parameters = truth.constrain(jax.numpy.asarray(z, anatomy.dtype))
        grown = _GROWN.get(kind, _growing)(params.growth, anatomy, random)
        if grown is None:
            continue
        density, seen, origin = grown
        place = [truth.names.index(f"growth.origin[{axis}]") for axis in range(3)]
        z[place] = (origin - _MIDDLE) / _SPREAD
        tissue = np.asarray(seen.tissue)
        outlines = {
            name: _labels(kind, density, each, seen, random) & tissue for name, each in params.observations.items()
        }
        # A patient without any visible tumour is discarded.
        if all(label.any() for label in outlines.values()):
            break
    worth = {} if errors is not None else {"effective_voxels": np.asarray(np.inf)}
    settings = {**_ERRORS, **worth, "errors": errors or SurfaceErrors()}
    observations = {name: Outline(label.astype(np.float32), tissue, **settings) for name, label in outlines.items()}
    # The width of the border is that of the displacements, and says nothing of the sharpness.
    fitted = truth if kind == "own" else prior(sharpness=0.7)
    return Simulated(Problem(FisherKolmogorov(), seen, observations, fitted), z)


Grown = tuple[np.ndarray, Anatomy, np.ndarray]
"""A density, the tissue that the fitted model sees, and where the origin lies in it, mm."""


def _growing(growth: ScaledGrowthParams, anatomy: Anatomy, random: np.random.Generator) -> Grown:
    """Return a tumour of the fitted model."""
    density = np.asarray(simulate(FisherKolmogorov(), growth, anatomy).density)
    return density, anatomy, np.asarray(growth.origin, float)


def _pushing(growth: ScaledGrowthParams, anatomy: Anatomy, random: np.random.Generator) -> Grown | None:
    """Return a tumour with mass effect; None where it flows too fast to follow."""
    params = MassEffectParams(growth, np.asarray(random.uniform(*_PUSHING), np.float32))
    solution: Solution = simulate(MassEffect(), params, anatomy, throw=False)
    if solution.result != Result.SUCCESS:
        return None
    assert solution.anatomy is not None and solution.displacement is not None
    origin = pushed(np.asarray(growth.origin, float)[None], np.asarray(solution.displacement), anatomy.grid)[0]
    return np.asarray(solution.density), solution.anatomy, origin


def _along_fibres(growth: ScaledGrowthParams, anatomy: Anatomy, random: np.random.Generator) -> Grown:
    """Return a tumour that grows along fibres of white matter, whose directions are random and smooth."""
    directions = np.stack([_smooth(random, anatomy, _TURNING) for _ in range(3)], axis=-1)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    across = 3 / (_RATIO + 2)
    pairs = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
    products = np.stack([directions[..., i] * directions[..., j] for i, j in pairs], axis=-1)
    identity = np.array([i == j for i, j in pairs], float)
    white = np.asarray(anatomy.white_matter)[..., None]
    tensors = identity + white * ((across - 1) * identity + (_RATIO - 1) * across * products)
    density, _, origin = _growing(growth, replace(anatomy, fibres=tensors.astype(np.float32)), random)
    return density, anatomy, origin


_GROWN: dict[str, Callable[..., Grown | None]] = {"pushing": _pushing, "fibres": _along_fibres}


def _labels(
    kind: str, density: np.ndarray, params: OutlineParams, anatomy: Anatomy, random: np.random.Generator
) -> np.ndarray:
    """Return an outline of the density."""
    if kind == "own":
        tissue = np.asarray(anatomy.tissue)
        # Any outline: it has the probabilities of all.
        outline = Outline(tissue.astype(np.float32), tissue, **_ERRORS)
        return random.uniform(size=density.shape) < np.asarray(outline.probability(density, params))
    clipped = np.clip(density, 1e-12, 1 - 1e-6)
    odds = np.log(clipped / (1 - clipped))
    slope = np.sqrt(sum(part**2 for part in np.gradient(odds, *np.asarray(anatomy.grid.spacing, float))))
    errors = SurfaceErrors()
    moved = errors.deviation * np.minimum(slope, _STEEPEST) * _smooth(random, anatomy, errors.length)
    if kind == "threshold":
        moved = moved + _VARYING * _smooth(random, anatomy, _OVER)
    return odds + moved > np.log(params.threshold / (1 - params.threshold))


def _smooth(random: np.random.Generator, anatomy: Anatomy, length: float) -> np.ndarray:
    """Return Gaussian noise of variance one at every voxel, correlated as exp(-d^2 / (2 length^2))."""
    # White noise through a kernel is correlated over sqrt(2) times the kernel's width.
    width = length / np.sqrt(2) / np.asarray(anatomy.grid.spacing)
    noise = ndimage.gaussian_filter(random.normal(size=anatomy.grid.shape), width, mode="wrap")
    return noise / noise.std()
