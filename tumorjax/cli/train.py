"""The subcommand `train`: weights of networks, from a database of simulated tumours."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tumorjax.cli.ending import complain, exit_code, how

if TYPE_CHECKING:
    from tumorjax.cli.console import Screen
    from tumorjax.ensemble import Database
    from tumorjax.networks import PackedOutlines, Training, TrainingProgress

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
    inverse.add_argument(
        "--start",
        type=Path,
        metavar="FILE",
        help="weights with which the training begins, and whose architecture and targets it keeps",
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


def run(options: argparse.Namespace) -> None:
    """Train the chosen network."""
    from tumorjax.cli.console import Screen
    from tumorjax.io import InputError
    from tumorjax.storage import DISK_ERRORS, exclusive

    screen = Screen(quiet=options.quiet, as_json=options.json)
    try:
        with exclusive(options.out):
            if options.out.exists() and not options.overwrite:
                raise ValueError(f"{options.out} exists already; give another file, or --overwrite")
            with screen:
                figures = _trained(options, screen)
    except KeyboardInterrupt as interrupt:
        complain(f"tumorjax train: {how(interrupt)}; {_kept(options)}")
        raise SystemExit(exit_code(interrupt)) from None
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise InputError(
            f"{error.filename}: cannot be written ({error.strerror}); make space there; {_kept(options)}"
        ) from error
    screen.results(figures, options.out)


def _kept(options: argparse.Namespace) -> str:
    """Return in words what a training that did not come to its end leaves."""
    if options.checkpoints is None:
        return "no checkpoints were asked for"
    return f"{options.checkpoints} keeps the progress, and the same command continues from there"


def _trained(options: argparse.Namespace, screen: "Screen") -> dict[str, Any]:
    from tumorjax.ensemble import Database
    from tumorjax.networks import DamagedCheckpoint, TrainingResult
    from tumorjax.patient.alignment import noting

    databases, start = [Database.open(place) for place in options.database], time.monotonic()
    least = min(len(database) for database in databases)
    wanted = least - options.validation if options.tumours is None else options.tumours
    if min(wanted, options.validation) < 2 or wanted + options.validation > least:
        raise ValueError(
            f"the database has {least} tumours, to be shared between --tumours and --validation, two each at least; "
            f"got {wanted} and {options.validation}"
        )
    prints = [database.fingerprint for database in databases]
    settings = {
        "database": prints[0] if len(prints) == 1 else prints,
        "tumours": options.tumours,
        "validation": options.validation,
    }

    begun = False

    def progress(state: "TrainingProgress") -> None:
        nonlocal begun
        if not begun and state.step > 1:
            screen.note(f"{options.checkpoints} keeps {state.step - 1} steps already; this run goes on from there.")
        begun = True
        screen.progress("training", state.step / state.steps, _said(state))

    common = {
        "size": options.size,
        "batch": options.batch,
        "rate": options.rate,
        "seed": options.seed,
        "precision": options.precision,
        "checkpoints": options.checkpoints,
        "log": options.log or options.out.with_suffix(".csv"),
        "progress": progress,
    }
    notes: list[str] = []
    with noting(DamagedCheckpoint, notes):
        training, told, save = _NETWORKS[options.network](options, databases, settings, common, screen)
    for note in notes:
        screen.note(note)
    about = settings | {"steps": training.step, "seed": options.seed, "rate": options.rate, "batch": options.batch}
    if training.result is TrainingResult.DIVERGED:
        kept, elsewhere = "", ""
        if training.step > 0:
            # Not under the name of a network that has come to the end of its training.
            place = options.out.with_name(f"{options.out.stem}-unfinished{options.out.suffix}")
            save(place, training.model, about)
            kept = f"; {place} has the last good weights"
        if options.checkpoints is not None:
            elsewhere = " and another folder of --checkpoints"
        raise ValueError(f"step {training.step + 1}: {training.result.value}{kept}; try a lower --rate{elsewhere}")
    save(options.out, training.model, about)
    return told | {
        "size": options.size,
        "tumours": options.tumours,
        "steps": training.step,
        "pieces_of_a_batch": training.pieces,
        "loss": training.loss,
        "validation_loss": training.validation,
        "megabytes": options.out.stat().st_size / 1e6,
        "seconds": round(time.monotonic() - start, 3),
        "log": str(common["log"]),
    }


# A training, what to tell of it, and how to save its network.
_Trained = tuple["Training", dict[str, Any], Callable[..., None]]


def _autoencoder(
    options: argparse.Namespace,
    databases: "list[Database]",
    settings: dict[str, Any],
    common: dict[str, Any],
    screen: "Screen",
) -> _Trained:
    from tumorjax.networks import save_autoencoder, train_autoencoder
    from tumorjax.retrieval.masks import THRESHOLDS

    settings["thresholds"] = list(THRESHOLDS)
    database = _one(databases)
    learnt, held = _split(options, _outlines(database, _count(options, database), screen))
    training = train_autoencoder(options.kind, learnt, options.steps, validation=held, settings=settings, **common)
    return training, {"kind": options.kind}, save_autoencoder


def _inverse(
    options: argparse.Namespace,
    databases: "list[Database]",
    settings: dict[str, Any],
    common: dict[str, Any],
    screen: "Screen",
) -> _Trained:
    from tumorjax.ensemble import tumours_of
    from tumorjax.networks import load_inverse, save_inverse, train_inverse
    from tumorjax.storage import sha256

    targets = [name.strip() for name in options.targets.split(",")]
    start = None
    if options.start is not None:
        start = load_inverse(options.start)
        targets, settings["start"] = list(start.architecture.targets), sha256(options.start)
    all_ = [tumours_of(database, _count(options, database), _reading(screen)) for database in databases]
    learnt, held = zip(*(_split(options, tumours) for tumours in all_), strict=True)
    training = train_inverse(
        learnt,
        options.steps,
        targets=targets,
        components=options.components,
        error=options.reader_error,
        start=start,
        validation=held,
        settings=settings,
        **common,
    )
    return training, {"targets": ", ".join(targets)}, save_inverse


def _surrogate(
    options: argparse.Namespace,
    databases: "list[Database]",
    settings: dict[str, Any],
    common: dict[str, Any],
    screen: "Screen",
) -> _Trained:
    from tumorjax.ensemble import tumours_of
    from tumorjax.networks import save_surrogate, surrogate_architecture, train_surrogate

    groups = [[part.strip() for part in term.split("+")] for term in options.loss.split(",")]
    all_ = [tumours_of(database, _count(options, database), _reading(screen)) for database in databases]
    learnt, held = zip(*(_split(options, tumours) for tumours in all_), strict=True)
    common["size"] = surrogate_architecture(learnt, options.size, csf_only=options.csf_only, skips=options.skips)
    training = train_surrogate(
        learnt, options.steps, groups=groups, validation=held, window=options.window, settings=settings, **common
    )
    return training, {"loss_terms": options.loss}, save_surrogate


_NETWORKS: dict[str, Callable[..., _Trained]] = {
    "autoencoder": _autoencoder,
    "inverse": _inverse,
    "surrogate": _surrogate,
}


def _one(databases: "list[Database]") -> "Database":
    if len(databases) > 1:
        raise ValueError("this network learns in one brain; give --database once")
    return databases[0]


def _count(options: argparse.Namespace, database: "Database") -> int:
    """Return how many tumours of a database are read."""
    return len(database) if options.tumours is None else options.tumours + options.validation


def _split(options: argparse.Namespace, tumours: Any) -> tuple[Any, Any]:
    """Return the tumours to learn from, and those to validate on."""
    last = len(tumours) - options.validation
    return tumours.part(slice(last)), tumours.part(slice(last, None))


def _outlines(database: "Database", count: int, screen: "Screen") -> "PackedOutlines":
    """Return the outlines of the first tumours."""
    import numpy as np

    from tumorjax.networks import PackedOutlines
    from tumorjax.retrieval.latent import outlines
    from tumorjax.retrieval.masks import THRESHOLDS

    tissue = np.asarray(database.anatomy.tissue)
    blocks = database.blocks(count, _reading(screen))
    return PackedOutlines.of(outlines(block, tissue, THRESHOLDS) for block in blocks)


def _reading(screen: "Screen") -> Callable[[float], None]:
    return lambda share: screen.progress("reading tumours", share)


def _said(state: "TrainingProgress") -> str:
    from tumorjax.report.wording import duration

    checked = "" if state.validation is None else f", validation {state.validation:.4g}"
    # The batch did not fit into the memory.
    cut = "" if state.pieces == 1 else f", batches in {state.pieces} pieces"
    return (
        f"step {state.step}, loss {state.loss:.4g}{checked}, {state.rate:.3g}/s{cut}, {duration(state.remaining)} left"
    )
