"""The files of a store: in a local folder, or at any URL that fsspec supports."""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from tumorjax.storage import exclusive

_PARTIAL = ".partial"
# Attempts to create a file in a folder that others remove where it is empty.
_ATTEMPTS = 5


class Files:
    """The files of a store by their keys, such as `density/zarr.json`; each appears complete or not at all.

    Parameters
    ----------
    url
        A folder, or a URL of fsspec (`s3://bucket/name`, `memory://name`), whose credentials fsspec finds by itself.

    Raises
    ------
    ValueError
        If the kind of URL is unknown, or a library for it is missing.
    """

    def __init__(self, url: str | os.PathLike) -> None:
        require("zarr", "fsspec")
        import fsspec

        try:
            self._fs, self._root = fsspec.core.url_to_fs(os.fspath(url))
        except (ImportError, ValueError) as error:
            raise ValueError(f"{url} cannot be reached: {error}") from None
        self._root = self._root.rstrip("/")
        self._local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))
        # The absolute path, because other processes may have another working directory.
        self.url = self._root if self._local else os.fspath(url)

    def sizes(self) -> dict[str, int]:
        """Return the size of every file, bytes."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.find(self._root, detail=True)
        except FileNotFoundError:
            return {}
        if self._local and os.path.isfile(self._root):
            raise ValueError(f"{self.url} is a file; give a folder")
        return {name[len(self._root) + 1 :]: int(info["size"]) for name, info in found.items()}

    def read(self, key: str) -> bytes:
        """Return the content of a file."""
        return self._fs.cat_file(f"{self._root}/{key}")

    def write(self, key: str, content: bytes) -> None:
        """Replace a file atomically; if the process is killed meanwhile, the old file (or none) remains."""
        path = f"{self._root}/{key}"
        if not self._local:
            # Object stores show an object once it is complete; elsewhere its checksum reveals an incomplete one.
            self._fs.pipe_file(path, content)
            return
        # A unique name, so that two writers of one file do not interfere.
        partial = f"{path}.{uuid.uuid4().hex}{_PARTIAL}"
        try:
            with _created(partial) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise

    def remove(self, keys: Iterable[str]) -> None:
        """Remove files, if they exist, in this order, and folders that become empty."""
        folders = set()
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._root}/{key}")
            folders.update(str(folder) for folder in PurePosixPath(key).parents[:-1])
        # Subfolders come first; a folder that is not empty stays.
        for folder in sorted(folders, key=len, reverse=True) if self._local else ():
            with contextlib.suppress(OSError):
                os.rmdir(f"{self._root}/{folder}")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the store, so that no other build writes there; object stores have no locks, and are not locked.

        Raises
        ------
        InUseError
            If another build holds the lock.
        """
        with exclusive(self._root) if self._local else contextlib.nullcontext():
            yield

    def remove_partial(self) -> None:
        """Remove temporary files of killed writers."""
        self.remove([key for key in self.sizes() if key.endswith(_PARTIAL)])

    def zarr(self) -> Any:
        """Return Zarr's view of the files, for reading."""
        import zarr.storage

        if self._local:
            return zarr.storage.LocalStore(self._root, read_only=True)
        return zarr.storage.FsspecStore.from_url(self.url, read_only=True)


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def require(*libraries: str) -> None:
    """Raise a ValueError if libraries of the extra `ensemble` are not installed."""
    if missing := [library for library in libraries if find_spec(library) is None]:
        raise ValueError(
            f"databases need {' and '.join(missing)}, which are not installed; pip install 'tumorjax[ensemble]'"
        )


def _created(path: str) -> BinaryIO:
    """Return a new file, open for writing, in a folder that is made where there is none."""
    for _ in range(_ATTEMPTS):
        # Meanwhile another thread may remove the folder, or one around it, which is still empty.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            return open(path, "wb")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return open(path, "wb")
