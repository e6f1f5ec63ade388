"""Priors for one patient: the default, of what a scan can tell, and that of the published model of 11 parameters."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.calibration.foci import centre_and_radius, core_and_lesion, foci_of
from tumorjax.calibration.problem import Parameters
from tumorjax.calibration.visit import Visit
from tumorjax.growth import (
    AbstractGrowth,
    FisherKolmogorov,
    Foci,
    GaussianBasis,
    GrowthParams,
    ScaledGrowthParams,
    Treatment,
)
from tumorjax.growth.parameters import PUBLISHED_SPEED
from tumorjax.observation import (
    AbstractObservation,
    DoubleSigmoid,
    Outline,
    OutlineParams,
    Pet,
    PetParams,
    upper_uptake,
)
from tumorjax.prior import AbstractDistribution, LogNormal, Normal, Prior, Reciprocal, SameAs, Uniform

_DEFAULT_MODEL = FisherKolmogorov()
# D_w, mm^2/day; rho, 1/day; T, day.
_BOXES = {
    "paper": ((0.01, 0.08), (0.0001, 0.03), (30.0, 1000.0)),
    "code": ((0.02, 1.3), (0.0027, 0.19), (30.0, 1000.0)),
}
# Of the logarithm of a further seed's share: a focus of half the radius began when the first had e^6 times its cells.
_LAG = 3.0
# It differs between patients by an order of magnitude.
UNKNOWN_SPEED = LogNormal(PUBLISHED_SPEED, 1.0)
"""v, mm/day: the speed of growth where nothing is known of it, about the published 200 mm/year by a factor of e."""


def default_prior(
    anatomy: Anatomy,
    observations: Mapping[str, AbstractObservation] | Sequence[Visit],
    *,
    model: AbstractGrowth = _DEFAULT_MODEL,
    speed: float | AbstractDistribution | None = None,
    candidates: GaussianBasis | None = None,
    several: bool = True,
    treatments: Mapping[str, Treatment] | None = None,
) -> Prior:
    """Return the prior for one patient, whose observations "core" and perhaps "lesion" are outlines.

    With several visits the speed of growth is unknown: log-normal about the published 200 mm/year, by a factor of e.
    With mu1 and mu2 at the first visit, which one date determines, it gives D_w, rho and the day of the seed. A prior
    of these themselves is `Parameters(GrowthParams(LogNormal(...), LogNormal(...), origin, LogNormal(...)), ...)`,
    whose duration is the time from the seed to the first visit. Images of the first visit place the origin.

    The growth has the prior of its model at an origin, see `AbstractGrowth.default_prior`: mu1 and mu2 are log-normal
    about the middle of the published boxes of D_w, rho and T, and with mass effect gamma is uniform. The origin is
    normal about the centre of the core, with half the lesion's equivalent radius as standard deviation; where the core
    has several parts that lie apart, the origin is `Foci`, with such a seed in each, and the shares of the further
    seeds are log-normal about one. Thresholds are uniform in the published intervals, 0.5 to 0.85 for the core (T1Gd)
    and 0.05 to 0.5 for the whole lesion (FLAIR); their sharpness is log-normal about 3. Where the core alone is
    outlined, it gives the origin's deviation, too, and the width of the front is the prior's. PET scale and noise are
    log-normal about the upper range of the signal in the lesion, above that of healthy tissue, and about a quarter of
    it.

    Parameters
    ----------
    anatomy
        Whose grid places the outlines.
    observations
        By name: the `Outline` "core", perhaps that of the whole "lesion", and perhaps a `Pet`; or visits with such.
        Without a core any outline, or map of the density, gives the origin.
    model
        What grows.
    speed
        v, mm/day, or its distribution. By default fixed for one date, which says nothing of it.
    candidates
        The Gaussians of which the state at time zero may be made, as `MultiAtlas` needs them, instead of an origin.
    several
        Whether a tumour may have several seeds; methods that know a single one need a prior of one.
    treatments
        As of the problem: numbers for which a distribution stands are unknown.

    Raises
    ------
    ValueError
        If no image shows where the tumour is, the core is larger than the lesion, or the PET signal is not positive in
        the lesion, or not near its background in healthy tissue.
    """
    single = isinstance(observations, Mapping) and observations
    visits: Any = [Visit(0.0, observations)] if single else observations
    first: Any = visits[0].observations if isinstance(visits, (list, tuple)) and visits else observations
    dtype, places = anatomy.dtype, [_place(first)]
    foci = foci_of(first, anatomy.grid) if several and candidates is None else []
    if len(foci) > 1:
        places = [(focus.core, focus.lesion) for focus in foci]
    centres = np.array([centre_and_radius(anatomy, core)[0] for core, _ in places], dtype)
    spreads = np.array([np.full(3, centre_and_radius(anatomy, lesion)[1] / 2) for _, lesion in places], dtype)
    if candidates is not None:
        origin = candidates
    elif len(places) == 1:
        origin = Normal(centres[0], spreads[0])
    else:
        origin = Foci(Normal(centres, spreads), LogNormal(np.ones(len(places) - 1, dtype), _LAG))
    if speed is None:
        speed = PUBLISHED_SPEED if len(visits) == 1 else UNKNOWN_SPEED
    growth = model.default_prior(origin, speed)  # pyright: ignore[reportArgumentType]
    unknown = {}
    for visit in visits[::-1]:
        seen = visit.observations
        unknown |= {name: each.default_prior(name, anatomy, seen) for name, each in seen.items()}
    return Prior(Parameters(growth, unknown, unknown_of(treatments or {})))


def unknown_of(treatments: Mapping[str, Treatment]) -> dict[str, dict[str, Any]]:
    """Return the distributions that stand for numbers of treatments, by the names of treatments and fields."""
    found = {
        name: {
            field: value for field in each.calibrated if isinstance(value := getattr(each, field), AbstractDistribution)
        }
        for name, each in treatments.items()
    }
    return {name: numbers for name, numbers in found.items() if numbers}


def _place(observations: Any) -> tuple[Any, Any]:
    """Return where the core and the whole lesion are; the same for both where there are not both outlines."""
    if isinstance(observations, Mapping) and core_and_lesion(observations) is None:
        shown = [where for each in observations.values() if (where := each.extent) is not None]
        if shown:
            return (max(shown, key=np.sum),) * 2
    core, lesion = _core_and_lesion(observations, "default")
    return core.inside, lesion.inside


def published_prior(
    anatomy: Anatomy,
    observations: Mapping[str, AbstractObservation],
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
        By name: the outlines "core" and "lesion" and one `Pet`, whatever its name: see `published_observations`.
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
        If there are not these two outlines and one PET image, the outlines have another link than `DoubleSigmoid`, the
        core is larger than the lesion, no PET signal is positive, or that of healthy tissue is not near its
        background.

    References
    ----------
    Ezhov et al., "Geometry-aware neural solver for fast Bayesian calibration of brain tumor models", IEEE Trans. Med.
    Imaging 2022, table II; Lipkova et al., "Personalized radiotherapy design for glioblastoma", IEEE Trans. Med.
    Imaging 2019, whose public code has the cube of the seed. That code is uniform in the logarithms of all 11.
    """
    core, lesion = _core_and_lesion(observations, "published")
    pets = {name: o for name, o in observations.items() if isinstance(o, Pet)}
    if len(pets) != 1 or len(observations) != 3:
        got = ", ".join(type(o).__name__ for o in observations.values())
        raise ValueError(
            f"the published prior is for two outlines and one PET image, got {got}; "
            "give that image (`Pet`), or use default_prior, which does without it"
        )
    if not all(isinstance(o.link, DoubleSigmoid) for o in (core, lesion)):
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
    unknown: dict[str, Any] = {
        "core": OutlineParams(Uniform(0.6, 0.8), Reciprocal(Uniform(0.05, 0.08))),
        "lesion": OutlineParams(Uniform(0.05, 0.6), SameAs("observations.core.sharpness")),
    }
    for name, pet in pets.items():
        top = np.asarray(upper_uptake(pet, observations, anatomy.grid, 100))
        unknown[name] = PetParams(Uniform(0.6 * top, 1.02 * top), Uniform(0.01 * top, 0.25 * top))
    return Prior(Parameters(growth, unknown))


