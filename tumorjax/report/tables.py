"""The page's numbers, counted on the volumes as they were given."""

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt

from tumorjax.calibration.estimates import Estimate
from tumorjax.grid import tissue_box
from tumorjax.planning import dice
from tumorjax.report.data import ReportData
from tumorjax.report.wording import GAP, NONE, duration, length, number, percent, volume, with_std

# Densities above which true and estimated volumes are compared, as in the metrics of the demonstration.
LEVELS = (0.01, 0.1, 0.5)
# Keys of the metrics with their words; other keys are shown as they are.
_WORDS = {
    "dice_core": "Dice, core (T1Gd)",
    "dice_lesion": "Dice, whole lesion (FLAIR)",
    "dice_sum": "Dice, sum of both",
    "brier": "Brier score",
    "tumour_ml": "Tumour volume",
    "core_ml": "Volume of the core",
    "cells_ml": "Tumour cells, as volume at carrying capacity",
    "plan_ml": "Volume of the model's plan",
    "plan_overlap": "Dice of the two plans",
    "standard_ml": "Volume of the clinical margin",
    "core_in_plan": "Core inside the model's plan",
    "lesion_in_plan": "Whole lesion inside the model's plan",
    "core_in_standard": "Core inside the clinical margin",
    "lesion_in_standard": "Whole lesion inside the clinical margin",
    "core_in_density": "Core among the highest densities",
    "coverage_plan": "Recurrence inside the model's plan",
    "coverage_standard": "Recurrence inside the clinical margin",
    "predictgbm_standard": "PredictGBM's coverage, clinical margin, enhancing",
    "predictgbm_standard_all": "PredictGBM's coverage, clinical margin, all",
    "predictgbm_model": "PredictGBM's coverage, model, enhancing",
    "predictgbm_model_all": "PredictGBM's coverage, model, all",
    "forward_solves": "Solves of the growth model, all grids",
    "coarse_solves": "Solves on coarser grids or by a screen",
    "gradients": "Gradients on the computing grid",
    "coarse_gradients": "Gradients on coarser grids",
    "dice_density_0.01": "Dice with the truth, density above 0.01",
    "dice_density_0.1": "Dice with the truth, density above 0.1",
    "dice_density_0.5": "Dice with the truth, density above 0.5",
    "atlases": "Atlases",
    "max_displacement_mm": "Largest displacement",
    "max_displacement_std_mm": "Largest displacement, standard deviation",
    "volume_above_2mm_ml": "Volume displaced by more than 2 mm",
    "volume_above_2mm_std_ml": "Volume displaced by more than 2 mm, standard deviation",
    "forcing_deviation": "Expected departure of ln rate of division",
    "held_out_gained_by_forcing": "Log-likelihood of what was held out gained by it, nat",
    "credible_50_ml": "50 % credible volume of infiltration",
    "credible_90_ml": "90 % credible volume of infiltration",
    "coverage_credible_50": "Recurrence inside the 50 % credible volume",
    "coverage_credible_90": "Recurrence inside the 90 % credible volume",
    "effective_draws": "Effective draws from the posterior",
    "likelihood_exponent": "Power of the likelihood of the outlines",
    "log_evidence": "Logarithm of the evidence, nat",
    "match": "Number of the most similar simulated tumour",
    "match_dice_core": "Its Dice in the atlas, core (T1Gd)",
    "match_dice_lesion": "Its Dice in the atlas, whole lesion (FLAIR)",
    "match_dice_sum": "Its Dice in the atlas, sum of both",
    "inferred_dice_core": "Dice of the network's answer, core (T1Gd)",
    "inferred_dice_lesion": "Dice of the network's answer, whole lesion (FLAIR)",
    "inferred_dice_sum": "Dice of the network's answer, sum of both",
    "seconds_network": "Time of the network",
    "seconds_query": "Time to query the simulated tumours",
    "origin_gradients": "Gradients for the state at the beginning",
    "speed_mm_per_day": "Speed of the front, mm/day",
    "speed_mm_per_day_5": "Speed of the front, 5 %, mm/day",
    "speed_mm_per_day_95": "Speed of the front, 95 %, mm/day",
    "held_out_dice_core": "Scan kept back: Dice of the forecast, core",
    "held_out_dice_core_unchanged": "Scan kept back: Dice of the outline before, core",
    "held_out_covered_core": "Scan kept back: share covered, core",
    "held_out_rank_core": "Scan kept back: rank of the volume, core",
    "held_out_dice_lesion": "Scan kept back: Dice of the forecast, lesion",
    "held_out_dice_lesion_unchanged": "Scan kept back: Dice of the outline before, lesion",
    "held_out_covered_lesion": "Scan kept back: share covered, lesion",
    "held_out_rank_lesion": "Scan kept back: rank of the volume, lesion",
    "cells_left_ml": "Expected surviving cells, planned dose",
    "cells_left_uniform_ml": "Expected surviving cells, uniform dose",
    "seconds_synthetic_patient": "Time to make the synthetic patient",
    "seconds_images": "Time to read and align the images",
    "seconds_preparation": "Time to prepare the method",
    "seconds_calibration": "Time to calibrate",
    "seconds_maps": "Time for density and its deviation",
    "seconds_forecast": "Time for the forecast",
    "seconds_plan": "Time for the plan",
    "seconds_dose_plan": "Time for the dose plan",
    "seconds_next_scan": "Time for the next scan",
    "seconds_animation": "Time for the animation",
    "seconds_files": "Time to write files and report",
    "seconds_total": "Total time",
}


