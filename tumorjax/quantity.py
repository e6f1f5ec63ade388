"""Numbers in words: name, symbol, unit and meaning, and where their values come from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Quantity:
    """A number that follows from a tree of parameters, with the words in which tables and files give it.

    Parameters
    ----------
    name, symbol
        In files, and in tables.
    unit, meaning
        For the reader; the unit of a number without one is empty.
    value
        Returns the number, of one tree of parameters; can be traced and differentiated.
    coordinate
        Path of the number in the tree, such as `mu1` or `origin[0]`; None where it only follows from others.
    fixed
        Whether it is assumed rather than estimated.
    freed
        The meaning where nothing that it rests on is assumed; empty where that is the meaning itself.
    """

    name: str
    symbol: str
    unit: str
    meaning: str
    value: Callable[[Any], Any]
    coordinate: str | None = None
    fixed: bool = False
    freed: str = ""

    def within(self, tree: str, pick: Callable[[Any], Any]) -> "Quantity":
        """Return the same number of a larger tree, of which `pick` returns the part at the path `tree`."""
        coordinate = None if self.coordinate is None else f"{tree}.{self.coordinate}"
        return replace(self, value=lambda whole: self.value(pick(whole)), coordinate=coordinate)
