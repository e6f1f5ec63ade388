"""What a personalization leaves of its decisions: a dose map, tables, and sections of the report."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tumorjax.calibration.estimates import weighted_spread
from tumorjax.decisions import DosePlan, ScanGains
from tumorjax.growth.parameters import PUBLISHED_SPEED
from tumorjax.io import write_volume
from tumorjax.patient.prescription import Prescription
from tumorjax.results.personalization import Personalization
from tumorjax.sections import Block, Field, Lines, Section, Table, Text
from tumorjax.storage import new_file

NO_DOSE_PLAN = "There is no dose plan, because the result has failed and has no target volume."
_DOSE, _SCANS = "dose.nii.gz", "next_scan.csv"
_HEAD = ("day", "speed_nat", "volume_nat", "volume_day")
# A hundredth of a gray is more than can be delivered.
_DECIMALS = 2
_MEANS = {
    "cells": "leaves the fewest cells that are expected to survive, in the mean over",
    "log-kill": "kills by the largest factor, in the geometric mean over",
}


def write_decisions(out: Path, result: Personalization) -> None:
    """Write the planned dose, Gy of the whole course, and the table of the next scan, where they were asked for."""
    plan, asked, gains = result.dose_plan, result.prescription, result.scan_gains
    if plan is not None and asked is not None:
        write_volume(out / _DOSE, (asked.fractions * plan.dose).round(_DECIMALS), like=result.patient.reference)
    if gains is not None:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(_HEAD)
        writer.writerows(
            [f"{day:g}", *(round(float(each), 4) for each in found), f"{gains.until:g}"]
            for day, *found in zip(gains.days.tolist(), _speed(gains), gains.forecast, strict=True)
        )
        with new_file(out / _SCANS) as partial:
            partial.write_text(text.getvalue(), encoding="utf-8", newline="")


def decision_tables(result: Personalization) -> dict[str, Any]:
    """Return what the file of parameters has of the decisions, by key; JSON."""
    plan, asked, gains, found = result.dose_plan, result.prescription, result.scan_gains, dict[str, Any]()
    if plan is not None and asked is not None:
        found["dose_plan"] = {
            "fractions": asked.fractions,
            "dose_a_fraction_gy": asked.dose,
            "first_day": plan.days[0],
            "last_day": plan.days[-1],
            "counted_on_day": plan.day,
            "maximum_gy": asked.highest,
            "spared_gy": {name: limit for name, (_, limit) in asked.spare.items()},
            "draws": len(plan.cells),
            "failed_draws": plan.failed,
            "objective": plan.objective,
            **_ratio(plan),
            "planned": _entry(plan.cells) | _doses(result, asked, plan.dose),
            "uniform": _entry(plan.given_cells) | _doses(result, asked, plan.given),
        }
    if gains is not None:
        found["next_scan"] = {
            "days": gains.days.tolist(),
            "speed_nat": _speed(gains).tolist(),
            "volume_nat": gains.forecast.tolist(),
            "volume_day": gains.until,
        }
    return found


def decision_sections(result: Personalization) -> Iterator[Section]:
    """Yield the sections of the report on the dose plan and on the next scan, where they were asked for."""
    if result.prescription is not None:
        yield Section("Dose plan", list(_of_dose(result, result.prescription, result.dose_plan)))
    if result.scan_gains is not None:
        yield Section("Next scan", list(_of_scans(result, result.scan_gains)))


def _of_dose(result: Personalization, asked: Prescription, plan: DosePlan | None) -> Iterator[Block]:
    if plan is None:
        yield Text(NO_DOSE_PLAN)
        return
    yield Text(
        f"{asked.fractions} fractions from day {plan.days[0]:g} to day {plan.days[-1]:g}. The uniform plan gives "
        f"{asked.dose:g} Gy a fraction, {asked.total:g} Gy in all, to the tissue in the target volume. The planned map "
        f"has the same integral dose and at most {asked.highest:g} Gy in a voxel, and {_MEANS[plan.objective]} "
        f"{len(plan.cells)} draws from the posterior on day {plan.day:g}. What beams can deliver, "
        "errors of the setup, and the tolerance of healthy tissue beyond the given limits are not modelled. "
        f"Not for clinical use. {_clock(result)}".rstrip()
    )
    if plan.failed:
        yield Text(f"The solves of {plan.failed} further draws gave no density, and these are left out.")
    yield Field(
        asked.fractions * plan.dose,
        "planned dose,\nwhole course (Gy)",
        title="Planned dose",
        caption="Dose of the whole course, with the outlines of the last visit.",
    )
    columns = [
        {**_words(plan.cells), **_dose_words(result, asked, plan.dose)},
        {**_words(plan.given_cells), **_dose_words(result, asked, plan.given)},
    ]
    ratio = _ratio(plan)
    low, high = ratio["cells_over_uniform_interval_90"]
    yield Table(
        ["", "Planned", "Uniform"],
        [[name, *(each[name] for each in columns)] for name in columns[0]],
        title="Planned and uniform dose",
        caption="Surviving cells are given as the volume that they would fill at full density. Of the cells that the "
        f"uniform dose leaves, the planned one leaves {ratio['cells_over_uniform']:.0%} in the median draw ({low:.0%} "
        f"to {high:.0%}). Percentiles are those of the draws, and contain no error of the model.",
    )


def _of_scans(result: Personalization, gains: ScanGains) -> Iterator[Block]:
    speed = _speed(gains)
    yield Text(
        "What one more scan, as good as the last one, is expected to say: the information that it adds, in nat, in the "
        "mean over draws from the posterior. A gain of 0.69 nat halves the standard deviation of the logarithm of the "
        f"speed or of the volume. The volume is that of the largest outline on day {gains.until:g}. When the patient "
        f"needs a scan is another question. Not for clinical use. {_clock(result)}".rstrip()
    )
    yield Lines(
        "day of the scan",
        "expected gain, nat",
        gains.days,
        {"speed of growth": speed, f"volume on day {gains.until:g}": gains.forecast},
        title="Expected gain by the day of the scan",
    )
    rows = zip(gains.days.tolist(), speed.tolist(), gains.forecast.tolist(), strict=True)
    yield Table(
        ["Day", "Speed of growth", f"Volume on day {gains.until:g}"],
        [[f"{day:g}", *(f"{each:.2f} nat, × {np.exp(-each):.2f}" for each in found)] for day, *found in rows],
        title="Expected gain, and factor of the standard deviation",
    )


def _clock(result: Personalization) -> str:
    """Return what is assumed of the speed of growth where there is one visit."""
    if result.patient.earlier:
        return ""
    speed = f"{PUBLISHED_SPEED * 365.25:.0f} mm/year"
    text = "One visit shows no speed of growth, so that the only clock is an assumption"
    if any(min(each.begins) < result.patient.day for each in result.treatments.values()):
        return f"{text}: {speed}."
    return f"{text}: the speed is as uncertain as between patients, log-normal about {speed} by a factor of e."


def _speed(gains: ScanGains) -> np.ndarray:
    assert gains.speed is not None
    return gains.speed


def _entry(cells: np.ndarray) -> dict[str, Any]:
    """Return the surviving cells, ml: mean over draws, and 5th and 95th percentile."""
    low, high = _interval(cells)
    return {"cells_ml": float(cells.mean()) / 1000, "cells_ml_interval_90": [low, high]}


def _interval(cells: np.ndarray) -> tuple[float, float]:
    spread = weighted_spread(cells / 1000, np.zeros(len(cells)), np.median(cells) / 1000)
    return float(spread.low), float(spread.high)


def _doses(result: Personalization, asked: Prescription, dose: np.ndarray) -> dict[str, Any]:
    """Return doses of the whole course, Gy, and the integral dose, Gy l."""
    whole, grid = asked.fractions * dose, result.patient.reference.grid
    found: dict[str, Any] = {
        "integral_dose_gy_l": float(whole.sum()) * float(grid.voxel_volume) / 1e6,
        "highest_gy": float(whole.max()),
    }
    if result.plan is not None:
        found["mean_in_target_gy"] = float(whole[result.plan].mean())
    organs = {name: whole[inside] for name, (inside, _) in asked.spared_on(grid).items()}
    return found | {
        "spared": {
            name: {"mean_gy": float(each.mean()), "highest_gy": float(each.max())} for name, each in organs.items()
        }
    }


def _ratio(plan: DosePlan) -> dict[str, Any]:
    """Return the cells that the planned dose leaves over those that the uniform one does: median draw, percentiles."""
    low, middle, high = np.quantile(plan.ratio, (0.05, 0.5, 0.95)).tolist()
    return {"cells_over_uniform": middle, "cells_over_uniform_interval_90": [low, high]}


def _words(cells: np.ndarray) -> dict[str, Any]:
    low, high = _interval(cells)
    return {
        "Expected surviving cells, ml": float(cells.mean()) / 1000,
        "5th percentile, ml": low,
        "95th percentile, ml": high,
    }


def _dose_words(result: Personalization, asked: Prescription, dose: np.ndarray) -> dict[str, Any]:
    found = _doses(result, asked, dose)
    words = {
        "Integral dose, Gy l": found["integral_dose_gy_l"],
        "Mean dose in the target volume, Gy": found.get("mean_in_target_gy"),
        "Highest dose, Gy": found["highest_gy"],
    }
    for name, each in found["spared"].items():
        limit = asked.spare[name][1]
        words[f"Highest dose in {name} (limit {limit:g}), Gy"] = each["highest_gy"]
    return words