def cards(data: ReportData) -> list[dict[str, str]]:
    """Return the summary cards: label, value, and a line of context; a card without a value is left out."""
    have = data.metrics
    core, lesion = (float(np.count_nonzero(m)) * data.voxel_ml for m in (data.core, data.lesion))
    standard = float(np.count_nonzero(data.standard_plan)) * data.voxel_ml
    stages = max(data.stages, key=lambda stage: stage.seconds, default=None)
    coverage = have.get("coverage_standard")
    margin = f"{data.margin:g} mm margin"
    at = {name: f"threshold {level:.2f}" for name, level in data.thresholds.items()}
    sizes = {"core": volume(core), "lesion": volume(lesion)}
    outlined = ", ".join(f"{name} {sizes[name]}" for name in data.outlines)
    found = [
        ("Dice, core", "dice_core", number, at["core"]),
        ("Dice, FLAIR lesion", "dice_lesion", number, at.get("lesion", "")),
        ("Tumour volume", "tumour_ml", volume, f"outlined: {outlined}"),
        (
            "Largest displacement",
            "max_displacement_mm",
            length,
            f"beyond 2 mm: {volume(have.get('volume_above_2mm_ml'))}",
        ),
        ("Plan volume", "plan_ml", volume, f"{margin} {volume(standard)}"),
        ("Recurrence covered", "coverage_plan", percent, f"{margin} {percent(coverage)}"),
        ("Time", "seconds_total", duration, f"longest: {stages.name}" if stages else ""),
    ]
    shown = []
    for label, key, words, context in found:
        value = have.get(key)
        if value is not None and np.isfinite(value):
            shown.append({"label": label, "value": words(float(value)), "context": context})
    return shown


def metrics(values: Mapping[str, float | int | None]) -> list[tuple[str, str]]:
    """Return every figure of merit that is known as words and value."""
    rows = []
    for key, value in values.items():
        if value is None:
            continue
        if key.endswith("_ml"):
            words = volume(value)
        elif key.endswith("_mm"):
            words = length(value)
        elif key.startswith(("coverage", "core_in_", "lesion_in_", "predictgbm")):
            words = percent(value)
        elif key.startswith("seconds"):
            words = duration(value)
        else:
            words = number(value)
        # The page itself is written before its own time is known.
        without = key == "seconds_total" and "seconds_files" not in values
        rows.append((_label(key) + (", without this report" if without else ""), words))
    return rows


def _label(key: str) -> str:
    """Return a figure of merit in words; one of an earlier day has the words of the last one, and its day."""
    if key in _WORDS:
        return _WORDS[key]
    name, _, day = key.partition("_day_")
    return f"{_WORDS[name]}, day {day}" if day and name in _WORDS else key


def parameter_rows(parameters: list[Estimate]) -> list[dict[str, object]]:
    """Return the rows of the parameters' table."""
    rows: list[dict[str, object]] = []
    for p in parameters:
        base, _, below = p.symbol.partition("_")
        rows.append(
            {
                "name": p.name,
                "base": base,
                "below": below,
                "value": with_std(p.value, p.deviation),
                "std": "fixed" if p.fixed else number(p.deviation, 2),
                "interval": NONE
                if p.interval is None
                else " to ".join(with_std(end, p.deviation) for end in p.interval),
                "unit": p.unit,
                "meaning": p.meaning,
                "truth": NONE if p.truth is None else with_std(p.truth, p.deviation),
                "z": NONE if p.z is None else f"{p.z:+.1f}".replace("-", "\N{MINUS SIGN}"),
                "far": p.z is not None and abs(p.z) > 2,
            }
        )
    return rows


