"""What is to be calibrated of a patient."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from tumorjax.calibration import Problem, Visit, default_prior
from tumorjax.calibration.foci import foci_of, volumes
from tumorjax.calibration.method import AbstractMethod, check_healthy
from tumorjax.cellularity import ADC_LAWS
from tumorjax.growth import AbstractGrowth, FisherKolmogorov, Foci, GaussianBasis, Treatment
from tumorjax.io import InputError, resample
from tumorjax.methods import healthy_brain
from tumorjax.observation import (
    READERS,
    AbstractObservation,
    DensityMap,
    FluidMap,
    Outline,
    Pet,
    SurfaceErrors,
    healthy_uptake,
)
from tumorjax.patient.alignment import grow
from tumorjax.patient.patient import Patient
from tumorjax.quality import Note, Status

_DEFAULT_MODEL = FisherKolmogorov()
# Oedema that a segmentation misses is as dark as fluid in a T1 image; it lies within this distance (mm).
_LESION_RIM = 4.0
# Fewer voxels of the computing grid are no outline.
_LEAST_VOXELS = 8
# Methods that solve near the lesion alone do so in its box and this margin (mm), beyond which a tumour has a thousandth
# of the capacity.
_ROOM = 20.0


def problem_of(
    patient: Patient,
    model: AbstractGrowth = _DEFAULT_MODEL,
    method: AbstractMethod | None = None,
    *,
    observations: Mapping[str, AbstractObservation] | None = None,
    treatments: Mapping[str, Treatment] | None = None,
    healthy: Literal["affine", "coupled"] | None = None,
    errors: Mapping[str, SurfaceErrors] | None = None,
    notes: list[str] | None = None,
    progress: Callable[[str, float | None], None] = lambda stage, share: None,
) -> Problem:
    """Return the calibration problem of a patient, on the computing grid.

    A model that moves tissue begins in the brain before the tumour, for which an atlas stands: that of the patient's
    tissue, or ICBM152, moved by an affine map, or coupled with the growth. Methods that bring atlases of their own get
    the patient's anatomy.

    Parameters
    ----------
    patient
        What was seen, on one day or several, and the anatomy. The map of fluid counts for a model that moves tissue,
        outside the lesion, if it shows where the patient's own ventricles are on the first day.
    model
        What grows.
    method
        How it is to be calibrated. A core of several parts that lie apart has a seed in each, unless the method knows
        tumours of a single seed only.
    observations
        Further images of the last day by name, on the computing grid, `patient.anatomy.grid`.
    treatments
        What was done between the visits, by name; cavities are images on the computing grid.
    healthy
        Which atlas stands for the brain before the tumour, for models that move tissue; see `personalize`.
    errors
        How the surfaces of the outlines err, by name; by default see `errors_of_outlines`.
    notes
        Receives which atlas stands for the brain before the tumour, and how it was aligned.
    progress
        Receives what is being done.

    Raises
    ------
    InputError
        If an outline, the PET image or the fluid says nothing in the tissue; if no atlas can be aligned.
    ValueError
        If the further images cannot join these, see `check_observations`; if `healthy` is unknown, or given for a
        model that leaves tissue where it is.
    """
    check_healthy(healthy, model)
    errors = errors_of_outlines(method) if errors is None else errors
    check_observations(patient, model, {} if observations is None else observations, healthy)
    notes = [] if notes is None else notes
    anatomy = patient.anatomy
    further, treated = dict(observations or {}), dict(treatments or {})
    several = method is None or not method.single_seed
    first, *later = patient.visits
    shown = first
    try:
        seen = observations_of(first, errors) | (_fluid(first) if "csf" in model.shows else {})
        seen |= {} if later else further
        if model.displaces and (method is None or not method.brings_brain):
            anatomy, seen = healthy_brain(first, model, seen, healthy=healthy, notes=notes, progress=progress)
        visits = [Visit(first.day, seen)]
        for shown in later:
            more = further if shown is patient else {}
            visits.append(Visit(shown.day, observations_of(shown, errors) | more))
        # The first day places the origin. One date without treatment has no clock.
        shown, given = first, visits if later or treated else seen
        prior = default_prior(anatomy, given, model=model, several=several, treatments=treated)
    except InputError:
        # It names its image or atlas itself.
        raise
    except ValueError as error:
        day = f" of day {shown.day:g}" if later else ""
        raise InputError(f"images{day}: {error}") from error
    return Problem(model, anatomy, given, prior, treatments=treated or None)


def errors_of_outlines(
    method: AbstractMethod | None = None, model_error: float | None = None
) -> dict[str, SurfaceErrors]:
    """Return how the surfaces of outlines err, by name: by the reader, and by the model's own error.

    Parameters
    ----------
    method
        How the model is to be calibrated to them.
    model_error
        Standard deviation by which the isolines of the model miss the outlines, mm. By default it is 5, correlated over
        11 mm: so the best isolines miss the outlines of real patients, with mass effect or without it (medians of core
        and lesion of three of them, `python -m benchmarks readers`). It is left out for a method that frees the density
        from the model where the images ask for it, and accounts for the model's error itself. Its core then errs as its
        lesion: the small errors of readers about the core would make it worth several lesions, at the lesion's expense.
    """
    frees = method is not None and method.frees_density
    if model_error is None:
        model_error = 0.0 if frees else 5.0
    readers = dict.fromkeys(READERS, SurfaceErrors()) if frees else READERS
    return {name: replace(each, model_deviation=model_error) for name, each in readers.items()}


def observations_of(patient: Patient, errors: Mapping[str, SurfaceErrors] = READERS) -> dict[str, AbstractObservation]:
    """Return what a patient's images show on one day, on the computing grid.

    These are the outlines "core" and "lesion", the core alone where the two are the same voxels, the image "pet" if
    there is one, and "adc", the cells in the core that hinder the diffusion of water, if there is an image of that.
    """
    tissue = np.asarray(patient.anatomy.tissue)
    shares = {"core": patient.core_fraction, "lesion": patient.lesion_fraction}
    found: dict[str, AbstractObservation] = {
        name: Outline(inside=shares[name], valid=tissue, errors=errors.get(name, SurfaceErrors()))
        for name in patient.outlines
    }
    if patient.pet is not None and patient.pet_mask is not None:
        found["pet"] = Pet(signal=patient.pet, valid=patient.pet_mask & tissue, background=_background(patient) or 0.0)
    if patient.adc is not None and patient.adc_mask is not None:
        found["adc"] = DensityMap.from_adc(patient.adc, patient.adc_mask & tissue, law=ADC_LAWS[patient.adc_law])
    return found


def check_observations(
    patient: Patient,
    model: AbstractGrowth,
    observations: Mapping[str, AbstractObservation],
    healthy: Literal["affine", "coupled"] | None = None,
) -> None:
    """Raise a ValueError, before any work, where a user's observations cannot join those of a patient's images."""
    if not isinstance(observations, Mapping):
        raise ValueError(
            f'observations have names, as in {{"adc": Adc(...)}}; got {type(observations).__name__}, give a dictionary'
        )
    taken = {name for each in patient.visits for name in each.outlines}
    taken |= {name for name in ("pet", "adc") if any(getattr(each, name) is not None for each in patient.visits)}
    taken |= {"fluid"} if "csf" in model.shows and patient.shows_fluid else set()
    taken |= {"shift"} if model.displaces and healthy != "affine" and "T1" in patient.images else set()
    for name, each in observations.items():
        if not (isinstance(name, str) and name.isidentifier()):
            raise ValueError(f"observations: got the name {name!r}; give a word such as adc or t1_gd")
        if name in taken:
            raise ValueError(f"the observation {name!r} comes from the patient's images; give yours another name")
        if not isinstance(each, AbstractObservation):
            got = f"the class {each.__name__}" if isinstance(each, type) else type(each).__name__
            raise ValueError(f"the observation {name!r} is {got}; give an image such as Outline(...) or Pet(...)")
        if each.shows not in model.shows:
            raise ValueError(
                f"the observation {name!r} shows the {each.shows}, which {type(model).__name__} leaves as it is; leave "
                "it out, or take a model that moves tissue, such as MassEffect"
            )
        if np.shape(each.valid) != patient.anatomy.grid.shape:
            raise ValueError(
                f"the observation {name!r} has shape {np.shape(each.valid)}, the patient's computing grid "
                f"{patient.anatomy.grid.shape}; resample it to patient.anatomy.grid"
            )


def notes_on_patient(patient: Patient, problem: Problem) -> list[str]:
    """Return what is assumed of a patient's images, and where they are at the limits of the model."""
    sizes = [note for each in patient.visits for note in notes_on_size(each, problem.model)]
    found = [*notes_on_outlines(problem), *notes_on_foci(problem), *notes_on_pet(patient), *notes_on_adc(patient)]
    return [*dict.fromkeys(sizes), *found]


