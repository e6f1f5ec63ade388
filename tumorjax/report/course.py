"""The page's figures of a tumour over time: quantities with bands, and slices on several days."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tumorjax.report.charts import COLOURS, GREY, plainly, quiet
from tumorjax.report.figures import CORE, DASHED, LESION, MODEL, density_scale
from tumorjax.report.panes import Picture, slice_image, strip
from tumorjax.report.rows import Entry, new_figure, to_png
from tumorjax.report.tiles import AXIAL, INK, SOFT, WIDTH, Tile, View, axes_at, bar_length, plain
from tumorjax.sections import Bands, Frame, Frames

# Colours of outlines by name.
_LINES = {"core": CORE, "lesion": LESION}
_HIGH = 3.4  # in, of the axes of the chart
_ACROSS = 5  # tiles in a row


def bands_png(shown: Bands) -> bytes | None:
    """Return quantities over time with their bands, what was measured, and what was done; None without any."""
    bands = [band for band in shown.bands if len(band.days) and np.isfinite(band.middle).any()]
    if not bands:
        return None
    spans = list(shown.spans)
    head = 0.12 + 0.19 * len(_levels(spans, bands[0].days))
    figure = new_figure(WIDTH, _HIGH + head + 0.55)
    axes = axes_at(figure, (0.75, 0.5, WIDTH - 3.1, _HIGH))
    tops = []
    for number, band in enumerate(bands):
        colour = COLOURS[number % len(COLOURS)]
        known = np.inf if shown.known is None else shown.known
        axes.fill_between(band.days, band.low, band.high, color=colour, alpha=0.18, linewidth=0)
        for part, style in ((band.days <= known, "-"), (band.days >= known, DASHED)):
            axes.plot(band.days[part], band.middle[part], color=colour, linewidth=1.8, linestyle=style)
        for points, face, edge in ((band.measured, colour, "white"), (band.kept, "white", colour)):
            if points:
                days, values = zip(*points, strict=True)
                axes.plot(days, values, "o", color=face, markersize=7, markeredgecolor=edge, markeredgewidth=1.4)
                tops += [max(values)]
        tops += [float(np.nanmax(band.high))]
    first, last = float(bands[0].days[0]), float(bands[0].days[-1])
    room = 0.02 * max(last - first, 1.0)
    axes.set(xlim=(first - room, last + room), ylim=(0, 1.06 * max(tops)))
    axes.set_xlabel("day", fontsize=9, color=INK)
    axes.set_ylabel(plain(shown.up, 40), fontsize=9, color=INK, parse_math=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8))
        axis.set_major_formatter(FuncFormatter(plainly))
    axes.grid(axis="y", color="#e3e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    quiet(axes)
    if shown.known is not None and shown.known < last:
        axes.axvspan(shown.known, last + room, color="#f4f6f8", zorder=-1, linewidth=0)
        words: dict[str, Any] = {"fontsize": 8.5, "color": SOFT, "va": "top", "style": "italic"}
        axes.text(shown.known + room / 2, 1.05 * max(tops), "forecast", **words)
    _spans(axes, spans, bands[0].days)
    _key(axes, shown, bands)
    return to_png(figure)


def _levels(spans: Sequence[tuple[str, float, float]], days: np.ndarray) -> dict[str, int]:
    """Return a line above the chart for each thing that was done."""
    inside = [name for name, begin, end in spans if end >= days[0] and begin <= days[-1]]
    return {name: number for number, name in enumerate(dict.fromkeys(inside))}


def _spans(axes: Axes, spans: Sequence[tuple[str, float, float]], days: np.ndarray) -> None:
    """Draw what was done: a bar above the chart for a time, and a line through it for a day."""
    levels, low, high = _levels(spans, days), float(days[0]), float(days[-1])
    place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    step = 0.19 / _HIGH
    for name, level in levels.items():
        y = 1 + 0.1 / _HIGH + level * step
        own = [(max(begin, low), min(end, high)) for each, begin, end in spans if each == name]
        own = [(begin, end) for begin, end in own if begin <= end]
        for begin, end in own:
            if end > begin:
                axes.plot([begin, end], [y, y], color=GREY, linewidth=5, solid_capstyle="butt", **place)
            for day in {begin, end}:
                axes.axvline(day, color=GREY, linewidth=0.8, linestyle=(0, (1.5, 1.5)), zorder=0)
            if end == begin:
                axes.plot([begin], [y], "v", color=GREY, markersize=6, **place)
        at = max(end for _, end in own)
        right = at < (low + high) / 2 or at < high - 0.25 * (high - low)
        where = (at + 0.012 * (high - low), "left") if right else (own[0][0] - 0.012 * (high - low), "right")
        axes.text(
            where[0], y, plain(name, 40), ha=where[1], va="center", fontsize=8, color=SOFT, parse_math=False, **place
        )


def _key(axes: Axes, shown: Bands, bands: Sequence[Any]) -> None:
    """Explain colours and lines at the right of the chart."""
    entries: list[tuple[Any, str]] = []
    for number, band in enumerate(bands):
        entries.append((Line2D([], [], color=COLOURS[number % len(COLOURS)], linewidth=3), plain(band.name, 28)))
    entries.append((Line2D([], [], color=GREY, linewidth=1.8), "model, median"))
    if shown.known is not None and any(band.days[-1] > shown.known for band in bands):
        entries.append((Line2D([], [], color=GREY, linewidth=1.8, linestyle=DASHED), "forecast, median"))
    entries.append((Patch(color=GREY, alpha=0.3, linewidth=0), "5 % to 95 %"))
    if any(band.measured for band in bands):
        entries.append((Line2D([], [], color=GREY, marker="o", linestyle="", markersize=7), "outlined"))
    if any(band.kept for band in bands):
        hollow = Line2D([], [], color="white", marker="o", linestyle="", markersize=7, markeredgecolor=GREY)
        entries.append((hollow, "outlined, kept back"))
    legend = axes.legend(
        *zip(*entries, strict=True), loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize=8.5, frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def frames(view: View, shown: Frames) -> Picture | None:
    """Return the axial slice through the lesion's centre on each day, with that day's outlines; None without days."""
    if not shown.frames:
        return None
    wide = WIDTH / max(min(len(shown.frames), _ACROSS), 3)
    high, heat = wide / view.size[0] * view.size[1], density_scale(view)
    images = []
    for number, frame in enumerate(shown.frames):
        title = plain(frame.title, 30)

        def draw(tile: Tile, frame: Frame = frame) -> None:
            paint(tile, frame, heat)

        bar = bar_length(view.size[0]) if number == 0 else None
        images.append((title, slice_image(view, AXIAL, draw, wide=wide, high=high, bar=bar, title=title)))
    outlined = {"core"} | {"lesion" for frame in shown.frames if frame.lesion is not None}
    return strip(images, wide, entries=legend_of(view, outlined), scale=heat, at_once=1.6)


def legend_of(view: View, outlined: Collection[str]) -> tuple[Entry, ...]:
    """Return the lines of `paint`: outlines of these names, and the model's isolines."""
    entries = [Entry(f"outlined {name}", colour) for name, colour in _LINES.items() if name in outlined]
    return (*entries, *(Entry(f"model, {name}", MODEL[name], DASHED) for name in view.data.thresholds))


def paint(tile: Tile, frame: Frame, heat: Any) -> None:
    """Draw the density of a day, its isolines at the fitted thresholds, and the outlines of that day."""
    if frame.background is not None:
        tile.image(frame.background, tile.view.greys(frame.background))
    tile.heat(frame.values, heat)
    for name in reversed(_LINES):
        if (mask := getattr(frame, name)) is not None:
            tile.outline(mask, _LINES[name], width=1.1)
    for name, level in reversed(tile.view.data.thresholds.items()):
        tile.outline(frame.values, MODEL[name], level=level, style=DASHED, width=1.1)
