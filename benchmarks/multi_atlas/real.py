"""Real patients: table S3, in four atlases with the spread over these; and what a user of the command gets."""

import math
import time

from benchmarks.mass_effect import BOX, VOXEL
from benchmarks.multi_atlas.published import REAL
from benchmarks.multi_atlas.setting import Setting
from benchmarks.multi_atlas.unknown import atlases_of
from benchmarks.patients import DATA, images, options
from benchmarks.personalize import command
from benchmarks.record import Record, cores, cpu
from tumorjax import MassEffect
from tumorjax.atlas import load_atlas
from tumorjax.methods.multi_atlas.in_atlases import averages
from tumorjax.patient import load_patient
from tumorjax.pipeline.personalize import personalize

PATIENTS = ("patient_fet", "patient_mri", "patient_large")
"""The first has no T1 image; the last is one on which nothing was tuned."""


def available() -> tuple[str, ...]:
    """Return the patients whose images exist."""
    return tuple(name for name in PATIENTS if (DATA / name).is_dir())


def real_patient(name: str, setting: Setting) -> list[Record]:
    """Return gamma, rho, kappa and the largest displacement in the paper's units, each with its spread over atlases."""
    begun = time.perf_counter()
    patient = load_patient(**images(name), resolution=float(setting.spacing))
    atlases = (load_atlas("icbm152"), *atlases_of("real").values())
    model = MassEffect.published() if setting.settings == "published" else MassEffect()
    # Without a T1 image registration and growth cannot take turns.
    healthy = setting.healthy if "T1" in patient.images else "affine"
    found = personalize(patient, model=model, method=setting.method(atlases), healthy=healthy)
    seconds = time.perf_counter() - begun
    rows = found.calibration.rows
    over = averages(rows)
    # In the paper time runs to one, the box has the side 2 pi, and gamma the unit 1e5 Pa.
    columns = {
        "gamma": ("1e5 Pa", [row.mass_effect / 1e5 for row in rows]),
        "rho": ("1", [row.mu2**2 for row in rows]),
        "kappa": ("1", [row.mu1**2 / (BOX / (2 * math.pi)) ** 2 for row in rows]),
        "largest_displacement": ("voxels", [row.max_displacement / VOXEL for row in rows]),
    }
    growing = [row.grows for row in rows]
    records = []
    for figure, (unit, each) in columns.items():
        values = [value for value, grows in zip(each, growing, strict=True) if grows]
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
        told = {
            "atlases": {row.atlas: value for row, value in zip(rows, each, strict=True)},
            "published, of other patients": {
                patient: row["displacement" if figure == "largest_displacement" else figure]
                for patient, row in REAL.items()
            },
        }
        records += [
            Record(setting.name(name, figure), mean, unit, "", told),
            Record(setting.name(name, f"{figure}_spread"), spread, unit),
        ]
    details = {**found.metrics, "averages": over, "notes": [str(note) for note in found.notes]}
    return [
        *records,
        Record(setting.name(name, "dice_sum"), float(found.metrics["dice_sum"]), "1", "", details),
        Record(setting.name(name, "seconds"), seconds, "s"),
    ]


BY_COMMAND = {"patient_large": ("large", ">= 1.75", "<= 120 with compilation"), "patient_mri": ("mri", ">= 1.65", "")}
"""Patients with a T1 image: the names of their records, and what these should reach."""


def by_command(name: str) -> list[Record]:
    """Return the sum of Dice coefficients by `tumorjax personalize`, without compiled programs, beside plain growth's.

    Voxels have 4 mm, and the atlases are ICBM152 and SRI24.
    """
    label, dice_target, seconds_target = BY_COMMAND[name]
    given = [*options(images(name)), "--resolution", "4"]
    plain, plain_seconds, _ = command(given)
    more = ["--model", "mass-effect", "--atlases", "icbm152", str(DATA / "atlas_sri24")]
    metrics, seconds, gigabytes = command([*given, *more])
    kept = {key: value for key, value in metrics.items() if value is not None}
    return [
        Record(f"{label}_dice_sum", metrics["dice_sum"], "1", dice_target, kept),
        Record(f"{label}_plain_growth_dice_sum", plain["dice_sum"], "1", "", {"seconds": plain_seconds}),
        Record(f"{label}_seconds", seconds, "s", seconds_target, {"cores": cores(), "cpu": cpu()}),
        Record(f"{label}_peak_memory", gigabytes, "GB"),
    ]
