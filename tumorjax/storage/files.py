"""Single files: replaced whole, and their checksums."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from tumorjax.storage.locks import release, taken


@contextmanager
def new_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give the place of a temporary file that becomes `path` in one rename when the block ends well.

    Whoever is killed meanwhile leaves the file that was there before, and `.NAME.partial`, which the next writer takes
    over; when the block raises, that is removed. Two writers wait for each other. What the rename makes visible is on
    the disk already. Missing parents are made.

    Parameters
    ----------
    path
        Of the file. Where it is a symbolic link, the link is replaced, not what it points to.
    """
    path = Path(path)
    partial = path.parent / f".{path.name}.partial"
    descriptor = taken(path, partial, wait=True)
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.filename is None and error.errno is not None:
            # A disk that is full, or fails, does not say which file it was.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        release(descriptor, partial)


def is_as_written(path: str | os.PathLike, digest: str) -> bool:
    """Return whether a file is there with this checksum; once for each file and process, unless it changes."""
    try:
        found = os.stat(path)
        return _sha256(os.fspath(path), found.st_ino, found.st_size, found.st_mtime_ns) == digest
    except OSError:
        return False


@lru_cache(maxsize=256)
def _sha256(path: str, *state: int) -> str:
    return sha256(path)


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
