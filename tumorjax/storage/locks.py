"""Locks of files and folders that one command at a time may write to; a lock ends with its process."""

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# The form in which a lock file names its process; any other contents are never shown.
_HOLDER = re.compile(r"process \d{1,10} on [\w.-]{1,64}")
# How many times another process may remove a folder before a lock can be made in it.
_TRIES = 100


class InUseError(ValueError):
    """Another command writes to the same file or folder; the message says in one line where, which, and what to do."""


@contextmanager
def exclusive(path: str | os.PathLike, *, wait: bool = False) -> Iterator[None]:
    """Lock a file or folder for the block, so that no other command that locks it writes there meanwhile.

    The lock is an operating-system lock on a file `.NAME.lock` beside the path (or, where that cannot be made, on the
    folder itself). It ends with the process, even if that is killed; a lock file left behind by a killed process locks
    nothing. The holder removes the file at the end. On file systems without locks, nothing is locked.

    Parameters
    ----------
    path
        A file or folder, which need not exist; two names of the same path share one lock. Missing parent folders are
        made, and those that are still empty at the end are removed.
    wait
        Wait until the lock is free, instead of raising.

    Raises
    ------
    InUseError
        If another command, or another thread of this one, holds the lock.
    """
    place = Path(os.path.realpath(path))
    beside = place.parent / f".{place.name}.lock"
    missing = [parent for parent in place.parents if not parent.exists()]
    descriptor = taken(place, beside, wait=wait)
    try:
        if descriptor is not None:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        release(descriptor, beside)
        with suppress(OSError):
            for parent in missing:
                parent.rmdir()


def taken(place: Path, beside: Path, *, wait: bool) -> int | None:
    """Return a file descriptor that holds the lock of a path, or None where nothing can be locked."""
    import fcntl

    while (opened := _opened(place, beside)) is not None:
        descriptor, path = opened
        held = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = _stands(descriptor, path)
        except BlockingIOError:
            raise InUseError(
                f"{place}: another command is at work there{_holder(descriptor)}; wait for it, or end it"
            ) from None
        except OSError:
            # Some network drives do not support locks.
            return None
        finally:
            if not held:
                os.close(descriptor)
        if held:
            return descriptor
    return None


def release(descriptor: int | None, beside: Path) -> None:
    """Release the lock that a descriptor holds, and remove its file if that is still the one beside the path."""
    if descriptor is None:
        return
    # The file is removed while the lock is held: a waiting process notices that it is gone, and makes another.
    with suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), os.stat(beside)):
            beside.unlink()
    os.close(descriptor)


def _opened(place: Path, beside: Path) -> tuple[int, Path] | None:
    """Return a descriptor of the file to lock, and its path; None where nothing can be locked."""
    for _ in range(_TRIES):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            return os.open(beside, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), beside
        except FileNotFoundError:
            # Another command removed the folder that it had made.
            continue
        except OSError as error:
            if error.errno == errno.ELOOP:
                # A link placed there on purpose must not redirect the lock.
                raise
            break
    # The lock file belongs to another user, or the folder is not writable.
    for other in (beside, place):
        with suppress(OSError):
            return os.open(other, os.O_RDONLY | os.O_NOFOLLOW), other
    return None


def _stands(descriptor: int, path: Path) -> bool:
    """Return whether the locked file is still at its path, where others will lock it; it may have been renamed."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def _holder(descriptor: int) -> str:
    """Return the process that holds a lock, in parentheses, or nothing if the lock file does not name it."""
    with suppress(OSError):
        found = os.pread(descriptor, 100, 0).decode("utf-8", "replace").strip()
        if _HOLDER.fullmatch(found):
            return f" ({found})"
    return ""
