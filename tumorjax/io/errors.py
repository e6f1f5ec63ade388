"""The error for an input that cannot be used."""

from pathlib import Path
from typing import NoReturn

from tumorjax.text import printable


class InputError(ValueError):
    """An input cannot be used; the message says in one line which input, what was got, and what to do."""


def fail(name: str, path: Path | None, problem: str) -> NoReturn:
    """Raise an `InputError` whose one line names an input and says what is wrong with it."""
    raise InputError(" ".join(printable(f"{name}{f' {path}' if path else ''}: {problem}").split()))
