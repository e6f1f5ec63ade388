"""The commands of `tumorjax` and their options."""

import argparse
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from tumorjax.cli.cohort import add_cohort
from tumorjax.cli.completion import add_completion
from tumorjax.cli.database import add_database
from tumorjax.cli.ending import complain
from tumorjax.cli.train import add_train

_DISCLAIMER = "For research only; not for clinical use."


class _Help(argparse.HelpFormatter):
    """Wraps a text of one line, and leaves examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and whose numbers are numbers."""

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


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of `tumorjax` with all its commands."""
    parser = _Parser(
        prog="tumorjax",
        description=f"Calibrate models of brain-tumour growth to a patient's images. {_DISCLAIMER}",
        epilog="tumorjax COMMAND --help says more of a command.",
    )
    parser.add_argument("--version", action="version", version=f"tumorjax {version('tumorjax')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    _add_personalize(commands)
    add_cohort(commands, _DISCLAIMER)
    _add_simulate(commands)
    _add_demo(commands)
    add_database(commands, _DISCLAIMER)
    add_train(commands, _DISCLAIMER)
    add_completion(commands)
    return parser


def _add_personalize(commands: argparse._SubParsersAction) -> None:
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
        "exit code: 0 if the results are good or doubtful, 2 if an input cannot be used, 3 if results are written but\n"
        "have failed (quality in metrics.json says why) and no plan is among them, 130 if interrupted",
    )
    images = sub.add_argument_group("images (NIfTI, any orientation and voxel size)")
    images.add_argument("--segmentation", required=True, type=Path, metavar="FILE", help="label map of the tumour")
    images.add_argument(
        "--labels",
        nargs="+",
        metavar="NAME=N,N",
        help="its labels of core and edema, perhaps of a resection cavity, as core=1,3 edema=2 cavity=4; or the name "
        "of a convention: brats2021, brats2023, brats2024, hd-glio, enhancing-first (default: brats2021, which is "
        "core=1,4 edema=2)",
    )
    images.add_argument("--t1", type=Path, metavar="FILE", help="T1-weighted image, with or without skull")
    images.add_argument("--pet", type=Path, metavar="FILE", help="amino-acid PET image (FET)")
    images.add_argument("--brain-mask", type=Path, metavar="FILE", help="where tissue may be")
    images.add_argument(
        "--recurrence", type=Path, metavar="FILE", help="tumour at follow-up, to measure how much of it plans cover"
    )
    images.add_argument(
        "--recurrence-labels",
        metavar="N,N",
        help="its labels that count (default: all but 4, the resection cavity, beside 3)",
    )
    tissue = sub.add_argument_group("healthy tissue: three maps, or a label map, or an atlas")
    _add_maps(tissue)
    tissue.add_argument(
        "--tissue", nargs="+", metavar=("FILE", "NAME=N"), help="label map, and its labels (default: csf=1 gm=2 wm=3)"
    )
    tissue.add_argument(
        "--atlas",
        metavar="NAME",
        help="icbm152 (default), a folder with t1 and either wm, gm and csf or tissue_labels, or a T1 image without "
        "the skull; aligned with the T1 image or the brain mask",
    )
    growth = sub.add_argument_group("model of growth")
    growth.add_argument(
        "--model",
        choices=("fisher-kolmogorov", "mass-effect"),
        default="fisher-kolmogorov",
        help="fisher-kolmogorov: cells spread and divide (default); mass-effect: they also push the brain, which is "
        "calibrated in atlases that stand for the patient's brain before the tumour, and takes many times as long",
    )
    growth.add_argument(
        "--atlases",
        nargs="+",
        metavar="NAME",
        help="for mass-effect: each icbm152, a folder as for --atlas, or a T1 image without the skull; best are "
        "several whose ventricles are once to 1.5 times as large as the patient's (default: icbm152 alone)",
    )
    growth.add_argument(
        "--sparsity",
        type=int,
        metavar="N",
        help="for mass-effect: most Gaussians of which the tumour begins (default: 5)",
    )
    growth.add_argument(
        "--no-refine",
        action="store_true",
        help="for mass-effect: hold the tumour's beginning as found without mass effect, which takes a fraction of the "
        "time; for retrieval and lmi: the match itself, or what the network says, is the answer",
    )
    method = sub.add_argument_group("method of calibration")
    method.add_argument(
        "--method",
        choices=("lbfgs", "tmcmc", "nuts", "npe", "retrieval", "lmi"),
        default="lbfgs",
        help="lbfgs: the most probable parameters and an approximation of their uncertainty (default); tmcmc, nuts: "
        "draws from the posterior itself, by transitional Markov chain Monte Carlo or the No-U-Turn sampler, which "
        "give probability maps and credible volumes, and take several times as long (pip install 'tumorjax[bayes]'); "
        "npe: the same by a network that learns this patient's parameters from simulated images (pip install "
        "'tumorjax[bayes,networks]'); "
        "retrieval: a search that begins at the most similar of many simulated tumours (pip install "
        "'tumorjax[ensemble]'); lmi: Learn-Morph-Infer, a search that begins at what a network reads off the outlines "
        "(pip install 'tumorjax[networks]')",
    )
    method.add_argument("--particles", type=int, metavar="N", help="for tmcmc (default: 2048)")
    method.add_argument(
        "--draws", type=int, metavar="N", help="for nuts: draws of each chain (default: 500); for npe (default: 1000)"
    )
    method.add_argument("--rounds", type=int, metavar="N", help="for npe: of simulation and training (default: 4)")
    method.add_argument("--simulations", type=int, metavar="N", help="for npe: in each round (default: 1000)")
    method.add_argument("--chains", type=int, metavar="N", help="for nuts (default: 4)")
    method.add_argument(
        "--seed", type=int, metavar="N", help="for tmcmc, nuts and npe: of the random numbers (default: 0)"
    )
    method.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="for tmcmc, nuts and npe: keeps what is done; the same command, started again, goes on from there",
    )
    method.add_argument(
        "--database",
        metavar="PLACE",
        help="for retrieval: folder or URL of simulated tumours, made by `tumorjax database build` in the atlas that "
        "--atlas names; its index is built the first time, and kept in ~/.cache/tumorjax",
    )
    method.add_argument(
        "--matches", type=int, metavar="N", help="for retrieval: simulated tumours to begin at (default: 1)"
    )
    method.add_argument(
        "--variant",
        metavar="NAME",
        help="for retrieval: direct compares outlines exactly (default); ds64, ds32 on every second or fourth voxel; "
        "radiomics by six numbers of shape; ae, vae, bf-hash by codes of networks, see tumorjax train autoencoder",
    )
    method.add_argument(
        "--network",
        type=Path,
        metavar="FILE",
        help="for lmi: weights that `tumorjax train inverse` wrote, of tumours in the atlas that --atlas names "
        "(default: those that ship, of icbm152)",
    )
    plan = sub.add_argument_group("plan")
    plan.add_argument(
        "--margin",
        type=float,
        default=15.0,
        metavar="MM",
        help="of the clinical plan around the core, whose volume the model's plan shares (default: 15)",
    )
    plan.add_argument(
        "--plan-despite-failure",
        action="store_true",
        help="write a plan also where the result has failed and must not be used",
    )
    _add_common(sub)


def _add_simulate(commands: argparse._SubParsersAction) -> None:
    sub = commands.add_parser(
        "simulate",
        help="grow a tumour with given parameters in an anatomy",
        description=f"Solve the Fisher-Kolmogorov equation and write the density of tumour cells. {_DISCLAIMER}",
        epilog="example:\n"
        "  tumorjax simulate --diffusivity 0.13 --proliferation 0.025 --duration 300 --origin 28.5 30.5 18.5 "
        "--out grown",
    )
    growth = sub.add_argument_group("growth")
    growth.add_argument("--diffusivity", type=float, required=True, metavar="D", help="in white matter, mm^2/day")
    growth.add_argument("--proliferation", type=float, required=True, metavar="RHO", help="1/day")
    growth.add_argument("--duration", type=float, required=True, metavar="T", help="days from the seed")
    growth.add_argument(
        "--origin",
        type=float,
        nargs=3,
        required=True,
        metavar=("X", "Y", "Z"),
        help="seed, RAS world coordinates in mm",
    )
    growth.add_argument(
        "--ratio", type=float, default=10.0, metavar="R", help="of D in white to grey matter (default: 10)"
    )
    growth.add_argument("--save-every", type=float, metavar="DAYS", help="also write a series of densities")
    anatomy = sub.add_argument_group("anatomy: two or three maps, or an atlas")
    _add_maps(anatomy)
    anatomy.add_argument(
        "--atlas", metavar="NAME", help="icbm152, or a folder with t1, wm, gm and csf (default: icbm152)"
    )
    _add_common(sub)


def _add_demo(commands: argparse._SubParsersAction) -> None:
    sub = commands.add_parser(
        "demo",
        help="make a synthetic patient, calibrate to it and compare with the truth",
        description="Grow a tumour in the ICBM152 atlas on a finer grid and with another scheme than the "
        "calibration's, outline it imperfectly, personalize a model to the outlines, and report against the truth. "
        f"{_DISCLAIMER}",
    )
    sub.add_argument("--seed", type=int, default=1, metavar="N", help="of the random patient (default: 1)")
    _add_common(sub)


def _add_maps(group: argparse._ArgumentGroup) -> None:
    for name, tissue in (("wm", "white matter"), ("gm", "grey matter"), ("csf", "cerebrospinal fluid")):
        group.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"probability map of {tissue}")


def _add_common(sub: argparse.ArgumentParser) -> None:
    output = sub.add_argument_group("output")
    output.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the results; new or empty")
    output.add_argument(
        "--overwrite", action="store_true", help="replace earlier results in a folder that is not empty"
    )
    output.add_argument(
        "--resolution", type=float, default=2.0, metavar="MM", help="of the computation, 0.5 to 8 (default: 2)"
    )
    output.add_argument("--quiet", action="store_true", help="no progress, no summary")
    output.add_argument("--json", action="store_true", help="print the figures as JSON")
