"""Cost of a forward solve for a given error in time: the default, Euler, exponential and implicit schemes."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.brain import ORIGIN, brain
from benchmarks.record import Record
from benchmarks.schemes import StrangChebyshev, StrangImplicit, evaluations
from tumorjax import Anatomy, FisherKolmogorov, ScaledGrowthParams, StrangRKL2
from tumorjax.growth import ReactionDiffusion
from tumorjax.integrate import AbstractStepper, ForwardMode, SplitEuler, simulate

GOAL = 1e-3
_DEFAULT = ("StrangRKL2", 1)
_TUMOURS = {
    "small, dense": (4.0, 3.5),
    "large, dense": (11.2, 3.5),
    "medium, faint": (11.0, 2.0),
    "wide, faint": (27.0, 1.0),
}
_LABELS = ("StrangRKL2", "Strang, Chebyshev", "Strang, CG", "SplitEuler")
_COLOURS = dict(zip(_LABELS, ("#0072B2", "#009E73", "#CC79A7", "#D55E00"), strict=True))
_MARKERS = dict(zip(_LABELS, "osD^", strict=True))


@eqx.filter_jit
def _solve(anatomy: Anatomy, params: ScaledGrowthParams, stepper: AbstractStepper) -> jax.Array:
    solution = simulate(FisherKolmogorov(), params, anatomy, stepper=stepper, adjoint=ForwardMode(), throw=False)
    return solution.density


def run(size: str) -> list[Record]:
    """Error and cost of the default, and the cost of the error `GOAL`; `small` is one tumour on coarse voxels."""
    if size == "small":
        cases, tumours = {4: _Settings((2, 1), (2, 1), (1,), (1.0, 0.3), fine=1 / 2)}, ["large, dense"]
    else:
        steps, shares = (8, 4, 2, 1, 1 / 2, 1 / 4), (1.0, 0.3, 0.1, 0.03)
        cases = {
            4: _Settings(steps[1:], steps, steps[:-1], shares, fine=1 / 16),
            2: _Settings(steps[1:], steps[:-1], steps[1:-1], shares, fine=1 / 16, most=2000),
            1: _Settings(steps[2:], steps[1:4], steps[2:4], shares[:1], fine=1 / 4, most=1000),
        }
        tumours = list(_TUMOURS)
    records = []
    for resolution, settings in cases.items():
        anatomy = brain(resolution)
        for tumour in tumours:
            records += _case(anatomy, resolution, tumour, settings)
            print(f"{resolution} mm, {tumour}: done", flush=True)
    return records


class _Settings(NamedTuple):
    """Steps of the schemes as multiples of the default's, and steps of Euler as shares of its stability limit."""

    rkl2: tuple[float, ...]
    chebyshev: tuple[float, ...]
    implicit: tuple[float, ...]
    euler: tuple[float, ...]
    fine: float
    """The smaller step of the reference; the other step is twice as long."""
    most: int = 5000
    """Largest number of steps for Euler."""


def _case(anatomy: Anatomy, resolution: int, tumour: str, settings: _Settings) -> list[Record]:
    """Return the records of one tumour on one grid."""
    mu1, mu2 = _TUMOURS[tumour]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), ScaledGrowthParams(mu1, mu2, ORIGIN))
    terms = FisherKolmogorov().terms(params, anatomy)

    def strang(scheme: Callable[..., AbstractStepper], step: float, **options: Any) -> AbstractStepper:
        default = StrangRKL2()
        return scheme(default.reaction_step * step, round(default.first_steps / step), **options)

    fine = settings.fine
    steppers = {("StrangRKL2", step): strang(StrangRKL2, step) for step in {*settings.rkl2, fine, 2 * fine}}
    others = (
        ("Strang, Chebyshev", StrangChebyshev, settings.chebyshev),
        ("Strang, CG", StrangImplicit, settings.implicit),
    )
    for label, scheme, steps in others:
        # Looser tolerances would limit the error; tighter ones do not lower it in float32.
        steppers |= {(label, step): strang(scheme, step, tolerance=4e-6 * max(step, 1)) for step in steps}
    euler = {("SplitEuler", share): SplitEuler(share, float("inf")) for share in settings.euler}
    steppers |= {key: stepper for key, stepper in euler.items() if evaluations(stepper, terms) <= settings.most}
    solves = {key: _measured(anatomy, params, terms, stepper) for key, stepper in steppers.items()}

    # Richardson's extrapolation cancels the leading error, that of second order.
    small, large = (solves["StrangRKL2", step][0] for step in (fine, 2 * fine))
    reference = small + (small - large) / 3
    points = []
    for (label, step), (density, seconds, count) in solves.items():
        if label != "StrangRKL2" or step in settings.rkl2:
            error = float(jnp.linalg.norm(density - reference) / jnp.linalg.norm(reference))
            points.append({"scheme": label, "step": step, "error": error, "seconds": seconds, "evaluations": count})
    points.sort(key=lambda point: (_LABELS.index(point["scheme"]), -point["step"]))

    case = f"{resolution}mm_{tumour.replace(', ', '_')}"
    details = {"resolution_mm": resolution, "tumour": tumour, "mu1": mu1, "mu2": mu2}
    (default,) = (point for point in points if (point["scheme"], point["step"]) == _DEFAULT)
    records = [
        Record(f"default_error_{case}", default["error"], "1", "", {**details, "points": points}),
        Record(f"default_seconds_{case}", default["seconds"], "s", "", details),
        Record(f"default_evaluations_{case}", default["evaluations"], "1", "", details),
    ]
    costs = {unit: {label: _cost(points, label, unit) for label in _LABELS} for unit in ("seconds", "evaluations")}
    reached = {label: cost for label, cost in costs["seconds"].items() if cost is not None}
    if reached:
        best = min(reached, key=lambda label: reached[label])
        details = {**details, "best": best, **costs}
        records.append(Record(f"seconds_at_{GOAL:g}_{case}", reached[best], "s", "", details))
    return records


