"""Options of a method or a model, from which a command line is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """An option of the command, `--flag`, that belongs to a method or a model.

    Parameters
    ----------
    flag
        Name without the dashes: "particles", "no-refine".
    help
        What it does, with its default; one line.
    type
        Conversion of its text; None for a switch that takes no value.
    metavar
        Name of its value in the help.
    choices
        Values that are possible; None leaves that to the method.
    several
        Whether it takes several values.
    place
        Whether its text may name a file or a folder, though it is no path.
    writes
        Whether it names a file that the method writes, on which results do not depend.
    """

    flag: str
    help: str
    type: Any = str
    metavar: str | None = None
    choices: Sequence[str] | None = None
    several: bool = False
    place: bool = False
    writes: bool = False

    @property
    def name(self) -> str:
        """The name under which its value is stored: the flag with underscores."""
        return self.flag.replace("-", "_")
