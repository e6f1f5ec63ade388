"""Time of the demonstration in a fresh installation, and again with everything compiled; figure of the README."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.cohorts import folder
from benchmarks.record import Record

DICES = ("dice_core", "dice_lesion", "dice_density_0.5", "dice_density_0.1", "dice_density_0.01")


def run(size: str) -> list[Record]:
    """`tumorjax demo` in separate processes; `small` uses voxels of 6 mm."""
    metrics: dict[str, float] = {}
    seconds = {}
    with tempfile.TemporaryDirectory() as compiled:
        for which in ("first", "again"):
            begun = time.perf_counter()
            metrics = _demonstration(compiled, 6.0 if size == "small" else 2.0)
            seconds[which] = time.perf_counter() - begun
    records = [Record(f"demo_seconds_{which}", value, "s") for which, value in seconds.items()]
    return records + [Record(f"demo_{name}", metrics[name], "1") for name in DICES]


def figures(_records: list[Record], place: Path) -> None:
    """Save the figure of the report."""
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_out() / "report.png", place / "demo.png")


def _out() -> Path:
    return folder() / "demo"


def _demonstration(compiled: str, resolution: float) -> dict[str, float]:
    _out().parent.mkdir(parents=True, exist_ok=True)
    given = ["demo", f"--out={_out()}", f"--resolution={resolution:g}", "--overwrite", "--quiet"]
    # Both runs share a cache of compiled programs that is empty at first.
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": compiled}
    subprocess.run([sys.executable, "-m", "tumorjax.cli", *given], check=True, env=environment)
    return json.loads((_out() / "metrics.json").read_text())
