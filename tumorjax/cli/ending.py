"""How a command ends: by signals that ask for it, and where nobody takes what it prints."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from tumorjax.text import printable

# What clusters and terminals send to end a program.
_SIGNALS = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]

# Where Python drops exceptions: finalizers, and what JAX has the garbage collector call.
_SWALLOWING = ("__del__", "_xla_gc_callback")
# Seconds, after which a signal that came there is sent again.
_AGAIN = 0.05


class Ended(KeyboardInterrupt):
    """A signal asks the command to end. Whatever cleans up after the interrupt key does so after this, too."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Return the code of a command that a signal has ended: 128 and the signal's number, as shells count."""
    return 128 + getattr(interrupt, "number", signal.SIGINT)


def interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    """Return the interrupt during whose cleaning up an error was raised, or which it is; None if there is none."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, KeyboardInterrupt):
        found = found.__context__
    return found


def how(interrupt: KeyboardInterrupt) -> str:
    """Return in words what has ended a command."""
    number = getattr(interrupt, "number", None)
    return "interrupted" if number is None else f"ended by {signal.Signals(number).name}"


def written(interrupt: KeyboardInterrupt) -> str:
    """Return in words what was written when the interrupt came."""
    return "; ".join(getattr(interrupt, "__notes__", [])) or "nothing was written"


@contextmanager
def raised_signals() -> Iterator[None]:
    """Raise `Ended` where a signal would end the process without a word, so that temporary files are removed.

    Signals that are ignored (`nohup`), or have a handler already, keep what they have. After the first one, others are
    ignored, so that cleaning up comes to its end.
    """
    taken: list[int] = []
    later: list[threading.Timer] = []

    def end(number: int, frame: FrameType | None) -> None:
        if _swallows(frame):
            # Again, when that has returned.
            later.append(again := threading.Timer(_AGAIN, os.kill, (os.getpid(), number)))
            again.daemon = True
            again.start()
            return
        for each in taken:
            signal.signal(each, signal.SIG_IGN)
        raise Ended(number)

    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, end)
                taken.append(number)
    try:
        yield
    finally:
        for again in later:
            again.cancel()
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _swallows(frame: FrameType | None) -> bool:
    """Return whether what is raised here is dropped by Python: in finalizers, and in callbacks of its collector."""
    while frame is not None:
        if frame.f_code.co_name in _SWALLOWING:
            return True
        frame = frame.f_back
    return False


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Keep closed descriptors from being given to files that are opened, and end quietly where a reader is gone."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, which is this one.
            os.open(os.devnull, os.O_RDWR)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                drop(stream)


def drop(stream: object) -> None:
    """Let what a stream still holds go nowhere; else the interpreter fails at it when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # pyright: ignore[reportAttributeAccessIssue]
        os.close(nowhere)


def complain(text: str) -> None:
    """Print a line to standard error, safe to show; nothing happens where that cannot be written."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(" ".join(printable(text).split()), file=sys.stderr, flush=True)
