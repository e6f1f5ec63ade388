"""Sections of a report: what a method or a model adds to the page, in blocks that the report knows how to draw."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table of numbers and words.

    Parameters
    ----------
    head
        Titles of the columns.
    rows
        Cells of each row, as many as there are titles; numbers are rounded for display, None is shown as a dash.
    foot
        Further rows, set apart below, such as means.
    caption, title
        A sentence about the table, and a heading above it; empty for none.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str | float | int | None]]
    foot: Sequence[Sequence[str | float | int | None]] = ()
    caption: str = ""
    title: str = ""


@dataclass(frozen=True)
class Curves:
    """Series of numbers against their index, such as the objective of each search against the iteration.

    Parameters
    ----------
    across, up
        Titles of the axes.
    series
        One line each; the one that ends lowest stands out.
    """

    across: str
    up: str
    series: Sequence[Sequence[float]]


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of some parameters, their prior, and how well they stand for the posterior.

    Parameters
    ----------
    names
        Names of the k parameters, which are those of rows of the table of parameters.
    values
        (c, d, k): d draws of c chains, in the parameters' units.
    weights
        (c, d), not negative.
    prior, prior_density
        (g, k): rising values of each parameter, and the prior's density there; None leaves the prior out.
    mixing
        R-hat and effective draws by the name of the parameter; empty for draws that are not chains.
    ladder
        Numbers of each stage of a sampler by their name: `temperature` from 0 to 1, `acceptance`, `effective draws`;
        empty for a sampler without stages.
    """

    names: list[str]
    values: np.ndarray
    weights: np.ndarray
    prior: np.ndarray | None = None
    prior_density: np.ndarray | None = None
    mixing: dict[str, tuple[float, float]] = field(default_factory=dict)
    ladder: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Field:
    """A map of the brain, shown in three planes through the lesion.

    Parameters
    ----------
    values
        (x, y, z) in the patient's geometry, or on a grid with this affine.
    label
        What the colours mean, with the unit.
    affine
        (4, 4), mm. Maps the voxels of `values` to RAS world coordinates; None for the patient's geometry.
    title, caption
        A heading above the map, and a sentence below it; empty for none.
    """

    values: np.ndarray
    label: str
    affine: np.ndarray | None = None
    title: str = ""
    caption: str = ""


Block = Text | Table | Curves | Draws | Field


@dataclass(frozen=True)
class Section:
    """A part of the report with a title.

    Parameters
    ----------
    title
        Heading of the section.
    blocks
        What it shows, from top to bottom.
    """

    title: str
    blocks: Sequence[Block]
