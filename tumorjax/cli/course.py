"""Several visits in the command: what their tables and options say, before an image is read."""

import argparse
from typing import Any, NamedTuple

from tumorjax.calibration import AbstractMethod
from tumorjax.cli.decisions import days_of, prescription_of
from tumorjax.growth import AbstractGrowth, Treatment
from tumorjax.io import InputError
from tumorjax.methods.registry import methods
from tumorjax.patient.prescription import Prescription
from tumorjax.patient.visits import check_hold_out, read_visits
from tumorjax.pipeline.course import check_forecast
from tumorjax.pipeline.decisions import check_scans, end_of
from tumorjax.pipeline.treatments import check_treatments, course_of, load_treatments

# Options that only several visits have, and those that are columns of their table instead.
OF_VISITS = ("treatments", "forecast", "hold_out")
_COLUMNS = ("t1", "pet", "adc", "flair")


class Course(NamedTuple):
    """Visits, treatments and days of the forecast, which are empty for one date; what is to be planned after it."""

    visits: list[dict[str, Any]]
    treatments: dict[str, Treatment]
    forecast: list[float]
    prescription: Prescription | None
    scans: list[float]

    @property
    def needs_time(self) -> bool:
        """Whether a method must know of days: there are several, or treatments."""
        return len(self.visits) > 1 or bool(self.treatments)


def read_course(options: argparse.Namespace) -> Course:
    """Return what the tables of visits and treatments say, and what is to be planned.

    Raises
    ------
    InputError
        If a table or a day cannot be used, or an option is for one date, or for several.
    """
    if options.visits is None:
        if further := [name for name in OF_VISITS if getattr(options, name) not in (None, False)]:
            raise InputError(f"{further[0].replace('_', '-')}: is for several visits; give --visits, or leave it out")
        return Course([], {}, [], *_planned(options, 0.0, single=True))
    if single := [name for name in _COLUMNS if getattr(options, name) is not None]:
        raise InputError(f"{single[0]}: of several visits it is a column of the table; leave out --{single[0]}")
    visits = read_visits(options.visits)
    treatments = {} if options.treatments is None else load_treatments(options.treatments)
    days = [visit["day"] for visit in visits]
    forecast = check_forecast(days_of("forecast", options.forecast), days)
    if options.hold_out:
        check_hold_out(len(visits))
    # A scan that is kept back is forecast.
    known, kept = (days[:-1], days[-1:]) if options.hold_out else (days, [])
    prescription, scans = _planned(options, known[-1])
    ahead = [*forecast, *scans, *kept]
    ahead += [] if prescription is None else [end_of(course_of(prescription, known[-1], {}, []))]
    check_treatments(treatments, known[-1], ahead)
    return Course(visits, treatments, forecast, prescription, scans)


def _planned(
    options: argparse.Namespace, last: float, *, single: bool = False
) -> tuple[Prescription | None, list[float]]:
    """Return the course of radiation that is to be planned, and candidate days of the next scan, after the last day."""
    prescription = prescription_of(options)
    if prescription is not None:
        prescription.check_start(last)
    return prescription, check_scans(days_of("next-scan", options.next_scan), last, single=single)


def check_method(method: AbstractMethod, model: AbstractGrowth, course: Course) -> None:
    """Raise an InputError where a method cannot calibrate a model, or several visits of it."""
    if reason := method.refuses_model(model):
        raise InputError(f"method: {reason}")
    if course.needs_time and method.refuses_visits(len(course.visits), type(model).__name__):
        able = ", ".join(name for name, each in methods().items() if each.several_visits)
        raise InputError(
            f"method: {method.name} is for images of one date without treatment, and {len(course.visits)} visits are "
            f"given; give --method with one of {able}"
        )
