"""The log file of a training."""

import csv
import io
from contextlib import suppress
from pathlib import Path

from tumorjax.storage import new_file

_COLUMNS = ("step", "loss", "gradient_norm", "validation", "seconds")


class Journal:
    """A CSV file with a row per step; a resumed training removes damaged rows and those after the checkpoint."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [] if not step or not path.exists() else _rows(path.read_text(encoding="utf-8", errors="replace"), step)
        # The column of seconds continues from the last row.
        self._before = float(kept[-1][-1]) if kept else 0.0
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([_COLUMNS, *kept])
        with new_file(path) as partial:
            partial.write_text(text.getvalue(), encoding="utf-8")
        self._path = path
        self._file = path.open("a", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file, lineterminator="\n")

    def write(self, step: int, loss: float, norm: float, validation: float | None, seconds: float) -> None:
        """Append a row.

        Raises
        ------
        OSError
            If it cannot be written, with the name of the file.
        """
        checked = "" if validation is None else f"{validation:.6g}"
        row = [step, f"{loss:.6g}", f"{norm:.6g}", checked, f"{self._before + seconds:.2f}"]
        try:
            self._rows.writerow(row)
            # Flushed, so that others can follow the file and nothing is lost if the process is killed.
            self._file.flush()
        except OSError as error:
            # The error of a full disk names no file.
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def close(self) -> None:
        """Close the file; a row that could not be written is given up."""
        with suppress(OSError):
            self._file.close()


def _rows(text: str, last: int) -> list[list[str]]:
    """Return the complete rows up to a step; the last row of a killed process may be incomplete."""
    rows = []
    for line in text.splitlines()[1:]:
        row = line.split(",")
        try:
            numbers = [float(cell) for cell in row if cell]
        except ValueError:
            continue
        if len(row) == len(_COLUMNS) and len(numbers) >= 4 and row[0].isdecimal() and int(row[0]) <= last:
            rows.append(row)
    return rows
