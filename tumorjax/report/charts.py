"""The page's charts: parameters, their correlation, curves, profile, scatter."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tumorjax.calibration.estimates import Estimate
from tumorjax.report.rows import new_figure, to_png
from tumorjax.report.tiles import INK, SOFT, View, axes_at, plain
from tumorjax.sections import Curves, Lines

BLUE, VERMILLION, GREY = "#0072b2", "#d55e00", "#8a949e"
# Okabe and Ito's, for as many quantities. The first two are near those of core and whole lesion on images.
COLOURS = (BLUE, "#e69f00", "#009e73", "#cc79a7")
_HALF = 5.45  # in, half of the page
_TICKS = 6  # places of lines that have room for a tick each


def symbol(parameter: Estimate) -> tuple[str, bool]:
    """Return a parameter's symbol for a figure, and whether it is mathematical notation.

    Only a letter with a plain subscript is set as mathematics: anything else in a symbol is text, and text
    must never reach matplotlib's parser.
    """
    parts = re.fullmatch(r"([A-Za-zͰ-Ͽ])_([A-Za-z0-9]{1,8})", parameter.symbol)
    if parts:
        return rf"${parts[1]}_{{\mathrm{{{parts[2]}}}}}$", True
    return plain(parameter.symbol or parameter.name, 9), False


def plainly(value: float, _position: object = None) -> str:
    """Return the words of a tick."""
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def quiet(axes: Axes, sides: Sequence[str] = ("left", "bottom")) -> None:
    """Leave of the frame these sides only, and small ticks."""
    for name, spine in axes.spines.items():
        spine.set_visible(name in sides)
        spine.set_linewidth(0.7)
        spine.set_color(GREY)
    axes.tick_params(labelsize=8, length=3, width=0.7, color=GREY, labelcolor=INK)


def parameters_png(parameters: Sequence[Estimate]) -> bytes | None:
    """Return estimates with their uncertainty, each on its own axis; None where none is known.

    That is one standard deviation, and the 90 % credible interval or, without draws, two standard deviations.
    """
    shown = [
        p
        for p in parameters
        if p.deviation is not None and p.deviation > 0 and np.isfinite([p.value, p.deviation]).all()
    ]
    if not shown:
        return None
    step, left, foot = 0.6, 0.9, 0.4
    figure = new_figure(_HALF, step * len(shown) + foot)
    for number, p in enumerate(shown):
        std = float(p.deviation or 0.0)
        axes = axes_at(figure, (left, foot + step * (len(shown) - 1 - number) + 0.24, _HALF - left - 0.15, step - 0.28))
        low, high = p.interval or (p.value - 2 * std, p.value + 2 * std)
        axes.plot([low, high], [0, 0], color=BLUE, linewidth=1.4, solid_capstyle="butt")
        axes.plot([p.value - std, p.value + std], [0, 0], color=BLUE, linewidth=5, alpha=0.45, solid_capstyle="butt")
        axes.plot([p.value], [0], "o", color=BLUE, markersize=5.5)
        ends = [min(low, p.value - std) - 0.5 * std, max(high, p.value + std) + 0.5 * std]
        if p.truth is not None and np.isfinite(p.truth):
            axes.plot([p.truth], [0], "D", color=VERMILLION, markersize=5, markerfacecolor="white", markeredgewidth=1.5)
            ends += [p.truth - 0.4 * std, p.truth + 0.4 * std]
        axes.set(ylim=(-1, 1), yticks=[], xlim=(min(ends), max(ends)))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], min_n_ticks=2, prune="both"))
        axes.xaxis.set_major_formatter(FuncFormatter(plainly))
        quiet(axes, ("bottom",))
        axes.tick_params(labelsize=7, pad=1.5)
        words, maths = symbol(p)
        place: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "center", "color": INK}
        shift = 0.12 / (_HALF - left - 0.15)
        axes.text(-shift, 0.62, words, fontsize=10, parse_math=maths, **place)
        place["color"] = SOFT
        axes.text(-shift, -0.12, plain(p.unit, 14), fontsize=7, parse_math=False, **place)
    key = axes_at(figure, (left, 0.0, _HALF - left - 0.15, 0.25))
    key.set_axis_off()
    key.set(xlim=(0, 1), ylim=(0, 1))
    key.plot([0.02], [0.5], "o", color=BLUE, markersize=5)
    wide = "standard deviation and 90 % interval" if shown[0].interval else "1 and 2 standard deviations"
    key.text(0.045, 0.5, f"estimate, {wide}", fontsize=7.5, va="center", color=INK)
    if any(p.truth is not None for p in shown):
        key.plot([0.76], [0.5], "D", color=VERMILLION, markersize=4.5, markerfacecolor="white", markeredgewidth=1.5)
        key.text(0.785, 0.5, "truth", fontsize=7.5, va="center", color=INK)
    return to_png(figure)


def correlation_png(names: Sequence[str], matrix: np.ndarray, parameters: Sequence[Estimate]) -> bytes | None:
    """Return the correlation matrix as a heat map with its numbers; None below two parameters."""
    count = len(names)
    if count < 2:
        return None
    symbols = {p.name: symbol(p) for p in parameters}
    left, side = 0.85, min(_HALF - 0.85 - 0.1, 0.53 * count)
    figure = new_figure(_HALF, side + 0.95)
    axes = axes_at(figure, (left, 0.92, side, side))
    # The diagonal is one by definition; in its colour it would outshine what is to be seen.
    values = np.where(np.eye(count, dtype=bool), np.nan, np.asarray(matrix, float))
    axes.set_facecolor("#e3e7eb")
    picture = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    for row in range(count):
        for column in range(count if count <= 14 else 0):
            value = values[row, column]
            if np.isfinite(value):
                words = f"{value:.2f}".replace("-", "\N{MINUS SIGN}").replace("0.", ".")
                colour = "white" if abs(value) > 0.6 else INK
                axes.text(column, row, words, ha="center", va="center", fontsize=7.5, color=colour)
    # Own texts rather than tick labels: those cannot say which of them are mathematics.
    axes.set(xticks=[], yticks=[])
    for number, name in enumerate(names):
        words, maths = symbols.get(name, (plain(name, 9), False))
        style: dict[str, Any] = {"parse_math": maths, "fontsize": 9, "color": INK}
        axes.text(-0.65, number, words, ha="right", va="center", **style)
        turn = 0 if len(words) < 6 or maths else 90
        axes.text(number, count - 0.38, words, ha="center", va="top", rotation=turn, **style)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = axes_at(figure, (left, 0.42, side, 0.1))
    figure.colorbar(picture, cax=bar, orientation="horizontal", ticks=[-1, -0.5, 0, 0.5, 1])
    bar.tick_params(labelsize=7.5, length=2.5, labelcolor=INK)
    bar.set_xlabel("correlation", fontsize=8, color=INK, labelpad=1)
    return to_png(figure)


def curves_png(curves: Curves) -> bytes | None:
    """Return series against their index, the one that ends lowest in colour; None without finite values."""
    series = [np.where(np.isfinite(t), t, np.nan) for t in (np.asarray(t, float) for t in curves.series)]
    series = [t for t in series if t.size and not np.isnan(t).all()]
    if not series:
        return None
    last = [t[~np.isnan(t)][-1] for t in series]
    best = int(np.argmin(last))
    figure = new_figure(_HALF, 3.0)
    axes = axes_at(figure, (0.8, 0.5, _HALF - 0.95, 2.2))
    for number, trace in enumerate(series):
        if number != best:
            axes.plot(np.arange(trace.size), trace, color=GREY, linewidth=1.0, alpha=0.7)
    steps = np.flatnonzero(~np.isnan(series[best]))
    axes.plot(np.arange(series[best].size), series[best], color=BLUE, linewidth=2.0)
    axes.plot([steps[-1]], [last[best]], "o", color=BLUE, markersize=5)
    low, high = min(np.nanmin(t) for t in series), max(np.nanmax(t) for t in series)
    if low > 0 and high > 20 * low:
        axes.set_yscale("log")
    axes.set_xlabel(plain(curves.across, 40), fontsize=8.5, color=INK, parse_math=False)
    axes.set_ylabel(plain(curves.up, 40), fontsize=8.5, color=INK, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.grid(axis="y", color="#e3e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    quiet(axes)
    if len(series) > 1:
        # Above the axes, where no curve passes.
        lines = [Line2D([], [], color=BLUE, linewidth=2.0), Line2D([], [], color=GREY, linewidth=1.0)]
        others = "the other search" if len(series) == 2 else f"the other {len(series) - 1} searches"
        place = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
        axes.legend(lines, ["best search", others], ncols=2, fontsize=8, frameon=False, **place)
    return to_png(figure)


def lines_png(shown: Lines) -> bytes | None:
    """Return quantities of some places, a line with points for each; None without finite values."""
    series = {name: np.asarray(values, float) for name, values in shown.series.items()}
    series = {name: values for name, values in series.items() if np.isfinite(values).any()}
    if not series:
        return None
    figure = new_figure(_HALF, 2.9)
    axes = axes_at(figure, (0.7, 0.5, _HALF - 0.85, 1.95))
    for number, (name, values) in enumerate(series.items()):
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "label": plain(name, 40)}
        axes.plot(shown.places, values, "-o", linewidth=1.8, markersize=5.5, markeredgecolor="white", **style)
    top = max(float(np.nanmax(values)) for values in series.values())
    axes.set_ylim(0, 1.08 * top if top > 0 else 1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6))
        axis.set_major_formatter(FuncFormatter(plainly))
    if len(shown.places) <= _TICKS:
        axes.set_xticks(np.asarray(shown.places, float))
    axes.set_xlabel(plain(shown.across, 40), fontsize=8.5, color=INK, parse_math=False)
    axes.set_ylabel(plain(shown.up, 40), fontsize=8.5, color=INK, parse_math=False)
    axes.grid(axis="y", color="#e3e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    quiet(axes)
    # Above the axes, where no line passes.
    legend = axes.legend(
        ncols=2, fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return to_png(figure)


def profile(axes: Axes, view: View) -> None:
    """Draw true and estimated density along the line from the patient's right to left through the focus."""
    data = view.data
    where = (slice(None), int(view.focus[1]), int(view.focus[2]))
    x = (np.arange(data.density.shape[0]) - view.focus[0]) * view.spacing[0]
    estimate = data.density[where]
    if data.density_std is not None:
        std = data.density_std[where]
        axes.fill_between(x, estimate - std, estimate + std, color=BLUE, alpha=0.2, linewidth=0)
    words = "estimate" if data.density_std is None else "estimate \N{PLUS-MINUS SIGN} std"
    axes.plot(x, estimate, color=BLUE, linewidth=1.8, label=words)
    if data.truth is not None:
        axes.plot(x, data.truth[where], color=VERMILLION, linewidth=1.6, linestyle=(0, (4, 2)), label="truth")
    axes.set(ylim=(-0.02, 1.05), xlim=(x[-1], x[0]))
    axes.set_xlabel("mm along the dotted line (R to L)", fontsize=8, color=INK)
    axes.set_ylabel("density", fontsize=8, color=INK)
    axes.grid(color="#e3e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(loc="best", fontsize=7.5, frameon=True, framealpha=0.9, edgecolor="none")
    quiet(axes)


def scatter(axes: Axes, measured: np.ndarray, modelled: np.ndarray, label: str) -> None:
    """Draw modelled against measured values of an image as a density of voxels, with the line of identity."""
    top = float(np.percentile(np.concatenate([measured, modelled]), 99.9))
    axes.hexbin(
        measured, modelled, gridsize=32, extent=(0, top, 0, top), bins="log", mincnt=1, cmap="Blues", linewidths=0.1
    )
    axes.plot([0, top], [0, top], color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
    axes.set(xlim=(0, top), ylim=(0, top))
    axes.set_xlabel(f"measured {label}", fontsize=8, color=INK, parse_math=False)
    axes.set_ylabel(f"modelled {label}", fontsize=8, color=INK, parse_math=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    quiet(axes)
    if measured.size > 2 and measured.std() > 0 and modelled.std() > 0:
        words = f"r = {np.corrcoef(measured, modelled)[0, 1]:.2f}".replace("-", "\N{MINUS SIGN}")
        axes.text(0.04, 0.96, words, transform=axes.transAxes, ha="left", va="top", fontsize=9, color=INK)
