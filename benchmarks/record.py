"""What every benchmark prints and writes: records of a name, a value and a unit, beside machine, versions and date."""

import contextlib
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

_VERSIONS = ("tumorjax", "jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "SimpleITK", "nilearn")
# Told where they are installed.
_VERSIONS_OF_EXTRAS = ("flax", "numpyro", "zarr", "cma", "antspyx", "sbi", "torch")


@dataclass(frozen=True)
class Record:
    """One measured figure; `target` is what it should reach, `details` what else describes it."""

    name: str
    value: float
    unit: str
    target: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def median_seconds(function: Callable[[], Any], repeats: int) -> float:
    """The median wall time of a function that was called once before (and so is compiled)."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def following(name: str, every: int = 50) -> Callable[[Any], None]:
    """Return what prints a line on every so many steps of a training."""

    def told(state: Any) -> None:
        if state.step % every == 0:
            left = f"{state.remaining:.0f} s left"
            print(f"{name}: step {state.step} of {state.steps}, loss {state.loss:.4f}, {left}", flush=True)

    return told


def machine() -> dict[str, Any]:
    """The machine's name, processors and devices."""
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
    """The versions of Python, of this package and of what its figures may depend on."""
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
        table.add_row(record.name, f"{record.value:.4g}", record.unit, record.target)
    Console(width=120).print(table)
    if path is not None:
        content = {
            "benchmark": name,
            "size": size,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
            "records": [asdict(record) for record in records],
        }
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(path)
