"""Patients on which inverse methods are compared: synthetic ones, in brains that nothing learnt from, and real ones."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.patients import DATA, PATIENTS, images
from tumorjax.atlas import deformed_atlas, load_atlas
from tumorjax.io import InputError, Volume, read_volume
from tumorjax.pipeline.patient import Patient, load_patient
from tumorjax.pipeline.synthetic import synthetic_patient

SYNTHETIC = tuple(f"synthetic_{number:02d}" for number in range(20))
"""Patients with a known truth; those of odd numbers are displaced."""

# First of the seeds of the patients' brains; those of training and of the surrogate's test are other numbers.
_BRAINS = 7000
# Pa: of the tumours that push.
_MASS_EFFECT = (3e4, 9e4)
# Edge (mm) of the voxels of synthetic images.
_VOXEL = 2.0


@dataclass(frozen=True, eq=False)
class Case:
    """A patient of the comparison.

    Parameters
    ----------
    name
        In the results.
    patient
        What methods are given.
    density
        (x, y, z): the true cell density on the patient's voxels; None of real patients.
    truth
        True parameters by name; empty of real patients.
    recurrence
        Tumour at follow-up, which methods do not see; None where there is none.
    """

    name: str
    patient: Patient
    density: np.ndarray | None
    truth: dict[str, float]
    recurrence: Volume | None


def mass_effect(number: int) -> float:
    """Return how strongly the tumour of a synthetic patient pushes, Pa; those of even numbers do not."""
    low, high = _MASS_EFFECT
    return low + (number * 0.6180339887 % 1) * (high - low) if number % 2 else 0.0


def synthetic(number: int, resolution: float) -> Case:
    """Return a patient whose truth is known, given by an outline and a T1 image; those of odd numbers are displaced.

    The brain is ICBM152 under a random diffeomorphism, which methods do not know: the tissue on which they compute is
    ICBM152 registered to the image.
    """
    brain, _ = deformed_atlas(load_atlas("icbm152"), _BRAINS + number)
    made = synthetic_patient(number, brain=brain, mass_effect=mass_effect(number), resolution=_VOXEL)
    patient = load_patient(segmentation=made.segmentation, labels="brats2021", t1=made.t1, resolution=resolution)
    return Case(SYNTHETIC[number], patient, made.density, made.truth, None)


def real(name: str, resolution: float) -> Case:
    """Return a patient of `shared/data`: "patient_fet", with recurrence, or "patient_mri"."""
    place = DATA / name
    if not place.is_dir():
        raise InputError(f"{name}: {place} is absent; ask for synthetic patients alone")
    later = place / "recurrence.nii.gz"
    recurrence = read_volume(later, name="recurrence") if later.exists() else None
    return Case(name, load_patient(**images(name), resolution=resolution), None, {}, recurrence)


def cases(names: Iterable[str], resolution: float) -> Iterator[Case]:
    """Yield patients by name, each made when it is asked for."""
    for name in names:
        yield real(name, resolution) if name in PATIENTS else synthetic(SYNTHETIC.index(name), resolution)
