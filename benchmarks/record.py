"""Records of benchmarks (name, value and unit), and files of records with machine, versions and date."""

import ast
import contextlib
import datetime
import functools
import hashlib
import inspect
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

import tumorjax

_VERSIONS = ("tumorjax", "jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "SimpleITK", "nilearn")
# Recorded where they are installed.
_VERSIONS_OF_EXTRAS = ("flax", "numpyro", "blackjax", "zarr", "cma", "antspyx", "sbi", "torch")
# Half width of the 90 % interval of a normal distribution, in standard deviations.
NINETY = 1.6449
# Rooms of the package that change no figure.
_SHOWING = ("cli", "report")


@dataclass(frozen=True)
class Record:
    """One measured figure; `target` is the value that it should reach, `details` contains further descriptions."""

    name: str
    value: float
    unit: str
    target: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def median_seconds(function: Callable[[], Any], repeats: int) -> float:
    """The median wall time of a function after a first call that compiles it."""
    return medians_by_turns([function], repeats)[0]


def medians_by_turns(functions: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """The median wall times of functions that are called by turns, so that other work on the machine slows all."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        jax.block_until_ready(function())
    for _ in range(repeats):
        for function, seconds in zip(functions, times, strict=True):
            begun = time.perf_counter()
            jax.block_until_ready(function())
            seconds.append(time.perf_counter() - begun)
    return [statistics.median(seconds) for seconds in times]


def following(name: str, every: int = 50) -> Callable[[Any], None]:
    """Return a function that prints a line after every so many steps of a training."""

    def told(state: Any) -> None:
        if state.step % every == 0:
            left = f"{state.remaining:.0f} s left"
            print(f"{name}: step {state.step} of {state.steps}, loss {state.loss:.4f}, {left}", flush=True)

    return told


@functools.cache
def code(*modules: str, methods: tuple[type, ...] | None = None) -> str:
    """A digest of the sources that determine figures: benchmarks, and the package except for displaying results.

    Of the package's inverse methods only the sources that `methods` import count, or those of all.
    """
    package, benchmarks = Path(tumorjax.__file__).parent, Path(__file__).parent
    numerical = [file for file in package.rglob("*.py") if file.relative_to(package).parts[0] not in _SHOWING]
    if methods is not None:
        used = _imported([Path(inspect.getfile(method)) for method in methods], package)
        numerical = [file for file in numerical if file.relative_to(package).parts[0] != "methods" or file in used]
    digest = hashlib.sha256()
    # A benchmark is a module, or a folder of them.
    own = [file for each in sorted(modules) for file in _sources(benchmarks / each)]
    for file in [*sorted(numerical), *own]:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _imported(files: list[Path], package: Path) -> set[Path]:
    """Return files, and the modules of the package's `methods` that they import, directly or not."""
    found: set[Path] = set()
    while files:
        if (file := files.pop()) in found:
            continue
        found.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tumorjax.methods."):
                place = package.joinpath(*str(node.module).split(".")[1:])
                names = [place.with_suffix(".py"), place / "__init__.py", *(place / f"{n.name}.py" for n in node.names)]
                files += [each for each in names if each.exists()]
    return found


def _sources(module: Path) -> list[Path]:
    return sorted(module.glob("*.py")) if module.is_dir() else [module.with_name(f"{module.name}.py")]


def kept(file: Path, measured_by: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result in a JSON file if this code measured it; otherwise measure it and store it there.

    Parameters
    ----------
    file
        The JSON file.
    measured_by
        The digest of the code, `code()`.
    measure
        Function that returns the result, in a form that JSON can hold.
    """
    if file.exists():
        content = json.loads(file.read_text())
        if content.get("code") == measured_by:
            return content
        print(f"{file.name} was measured by other code, and is measured anew", flush=True)
    write(file, {**measure(), "code": measured_by})
    return json.loads(file.read_text())


def write(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, completely or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(file)


def machine() -> dict[str, Any]:
    """The name, processors and devices of the machine."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu(),
        "cores": cores(),
        "devices": [device.device_kind for device in jax.devices()],
    }


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """The versions of Python, of this package and of the libraries that its figures may depend on."""
    found = {package: version(package) for package in _VERSIONS}
    for package in _VERSIONS_OF_EXTRAS:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found | {"python": platform.python_version()}


def report(name: str, size: str, records: list[Record], path: Path | None) -> None:
    """Print a table of the records, and write them to a JSON file if one is named."""
    table = Table(title=f"{name} ({size})")
    for column in ("figure", "value", "unit", "target"):
        table.add_column(column)
    for record in records:
        # A level that was not reached within the runs gives a bound, not a figure.
        value = f"{record.details.get('bound', '')} {record.value:.4g}".strip()
        table.add_row(record.name, value, record.unit, record.target)
    Console(width=120).print(table)
    if path is not None:
        content = {
            "benchmark": name,
            "size": size,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
            "code": code(),
            "records": [asdict(record) for record in records],
        }
        write(path, content)
