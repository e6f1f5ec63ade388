"""The first screen: what was found, how well the model fits, what to doubt, and what it means, in plain words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tumorjax.quality import FAIR
from tumorjax.report.data import ReportData
from tumorjax.report.wording import number, percent, volume

# Density above which a voxel is called infiltrated in sentences.
_INFILTRATED = 0.01
# Dice coefficient from which on outlines are said to agree well. Heuristic.
_WELL = 0.85


@dataclass(frozen=True)
class Statement:
    """A question of the reader, with its answer in sentences."""

    question: str
    answer: Sequence[str]


def statements(data: ReportData) -> list[Statement]:
    """Return the answers to the reader's first questions, from what was outlined and calibrated."""
    return [
        Statement("What was found", _found(data)),
        Statement("How well the model fits", _fit(data)),
        Statement("What to doubt", _doubts(data)),
        Statement("What it means, and what it does not mean", _meaning(data)),
    ]


def _found(data: ReportData) -> list[str]:
    brain, lesion = np.asarray(data.brain, bool), np.asarray(data.lesion, bool)
    infiltrated = (np.asarray(data.density) > _INFILTRATED) & (brain | lesion)
    sizes = {name: volume(np.count_nonzero(getattr(data, name)) * data.voxel_ml) for name in data.outlines}
    part = f", {sizes['core']} of it core" if "lesion" in sizes else ""
    whole = sizes.get("lesion", sizes["core"])
    inside, beyond = (volume(np.count_nonzero(each) * data.voxel_ml) for each in (infiltrated, infiltrated & ~lesion))
    found = [
        f"The outlined tumour has {whole}{part}.",
        f"The model estimates tumour cells (more than {percent(_INFILTRATED)} of what the tissue can hold) in {inside} "
        f"of the brain; {beyond} of these lie beyond what is outlined.",
    ]
    most = data.metrics.get("max_displacement_mm")
    if most is not None and np.isfinite(most) and most >= 0.5:
        found.append(f"The tumour has displaced tissue by up to {number(float(most), 2)} mm.")
    return found


def _fit(data: ReportData) -> list[str]:
    overlaps = {name: data.metrics.get(f"dice_{name}") for name in data.outlines}
    known = {name: float(value) for name, value in overlaps.items() if value is not None and np.isfinite(value)}
    if not known:
        return ["How well the model meets the outlines was not measured."]
    names = {"core": "the core", "lesion": "the whole lesion"}
    said = " and ".join(f"{value:.2f} for {names[name]}" for name, value in known.items())
    worst = min(known.values())
    how = "well" if worst >= _WELL else "fairly well" if worst >= FAIR else "poorly"
    fit = [f"The model's outlines agree {how} with the observed ones: the Dice overlap is {said}, where 1 is perfect."]
    if "coverage_plan" in data.metrics and data.metrics["coverage_plan"] is not None:
        covered, margin = (percent(data.metrics.get(f"coverage_{each}")) for each in ("plan", "standard"))
        fit.append(f"Of the later recurrence, the model's plan covers {covered}, the clinical margin {margin}.")
    return fit


def _doubts(data: ReportData) -> list[str]:
    doubts = [str(reason) for reason in data.reasons] or ["No automatic check found a problem with this result."]
    assumed = list(dict.fromkeys(row.name.replace("_", " ") for row in data.parameters if row.fixed))
    if assumed:
        doubts.append(f"Assumed, and not seen in the images: {_listed(assumed)}.")
    spread = None if data.density_std is None else np.asarray(data.density_std)
    beyond = (np.asarray(data.density) > _INFILTRATED) & np.asarray(data.brain, bool) & ~np.asarray(data.lesion, bool)
    if spread is not None and beyond.any() and (mean := float(np.nanmean(spread[beyond]))) > 0:
        doubts.append(
            f"Beyond the outlines nobody has seen the cells: there the density is uncertain by {mean:.2f} on average, "
            "and the error of the model itself is additional."
        )
    else:
        doubts.append("Beyond the outlines nobody has seen the cells: there the model alone speaks.")
    return doubts


def _meaning(data: ReportData) -> list[str]:
    if data.plan is None:
        plan = f"There is no plan of the model; the clinical margin of {data.margin:g} mm is shown alone."
    else:
        plan = (
            f"The model's plan is as large as the clinical margin of {data.margin:g} mm, and lies where the model "
            "expects most cells."
        )
    return [
        "The density is an estimate by a model of growth, and no measurement of cells.",
        plan,
        "It says neither how the patient will fare nor which treatment is right, and must not guide one.",
    ]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
