"""Results side by side: plain growth and mass effect, two methods, two days."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorjax.io import InputError, settle
from tumorjax.quality import Status
from tumorjax.report.page import rendered
from tumorjax.report.tables import metrics
from tumorjax.report.wording import NONE, number, with_std
from tumorjax.storage import new_file, parsed
from tumorjax.text import printable

_PNG = b"\x89PNG\r\n\x1a\n"
# Bytes of a summary figure, which has about one million; more is no figure of ours.
_LARGEST = 20_000_000


@dataclass(frozen=True)
class Kept:
    """What a folder of results says of itself.

    Parameters
    ----------
    name
        Of the folder.
    quality, reasons
        Whether the result can be used as it is, and why not.
    command
        How it came about.
    parameters
        Rows of `parameters.json` by name.
    metrics
        Figures of merit by key.
    picture
        The summary figure, PNG.
    """

    name: str
    quality: Status
    reasons: list[str]
    command: str
    parameters: dict[str, dict[str, Any]]
    metrics: dict[str, float | int | None]
    picture: bytes


def read_kept(folder: Path) -> Kept:
    """Return what a folder of results says of itself.

    Raises
    ------
    InputError
        If it holds no whole results.
    """
    shown = printable(folder)
    if not folder.is_dir():
        raise InputError(f"{shown}: is no folder; give one that --out of tumorjax personalize named")
    settle(folder)
    try:
        said, measured = (parsed((folder / f"{name}.json").read_bytes()) for name in ("parameters", "metrics"))
        picture = folder / "report.png"
        if picture.stat().st_size > _LARGEST or not (png := picture.read_bytes()).startswith(_PNG):
            raise ValueError("no figure")
        return Kept(
            folder.absolute().name,
            Status(measured.pop("quality")),
            [str(reason) for reason in measured.pop("quality_reasons")],
            str(said["provenance"]["command"]),
            {str(name): _numbered(row) for name, row in said["parameters"].items()},
            {key: value for key, value in measured.items() if isinstance(value, int | float) and math.isfinite(value)},
            png,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise InputError(f"{shown}: holds no whole results; give a folder that tumorjax personalize wrote") from None


def _numbered(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of parameters whose numbers are numbers."""
    deviation = row.get("standard_deviation")
    return {
        **row,
        "value": float(row["value"]),
        "standard_deviation": None if deviation is None else float(deviation),
    }


def write_comparison(path: Path, folders: Sequence[Path]) -> None:
    """Write a page, which needs no other file, that shows results side by side.

    Parameters
    ----------
    path
        The file.
    folders
        Of the results, two or more.

    Raises
    ------
    InputError
        If one of them holds no whole results.
    """
    kept = [read_kept(folder) for folder in folders]
    page = rendered(
        "compare.html.j2",
        results=[(each, base64.b64encode(each.picture).decode("ascii")) for each in kept],
        parameters=_parameters(kept),
        metrics=_metrics(kept),
    )
    with new_file(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _parameters(kept: Sequence[Kept]) -> list[tuple[str, str, list[str], str]]:
    """Return name, unit, values of each result, and of two results how far apart they are in standard deviations."""
    rows = []
    for name in dict.fromkeys(name for each in kept for name in each.parameters):
        found = [each.parameters.get(name) for each in kept]
        known = [each for each in found if each is not None]
        rows.append((name, str(known[0].get("unit", "")), [_value(each) for each in found], _apart(found)))
    return rows


def _value(row: dict[str, Any] | None) -> str:
    if row is None:
        return NONE
    deviation = row.get("standard_deviation")
    if row.get("fixed"):
        return f"{number(row['value'])} (assumed)"
    spread = "" if deviation is None else f" ± {number(float(deviation), 2)}"
    return f"{with_std(row['value'], deviation)}{spread}"


def _apart(found: Sequence[dict[str, Any] | None]) -> str:
    if len(found) != 2 or any(row is None or row.get("fixed") for row in found):
        return NONE
    one, two = (row for row in found if row is not None)
    spread = math.hypot(*(float(row.get("standard_deviation") or 0.0) for row in (one, two)))
    return number(abs(one["value"] - two["value"]) / spread, 2) if spread > 0 else NONE


def _metrics(kept: Sequence[Kept]) -> list[tuple[str, list[str]]]:
    """Return each figure of merit in words, and its values."""
    words = [dict(metrics(each.metrics)) for each in kept]
    return [
        (label, [each.get(label, NONE) for each in words])
        for label in dict.fromkeys(label for each in words for label in each)
    ]