def notes_on_outlines(problem: Problem) -> list[str]:
    """Return what is assumed where the core alone is outlined, on all days or on some of them."""
    lacking = [f"{float(visit.day):g}" for visit in problem.visits if "lesion" not in visit.observations]
    if not lacking:
        return []
    if len(lacking) == len(problem.visits):
        return [
            "The core alone is outlined, which counts as one outline: how far cells reach beyond it is known from the "
            "prior only."
        ]
    return [f"On day {' and '.join(lacking)} the core alone is outlined; the whole lesion is unknown there."]


def notes_on_foci(problem: Problem) -> list[str]:
    """Return what is assumed of a core of several parts that lie apart."""
    foci = foci_of(problem.visits[0].observations, problem.anatomy.grid)
    if len(foci) < 2:
        return []
    origin = problem.prior.distributions.growth.origin
    sizes = ", ".join(f"{volume:.1f}" for volume in volumes(foci, problem.anatomy.grid))
    found = f"The core has {len(foci)} parts that lie apart, of {sizes} ml"
    if isinstance(origin, (Foci, GaussianBasis)):
        return [f"{found}; the tumour begins in each of them."]
    return [
        Note(
            f"{found}, but this method knows tumours of a single seed only, which cannot explain all of them. Take a "
            "method without a database or network.",
            Status.DOUBTFUL,
        )
    ]


