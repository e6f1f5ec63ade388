"""Models, methods and their options, as the registry announces them."""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from tumorjax.calibration.method import AbstractMethod
from tumorjax.io import InputError
from tumorjax.methods.registry import check_installed, default_method, methods, models
from tumorjax.option import Option
from tumorjax.registration import DEFAULT_ENGINE, ENGINES, check_engine

DEFAULT_MODEL = "fisher-kolmogorov"


def add_model_and_method(sub: argparse.ArgumentParser) -> None:
    """Add the choice of model and method to a parser, and the options of all of them, grouped by method."""
    growth = sub.add_argument_group("model of growth")
    known = models()
    growth.add_argument(
        "--model",
        choices=tuple(known),
        default=DEFAULT_MODEL,
        metavar="NAME",
        help=f"what grows:\n{_listed(known, DEFAULT_MODEL)}",
    )
    for flag, owners in owners_of(known).items():
        _add(growth, flag, owners)
    method = sub.add_argument_group("method of calibration")
    offered = methods()
    by_model = ", ".join(f"{default_method(model)} for {name}" for name, model in known.items())
    method.add_argument(
        "--method",
        choices=tuple(offered),
        metavar="NAME",
        help=f"how the model is calibrated (default: {by_model}):\n{_listed(offered)}",
    )
    shared = sub.add_argument_group("options of several methods")
    groups = {name: sub.add_argument_group(f"options of {name}") for name in offered}
    for flag, owners in owners_of(offered).items():
        _add(shared if len(owners) > 1 else groups[next(iter(owners))], flag, owners)


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


def _listed(known: Mapping[str, type[Any]], default: str | None = None) -> str:
    """Return a line for each model or method, with the extra that it needs."""

    def line(name: str, kind: type[Any]) -> str:
        extra = getattr(kind, "extra", None)
        more = [f"pip install 'tumorjax[{extra}]'"] if extra else []
        more += ["default"] if name == default else []
        words = f"{name}: {kind.summary or getattr(kind, 'title', '')}"
        return f"{words} ({'; '.join(more)})" if more else words

    return "\n".join(line(name, kind) for name, kind in known.items()).replace("%", "%%")


def owners_of(known: Mapping[str, type[Any]]) -> dict[str, dict[str, Option]]:
    """Return, for each flag, the models or methods that have such an option, by name."""
    found: dict[str, dict[str, Option]] = {}
    for name, kind in known.items():
        for option in getattr(kind, "options", ()):
            found.setdefault(option.flag, {})[name] = option
    return found


def all_options() -> Iterator[Option]:
    """Yield the options of all models and methods; those of the same flag each time."""
    for known in (models(), methods()):
        for owners in owners_of(known).values():
            yield from owners.values()


def _add(group: argparse._ArgumentGroup, flag: str, owners: Mapping[str, Option]) -> None:
    """Add an option to the help, with the names of those to which it belongs if there are several."""
    first = next(iter(owners.values()))
    helps: dict[str, list[str]] = {}
    for name, option in owners.items():
        helps.setdefault(option.help, []).append(name)
    words = "; ".join(f"for {_and(names)}: {text}" for text, names in helps.items()) if len(owners) > 1 else first.help
    settings: dict[str, Any] = {"help": words.replace("%", "%%"), "default": None}
    if first.type is None:
        group.add_argument(f"--{flag}", action="store_true", **settings)
        return
    if first.several:
        settings["nargs"] = "+"
    group.add_argument(f"--{flag}", type=first.type, metavar=first.metavar, choices=first.choices, **settings)


def _and(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def check_options(options: argparse.Namespace) -> None:
    """Check that options go together, without a look at files.

    Raises
    ------
    InputError
        If there are options of another model or method, or a library that the method or the registration needs is
        not installed.
    """
    check_engine(options.registration)
    _given(options, options.model, models(), "model")
    name = _method_name(options)
    _given(options, name, methods(), "method")
    check_installed(methods()[name])


def not_its_own(options: argparse.Namespace) -> list[str]:
    """Return the names of the options that have a value, but belong to other methods than the chosen one."""
    name, known = _method_name(options), methods()
    owned = {option.name for option in known[name].options} | ({"seed"} if known[name].needs_key else set())
    others = {option.name for kind in known.values() for option in kind.options} - owned
    return sorted(other for other in others if getattr(options, other, None) is not None)


def model_of(options: argparse.Namespace) -> Any:
    """Return the model of growth that the options describe."""
    return models()[options.model].from_options(_given(options, options.model, models(), "model"))


def method_of(options: argparse.Namespace) -> AbstractMethod:
    """Return the method of calibration that the options describe.

    Raises
    ------
    InputError
        As of `check_options`; besides if a value or a file cannot be used.
    """
    check_options(options)
    name = _method_name(options)
    given = _given(options, name, methods(), "method")
    general = {"resolution": options.resolution, "atlas": options.atlas, "out": options.out}
    return methods()[name].from_options(given | {key: value for key, value in general.items() if value is not None})


def _method_name(options: argparse.Namespace) -> str:
    return options.method or default_method(models()[options.model])


def has_an_atlas(options: argparse.Namespace) -> bool:
    """Return whether `--atlas` names the atlas of the method's tumours, beside maps of the patient's own tissue."""
    return any(field.name == "atlas" for field in fields(methods()[_method_name(options)]))  # pyright: ignore


def _given(options: argparse.Namespace, name: str, known: Mapping[str, type[Any]], word: str) -> dict[str, Any]:
    """Return the values that were given of one model's or method's options; others are refused."""
    found = {}
    for flag, owners in owners_of(known).items():
        first = next(iter(owners.values()))
        value = getattr(options, first.name, None)
        if value is None:
            continue
        if flag == "seed" and getattr(known[name], "needs_key", False):
            owners = {**owners, name: first}
        if name not in owners:
            raise InputError(f"{flag}: is not for {name}; leave it out or add --{word} {' or '.join(owners)}")
        found[first.name] = value
    return found
