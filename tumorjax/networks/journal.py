"""The log of a training."""

import csv
from pathlib import Path

_COLUMNS = ("step", "loss", "gradient_norm", "validation", "seconds")


class Journal:
    """A CSV file of the steps, from which those after a checkpoint are removed."""

    def __init__(self, path: Path, step: int) -> None:
        kept = []
        if step and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in list(csv.reader(file))[1:] if row and row[0].isdigit() and int(row[0]) <= step]
        # Seconds go on where they were.
        self._before = float(kept[-1][-1]) if kept else 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerows([_COLUMNS, *kept])

    def write(self, step: int, loss: float, norm: float, validation: float | None, seconds: float) -> None:
        """Add a row."""
        checked = "" if validation is None else f"{validation:.6g}"
        self._rows.writerow([step, f"{loss:.6g}", f"{norm:.6g}", checked, f"{self._before + seconds:.2f}"])
        # Seen at once by who watches, and nothing is lost with the process.
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
