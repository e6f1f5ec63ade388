"""What the terminal shows while work goes on, and when it is done."""

import io
import json
import shlex
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tumorjax.cli.ending import drop
from tumorjax.quality import Status, status_of
from tumorjax.text import printable

_STYLES = {Status.GOOD: "", Status.DOUBTFUL: "yellow", Status.FAILED: "bold red"}
_PREFIXES = {Status.GOOD: "note", Status.DOUBTFUL: "doubtful", Status.FAILED: "failed"}


# Without a terminal a line says what is under way: when a stage begins, or as soon as the last line is older than the
# first of these (s), and in a long stage after the second, also where the stage itself reports nothing meanwhile, as
# while programs compile. Work that takes less says nothing.
_BRIEF, _LONG = 10.0, 60.0


class _Remarks(Console):
    """A console whose reader may be gone: that ends no work."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        drop(self.file)


class Screen:
    """Progress on standard error, results on standard output.

    On a terminal a bar moves; a file or a pipe receives a line for a stage, and for each minute of a long one.

    Parameters
    ----------
    quiet
        Show nothing but errors.
    as_json
        Print results as JSON instead of a table.

    Raises
    ------
    ValueError
        If JSON is asked for, and standard output is closed.
    """

    def __init__(self, *, quiet: bool, as_json: bool) -> None:
        if as_json and sys.stdout is None:
            raise ValueError("json: standard output is closed; leave it open, or leave out --json")
        self._quiet, self._json = quiet, as_json
        self._errors = _Remarks(stderr=True, highlight=False)
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
        self._in_lines = not quiet and not self._errors.is_terminal
        self._begun = self._said = time.monotonic()
        self._told: str | None = None
        self._news: tuple[str, float | None, str | None] | None = None
        self._lock, self._ended = threading.Lock(), threading.Event()

    def __enter__(self) -> "Screen":
        self._progress.start()
        if self._in_lines:
            threading.Thread(target=self._repeat, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._finish()
        self._progress.stop()

    def progress(self, stage: str, share: float | None = None, detail: str | None = None) -> None:
        """Show the stage that is under way, in detail if there is more to say, and the share that is done if known."""
        if stage != self._stage:
            self._finish()
            self._stage, self._task = (
                stage,
                self._progress.add_task(printable(stage), total=None if share is None else 1.0),
            )
        self._progress.update(self._task, completed=share or 0.0, description=printable(detail or stage))
        if self._in_lines:
            with self._lock:
                self._news = (stage, share, detail)
                self._say(stage, share, detail)

    def _repeat(self) -> None:
        """Say again and again what is under way, as often as lines are due."""
        while not self._ended.wait(_BRIEF):
            with self._lock:
                if self._news is not None:
                    self._say(*self._news)

    def _say(self, stage: str, share: float | None, detail: str | None) -> None:
        """Print a line on the stage that is under way, unless there was one not long ago."""
        now = time.monotonic()
        if now - self._said < (_BRIEF if stage != self._told else _LONG):
            return
        self._said, self._told = now, stage
        minutes, seconds = divmod(int(now - self._begun), 60)
        done = "" if share is None or detail is not None else f", {share:.0%}"
        self._remark(f"{minutes}:{seconds:02d} {detail or stage}{done}")

    def note(self, text: str) -> None:
        """Show a remark about the inputs, in colour where it makes the result doubtful or unusable."""
        if not self._quiet:
            status = status_of([text])
            self._remark(f"{_PREFIXES[status]}: {text}", _STYLES[status])

    def results(self, metrics: dict[str, Any], folder: Any, *, report: bool = False) -> None:
        """Print the quality with its reasons, if it is known, the figures of merit, and where the results lie.

        With `report`, the last line names the command that opens their report.

        Raises
        ------
        OSError
            If standard output cannot be written; what was done is not lost by that.
        """
        quality, reasons = metrics.get("quality"), metrics.get("quality_reasons", [])
        if self._json:
            self._print(json.dumps(metrics, indent=2) + "\n", folder)
        elif not self._quiet and sys.stdout is not None:
            table = Table(show_header=False, box=None, pad_edge=False)
            table.add_column()
            # A checksum or a path is shown whole, also where no terminal says how wide lines may be.
            table.add_column(overflow="fold")
            for name, value in metrics.items():
                if name not in ("quality", "quality_reasons"):
                    table.add_row(name, f"{value:.4g}" if isinstance(value, float) else printable(value))
            # A console writes by itself, and ends the process where a reader is gone.
            shown, own = io.StringIO(), Console()
            page = Console(highlight=False, file=shown, width=own.width, force_terminal=own.is_terminal)
            if quality is not None:
                said = "\n  ".join([f"quality: {quality}", *(printable(reason) for reason in reasons)])
                page.print(Text(said, style=_STYLES[Status(quality)]), soft_wrap=True)
            page.print(table)
            self._print(shown.getvalue(), folder)
        if not self._quiet:
            how = f", and tumorjax view {shlex.quote(str(folder))} opens the report" if report else ""
            self._remark(f"results are in {folder}{how}; for research only, not for clinical use")

    def _remark(self, text: str, style: str = "") -> None:
        with suppress(OSError):
            self._errors.print(Text(printable(text), style=style), soft_wrap=True)

    def _print(self, text: str, folder: Any) -> None:
        encoding = sys.stdout.encoding or "utf-8"
        try:
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
            sys.stdout.flush()
        except (OSError, ValueError) as error:
            drop(sys.stdout)
            reason = getattr(error, "strerror", None) or error
            raise OSError(f"standard output cannot be written ({reason}); results are in {folder}") from None

    def _finish(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, total=1.0, completed=1.0)
            self._task = self._stage = None
