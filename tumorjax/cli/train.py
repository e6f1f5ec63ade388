"""The subcommand `train`: weights of networks, from a database of simulated tumours."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tumorjax.cli.console import Screen
    from tumorjax.ensemble import Database
    from tumorjax.networks import PackedOutlines, Training, TrainingProgress


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
        help="what the variants ae, vae and bf-hash of a query compare outlines by",
        description="Train an autoencoder of tumours' outlines, by whose codes a query compares them. It learns from "
        f"the first tumours of the database, and the next ones tell when it is best. {disclaimer}",
    )
    add = autoencoder.add_argument
    add("--database", required=True, metavar="PLACE", help="folder or URL, made by `tumorjax database build`")
    add("--out", required=True, type=Path, metavar="FILE", help="file of the weights (.safetensors)")
    add(
        "--kind",
        choices=("ae", "vae", "bf-hash"),
        required=True,
        help="autoencoder, variational autoencoder, or hashing to bits",
    )
    add(
        "--size",
        choices=("small", "published"),
        default="small",
        help="small: minutes on a CPU (default); published: convolutions as in the paper, which want a GPU",
    )
    add("--steps", type=int, default=2500, metavar="N", help="of the optimiser (default: 2500)")
    add("--batch", type=int, default=16, metavar="N", help="tumours a step (default: 16)")
    add("--rate", type=float, default=5e-3, metavar="R", help="of learning, at its highest (default: 0.005)")
    add("--seed", type=int, default=0, metavar="N", help="of weights, batches and noise (default: 0)")
    add("--tumours", type=int, default=1500, metavar="N", help="to learn from (default: 1500)")
    add("--validation", type=int, default=150, metavar="N", help="tumours to choose the weights by (default: 150)")
    add(
        "--checkpoints",
        type=Path,
        metavar="DIR",
        help="keeps what is done; the same command, started again, goes on from there to the same weights",
    )
    add("--log", type=Path, metavar="FILE", help="losses of all steps (default: --out, with the ending .csv)")
    add("--overwrite", action="store_true", help="replace weights that are there")
    add("--quiet", action="store_true", help="no progress, no summary")
    add("--json", action="store_true", help="print the figures as JSON")


def run(options: argparse.Namespace) -> None:
    """Train the chosen network."""
    from tumorjax.cli.console import Screen

    if options.out.exists() and not options.overwrite:
        raise ValueError(f"{options.out} exists already; give another file, or --overwrite")
    screen = Screen(quiet=options.quiet, as_json=options.json)
    try:
        with screen:
            figures = _autoencoder(options, screen)
    except KeyboardInterrupt:
        kept = "no checkpoints were asked for"
        if options.checkpoints is not None:
            kept = f"{options.checkpoints} keeps what is done, and the same command goes on from there"
        print(f"tumorjax train: interrupted; {kept}", file=sys.stderr)
        raise SystemExit(130) from None
    screen.results(figures, options.out)


def _autoencoder(options: argparse.Namespace, screen: "Screen") -> dict[str, Any]:
    from tumorjax.ensemble import Database
    from tumorjax.networks import TrainingResult, save_autoencoder, train_autoencoder
    from tumorjax.retrieval.masks import THRESHOLDS

    database, start = Database.open(options.database), time.monotonic()
    if min(options.tumours, options.validation) < 2 or options.tumours + options.validation > len(database):
        raise ValueError(
            f"the database has {len(database)} tumours, to be shared between --tumours and --validation, two each at "
            f"least; got {options.tumours} and {options.validation}"
        )
    log = options.log or options.out.with_suffix(".csv")
    settings = {
        "database": database.fingerprint,
        "tumours": options.tumours,
        "validation": options.validation,
        "thresholds": list(THRESHOLDS),
    }

    def progress(state: "TrainingProgress") -> None:
        screen.progress("training", state.step / state.steps, _said(state))

    outlines = _outlines(database, options.tumours + options.validation, screen)
    training = train_autoencoder(
        options.kind,
        outlines.part(slice(options.tumours)),
        options.steps,
        size=options.size,
        validation=outlines.part(slice(options.tumours, None)),
        batch=options.batch,
        rate=options.rate,
        seed=options.seed,
        checkpoints=options.checkpoints,
        settings=settings,
        log=log,
        progress=progress,
    )
    if training.result is TrainingResult.DIVERGED:
        kept = "" if options.checkpoints is None else f"; {options.checkpoints} keeps the last good weights"
        raise ValueError(f"step {training.step + 1}: {training.result.value}{kept}; try a lower --rate")
    about = settings | {"steps": training.step, "seed": options.seed, "rate": options.rate, "batch": options.batch}
    save_autoencoder(options.out, training.model, about)
    return _figures(options, training, time.monotonic() - start) | {"log": str(log)}


def _outlines(database: "Database", count: int, screen: "Screen") -> "PackedOutlines":
    """Return the outlines of the first tumours, read a shard at a time."""
    import numpy as np

    from tumorjax.networks import PackedOutlines
    from tumorjax.retrieval.latent import outlines
    from tumorjax.retrieval.masks import THRESHOLDS

    tissue = np.asarray(database.anatomy.tissue)
    blocks = database.blocks(count, lambda share: screen.progress("reading tumours", share))
    return PackedOutlines.of(outlines(block, tissue, THRESHOLDS) for block in blocks)


def _figures(options: argparse.Namespace, training: "Training", seconds: float) -> dict[str, Any]:
    return {
        "kind": options.kind,
        "size": options.size,
        "tumours": options.tumours,
        "steps": training.step,
        "loss": training.loss,
        "validation_loss": training.validation,
        "megabytes": options.out.stat().st_size / 1e6,
        "seconds": round(seconds, 3),
    }


def _said(state: "TrainingProgress") -> str:
    from tumorjax.cli.console import duration

    checked = "" if state.validation is None else f", validation {state.validation:.4g}"
    return f"step {state.step}, loss {state.loss:.4g}{checked}, {state.rate:.3g}/s, {duration(state.remaining)} left"
