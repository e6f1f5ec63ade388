"""Comparison of all inverse methods on the same patients, with one growth model, in accuracy and time.

The published times are those of a single core (`taskset -c 0 python -m benchmarks compare ...`): most of a patient's
time is compilation, which gains little from a second core, and so two halves of the patients can run at once.
"""

import contextlib
import functools
import gc
import itertools
import json
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from benchmarks.cohorts import folder
from benchmarks.memory import forget_peak, peak
from benchmarks.methods import CLASSES, METHODS, simulated_tumours
from benchmarks.patients import PATIENTS
from benchmarks.record import NINETY, Record, code, cores, cpu, kept
from benchmarks.suite import SYNTHETIC, Case, cases
from tumorjax import AtlasMixture
from tumorjax.planning import dice
from tumorjax.results.personalization import Personalization

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = (0.01, 0.1, 0.8)
PARAMETERS = ("mu1", "mu2", "origin_x", "origin_y", "origin_z", "threshold_core", "threshold_lesion", "mass_effect")
# Prefix of JAX's events for the time of tracing, lowering and compiling.
_COMPILING = "/jax/core/compile/"

# Figures of a patient, and their units.
FIGURES = {
    "seconds": "s",
    "seconds_compiled": "s",
    "forward_solves": "solves",
    "gradients": "gradients",
    "coarse_gradients": "gradients",
    "peak_gb": "GB",
    "dice_sum": "1",
    "density_error": "1",
    **{f"dice_{level:g}": "1" for level in LEVELS},
    "displacement_field_error": "1",
    "mass_effect_bias": "1",
    "cells_in_plan": "1",
    "cells_in_standard_plan": "1",
    "coverage_plan": "1",
    "coverage_standard": "1",
}


# Figures of the method with mass effect on the patients whose tumours push, by the names of their records.
_PUSHING = {
    "pushing_dice_01": ("dice_0.1", ">= 0.92"),
    "pushing_displacement_field_error": ("displacement_field_error", "<= 0.15"),
    "pushing_gamma_bias": ("mass_effect_bias", "-0.1 to 0.1"),
}

# Figures that a repetition must reproduce; seconds depend on the machine.
_REPEATED = ("dice_sum", "dice_0.1", "dice_0.01", "cells_in_plan", "coverage_plan")


