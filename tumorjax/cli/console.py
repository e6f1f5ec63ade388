"""What the terminal shows while work goes on, and when it is done."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text


class Screen:
    """Progress on standard error, results on standard output.

    Parameters
    ----------
    quiet
        Show nothing but errors.
    as_json
        Print results as JSON instead of a table.
    """

    def __init__(self, *, quiet: bool, as_json: bool) -> None:
        self._quiet, self._json = quiet, as_json
        self._errors = Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<40}", markup=False),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            console=self._errors,
            # A bar that moves is nothing for a file.
            disable=quiet or not self._errors.is_terminal,
        )
        self._task: Any = None
        self._stage: str | None = None

    def __enter__(self) -> "Screen":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._finish()
        self._progress.stop()

    def progress(self, stage: str, share: float | None = None, detail: str | None = None) -> None:
        """Show the stage that is under way, in detail if there is more to say, and the share that is done if known."""
        if stage != self._stage:
            self._finish()
            self._stage, self._task = stage, self._progress.add_task(stage, total=None if share is None else 1.0)
        self._progress.update(self._task, completed=share or 0.0, description=detail or stage)

    def note(self, text: str) -> None:
        """Show a remark about the inputs."""
        if not self._quiet:
            self._errors.print(Text(f"note: {text}"), soft_wrap=True)

    def results(self, metrics: dict[str, Any], folder: Any) -> None:
        """Print the figures of merit, and where the results lie."""
        if self._json:
            json.dump(metrics, sys.stdout, indent=2)
            print()
        elif not self._quiet:
            table = Table(show_header=False, box=None, pad_edge=False)
            for name, value in metrics.items():
                table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
            Console(highlight=False).print(table)
        if not self._quiet:
            self._errors.print(
                Text(f"results are in {folder}; for research only, not for clinical use"), soft_wrap=True
            )

    def _finish(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, total=1.0, completed=1.0)
            self._task = self._stage = None


def duration(seconds: float) -> str:
    """Return a time in words, to two or three digits."""
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"
