"""The log of a command in a file: what was typed, stages with their times, notes and details."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from tumorjax.text import printable


class _Lines(logging.Formatter):
    """Formats a record as one line, with the time in UTC."""

    converter = time.gmtime

    def __init__(self, patient: str = "") -> None:
        # A name may hold what the style takes for a field.
        whose = f"{patient}: ".replace("%", "%%") if patient else ""
        super().__init__(f"%(asctime)s %(levelname)-7s %(name)s: {whose}%(message)s", "%Y-%m-%dT%H:%M:%SZ")

    def format(self, record: logging.LogRecord) -> str:
        # Names and headers of files may contain line breaks and control characters.
        return " ".join(printable(super().format(record)).splitlines())


@contextmanager
def log_in(path: Path | None, command_line: str, patient: str = "") -> Iterator[None]:
    """Append what the package logs to a file while a command runs, each line by one write: several processes may.

    Parameters
    ----------
    path
        The file; None for none.
    command_line
        What was typed.
    patient
        Name that stands before each message; empty for none.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    if path is None:
        yield
        return
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise OSError(f"log-file: {path} cannot be written ({error.strerror}); give another file") from None
    handler.setFormatter(_Lines(patient))
    log = logging.getLogger("tumorjax")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.info("tumorjax %s: %s", version("tumorjax"), command_line)
    try:
        yield
    except BaseException as error:
        log.error("%s: %s", type(error).__name__, error)
        raise
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()
