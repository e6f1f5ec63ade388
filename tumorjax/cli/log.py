"""The log of a command in a file: what was typed, stages with their times, notes and details."""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from tumorjax.cli.ending import complain
from tumorjax.text import printable

# How each line begins: its time in UTC.
_BEGINNING = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ")


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


class _File(logging.FileHandler):
    """Appends to a file, and says once where that no longer can be done: the work goes on without it."""

    _silent = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._silent:
            self._silent = True
            complain(f"tumorjax: {self.baseFilename} cannot be written; the log ends here")

    def close(self) -> None:
        # What could not be written is written once more.
        with suppress(OSError):
            super().close()


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
    ValueError
        If there is such a file, which is no log of this package: nothing is appended to an image.
    OSError
        If the file cannot be written.
    """
    if path is None:
        yield
        return
    try:
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                begins = file.read(64)
            if not _BEGINNING.match(begins):
                raise ValueError(f"log-file: {path} is there already, and no log of tumorjax; give another file")
        handler = _File(path, encoding="utf-8")
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
