"""Pictures of the page as panes: one image for each slice, with legends that the page writes in HTML.

Beside each other on a screen, and one after the other under a finger on a phone, where words drawn into a picture
as wide as the page could not be read.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_hex

from tumorjax.report.rows import Entry, Row, new_figure, to_webp
from tumorjax.report.tiles import PLANES, WIDTH, Plane, Scale, Tile, View, bar_length, row_scale

_TALLEST = 4.2  # in, the most that three planes take
_STOPS = 16  # of the gradient of a colour bar
_TICKS = 4


@dataclass(frozen=True)
class Bar:
    """A colour bar of the page.

    Parameters
    ----------
    label
        What the colours mean, with the unit.
    gradient
        Colours from left to right, as styles write them.
    ticks
        Places (per cent of the width) and words of numbers below it.
    lines
        Places (per cent) and colours of lines across it, and whether they are dashed.
    """

    label: str
    gradient: str
    ticks: list[tuple[float, str]]
    lines: list[tuple[float, str, bool]]


@dataclass(frozen=True)
class Pane:
    """One image of a picture.

    Parameters
    ----------
    image
        As an address that holds it.
    wide
        Its width, in; panes of a picture share the width of the page in this proportion.
    alt
        What it shows, in words.
    other
        Another image of the same place with which it takes turns; empty for none.
    bar
        A colour bar of this pane alone.
    """

    image: str
    wide: float
    alt: str
    other: str = ""
    bar: Bar | None = None


@dataclass(frozen=True)
class Picture:
    """Panes with their legend.

    Parameters
    ----------
    panes
        From left to right.
    entries
        Lines and tints of the legend.
    bar
        Colour bar of all panes.
    at_once
        How many panes a phone shows at once.
    """

    panes: list[Pane]
    entries: tuple[Entry, ...] = ()
    bar: Bar | None = None
    at_once: float = 1.1

    @property
    def shares(self) -> list[float]:
        """Width of each pane, as a share of the page's."""
        return [pane.wide / WIDTH for pane in self.panes]


def encoded(png: bytes | None) -> str:
    """Return an image as text, empty for none."""
    return "" if png is None else base64.b64encode(png).decode("ascii")


def address(image: bytes, kind: str = "webp") -> str:
    """Return an image as an address that holds it."""
    return f"data:image/{kind};base64,{encoded(image)}"


def bar_of(scale: Scale) -> Bar:
    """Return the colour bar of a scale, over black where its overlay fades."""
    from matplotlib.ticker import MaxNLocator

    colours = scale.rgba(np.linspace(scale.low, scale.high, _STOPS))
    # A diverging scale vanishes in its middle, where the image below is grey, not black.
    shown = colours[:, :3] if scale.diverging else colours[:, :3] * colours[:, 3:]
    gradient = ", ".join(to_hex(colour) for colour in np.clip(shown, 0, 1))
    span = scale.high - scale.low
    ticks = [
        value for value in MaxNLocator(_TICKS).tick_values(scale.low, scale.high) if scale.low <= value <= scale.high
    ]
    return Bar(
        " ".join(scale.label.split()),
        gradient,
        [(100 * (value - scale.low) / span, f"{value:g}".replace("-", "\N{MINUS SIGN}")) for value in ticks],
        [
            (100 * (value - scale.low) / span, colour, style != "-")
            for value, colour, style in scale.lines
            if scale.low < value < scale.high
        ],
    )


def slice_image(
    view: View, plane: Plane, paint: Callable[[Tile], None], *, wide: float, high: float, close_up: bool = False,
    bar: float | None = None, title: str | None = None, index: int | None = None,
) -> bytes:  # fmt: skip
    """Return one slice as an image of its own, WebP.

    Parameters
    ----------
    view
        The report's data.
    plane
        How it is cut.
    paint
        Draws on it.
    wide, high
        Size of the image, in; the brain, or with `close_up` the lesion, fills it.
    bar
        Length of the scale bar, mm; None for none.
    title
        Words at the top; by default the plane and its place.
    index
        Where it is cut; by default through the focus.
    """
    middle, extent = view.window(close_up)
    scale = wide / float(extent[plane.across])
    figure = new_figure(wide, high)
    at = int(view.focus[plane.axis] if index is None else index)
    tile = Tile(figure, view, plane, at, box=(0.0, 0.0, wide, high), middle=middle, scale=scale)
    paint(tile)
    tile.marks(bar=bar, title=title)
    return to_webp(figure)


def planes(view: View, row: Row | None, other: Callable[[Tile], None] | None = None) -> Picture | None:
    """Return three planes through the focus, to one scale; None for no row.

    Parameters
    ----------
    view
        The report's data.
    row
        What is drawn on them.
    other
        What is drawn on the images with which they take turns; None for none.
    """
    if row is None:
        return None
    scale, high = row_scale(view, WIDTH, _TALLEST)
    extent = float(view.window(row.close_up)[1].min())
    panes = []
    for number, plane in enumerate(PLANES):
        wide = scale * float(view.size[plane.across])
        bar = bar_length(extent) if number == 0 else None

        def drawn(
            paint: Callable[[Tile], None], plane: Plane = plane, wide: float = wide, bar: float | None = bar
        ) -> str:
            return address(slice_image(view, plane, paint, wide=wide, high=high, close_up=row.close_up, bar=bar))

        turns = "" if other is None else drawn(other)
        panes.append(Pane(drawn(row.paint), wide, plane.name, turns))
    return Picture(panes, row.entries, None if row.scale is None else bar_of(row.scale))


def strip(
    images: Sequence[tuple[str, bytes]],
    wide: float,
    *,
    entries: tuple[Entry, ...] = (),
    scale: Scale | None = None,
    at_once: float = 2.3,
) -> Picture:
    """Return images of one size, each with what it shows, as a picture."""
    panes = [Pane(address(image), wide, alt) for alt, image in images]
    return Picture(panes, entries, None if scale is None else bar_of(scale), at_once)
