"""The subcommand `mlcube`: a folder of patients in, a density of each out, as PredictGBM's containers have it."""

import argparse
import re
import warnings
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tumorjax.cli.ending import complain
from tumorjax.quality import Status

if TYPE_CHECKING:
    import numpy as np

    from tumorjax.io import Volume
    from tumorjax.results import Personalization

# Names of a patient's folder, of the images in it, and of the density. A patient without one of the needed images is
# broken; other images that later versions of the contract hand over, such as T1 and FLAIR, are not used.
_FOLDER = re.compile(r"Patient-(.+)")
_NEEDED = {"segmentation": "tumorseg", "white_matter": "wm", "grey_matter": "gm", "csf": "csf"}
_OPTIONAL = {"pet": "pet", "brain_mask": "brain_mask"}


def add_mlcube(commands: argparse._SubParsersAction, disclaimer: str, calibrates: bool = True) -> None:
    """Add the subcommand to a parser; the options of models and methods where they are asked for."""
    sub = commands.add_parser(
        "mlcube",
        help="predict the density of each patient of a folder, as containers of PredictGBM do",
        description="Calibrate a model of growth to each patient of a folder, and write the density of tumour cells, "
        "by the contract of PredictGBM's containers: IN/Patient-00000 has 00000-tumorseg.nii.gz with the labels of "
        "BraTS 2023, the tissue maps 00000-gm.nii.gz, 00000-wm.nii.gz and 00000-csf.nii.gz, and perhaps "
        "00000-pet.nii.gz and 00000-brain_mask.nii.gz; OUT/00000.nii.gz is the density on the voxels of the "
        f"segmentation. A patient that cannot be calibrated does not stop the others. {disclaimer}",
        epilog="exit code: 0 if each patient has a density, 1 if some have none, 2 if the command could not begin, 130 "
        "if interrupted",
    )
    sub.add_argument("folder", type=Path, metavar="IN", help="folder with a folder of images for each patient")
    sub.add_argument("out", type=Path, metavar="OUT", help="folder of the densities")
    sub.add_argument(
        "--labels",
        nargs="+",
        default=["brats2023"],
        metavar="NAME=N,N",
        help="labels of the segmentations, as for personalize (default: brats2023)",
    )
    sub.add_argument(
        "--resolution",
        type=float,
        default=2.0,
        metavar="MM",
        help="edge of the voxels of the computation, 0.5 to 8 (default: 2)",
    )
    sub.add_argument("--overwrite", action="store_true", help="replace densities that are there already")
    sub.add_argument("--quiet", action="store_true", help="show neither progress nor a summary")
    sub.set_defaults(healthy=None, atlas=None, json=False)
    if calibrates:
        from tumorjax.cli.options import add_model_and_method, add_registration

        add_registration(sub)
        add_model_and_method(sub)


def run(options: argparse.Namespace) -> int:
    """Predict the density of each patient, and return the exit code: 0, or 1 where some have none."""
    from tumorjax.cli.commands import check_resolution
    from tumorjax.cli.console import Screen
    from tumorjax.cli.growth import model_of
    from tumorjax.cli.options import all_options, method_of
    from tumorjax.io import InputError
    from tumorjax.patient.labels import read_labels
    from tumorjax.workers import run_tasks

    if of_one := [option.flag for option in all_options() if option.writes and getattr(options, option.name, None)]:
        raise InputError(f"{of_one[0]}: belongs to one patient; leave it out")
    check_resolution(options.resolution)
    # What cannot be made of its options ends the command here.
    model_of(options)
    method_of(options)
    options.labels = read_labels(options.labels)
    tasks = [
        argparse.Namespace(
            **vars(options) | {"name": name, "images": folder, "density": options.out / f"{name}.nii.gz"}
        )
        for name, folder in _patients(options.folder).items()
    ]
    _make_room(options.out, [task.density for task in tasks], options.overwrite)
    broken = 0
    with Screen(quiet=options.quiet, as_json=False) as screen, closing(run_tasks(predict, tasks)) as outcomes:
        screen.progress("patients", 0.0)
        for done, outcome in enumerate(outcomes, 1):
            name = tasks[outcome.number].images.name
            if outcome.error is not None:
                broken += 1
                complain(f"tumorjax mlcube: {name}: {outcome.error}")
            elif outcome.result:
                complain(
                    f"tumorjax mlcube: {name}: the density is written, but the result has failed: {outcome.result}"
                )
            screen.progress("patients", done / len(tasks), f"{done} of {len(tasks)} patients")
    screen.results({"patients": len(tasks), "densities": len(tasks) - broken}, options.out)
    return 1 if broken else 0


