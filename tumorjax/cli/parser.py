"""The commands of `tumorjax` and their options."""

import argparse
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from tumorjax.cellularity import ADC_LAWS, LinearAdcLaw
from tumorjax.cli.bids import add_bids
from tumorjax.cli.cohort import add_cohort
from tumorjax.cli.completion import add_completion
from tumorjax.cli.database import add_database
from tumorjax.cli.ending import complain
from tumorjax.cli.export import add_export
from tumorjax.cli.fibres import add_dti
from tumorjax.cli.mlcube import add_mlcube
from tumorjax.cli.train_parser import add_train
from tumorjax.cli.view import add_view

_DISCLAIMER = "For research only; not for clinical use."


class _Help(argparse.HelpFormatter):
    """Wraps a text of one line, wraps each line of a list by itself, and leaves examples as they are."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        first, *lines = text.split("\n")
        found = super()._split_lines(first, width)
        for line in lines:
            # What does not fit into a line of a list hangs below it.
            part, *rest = super()._split_lines(line, width - 2)
            found += [part, *(f"  {each}" for each in rest)]
        return found

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line, and takes finite numbers only."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_Help, **settings)
        self.register("type", float, _finite)
        self.register("type", int, _whole)

    def error(self, message: str) -> NoReturn:
        complain(f"{self.prog}: error: {message}; see {self.prog} --help")
        self.exit(2)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise argparse.ArgumentTypeError(f"got {text}; give a finite number")
    return value


def _whole(text: str) -> int:
    # More does not fit the integers of arrays.
    if not abs(value := int(text)) < 2**63:
        raise argparse.ArgumentTypeError(f"got {text[:40]}; give a number of at most 18 digits")
    return value


def command_parser(given: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser of `tumorjax` with all its commands.

    Parameters
    ----------
    given
        Words of the command, if they are known: options of models and methods, whose modules take seconds to import,
        are left out where the command does not need them.
    """
    parser = _Parser(
        prog="tumorjax",
        description=f"Calibrate models of brain-tumour growth to a patient's images. {_DISCLAIMER}",
        epilog="tumorjax COMMAND --help describes a command and its options.",
    )
    parser.add_argument("--version", action="version", version=f"tumorjax {version('tumorjax')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    calibrates = given is None or given[:1] in (["personalize"], ["personalize-cohort"], ["mlcube"], ["completion"])
    grows = given is None or given[:1] in (["simulate"], ["database"], ["completion"])
    _add_personalize(commands, calibrates)
    add_cohort(commands, _DISCLAIMER, calibrates)
    add_mlcube(commands, _DISCLAIMER, calibrates)
    _add_simulate(commands, grows)
    _add_demo(commands)
    add_export(commands, _DISCLAIMER)
    add_view(commands)
    add_database(commands, _DISCLAIMER, grows)
    add_train(commands, _DISCLAIMER)
    add_completion(commands)
    return parser


def _add_personalize(commands: argparse._SubParsersAction, calibrates: bool) -> None:
    sub = commands.add_parser(
        "personalize",
        help="calibrate to a patient's segmentation and write maps, a plan and a report",
        description="Calibrate a model of growth to a patient's tumour outlines (and PET image), and write the density "
        "of tumour cells, its uncertainty, a target volume and a report; with mass effect also how far the tumour has "
        f"displaced the brain. {_DISCLAIMER}",
        epilog="examples:\n"
        "  tumorjax personalize --segmentation seg.nii.gz --t1 t1.nii.gz --out result\n"
        "  tumorjax personalize --segmentation seg.nii.gz --labels core=1,4 edema=2 --wm wm.nii.gz --gm gm.nii.gz "
        "--out result\n"
        "  tumorjax personalize --segmentation seg.nii.gz --t1 t1.nii.gz --method lmi --out result\n"
        "  tumorjax personalize --visits visits.csv --treatments treatments.csv --forecast 90,120 --out result\n"
        "  tumorjax personalize --segmentation seg.nii.gz --t1 t1.nii.gz --plan-dose 30x2 --next-scan 30,60,90 "
        "--out result\n"
        "  tumorjax personalize --bids dataset --subject 01 --session pre --out result\n"
        "exit code: 0 if the results are good or doubtful, 2 if an input cannot be used, 3 if results are written but\n"
        "have failed (quality in metrics.json says why) and no plan is among them, 130 if interrupted",
    )
    images = sub.add_argument_group("images (NIfTI, or the folder of a DICOM series; any orientation and voxel size)")
    seen = images.add_mutually_exclusive_group()
    seen.add_argument("--segmentation", type=Path, metavar="FILE", help="label image of the tumour")
    seen.add_argument(
        "--visits",
        type=Path,
        metavar="FILE",
        help="table of several days in place of it: a CSV file with the columns day and segmentation, and perhaps t1, "
        "pet, adc, flair and labels; paths are relative to it",
    )
    images.add_argument(
        "--labels",
        nargs="+",
        metavar="NAME=N,N",
        help="labels of core and edema in the segmentation, and of a resection cavity if it has one, such as core=1,3 "
        "edema=2 cavity=4; or the name of a convention: brats2021, brats2023, brats2024, brats2013, hd-glio, "
        "decathlon, enhancing-first (default: the one of BraTS that the labels fit)",
    )
    images.add_argument("--t1", type=Path, metavar="FILE", help="T1-weighted image, with or without skull")
    images.add_argument("--pet", type=Path, metavar="FILE", help="amino-acid PET image (FET)")
    images.add_argument("--flair", type=Path, metavar="FILE", help="FLAIR image, which the report shows")
    images.add_argument(
        "--adc",
        type=Path,
        metavar="FILE",
        help="image of the apparent diffusion coefficient of water, from which the density in the core is read",
    )
    images.add_argument(
        "--adc-law",
        choices=tuple(ADC_LAWS),
        default=LinearAdcLaw.name,
        metavar="NAME",
        help="linear: the density in the core is proportional to what the ADC lacks to free water (default); inverse: "
        "to 1 / ADC",
    )
    images.add_argument(
        "--brain-mask", type=Path, metavar="FILE", help="mask of the brain, outside of which there is no tissue"
    )
    images.add_argument(
        "--transform",
        type=Path,
        metavar="FILE",
        help="map from the patient to the atlas, as an earlier result has it in atlas_transform.tfm, or another "
        "program's in ITK's text format; nothing is registered then",
    )
    add_dti(images, "patient's world")
    images.add_argument(
        "--recurrence", type=Path, metavar="FILE", help="tumour at follow-up, to measure how much of it the plans cover"
    )
    images.add_argument(
        "--recurrence-labels",
        metavar="N,N",
        help="labels that count as recurrence (default: all, except label 4 if the image also has "
        "label 3, because it is the resection cavity then)",
    )
    add_bids(sub)
    course = sub.add_argument_group("course over several visits")
    course.add_argument(
        "--treatments",
        type=Path,
        metavar="FILE",
        help="table of what was done: a CSV file with the columns day and kind (radiation, drug or surgery), and dose "
        "(Gy a fraction), fractions and until (end of a drug)",
    )
    course.add_argument(
        "--forecast",
        metavar="DAY,DAY",
        help="days after the last visit for which the tumour is predicted, on the clock of the visits",
    )
    course.add_argument(
        "--hold-out",
        action="store_true",
        help="keep the last of three or more visits back, and compare the forecast for its day with it",
    )
    decisions = sub.add_argument_group("dose plan and next scan, after the last visit")
    decisions.add_argument(
        "--plan-dose",
        metavar="NxGY",
        help="plan the dose of so many fractions of so many Gy, such as 30x2: the uniform dose in the target volume is "
        "placed anew such that the fewest cells are expected to survive, with the same integral dose",
    )
    decisions.add_argument(
        "--plan-objective",
        choices=("cells", "log-kill"),
        metavar="WHAT",
        help="what is minimised: cells, the expected number of surviving cells, or log-kill, the expected logarithm of "
        "that number, in which slow and fast tumours weigh the same (default: log-kill with one visit, which shows no "
        "speed of growth; cells with several)",
    )
    decisions.add_argument(
        "--plan-start",
        type=float,
        metavar="DAY",
        help="day of the first fraction, on the clock of the visits (default: the day of the last visit)",
    )
    decisions.add_argument(
        "--maximum-dose",
        type=float,
        metavar="GY",
        help="highest dose of a voxel in the whole course (default: 1.2 times the uniform dose)",
    )
    decisions.add_argument(
        "--spare",
        action="append",
        metavar="NAME=MASK:GY",
        help="an organ, its mask (NIfTI, in the patient's world) and its highest dose in the whole course, such as "
        "brainstem=brainstem.nii.gz:54; may be repeated",
    )
    decisions.add_argument(
        "--next-scan",
        metavar="DAY,DAY",
        help="candidate days for one more scan: how much each is expected to say about the speed of growth and about "
        "the later volume",
    )
    tissue = sub.add_argument_group("healthy tissue: two or three maps, or a label image, or an atlas")
    _add_maps(tissue)
    tissue.add_argument(
        "--tissue",
        nargs="+",
        metavar=("FILE", "NAME=N"),
        help="label image of the tissue, and its labels (default: csf=1 gm=2 wm=3)",
    )
    tissue.add_argument(
        "--atlas",
        metavar="NAME",
        help="icbm152 (default), a folder with t1 and either wm, gm and csf or tissue_labels, or a T1 image without "
        "the skull; aligned with the T1 image or the brain mask",
    )
    tissue.add_argument(
        "--healthy",
        choices=("affine", "coupled"),
        metavar="HOW",
        help="for models that displace tissue, which atlas stands for the brain before the tumour: affine, an atlas "
        "behind an affine map, as published; or coupled, carried by what a registration finds beyond the push of the "
        "tumour, for which it needs a T1 image (default: coupled where it can be)",
    )
    if calibrates:
        from tumorjax.cli.options import add_model_and_method, add_registration

        add_registration(tissue)
        add_model_and_method(sub)
    plan = sub.add_argument_group("plan")
    plan.add_argument(
        "--margin",
        type=float,
        default=15.0,
        metavar="MM",
        help="margin of the clinical plan around the core; the model's plan has the same volume (default: 15)",
    )
    plan.add_argument(
        "--plan-despite-failure",
        action="store_true",
        help="write a plan also where the result has failed and must not be used",
    )
    _add_common(sub).add_argument(
        "--animate",
        action="store_true",
        help="also write animation.html, a film of the growth from its seed to the images, which needs no other file",
    )


def _add_simulate(commands: argparse._SubParsersAction, grows: bool) -> None:
    sub = commands.add_parser(
        "simulate",
        help="grow a tumour with given parameters in an anatomy",
        description="Solve the equations of a model of growth, and write the density of tumour cells; with mass effect "
        f"also the displacement of the tissue, mm along the axes of RAS, and the displaced tissue. {_DISCLAIMER}",
        epilog="examples:\n"
        "  tumorjax simulate --diffusivity 0.13 --proliferation 0.025 --duration 300 --origin 28.5 30.5 18.5 "
        "--out grown\n"
        "  tumorjax simulate --model mass-effect --mass-effect 40000 --diffusivity 0.13 --proliferation 0.025 "
        "--duration 300 --origin 28.5 30.5 18.5 --resolution 4 --out pushed",
    )
    growth = sub.add_argument_group("growth")
    if grows:
        from tumorjax.cli.growth import add_model

        add_model(growth, "")
    growth.add_argument(
        "--diffusivity", type=float, required=True, metavar="D", help="diffusivity in white matter, mm^2/day"
    )
    growth.add_argument("--proliferation", type=float, required=True, metavar="RHO", help="proliferation rate, 1/day")
    growth.add_argument("--duration", type=float, required=True, metavar="T", help="duration of growth, days")
    growth.add_argument(
        "--origin",
        type=float,
        nargs=3,
        required=True,
        metavar=("X", "Y", "Z"),
        help="place where the tumour begins, RAS world coordinates in mm",
    )
    growth.add_argument(
        "--save-every", type=float, metavar="DAYS", help="also write the density at times that many days apart"
    )
    anatomy = sub.add_argument_group("anatomy: two or three maps, or an atlas")
    _add_maps(anatomy)
    anatomy.add_argument(
        "--atlas", metavar="NAME", help="icbm152, or a folder with t1, wm, gm and csf (default: icbm152)"
    )
    add_dti(anatomy, "world of the anatomy")
    _add_common(sub)


def _add_demo(commands: argparse._SubParsersAction) -> None:
    sub = commands.add_parser(
        "demo",
        help="make a synthetic patient, calibrate to it and compare with the truth",
        description="Grow a tumour in the ICBM152 atlas on a finer grid and with another scheme than the "
        "calibration's, outline it imperfectly, personalize a model to the outlines, and report against the truth. "
        f"{_DISCLAIMER}",
    )
    sub.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the random patient (default: 1)")
    _add_common(sub)


def _add_maps(group: argparse._ArgumentGroup) -> None:
    for name, tissue in (("wm", "white matter"), ("gm", "grey matter"), ("csf", "cerebrospinal fluid")):
        group.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"probability map of {tissue}")


def _add_common(sub: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of all commands that write results, and return their group."""
    output = sub.add_argument_group("output")
    output.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder of the results, which is new or empty"
    )
    output.add_argument(
        "--overwrite", action="store_true", help="replace earlier results in a folder that is not empty"
    )
    output.add_argument(
        "--resolution",
        type=float,
        default=2.0,
        metavar="MM",
        help="edge of the voxels of the computation, 0.5 to 8 (default: 2)",
    )
    output.add_argument("--quiet", action="store_true", help="show neither progress nor a summary")
    output.add_argument("--json", action="store_true", help="print the numbers as JSON instead of a table")
    output.add_argument(
        "--log-file", type=Path, metavar="FILE", help="append stages with their times, notes and details to a file"
    )
    return output
