"""Sections of a report: what a method or a model adds to the page, in blocks that the report knows how to draw."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

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
class Lines:
    """Quantities of some places, such as days, which are joined by lines.

    Parameters
    ----------
    across, up
        Titles of the axes.
    places
        (t,), rising.
    series
        (t,), by name: one line each.
    title, caption
        A heading above the chart, and a sentence below it; empty for none.
    """

    across: str
    up: str
    places: np.ndarray
    series: Mapping[str, np.ndarray]
    title: str = ""
    caption: str = ""


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


@dataclass(frozen=True, eq=False)
class Marked:
    """Voxels that are marked in three planes through the largest part of them.

    Parameters
    ----------
    mask
        (x, y, z), boolean, in the patient's geometry.
    label
        What they are, for the legend.
    title, caption
        A heading above the picture, and a sentence below it; empty for none.
    """

    mask: np.ndarray
    label: str
    title: str = ""
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Band:
    """A quantity over time, with its uncertainty and what was measured of it.

    Parameters
    ----------
    name
        What it is, for the legend.
    days
        (t,), day, rising.
    low, middle, high
        (t,): ends of the band, and the line in it.
    measured
        Days and values that were measured.
    kept
        Days and values that were measured, but kept from the model.
    """

    name: str
    days: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray
    measured: Sequence[tuple[float, float]] = ()
    kept: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, eq=False)
class Bands:
    """Quantities over time, with bands.

    Parameters
    ----------
    up
        Title of the vertical axis, with the unit.
    bands
        The quantities.
    spans
        What was done, by name: first and last day of each time.
    known
        The day up to which there are measurements: what follows is a forecast. None for no such day.
    title, caption
        A heading above the chart, and a sentence below it; empty for none.
    """

    up: str
    bands: Sequence[Band]
    spans: Sequence[tuple[str, float, float]] = ()
    known: float | None = None
    title: str = ""
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Frame:
    """One of several maps: what is shown on one day.

    Parameters
    ----------
    title
        What the map is of, such as the day.
    values
        (x, y, z) in the patient's geometry.
    core, lesion
        (x, y, z): outlines on that day; None for none.
    background
        (x, y, z): the image below; None for that of the report.
    """

    title: str
    values: np.ndarray
    core: np.ndarray | None = None
    lesion: np.ndarray | None = None
    background: np.ndarray | None = None

    @property
    def outlined(self) -> tuple[str, ...]:
        """Names of what was outlined on that day."""
        return tuple(name for name in ("core", "lesion") if getattr(self, name) is not None)

    @property
    def seen(self) -> bool:
        """Whether anything was outlined on that day."""
        return bool(self.outlined)

    def changed(self, change: Callable[[np.ndarray], np.ndarray]) -> "Frame":
        """Return the same frame with each array changed."""
        arrays = {name: getattr(self, name) for name in ("values", "core", "lesion", "background")}
        return replace(self, **{name: change(array) for name, array in arrays.items() if array is not None})


@dataclass(frozen=True, eq=False)
class Frames:
    """Densities on several days, each in the axial plane through the lesion's centre.

    Parameters
    ----------
    frames
        The days.
    title, caption
        A heading above the pictures, and a sentence below them; empty for none.
    """

    frames: Sequence[Frame]
    title: str = ""
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Film:
    """A density that grows, in one slice.

    Parameters
    ----------
    frames
        The density on each day, and where there were images its outlines. Arrays have one voxel along one axis. A
        background is in the grey values of that of the report. Without a title a frame has the name of its plane.
    days
        The days, rising, or other times.
    title, caption
        A heading above the film, and a sentence below it; empty for none.
    """

    frames: Sequence[Frame]
    days: Sequence[float]
    title: str = ""
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Comparison:
    """An image that was measured beside what the model predicts of it, in the axial plane through the lesion.

    Parameters
    ----------
    measured, modelled
        (x, y, z) in the patient's geometry.
    inside
        (x, y, z), bool: where it was measured; nothing is shown elsewhere.
    label
        What is measured, with the unit.
    title, caption
        A heading above the pictures, and a sentence below them; empty for none.
    """

    measured: np.ndarray
    modelled: np.ndarray
    inside: np.ndarray
    label: str
    title: str = ""
    caption: str = ""

    def changed(self, change: Callable[[np.ndarray], np.ndarray]) -> "Comparison":
        """Return the same comparison with each array changed."""
        arrays = {name: change(getattr(self, name)) for name in ("measured", "modelled", "inside")}
        return replace(self, **arrays)


Block = Text | Table | Curves | Lines | Draws | Field | Marked | Bands | Frames | Film | Comparison


@dataclass(frozen=True)
class Section:
    """A part of the report with a title.

    Parameters
    ----------
    title
        Heading of the section.
    blocks
        What it shows, from top to bottom.
    early
        Whether it comes before the fit and the plan, and not after them.
    """

    title: str
    blocks: Sequence[Block]
    early: bool = False
