"""The subcommand `personalize-cohort`: many patients, one by one or on a cluster, and one table of the results."""

import argparse
import csv
import io
import json
import logging
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tumorjax.cli.ending import complain, exit_code, how
from tumorjax.quality import Note, Status

if TYPE_CHECKING:
    from tumorjax.cli.console import Screen

_log = logging.getLogger(__name__)
RESULTS = "cohort.csv"
INDEX = "index.html"
# Options of a cohort that a patient does not have.
_OWN = {"help", "out", "overwrite", "quiet", "json", "log_file"}
# Options of a patient that a cohort does not have.
_PATIENTS = {
    "segmentation",
    "visits",
    "subject",
    "session",
    "treatments",
    "t1",
    "pet",
    "adc",
    "flair",
    "recurrence",
    "spare",
}
# Figures of which the summary gives the median and the range.
_FIGURES = (
    "dice_core",
    "dice_lesion",
    "coverage_plan",
    "coverage_standard",
    "speed_mm_per_day",
    "held_out_dice_core",
    "held_out_dice_lesion",
    "seconds",
)

Entry = dict[str, Any]


def add_cohort(commands: argparse._SubParsersAction, disclaimer: str, calibrates: bool = True) -> None:
    """Add the subcommand to a parser that has `personalize`, whose options it takes over where they are known."""
    personalize = commands._name_parser_map["personalize"]
    sub = commands.add_parser(
        "personalize-cohort",
        help="personalize many patients, and write a table of the results",
        description="Personalize each patient of a table. One that fails does not stop the others; the same command, "
        "given again, continues with those that have no results. The table is a CSV file with a header: `patient`, a "
        "name for the folder of the results, and options of `tumorjax personalize` without the dashes, such as "
        "segmentation, t1, labels, or visits and treatments; an empty cell is an option that is not given, and paths "
        "are relative to the folder of the table. Options on the command line apply to all patients whose rows do not "
        "set them. "
        f"{disclaimer}",
        epilog=f"Each patient's results are in DIR/PATIENT, and one row for each in DIR/{RESULTS}, whose column "
        f"quality says which of them can be used; DIR/{INDEX} links the reports. Exit code: 0 if all patients have "
        "results, 1 if some failed, 2 if the command could not begin or continue, 130 if interrupted.",
    )
    sub.add_argument("table", type=Path, metavar="TABLE.csv", help="a patient in each row, an option in each column")
    sub.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the results")
    sub.add_argument(
        "--overwrite", action="store_true", help="replace results that were made with other options or other images"
    )
    sub.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="address of a Dask cluster that does the work, such as tcp://host:8786; its workers must "
        "see the same files",
    )
    sub.add_argument("--quiet", action="store_true", help="show neither progress nor a summary")
    sub.add_argument("--json", action="store_true", help="print the summary as JSON")
    sub.add_argument(
        "--log-file",
        type=Path,
        metavar="FILE",
        help="append stages with their times, notes and details to a file, each with the name of its patient",
    )
    own = _OWN | (_patients() if calibrates else _PATIENTS)
    for group in personalize._action_groups:
        if shared := [action for action in group._group_actions if action.dest not in own]:
            ours = sub.add_argument_group(group.title)
            for action in shared:
                ours._add_action(action)
    sub.set_defaults(personalize=personalize)


def _patients() -> set[str]:
    """Return the options that each patient has for itself: images, and files that a method writes."""
    from tumorjax.cli.options import all_options

    return _PATIENTS | {option.name for option in all_options() if option.writes}


