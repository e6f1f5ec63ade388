"""How results came about, as their folder records it: the command, versions, and checksums of what was read."""

import argparse
import datetime
import platform
import shlex
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tumorjax.io import InputError, settle, sha256
from tumorjax.methods.registry import methods
from tumorjax.patient.visits import files_of, read_visits
from tumorjax.results.personalization import Personalization
from tumorjax.storage import parsed

# Options whose files count by their content and not by their place, with the names that the record gives them.
_FILES = {
    "segmentation": "segmentation",
    "t1": "T1",
    "pet": "PET",
    "adc": "ADC",
    "flair": "FLAIR",
    "brain-mask": "brain mask",
    "recurrence": "recurrence",
    "wm": "white matter",
    "gm": "grey matter",
    "csf": "CSF",
    "tissue": "tissue",
    "dti": "DTI",
    "visits": "visits",
    "treatments": "treatments",
}
_PARAMETERS, _METRICS = "parameters.json", "metrics.json"
_VERSIONS = ("tumorjax", "jax", "jaxlib", "equinox", "optax", "numpy", "nibabel", "simpleitk", "nilearn")
# Libraries of single methods, named where they were loaded.
_FURTHER = ("numpyro", "arviz", "flax", "zarr", "numba", "faiss")
# Stands for the command where there was none.
_PYTHON = "tumorjax.personalize, called in Python"
# Options that results do not depend on.
_IMMATERIAL = {"out", "overwrite", "quiet", "json", "log-file"}


def provenance_of(result: Personalization, command: str | None) -> dict[str, str]:
    """Return how a result came about, by what it says.

    Parameters
    ----------
    result
        From `personalize`.
    command
        What the user typed; None for a result of a Python program.
    """
    kept = {} if result.kept is None else result.kept.hashes
    hashes = result.patient.hashes | kept | result.hashes
    libraries = (*_VERSIONS, *(name for name in _FURTHER if name in sys.modules))
    return {
        "command": command or _PYTHON,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": ", ".join(f"{name} {number}" for name in libraries if (number := _version(name))),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{f"sha256 of {role}": digest for role, digest in hashes.items()},
    }


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def command_of(options: argparse.Namespace, known: Mapping[str, argparse.Action]) -> str:
    """Return the command that has these options: what is not given, or the default, is left out.

    Parameters
    ----------
    options
        Of `tumorjax personalize`, as its parser returns them.
    known
        The options that may be given, by name, without the folder of the results.
    """
    words = ["tumorjax", "personalize"]
    for name, action in known.items():
        value = getattr(options, action.dest)
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        elif value != action.default:
            words.append(f"--{name}" if action.nargs == 0 else f"--{name}={value}")
    return shlex.join([*words, f"--out={options.out}"])


def finished(folder: Path, command: str) -> dict[str, Any] | None:
    """Return the metrics of the results in a folder, if this command would give them; None if there is nothing.

    Raises
    ------
    InputError
        If the folder holds anything else, such as results of other settings or of other images; which they are.
    """
    settle(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    try:
        check_whole(folder, ".json")
        provenance = parsed((folder / _PARAMETERS).read_bytes())["provenance"]
        metrics = parsed((folder / _METRICS).read_bytes())
        if not isinstance(metrics, dict) or not isinstance(provenance["command"], str):
            raise ValueError("other records than ours")
        before = _settings(provenance["command"], lambda option, _: provenance[f"sha256 of {_FILES[option]}"])
        seen = _images_of_visits(command)
        if "visits" in before:
            before["visits"] += [provenance.get(f"sha256 of {role}", "") for role in seen]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder} holds something else than whole results") from None
    now = _settings(command, lambda _, path: _digest(Path(path)))
    if "visits" in now:
        now["visits"] += [_digest(path) for path in seen.values()]
    if other := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        raise InputError(f"{folder} has results of other settings (other {', '.join(other)})")
    return metrics


def check_whole(folder: Path, *compared: str) -> set[str]:
    """Return the names of the files of results; a ValueError where one is missing, or not as it was written.

    Parameters
    ----------
    folder
        Folder of the results.
    compared
        Ends of the names of files whose checksums are compared.

    Raises
    ------
    ValueError
        If a file is missing or another than was written, or there are no results of a personalization.
    OSError
        If a file cannot be read.
    """
    # The list of the files is written last, also where a run replaces those of another.
    listed = set()
    for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        if not (folder / name).is_file() or (name.endswith(compared) and sha256(folder / name) != digest):
            raise ValueError(name)
        listed.add(name)
    if not listed >= {_PARAMETERS, _METRICS}:
        raise ValueError("the list of the files was cut short")
    return listed


def _settings(command: str, digest: Callable[[str, str], str]) -> dict[str, list[str]]:
    """Return the values of the options of a command by name, with digests for files."""
    settings: dict[str, list[str]] = {}
    values: list[str] = []
    for word in shlex.split(command)[2:]:
        if word.startswith("--"):
            name, given, value = word[2:].partition("=")
            values = settings[name] = [value] if given else []
        else:
            values.append(word)
    for name in settings.keys() & _FILES.keys():
        settings[name][:1] = [digest(name, path) for path in settings[name][:1]]
    immaterial = _IMMATERIAL | {option.flag for kind in methods().values() for option in kind.options if option.writes}
    return {name: values for name, values in settings.items() if name not in immaterial}


def _images_of_visits(command: str) -> dict[str, Path]:
    """Return the files that a command's table of visits names, by their role; none where it cannot be read."""
    tables = [word.partition("=")[2] for word in shlex.split(command) if word.startswith("--visits=")]
    try:
        rows = [row for table in tables for row in read_visits(table)]
    except InputError:
        return {}
    return {role: path for number, row in enumerate(rows) for role, path in files_of(row, later=number > 0).items()}


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError:
        # What cannot be read is not what was read.
        return ""
