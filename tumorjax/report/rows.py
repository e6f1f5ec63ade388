"""A row of three planes with its legend: the building block of the page's figures."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tumorjax.report.tiles import (
    INK,
    SOFT,
    WIDTH,
    Dash,
    Scale,
    Tile,
    View,
    axes_at,
    bar_length,
    row_scale,
    three_planes,
)

DPI = 150  # one and a half pixels of the page, for fine screens and print
_QUALITY = 90  # of WebP, with which thin lines keep their colours
_LEGEND = 1.95  # in, the column at the right of a row
_PAD = 0.18  # in, between tiles and legend
_TALLEST = 4.2  # in, the most that a row takes


@dataclass(frozen=True)
class Entry:
    """A line, or (with `fill`) a tinted patch, of a legend."""

    label: str
    colour: str
    style: Dash = "-"
    fill: bool = False


@dataclass(frozen=True)
class Row:
    """Three planes drawn one way, with a title and a legend."""

    title: str
    paint: Callable[[Tile], None]
    entries: tuple[Entry, ...]
    scale: Scale | None = None
    close_up: bool = False


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure of this size, in, that no global state knows."""
    return Figure(figsize=(width, height), facecolor="white")


def to_pixels(figure: Figure, dpi: int) -> np.ndarray:
    """Return the figure as an image, (rows, columns, 3), uint8."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def to_png(figure: Figure, dpi: int | None = None) -> bytes:
    """Return the figure as PNG, with `DPI` pixels per inch by default."""
    from PIL import Image

    pixels = to_pixels(figure, dpi or DPI)
    # Without its last bit, which nobody sees and which in an image is noise, a page is a quarter smaller.
    pixels = (pixels & 0xFE) | (pixels >> 7)
    buffer = io.BytesIO()
    # The level is where the time still grows faster than the file shrinks.
    Image.fromarray(pixels).save(buffer, "png", compress_level=4)
    return buffer.getvalue()


def to_webp(figure: Figure) -> bytes:
    """Return the figure as WebP, a fifth as large as PNG where it shows an image of the brain."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(to_pixels(figure, DPI)).save(buffer, "webp", quality=_QUALITY, method=2)
    return buffer.getvalue()


def row_height(view: View) -> float:
    """Return the height of a row, in."""
    return row_scale(view, WIDTH - _LEGEND - _PAD, _TALLEST)[1]


def draw_row(figure: Figure, view: View, row: Row, bottom: float, left: float = 0.0) -> None:
    """Draw a row, its lower left corner at `left`, `bottom` (in)."""
    height = row_height(view)
    width = WIDTH - _LEGEND - _PAD
    tiles = three_planes(figure, view, left=left, bottom=bottom, width=width, tallest=_TALLEST, close_up=row.close_up)
    extent = float(view.window(row.close_up)[1].min())
    for number, tile in enumerate(tiles):
        row.paint(tile)
        tile.marks(bar=bar_length(extent) if number == 0 else None)
    _legend(figure, row, (left + WIDTH - _LEGEND, bottom, _LEGEND, height))


def _legend(figure: Figure, row: Row, box: tuple[float, float, float, float]) -> None:
    axes = axes_at(figure, box)
    axes.set_axis_off()
    axes.set(xlim=(0, box[2]), ylim=(0, box[3]))
    y = box[3] - 0.04
    axes.text(0, y, row.title, ha="left", va="top", fontsize=10.5, fontweight="bold", color=INK)
    y -= 0.22
    if row.close_up:
        axes.text(0, y, "close-up of the lesion", ha="left", va="top", fontsize=8, color=SOFT)
        y -= 0.2
    y -= 0.06
    for entry in row.entries:
        lines = 1 + entry.label.count("\n")
        swatch(axes, entry, (0.0, y - 0.17))
        axes.text(0.42, y - 0.085, entry.label.split("\n")[0], ha="left", va="center", fontsize=8.5, color=INK)
        for number, line in enumerate(entry.label.split("\n")[1:], start=1):
            axes.text(0.42, y - 0.085 - 0.15 * number, line, ha="left", va="center", fontsize=7.5, color=SOFT)
        y -= 0.25 + 0.15 * (lines - 1)
    if row.scale is not None:
        tall = min(1.25, y - 0.5)
        colour_bar(figure, row.scale, (box[0], box[1] + 0.07, 0.16, max(tall, 0.5)))


def swatch(axes: Axes, entry: Entry, corner: tuple[float, float]) -> None:
    """Draw an entry's line or tint on a dark patch, as it looks on an image, at `corner` of axes in inches."""
    x, y = corner
    axes.add_patch(Rectangle((x, y), 0.34, 0.17, facecolor="#30363d", edgecolor="none"))
    if entry.fill:
        axes.add_patch(Rectangle((x, y), 0.34, 0.17, facecolor=entry.colour, alpha=0.75, edgecolor="none"))
    else:
        axes.plot([x + 0.03, x + 0.31], [y + 0.085] * 2, color=entry.colour, linestyle=entry.style, linewidth=1.8)


def colour_bar(figure: Figure, scale: Scale, box: Sequence[float]) -> None:
    """Draw an upright colour bar, over black where its overlay fades, with its label above."""
    axes = axes_at(figure, box)
    values = np.linspace(scale.low, scale.high, 256)
    colours = scale.rgba(values)
    span = (scale.low, scale.high)
    axes.imshow((colours[:, :3] * colours[:, 3:])[:, None], extent=(0, 1, *span), origin="lower", aspect="auto")
    axes.set(xticks=[])
    axes.yaxis.tick_right()
    place: dict[str, Any] = {"transform": axes.transAxes, "va": "bottom", "ha": "left", "parse_math": False}
    axes.text(0, 1.06, scale.label, fontsize=8, color=INK, **place)
    for value, colour, style in scale.lines:
        if scale.low < value < scale.high:
            axes.axhline(value, color=colour, linestyle=style, linewidth=1.4)
    axes.tick_params(labelsize=7.5, length=2.5, width=0.6, color=INK, labelcolor=INK, pad=2)
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)