def run(options: argparse.Namespace) -> None:
    """Personalize the patients of the table."""
    from tumorjax.cli.console import Screen
    from tumorjax.cli.table import check_segmentations, placed, read_table
    from tumorjax.report.index import write_index
    from tumorjax.results.provenance import command_of

    parser: argparse.ArgumentParser = options.personalize
    known = {
        action.option_strings[-1].removeprefix("--"): action for action in parser._actions if action.dest not in _OWN
    }
    shared = {action.dest: getattr(options, action.dest) for action in known.values() if action.dest not in _patients()}
    out: Path = options.out.absolute()
    patients = read_table(options.table, parser, known, placed(shared, Path.cwd()), out)
    # Of those who have results, they were checked before.
    check_segmentations(options.table, {name: each for name, each in patients.items() if not _has_results(each)})
    for name, patient in patients.items():
        patient.command, patient.quiet, patient.overwrite = "personalize", True, options.overwrite
        patient.patient = name
        patient.log_file = None if options.log_file is None else options.log_file.absolute()
        patient.command_line = command_of(patient, known)
    try:
        with (
            _at_work_in(out, [patient.out for patient in patients.values()]),
            Screen(quiet=options.quiet, as_json=options.json) as screen,
        ):
            entries, skipped = _personalized(patients, options, screen)
            _write(out / RESULTS, entries)
            write_index(out / INDEX, options.table.stem, entries)
    except KeyboardInterrupt as interrupt:
        complain(
            f"tumorjax personalize-cohort: {how(interrupt)}; {options.out} keeps the patients that are finished, "
            "and the same command goes on from there"
        )
        raise SystemExit(exit_code(interrupt)) from None
    screen.results(_summary(entries, skipped, options.json), options.out, report=True)
    if any(entry["status"] == "failed" for entry in entries):
        raise SystemExit(1)


def personalize_patient(options: argparse.Namespace) -> dict[str, Any]:
    """Do what `tumorjax personalize` does, and return the metrics; on a cluster this is called on a worker."""
    from tumorjax.cli.commands import perform
    from tumorjax.cli.log import log_in
    from tumorjax.cli.noise import without_library_noise
    from tumorjax.results.provenance import finished

    try:
        with without_library_noise(), log_in(options.log_file, options.command_line, options.patient):
            perform(options)
    except (ValueError, OSError):
        # A worker that is lost after the work, or taken for lost, has left the results.
        with suppress(ValueError):
            if (metrics := finished(options.out, options.command_line)) is not None:
                return metrics
        raise
    return json.loads((options.out / "metrics.json").read_text(encoding="utf-8"))


def _has_results(options: argparse.Namespace) -> bool:
    return (options.out / "metrics.json").exists()


def _personalized(
    patients: Mapping[str, argparse.Namespace], options: argparse.Namespace, screen: "Screen"
) -> tuple[list[Entry], int]:
    """Return what has become of each patient, and how many had results before."""
    from tumorjax.workers import run_tasks

    screen.progress("looking at earlier results")
    entries = {
        name: _entry(name, metrics, patient.out)
        for name, patient in patients.items()
        if (metrics := _earlier(name, patient, options.overwrite)) is not None
    }
    skipped, begun = len(entries), time.monotonic()
    _log.info("%d of %d patients have results", skipped, len(patients))
    waiting = [name for name in patients if name not in entries]
    tasks = [patients[name] for name in waiting]
    screen.progress("patients", skipped / len(patients), f"{skipped} of {len(patients)} patients")
    with closing(run_tasks(personalize_patient, tasks, scheduler=options.scheduler)) as outcomes:
        for outcome in outcomes:
            name = waiting[outcome.number]
            entries[name] = _entry(name, outcome.result or {}, patients[name].out, outcome.error, outcome.seconds)
            _log_end(entries[name])
            if outcome.error is not None:
                screen.note(f"{name} failed: {outcome.error}")
            elif entries[name]["quality"] == Status.FAILED:
                screen.note(Note(f"{name}: {entries[name].get('quality_reasons')}", Status.FAILED))
            rate = (len(entries) - skipped) / max(time.monotonic() - begun, 1e-9)
            screen.progress("patients", len(entries) / len(patients), _said(len(entries), len(patients), rate))
    return [entries[name] for name in patients], skipped


