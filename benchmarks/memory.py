"""The largest resident memory of this process, where the system counts it."""

import contextlib
import ctypes
from pathlib import Path


def forget_peak() -> None:
    """Reset the counter of this process' largest memory, where there is one (on Linux)."""
    counter = Path("/proc/self/clear_refs")
    if counter.exists():
        with contextlib.suppress(OSError, AttributeError):
            # What was freed before goes back to the system first; other C libraries than GNU's lack this.
            ctypes.CDLL(None).malloc_trim(0)
        counter.write_text("5")


def peak() -> float | None:
    """Return the largest resident memory since the reset, GB; None where there is no counter."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return next(int(line.split()[1]) / 2**20 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
