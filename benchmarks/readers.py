"""How outlines err: by five readers of one patient, and by models no isoline of which has the shape of the tumour."""

from typing import Any

import jax
import numpy as np

from benchmarks.methods import METHODS
from benchmarks.patients import DATA, PATIENTS, available, images
from benchmarks.record import Record
from benchmarks.simulated import WRONG, brain, simulated
from benchmarks.suite import cases
from tumorjax import LBFGS, Displacements, Problem, SurfaceErrors, calibrate, errors_of_model, errors_of_readers
from tumorjax.io import read_volume
from tumorjax.patient import load_patient
from tumorjax.pipeline.problems import problem_of

# Labels of core and lesion, and number of readers.
_LABELS = {"lesion": (1, 2, 4), "core": (1, 4)}
_READERS = 5
# Voxels (mm) of the fits, and margin (mm) around real lesions.
_SPACING, _MARGIN = 4, 25.0
# Least number of voxels that an isoline encloses.
_LEAST = 20


def run(size: str) -> list[Record]:
    """All figures; `small` fits one simulated patient of each kind, and no real one."""
    records = readers() if available("patient with MRI") else []
    if size == "full" and available("real patients"):
        records += real_patients() + real_patients_that_push()
    return records + wrong_models(1 if size == "small" else 6)


def readers() -> list[Record]:
    """Displacements between segmentations of one patient by several algorithms, 1 mm voxels."""
    folder = DATA / "patient_mri" / "readers"
    volumes = [read_volume(folder / f"segmentation_{n}.nii.gz", name="reader") for n in range(1, _READERS + 1)]
    records = []
    for name, labels in _LABELS.items():
        masks = [np.isin(volume.data, labels) for volume in volumes]
        found = errors_of_readers(masks, volumes[0].grid)
        volume = float(np.mean([mask.sum() for mask in masks])) * volumes[0].grid.voxel_volume
        details = _told(found) | {"volume, ml": volume / 1e3, "patches": float(found.errors.patches(volume))}
        records += _records(f"reader_{{}}_{name}", found.errors.deviation, found.errors.length, details)
    return records


def real_patients() -> list[Record]:
    """Displacements of the outlines of real patients against the isolines of the best parameters, 4 mm voxels."""
    found = {}
    for patient in PATIENTS:
        problem = problem_of(load_patient(**images(patient), resolution=float(_SPACING))).around(_MARGIN)
        found |= {f"{patient}, {name}": one for name, one in _missed(problem, LBFGS()).items()}
    return _medians("model_{}_real", found)


def real_patients_that_push() -> list[Record]:
    """The same of growth with mass effect, in each of three atlases."""
    found = {}
    for case in cases(PATIENTS, float(_SPACING)):
        mixture: Any = METHODS["MultiAtlas"](case).calibration
        for atlas, problem, member, grown in zip(
            mixture.atlases, mixture.problems, mixture.members, mixture.grown, strict=True
        ):
            missed = _missed_by(grown.density, member.params, problem)
            found |= {f"{case.name}, {atlas.name}, {name}": one for name, one in missed.items()}
    return _medians("model_{}_real_mass_effect", found)


def wrong_models(count: int) -> list[Record]:
    """The same of simulated tumours that the fitted model does not know."""
    anatomy, records = brain(_SPACING), []
    for kind in WRONG:
        found = {}
        for seed in range(count):
            problem = simulated(anatomy, seed, kind, SurfaceErrors()).problem
            middle = problem.prior.constrain(np.zeros(problem.prior.size, np.float32))
            missed = _missed(problem, LBFGS(starts=(middle,), coarsening=1))
            found |= {f"{seed}, {name}": one for name, one in missed.items()}
        records += _medians(f"model_{{}}_{kind}", found)
    return records


def _missed(problem: Problem, method: LBFGS) -> dict[str, Displacements]:
    """Return by how much the isolines of the best parameters miss the outlines that they cross."""
    best = calibrate(problem, method, key=jax.random.key(0)).params
    return _missed_by(np.asarray(problem.density(best)), best, problem)


def _missed_by(density: np.ndarray, best: Any, problem: Problem) -> dict[str, Displacements]:
    """Return by how much the isolines of a density that was calibrated miss the outlines that they cross."""
    found = {}
    for name in _LABELS:
        unknown, outline = best.observations[name], problem.observations[name]
        # A core that lies below its threshold nearly everywhere has no isoline.
        if np.sum((density > float(unknown.threshold)) & np.asarray(outline.valid)) > _LEAST:
            found[name] = errors_of_model(density, unknown, outline, problem.anatomy.grid)
    return found


def _medians(name: str, found: dict[str, Displacements]) -> list[Record]:
    deviation, length = (
        float(np.median([getattr(one.errors, field) for one in found.values()]))
        for field in ("model_deviation", "model_length")
    )
    return _records(name, deviation, length, {"outlines": {outline: _told(one) for outline, one in found.items()}})


def _records(name: str, deviation: float, length: float, details: dict[str, Any]) -> list[Record]:
    return [
        Record(name.format("deviation"), deviation, "mm", "", details),
        Record(name.format("length"), length, "mm"),
    ]


def _told(found: Displacements) -> dict[str, Any]:
    return {
        "errors, mm": {name: float(value) for name, value in vars(found.errors).items()},
        "roughness, mm": found.roughness,
        "offset, mm": found.offset,
        "distances, mm": found.distances.round(2).tolist(),
        "variogram, mm2": found.variogram.round(3).tolist(),
    }