def _log_end(entry: Entry) -> None:
    """Log what has become of a patient, also of one whose process died without a word."""
    if entry["error"] is not None:
        _log.error("%s: failed: %s", entry["patient"], entry["error"])
    else:
        _log.info("%s: done in %.1f s, quality %s", entry["patient"], entry["seconds"], entry["quality"])


def _earlier(name: str, patient: argparse.Namespace, overwrite: bool) -> dict[str, Any] | None:
    """Return the metrics of a patient who is finished."""
    from tumorjax.io import InputError
    from tumorjax.results.provenance import finished

    try:
        return finished(patient.out, patient.command_line)
    except InputError as error:
        if overwrite:
            return None
        raise InputError(f"patient {name}: {error}; give another --out, or permit --overwrite") from None


def _entry(
    name: str, metrics: Mapping[str, Any], folder: Path, error: str | None = None, seconds: float = 0.0
) -> Entry:
    # Of a patient with results the seconds are recorded, so that the table is the same however often it was begun.
    return {
        "patient": name,
        "status": "done" if error is None else "failed",
        "quality": metrics.get("quality"),
        "error": error,
        "seconds": metrics.get("seconds_total", round(seconds, 3)),
        # One cell for the reasons.
        **{name: " ".join(value) if isinstance(value, list) else value for name, value in metrics.items()},
        **({} if error is not None else _parameters(folder)),
    }


def _parameters(folder: Path) -> Entry:
    """Return value and standard deviation of each parameter of a result."""
    kept = json.loads((folder / "parameters.json").read_text(encoding="utf-8")).get("parameters", {})
    found: Entry = {}
    for name, row in kept.items():
        found |= {name: row["value"], f"{name}_sd": row["standard_deviation"]}
    return found


def _said(done: int, total: int, rate: float) -> str:
    from tumorjax.report.wording import duration

    return f"{done} of {total} patients, {3600 * rate:.3g}/h, {duration((total - done) / rate)} left"


def _summary(entries: list[Entry], skipped: int, as_json: bool) -> dict[str, Any]:
    done = [entry for entry in entries if entry["status"] == "done"]
    summary: dict[str, Any] = {
        "patients": len(entries),
        "done": len(done),
        "skipped": skipped,
        "failed": len(entries) - len(done),
        **{f"quality_{status}": sum(entry["quality"] == status for entry in done) for status in Status},
    }
    for name in _FIGURES:
        if values := [entry[name] for entry in done if entry.get(name) is not None]:
            median, least, most = statistics.median(values), min(values), max(values)
            summary[name] = (
                {"median": median, "least": least, "most": most}
                if as_json
                else f"{median:.4g} ({least:.4g} to {most:.4g})"
            )
    if as_json:
        summary["errors"] = {entry["patient"]: entry["error"] for entry in entries if entry["error"] is not None}
    return summary


def _write(path: Path, entries: list[Entry]) -> None:
    """Write a row for each entry, with all columns that one of them has; the file is replaced whole."""
    from tumorjax.storage import new_file

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(column for entry in entries for column in entry)))
    writer.writeheader()
    writer.writerows(entries)
    with new_file(path) as partial:
        # A name that is no UTF-8 must not cost the table.
        partial.write_text(text.getvalue(), encoding="utf-8", errors="backslashreplace", newline="")


@contextmanager
def _at_work_in(out: Path, folders: list[Path]) -> Iterator[None]:
    """Hold the folder of a cohort alone, and leave nothing there of those who were killed at their work."""
    from tumorjax.io import sweep
    from tumorjax.storage import exclusive

    def sweep_all() -> None:
        for folder in (out, *folders):
            sweep(folder)

    with exclusive(out):
        out.mkdir(parents=True, exist_ok=True)
        sweep_all()
        try:
            yield
        finally:
            sweep_all()
