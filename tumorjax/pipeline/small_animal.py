"""Tumours in small animals: a synthetic rat with its outlines, and predictions of how large they become."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tumorjax.anatomy import Anatomy
from tumorjax.calibration import Parameters, Problem
from tumorjax.cellularity import LinearAdcLaw
from tumorjax.grid import Grid
from tumorjax.growth import FisherKolmogorov, GrowthParams, InitialDensity
from tumorjax.integrate import each, simulate
from tumorjax.methods.sampling.posterior import Posterior
from tumorjax.observation import Outline, OutlineParams
from tumorjax.prior import Prior, Uniform

# Edges of the brain, mm.
_BRAIN = (15.0, 20.0, 12.0)
# Where cells were implanted, mm: in white matter of the right hemisphere.
_SEED = np.array([3.0, 1.5, 2.8])
# Truth of the paper: mm^2/day, 1/day, thresholds of T1 and T2; D_w = 10 D_g is the model's default.
_DIFFUSIVITY, _PROLIFERATION, _THRESHOLDS = 0.02, 0.6, (0.7, 0.25)
# Of the outlines in the likelihood; the truth's isolines are drawn through the same link.
_SHARPNESS = 4.0
_ERRORS: dict[str, Any] = {"false_positive": 0.002, "false_negative": 0.02, "effective_voxels": math.inf}
# Water's ADC, mm^2/s, and that of tissue full of cells.
_WATER, _DENSE = 2.5e-3, 0.6e-3


def rat_brain(spacing: float = 0.6) -> Anatomy:
    """Return a synthetic rat's brain, 15 x 20 x 12 mm: cortex, tracts of white matter, ventricles; float32.

    Ellipsoids and tubes with smooth borders, no real animal's. White matter is a sheet under the cortex (the corpus
    callosum with the external capsules) and two tracts from front to back; the lateral ventricles lie below it.
    """
    half = np.asarray(_BRAIN) / 2
    shape = np.ceil(2 * (half + spacing / 2) / spacing).astype(int)
    grid = Grid.from_spacing((int(shape[0]), int(shape[1]), int(shape[2])), spacing)
    world = np.asarray(grid.to_world(np.moveaxis(np.indices(grid.shape).astype(float), 0, -1)))
    x, y, z = np.moveaxis(world, -1, 0)

    def inside(distance: np.ndarray) -> np.ndarray:
        # Half a voxel of partial volume.
        return 1 / (1 + np.exp(distance / (0.25 * spacing)))

    def ellipsoid(centre: Sequence[float], axes: Sequence[float]) -> np.ndarray:
        return (np.linalg.norm((world - centre) / axes, axis=-1) - 1) * min(axes)

    brain = inside(ellipsoid((0, 0, 0), half.tolist()))
    shell = np.linalg.norm(world / (half * (0.72, 0.8, 0.66)), axis=-1)
    sheet = inside(np.abs(shell - 1) * 4.5 - 0.7) * inside(-(z - 0.2))
    tracts = np.max([inside(np.hypot(x - side * 2.6, z + 1.4 + 0.05 * y) - 0.9) for side in (-1, 1)], axis=0)
    tracts = tracts * inside(np.abs(y) - 6.5)
    ventricles = np.max([inside(ellipsoid((side * 1.6, -0.8, 1.3), (0.55, 3.2, 0.9))) for side in (-1, 1)], axis=0)
    csf = 1 - brain * (1 - ventricles)
    white = np.maximum(sheet, tracts) * (1 - csf)
    return Anatomy(grid, *(part.astype(np.float32) for part in (white, 1 - csf - white, csf)))


@dataclass(frozen=True, eq=False)
class Rat:
    """A synthetic rat with a tumour whose truth is known.

    Parameters
    ----------
    problem
        Its outlines, "core" on T1 and "lesion" on T2, and what is unknown: diffusivity, proliferation and both
        thresholds.
    truth
        The true parameters.
    z
        The same in the prior's coordinates.
    day
        Of the outlines.
    begun
        Day on which the problem's growth begins.
    """

    problem: Problem
    truth: Parameters
    z: np.ndarray
    day: float
    begun: float


def synthetic_rat(
    seed: int = 0,
    *,
    start: Literal["seed", "image"] = "seed",
    day: float | None = None,
    drawn: bool = False,
    spacing: float = 0.6,
) -> Rat:
    """Return a rat whose tumour is seen once; the set-up of the paper on a synthetic brain.

    Parameters
    ----------
    seed
        Of the labels' noise and of the parameters, if they are drawn.
    start
        "seed": cells implanted on day 0 at a known place; outlined on day 9. "image": begins at the density read off
        the apparent diffusion coefficient within the T2 outline of day 9, with 5 % of noise; outlined on day 11.
    day
        Another day of the outlines.
    drawn
        Draw the truth from the prior instead of taking that of the paper: D_w 0.02 mm^2/day, rho 0.6 /day, thresholds
        0.7 and 0.25.
    spacing
        Edge of the voxels, mm.

    References
    ----------
    I. Ezhov et al., "Neural parameters estimation for brain tumor growth modeling", MICCAI 2019, section 3.
    """
    if start not in ("seed", "image"):
        raise ValueError(f"start must be 'seed' or 'image', got {start!r}")
    begun = 0.0 if start == "seed" else 9.0
    day = begun + (9.0 if start == "seed" else 2.0) if day is None else day
    if not day > begun:
        raise ValueError(f"outlines come after the growth begins on day {begun:g}, got day {day:g}")
    random = np.random.default_rng(seed)
    anatomy = rat_brain(spacing)
    model = FisherKolmogorov(seed_mass=0.3, seed_width=0.6)
    while True:
        numbers = (_DIFFUSIVITY, _PROLIFERATION, *_THRESHOLDS)
        if drawn:
            sides = ((0.005, 0.06), (0.3, 0.9), (0.5, 0.85), (0.05, 0.5))
            numbers = tuple(random.uniform(*side) for side in sides)
        diffusivity, proliferation, *thresholds = numbers
        origin = _SEED.astype(np.float32)
        if start == "image":
            grown = GrowthParams(diffusivity, proliferation, origin, begun)
            origin = _from_image(random, simulate(model, grown, anatomy).density, thresholds[1], anatomy)
        prior = Prior(
            Parameters(
                GrowthParams(Uniform(0.005, 0.06), Uniform(0.3, 0.9), origin, day - begun),
                {
                    "core": OutlineParams(Uniform(0.5, 0.85), _SHARPNESS),
                    "lesion": OutlineParams(Uniform(0.05, 0.5), _SHARPNESS),
                },
            )
        )
        growth = GrowthParams(diffusivity, proliferation, origin, day - begun)
        shown = {name: OutlineParams(u, _SHARPNESS) for name, u in zip(("core", "lesion"), thresholds, strict=True)}
        truth = Parameters(growth, shown)
        density = simulate(model, growth, anatomy).density
        tissue = np.asarray(anatomy.tissue)
        outlines = {}
        for name, params in truth.observations.items():
            # Any outline: its likelihood draws the labels.
            asked = Outline(inside=tissue.astype(np.float32), valid=tissue, **_ERRORS)
            quantile = jnp.asarray(random.uniform(size=density.shape), density.dtype)
            labels = asked.drawn(asked.probability(density, params), params, quantile)
            outlines[name] = np.asarray(labels) * tissue
        # What shows nothing at all is no tumour.
        if all(outline.any() for outline in outlines.values()):
            break
    observations = {
        name: Outline(inside=outline.astype(np.float32), valid=tissue, **_ERRORS) for name, outline in outlines.items()
    }
    problem = Problem(model, anatomy, observations, prior)
    z = np.asarray(prior.unconstrain(jax.tree.map(jnp.asarray, truth)), float)
    return Rat(problem, truth, z, day, begun)


class Forecast(NamedTuple):
    """Volumes that draws from a posterior predict.

    Parameters
    ----------
    days
        (t,).
    mean
        (t, o), mm^3: for core and lesion the mean volume of the density above its threshold, which is each draw's own.
    low, high
        (t, o), mm^3: ends of the central 90 % interval.
    """

    days: Float[np.ndarray, "t"]
    mean: Float[np.ndarray, "t o"]
    low: Float[np.ndarray, "t o"]
    high: Float[np.ndarray, "t o"]


def forecast(
    problem: Problem, posterior: Posterior, days: Sequence[float], *, begun: float = 0.0, count: int = 100
) -> Forecast:
    """Return how large the outlines become.

    Parameters
    ----------
    problem
        That was calibrated; its growth has a known duration.
    posterior
        What a sampler returned.
    days
        On which to tell; growth begins on day `begun`.
    count
        Draws that are followed, by their weights.
    """
    weights = np.exp(np.asarray(posterior.log_weights, float))
    flat = np.asarray(posterior.draws, float).reshape(len(weights), -1)
    places = (0.5 + np.arange(count)) / count
    chosen = np.minimum(np.searchsorted(np.cumsum(weights) / weights.sum(), places), len(weights) - 1)
    elapsed = np.asarray(days, float) - begun
    points = np.repeat(flat[chosen], len(elapsed), axis=0).astype(problem.anatomy.dtype)
    times = np.tile(elapsed, count).astype(problem.anatomy.dtype)
    found = each(_volumes, problem, (points, times)).reshape(count, len(elapsed), -1).astype(float)
    low, high = np.quantile(found, (0.05, 0.95), axis=0)
    return Forecast(np.asarray(days, float), found.mean(axis=0), low, high)


def true_volumes(rat: Rat, days: Sequence[float]) -> Float[np.ndarray, "t o"]:
    """Return the volumes that the true parameters lead to, mm^3."""
    dtype = rat.problem.anatomy.dtype
    points = np.repeat(rat.z[None], len(days), axis=0).astype(dtype)
    return each(_volumes, rat.problem, (points, (np.asarray(days) - rat.begun).astype(dtype))).astype(float)


def _volumes(problem: Problem, point: tuple[Array, Array]) -> Float[Array, "o"]:
    params = problem.prior.constrain(point[0])
    growth = eqx.tree_at(lambda g: g.duration, params.growth, point[1])
    density = problem.density(Parameters(growth, params.observations))
    voxel = jnp.asarray(problem.anatomy.grid.voxel_volume, density.dtype)
    thresholds = (params.observations[name].threshold for name in ("core", "lesion"))
    counts = [jnp.sum((density > threshold).astype(density.dtype)) for threshold in thresholds]
    return voxel * jnp.stack(counts)


def _from_image(
    random: np.random.Generator, density: Float[Array, "x y z"], threshold: float, anatomy: Anatomy
) -> InitialDensity:
    """Return the density that a noisy map of the apparent diffusion coefficient gives within the outline."""
    outline = np.asarray(density) > threshold
    adc = _WATER - (_WATER - _DENSE) * np.asarray(density, float)
    adc *= 1 + 0.05 * random.normal(size=adc.shape)
    found = InitialDensity.from_adc(np.clip(adc, 0.5 * _DENSE, None), outline, law=LinearAdcLaw(_WATER), least=_DENSE)
    return InitialDensity(np.asarray(found.density, anatomy.dtype))
