"""The same work for many tasks, none of which stops the others: in processes of this machine, or on a Dask cluster."""

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

# Tasks after which a process of ours gives way to a fresh one: programs compiled for other shapes stay in memory.
_RENEWED = 8


class Outcome(NamedTuple):
    """What has become of a task.

    Parameters
    ----------
    number
        Number of the task, from 0.
    result
        What the work returned; None where it failed.
    error
        One line, why it failed; None where it did not.
    seconds
        Seconds that it took.
    """

    number: int
    result: Any
    error: str | None
    seconds: float


def run_tasks(
    work: Callable[[Any], Any], tasks: Sequence[Any], *, scheduler: str | None = None
) -> Generator[Outcome, None, None]:
    """Do the work for each task, and yield what has become of it, in the order in which that is known.

    Whatever happens to one task happens to it alone: work that raises, and also work whose process dies, out of memory
    or by a fault in a library, is an outcome with an error.

    Parameters
    ----------
    work
        A function at the top of a module, which other processes import.
    tasks
        Its arguments; they and the results go between processes.
    scheduler
        Address of a Dask scheduler (`tcp://host:8786`), whose workers do the work, each as many tasks at a time as it
        has threads. By default a process of its own does them one by one, since JAX uses all cores for one; it ends
        with this one, and when the iteration is given up.

    Raises
    ------
    ValueError
        If no scheduler answers, or distributed is not installed.
    OSError
        If the scheduler is lost on the way.
    """
    if scheduler is None:
        return _here(work, tasks)
    from tumorjax.workers.cluster import run_on_dask

    return run_on_dask(work, tasks, scheduler)


def attempt(work: Callable[[Any], Any], number: int, task: Any) -> Outcome:
    """Return the outcome of a task, whatever the work raises."""
    begun, result, error = time.monotonic(), None, None
    try:
        result = work(task)
    except Exception as problem:
        error = in_one_line(problem)
    return Outcome(number, result, error, time.monotonic() - begun)


def in_one_line(problem: Exception) -> str:
    """Return what an exception says in one line, with its class where the message alone does not explain it."""
    # What is expected, of input and disk, speaks for itself.
    kind = "" if isinstance(problem, ValueError | OSError) and str(problem) else f"{type(problem).__name__}: "
    return " ".join(f"{kind}{problem}".split()).removesuffix(":")


def _here(work: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[Outcome, None, None]:
    process: _Process | None = None
    try:
        for number, task in enumerate(tasks):
            process = process or _Process()
            begun = time.monotonic()
            outcome = process.attempt(work, number, task)
            yield outcome or Outcome(number, None, process.epitaph(), time.monotonic() - begun)
            if outcome is None or (number + 1) % _RENEWED == 0:
                process.end()
                process = None
    finally:
        if process is not None:
            process.end()


class _Process:
    """A fresh process that does one task after the other."""

    def __init__(self) -> None:
        # A fork would share locks and threads of the libraries that are loaded here.
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def attempt(self, work: Callable[[Any], Any], number: int, task: Any) -> Outcome | None:
        """Return the outcome, or None if the process has died."""
        try:
            self._pipe.send((work, number, task))
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            return None

    def epitaph(self) -> str:
        """Return what it died of."""
        self._process.join()
        code = self._process.exitcode or 0
        if code >= 0:
            return f"its process ended with code {code}"
        hint = "; perhaps memory is short" if -code == signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-code).name}{hint}"

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection) -> None:
    # Who began this process is interrupted by the same key, and ends it. It may also be killed itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            work, number, task = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt(work, number, task))


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)