def _measured(
    anatomy: Anatomy, params: ScaledGrowthParams, terms: ReactionDiffusion, stepper: AbstractStepper
) -> tuple[jax.Array, float, int]:
    """Return the density, the median seconds of a solve and its evaluations of the operator."""
    if not isinstance(stepper, StrangImplicit):
        return *_timed(anatomy, params, stepper), evaluations(stepper, terms)
    # The number of iterations of conjugate gradients is known only after a run.
    counted = dataclasses.replace(stepper, on_evaluation=_note)
    _compile(anatomy, params, counted)
    jax.effects_barrier()
    _evaluated.clear()
    begun = time.perf_counter()
    density = jax.block_until_ready(_solve(anatomy, params, counted))
    seconds = time.perf_counter() - begun
    jax.effects_barrier()
    # The notes cost microseconds: in a long run, nothing.
    if seconds < 2:
        density, seconds = _timed(anatomy, params, stepper)
    return density, seconds, len(_evaluated)


# One function for all steppers that note their evaluations, since each would be compiled again with its own.
_evaluated: list[None] = []


def _note() -> None:
    _evaluated.append(None)


def _timed(anatomy: Anatomy, params: ScaledGrowthParams, stepper: AbstractStepper) -> tuple[jax.Array, float]:
    """Return the density, and the median seconds of as many solves as half a second holds, at least one."""
    _compile(anatomy, params, stepper)
    times = []
    while not times or (sum(times) < 0.5 and len(times) < 9):
        begun = time.perf_counter()
        density = jax.block_until_ready(_solve(anatomy, params, stepper))
        times.append(time.perf_counter() - begun)
    return density, statistics.median(times)


def _compile(anatomy: Anatomy, params: ScaledGrowthParams, stepper: AbstractStepper) -> None:
    """Compile by a run with NaN parameters, which takes one step; tumours on the same grid share programs."""
    jax.block_until_ready(_solve(anatomy, jax.tree.map(lambda leaf: leaf * jnp.nan, params), stepper))


def _cost(points: list[dict], label: str, unit: str) -> float | None:
    """Return the cost of the error `GOAL`, interpolated along a scheme's points; None if no point is as accurate.

    If even the longest step is more accurate, its cost is returned: longer steps are impossible, for Euler because of
    its stability limit and for RKL2 because of its bound on stages.
    """
    mine = sorted((p["error"], p[unit]) for p in points if p["scheme"] == label and np.isfinite(p["error"]))
    good = [cost for error, cost in mine if error <= GOAL]
    if not good:
        return None
    errors, costs = np.log(np.array(mine)).T
    # Where a smaller error costs less than the goal by interpolation, it is the better choice.
    return float(min(np.exp(np.interp(np.log(GOAL), errors, costs)), *good))


def figures(records: list[Record], folder: Path) -> None:
    """Draw the error over the seconds, with a row for each voxel size and a column for each tumour."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter
    from PIL import Image

    cases = [record.details for record in records if "points" in record.details]
    rows = sorted({case["resolution_mm"] for case in cases}, reverse=True)
    columns = list(dict.fromkeys(case["tumour"] for case in cases))
    figure = Figure(figsize=(1.2 + 2.4 * len(columns), 1.3 + 2.0 * len(rows)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), len(columns), sharex="row", sharey=True, squeeze=False)
    for case in cases:
        i, j = rows.index(case["resolution_mm"]), columns.index(case["tumour"])
        axes = panels[i, j]
        axes.axhline(GOAL, color="0.8", linewidth=0.8, zorder=0)
        for label in _LABELS:
            mine = [point for point in case["points"] if point["scheme"] == label]
            seconds, errors = [p["seconds"] for p in mine], [p["error"] for p in mine]
            style = {"color": _COLOURS[label], "marker": _MARKERS[label], "markersize": 4, "linewidth": 1.2}
            axes.loglog(seconds, errors, label=label, **style)
        default = next(p for p in case["points"] if (p["scheme"], p["step"]) == _DEFAULT)
        ring = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "linestyle": "none", "color": "black"}
        axes.loglog(default["seconds"], default["error"], label="the default", markeredgewidth=1, **ring)
        axes.set_ylim(1e-5, 1e-1)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
        if i == 0:
            axes.set_title(f"{case['tumour']}\nμ₁ = {case['mu1']:g} mm, μ₂ = {case['mu2']:g}", fontsize=9)
        if j == 0:
            axes.set_ylabel(f"{case['resolution_mm']:g} mm voxels\nrelative error")
        if i == len(rows) - 1:
            axes.set_xlabel("seconds a solve")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(len(labels), 2 * len(columns)), frameon=False, fontsize=9
    )
    folder.mkdir(parents=True, exist_ok=True)
    figure.set_dpi(120)
    canvas.draw()
    # A palette of so few colours takes a third of the bytes.
    image = Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB").quantize(64)
    image.save(folder / "work_precision.png", optimize=True)