def published_observations(
    observations: Mapping[str, AbstractObservation], *, effective_voxels: float = math.inf
) -> dict[str, AbstractObservation]:
    """Return the same images, by the same names, with the likelihood of the papers.

    Outlines have the link `DoubleSigmoid` and labels without errors, and every voxel counts as independent of the
    others, which makes standard deviations far too small: see `independent_voxels` for other numbers of
    `effective_voxels`.
    """
    bernoulli = {"link": DoubleSigmoid(), "false_positive": 0.0, "false_negative": 0.0}
    return {
        name: dataclasses.replace(o, effective_voxels=effective_voxels, **(bernoulli if isinstance(o, Outline) else {}))
        for name, o in observations.items()
    }


def _core_and_lesion(observations: Mapping[str, AbstractObservation], prior: str) -> tuple[Outline, Outline]:
    """Return the outlines of core and whole lesion."""
    if not isinstance(observations, Mapping):
        raise ValueError(
            'observations have names, as in {"core": Outline(...), "lesion": Outline(...)}; '
            f"got {type(observations).__name__}"
        )
    found = core_and_lesion(observations)
    # The published model has a threshold of each.
    if found is None or (prior == "published" and "lesion" not in observations):
        wanted = "two outlines, named core and lesion"
        if prior != "published":
            wanted = "an outline named core, and one named lesion if known"
        raise ValueError(
            f"the {prior} prior is for {wanted}, got {', '.join(observations) or 'none'}; "
            "write a Prior for other observations"
        )
    core, lesion = found
    sizes = [float(np.sum(np.asarray(o.inside, float), where=np.asarray(o.valid))) for o in found]
    # The core's threshold is the higher one, so the model's core is never the larger.
    if sizes[0] > sizes[1]:
        raise ValueError(
            f"the {prior} prior excludes a core that is larger than the whole lesion: they have {sizes[0]:.0f} and "
            f"{sizes[1]:.0f} voxels in tissue; give them their own names, and a whole lesion that includes the core"
        )
    return core, lesion
