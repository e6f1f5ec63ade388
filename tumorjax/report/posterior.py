"""The page's figures of draws from the posterior: corner, traces, a sampler's stages, probability in each voxel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy.ndimage import gaussian_filter

from tumorjax.calibration.estimates import Estimate
from tumorjax.report.charts import BLUE, GREY, VERMILLION, plainly, quiet, symbol
from tumorjax.report.figures import DASHED, LESION, OUTLINES
from tumorjax.report.rows import Entry, Row, new_figure, to_png
from tumorjax.report.tiles import INK, SOFT, WIDTH, Scale, Tile, View, axes_at, inches, plain
from tumorjax.sections import Draws

# Okabe and Ito's colours for chains, told apart under the common colour blindnesses.
_CHAINS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a949e", "#1b2430")
_MASSES = (0.5, 0.9)  # of the posterior inside the contours
_MOST = 9  # parameters in a corner; more would be too small to read
_BINS = 30  # of histograms of many draws


def probability_row(view: View) -> Row | None:
    """Return the row of the probability that tissue is infiltrated; None where it is unknown."""
    probability = view.data.probability
    if probability is None or not probability.max() > 0:
        return None
    # Outside the line of probability 1 - level lies what is infiltrated with at most that probability.
    lines = ((0.5, LESION, "-"), (0.1, LESION, DASHED))
    scale = Scale(f"probability that the\ndensity is above {view.data.infiltrated:g}", "viridis", 0.0, 1.0, lines=lines)

    def paint(tile: Tile) -> None:
        tile.heat(probability, scale)
        for level, colour, style in lines:
            tile.outline(probability, colour, level=level, style=style, width=1.0)
        tile.outline(tile.view.data.core, OUTLINES["core"].colour, width=1.0)

    entries = (OUTLINES["core"], Entry("50 % credible volume", LESION), Entry("90 % credible volume", LESION, DASHED))
    return Row("Probability of infiltration", paint, entries, scale)


def _flat(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Return (m, k) draws that are finite and have a weight, and their weights, which sum to one."""
    values = np.asarray(draws.values, float).reshape(-1, len(draws.names))
    weights = np.asarray(draws.weights, float).ravel()
    kept = (weights > 0) & np.isfinite(values).all(axis=1)
    return values[kept], weights[kept] / max(weights[kept].sum(), 1e-300)


def _varying(values: np.ndarray) -> list[int]:
    """Return the numbers of the parameters that differ between draws (m, k)."""
    return [number for number, column in enumerate(values.T) if column.size and np.ptp(column) > 0]


def corner_png(draws: Draws, parameters: Sequence[Estimate]) -> bytes | None:
    """Return marginals and pairs of the draws' parameters, with the prior and the truth where they are known.

    Contours hold 50 and 90 % of the posterior, of a histogram that is smoothed, the more the fewer draws there are.
    None below two parameters that vary.
    """
    values, weights = _flat(draws)
    shown = _varying(values)[:_MOST]
    if len(shown) < 2:
        return None
    rows = {p.name: p for p in parameters}
    left, foot, gap, head = 0.95, 0.72, 0.09, 0.05
    side = min((WIDTH - left - gap * (len(shown) - 1) - 0.1) / len(shown), 2.2)
    figure = new_figure(WIDTH, foot + head + len(shown) * side + (len(shown) - 1) * gap)
    limits = {n: _limits(values[:, n], weights, rows.get(draws.names[n])) for n in shown}
    for down, vertical in enumerate(shown):
        for right, across in enumerate(shown[: down + 1]):
            box = (left + right * (side + gap), foot + (len(shown) - 1 - down) * (side + gap), side, side)
            axes = axes_at(figure, box)
            axes.set(xlim=limits[across])
            parameter, other = rows.get(draws.names[across]), rows.get(draws.names[vertical])
            if vertical == across:
                _marginal(axes, draws, across, values[:, across], weights)
                axes.set(yticks=[])
                quiet(axes, ("bottom",))
            else:
                axes.set(ylim=limits[vertical])
                _pair(axes, values[:, across], values[:, vertical], weights)
                _truth(axes.axhline, other)
                axes.yaxis.set_major_locator(MaxNLocator(3, prune="both"))
                axes.yaxis.set_major_formatter(FuncFormatter(plainly))
                quiet(axes, ("left", "bottom"))
            _truth(axes.axvline, parameter)
            axes.xaxis.set_major_locator(MaxNLocator(3, prune="both"))
            axes.xaxis.set_major_formatter(FuncFormatter(plainly))
            axes.tick_params(labelsize=7, pad=1.5, labelbottom=down == len(shown) - 1, labelleft=right == 0 < down)
            if down == len(shown) - 1:
                _name(axes, parameter, draws.names[across], (0.5, -0.3 / side), upright=False)
            if right == 0 < down:
                _name(axes, other, draws.names[vertical], (-0.62 / side, 0.5), upright=True)
    _corner_key(figure, draws, any(p is not None and p.truth is not None for p in rows.values()))
    return to_png(figure)


