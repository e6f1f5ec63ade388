"""Results as derivatives of a BIDS dataset: its names, sidecars and description."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

from tumorjax.io import InputError, output_folder
from tumorjax.results.files import write_json
from tumorjax.storage import new_file, parsed

_VERSION = "1.9.0"
_DESCRIPTION, _IGNORE = "dataset_description.json", ".bidsignore"
# What a file of results is called, and what it shows. Densities are shares of the capacity, for which BIDS has the
# suffix of probabilities.
_IMAGES = {
    "density.nii.gz": ("label-tumor_desc-density_probseg", "Density of tumour cells, as a share of the capacity"),
    "density_std.nii.gz": ("label-tumor_desc-densitystd_probseg", "Standard deviation of the density of tumour cells"),
    "plan.nii.gz": ("label-plan_desc-tumorjax_mask", "Target volume of the model"),
    "tissue.nii.gz": ("desc-healthy_dseg", "Tissue in which the tumour grew: 1 fluid, 2 grey matter, 3 white matter"),
}
# Everything else has names that the standard does not know, which validators ignore.
_OTHERS = "tumorjax"


def check_subject(root: Path, results: Path, subject: str, session: str | None, *, overwrite: bool = False) -> None:
    """Raise an InputError where `write_derivatives` would, before the results are made.

    Parameters
    ----------
    root, subject, session, overwrite
        See `write_derivatives`.
    results
        Folder in which the results will lie, which is neither in that of the derivatives nor around it.
    """
    check_derivatives(root)
    one, other = root.resolve(), results.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise InputError(f"bids-derivatives {root}: lies in the folder of the results, or that in it; give another")
    folder = root.joinpath(*_entities(subject, session), "anat")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"bids-derivatives {root}: has results of sub-{subject} already; permit --overwrite")


def _entities(subject: str, session: str | None) -> list[str]:
    return [f"sub-{subject}", *([f"ses-{session}"] if session else [])]


def check_derivatives(root: Path) -> None:
    """Raise an InputError where a folder cannot be a dataset of our derivatives: it is one of another program."""
    description = root / _DESCRIPTION
    if root.exists() and not root.is_dir():
        raise InputError(f"bids-derivatives {root}: is a file; give a folder")
    if not description.exists():
        if root.is_dir() and any(not each.name.startswith(".") for each in root.iterdir()):
            raise InputError(f"bids-derivatives {root}: is no dataset, and not empty; give another folder")
        return
    try:
        names = [each.get("Name") for each in parsed(description.read_bytes())["GeneratedBy"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        names = []
    if _OTHERS not in names:
        raise InputError(f"bids-derivatives {root}: is a dataset of another program; give another folder")


def write_derivatives(
    root: Path, results: Path, subject: str, session: str | None, sources: list[str], *, overwrite: bool = False
) -> Path:
    """Write the results of a folder into a dataset of derivatives, and return the subject's folder there.

    Parameters
    ----------
    root
        Folder of the derivatives, with a `dataset_description.json` of ours or new.
    results
        Folder that `write_personalization` has filled.
    subject, session
        Labels without "sub-" and "ses-".
    sources
        Names of the images that were calibrated to, which sidecars name.
    overwrite
        Permit results of the same subject and session.

    Raises
    ------
    InputError
        As of `check_derivatives`; or if there are results of the subject already.
    """
    check_derivatives(root)
    root.mkdir(parents=True, exist_ok=True)
    entities = _entities(subject, session)
    if not (root / _DESCRIPTION).exists():
        description = {
            "Name": "Personalized tumour growth",
            "BIDSVersion": _VERSION,
            "DatasetType": "derivative",
            "License": "n/a",
            "GeneratedBy": [{"Name": _OTHERS, "Version": version("tumorjax")}],
        }
        with new_file(root / _DESCRIPTION) as partial:
            write_json(partial, description)
        with new_file(root / _IGNORE) as partial:
            partial.write_text(f"*_{_OTHERS}.*\n**/SHA256SUMS\n")
    folder = root.joinpath(*entities, "anat")
    with output_folder(folder, overwrite) as out:
        for path in sorted(results.iterdir()):
            if not path.is_file() or path.name.startswith(".") or path.name == "SHA256SUMS":
                continue
            stem, _, extension = path.name.partition(".nii") if ".nii" in path.name else path.name.rpartition(".")
            extension = f"nii{extension}" if ".nii" in path.name else extension
            desc = "".join(each for each in stem if each.isalnum())
            name, said = _IMAGES.get(path.name, (f"desc-{desc}_{_OTHERS}", ""))
            target = out / f"{'_'.join(entities)}_{name}"
            shutil.copyfile(path, target.with_name(f"{target.name}.{extension}"))
            if said:
                sidecar = {"Description": said, "Sources": sources, "SpatialReference": "orig", "SkullStripped": False}
                target.with_name(f"{target.name}.json").write_text(json.dumps(sidecar, indent=2) + "\n")
    return folder