def plan_rows(data: ReportData) -> list[tuple[str, ...]]:
    """Return volumes of plan, margin and what they share, and how much of each outline and of the recurrence is inside.

    The last where it is known, the first where there is one.
    """
    standard, margin = np.asarray(data.standard_plan, bool), f"{data.margin:g} mm margin"
    parts = {margin: standard}
    if data.plan is not None:
        plan = np.asarray(data.plan, bool)
        parts = {
            "model's plan": plan,
            margin: standard,
            "in both": plan & standard,
            "model's plan only": plan & ~standard,
            f"{margin} only": standard & ~plan,
        }
    seen = [*(getattr(data, name) for name in data.outlines), data.recurrence]
    tumours = [np.asarray(each, bool) for each in seen if each is not None]
    rows = []
    for label, part in parts.items():
        row = (label, volume(np.count_nonzero(part) * data.voxel_ml))
        for tumour in tumours:
            total = np.count_nonzero(tumour)
            row += (percent(np.count_nonzero(tumour & part) / total if total else None),)
        rows.append(row)
    return rows


def volume_rows(data: ReportData) -> list[tuple[str, str]]:
    """Return volumes of what was outlined, of the model's infiltration, and of the plans."""
    brain = np.asarray(data.brain, bool) | np.asarray(data.lesion, bool)
    density = np.asarray(data.density)
    regions = {f"outlined {name}": getattr(data, name) for name in data.outlines}
    for name, level in data.thresholds.items():
        regions[f"model's {name} (density > {level:.2f})"] = (density > level) & brain
    for level in (0.5, 0.1, 0.01):
        regions[f"density above {100 * level:g} % of the capacity"] = (density > level) & brain
    if data.plan is not None:
        regions["model's plan"] = data.plan
    regions[f"{data.margin:g} mm margin"] = data.standard_plan
    if data.recurrence is not None:
        regions["recurrence"] = data.recurrence
    return [(label, volume(np.count_nonzero(region) * data.voxel_ml)) for label, region in regions.items()]


def margin_rows(data: ReportData) -> list[tuple[str, ...]]:
    """Return how far the plans reach beyond the core: least, median and largest distance of their surface from it.

    Distances are between centres of voxels, and end where the brain ends.
    """
    core = np.asarray(data.core, bool)
    if not core.any():
        return []
    plans = {"model's plan": data.plan, f"{data.margin:g} mm margin": data.standard_plan}
    shown = {label: np.asarray(plan, bool) for label, plan in plans.items() if plan is not None and np.any(plan)}
    if not shown:
        return []
    # Distances to the core are the same in a box with all of it; the plans' surfaces need a voxel around.
    start, shape = tissue_box(np.any([core, *shown.values()], axis=0), margin=1)
    box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
    distance = np.asarray(distance_transform_edt(~core[box], sampling=data.spacing))
    rows = []
    for label, whole in shown.items():
        plan = whole[box]
        surface = distance[plan & np.logical_not(binary_erosion(plan))]
        rows.append((label, *(length(float(np.percentile(surface, each))) for each in (0, 50, 100))))
    return rows


def displacement_rows(data: ReportData) -> list[tuple[str, str]]:
    """Return how far tissue has moved, how much of it visibly, and by how much it is compressed and enlarged."""
    if data.displacement is None:
        return []
    have, rows = data.metrics, []
    if (most := have.get("max_displacement_mm")) is not None:
        spread = have.get("max_displacement_std_mm") or 0.0
        beside = f" ± {spread:.1f}" if spread >= 0.05 else ""
        rows.append(("largest displacement", f"{most:.1f}{beside}{GAP}mm"))
    if (moved := have.get("volume_above_2mm_ml")) is not None:
        rows.append(("volume displaced by more than 2 mm", volume(moved)))
    if data.jacobian is not None and np.any(data.brain):
        inside = np.asarray(data.jacobian)[np.asarray(data.brain, bool)]
        rows.append(("volume of tissue relative to before, smallest", number(float(inside.min()))))
        rows.append(("volume of tissue relative to before, largest", number(float(inside.max()))))
    return rows


def truth_rows(data: ReportData) -> list[tuple[str, str, str, str]]:
    """Return, for each level, true and estimated volume above it and their Dice coefficient."""
    if data.truth is None:
        return []
    rows = []
    for level in LEVELS:
        real, estimate = np.asarray(data.truth) > level, np.asarray(data.density) > level
        counts = [np.count_nonzero(mask) for mask in (real, estimate)]
        rows.append(
            (
                f"density > {level:g}",
                volume(counts[0] * data.voxel_ml),
                volume(counts[1] * data.voxel_ml),
                number(dice(real, estimate) if real.any() or estimate.any() else None),
            )
        )
    return rows


def stage_rows(data: ReportData) -> list[dict[str, object]]:
    """Return name, time and share (percent of the longest, for a bar) of each stage."""
    longest = max((stage.seconds for stage in data.stages), default=0.0)
    return [
        {"name": s.name, "time": duration(s.seconds), "share": round(100 * s.seconds / longest, 1) if longest else 0.0}
        for s in data.stages
    ]
