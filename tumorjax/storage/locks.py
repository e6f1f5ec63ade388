"""Locks of places that one command at a time may write to; they end with the process that holds them."""

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What a lock says of who holds it; anything else in such a file is not repeated.
_HOLDER = re.compile(r"process \d{1,10} on [\w.-]{1,64}")
# Others may remove a folder so often before a lock can be made in it.
_TRIES = 100


class InUseError(ValueError):
    """Another command writes to a place; the message is one line: where, who, what to do."""


@contextmanager
def exclusive(path: str | os.PathLike, *, wait: bool = False) -> Iterator[None]:
    """Hold a file or folder alone, so that no other command that asks for the same writes there meanwhile.

    The lock is one of the operating system on a file `.NAME.lock` beside the place (or, where that cannot be made,
    on the folder itself). It ends with the process, however that ends; a file left by one that was killed locks
    nothing. Whoever holds it removes the file at the end. File systems that know no locks are used without.

    Parameters
    ----------
    path
        A file or folder, which need not exist; two names of one place are one lock. Missing parents are made, and
        those that are still empty in the end are removed.
    wait
        Wait for whoever holds it, instead of raising.

    Raises
    ------
    InUseError
        If another command, or another thread of this one, holds it.
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
    """Return a descriptor that holds the lock of a place by a file beside it, or None where nothing can be locked."""
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
            # Some network drives know no locks.
            return None
        finally:
            if not held:
                os.close(descriptor)
        if held:
            return descriptor
    return None


def release(descriptor: int | None, beside: Path) -> None:
    """Give up the lock that a descriptor holds, and remove its file where that is still the one beside the place."""
    if descriptor is None:
        return
    # Removed while it is held: whoever waits for it finds that it is gone, and makes another.
    with suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), os.stat(beside)):
            beside.unlink()
    os.close(descriptor)


def _opened(place: Path, beside: Path) -> tuple[int, Path] | None:
    """Return a descriptor of what is to be locked, and its path; None where there is nothing that could be."""
    for _ in range(_TRIES):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            return os.open(beside, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), beside
        except FileNotFoundError:
            # Another command removed the folder, which it had made.
            continue
        except OSError as error:
            if error.errno == errno.ELOOP:
                # Nobody is sent elsewhere by a link that waits there.
                raise
            break
    # The lock of another user, or a folder in which nothing may be made.
    for other in (beside, place):
        with suppress(OSError):
            return os.open(other, os.O_RDONLY | os.O_NOFOLLOW), other
    return None


def _stands(descriptor: int, path: Path) -> bool:
    """Return whether what was locked is still at its path, where others will lock it; it may have been renamed."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def _holder(descriptor: int) -> str:
    """Return who holds a lock, in parentheses, as far as it says so."""
    with suppress(OSError):
        found = os.pread(descriptor, 100, 0).decode("utf-8", "replace").strip()
        if _HOLDER.fullmatch(found):
            return f" ({found})"
    return ""
