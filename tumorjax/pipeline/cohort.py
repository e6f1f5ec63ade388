"""The same work on many patients, none of which stops the others: here, or on a Dask cluster."""

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

# Patients after which a process of ours gives way to a fresh one: programs compiled for other shapes stay in memory.
_RENEWED = 8


class Outcome(NamedTuple):
    """What has become of a task.

    Parameters
    ----------
    number
        Of the task, from 0.
    result
        What the work returned; None where it failed.
    error
        One line, why it failed; None where it did not.
    seconds
        That it took.
    """

    number: int
    result: Any
    error: str | None
    seconds: float


def run_cohort(
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
    return _here(work, tasks) if scheduler is None else _on_dask(work, tasks, scheduler)


def attempt(work: Callable[[Any], Any], number: int, task: Any) -> Outcome:
    """Return the outcome of a task, whatever the work raises."""
    begun, result, error = time.monotonic(), None, None
    try:
        result = work(task)
    except Exception as problem:
        error = _line(problem)
    return Outcome(number, result, error, time.monotonic() - begun)


def _line(problem: Exception) -> str:
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


def _on_dask(work: Callable[[Any], Any], tasks: Sequence[Any], scheduler: str) -> Generator[Outcome, None, None]:
    try:
        from distributed import CancelledError, KilledWorker, as_completed
    except ImportError:
        raise ValueError("a scheduler needs distributed, not installed here; pip install 'tumorjax[cluster]'") from None
    # The work has its own imports; only a cluster needs these.
    from tumorjax.ensemble.distribute import client_of

    client = client_of(scheduler)
    begun = time.monotonic()

    def submitted(number: int) -> Any:
        # Results of an earlier run are none of this one.
        return client.submit(attempt, work, number, tasks[number], key=f"patient-{number}-{uuid.uuid4().hex}")

    def outcome(number: int, future: Any) -> Outcome | None:
        """Return what has become of a task, or None where workers died, as often as the scheduler lets them."""
        try:
            return future.result()
        except KilledWorker:
            return None
        except CancelledError:
            raise OSError(f"the Dask scheduler at {scheduler} is lost; what it has finished is kept") from None
        except Exception as problem:
            # Of the worker itself, such as one on which the package is not installed.
            return Outcome(number, None, f"on its worker, {_line(problem)}", time.monotonic() - begun)

    with client:
        futures = {submitted(number): number for number in range(len(tasks))}
        suspects = []
        try:
            for future in as_completed(futures, loop=client.loop):
                if (known := outcome(futures[future], future)) is None:
                    suspects.append(futures[future])
                else:
                    yield known
            # Whoever waits for a worker that dies is suspected, too: alone with it, the innocent pass.
            for number in suspects:
                futures[future := submitted(number)] = number
                error = "its workers die again and again; see their logs, perhaps memory is short"
                yield outcome(number, future) or Outcome(number, None, error, time.monotonic() - begun)
        finally:
            client.cancel(list(futures))
