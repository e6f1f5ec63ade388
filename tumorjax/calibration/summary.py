"""Calibrations at a glance: a table for the terminal and for notebooks, and a figure of prior and posterior."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from tumorjax.calibration.estimates import CREDIBILITY, Estimate

if TYPE_CHECKING:
    from tumorjax.calibration.calibration import Calibration

# Standard normal quantile of the upper end of the intervals.
_END = 1.6448536269514722
# Coordinates of the prior that a figure shows: 95 % of its probability.
_SEEN = 1.96
_HEAD = ("name", "estimate", "± sd", f"{CREDIBILITY:.0%} interval", "unit", "sd / prior sd")


@dataclass(frozen=True)
class SummaryRow:
    """One calibrated number in a summary.

    Parameters
    ----------
    estimate
        The number, with unit and standard deviation.
    interval
        Ends of the 90 % interval, in its unit; None where unknown.
    spread_left
        Posterior over prior standard deviation, in the coordinates in which the prior is standard normal: one where
        the data say nothing beyond the prior, near zero where they decide. None for numbers that are no coordinates.
    """

    estimate: Estimate
    interval: tuple[float, float] | None
    spread_left: float | None


@dataclass(frozen=True)
class Summary:
    """A table of calibrated numbers, which shows itself in a terminal and in a notebook.

    Parameters
    ----------
    title
        How the numbers were found.
    rows
        The numbers.
    """

    title: str
    rows: Sequence[SummaryRow]

    def __str__(self) -> str:
        """Return the table as text."""
        cells = [_HEAD, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(_HEAD))]
        # Words to the left, numbers to the right.
        turned = [str.ljust if name in ("name", "unit") else str.rjust for name in _HEAD]
        lines = ["  ".join(f(cell, w) for f, cell, w in zip(turned, line, widths, strict=True)) for line in cells]
        return "\n".join([self.title, "", *(line.rstrip() for line in lines)])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in _HEAD)
        body = "".join(
            "<tr title='{}'>{}</tr>".format(
                html.escape(row.estimate.meaning, quote=True),
                "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row)),
            )
            for row in self.rows
        )
        return f"<p>{html.escape(self.title)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def summary_of(calibration: "Calibration") -> Summary:
    """Return the table of a calibration; see `Calibration.summary`."""
    names, left = calibration.prior.names, None
    if calibration.covariance is not None:
        left = np.sqrt(np.maximum(np.diagonal(np.asarray(calibration.covariance, float)), 0))
    rows = []
    for row in calibration.estimates():
        place = names.index(row.coordinate) if row.coordinate in names else None
        interval, spread = row.interval, None
        if place is not None and left is not None:
            spread = float(left[place])
            interval = interval or _interval(calibration, row.coordinate, place, spread)
        rows.append(SummaryRow(row, interval, spread))
    words = calibration.description
    return Summary(f"{words[:1].upper()}{words[1:]} ({calibration.result.value})", rows)


def _interval(calibration: "Calibration", coordinate: str | None, place: int, spread: float) -> tuple[float, float]:
    """Return the interval of a coordinate in the unit of its parameter, to which an increasing map carries it."""
    ends = []
    for sign in (-1, 1):
        z = np.asarray(calibration.coordinates).copy()
        z[place] += sign * _END * spread
        ends.append(float(_columns(calibration, calibration.prior.constrain(jnp.asarray(z)))[place]))
    return ends[0], ends[1]


def _columns(calibration: "Calibration", params: Any) -> np.ndarray:
    """Return the unknown among parameters as numbers in the order of the coordinates."""
    return np.concatenate([np.ravel(np.asarray(leaf, float)) for leaf in calibration.prior.unknown(params).values()])


def _cells(row: SummaryRow) -> tuple[str, ...]:
    number = lambda value: f"{value:.4g}"  # noqa: E731
    estimate = row.estimate
    deviation = "assumed" if estimate.fixed else "" if estimate.deviation is None else f"{estimate.deviation:.2g}"
    interval = "" if row.interval is None else " to ".join(number(end) for end in row.interval)
    left = "" if row.spread_left is None else f"{row.spread_left:.0%}"
    return estimate.name, number(estimate.value), deviation, interval, estimate.unit, left


def plot(calibration: "Calibration") -> Any:
    """Return a figure of the calibrated numbers: prior and posterior of each; see `Calibration.plot`."""
    from matplotlib.figure import Figure

    rows = [row for row in calibration.estimates() if row.coordinate]
    names = calibration.prior.names
    across = 3
    down = -(-len(rows) // across)
    figure = Figure(figsize=(3.2 * across, 2.1 * down), layout="constrained")
    centre = np.asarray(calibration.coordinates, float)
    left = None if calibration.covariance is None else np.sqrt(np.diagonal(np.asarray(calibration.covariance, float)))
    # A posterior may be many times narrower than its prior: it has points of its own.
    line = np.repeat(np.linspace(-_SEEN, _SEEN, 201)[:, None], len(names), axis=1)
    if left is not None:
        line = np.sort(np.concatenate([line, centre + np.linspace(-4, 4, 160)[:, None] * left]), axis=0)
    # Every parameter increases with its coordinate, so that one line through all of them shows each.
    lines = jnp.asarray(line, calibration.coordinates.dtype)
    values = np.stack([_columns(calibration, each) for each in _rows(jax.vmap(calibration.prior.constrain)(lines))])
    for number, row in enumerate(rows):
        axes = figure.add_subplot(down, across, number + 1)
        place = names.index(row.coordinate or "")
        # The slope between points that nearly coincide is an error of rounding.
        near = 0.0 if left is None else 0.01 * min(left[place], 1.0)
        apart = np.diff(line[:, place], prepend=-np.inf) > near
        z, value = line[apart, place], values[apart, place]
        slope = np.gradient(value, z)
        axes.plot(value, _normal(z) / slope, color="#8a949e", linewidth=1.0, label="prior")
        if left is not None and left[place] > 0:
            away = (z - centre[place]) / left[place]
            axes.fill_between(
                value, _normal(away) / left[place] / slope, color="#0072b2", alpha=0.35, label="posterior"
            )
        axes.axvline(row.value, color="#0072b2", linewidth=1.2, label="estimate")
        if row.truth is not None:
            axes.axvline(row.truth, color="#d55e00", linewidth=1.2, label="truth")
        axes.set_title(row.name, fontsize=9, parse_math=False)
        axes.set_xlabel(row.unit, fontsize=8, parse_math=False)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
        if number == 0:
            axes.legend(fontsize=7, frameon=False)
    return figure


def _rows(tree: Any) -> list[Any]:
    """Return the members of a tree of arrays along their leading axis."""
    count = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]


def _normal(z: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
