"""Folders of arrays: written completely or not at all, and verified by checksums before they are used."""

import io
import os
import re
import shutil
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tumorjax.storage import exclusive, is_as_written, sealed, sha256, unsealed

_FACTS = "contents.json"
_NAME = re.compile(r"[a-z]{1,20}")
# Exceptions of NumPy and of the readers of facts on manipulated files.
_FORGED = (
    *(KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, OSError, EOFError),
    *(SyntaxError, tokenize.TokenError),
)


class DamagedFolderError(ValueError):
    """A folder of arrays is not as it was written; the message says in one line which, why, and what to do."""


@contextmanager
def new_folder(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` if the block ends without an error, and is removed if it raises.

    A killed process leaves `.NAME.partial`, which the next writer removes.

    Raises
    ------
    ValueError
        If `path` exists, and `overwrite` is false or `seal` has not closed the folder.
    InUseError
        If another process writes there.
    """
    path = Path(path).resolve()
    partial = path.with_name(f".{path.name}.partial")
    with exclusive(partial):
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists already; give another folder, or permit overwriting it")
        if path.exists() and not (path / _FACTS).is_file():
            raise ValueError(f"{path} was not written by tumorjax, since it has no {_FACTS}; give another folder")
        shutil.rmtree(partial, ignore_errors=True)
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
    """A `.npy` file that is written row by row, so that the array need not fit into memory.

    Parameters
    ----------
    path
        The new file.
    row
        Shape of a row.
    dtype
        Dtype of the array.
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
        """Append rows to the file."""
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
    """Close a folder: write a list of its arrays, with their shapes, dtypes and checksums, and further facts."""
    arrays = {}
    for file in sorted(folder.glob("*.npy")):
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        arrays[file.stem] = {"shape": array.shape, "dtype": array.dtype.str, "sha256": sha256(file)}
    (folder / _FACTS).write_bytes(sealed({"kind": kind, "facts": facts, "arrays": arrays}))


def unseal(folder: str | os.PathLike, kind: str, verify: bool = True) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the facts and the arrays of a folder; the arrays stay on the disk until they are used.

    Parameters
    ----------
    folder
        A folder that `seal` closed.
    kind
        Kind that the folder must have.
    verify
        Compare the files with their checksums, which reads each of them once per process.

    Raises
    ------
    ValueError
        If the folder is missing, of another kind, or damaged.
    """
    folder = Path(folder)
    if not (folder / _FACTS).is_file():
        raise DamagedFolderError(f"{folder} holds no {kind}, or only part of one: it has no {_FACTS}; build it")
    with usable(folder):
        try:
            contents = unsealed((folder / _FACTS).read_bytes())
        except ValueError as error:
            raise ValueError(f"{_FACTS} was changed: {error}") from None
        if contents["kind"] != kind:
            raise ValueError(f"it holds {contents['kind']!s:.60}, which this version does not read as {kind}")
        arrays = {}
        for name, listed in contents["arrays"].items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"it lists an array {name!r:.60}")
            file = folder / f"{name}.npy"
            if verify and not is_as_written(file, listed["sha256"]):
                raise ValueError(f"{file.name} is missing or was changed")
            # Memory-mapped, so that the header can be checked before memory is allocated.
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            if [list(array.shape), array.dtype.str] != [listed["shape"], listed["dtype"]]:
                raise ValueError(f"{file.name} is {array.dtype.str} {array.shape}, not as listed")
            arrays[name] = np.asarray(array)
        return dict(contents["facts"]), arrays


@contextmanager
def usable(folder: str | os.PathLike) -> Iterator[None]:
    """Turn any error about the contents of a folder into a `DamagedFolderError` of one line that names the folder."""
    try:
        yield
    except DamagedFolderError:
        raise
    except _FORGED as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise DamagedFolderError(f"{folder} cannot be used: {reason}; remove it and build it again") from None
