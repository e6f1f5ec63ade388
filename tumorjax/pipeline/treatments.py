"""What was done to a patient and what is to come: its table, and its place among the visits."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tumorjax.growth import Chemotherapy, Radiotherapy, Surgery, Treatment
from tumorjax.growth.parameters import typical
from tumorjax.io import InputError, read_columns, resample
from tumorjax.patient import Patient
from tumorjax.patient.prescription import Prescription
from tumorjax.prior import AbstractDistribution, LogNormal, SameAs

_KINDS = {"radiation": ("dose", "fractions"), "drug": ("until",), "surgery": ()}
_MOST_FRACTIONS = 1000
# What is unknown, by kind, and its prior: 1/Gy, about the middle of what is published of glioblastoma, by a factor of
# 1.6; 1/day, heuristic: a month of the drug halves the cells, by a factor of e.
_UNKNOWN = {"radiation": ("alpha", LogNormal(0.035, 0.5)), "drug": ("rate", LogNormal(0.02, 1.0))}
_TO_COME = "_to_come"


def load_treatments(table: str | Path) -> dict[str, Treatment]:
    """Read a table of treatments.

    What is unknown of them has a prior: the radiosensitivity alpha is log-normal about 0.035 /Gy, with 0.5 as the
    standard deviation of the logarithm, and the rate of a drug about 0.02 /day, with 1.0. All radiation has one alpha,
    and all courses of the drug have one rate.

    Parameters
    ----------
    table
        A CSV file with the columns `day` and `kind`, and perhaps `dose`, `fractions` and `until`; days are on the clock
        of the visits. A row is `radiation` (a fraction of `dose` Gy, or a course of so many `fractions`, five a week
        from that day on), `drug` (given `until` a day) or `surgery` (which takes out the cavity that the next visit
        shows).

    Returns
    -------
    dict
        Treatments by name, for `personalize`. The cavity of a surgery is the number one: all of what is labelled so.

    Raises
    ------
    InputError
        If the table cannot be used: in which line, and why.
    """
    path = Path(table)
    fractions: dict[float, list[float]] = {}
    drugs: list[tuple[float, float]] = []
    surgeries: list[float] = []
    for line, cells in read_columns(path, "treatment", ("day", "kind"), ("dose", "fractions", "until")):
        where = f"{path}, line {line}"
        kind = cells.get("kind", "")
        if kind not in _KINDS:
            raise InputError(f"{where}: got the kind {kind!r}; give {', '.join(_KINDS)}")
        if foreign := sorted(cells.keys() - {"day", "kind", *_KINDS[kind]}):
            raise InputError(f"{where}: {foreign[0]} is not for {kind}; leave the cell empty")
        day = _number(cells, "day", where)
        if kind == "radiation":
            dose = _number(cells, "dose", where)
            if not dose > 0:
                raise InputError(f"{where}: got a dose of {dose:g} Gy; give the Gy of one fraction, above zero")
            fractions.setdefault(dose, []).extend(_fractions(cells, day, where))
        elif kind == "drug":
            until = _number(cells, "until", where)
            if not until > day:
                raise InputError(f"{where}: a drug from day {day:g} until day {until:g}; it must end after it begins")
            drugs.append((day, until))
        else:
            surgeries.append(day)
    # The first of a kind has the unknown number of all: it is the earliest, which visits may have seen.
    found: dict[str, Treatment] = {}
    for number, (dose, days) in enumerate(sorted(fractions.items(), key=lambda each: min(each[1]))):
        found[_name("radiation", number)] = Radiotherapy(tuple(sorted(days)), dose, _number_of("radiation", number))
    for number, (day, until) in enumerate(sorted(drugs)):
        found[_name("drug", number)] = Chemotherapy(day, until, _number_of("drug", number))
    for number, day in enumerate(sorted(surgeries)):
        found[_name("surgery", number)] = Surgery(day, 1.0)
    return found


def check_treatments(treatments: Mapping[str, Treatment], last: float, predicted: Sequence[float]) -> None:
    """Raise an InputError, before any image is read, where a treatment has no effect that could be followed.

    Parameters
    ----------
    treatments
        By name, on the clock of the visits.
    last
        Day of the last visit, day.
    predicted
        Days for which something is predicted, as of `done_and_to_come`.
    """
    end = max(predicted, default=last)
    for name, each in treatments.items():
        if max(each.begins) >= max(last, end):
            said = f"treatments: {name} on day {max(each.begins):g} acts on no visit"
            until = f"the last is on day {last:g}" + (f", predictions end on day {end:g}" if end > last else "")
            raise InputError(f"{said} ({until}); leave it out, or forecast a day after it")
        if isinstance(each, Surgery) and each.day >= last:
            raise InputError(
                f"treatments: the surgery on day {each.day:g} comes after the last visit, and nothing shows what it "
                "takes out; leave it out"
            )


def done_and_to_come(
    treatments: Mapping[str, Treatment], patient: Patient, predicted: Sequence[float], notes: list[str]
) -> tuple[dict[str, Treatment], dict[str, Treatment]]:
    """Return the treatments that visits have seen, and those to come, which act on what is predicted alone.

    A course that goes on after the last visit is divided. What is to come has the calibrated number of what was done.

    Parameters
    ----------
    treatments
        By name, on the clock of the visits. The cavity of a surgery may be one number: the share that was taken of
        what is the cavity at the next visit.
    patient
        From `load_visits`.
    predicted
        Days for which something is predicted: those of a forecast, of a dose plan, of candidates for a scan.
    notes
        Receives which numbers of treatments to come are assumed.

    Raises
    ------
    InputError
        As of `check_treatments`; if no visit shows the cavity of a surgery.
    """
    check_treatments(treatments, patient.day, predicted)
    done: dict[str, Treatment] = {}
    later: dict[str, Treatment] = {}
    for name, each in treatments.items():
        before, after = _divided(each, patient.day)
        if before is not None:
            done[name] = _with_cavity(name, before, patient) if isinstance(before, Surgery) else before
        if after is not None:
            later[name] = after
    return done, {f"{name}{_TO_COME}": _known(name, each, done, later, notes) for name, each in later.items()}


def before_day(treatments: Mapping[str, Treatment], day: float) -> dict[str, Treatment]:
    """Return what begins before a day of some treatments, a course without its later fractions."""
    parts = {name: _divided(each, day)[0] for name, each in treatments.items()}
    return {name: part for name, part in parts.items() if part is not None}


def course_of(prescription: Prescription, last: float, done: Mapping[str, Treatment], notes: list[str]) -> Radiotherapy:
    """Return the fractions of a prescription, with the radiosensitivity of what was done, or else one that is assumed.

    Parameters
    ----------
    prescription
        Number, dose and first day.
    last
        Day of the last visit, on which the course begins unless the prescription has another one.
    done
        What visits have seen, from `done_and_to_come`.
    notes
        Receives that the radiosensitivity is assumed.
    """
    field, prior = _UNKNOWN["radiation"]
    known = next((name for name, each in done.items() if isinstance(each, Radiotherapy)), None)
    number = prior if known is None else SameAs(f"treatments.{known}.{field}")
    start = last if prescription.start is None else prescription.start
    course = Radiotherapy.course(start, prescription.fractions, prescription.dose, number)
    found: Any = _known("the planned dose", course, done, {}, notes)
    return found


def _divided(treatment: Treatment, day: float) -> tuple[Treatment | None, Treatment | None]:
    """Return what begins before a day and what begins on it or later; None for nothing."""
    if not isinstance(treatment, Radiotherapy):
        return (treatment, None) if max(treatment.begins) < day else (None, treatment)
    before, after = ([each for each in treatment.days if (each < day) is early] for early in (True, False))
    return tuple(replace(treatment, days=tuple(part)) if part else None for part in (before, after))  # pyright: ignore


def _known(
    name: str, treatment: Treatment, done: Mapping[str, Treatment], later: Mapping[str, Treatment], notes: list[str]
) -> Treatment:
    """Return a treatment to come whose unknown numbers are those of what was done, or else are assumed."""
    numbers: dict[str, Any] = {}
    for each in treatment.calibrated:
        value = getattr(treatment, each)
        # A number may be that of another treatment, whose name it says.
        owner = value.name.split(".")[1] if isinstance(value, SameAs) else name
        if owner != name or (isinstance(value, AbstractDistribution) and name in done):
            if owner not in done and owner not in later:
                raise InputError(f"treatments: {each} of {name} is that of {owner}, which is none of the treatments")
            value = getattr(done[owner] if owner in done else later[owner], each)
            if owner in done and isinstance(value, AbstractDistribution):
                value = SameAs(f"treatments.{owner}.{each}")
        if isinstance(value, AbstractDistribution):
            value = jnp.asarray(typical(value))
            notes.append(
                f"No visit shows the effect of {name}: {each} is assumed to be {float(value):.3g}, the middle of its "
                "prior, so that predictions look more certain than they are."
            )
        numbers[each] = value
    return replace(treatment, **numbers)


def _with_cavity(name: str, surgery: Surgery, patient: Patient) -> Surgery:
    """Return a surgery with the share of each computing voxel that it takes out."""
    grid = patient.anatomy.grid
    if np.ndim(surgery.cavity) == 3:
        if np.shape(surgery.cavity) != grid.shape:
            raise InputError(
                f"treatments: the cavity of {name} has shape {np.shape(surgery.cavity)}, the patient's computing grid "
                f"{grid.shape}; resample it to patient.anatomy.grid"
            )
        return surgery
    after = next(each for each in patient.visits if each.day > surgery.day)
    if after.cavity is None:
        raise InputError(
            f"treatments: the segmentation of day {after.day:g} shows no cavity of the surgery on day "
            f"{surgery.day:g}; label it, and give labels with cavity=N"
        )
    share = np.clip(resample(after.cavity, patient.reference.affine, grid, kind="mean"), 0, 1)
    dtype = patient.anatomy.dtype
    return replace(surgery, cavity=np.asarray(surgery.cavity, dtype) * share.astype(dtype))


def _number(cells: Mapping[str, str], name: str, where: str) -> float:
    if name not in cells:
        raise InputError(f"{where}: has no {name}; a row of {cells['kind']} needs one")
    try:
        value = float(cells[name])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{where}: got {name} {cells[name]!r}; give a number that is not negative")
    return value


def _fractions(cells: Mapping[str, str], day: float, where: str) -> tuple[float, ...]:
    """Return the days of the fractions of a row."""
    given = cells.get("fractions", "1")
    count = int(given) if given.isascii() and given.isdigit() and len(given) < 9 else 0
    if not 1 <= count <= _MOST_FRACTIONS:
        raise InputError(f"{where}: got {given!r} fractions; give a whole number from 1 to {_MOST_FRACTIONS}")
    return Radiotherapy.course(day, count, 1.0, 0.0).days


def _name(kind: str, number: int) -> str:
    """Return the name of a treatment by its number among those of its kind: "drug", "drug_2" and so on."""
    return f"{kind}_{number + 1}" if number else kind


def _number_of(kind: str, number: int) -> Any:
    """Return what is unknown of a treatment: of the first of a kind a prior, of the others the same number."""
    field, prior = _UNKNOWN[kind]
    return SameAs(f"treatments.{kind}.{field}") if number else prior
