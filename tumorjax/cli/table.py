"""The table of a cohort: a patient in each row, and in each column an option of `tumorjax personalize`."""

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tumorjax.atlas import KNOWN
from tumorjax.cli.bids import find_subject
from tumorjax.cli.commands import check_plan, check_resolution
from tumorjax.cli.course import OF_VISITS, check_method, read_course
from tumorjax.cli.fibres import check_dti
from tumorjax.cli.growth import model_of
from tumorjax.cli.options import all_options, check_options, method_of, not_its_own
from tumorjax.io import InputError, as_background, as_labels, read_rows, read_volume
from tumorjax.patient.labels import lesion_of, read_labels
from tumorjax.patient.relatives import is_family
from tumorjax.patient.visits import FOR_HOLD_OUT, read_visits

_PATIENT = "patient"
# What a patient is seen on: one of these columns.
_SEEN = ("segmentation", "visits", "subject")
# A patient's name is the name of a folder beside the table of the results.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_TAKEN = {"cohort.csv", "index.html"}
# Options that are a file and words about it.
_FILES_AND_WORDS = ("tissue", "dti")
# An organ, its mask and its dose.
_SPARED = re.compile(r"([^=]+=)(.+)(:[^:]+)")
# Most faults of a table in one message.
_NAMED = 5


def read_table(
    path: Path,
    parser: argparse.ArgumentParser,
    known: Mapping[str, argparse.Action],
    common: Mapping[str, Any],
    out: Path,
) -> dict[str, argparse.Namespace]:
    """Return the options of each patient, by name, in the order of the table.

    Parameters
    ----------
    path
        A CSV file with a header: `patient`, and names of options (`brain-mask` or `brain_mask`); an empty cell is an
        option that is not given. Cells are separated by commas, semicolons or tabulators. Paths are relative to the
        folder of the table.
    parser
        Of `tumorjax personalize`.
    known
        The options that a patient can have, by name.
    common
        What holds for patients whose rows do not say otherwise, by the parser's destinations.
    out
        Folder of the cohort, in which each patient has one.

    Raises
    ------
    InputError
        If the table cannot be used: in which line, or which patients' options and what `tumorjax personalize` says of
        each, or which file is not there.
    """
    header, rows = read_rows(path)
    # As the options are called in Python, and in other tables.
    header = [column.replace("_", "-") for column in header]
    if repeated := [column for column in header if header.count(column) > 1]:
        raise InputError(f"{path}: the column {repeated[0]!r} is there twice; give each once")
    if unknown := [column for column in header if column not in {_PATIENT, *known}]:
        raise InputError(f"{path}: unknown column {unknown[0]!r}; known are {_PATIENT}, {', '.join(known)}")
    for needed in ((_PATIENT,), _SEEN):
        if not set(needed) & set(header):
            raise InputError(f"{path}: has no column {' or '.join(map(repr, needed))}; found {', '.join(header)}")
    patients: dict[str, argparse.Namespace] = {}
    # Not every file system tells a from A.
    names: dict[str, str] = {}
    idle: list[set[str]] = []
    wrong: list[str] = []
    for line, cells in rows:
        row = dict(zip(header, cells, strict=True))
        name = row.pop(_PATIENT)
        if not _NAME.fullmatch(name) or name.casefold() in _TAKEN:
            raise InputError(
                f"{path}, line {line}: the patient {name!r} cannot have a folder of that name; "
                "give up to 100 letters, digits and -_. with no dot in front"
            )
        if name.casefold() in names:
            raise InputError(f"{path}, line {line}: got {name} and {names[name.casefold()]}; give each patient a name")
        names[name.casefold()] = name
        if not any(row.get(key) for key in _SEEN):
            lacks = "has no segmentation; each patient needs one, or a table of visits, or a subject of --bids"
            raise InputError(f"{path}, patient {name}: {lacks}")
        try:
            arguments = [part for key, cell in row.items() if cell for part in _arguments(known[key], key, cell)]
            given = _parsed(parser, [*arguments, f"--out={out / name}"], common)
            options = argparse.Namespace(**placed(vars(given), path.absolute().parent))
            find_subject(options)
            own = {key.replace("-", "_") for key, cell in row.items() if cell}
            # What holds for all patients holds for those whose model or method takes it.
            others = {*not_its_own(options), *_not_of_its_visits(options)}
            idle.append({each for each in others if each not in own and common.get(each) not in (None, False)})
            for each in idle[-1]:
                setattr(options, each, parser.get_default(each))
            _check(options)
        except ValueError as error:
            wrong.append(f"patient {name}: {error}")
            continue
        patients[name] = options
    _raise_all(path, wrong)
    if unused := sorted(set.intersection(*idle)):
        why = "no patient has so many visits" if unused[0] in OF_VISITS else "no patient's model or method takes it"
        raise InputError(f"{unused[0].replace('_', '-')}: {why}; leave it out")
    _check_files(path, patients)
    _check_written(path, patients)
    _check_methods(path, patients)
    return patients


def check_segmentations(table: Path, patients: Mapping[str, argparse.Namespace]) -> None:
    """Raise an InputError where a segmentation cannot be read, or its labels have no clear meaning; of all at once."""
    wrong = []
    for name, options in patients.items():
        try:
            labels = None if options.labels is None else read_labels(options.labels)
            rows = [{"segmentation": options.segmentation}] if options.visits is None else read_visits(options.visits)
        except ValueError as error:
            wrong.append(f"patient {name}: {error}")
            continue
        for row in rows:
            try:
                shown = as_background(read_volume(row["segmentation"], name="segmentation", background_nan=True))
                lesion_of(as_labels(shown, []), row.get("labels", labels), [])
            except ValueError as error:
                wrong.append(f"patient {name}: {error}")
    _raise_all(table, wrong)


