"""Patients for comparing inverse methods: synthetic ones in brains outside the training data, and real ones."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.patients import DATA, images
from tumorjax.atlas import deformed_atlas, load_atlas
from tumorjax.grid import Grid
from tumorjax.io import InputError, Volume, read_volume
from tumorjax.patient import Patient, load_patient
from tumorjax.patient.shift import carried_back
from tumorjax.pipeline.synthetic import synthetic_patient

SYNTHETIC = tuple(f"synthetic_{number:02d}" for number in range(20))
"""Patients with a known truth; those of odd numbers are displaced."""

# First seed of the patients' brains; the training of networks and the test of the surrogate use other seeds.
_BRAINS = 7000
# Mass effect of the tumours that displace tissue, Pa.
_MASS_EFFECT = (3e4, 9e4)
# Displacements of neighbours differ by much less than their distance, so that fewer would do.
_ITERATIONS = 30
# Edge (mm) of the voxels of synthetic images.
_VOXEL = 2.0


@dataclass(frozen=True, eq=False)
class Case:
    """A patient of the comparison.

    Parameters
    ----------
    name
        Name in the results.
    patient
        The input of the methods.
    density
        (x, y, z), the true cell density on the patient's voxels; None for real patients.
    truth
        True parameters by name, the origin in the brain before the tumour; empty for real patients.
    recurrence
        Tumour at follow-up, which methods do not see; None if there is none.
    displacement
        (x, y, z, 3), the true displacement on the patient's voxels, mm; None where it is unknown or nothing moved.
    """

    name: str
    patient: Patient
    density: np.ndarray | None
    truth: dict[str, float]
    recurrence: Volume | None
    displacement: np.ndarray | None = None

    @property
    def origin_now(self) -> dict[str, float]:
        """The coordinates of the origin where it lies in the patient now, by name; empty where nothing moved."""
        if self.displacement is None:
            return {}
        names = [f"origin_{axis}" for axis in "xyz"]
        before = np.array([[self.truth[name] for name in names]])
        (now,) = pushed(before, self.displacement, self.patient.reference.grid)
        return dict(zip(names, now.tolist(), strict=True))


def pushed(points: np.ndarray, displacement: np.ndarray, grid: Grid) -> np.ndarray:
    """Return where points of the brain before the tumour lie now, (n, 3) mm: x = X + u(x), by fixed-point iteration.

    Parameters
    ----------
    points
        X, (n, 3), mm.
    displacement
        u, (x, y, z, 3), mm: what is now at x came from x - u(x).
    grid
        That of `displacement`.
    """
    found = points
    for _ in range(_ITERATIONS):
        found = points + found - carried_back(displacement, grid, found)
    return found


def mass_effect(number: int) -> float:
    """Return the mass effect of a synthetic patient's tumour, Pa; it is zero for even numbers."""
    low, high = _MASS_EFFECT
    return low + (number * 0.6180339887 % 1) * (high - low) if number % 2 else 0.0


def synthetic(number: int, resolution: float) -> Case:
    """Return a patient with a known truth, given by an outline and a T1 image; odd numbers have displaced tissue.

    The brain is ICBM152 under a random diffeomorphism, which is unknown to the methods: their tissue is ICBM152
    registered to the image.
    """
    brain, _ = deformed_atlas(load_atlas("icbm152"), _BRAINS + number)
    made = synthetic_patient(number, brain=brain, mass_effect=mass_effect(number), resolution=_VOXEL)
    patient = load_patient(segmentation=made.segmentation, labels="brats2021", t1=made.t1, resolution=resolution)
    return Case(SYNTHETIC[number], patient, made.density, made.truth, None, made.displacement)


def real(name: str, resolution: float) -> Case:
    """Return a patient of `shared/data`, such as "patient_fet", which has a recurrence."""
    place = DATA / name
    if not place.is_dir():
        raise InputError(f"{name}: {place} is absent; ask for synthetic patients alone")
    later = place / "recurrence.nii.gz"
    recurrence = read_volume(later, name="recurrence") if later.exists() else None
    return Case(name, load_patient(**images(name), resolution=resolution), None, {}, recurrence)


def cases(names: Iterable[str], resolution: float) -> Iterator[Case]:
    """Yield patients by name, each made when it is needed."""
    for name in names:
        yield synthetic(SYNTHETIC.index(name), resolution) if name in SYNTHETIC else real(name, resolution)
