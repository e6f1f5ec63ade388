"""The options of the subcommand `train`."""

import argparse
from pathlib import Path
from typing import Any

# Steps, tumours a step, rate, tumours to learn from and to validate on.
_AUTOENCODER = {"steps": 2500, "batch": 16, "rate": 5e-3, "tumours": 1500, "validation": 150}
_SURROGATE = {"steps": 3000, "batch": 16, "rate": None, "tumours": 15_000, "validation": 256}
_INVERSE = {"steps": 10_000, "batch": 32, "rate": None, "tumours": None, "validation": 512}


def add_train(commands: argparse._SubParsersAction, disclaimer: str) -> None:
    """Add the subcommand to a parser."""
    sub = commands.add_parser(
        "train",
        help="train networks on a database of simulated tumours",
        description=f"Train networks on a database of simulated tumours (pip install 'tumorjax[networks,ensemble]'). "
        f"{disclaimer}",
    )
    networks = sub.add_subparsers(dest="network", metavar="NETWORK", required=True, parser_class=type(sub))
    autoencoder = networks.add_parser(
        "autoencoder",
        help="the network whose codes of outlines are compared by the variants ae, vae and bf-hash of a query",
        description="Train an autoencoder of tumours' outlines; a query then compares outlines by its codes. The "
        "network learns from the first tumours of the database, and the next ones determine which of its weights are "
        f"kept. {disclaimer}",
    )
    autoencoder.add_argument(
        "--kind",
        choices=("ae", "vae", "bf-hash"),
        required=True,
        help="ae: autoencoder; vae: variational autoencoder; bf-hash: codes of bits",
    )
    _add_common(autoencoder, _AUTOENCODER)
    surrogate = networks.add_parser(
        "surrogate",
        help="the network that predicts a tumour in place of the solver",
        description="Train a surrogate of the solver, which predicts a tumour from the tissue around its seed. The "
        "network learns from the first tumours of the database, and the next ones determine which of its weights are "
        f"kept. {disclaimer}",
    )
    surrogate.add_argument(
        "--loss",
        default="tumour,csf",
        metavar="PARTS",
        help="regions in which errors count, separated by commas: tumour, csf, brain, background; "
        "each has its own term in the loss, and regions joined by + share one (default: tumour,csf)",
    )
    surrogate.add_argument(
        "--window",
        type=int,
        metavar="N",
        help="voxels along each edge of the cube that the network sees; fewer than 64 only with "
        "--size small (default: 64)",
    )
    surrogate.add_argument(
        "--csf-only", action="store_true", help="show the network the CSF only, without white and grey matter"
    )
    surrogate.add_argument("--skips", action="store_true", help="connect encoder and decoder at every resolution")
    _add_common(surrogate, _SURROGATE, several=True)
    inverse = networks.add_parser(
        "inverse",
        help="the network of Learn-Morph-Infer, which estimates the parameters of a tumour from its outlines",
        description="Train the network of Learn-Morph-Infer, which estimates mu1, mu2 and the origin from a tumour's "
        "outlines. The network learns from the first tumours of the database, and the next ones determine which of its "
        f"weights are kept. {disclaimer}",
    )
    inverse.add_argument(
        "--targets",
        default="mu1,mu2,x,y,z",
        metavar="NAMES",
        help="parameters that the network estimates, separated by commas: mu1, mu2, D, rho, T, x, y, z, "
        "threshold_core and threshold_lesion, and gamma of mass effect (default: mu1,mu2,x,y,z)",
    )
    inverse.add_argument(
        "--components",
        type=int,
        metavar="N",
        help="Gaussians of the distribution that the network estimates; 0 estimates the parameters alone (default: 4, "
        "for --size published 0)",
    )
    inverse.add_argument(
        "--reader-error",
        type=float,
        metavar="MM",
        help="standard deviation of the smooth random displacement of outlines (default: 2 where a distribution is "
        "estimated, otherwise 0)",
    )
    begun = inverse.add_mutually_exclusive_group()
    begun.add_argument(
        "--start",
        type=Path,
        metavar="FILE",
        help="weights with which the training begins, and whose architecture and targets it keeps",
    )
    begun.add_argument(
        "--trunk",
        type=Path,
        metavar="FILE",
        help="weights with which the training begins, on other voxels or with tumours that grew by another model; for "
        "other targets with those of all layers but the last; `shipped` takes those of the amortised posterior",
    )
    _add_common(inverse, _INVERSE, several=True)


def _add_common(parser: argparse.ArgumentParser, defaults: dict[str, Any], *, several: bool = False) -> None:
    """Add the options that all networks have."""
    add = parser.add_argument
    more = "; may be given several times, to learn from several brains" if several else ""
    add(
        "--database",
        required=True,
        action="append",
        metavar="PLACE",
        help=f"folder or URL of simulated tumours, made by `tumorjax database build`{more}",
    )
    add("--out", required=True, type=Path, metavar="FILE", help="file to which the weights are written (.safetensors)")
    add(
        "--size",
        choices=("small", "published"),
        default="small",
        help="small: can be trained on a CPU (default); published: convolutions as in the paper, which need a GPU",
    )
    steps, batch, rate = (defaults[name] for name in ("steps", "batch", "rate"))
    add("--steps", type=int, default=steps, metavar="N", help=f"number of steps of the optimiser (default: {steps})")
    add("--batch", type=int, default=batch, metavar="N", help=f"tumours in each step (default: {batch})")
    said = "depends on --size" if rate is None else f"{rate:g}"
    add("--rate", type=float, default=rate, metavar="R", help=f"largest learning rate (default: {said})")
    add("--seed", type=int, default=0, metavar="N", help="seed of the random weights, batches and noise (default: 0)")
    tumours, validation = defaults["tumours"], defaults["validation"]
    each = " of each database" if several else ""
    add(
        "--tumours",
        type=int,
        default=tumours,
        metavar="N",
        help=f"tumours{each} from which the network learns (default: {tumours or 'all others'})",
    )
    add(
        "--validation",
        type=int,
        default=validation,
        metavar="N",
        help=f"further tumours{each} by which the best weights are chosen (default: {validation})",
    )
    add(
        "--precision",
        choices=("full", "mixed"),
        default="full",
        help="full: compute in float32 (default); mixed: in bfloat16 where possible, which is faster on a GPU",
    )
    add(
        "--checkpoints",
        type=Path,
        metavar="DIR",
        help="folder in which progress is kept; the same command, started again, continues from there "
        "to the same weights",
    )
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="TOML file with options, such as steps = 4000; options of the command line replace them",
    )
    add(
        "--log",
        type=Path,
        metavar="FILE",
        help="file to which the losses of all steps are written (default: the name of --out, with the ending .csv)",
    )
    add("--overwrite", action="store_true", help="replace an existing file of weights")
    add("--quiet", action="store_true", help="show neither progress nor a summary")
    add("--json", action="store_true", help="print the figures as JSON")
