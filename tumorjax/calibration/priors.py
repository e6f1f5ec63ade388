"""Priors for one patient: the default, of what a scan can tell, and that of the published model of 11 parameters."""

import dataclasses
import math
from typing import Literal

import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.calibration.foci import foci_of
from tumorjax.calibration.problem import Parameters, as_tuple, centre_and_radius
from tumorjax.calibration.uptake import upper_uptake
from tumorjax.growth import Foci, GaussianBasis, GrowthParams, MassEffectParams, ScaledGrowthParams
from tumorjax.growth.parameters import PUBLISHED_SPEED
from tumorjax.observation import (
    AbstractObservation,
    DoubleSigmoid,
    FluidMap,
    FluidMapParams,
    Outline,
    OutlineParams,
    Pet,
    PetParams,
)
from tumorjax.prior import LogNormal, Normal, Prior, Reciprocal, SameAs, Uniform

# D_w, mm^2/day; rho, 1/day; T, day.
_BOXES = {
    "paper": ((0.01, 0.08), (0.0001, 0.03), (30.0, 1000.0)),
    "code": ((0.02, 1.3), (0.0027, 0.19), (30.0, 1000.0)),
}
# Of the logarithm of a further seed's share: a focus of half the radius began when the first had e^6 times its cells.
_LAG = 3.0


def default_prior(
    anatomy: Anatomy,
    observations: tuple[AbstractObservation, ...],
    *,
    speed: float = PUBLISHED_SPEED,
    candidates: GaussianBasis | None = None,
    several: bool = True,
) -> Prior:
    """Return the prior for one patient, whose first observations are the core and the whole lesion.

    mu1 and mu2 are log-normal about the middle of the published boxes of D_w, rho and T. The origin is normal
    about the centre of the core, with half the lesion's equivalent radius as standard deviation; where the core has
    several parts that lie apart, the origin is `Foci`, with such a seed in each, and the shares of the further seeds
    are log-normal about one. Thresholds are
    uniform in the published intervals, 0.5 to 0.85 for the first outline (T1Gd) and 0.05 to 0.5 for the
    second (FLAIR); their sharpness is log-normal about 3. PET scale and noise are log-normal about the upper range of
    the signal in the lesion, above that of healthy tissue, and about a quarter of it.

    Parameters
    ----------
    anatomy
        Whose grid places the outlines.
    observations
        The core's `Outline`, the whole lesion's, and perhaps a `Pet`.
    speed
        v, mm/day: fixed, since one scan says nothing of it.
    candidates
        For growth with mass effect: the Gaussians of which the state at time zero may be made, instead of an origin.
        gamma is uniform up to 2e5 Pa, which holds the published values.
    several
        Whether a tumour may have several seeds; methods that know a single one need a prior of one.

    Raises
    ------
    ValueError
        If there are not two outlines, the first is larger than the second, or the PET signal is not positive in the
        lesion, or not near its background in healthy tissue.
    """
    outlines = _core_and_lesion(observations, "default")
    dtype = anatomy.dtype
    places = [(outlines[0].inside, outlines[1].inside)]
    foci = foci_of(observations, anatomy.grid) if several and candidates is None else []
    if len(foci) > 1:
        places = [(focus.core, focus.lesion) for focus in foci]
    centres = np.array([centre_and_radius(anatomy, core)[0] for core, _ in places], dtype)
    spreads = np.array([np.full(3, centre_and_radius(anatomy, lesion)[1] / 2) for _, lesion in places], dtype)
    if len(places) == 1:
        origin = Normal(centres[0], spreads[0])
    else:
        origin = Foci(Normal(centres, spreads), LogNormal(np.ones(len(places) - 1, dtype), _LAG))
    growth = ScaledGrowthParams(mu1=LogNormal(7.0, 0.7), mu2=LogNormal(3.5, 0.35), origin=origin, speed=speed)
    if candidates is not None:
        growth = MassEffectParams(dataclasses.replace(growth, origin=candidates), Uniform(0.0, 2e5))
    thresholds = iter((Uniform(0.5, 0.85), Uniform(0.05, 0.5)))
    unknown = []
    for observation in observations:
        if isinstance(observation, Outline):
            unknown.append(OutlineParams(next(thresholds), LogNormal(3.0, 0.7)))
        elif isinstance(observation, Pet):
            top = upper_uptake(observation, observations, anatomy.grid)
            unknown.append(PetParams(LogNormal(top, 0.5), LogNormal(top / 4, 0.7)))
        elif isinstance(observation, FluidMap):
            unknown.append(FluidMapParams(LogNormal(0.2, 0.5)))
    return Prior(Parameters(growth, tuple(unknown)))


