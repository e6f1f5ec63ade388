"""Single files: their atomic replacement and their checksums."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from tumorjax.storage.locks import release, taken

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS})
"""Numbers of errors of a disk that is full, failing or read-only."""


def user_cache() -> Path:
    """Return the folder of what is kept for a user between commands: `tumorjax` in `$XDG_CACHE_HOME` or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tumorjax"


@contextmanager
def new_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces `path` in one rename when the block ends without an error.

    If the process is killed meanwhile, the old file stays, and so does `.NAME.partial`, which the next writer
    overwrites; if the block raises, the temporary file is removed. Two writers of the same file wait for each other.
    The contents are on the disk before the rename makes them visible. Missing parent folders are made.

    Parameters
    ----------
    path
        Path of the file. If it is a symbolic link, the link itself is replaced, not its target.
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
            # The error of a full or failing disk does not name the file.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        release(descriptor, partial)


def is_as_written(path: str | os.PathLike, digest: str) -> bool:
    """Return whether a file exists with this checksum, which each process computes once per version of the file."""
    try:
        found = os.stat(path)
        return _sha256(os.fspath(path), found.st_ino, found.st_size, found.st_mtime_ns) == digest
    except OSError:
        return False


@lru_cache(maxsize=256)
def _sha256(path: str, *state: int) -> str:
    return sha256(path)


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file in hexadecimal; of a folder, that of the checksums and names of its files."""
    files = sorted(Path(path).iterdir()) if os.path.isdir(path) else []
    # Hidden files are those of file managers. An empty folder is opened as a file, which raises the system's error.
    if shown := [each for each in files if each.is_file() and not each.name.startswith(".")]:
        listed = (f"{sha256(each)}  {each.name}\n".encode(errors="surrogateescape") for each in shown)
        return hashlib.sha256(b"".join(listed)).hexdigest()
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
