"""The subcommand `train`: weights of networks, from databases of simulated tumours."""

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tumorjax.cli.ending import complain, exit_code, how

if TYPE_CHECKING:
    from tumorjax.cli.console import Screen
    from tumorjax.ensemble import Database
    from tumorjax.networks import PackedOutlines, Training, TrainingProgress


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
    return {
        **told,
        "size": options.size,
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
    return training, {"kind": options.kind, "tumours": len(learnt)}, save_autoencoder


def _inverse(
    options: argparse.Namespace,
    databases: "list[Database]",
    settings: dict[str, Any],
    common: dict[str, Any],
    screen: "Screen",
) -> _Trained:
    from tumorjax.ensemble import tumours_of
    from tumorjax.networks import SHIPPED_POSTERIOR, load_inverse, save_inverse, train_inverse
    from tumorjax.storage import sha256

    targets = [name.strip() for name in options.targets.split(",")]
    start = trunk = None
    if options.trunk is not None:
        file = SHIPPED_POSTERIOR if str(options.trunk) == "shipped" else options.trunk
        trunk, settings["trunk"] = load_inverse(file), sha256(file)
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
        trunk=trunk,
        validation=held,
        settings=settings,
        **common,
    )
    return training, {"targets": ", ".join(targets), "tumours": sum(map(len, learnt))}, save_inverse


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
    return training, {"loss_terms": options.loss, "tumours": sum(map(len, learnt))}, save_surrogate


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
