"""The page of a cohort: a row for each patient, with a link to the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tumorjax.quality import Status
from tumorjax.report.page import rendered
from tumorjax.report.wording import NONE, number
from tumorjax.storage import new_file

# Columns that the page shows where a patient has them, with their titles; all others are in the table beside it.
_COLUMNS = {
    "dice_core": "Dice, core",
    "dice_lesion": "Dice, lesion",
    "tumour_ml": "Lesion (ml)",
    "cells_ml": "Cells (ml)",
    "coverage_plan": "Coverage, plan",
    "coverage_standard": "Coverage, margin",
    "speed_mm_per_day": "Speed (mm/day)",
    "mu1": "mu1 (mm)",
    "mu2": "mu2",
    "seconds": "Time (s)",
}


def write_index(path: Path, title: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write the page.

    Parameters
    ----------
    path
        The file, in the folder that has a folder of results for each patient.
    title
        Of the cohort.
    entries
        Of each patient: "patient", "status", "quality", "error", "quality_reasons" and figures.
    """
    shown = {name: words for name, words in _COLUMNS.items() if any(each.get(name) is not None for each in entries)}
    rows = [
        {
            "name": each["patient"],
            "link": f"{each['patient']}/report.html" if each["status"] == "done" else None,
            "quality": str(each["quality"]) if each["status"] == "done" else "no result",
            "why": each["error"] or each.get("quality_reasons") or "",
            "cells": [NONE if each.get(name) is None else number(each[name]) for name in shown],
        }
        for each in entries
    ]
    counts = {str(status): sum(row["quality"] == str(status) for row in rows) for status in Status}
    counts["no result"] = sum(row["link"] is None for row in rows)
    page = rendered("index.html.j2", title=title, head=list(shown.values()), rows=rows, counts=counts)
    with new_file(path) as partial:
        partial.write_text(page, encoding="utf-8")