def add_arguments(parser: Any) -> None:
    """Add the options of this benchmark."""
    known = ", ".join(METHODS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD", help=f"all, or some of {known}")
    patients = f"all, or some of {SYNTHETIC[0]} to {SYNTHETIC[-1]}, {', '.join(PATIENTS)}"
    parser.add_argument("--patients", nargs="+", choices=(*SYNTHETIC, *PATIENTS), metavar="PATIENT", help=patients)
    parser.add_argument("--resolution", type=float, metavar="MM", help="voxels on which all compute (4)")
    kept_there = "keep the results of pairs there between runs (beside the cohorts)"
    parser.add_argument("--results", type=Path, metavar="FOLDER", help=kept_there)
    parser.add_argument("--beside", type=Path, metavar="FILE", help="print each patient's figures beside a record's")


def run(
    size: str,
    methods: Sequence[str] | None = None,
    patients: Sequence[str] | None = None,
    resolution: float | None = None,
    results: Path | None = None,
    beside: Path | None = None,
) -> list[Record]:
    """All figures; the result of each pair of patient and method is stored beside the cohorts, or in `results`.

    A pair is measured again if the code has changed. `beside` is a record with which to compare each patient's figures.
    `small` takes two methods and one patient by default.
    """
    small = size == "small"
    methods = list(methods or (("LBFGS", "CMA-ES") if small else METHODS))
    patients = list(patients or (SYNTHETIC[:1] if small else (*SYNTHETIC, *PATIENTS)))
    resolution = resolution or (6.0 if small else 4.0)
    place = (results or folder()) / f"compare-{resolution:g}mm"
    # What another method does is nothing to a result.
    by = {method: code("suite", "methods", "evolution", methods=CLASSES.get(method)) for method in methods}

    def file(patient: str, method: str) -> Path:
        return place / f"{patient}-{method}.json"

    def missing(patient: str, method: str) -> bool:
        there = file(patient, method)
        return not there.exists() or json.loads(there.read_text()).get("code") != by[method]

    if any(method.startswith("Retrieval") for method in methods):
        # Nobody's seconds.
        simulated_tumours(resolution)
    unfinished = [patient for patient in patients if any(missing(patient, method) for method in methods)]
    for case in cases(unfinished, resolution):
        for method in methods:
            if missing(case.name, method):
                found = kept(file(case.name, method), by[method], functools.partial(one, method, case))
                told = found.get("failure") or f"Dice {found['dice_sum']:.3f}"
                print(f"{case.name}: {method} {found['seconds']:.0f} s, {told}", flush=True)
    rows = {method: {p: json.loads(file(p, method).read_text()) for p in patients} for method in methods}
    records = [record for method in methods for record in summary(method, rows[method])]
    records += pushing(rows.get("MultiAtlas", {}))
    if beside is not None:
        print("\n".join(differences(records, recorded(beside))))
    return records


def recorded(file: Path) -> list[Record]:
    """Return the records of a file."""
    return [Record(**each) for each in json.loads(file.read_text())["records"]]


def differences(records: Sequence[Record], others: Sequence[Record]) -> list[str]:
    """Return a line for each figure of accuracy of each patient: the value measured now, and that in the record."""
    known, now = ({r.name: r.details["each"] for r in some if "each" in r.details} for some in (others, records))
    lines = []
    for method in METHODS:
        for name in (f"{method}{group}_{figure}" for group in ("", "_real") for figure in _REPEATED):
            for patient, value in now.get(name, {}).items():
                before = known.get(name, {}).get(patient)
                told = "not recorded" if before is None else f"recorded {before:.4f}, {value - before:+.4f}"
                lines.append(f"{patient}: {name} {value:.4f}, {told}")
    return lines


def one(method: str, case: Case) -> dict[str, Any]:
    """Run one method on one patient with nothing compiled before, and return its accuracy and cost."""
    jax.clear_caches()
    gc.collect()
    forget_peak()
    begun = time.perf_counter()
    try:
        with warnings.catch_warnings(), _compiling_anew() as compiling:
            warnings.simplefilter("ignore")
            found = METHODS[method](case)
    # A failure of a method on a patient is a result, too.
    except Exception as problem:
        traceback.print_exc()
        return {"failure": f"{type(problem).__name__}: {problem}", "seconds": time.perf_counter() - begun}
    seconds = time.perf_counter() - begun
    measured = {name: value for name, value in found.metrics.items() if name in FIGURES and value is not None}
    clock = {"seconds": seconds, "seconds_compiled": seconds - sum(compiling), "cores": cores(), "cpu": cpu()}
    return {**measured, **clock, "peak_gb": peak(), **beside_the_truth(case, found)}


def beside_the_truth(case: Case, found: Personalization) -> dict[str, Any]:
    """Return the errors of a result relative to the patient's truth; nothing if the truth is unknown."""
    if case.density is None:
        return {}
    truth, density = case.density, found.density
    # Only voxels where the result or the truth has cells.
    there = np.maximum(truth, density) > LEVELS[0]
    result: dict[str, Any] = {"density_error": float(np.abs(density - truth)[there].mean())}
    result |= {f"dice_{level:g}": dice(density > level, truth > level) for level in LEVELS if (truth > level).any()}
    for key, plan in (("cells_in_plan", found.plan), ("cells_in_standard_plan", found.standard_plan)):
        if plan is not None:
            result[key] = float(truth[plan].sum() / truth.sum())
    if case.displacement is not None and found.displacement is not None:
        # Relative to the norm of the true field; the difference of the norms would ignore directions.
        missed = np.linalg.norm(found.displacement - case.displacement)
        result["displacement_field_error"] = float(missed / np.linalg.norm(case.displacement))
    # What several atlases say of the origin is carried to where it lies in the patient now; one brain before the tumour
    # they do not have.
    true = case.truth | (case.origin_now if isinstance(found.calibration, AtlasMixture) else {})
    errors, inside = {}, {}
    # Of a tumour that begins as Gaussians, and not as a seed, mu1 and mu2 mean something else.
    other = {"mu1", "mu2"} if found.model.displaces else set()
    for row in found.estimates:
        if row.name in PARAMETERS and row.name in true and row.name not in other:
            errors[row.name] = row.value - true[row.name]
            ends = row.interval
            if ends is None and row.deviation is not None:
                ends = row.value - NINETY * row.deviation, row.value + NINETY * row.deviation
            if ends is not None:
                inside[row.name] = bool(ends[0] <= true[row.name] <= ends[1])
    if "mass_effect" in errors:
        result["mass_effect_bias"] = errors["mass_effect"] / case.truth["mass_effect"]
    return result | {"errors": errors, "inside_90": inside}


def pushing(rows: dict[str, dict[str, Any]]) -> list[Record]:
    """Return medians over the synthetic patients whose tumours push, and how often the truth is in 90 % intervals."""
    done = {name: rows[name] for name in SYNTHETIC[1::2] if "failure" not in rows.get(name, {"failure": ""})}
    records = []
    for name, (key, target) in _PUSHING.items():
        values = {patient: row[key] for patient, row in done.items() if row.get(key) is not None}
        if values:
            median = _median(name, "1", list(values.values()), {"each": values})
            records.append(replace(median, target=target))
    inside = [value for row in done.values() for value in row.get("inside_90", {}).values()]
    if inside:
        records.append(Record("pushing_coverage_90", float(np.mean(inside)), "1", ">= 0.86", {"of": len(inside)}))
    return records


def summary(method: str, rows: dict[str, dict[str, Any]]) -> list[Record]:
    """Return the figures of one method: medians over groups of patients, with quartiles and a bootstrap interval."""
    groups = {
        "": [name for name in rows if name in SYNTHETIC],
        "_plain": [name for name in rows if name in SYNTHETIC[0::2]],
        "_displaced": [name for name in rows if name in SYNTHETIC[1::2]],
        "_real": [name for name in rows if name in PATIENTS],
    }
    records = []
    for group, names in groups.items():
        if not names:
            continue
        label, done = f"{method}{group}", {name: rows[name] for name in names if "failure" not in rows[name]}
        failures = {name: rows[name]["failure"] for name in names if name not in done}
        records.append(Record(f"{label}_failures", len(failures), f"of {len(names)}", "", failures))
        for key, unit in FIGURES.items():
            values = {name: row[key] for name, row in done.items() if row.get(key) is not None}
            if values:
                details: dict[str, Any] = {"each": values}
                if key == "seconds":
                    details |= {what: sorted({row[what] for row in done.values()}) for what in ("cores", "cpu")}
                records.append(_median(f"{label}_{key}", unit, list(values.values()), details))
        for parameter in PARAMETERS:
            errors = {
                name: row["errors"][parameter] for name, row in done.items() if parameter in row.get("errors", {})
            }
            if errors:
                sizes = [abs(error) for error in errors.values()]
                records.append(_median(f"{label}_error_{parameter}", "unit of it", sizes, {"each": errors}))
        inside = {name: row["inside_90"] for name, row in done.items() if row.get("inside_90")}
        if inside:
            each = [value for row in inside.values() for value in row.values()]
            details = {"of": len(each), "each": inside}
            records.append(Record(f"{label}_coverage_90", float(np.mean(each)), "1", "0.9", details))
    return records


def _median(name: str, unit: str, values: list[float], details: dict[str, Any]) -> Record:
    numbers, draws = np.array(values, float), np.random.default_rng(0)
    resampled = np.median(draws.choice(numbers, (2000, len(numbers))), axis=1)
    spread = {
        "mean": float(numbers.mean()),
        "quartiles": np.quantile(numbers, (0.25, 0.75)).tolist(),
        "bootstrap 95 % interval of the median": np.quantile(resampled, (0.025, 0.975)).tolist(),
    }
    return Record(name, float(np.median(numbers)), unit, "", spread | details)


Column = tuple[str, str, str]
"""Columns of the table: heading, name of the record without its method, and format of the number."""

_CLOCK: tuple[Column, ...] = (
    ("seconds", "seconds", "{:.0f}"),
    ("once compiled", "seconds_compiled", "{:.0f}"),
)
HEADLINE: tuple[Column, ...] = (
    ("true cells, Dice at 0.1: still", "plain_dice_0.1", "{:.2f}"),
    ("displaced", "displaced_dice_0.1", "{:.2f}"),
    ("outlines, Dice sum", "dice_sum", "{:.2f}"),
    ("truth in 90 % intervals", "coverage_90", "{:.0%}"),
    *_CLOCK,
)
COSTS: tuple[Column, ...] = (
    *_CLOCK,
    ("solves", "forward_solves", "{:.0f}"),
    ("gradients, fine", "gradients", "{:.0f}"),
    ("coarse", "coarse_gradients", "{:.0f}"),
    ("memory, GB", "peak_gb", "{:.1f}"),
    ("failures", "failures", "{:.0f}"),
)
ACCURACY: tuple[Column, ...] = tuple(
    (f"{what}{more}", f"{group}_{key}", "{:.2f}")
    for key, what in (("dice_0.8", "at 0.8"), ("dice_0.1", "0.1"), ("dice_0.01", "0.01"), ("dice_sum", "outlines"))
    for group, more in (("plain", ""), ("displaced", ", pushing"))
)
REAL: tuple[Column, ...] = (
    ("FET: outlines", "real_dice_sum of patient_fet", "{:.2f}"),
    ("recurrence in plan", "real_coverage_plan of patient_fet", "{:.3f}"),
    ("in standard plan", "real_coverage_standard of patient_fet", "{:.3f}"),
    ("MRI: outlines", "real_dice_sum of patient_mri", "{:.2f}"),
    ("large: outlines", "real_dice_sum of patient_large", "{:.2f}"),
)


def table(records: list[Record], columns: tuple[Column, ...]) -> str:
    """Return a Markdown table of medians, or of single patients (`figure of patient`), by falling accuracy."""
    values = {record.name: record.value for record in records}
    for record in records:
        values |= {f"{record.name} of {patient}": value for patient, value in record.details.get("each", {}).items()}
    methods = sorted(
        (method for method in METHODS if f"{method}_failures" in values),
        key=lambda method: -values.get(f"{method}_dice_0.1", 0.0),
    )
    lines = [f"| method | {' | '.join(heading for heading, _, _ in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for method in methods:
        cells = []
        for _, key, form in columns:
            value = values.get(f"{method}_{key}")
            cells.append("-" if value is None else form.format(value).replace("%", " %"))
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figures(records: list[Record], place: Path) -> None:
    """Draw accuracy against seconds, and how many truths the intervals hold."""
    values = {record.name: record for record in records}
    place.mkdir(parents=True, exist_ok=True)
    _accuracy(values).savefig(place / "compare.png", dpi=160)
    _intervals(values).savefig(place / "compare_coverage.png", dpi=160)


def _accuracy(values: dict[str, Record]) -> "Figure":
    """Draw accuracy against seconds with compilation; a line joins the methods that no other beats in both."""
    from matplotlib.figure import Figure

    from benchmarks.curves import COLOURS

    panels = {"dice_0.1": "Dice with the true density at 0.1", "dice_sum": "Dice with the outlines, core + lesion"}
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        points = []
        for method, colour in zip(METHODS, itertools.cycle(COLOURS), strict=False):
            if f"{method}_{key}" in values:
                seconds, score = values[f"{method}_seconds"], values[f"{method}_{key}"]
                reaches = [np.abs(np.array(r.details["quartiles"]) - r.value)[:, None] for r in (seconds, score)]
                x, y = seconds.value, score.value
                axes.errorbar(x, y, *reversed(reaches), fmt="o", color=colour, elinewidth=0.8, label=method)
                compiled = values[f"{method}_seconds_compiled"].value
                axes.plot(compiled, y, "o", markersize=6, markerfacecolor="white", color=colour)
                points.append((x, y))
        front = [p for p in sorted(points) if all(p[1] > q[1] for q in points if q[0] < p[0])]
        axes.plot(*zip(*front, strict=True), color="0.6", linewidth=1, zorder=0, drawstyle="steps-post")
        axes.set(xscale="log", xlabel="seconds a patient; open: once compiled", ylabel=label)
        axes.grid(alpha=0.25)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _intervals(values: dict[str, Record]) -> "Figure":
    """Draw the share of true parameters in 90 % intervals, of patients whose tissue stays and of those it moves."""
    from matplotlib.figure import Figure

    methods = [method for method in METHODS if f"{method}_plain_coverage_90" in values]
    figure = Figure(figsize=(6.5, 1.2 + 0.42 * len(methods)), layout="constrained")
    axes, rows = figure.subplots(), np.arange(len(methods))
    for shift, (group, label) in enumerate((("plain", "tissue stays in place"), ("displaced", "tumour pushes"))):
        held = [values[f"{method}_{group}_coverage_90"].value for method in methods]
        axes.barh(rows + 0.38 * shift, held, height=0.36, label=label)
    axes.axvline(0.9, color="0.3", linewidth=1, linestyle="--")
    axes.set(yticks=rows + 0.19, yticklabels=methods, xlim=(0, 1), xlabel="share of truths in 90 % intervals")
    axes.invert_yaxis()
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


@contextlib.contextmanager
def _compiling_anew() -> Iterator[list[float]]:
    """Disable the persistent cache, so that seconds include compilation; yield the parts of the compilation time."""
    cached: Any = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    spent: list[float] = []

    def told(event: str, seconds: float, **_: Any) -> None:
        if event.startswith(_COMPILING):
            spent.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(told)
    try:
        yield spent
    finally:
        jax.monitoring.unregister_event_duration_listener(told)
        jax.config.update("jax_enable_compilation_cache", cached)
        compilation_cache.reset_cache()
