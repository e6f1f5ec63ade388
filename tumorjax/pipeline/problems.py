"""What is to be calibrated of a patient."""

import math

import numpy as np

from tumorjax.calibration import Problem, default_prior, healthy_uptake
from tumorjax.calibration.foci import foci_of, volumes
from tumorjax.growth import FisherKolmogorov, Foci, GaussianBasis, MassEffect, MassEffectParams
from tumorjax.io import InputError, resample
from tumorjax.observation import AbstractObservation, FluidMap, Outline, Pet
from tumorjax.pipeline.alignment import grow
from tumorjax.pipeline.patient import Patient
from tumorjax.quality import Note, Status

# Oedema that a segmentation misses is as dark as fluid in a T1 image; it lies within this distance (mm).
_LESION_RIM = 4.0
# Gaussians stand this many voxels apart.
_SPACING = 2.0


def problem_of(patient: Patient, *, model: FisherKolmogorov | None = None, several: bool = True) -> Problem:
    """Return the calibration problem of a patient, cropped to the tissue.

    A core of several parts that lie apart has a seed in each, unless `several` is False.

    Raises
    ------
    InputError
        If an outline or the PET image says nothing in the tissue.
    """
    start, shape = patient.anatomy.box()
    anatomy = patient.anatomy.crop(start, shape)
    try:
        observations = observations_of(patient, tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True)))
        prior = default_prior(anatomy, observations, several=several)
    except ValueError as error:
        raise InputError(f"images: {error}") from error
    return Problem(model or FisherKolmogorov(), anatomy, observations, prior)


def observations_of(patient: Patient, box: tuple[slice, ...] = (slice(None),) * 3) -> tuple[AbstractObservation, ...]:
    """Return the outlines of core and lesion, and the PET image if there is one, in a box of the computing grid."""
    tissue = np.asarray(patient.anatomy.tissue)[box]
    outlines = tuple(
        Outline(inside=share[box], valid=tissue) for share in (patient.core_fraction, patient.flair_fraction)
    )
    if patient.pet is None or patient.pet_mask is None:
        return outlines
    return *outlines, Pet(
        signal=patient.pet[box], valid=patient.pet_mask[box] & tissue, background=_background(patient) or 0.0
    )


def notes_on_foci(problem: Problem) -> list[str]:
    """Return what is assumed of a core of several parts that lie apart."""
    foci = foci_of(problem.observations, problem.anatomy.grid)
    if len(foci) < 2:
        return []
    growth = problem.prior.distributions.growth
    origin = growth.growth.origin if isinstance(growth, MassEffectParams) else growth.origin
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


def _background(patient: Patient) -> float | None:
    """Return the PET signal of healthy tissue; None where it is unknown."""
    if patient.pet is None or patient.pet_mask is None:
        return None
    tissue = np.asarray(patient.anatomy.tissue)
    return healthy_uptake(patient.pet, patient.pet_mask & tissue, patient.flair_fraction >= 0.5, patient.anatomy.grid)


def problem_with_mass_effect(patient: Patient, *, model: MassEffect | None = None) -> Problem:
    """Return the problem of calibrating growth with mass effect, in the patient's anatomy.

    The Gaussians of which the state at time zero may be made stand in the core, two voxels apart and one voxel wide.
    The map of fluid counts, outside the lesion, if it shows where the patient's own ventricles are. By default cells
    spread and divide in white matter alone, as in the public code of the multi-atlas paper, and push as there.

    Raises
    ------
    InputError
        If an outline, the PET image or the fluid says nothing in the tissue.
    """
    anatomy = patient.anatomy
    grid, tissue = anatomy.grid, np.asarray(anatomy.tissue)
    voxel = float(np.cbrt(grid.voxel_volume))
    try:
        observations = (*observations_of(patient), *_fluid(patient))
        # A small core may fill half of no voxel.
        least = min(0.5, float(patient.core_fraction[tissue].max()) / 2)
        core = tissue & (patient.core_fraction >= least)
        candidates = GaussianBasis.from_outline(core, grid, spacing=_SPACING * voxel, width=voxel)
        prior = default_prior(anatomy, observations, candidates=candidates)
    except ValueError as error:
        raise InputError(f"images: {error}") from error
    published = MassEffect(FisherKolmogorov(ratio=math.inf, dividing="white matter"), force="tanh")
    return Problem(model or published, anatomy, observations, prior)


def _fluid(patient: Patient) -> tuple[AbstractObservation, ...]:
    anatomy = patient.anatomy
    fluid = np.clip(np.asarray(anatomy.csf), 0, 1)
    head = np.asarray(anatomy.white_matter) + np.asarray(anatomy.grey_matter) + fluid >= 0.5
    lesion = resample(patient.lesion.data, patient.lesion.affine, anatomy.grid, kind="mean") > 0
    valid = head & ~grow(lesion, anatomy.grid, _LESION_RIM)
    if not patient.shows_fluid or not fluid[valid].any():
        return ()
    return (FluidMap(fluid=fluid, valid=valid),)