def _raise_all(table: Path, wrong: list[str]) -> None:
    """Raise an InputError that names what is wrong with a table, if anything is."""
    if wrong:
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise InputError(f"{table}, {'; '.join(wrong[:_NAMED])}{more}")


def placed(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return options with absolute paths for those relative to a folder: they hold wherever the work is done."""

    def place(word: str) -> str:
        return str(folder / word) if word and word not in KNOWN and (folder / word).exists() else word

    found, places = dict(values), _places()
    for key, value in values.items():
        if isinstance(value, Path):
            found[key] = folder / value
        elif key == "spare" and value is not None:
            found[key] = [_SPARED.sub(lambda part: f"{part[1]}{folder / part[2]}{part[3]}", word) for word in value]
        elif key in places and value is not None:
            found[key] = place(value) if isinstance(value, str) else [place(word) for word in value]
    return found


def _places() -> set[str]:
    """Return the options that may name a file or a folder, though they take other words too."""
    return {"atlas", *_FILES_AND_WORDS, *(option.name for option in all_options() if option.place)}


def _arguments(action: argparse.Action, name: str, cell: str) -> list[str]:
    """Return what a user would type for a cell."""
    if action.nargs == 0:
        if cell != "yes":
            raise InputError(f"{name}: got {cell!r}; write yes, or nothing")
        return [f"--{name}"]
    if isinstance(action, argparse._AppendAction):
        return [f"--{name}={word}" for word in shlex.split(cell)]
    if action.nargs is None:
        return [f"--{name}={cell}"]
    words = shlex.split(cell)
    if dashed := [word for word in words if word.startswith("-")]:
        # It would be another option.
        raise InputError(f"{name}: got {dashed[0]!r}; give values without a dash in front")
    return [f"--{name}", *words]


def _parsed(parser: argparse.ArgumentParser, arguments: list[str], common: Mapping[str, Any]) -> argparse.Namespace:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parser.parse_args(arguments, argparse.Namespace(**common))
    except SystemExit:
        raise InputError(said.getvalue().strip().removeprefix(f"{parser.prog}: error: ")) from None


def _check_files(table: Path, patients: Mapping[str, argparse.Namespace]) -> None:
    """Raise an InputError where a file is missing, before anything runs, and not hours later."""
    # All other paths are read.
    written = {"out", *(option.name for option in all_options() if option.writes)}
    places = _places() - set(_FILES_AND_WORDS)
    missing = []
    for name, options in patients.items():
        for key, value in vars(options).items():
            if isinstance(value, Path) and key not in written and not value.exists():
                missing.append(f"patient {name}: {key.replace('_', '-')} {value}")
            words: Any = value if key in places and value is not None else ()
            for word in [words] if isinstance(words, str) else words:
                if not (word in KNOWN or "://" in word or is_family(word) or (word and Path(word).exists())):
                    missing.append(f"patient {name}: {key} {word or repr(word)}")
        for key in _FILES_AND_WORDS:
            given = getattr(options, key)
            if given and not Path(given[0]).exists():
                missing.append(f"patient {name}: {key} {given[0]}")
    if missing:
        more = f", and {len(missing) - 1} more files" if len(missing) > 1 else ""
        raise InputError(
            f"{table}, {missing[0]} does not exist{more}; check the paths, which are relative to the table"
        )


def _check_written(table: Path, patients: Mapping[str, argparse.Namespace]) -> None:
    """Raise an InputError where the methods of two patients would write into one file."""
    writers: dict[tuple[str, Path], str] = {}
    for name, options in patients.items():
        for option in all_options():
            if option.writes and (file := getattr(options, option.name, None)) is not None:
                other = writers.setdefault((option.name, Path(file).resolve()), name)
                if other != name:
                    key = option.name.replace("_", "-")
                    raise InputError(
                        f"{table}, patient {name}: {key} {file} is that of {other}, too; give each its own"
                    )


def _not_of_its_visits(options: argparse.Namespace) -> set[str]:
    """Return the options that are for more visits than a patient has: one has no course, two cannot spare the last."""
    if options.visits is None:
        return set(OF_VISITS)
    return {"hold_out"} if len(read_visits(options.visits)) < FOR_HOLD_OUT else set()


def _check(options: argparse.Namespace) -> None:
    """Raise what `tumorjax personalize` would before it looks at an image."""
    check_resolution(options.resolution)
    check_options(options)
    check_plan(options)
    check_dti(options.dti)
    read_course(options)


def _check_methods(table: Path, patients: Mapping[str, argparse.Namespace]) -> None:
    """Raise an InputError where a method cannot be made of its options; those of many patients once."""
    names = {
        "model",
        "method",
        "healthy",
        "resolution",
        "atlas",
        "registration",
        *(option.name for option in all_options()),
    }
    writing = [option.name for option in all_options() if option.writes]
    checked = set()
    for name, options in patients.items():
        settings = repr([(key, getattr(options, key, None)) for key in sorted(names)])
        if any(getattr(options, key, None) for key in writing):
            # What a method writes must not lie in the folder of the results.
            settings += str(options.out)
        course = read_course(options)
        settings += str((len(course.visits), course.needs_time))
        if settings in checked:
            continue
        checked.add(settings)
        try:
            check_method(method_of(options), model_of(options), course)
        except ValueError as error:
            raise InputError(f"{table}, patient {name}: {error}") from None
