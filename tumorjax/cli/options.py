"""Methods of calibration and their options beside those of models, as the registry announces them."""

import argparse
import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from tumorjax.calibration.method import AbstractMethod, check_healthy
from tumorjax.cli.growth import add_model, add_option, check_model, given, listed, owners_of
from tumorjax.io import InputError
from tumorjax.methods.registry import check_installed, default_method, methods, models
from tumorjax.option import Option
from tumorjax.registration import DEFAULT_ENGINE, ENGINES, check_engine


def add_model_and_method(sub: argparse.ArgumentParser) -> None:
    """Add the choice of model and method to a parser, and the options of all of them, grouped by method."""
    add_model(sub.add_argument_group("model of growth"))
    method = sub.add_argument_group("method of calibration")
    offered = methods()
    by_model = ", ".join(f"{default_method(model)} for {name}" for name, model in models().items())
    method.add_argument(
        "--method",
        choices=tuple(offered),
        metavar="NAME",
        help=f"how the model is calibrated (default: {by_model}; lbfgs for several visits):\n{listed(offered)}",
    )
    method.add_argument(
        "--model-error",
        type=float,
        metavar="MM",
        help="standard deviation of the displacement by which the model misses the outlines because it is wrong, in "
        "addition to that by readers (default: 5, as of real patients; 0 for weak-constraint)",
    )
    shared = sub.add_argument_group("options of several methods")
    groups = {name: sub.add_argument_group(f"options of {name}") for name in offered}
    for flag, owners in owners_of(offered).items():
        add_option(shared if len(owners) > 1 else groups[next(iter(owners))], flag, owners)


def add_registration(group: argparse._ArgumentGroup) -> None:
    """Add the choice of the engine that deforms atlases to a parser."""
    lines = "\n".join(
        f"{name}: {engine.summary}" + (f" (pip install 'tumorjax[{engine.extra}]')" if engine.extra else "")
        for name, engine in ENGINES.items()
    )
    group.add_argument(
        "--registration",
        choices=tuple(ENGINES),
        default=DEFAULT_ENGINE,
        metavar="NAME",
        help=f"how atlases are deformed to the T1 image (default: {DEFAULT_ENGINE}):\n{lines}",
    )


def all_options() -> Iterator[Option]:
    """Yield the options of all models and methods; those of the same flag each time."""
    for known in (models(), methods()):
        for owners in owners_of(known).values():
            yield from owners.values()


def kept_in(options: argparse.Namespace) -> Path | None:
    """Return the file in which the method keeps what is done, if one was given and has been written."""
    found = (getattr(options, option.name) for option in all_options() if option.writes)
    return next((path for path in found if path and path.exists()), None)


def check_options(options: argparse.Namespace) -> None:
    """Check that options go together, without a look at files.

    Raises
    ------
    InputError
        If there are options of another model or method, a library that the method or the registration needs is not
        installed, or the error of the model is negative.
    ValueError
        If a model that leaves tissue where it is has a brain before the tumour.
    """
    check_engine(options.registration)
    check_model(options)
    check_healthy(options.healthy, models()[options.model])
    error = getattr(options, "model_error", None)
    if error is not None and not 0 <= error < math.inf:
        raise InputError(f"--model-error: got {error:g}; give 0 mm or more")
    _of_method(options)
    check_installed(methods()[_method_name(options)])


def not_its_own(options: argparse.Namespace) -> list[str]:
    """Return the names of the options that have a value, but belong to other models or methods than the chosen."""
    model, method = models()[options.model], methods()[_method_name(options)]
    owned = {option.name for kind in (model, method) for option in kind.options}
    owned |= ({"seed"} if method.needs_key else set()) | ({"healthy"} if model.displaces else set())
    others = {"healthy", *(option.name for option in all_options())} - owned
    return sorted(other for other in others if getattr(options, other, None) is not None)


def method_of(options: argparse.Namespace) -> AbstractMethod:
    """Return the method of calibration that the options describe.

    Raises
    ------
    InputError
        As of `check_options`; besides if a value or a file cannot be used.
    """
    check_options(options)
    displaces = models()[options.model].displaces or None
    general = {"resolution": options.resolution, "atlas": options.atlas, "out": options.out, "displaces": displaces}
    named = {key: value for key, value in general.items() if value is not None}
    return methods()[_method_name(options)].from_options(_of_method(options) | named)


def _method_name(options: argparse.Namespace) -> str:
    several = getattr(options, "visits", None) is not None
    return options.method or default_method(models()[options.model], several_visits=several)


def has_an_atlas(options: argparse.Namespace) -> bool:
    """Return whether `--atlas` names the atlas of the method's tumours, beside maps of the patient's own tissue."""
    return any(field.name == "atlas" for field in fields(methods()[_method_name(options)]))  # pyright: ignore


def _of_method(options: argparse.Namespace) -> dict[str, Any]:
    """Return the values that were given of the options of the method; others are refused."""
    name, known = _method_name(options), methods()
    owned = owners_of(known)
    if known[name].needs_key and "seed" in owned:
        owned["seed"] = {**owned["seed"], name: next(iter(owned["seed"].values()))}
    return given(options, name, owned, "method")
