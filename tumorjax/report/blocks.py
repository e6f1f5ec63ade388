"""Sections that a method adds to the page: their blocks turned into texts, tables and pictures."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from tumorjax.calibration.estimates import Estimate
from tumorjax.report.wording import NONE, number
from tumorjax.sections import (
    Bands,
    Block,
    Comparison,
    Curves,
    Draws,
    Field,
    Film,
    Frames,
    Lines,
    Marked,
    Section,
    Table,
    Text,
)

if TYPE_CHECKING:
    from tumorjax.report.film import Reel
    from tumorjax.report.panes import Picture
    from tumorjax.report.tiles import View

# R-hat of chains that agree (Vehtari et al., Bayesian Analysis 16, 2021).
R_HAT = 1.01
# Columns of a table beside which there is room for another one, and from which on letters are smaller.
_NARROW, _DENSE = 4, 8


@dataclass(frozen=True)
class Cell:
    """A cell of a table: words, with a subscript if it is a symbol, and whether it stands out.

    Numbers stand at the right, one below the other; a symbol and what is said in words stand at the left.
    """

    words: str
    below: str = ""
    symbol: bool = False
    far: bool = False
    number: bool = True


@dataclass(frozen=True)
class Part:
    """A text, a table or a picture of a section, with what is written above and below it.

    Parameters
    ----------
    text
        A paragraph; empty for a table or picture.
    picture, slices
        A chart, PNG in base64, or slices of the brain; empty and None for another part.
    reel, name
        A film, and the name of its controls; None and empty for another part.
    head, rows, foot
        Cells of a table.
    title, caption
        A heading, and a sentence below; empty for none.
    narrow
        Whether another one has room beside it.
    """

    text: str = ""
    picture: str = ""
    head: list[str] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)
    foot: list[list[Cell]] = field(default_factory=list)
    title: str = ""
    caption: str = ""
    narrow: bool = False
    reel: "Reel | None" = None
    name: str = ""
    slices: "Picture | None" = None

    @property
    def numbers(self) -> list[bool]:
        """For each column, whether it has numbers."""
        body = [*self.rows, *self.foot]
        return [all(row[i].number and not row[i].symbol for row in body) for i in range(len(self.head))]

    @property
    def dense(self) -> bool:
        """Whether a table has many columns."""
        return len((self.rows or [self.head])[0]) > _DENSE


@dataclass(frozen=True)
class Shown:
    """A section of the page: an anchor, a title, and groups of parts that stand side by side."""

    anchor: str
    title: str
    groups: list[list[Part]]
    early: bool = False

    @property
    def narrow(self) -> bool:
        """Whether another section has room beside it."""
        return len(self.groups) == 1 and len(self.groups[0]) == 1 and self.groups[0][0].narrow


def check_blocks(sections: Sequence[Section]) -> None:
    """Raise a `ValueError` where the shapes of draws do not belong together."""
    for draws in (block for section in sections for block in section.blocks if isinstance(block, Draws)):
        shape, count = np.shape(draws.values), len(draws.names)
        if len(shape) != 3 or shape[-1] != count or np.shape(draws.weights) != shape[:2]:
            raise ValueError(
                f"draws of {count} parameters have values of shape {shape} and weights of shape "
                f"{np.shape(draws.weights)}; give (chains, draws, parameters) and (chains, draws)"
            )


def shown_sections(view: "View", sections: Sequence[Section], parameters: Sequence[Estimate]) -> list[Shown]:
    """Return the sections as the page shows them, without those that show nothing.

    Parameters
    ----------
    view
        The report's data, in which maps of the brain are drawn.
    sections
        Sections of the method.
    parameters
        Rows of the table of parameters, which have the symbols and units of what was drawn.
    """
    found = []
    for number_of, section in enumerate(sections, start=1):
        parts = [part for block in section.blocks for part in _parts(view, block, parameters)]
        parts = [replace(part, name=f"part-{number_of}-{place}") for place, part in enumerate(parts, start=1)]
        groups: list[list[Part]] = []
        for part in parts:
            # Two narrow parts stand side by side.
            if part.narrow and groups and groups[-1][0].narrow and len(groups[-1]) < 2:
                groups[-1].append(part)
            else:
                groups.append([part])
        if groups:
            words = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-")[:40]
            found.append(Shown(f"method-{number_of}-{words}".rstrip("-"), section.title, groups, section.early))
    return found


def _parts(view: "View", block: Block, parameters: Sequence[Estimate]) -> Iterator[Part]:
    from tumorjax.report import charts, course, figures, film
    from tumorjax.report.panes import encoded, planes

    match block:
        case Text(text):
            yield Part(text=text)
        case Table():
            if block.rows:
                yield _table(block)
        case Curves():
            picture = encoded(charts.curves_png(block))
            if picture:
                yield Part(picture=picture, title=block.up.capitalize(), narrow=True)
        case Lines():
            picture = encoded(charts.lines_png(block))
            if picture:
                yield Part(picture=picture, title=block.title, caption=block.caption, narrow=True)
        case Draws():
            yield from _draws(block, parameters)
        case Field():
            if slices := planes(view, figures.field_row(view, block)):
                yield Part(slices=slices, title=block.title, caption=block.caption)
        case Marked():
            if slices := figures.marked(view, block):
                yield Part(slices=slices, title=block.title, caption=block.caption)
        case Bands():
            picture = encoded(course.bands_png(block))
            if picture:
                yield Part(picture=picture, title=block.title, caption=block.caption)
        case Film():
            if reel := film.reel_of(view, block):
                yield Part(reel=reel, title=block.title, caption=block.caption)
        case Comparison():
            images = (block.measured, block.modelled, block.inside > 0)
            if slices := figures.comparison(view, *images, block.label):
                yield Part(slices=slices, title=block.title, caption=block.caption)
        case Frames():
            if slices := course.frames(view, block):
                yield Part(slices=slices, title=block.title, caption=block.caption)


def _table(table: Table) -> Part:
    def cells(rows: Sequence[Sequence[str | float | int | None]]) -> list[list[Cell]]:
        return [[Cell(_words(value), number=said[i]) for i, value in enumerate(row)] for row in rows]

    body = [*table.rows, *table.foot]
    said = [any(_counts(row[i]) for row in body) for i in range(len(body[0]))]
    head = list(table.head) if any(table.head) else []
    narrow = len(table.head) <= _NARROW
    return Part(
        head=head,
        rows=cells(table.rows),
        foot=cells(table.foot),
        title=table.title,
        caption=table.caption,
        narrow=narrow,
    )


def _words(value: str | float | int | None) -> str:
    return NONE if value is None else value if isinstance(value, str) else number(value)


def _counts(value: str | float | int | None) -> bool:
    """Return whether a cell of a table says a number, perhaps with its unit."""
    return value is not None and (not isinstance(value, str) or value.lstrip("-\N{MINUS SIGN}+×<> ")[:1].isdigit())


def _draws(draws: Draws, parameters: Sequence[Estimate]) -> Iterator[Part]:
    from tumorjax.report import posterior
    from tumorjax.report.panes import encoded

    if picture := encoded(posterior.corner_png(draws, parameters)):
        yield Part(
            picture=picture,
            caption="Marginal distributions on the diagonal, pairs of parameters below. Where a marginal is no "
            "narrower than its prior, the data say nothing about the parameter.",
        )
    if picture := encoded(posterior.trace_png(draws, parameters)):
        words = "Each colour is a chain. Chains that have mixed cover the same range all the time."
        yield Part(picture=picture, title="Traces", caption=words)
    if picture := encoded(posterior.ladder_png(draws)):
        yield Part(
            picture=picture,
            title="Stages",
            caption="From the prior (temperature 0) to the posterior (temperature 1): each stage raises the "
            "temperature, resamples the particles and moves them.",
        )
    if draws.mixing:
        head = ["Parameter", "Symbol", "R-hat", "Effective draws"]
        yield Part(head=head, rows=_mixing(draws, parameters), title="Mixing of the chains", narrow=True)


def _mixing(draws: Draws, parameters: Sequence[Estimate]) -> list[list[Cell]]:
    """Return parameter, symbol, R-hat and effective draws of each parameter of chains; a large R-hat stands out."""
    symbols = {p.name: p.symbol.partition("_") for p in parameters}
    rows = []
    for name, (r_hat, effective) in draws.mixing.items():
        base, _, below = symbols.get(name, (name, "", ""))
        rows.append(
            [
                Cell(name),
                Cell(base, below, symbol=True),
                Cell(f"{r_hat:.3f}" if np.isfinite(r_hat) else NONE, far=not r_hat <= R_HAT),
                Cell(f"{effective:.0f}" if np.isfinite(effective) else NONE),
            ]
        )
    return rows
