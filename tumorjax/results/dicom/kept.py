"""What a folder of results has for clinical systems, read back and compared with its checksums."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from tumorjax.io import InputError, Volume, read_volume, settle
from tumorjax.patient.patient import FRAME
from tumorjax.results.provenance import check_whole
from tumorjax.storage import parsed, sha256

_DENSITY, _PLAN, _DOSE = "density.nii.gz", "plan.nii.gz", "dose.nii.gz"
_PARAMETERS, _METRICS = "parameters.json", "metrics.json"
# What the record of a result has of DICOM images.
_FRAMES = f"sha256 of {FRAME}"


@dataclass(frozen=True, eq=False)
class KeptResult:
    """The images of a result, and what they are said to be.

    Parameters
    ----------
    density
        Density of tumour cells, as a share of the capacity.
    plan
        Mask of the target volume.
    dose
        Planned dose of the whole course, Gy; None if there is none.
    fractions
        Number of fractions of the planned dose; None if there is none.
    quality
        Quality of the result: good, doubtful or failed.
    frames
        SHA-256 of the frames of reference of the DICOM images that the result was made from; none without such images.
    made
        When the result was made, UTC.
    digest
        SHA-256 of the images that were read, by which objects made from them are recognised.
    """

    density: Volume
    plan: Volume
    dose: Volume | None
    fractions: int | None
    quality: str
    frames: frozenset[str]
    made: datetime.datetime
    digest: str


def read_kept(folder: Path) -> KeptResult:
    """Read the results of `tumorjax personalize` in a folder.

    Raises
    ------
    InputError
        If the folder has no such results, or they are not as they were written, or there is no plan among them.
    """
    if not folder.is_dir():
        raise InputError(f"result {folder}: is no folder; give the folder of a result of tumorjax personalize")
    settle(folder)
    try:
        listed = check_whole(folder, ".json", _DENSITY, _PLAN, _DOSE)
        metrics = parsed((folder / _METRICS).read_bytes())
        parameters = parsed((folder / _PARAMETERS).read_bytes())
        provenance = parameters["provenance"]
        made = datetime.datetime.fromisoformat(provenance["date"])
        frames = frozenset(str(value) for key, value in provenance.items() if key.startswith(_FRAMES))
        fractions = int(parameters["dose_plan"]["fractions"]) if _DOSE in listed else None
        quality = str(metrics["quality"])
        if _DENSITY not in listed:
            raise ValueError("there is no density")
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"result {folder}: has no results of tumorjax personalize, or not as they were written; run it again"
        ) from None
    if _PLAN not in listed:
        raise InputError(
            f"result {folder}: has no plan, because the result has {quality}; metrics.json says why, and "
            "personalize --plan-despite-failure writes one all the same"
        )
    names = [name for name in (_DENSITY, _PLAN, _DOSE) if name in listed]
    images = {name: read_volume(folder / name, name=name.removesuffix(".nii.gz")) for name in names}
    if not images[_PLAN].data.any():
        images[_PLAN].fail("is empty, so that there is nothing to export")
    digest = "/".join(sha256(folder / name) for name in names)
    return KeptResult(images[_DENSITY], images[_PLAN], images.get(_DOSE), fractions, quality, frames, made, digest)