def _limits(column: np.ndarray, weights: np.ndarray, parameter: Estimate | None) -> tuple[float, float]:
    """Return a range that holds nearly all draws, and the truth unless it lies far away."""
    order = np.argsort(column)
    low, high = np.interp((0.002, 0.998), np.cumsum(weights[order]), column[order])
    if not high > low:
        low, high = float(column.min()), float(column.max())
    width = high - low
    truth = None if parameter is None else parameter.truth
    if truth is not None and low - width < truth < high + width:
        low, high = min(low, truth), max(high, truth)
    return float(low - 0.08 * width), float(high + 0.08 * width)


def _truth(line: Any, parameter: Estimate | None) -> None:
    if parameter is not None and parameter.truth is not None and np.isfinite(parameter.truth):
        line(parameter.truth, color=VERMILLION, linewidth=1.1)


def _marginal(axes: Axes, draws: Draws, number: int, column: np.ndarray, weights: np.ndarray) -> None:
    bins = int(np.clip(3 * _effective(weights) ** (1 / 3), 8, _BINS))
    edges = np.linspace(*axes.get_xlim(), bins + 1)
    heights, _ = np.histogram(column, edges, weights=weights)
    heights = heights / (edges[1] - edges[0])
    axes.stairs(heights, edges, fill=True, color=BLUE, alpha=0.35)
    axes.stairs(heights, edges, color=BLUE, linewidth=1.0)
    top = max(float(heights.max()), 1e-300)
    if draws.prior is not None and draws.prior_density is not None:
        axes.plot(draws.prior[:, number], draws.prior_density[:, number], color=GREY, linewidth=0.9)
    axes.set(ylim=(0, 1.12 * top))


