"""The images of the real patients in `shared/data` beside the project, for functions and for the command."""

from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

PATIENTS = ("patient_fet", "patient_mri", "patient_large")
"""The first has PET, and a recurrence."""


def available(what: str) -> bool:
    """Return whether the data exist; if not, print the figures that are left out."""
    if not DATA.is_dir():
        print(f"no {what}: {DATA} is absent")
    return DATA.is_dir()


def images(name: str) -> dict[str, Any]:
    """Return the images of a patient by the names of the arguments of `load_patient`."""
    place = DATA / name
    given: dict[str, Any] = {"segmentation": place / "segmentation.nii.gz"}
    if name == "patient_fet":
        return given | {"labels": {"core": (1, 4), "edema": (3,)}, "brain_mask": place / "brain_mask.nii.gz"}
    labels = {"labels": "brats2023"} if name == "patient_large" else {}
    return given | labels | {"t1": place / "t1.nii.gz"}


def sri24() -> dict[str, Any]:
    """Return the tissue of SRI24, with which both patients are aligned, by the names of arguments of `load_patient`."""
    labels = {"csf": (1,), "gm": (2,), "wm": (3,)}
    return {"tissue": DATA / "atlas_sri24" / "tissue_labels.nii.gz", "tissue_labels": labels}


def options(given: dict[str, Any]) -> list[str]:
    """Return images as options of `tumorjax personalize`."""
    written: list[str] = []
    for name, value in given.items():
        if isinstance(value, dict):
            labels = [f"{label}={','.join(map(str, numbers))}" for label, numbers in value.items()]
            written += labels if name == "tissue_labels" else [f"--{name}", *labels]
        else:
            written += [f"--{name.replace('_', '-')}", str(value)]
    return written
