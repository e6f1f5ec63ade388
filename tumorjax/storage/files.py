"""Single files: replaced whole, and their checksums."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give the place of a temporary file that becomes `path` in one rename when the block ends well.

    Whoever is killed meanwhile leaves the file that was there before; the block may also raise. What a rename
    makes visible is on the disk already. Missing parents are made.

    Parameters
    ----------
    path
        Of the file. Where it is a symbolic link, the link is replaced, not what it points to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two writers of one file do not meet.
    partial = path.with_name(f".partial-{uuid.uuid4().hex[:8]}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
