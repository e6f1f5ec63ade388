"""Calibration with a weak constraint beside that which keeps to the equation, and beside a fit without physics.

Where the truth is known there are two kinds of patients: tumours that grew by the fitted model, outlined in an unknown
brain, and tumours that pushed the tissue away, which the fitted model does not know.
"""

import argparse
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from benchmarks.methods import METHODS
from benchmarks.patients import PATIENTS, available
from benchmarks.record import NINETY, Record
from benchmarks.smooth import CORE, LESION, without_physics
from benchmarks.suite import SYNTHETIC, Case, cases, synthetic
from tumorjax.planning import coverage, dice, iso_volume_plan, standard_plan
from tumorjax.results.personalization import Personalization

_SHORT = {"patient_fet": "fet", "patient_mri": "mri", "patient_large": "large"}
_BOTH = ("LBFGS", "WeakConstraint")
# Density at which true and found tumour are compared.
_LEVEL = 0.1
# Shells outside the lesion (mm) whose mean deviations are recorded.
_SHELLS = ((0.0, 5.0), (5.0, 10.0), (10.0, 20.0))


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--patients", nargs="+", metavar="NAME", help="real patients (default: all three)")
    parser.add_argument("--synthetic", type=int, metavar="N", help="synthetic patients of each kind (default: 3)")
    parser.add_argument("--resolution", type=float, metavar="MM", help="computing voxels (default: 4)")


def run(
    size: str, patients: list[str] | None = None, synthetic: int | None = None, resolution: float | None = None
) -> list[Record]:
    """All figures; `small` calibrates one synthetic patient on voxels of 8 mm."""
    if size == "small":
        return _synthetic(1, 8.0, kinds=("synthetic",))
    spacing = 4.0 if resolution is None else resolution
    records = []
    if available("real patients"):
        for case in cases(PATIENTS if patients is None else patients, spacing):
            records += _real(case)
    return records + _synthetic(3 if synthetic is None else synthetic, spacing)


def _real(case: Case) -> list[Record]:
    """Sums of the Dice coefficients of core and lesion."""
    found, records = {method: _told(method, case) for method in _BOTH}, []
    name = _SHORT.get(case.name, case.name)
    for method, result in found.items():
        metrics = result.metrics
        total = float(metrics["dice_core"] + metrics["dice_lesion"])
        details = {key: metrics.get(key) for key in _DETAILS} | {"seconds": metrics.get("seconds_total")}
        details |= {"deviation": deviations(result, case)}
        of = "" if method == "WeakConstraint" else "_lbfgs"
        target = ">= 1.75" if method == "WeakConstraint" else ""
        records.append(Record(f"{name}_dice_sum{of}", total, "1", target, details))
    return [*records, *_smooth(case, name, found["LBFGS"].recurrence)]


def _told(method: str, case: Case) -> Personalization:
    """Return the result of a method, and say that it is there."""
    result = METHODS[method](case)
    print(f"{case.name}: {method} {result.metrics['seconds_total']:.0f} s", flush=True)
    return result


def deviations(result: Personalization, case: Case) -> dict[str, float]:
    """Return the mean standard deviation of the density in the brain, in shells outside the lesion."""
    lesion, brain = np.asarray(case.patient.lesion) > 0, np.asarray(case.patient.brain) > 0
    away = distance_transform_edt(~lesion, sampling=np.asarray(case.patient.reference.grid.spacing))
    return {
        f"{low:g} to {high:g} mm": float(result.density_std[brain & (away > low) & (away <= high)].mean())
        for low, high in _SHELLS
    }


def held(result: Personalization, truth: np.ndarray) -> float:
    """Return the share of voxels, where the truth or the estimate is above a tenth, in which 90 % intervals hold it.

    Intervals are those of a normal distribution with the deviation of the map.
    """
    there = np.maximum(truth, result.density) > _LEVEL
    return float(np.mean(np.abs(result.density - truth)[there] <= NINETY * result.density_std[there]))


def _smooth(case: Case, name: str, recurrence: np.ndarray | None) -> list[Record]:
    """The smooth density, which follows the outlines by construction, and what a plan of it covers."""
    density, patient = without_physics(case), case.patient
    overlaps = [dice(density >= CORE, patient.core), dice(density >= LESION, patient.lesion)]
    records = [Record(f"{name}_dice_sum_without_physics", float(sum(overlaps)), "1")]
    if recurrence is not None:
        spacing = np.asarray(patient.reference.grid.spacing)
        voxels = int(standard_plan(patient.core, patient.brain, spacing).sum())
        plan = iso_volume_plan(density, patient.brain, voxels)
        records.append(Record(f"{name}_coverage_without_physics", coverage(plan, recurrence), "1"))
    return records


_DETAILS = (
    *("dice_core", "dice_lesion", "coverage_plan", "coverage_standard", "coverage_plan_all"),
    *("forcing_deviation", "held_out_gained_by_forcing"),
)


def _synthetic(count: int, resolution: float, kinds: tuple[str, ...] = ("synthetic", "pushing")) -> list[Record]:
    """Dice coefficients of true and found density above a tenth, means over the patients of each kind."""
    records = []
    for kind in kinds if count else ():
        numbers = range(kind == "pushing", len(SYNTHETIC), 2)[:count]
        rows: dict[str, list[dict[str, Any]]] = {method: [] for method in (*_BOTH, "without physics")}
        for number in numbers:
            case = synthetic(number, resolution)
            assert case.density is not None
            overlap = dice(without_physics(case) > _LEVEL, case.density > _LEVEL)
            rows["without physics"].append({"patient": case.name, "dice": float(overlap)})
            for method in _BOTH:
                result = _told(method, case)
                overlap = dice(result.density > _LEVEL, case.density > _LEVEL)
                row = {key: result.metrics.get(key) for key in _DETAILS}
                row |= {"deviation": deviations(result, case), "held_90": held(result, case.density)}
                rows[method].append({"patient": case.name, "dice": float(overlap), **row})
        for method, found in rows.items():
            of = {"WeakConstraint": "", "LBFGS": "_lbfgs"}.get(method, "_without_physics")
            mean = float(np.mean([each["dice"] for each in found]))
            records.append(Record(f"{kind}_dice_01{of}", mean, "1", "", {"patients": found}))
            if "held_90" in found[0]:
                records.append(Record(f"{kind}_held_90{of}", float(np.mean([each["held_90"] for each in found])), "1"))
    return records