def predict(options: argparse.Namespace) -> str:
    """Write the density of one patient, and return why the result has failed; nothing where it has not."""
    import jax
    import numpy as np

    from tumorjax.cli.growth import model_of
    from tumorjax.cli.noise import without_library_noise
    from tumorjax.cli.options import method_of
    from tumorjax.io import InputError, read_volume, write_volume
    from tumorjax.patient import load_patient
    from tumorjax.pipeline.personalize import personalize
    from tumorjax.registration import RegistrationWarning

    with without_library_noise(), warnings.catch_warnings():
        # A failed alignment is among the reasons.
        warnings.simplefilter("ignore", RegistrationWarning)
        patient = load_patient(
            **_images(options.images, options.name),
            labels=options.labels,
            resolution=options.resolution,
            registration=options.registration,
        )
        result = personalize(
            patient,
            model=model_of(options),
            method=method_of(options),
            key=jax.random.key(options.seed or 0),
            healthy=options.healthy,
        )
        given = read_volume(_file(options.images, options.name, _NEEDED["segmentation"]), name="segmentation")
        density = _on_voxels(result, given)
        if not np.isfinite(density).all():
            raise InputError("the density has values that are no numbers, so it is not written")
        write_volume(options.density, np.clip(density, 0, 1), like=given)
    return " ".join(map(str, result.reasons)) if result.quality is Status.FAILED else ""


def _patients(folder: Path) -> dict[str, Path]:
    """Return the folders of the patients by their names in files, in order."""
    from tumorjax.io import InputError

    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; give one with a folder Patient-00000 for each patient")
    found = {
        match[1]: each
        for each in sorted(folder.iterdir())
        if each.is_dir() and (match := _FOLDER.fullmatch(each.name)) is not None
    }
    if not found:
        raise InputError(f"{folder}: has no folder of a patient; each is called Patient- and a name, as Patient-00000")
    return found


def _make_room(out: Path, densities: list[Path], overwrite: bool) -> None:
    from tumorjax.io import InputError

    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder")
    if not overwrite and (there := [path for path in densities if path.exists()]):
        raise InputError(f"{there[0]}: is there already; give another folder or permit --overwrite")
    out.mkdir(parents=True, exist_ok=True)


def _file(folder: Path, name: str, image: str) -> Path:
    return folder / f"{name}-{image}.nii.gz"


def _images(folder: Path, name: str) -> dict[str, Any]:
    """Return a patient's images by the arguments of `load_patient`; an InputError where a needed one is missing."""
    from tumorjax.io import InputError

    needed = {argument: _file(folder, name, image) for argument, image in _NEEDED.items()}
    if missing := [path.name for path in needed.values() if not path.is_file()]:
        raise InputError(f"has no {' and no '.join(missing)}; a patient needs a segmentation and three tissue maps")
    optional = {argument: _file(folder, name, image) for argument, image in _OPTIONAL.items()}
    return needed | {argument: path for argument, path in optional.items() if path.is_file()}


def _on_voxels(result: "Personalization", given: "Volume") -> "np.ndarray":
    """Return the density on the voxels of the segmentation that was given, which the results may extend."""
    from tumorjax.io import resample

    reference = result.patient.reference
    if reference.data.shape == given.data.shape:
        return result.density
    return resample(result.density, reference.affine, given.grid, kind="nearest")