def _pair(axes: Axes, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> None:
    """Draw contours around the heaviest parts of the posterior, and the draws outside them as points."""
    edges = [np.linspace(*limits, _BINS + 1) for limits in (axes.get_xlim(), axes.get_ylim())]
    counts, _, _ = np.histogram2d(x, y, edges, weights=weights)
    # Scott's rule, of a posterior five bins wide, and less of it, since what is smoothed is wider than it was.
    smooth = gaussian_filter(counts, max(0.7 * 5 * _effective(weights) ** (-1 / 6), 0.7), mode="constant")
    order = np.sort(smooth.ravel())[::-1]
    mass = np.cumsum(order) / max(order.sum(), 1e-300)
    levels = [float(order[min(int(np.searchsorted(mass, share)), order.size - 1)]) for share in _MASSES]
    axes.scatter(x, y, s=0.6, color=GREY, alpha=0.45, linewidths=0)
    if not smooth.max() > levels[0] > levels[1] > 0:
        # Too few draws for contours.
        return
    middles = [(e[1:] + e[:-1]) / 2 for e in edges]
    colours = [to_rgba("#c9e0f0"), to_rgba("#7fb5da")]
    axes.contourf(*middles, smooth.T, [levels[1], levels[0], float(smooth.max())], colors=colours)
    axes.contour(*middles, smooth.T, [levels[1], levels[0]], colors=[BLUE], linewidths=0.8)


def _effective(weights: np.ndarray) -> float:
    return float(weights.sum() ** 2 / max(np.sum(weights**2), 1e-300))


def _name(axes: Axes, parameter: Estimate | None, name: str, at: tuple[float, float], *, upright: bool) -> None:
    """Write a parameter's symbol and unit beside axes: texts rather than labels, which would read it as maths."""
    words, maths = (plain(name, 12), False) if parameter is None else symbol(parameter)
    place: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    turn = 90 if upright and not maths and len(words) > 5 else 0
    axes.text(*at, words, fontsize=10, color=INK, parse_math=maths, rotation=turn, **place)
    unit = "" if parameter is None else plain(parameter.unit, 12)
    if unit:
        # Below the symbol, by the same length in all figures.
        below = (at[0], at[1] - 0.2 / inches(axes)[1])
        axes.text(*below, unit, fontsize=7, color=SOFT, parse_math=False, **place)


def _corner_key(figure: Figure, draws: Draws, truth: bool) -> None:
    """Explain colours and lines in the empty corner."""
    wide, high = figure.get_size_inches()
    box = (0.62 * wide, high - 1.5, 0.38 * wide, 1.4)
    axes = axes_at(figure, box)
    axes.set_axis_off()
    axes.set(xlim=(0, box[2]), ylim=(0, box[3]))
    rows = [("posterior: contours hold 50 and 90 % of it", BLUE, 1.6)]
    if draws.prior is not None:
        rows.append(("prior", GREY, 0.9))
    if truth:
        rows.append(("truth", VERMILLION, 1.1))
    for number, (words, colour, width) in enumerate(rows):
        y = box[3] - 0.15 - 0.24 * number
        axes.plot([0, 0.35], [y, y], color=colour, linewidth=width)
        axes.text(0.47, y, words, fontsize=8.5, va="center", color=INK)


def trace_png(draws: Draws, parameters: Sequence[Estimate]) -> bytes | None:
    """Return each parameter against the number of the draw, a colour a chain; None of what is no chain."""
    shown = _varying(_flat(draws)[0])[:_MOST]
    if not draws.mixing or not shown:
        return None
    rows = {p.name: p for p in parameters}
    left, foot, gap, high, columns = 0.95, 0.45, 0.16, 0.95, 2
    lines = -(-len(shown) // columns)
    wide = WIDTH / columns - left - 0.12
    figure = new_figure(WIDTH, foot + lines * (high + gap))
    values = np.asarray(draws.values, float)
    for place, number in enumerate(shown):
        down, right = place // columns, place % columns
        box = (right * WIDTH / columns + left, foot + (lines - 1 - down) * (high + gap), wide, high)
        axes = axes_at(figure, box)
        for chain, series in enumerate(values[..., number]):
            axes.plot(series, color=_CHAINS[chain % len(_CHAINS)], linewidth=0.6, alpha=0.85)
        parameter = rows.get(draws.names[number])
        _truth(axes.axhline, parameter)
        axes.set(xlim=(0, max(values.shape[1] - 1, 1)))
        axes.yaxis.set_major_locator(MaxNLocator(3, prune="both"))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(plainly))
        quiet(axes)
        last = place + columns >= len(shown)
        axes.tick_params(labelsize=7, labelbottom=last)
        if last:
            axes.set_xlabel("draw", fontsize=8, color=INK, labelpad=1)
        _name(axes, parameter, draws.names[number], (-0.66 / wide, 0.55), upright=True)
    return to_png(figure)


def ladder_png(draws: Draws) -> bytes | None:
    """Return the figures of a sampler's stages, each against the stage; None of a sampler without stages."""
    shown = {name: np.asarray(row, float) for name, row in draws.ladder.items() if len(row)}
    if not shown:
        return None
    left, foot, high = 0.75, 0.5, 2.1
    step = WIDTH / len(shown)
    figure = new_figure(WIDTH, foot + high + 0.35)
    for place, (name, row) in enumerate(shown.items()):
        axes = axes_at(figure, (place * step + left, foot, step - left - 0.2, high))
        axes.plot(np.arange(1, row.size + 1), row, "o-", color=BLUE, linewidth=1.4, markersize=4)
        if name == "temperature" and row.size > 1 and 0 < row.min() < 0.05:
            axes.set_yscale("log")
        else:
            axes.set(ylim=(0, 1.08 * max(float(np.nanmax(row)), 1e-300)))
            axes.yaxis.set_major_formatter(FuncFormatter(plainly))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_xlabel("stage", fontsize=8.5, color=INK)
        axes.grid(axis="y", color="#e3e7eb", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.text(
            0, 1.04, plain(name, 30), transform=axes.transAxes, fontsize=9.5, va="bottom", color=INK, parse_math=False
        )
        quiet(axes)
    return to_png(figure)
