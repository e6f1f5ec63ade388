"""Curves of the records: `python -m benchmarks.curves docs/figures/curves` draws them anew, and measures nothing."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from benchmarks.methods import METHODS

RESULTS = Path(__file__).resolve().parent / "results"
# Of Okabe and Ito, for readers who do not see all colours; each is legible on white and on black.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6bb1", "#999933", "#bb5566", "#777777")
COLOURS += ("#44bb99", "#a0522d")
_INK = "#808080"
# Text stays text, and nothing is drawn behind it; the same records give the same file.
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tumorjax",
    "font.family": "sans-serif",
    "font.size": 11,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
}


def records(name: str) -> dict[str, dict[str, Any]]:
    """Return the records of a file in `benchmarks/results`, by name."""
    return {each["name"]: each for each in json.loads((RESULTS / f"{name}.json").read_text())["records"]}


def at_least(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores in rising order, and for each the share of values that are no lower."""
    scores = np.sort(values)
    return scores, 1 - np.arange(len(scores)) / len(scores)


def within(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities, and the share of truths in the intervals of each.

    Parameters
    ----------
    levels
        (n,) of each truth the probability of the smallest interval that holds it.
    """
    nominal = np.linspace(0, 1, 101)
    return nominal, np.searchsorted(np.sort(levels), nominal, side="right") / len(levels)


def levels_of_search() -> np.ndarray:
    """Return the levels of all parameters of the synthetic patients, by the Laplace approximation of `LBFGS`."""
    found = [each for name, each in records("personalize").items() if name.startswith("synthetic_error_")]
    errors = np.concatenate([each["details"]["errors"] for each in found])
    deviations = np.concatenate([each["details"]["deviations"] for each in found])
    return np.array([2 * NormalDist().cdf(abs(z)) - 1 for z in errors / deviations])


def levels_of_networks() -> np.ndarray:
    """Return the levels of the true parameters of 50 rats in the posterior of `NeuralPosterior`."""
    return np.array(records("neural_posterior")["npe_coverage_90"]["details"]["levels"])


def profiles(axes: Axes) -> None:
    """Draw of each method the share of synthetic patients that reach a Dice coefficient with the true cells."""
    found = records("compare")
    # Names that end otherwise are of a part of the patients.
    methods = [name for name in METHODS if f"{name}_dice_0.1" in found]
    for colour, name in zip(COLOURS, sorted(methods, key=lambda m: -found[f"{m}_dice_0.1"]["value"]), strict=False):
        each = found[f"{name}_dice_0.1"]["details"]["each"]
        scores, share = at_least(np.array([value for value in each.values() if value is not None]))
        axes.step(scores, share, where="pre", color=colour, label=name, linewidth=1.6)
    axes.set(xlabel="Dice with the true cells at 0.1", ylabel="share of patients with at least this", ylim=(0, 1.03))
    axes.legend(fontsize=9)


def precision(axes: Axes) -> None:
    """Draw the seconds that four schemes take for an error of 1e-3, over the edge of voxels."""
    cases = [each for name, each in records("work_precision").items() if name.startswith("seconds_at_0.001_")]
    edges = sorted({case["details"]["resolution_mm"] for case in cases})
    schemes = list(cases[0]["details"]["seconds"])
    for colour, scheme in zip(COLOURS, schemes, strict=False):
        rows = [
            [
                value
                for c in cases
                if c["details"]["resolution_mm"] == edge and (value := c["details"]["seconds"][scheme])
            ]
            for edge in edges
        ]
        there = [(edge, row) for edge, row in zip(edges, rows, strict=True) if row]
        axes.plot(
            [e for e, _ in there], [np.median(r) for _, r in there], "o-", color=colour, label=scheme, markersize=5
        )
        axes.fill_between(
            [e for e, _ in there], [min(r) for _, r in there], [max(r) for _, r in there], color=colour, alpha=0.12
        )
    axes.set(xscale="log", yscale="log", xlabel="edge of the voxels, mm", ylabel="seconds a solve, error 1e-3")
    axes.set_xticks(edges, [f"{edge:g}" for edge in edges])
    axes.minorticks_off()
    axes.legend(fontsize=9)


def coverage(axes: Axes) -> None:
    """Draw the share of truths inside the intervals of each probability."""
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle="--", label="exact")
    drawn = {"LBFGS, patients": levels_of_search(), "NeuralPosterior, rats": levels_of_networks()}
    for colour, (name, levels) in zip(COLOURS, drawn.items(), strict=False):
        axes.step(*within(levels), where="post", color=colour, label=f"{name} (n = {len(levels)})", linewidth=1.6)
    axes.set(xlabel="probability of the interval", ylabel="share of truths inside", xlim=(0, 1), ylim=(0, 1.03))
    axes.legend(fontsize=9, loc="upper left")


def query(axes: Axes) -> None:
    """Draw the seconds of a query over the number of tumours, and the Dice sum of the match."""
    found = {int(name.split("_")[1]): each for name, each in records("retrieval").items() if "_seconds_of_all" in name}
    numbers = sorted(found)
    plain = [found[number]["value"] for number in numbers]
    pruned = [found[number]["details"]["pruned, s"] for number in numbers]
    axes.plot(numbers, plain, "o-", color=COLOURS[0], label="every outline, s", markersize=5)
    axes.plot(numbers, pruned, "s-", color=COLOURS[2], label="with bounds, s", markersize=5)
    axes.set(xscale="log", yscale="log", xlabel="simulated tumours", ylabel="seconds a query")
    matches = axes.twinx()
    matches.plot(
        numbers,
        [found[n]["details"]["dice sum"] for n in numbers],
        "^--",
        color=COLOURS[3],
        label="Dice sum",
        markersize=5,
    )
    matches.set(ylabel="Dice sum of the best match", ylim=(1.2, 2.0))
    matches.spines["right"].set_visible(True)
    lines = [*axes.get_lines(), *matches.get_lines()]
    axes.legend(lines, [line.get_label() for line in lines], fontsize=9, loc="upper left")


def forecast(axes: Axes) -> None:
    """Draw the cells of a real rat on days that no model saw, and what models predicted from the days before."""
    found = records("visits")
    days = found["rat_error_cells"]["details"]["days"]
    cells = np.array(found["rat_error_cells"]["details"]["cells"]) / 1e6
    models = {
        "Fisher-Kolmogorov": "rat_error_cells",
        "the same, rates that fall": "rat_falling_rates_error_cells",
        "Gompertz law": "gompertz_error_cells",
        "logistic law": "logistic_error_cells",
    }
    for colour, (label, name) in zip(COLOURS, models.items(), strict=False):
        details = found[name]["details"]
        low, high = np.array(details["ends of 90 %"]) / 1e6
        axes.fill_between(days, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(days, np.array(details["predicted"]) / 1e6, "-", color=colour, label=label)
    axes.plot(days, cells, "o", color=_INK, markersize=7, label="measured")
    axes.set(xlabel="day", ylabel="million cells", yscale="log")
    axes.set_yticks([100, 200, 400], ["100", "200", "400"])
    axes.minorticks_off()
    axes.set_xticks(days)
    axes.legend(fontsize=9)


CURVES: dict[str, Callable[[Axes], None]] = {
    "profiles": profiles,
    "precision": precision,
    "coverage": coverage,
    "query": query,
    "forecast": forecast,
}


def draw(folder: Path) -> list[Path]:
    """Draw all curves into a folder, and return their files."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with mpl.rc_context(_STYLE):
        for name, curve in CURVES.items():
            figure = Figure(figsize=(6.4, 4.2), layout="constrained")
            FigureCanvasSVG(figure)
            curve(figure.subplots())
            paths.append(folder / f"{name}.svg")
            figure.savefig(paths[-1], metadata={"Date": None, "Creator": "tumorjax"})
    return paths


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curves", description=__doc__)
    parser.add_argument("folder", type=Path)
    for path in draw(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
