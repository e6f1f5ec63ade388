"""Seconds of the whole command for a first patient, the same again, and another, as what runs keep builds up."""

import tempfile
from pathlib import Path

from benchmarks.patients import available, images, options
from benchmarks.personalize import command
from benchmarks.record import Record

_RUNS = (
    ("first_patient", "patient_mri", [], "<= 30"),
    ("again", "patient_mri", [], "<= 15"),
    ("again_other_method", "patient_mri", ["--method", "lmi"], "<= 10"),
    ("next_patient", "patient_large", [], "<= 20"),
    ("next_patient_again", "patient_large", [], ""),
)
"""Names of the runs, their patients and options, and the seconds that they should take."""


def run(size: str) -> list[Record]:
    """Five runs one after another, which begin with nothing compiled and no registration; `small` takes 6 mm voxels."""
    if not available("real patients"):
        return []
    coarse = ["--resolution", "6"] if size == "small" else []
    records = []
    with tempfile.TemporaryDirectory() as kept:
        for name, patient, more, target in _RUNS:
            figures, seconds, gigabytes = command([*options(images(patient)), *more, *coarse], Path(kept))
            steps = {key: value for key, value in figures.items() if key.startswith("seconds")}
            details = {"patient": patient, "options": more, "GB": gigabytes, **steps}
            records.append(Record(f"{name}_seconds", seconds, "s", target, details))
    return records
