"""Starting points of a calibration: guesses from the geometry of the outlines, or points of the prior."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.special import ndtri

from tumorjax.anatomy import Anatomy
from tumorjax.calibration.foci import centre_and_radius, core_and_lesion, foci_of, lag
from tumorjax.calibration.problem import Parameters, Problem
from tumorjax.growth import AbstractOrigin, Foci, ScaledGrowthParams
from tumorjax.growth.parameters import PUBLISHED_SPEED
from tumorjax.observation import AbstractObservation, Outline, OutlineParams, Pet, PetParams, upper_uptake

# Middles of the published intervals.
_CORE_THRESHOLD, _LESION_THRESHOLD, _SHARPNESS = 0.675, 0.275, 2.0
# Distance between the isolines at these, in units of the width of a front, which is 2 mm (mu1 / mu2) at the middle of
# the default prior.
_APART, _WIDTH = 3.5, 2.0
# Speeds of growth with which a search begins are within this factor of the published one.
_RANGE = 8.0
FARTHEST = 3.0
"""Largest distance of a start from the prior's middle, in the prior's standard deviations, along each coordinate."""


def starting_points(problem: Problem, count: int) -> list[np.ndarray]:
    """Return up to `count` starts in the prior's coordinates, within three of its standard deviations.

    They come from the geometry of the outlines if there is an outline of the core and the growth has the parameters
    that the geometry determines; otherwise from the prior.
    """
    growth = problem.prior.distributions.growth
    known = hasattr(growth, "like") and growth.like(ScaledGrowthParams(1.0, 1.0, np.zeros(3))) is not None
    known &= core_and_lesion(_first(problem)) is not None
    # Seeds of a user's own need not be those of the core's parts.
    if known and _foci(problem) is not None:
        starts = geometric_starts(problem, count)
        return [into_the_prior(np.asarray(problem.prior.unconstrain(start), float)) for start in starts]
    return prior_points(problem.prior.size, count)


def prior_points(size: int, count: int) -> list[np.ndarray]:
    """Return the middle of the prior, and evenly spread points with half of its standard deviations."""
    # It takes a second to import.
    from scipy.stats import qmc

    # Sobol's sequence begins in the corner of the box, and goes on with the middle.
    spread = qmc.Sobol(size, scramble=False).random_base2(int(np.ceil(np.log2(count + 1))))[2 : count + 1]
    return [np.zeros(size), *(0.5 * ndtri(spread))]


def geometric_starts(problem: Problem, count: int) -> list[Parameters]:
    """Return up to `count` starts from the outlines of the core and, where it is known, of the whole lesion.

    The front of a Fisher-Kolmogorov tumour is c = (1 + exp(x / (sqrt(6) lambda)))^-2 with
    lambda = sqrt(D / rho) = mu1 / mu2 (Ablowitz and Zeppetella 1979), so the distance between two isolines is
    3.5 lambda for the middle thresholds; and its radius is about 0.7 v T = 1.4 mu1 mu2 while it is small. The
    radii of the outlines' volumes then give mu1 and mu2. The origins are the centres of the core and of the
    lesion, then the places deepest inside the core and farthest from those before. Where the prior has a seed for each
    part of the core, these are the centres and places of each, and mu1 and mu2 those of the largest. Where the core
    alone is outlined, nothing shows the width of the front, which is that of the middle of the default prior.

    Raises
    ------
    ValueError
        If the problem has no outline of the core, or a prior of several seeds and a core of fewer parts.
    """
    if core_and_lesion(_first(problem)) is None:
        raise ValueError("starts from the geometry need the outline of the core; give starts of your own")
    foci = _foci(problem)
    if foci is None:
        raise ValueError("starts from the geometry need a part of the core for each seed; give starts of your own")
    begun = [_start(problem.anatomy, core, lesion, count) for core, lesion in foci]
    (length, mu2, first), wanted = begun[0][:3], problem.prior.distributions.growth
    shares = np.array([lag(mu2, radius, first) for _, _, radius, _ in begun[1:]])
    middle = problem.prior.constrain(jnp.zeros(problem.prior.size, problem.dtype))
    observed, starts = observation_starts(problem), []
    speed = _speed(problem)
    for origins in zip(*(places for *_, places in begun), strict=True):
        origin = Foci(np.stack(origins), shares) if len(begun) > 1 else origins[0]
        growth = ScaledGrowthParams(length * mu2, mu2, origin, speed)
        starts.append(Parameters(wanted.like(growth), observed, middle.treatments))
    return starts


def _foci(problem: Problem) -> list[tuple[Any, Any]] | None:
    """Return the core of each seed of the prior and its lesion, None if it has no outline.

    The answer is None where the prior has other seeds than the core parts.
    """
    observations = _first(problem)
    core, lesion = observations["core"], observations.get("lesion")
    origin = problem.prior.distributions.growth.origin
    # A state at time zero that an image gives, or of which Gaussians are unknown, is no seed.
    if isinstance(origin, AbstractOrigin):
        return None
    if not isinstance(origin, Foci):
        return [(core.image, None if lesion is None else lesion.image)]
    parts, seeds = (
        foci_of(observations, problem.anatomy.grid),
        getattr(origin.points, "shape", np.shape(origin.points)),
    )
    if len(parts) < 2 or seeds != (len(parts), 3):
        return None
    return [(part.core, None if lesion is None else part.lesion) for part in parts]


def _first(problem: Problem) -> Mapping[str, AbstractObservation]:
    """Return what the first visit shows: the duration of the growth is the time from the seed to it."""
    return problem.visits[0].observations


def _speed(problem: Problem) -> float:
    """Return the speed of growth, mm/day: of the radius of the lesion from the first visit to the last, if known.

    Where one of them lacks it, the core serves. Where treatments come between, or an outline is missing, the published
    speed is the guess. So it is bounded.
    """
    ends = [problem.visits[i].observations for i in (0, -1)]
    pairs = [[seen[name] for seen in ends if name in seen] for name in ("lesion", "core")]
    known = [pair for pair in pairs if len(pair) == 2 and all(isinstance(o, Outline) for o in pair)]
    if problem.calendar is None or problem.treatments or not known:
        return PUBLISHED_SPEED
    radii = [centre_and_radius(problem.anatomy, o.image)[1] for o in known[0]]
    found = (radii[-1] - radii[0]) / max(float(problem.calendar.span), 1e-6)
    return float(np.clip(found, PUBLISHED_SPEED / _RANGE, PUBLISHED_SPEED * _RANGE))


def _start(anatomy: Anatomy, core: Any, lesion: Any, count: int) -> tuple[float, float, float, list[np.ndarray]]:
    """Return sqrt(D / rho), mm, mu2, the radius of a lesion, mm, and origins in its core."""
    centre, core_radius = centre_and_radius(anatomy, core)
    centres, radius = [centre], core_radius + _APART * _WIDTH
    if lesion is not None:
        lesion_centre, radius = centre_and_radius(anatomy, lesion)
        centres.append(lesion_centre)
    # An oedema thinner than a voxel still has a front; one as wide as the lesion is no front.
    gap = float(np.clip(radius - core_radius, 0.08 * radius, 0.5 * radius))
    length = gap / _APART
    mu2 = float(np.sqrt(radius / (1.4 * length)))
    return length, mu2, radius, _origins(anatomy, core, centres, count)


def into_the_prior(z: np.ndarray) -> np.ndarray:
    """Return the coordinates of a start, moved to where the prior has its mass: a narrow prior may exclude a guess."""
    return np.clip(np.nan_to_num(z, nan=0.0, posinf=FARTHEST, neginf=-FARTHEST), -FARTHEST, FARTHEST)


def _origins(anatomy: Anatomy, core: Any, centres: list[np.ndarray], count: int) -> list[np.ndarray]:
    inside = (np.asarray(core) > 0.5) & np.asarray(anatomy.tissue)
    if not inside.any():
        inside = (np.asarray(core) > 0) & np.asarray(anatomy.tissue)
    voxels = np.argwhere(inside)
    world = np.asarray(anatomy.grid.to_world(voxels.astype(float)))
    padded = np.asarray(distance_transform_edt(np.pad(inside, 1), sampling=np.asarray(anatomy.grid.spacing)))
    depth = padded[1:-1, 1:-1, 1:-1][inside]
    # A centre may lie in a ventricle; the nearest tissue of the core serves.
    origins = [world[np.argmin(np.sum((world - c) ** 2, axis=1))] for c in centres]
    while len(origins) < count:
        away = np.min([np.linalg.norm(world - o, axis=1) for o in origins], axis=0)
        origins.append(world[np.argmax(np.minimum(depth, away / 2))])
    return origins[:count]


def observation_starts(
    problem: Problem, thresholds: tuple[float, float] = (_CORE_THRESHOLD, _LESION_THRESHOLD)
) -> dict[str, Any]:
    """Return starting values for the parameters of the observations: thresholds of outlines, signal of PET.

    Those of core and lesion are given, as far as they are outlined. The parameters of any other observation start
    in the middle of the prior.
    """
    prior = problem.prior
    starts = dict(prior.constrain(jnp.zeros(prior.size, problem.dtype)).observations)
    given = zip(("core", "lesion"), thresholds, strict=True)
    starts |= {name: OutlineParams(threshold, _SHARPNESS) for name, threshold in given if name in starts}
    for visit in problem.visits[::-1]:
        for name, observation in visit.observations.items():
            if isinstance(observation, Pet):
                top = upper_uptake(observation, visit.observations, problem.anatomy.grid)
                starts[name] = PetParams(top, top / 4)
    return starts
