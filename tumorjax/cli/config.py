"""Options of a command in a file."""

import tomllib
from collections.abc import Sequence
from pathlib import Path


def with_config(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of `train` with the options of a file, `--config`, before its other options.

    Raises
    ------
    ValueError
        If the file is missing or no TOML, or holds what is no option.
    """
    given = list(arguments)
    place = next((i for i, each in enumerate(given) if each.partition("=")[0] == "--config"), None)
    if place is None or given[:1] != ["train"] or place < 2:
        return given
    name = given[place].partition("=")[2] or next(iter(given[place + 1 :]), "")
    try:
        options = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"config: {name} holds no options that can be read: {error}") from None
    except RecursionError:
        raise ValueError(f"config: {name} is nested too deeply; give options, each a number or a text") from None
    found: list[str] = []
    for key, value in options.items():
        name_of = key.replace("_", "-")
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, bool):
                found += [f"--{name_of}"] if each else []
            elif isinstance(each, (str, int, float)):
                found.append(f"--{name_of}={each}")
            else:
                raise ValueError(f"config: {name} holds {key}, which is no option; a number or text is")
    return given[:2] + found + given[2:]
