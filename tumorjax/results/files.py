"""The files that a personalization leaves."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tumorjax.calibration.estimates import Estimate
from tumorjax.report import write_report
from tumorjax.results.animation import write_animation
from tumorjax.results.course import write_course
from tumorjax.results.decisions import decision_tables, write_decisions
from tumorjax.results.maps import write_maps
from tumorjax.results.page import report_of
from tumorjax.results.personalization import Personalization, Progress, silent
from tumorjax.results.provenance import provenance_of
from tumorjax.results.stages import Stopwatch
from tumorjax.results.tissue import tissue_labels


def write_personalization(
    out: Path, result: Personalization, *, command: str | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """Write maps, parameters, report and metrics into a folder, and return the metrics, the quality first.

    Parameters
    ----------
    out
        The folder; it exists.
    result
        From `personalize`.
    command
        What the user typed; None for a result of a Python program.
    progress
        Receives the stages.
    """
    watch = Stopwatch(result.stages)
    with watch("files"), ThreadPoolExecutor(1) as pool:
        progress("writing maps and drawing the report", None)
        # Compression leaves a core to the report, which is drawn meanwhile.
        tissue = tissue_labels(result.patient)
        maps = pool.submit(write_maps, out, result, tissue)
        write_course(out, result)
        write_decisions(out, result)
        for name, write in result.calibration.files().items():
            write(out / name)
        provenance = provenance_of(result, command)
        parameters = {
            "estimate": result.calibration.estimate,
            "parameters": {row.name: _row(row) for row in result.estimates},
            **decision_tables(result),
            **result.calibration.tables(),
            "provenance": provenance,
        }
        write_json(out / "parameters.json", parameters)
        write_report(out, report_of(result, provenance, watch.stages, tissue))
        write_animation(out, result)
        maps.result()
    stages = {f"seconds_{name.replace(' ', '_')}": round(seconds, 3) for name, seconds in watch.stages}
    quality = {"quality": str(result.quality), "quality_reasons": [str(reason) for reason in result.reasons]}
    metrics = {**quality, **result.metrics, "seconds_total": round(watch.seconds(), 3), **stages}
    write_json(out / "metrics.json", metrics)
    return metrics


def _row(row: Estimate) -> dict[str, object]:
    entry: dict[str, object] = {
        "value": row.value,
        "unit": row.unit,
        "standard_deviation": row.deviation,
        "map": row.value if row.mode is None else row.mode,
        "symbol": row.symbol,
        "meaning": row.meaning,
        "fixed": row.fixed,
    }
    if row.interval is not None:
        entry["interval_90"] = list(row.interval)
    return entry if row.truth is None else {**entry, "truth": row.truth}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file without NaN."""
    # A name that is no UTF-8 keeps its bytes as an escape of JSON's.
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
