"""Options of a dose plan and of the next scan."""

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path

from tumorjax.io import InputError, Volume, read_volume
from tumorjax.patient.prescription import Prescription

# Options that belong to `--plan-dose`.
_OF_DOSE = ("plan_start", "maximum_dose", "spare", "plan_objective")
_SPARED = re.compile(r"([A-Za-z][\w-]{0,39})=(.+):([^:]+)", re.ASCII)


def days_of(name: str, text: str | None) -> list[float]:
    """Turn "90,120" into [90, 120]; nothing for None."""
    try:
        return [] if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{name}: got {text!r}; write days with commas between, as 90,120") from None


def prescription_of(options: argparse.Namespace) -> Prescription | None:
    """Return the course of radiation that is to be planned, with the masks of its organs read; None for none.

    Raises
    ------
    InputError
        If a value or a mask cannot be used, or an option is there without `--plan-dose`.
    """
    if options.plan_dose is None:
        if further := [name for name in _OF_DOSE if getattr(options, name) is not None]:
            raise InputError(f"{further[0].replace('_', '-')}: is for a dose plan; give --plan-dose, or leave it out")
        return None
    fractions, dose = _fractions_and_dose(options.plan_dose)
    spared = _spared(options.spare or ())
    return Prescription(
        fractions, dose, options.plan_start, options.maximum_dose, spared, objective=options.plan_objective
    )


def _fractions_and_dose(text: str) -> tuple[int, float]:
    """Turn "30x2" into 30 and 2.0."""
    count, _, dose = text.partition("x")
    try:
        found = float(dose)
    except ValueError:
        found = math.nan
    if not (count.isascii() and count.isdigit() and len(count) < 9 and math.isfinite(found)):
        raise InputError(f"plan-dose: got {text!r}; give fractions and Gy a fraction, such as 30x2")
    return int(count), found


def _spared(given: Sequence[str]) -> dict[str, tuple[Volume, float]]:
    """Return mask and highest dose of each organ."""
    found: dict[str, tuple[Volume, float]] = {}
    for text in given:
        parts = _SPARED.fullmatch(text)
        try:
            limit = math.nan if parts is None else float(parts[3])
        except ValueError:
            limit = math.nan
        if parts is None or math.isnan(limit):
            raise InputError(
                f"spare: got {text!r}; give a name, a mask and Gy of the whole course, such as "
                "brainstem=brainstem.nii.gz:54"
            )
        if parts[1] in found:
            raise InputError(f"spare: got {parts[1]} twice; give each organ once")
        found[parts[1]] = (read_volume(Path(parts[2]), name=f"mask of {parts[1]}"), limit)
    return found
