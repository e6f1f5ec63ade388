"""Folders of arrays: written whole or not at all, and checked before memory is taken."""

import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_FACTS = "contents.json"


@contextmanager
def new_folder(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty folder that becomes `path` when the block ends well; when it raises, nothing of it is left.

    Raises
    ------
    ValueError
        If `path` exists and `overwrite` is false, or it is no folder that `seal` has closed.
    """
    path = Path(path).resolve()
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already; give another folder, or permit overwriting it")
    if path.exists() and not (path / _FACTS).is_file():
        raise ValueError(f"{path} is not ours to overwrite: it has no {_FACTS}; give another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{uuid.uuid4().hex[:8]}")
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            path.rename(partial / ".before")
        partial.rename(path)
        shutil.rmtree(path / ".before", ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class Rows:
    """A `.npy` file that grows row by row, so that they need not fit into memory together.

    Parameters
    ----------
    path
        The new file.
    row
        Shape of a row.
    dtype
        Of the array.
    """

    def __init__(self, path: Path, row: tuple[int, ...], dtype: Any) -> None:
        self.path, self.row, self.dtype, self.count = path, row, np.dtype(dtype), 0
        self._empty = self._header()
        path.write_bytes(self._empty)

    def _header(self) -> bytes:
        stream = io.BytesIO()
        facts = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count, *self.row)}
        np.lib.format.write_array_header_1_0(stream, facts)
        return stream.getvalue()

    def append(self, rows: np.ndarray) -> None:
        """Write some more rows."""
        with self.path.open("ab") as file:
            file.write(np.ascontiguousarray(rows, self.dtype).data)
        self.count += len(rows)

    def close(self) -> None:
        """Finish the file; it is on the disk when this returns."""
        header = self._header()
        # NumPy leaves room in a header for the first axis to grow.
        if len(header) != len(self._empty):
            raise RuntimeError(f"NumPy {np.__version__} leaves no room in a header for {self.count} rows")
        with self.path.open("r+b") as file:
            file.write(header)
            os.fsync(file.fileno())


def seal(folder: Path, kind: str, **facts: Any) -> None:
    """Close a folder: list its arrays, with their shapes, dtypes and checksums, beside some facts of its own."""
    arrays = {}
    for file in sorted(folder.glob("*.npy")):
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        arrays[file.stem] = {"shape": array.shape, "dtype": array.dtype.str, "sha256": sha256(file)}
    contents = {"kind": kind, "facts": facts, "arrays": arrays}
    text = json.dumps({"sha256": _digest(contents), **contents}, indent=1)
    (folder / _FACTS).write_text(text + "\n", encoding="utf-8")


def unseal(folder: str | os.PathLike, kind: str, verify: bool = False) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the facts and the arrays of a folder, which stay on the disk until they are read.

    Parameters
    ----------
    folder
        Closed by `seal`.
    kind
        Of what it has to be.
    verify
        Also read everything, and compare it with the checksums.

    Raises
    ------
    ValueError
        If the folder is none, is of another kind, or is damaged.
    """
    folder = Path(folder)
    if not (folder / _FACTS).is_file():
        raise ValueError(f"{folder} holds no {kind}, or only part of one: it has no {_FACTS}; build it")
    try:
        contents = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        if contents.pop("sha256") != _digest(contents):
            raise ValueError(f"{_FACTS} was changed")
        if contents["kind"] != kind:
            raise ValueError(f"it holds {contents['kind']}, which this version does not read as {kind}")
        arrays = {}
        for name, listed in contents["arrays"].items():
            file = folder / f"{name}.npy"
            # Mapped, so that what a header says is compared before any of it is in memory.
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            if [list(array.shape), array.dtype.str] != [listed["shape"], listed["dtype"]]:
                raise ValueError(f"{file.name} is {array.dtype.str} {array.shape}, not as listed")
            if verify and sha256(file) != listed["sha256"]:
                raise ValueError(f"{file.name} was changed")
            arrays[name] = np.asarray(array)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder} cannot be used: {error}; build it anew") from None
    return contents["facts"], arrays


def _digest(contents: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def sha256(file: Path) -> str:
    """Return the checksum of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