def notes_on_size(patient: Patient, model: AbstractGrowth) -> list[str]:
    """Return a note where a lesion is too small for the computing grid, or for the seed that growth starts from."""
    grid = patient.anatomy.grid
    voxel = float(grid.voxel_volume)
    for name, fraction, least, why in (
        ("lesion", patient.lesion_fraction, model.seed_volume(grid), "the seed that growth starts from"),
        ("core", patient.core_fraction, _LEAST_VOXELS * voxel, f"{_LEAST_VOXELS} voxels of the computation"),
    ):
        if (volume := float(fraction.sum()) * voxel) < least:
            text = f"The {name} ({volume / 1000:.3g} ml) is smaller than {why} ({least / 1000:.3g} ml)"
            return [
                Note(
                    f"{text}: its outline contains little information, and the model can hardly fit it.",
                    Status.DOUBTFUL,
                )
            ]
    return []


def notes_on_pet(patient: Patient) -> list[str]:
    """Return what was assumed of the PET signal of healthy tissue, if there is an image."""
    if patient.pet is None:
        return []
    found = _background(patient)
    if found is None:
        return [
            "The PET image shows hardly any tissue far from the lesion, so the signal of healthy tissue is unknown; it "
            "is taken to be zero."
        ]
    return [f"The PET signal of healthy tissue is {found:.3g}; the model's comes on top of that."] if found else []


def notes_on_adc(patient: Patient) -> list[str]:
    """Return how the density in the core was read off the diffusion of water, if there is an image of it."""
    if all(each.adc is None for each in patient.visits):
        return []
    return [
        f"The density in the core is read off the ADC: {ADC_LAWS[patient.adc_law].words} at an unknown value. Necrosis "
        "looks empty in it; oedema, where water is free whatever the cells, is left out."
    ]


def _background(patient: Patient) -> float | None:
    """Return the PET signal of healthy tissue; None where it is unknown."""
    if patient.pet is None or patient.pet_mask is None:
        return None
    tissue = np.asarray(patient.anatomy.tissue)
    return healthy_uptake(patient.pet, patient.pet_mask & tissue, patient.lesion_fraction >= 0.5, patient.anatomy.grid)


def _fluid(patient: Patient) -> dict[str, AbstractObservation]:
    anatomy = patient.anatomy
    fluid = np.clip(np.asarray(anatomy.csf), 0, 1)
    head = np.asarray(anatomy.white_matter) + np.asarray(anatomy.grey_matter) + fluid >= 0.5
    lesion = resample(patient.affected.data, patient.affected.affine, anatomy.grid, kind="mean") > 0
    valid = head & ~grow(lesion, anatomy.grid, _LESION_RIM)
    if not patient.shows_fluid or not fluid[valid].any():
        return {}
    return {"fluid": FluidMap(fluid=fluid, valid=valid)}


def solved_by(method: AbstractMethod, problem: Problem) -> Problem:
    """Return a problem as a method solves it: on the whole brain, or near the lesion where tissue stays in place."""
    return problem.around(_ROOM) if method.region == "lesion" and not problem.model.displaces else problem