def published_prior(
    anatomy: Anatomy,
    observations: tuple[AbstractObservation, ...],
    *,
    box: Literal["code", "paper"] = "code",
    identifiable: bool = False,
    speed: float = PUBLISHED_SPEED,
) -> Prior:
    """Return the prior of the published model of 11 parameters, for outlines of core and whole lesion, and PET.

    All are uniform. D_w, rho and T have the intervals of `box`. The seed is in the cube about the centre of the core
    (T1Gd) whose half edge is 1.1 times the radius of the ball of the core's volume. The thresholds are in 0.6 to 0.8
    (T1Gd) and 0.05 to 0.6 (FLAIR), and both outlines share one sigma_alpha, in 0.05 to 0.08, so that the sharpness of
    their `DoubleSigmoid`, 1 / sigma_alpha, is one coordinate. The scale b of PET is in 0.6 to 1.02 and its noise sigma
    in 0.01 to 0.25 of the largest signal, by which the papers divide the image.

    Parameters
    ----------
    anatomy
        Whose grid places the outlines.
    observations
        The core's `Outline`, the whole lesion's and one `Pet`, in any order of kinds: see `published_observations`.
    box
        "paper": D_w in 0.01 to 0.08 mm^2/day, rho in 0.0001 to 0.03 /day. "code": 0.02 to 1.3 and 0.0027 to 0.19, as
        the authors' code has it; the default, since the paper's own estimates are at 0.09 mm^2/day for four of five
        patients, outside its box. T is in 30 to 1000 days in both.
    identifiable
        One scan tells D_w, rho and T but for one number. True puts mu1 = sqrt(D_w T) and mu2 = sqrt(rho T) in their
        place, uniform between the least and the largest that the box has: another prior, for 10 parameters.
    speed
        v, mm/day: fixed where `identifiable`.

    Raises
    ------
    ValueError
        If there are not two outlines and one PET image, the outlines have another link than `DoubleSigmoid`, the
        first is larger than the second, no PET signal is positive, or that of healthy tissue is not near its
        background.

    References
    ----------
    Ezhov et al., "Geometry-aware neural solver for fast Bayesian calibration of brain tumor models", IEEE Trans. Med.
    Imaging 2022, table II; Lipkova et al., "Personalized radiotherapy design for glioblastoma", IEEE Trans. Med.
    Imaging 2019, whose public code has the cube of the seed. That code is uniform in the logarithms of all 11.
    """
    core, _ = _core_and_lesion(observations, "published")
    pets = [o for o in observations if isinstance(o, Pet)]
    if len(pets) != 1 or len(observations) != 3:
        got = ", ".join(type(o).__name__ for o in observations)
        raise ValueError(
            f"the published prior is for two outlines and one PET image, got {got}; "
            "give that image (`Pet`), or use default_prior, which does without it"
        )
    if not all(isinstance(o.link, DoubleSigmoid) for o in observations if isinstance(o, Outline)):
        raise ValueError(
            "the published prior has sigma_alpha, of outlines with link=DoubleSigmoid(); "
            "give it and the problem published_observations(observations)"
        )
    if box not in _BOXES:
        raise ValueError(f"box must be one of {sorted(_BOXES)}, got {box!r}")
    diffusivity, proliferation, duration = _BOXES[box]
    centre, radius = centre_and_radius(anatomy, core.inside)
    dtype = anatomy.dtype
    origin = Uniform((centre - 1.1 * radius).astype(dtype), (centre + 1.1 * radius).astype(dtype))
    if identifiable:
        mu1, mu2 = (
            Uniform(*(math.sqrt(rate * days) for rate, days in zip(rates, duration, strict=True)))
            for rates in (diffusivity, proliferation)
        )
        growth = ScaledGrowthParams(mu1, mu2, origin, speed)
    else:
        growth = GrowthParams(Uniform(*diffusivity), Uniform(*proliferation), origin, Uniform(*duration))
    unknown, first = [], None
    for i, observation in enumerate(observations):
        if isinstance(observation, Pet):
            top = upper_uptake(observation, observations, anatomy.grid, 100)
            unknown.append(PetParams(Uniform(0.6 * top, 1.02 * top), Uniform(0.01 * top, 0.25 * top)))
        elif first is None:
            first = f"observations[{i}].sharpness"
            unknown.append(OutlineParams(Uniform(0.6, 0.8), Reciprocal(Uniform(0.05, 0.08))))
        else:
            unknown.append(OutlineParams(Uniform(0.05, 0.6), SameAs(first)))
    return Prior(Parameters(growth, tuple(unknown)))


def published_observations(
    observations: tuple[AbstractObservation, ...], *, effective_voxels: float = math.inf
) -> tuple[AbstractObservation, ...]:
    """Return the same images with the likelihood of the papers.

    Outlines have the link `DoubleSigmoid` and labels without errors, and every voxel counts as independent of the
    others, which makes standard deviations far too small: see `independent_voxels` for other numbers of
    `effective_voxels`.
    """
    bernoulli = {"link": DoubleSigmoid(), "false_positive": 0.0, "false_negative": 0.0}
    return tuple(
        dataclasses.replace(o, effective_voxels=effective_voxels, **(bernoulli if isinstance(o, Outline) else {}))
        for o in observations
    )


def _core_and_lesion(observations: tuple[AbstractObservation, ...], prior: str) -> tuple[Outline, Outline]:
    """Return the outlines of core and whole lesion."""
    outlines = [o for o in as_tuple(observations) if isinstance(o, Outline)]
    if len(outlines) != 2:
        raise ValueError(
            f"the {prior} prior is for two outlines (core, then whole lesion), got {len(outlines)}; "
            "write a Prior for other observations"
        )
    core, lesion = outlines
    sizes = [float(np.sum(np.asarray(o.inside, float), where=np.asarray(o.valid))) for o in outlines]
    # The core's threshold is the higher one, so the model's core is never the larger.
    if sizes[0] > sizes[1]:
        raise ValueError(
            f"the {prior} prior excludes a core that is larger than the whole lesion: they have {sizes[0]:.0f} and "
            f"{sizes[1]:.0f} voxels in tissue; give the core's outline first, and a whole lesion that includes it"
        )
    return core, lesion
