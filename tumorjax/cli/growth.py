"""The model of growth in every command: its name, its options, and its numbers where these are given."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tumorjax.growth import AbstractGrowth
from tumorjax.io import InputError
from tumorjax.methods.registry import models
from tumorjax.option import Option

DEFAULT_MODEL = "fisher-kolmogorov"


def add_model(group: argparse._ArgumentGroup, numbers: str | None = None) -> None:
    """Add the choice of a model to a group of options, and the options of all models.

    Parameters
    ----------
    group
        The group of the command's help.
    numbers
        For commands that are given the numbers of a model's parameters: what follows the meaning of each in the help.
    """
    known = models()
    group.add_argument(
        "--model",
        choices=tuple(known),
        default=DEFAULT_MODEL,
        metavar="NAME",
        help=f"what grows:\n{listed(known, DEFAULT_MODEL)}",
    )
    for flag, owners in owners_of(known).items():
        add_option(group, flag, owners)
    if numbers is not None:
        for flag, owners in owners_of(known, _numbers).items():
            add_option(group, flag, owners, numbers)


def model_of(options: argparse.Namespace) -> AbstractGrowth:
    """Return the model of growth that the options describe."""
    return models()[options.model].from_options(check_model(options))


def check_model(options: argparse.Namespace) -> dict[str, Any]:
    """Return the values that were given of the options of the model; an InputError where some are another model's."""
    return given(options, options.model, owners_of(models()), "model")


def numbers_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the numbers that were given of the model's parameters, by their names; others' are refused."""
    return given(options, options.model, owners_of(models(), _numbers), "model")


def listed(known: Mapping[str, type[Any]], default: str | None = None) -> str:
    """Return a line for each model or method, with the extra that it needs."""

    def line(name: str, kind: type[Any]) -> str:
        extra = getattr(kind, "extra", None)
        more = [f"pip install 'tumorjax[{extra}]'"] if extra else []
        more += ["default"] if name == default else []
        words = f"{name}: {kind.summary or getattr(kind, 'title', '')}"
        return f"{words} ({'; '.join(more)})" if more else words

    return "\n".join(line(name, kind) for name, kind in known.items()).replace("%", "%%")


def owners_of(
    known: Mapping[str, type[Any]], options: Callable[[type[Any]], Iterable[Option]] | None = None
) -> dict[str, dict[str, Option]]:
    """Return, for each flag, the models or methods that have such an option, by name.

    Parameters
    ----------
    known
        Models or methods by name.
    options
        Gives the options of one; by default those by which it is made.
    """
    found: dict[str, dict[str, Option]] = {}
    for name, kind in known.items():
        for option in kind.options if options is None else options(kind):
            found.setdefault(option.flag, {})[name] = option
    return found


def add_option(
    group: argparse._ArgumentGroup, flag: str, owners: Mapping[str, Option], more: str | None = None
) -> None:
    """Add an option to the help, with the names of those to which it belongs if not all have the same words for it."""
    first = next(iter(owners.values()))
    helps: dict[str, list[str]] = {}
    for name, option in owners.items():
        helps.setdefault(option.help, []).append(name)
    words = "; ".join(f"for {_and(names)}: {text}" for text, names in helps.items()) if len(owners) > 1 else first.help
    words = f"{words}; {more}" if more else words
    settings: dict[str, Any] = {"help": words.replace("%", "%%"), "default": None}
    if first.type is None:
        group.add_argument(f"--{flag}", action="store_true", **settings)
        return
    if first.several:
        settings["nargs"] = "+"
    group.add_argument(f"--{flag}", type=first.type, metavar=first.metavar, choices=first.choices, **settings)


def given(
    options: argparse.Namespace, name: str, owned: Mapping[str, Mapping[str, Option]], word: str
) -> dict[str, Any]:
    """Return the values that were given of one model's or method's options; others are refused.

    Parameters
    ----------
    options
        Of the command.
    name
        The model or method.
    owned
        From `owners_of`.
    word
        "model" or "method".
    """
    found = {}
    for flag, owners in owned.items():
        first = next(iter(owners.values()))
        value = getattr(options, first.name, None)
        if value is None:
            continue
        if name not in owners:
            raise InputError(f"{flag}: is not for {name}; leave it out or add --{word} {' or '.join(owners)}")
        found[first.name] = value
    return found


def _numbers(model: type[AbstractGrowth]) -> tuple[Option, ...]:
    return model.numbers


def _and(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
