"""Named arrays in one file, with a header that describes them and a checksum of everything.

The layout is that of safetensors, which other programs can read: the length of a JSON table, the table (dtype, shape
and place of each array), and the numbers. The metadata contain this package's header: JSON with the kind of the file, a
version, further facts, and the checksum. No code in a file is ever executed. Since the table must add up to the size of
the file, reading never takes more memory than the file has bytes.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tumorjax.storage.documents import canonical, parsed
from tumorjax.storage.files import new_file

Table = dict[str, tuple[str, tuple[int, ...]]]
"""NumPy's name of the dtype, and the shape, of each array."""

# Key of this package's header in the metadata.
_HEADER = "tumorjax"
# Largest table that safetensors allows, bytes.
_LONGEST = 100_000_000
_CODES = {
    **{"BOOL": "bool", "F16": "float16", "F32": "float32", "F64": "float64"},
    **{
        f"{sign}{8 * size}": f"{name}{8 * size}"
        for sign, name in (("I", "int"), ("U", "uint"))
        for size in (1, 2, 4, 8)
    },
}
_NAMES = {name: code for code, name in _CODES.items()}


def write_arrays(
    path: str | os.PathLike, kind: str, version: int, header: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Write arrays into a file, which is replaced atomically.

    Parameters
    ----------
    path
        Path of the file.
    kind, version
        Kind of the contents and version of their layout; both must match when the file is read.
    header
        Further facts about the contents, as JSON can hold them.
    arrays
        The arrays by name.
    """
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    # The widest dtypes first, so that each array is aligned with its own width.
    order = sorted(plain, key=lambda name: (-plain[name].itemsize, name))
    listed: dict[str, Any] = {}
    end = 0
    for name in order:
        begin, end = end, end + plain[name].nbytes
        code = _NAMES[plain[name].dtype.name]
        listed[name] = {"dtype": code, "shape": plain[name].shape, "data_offsets": [begin, end]}
    facts = {"kind": kind, "version": version, **header, "arrays": _shown(_table(listed))}
    facts = json.loads(json.dumps(facts))
    facts["sha256"] = _digest(facts, plain)
    text = json.dumps({"__metadata__": {_HEADER: json.dumps(facts)}, **listed}).encode()
    text += b" " * (-len(text) % 8)
    with new_file(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(_bytes_of(plain[name]))


@dataclass(frozen=True)
class KeptArrays:
    """An open file of arrays: its header and table are known before any array is read into memory.

    Parameters
    ----------
    header
        The header of the file.
    table
        Dtype and shape of each array.
    """

    header: dict[str, Any]
    table: Table
    _file: BinaryIO
    _places: dict[str, tuple[int, int]]

    def read(self) -> dict[str, np.ndarray]:
        """Read all arrays.

        Raises
        ------
        ValueError
            If they do not agree with the checksum.
        """
        whole = np.empty(sum(end - begin for begin, end in self._places.values()), np.uint8)
        if self._file.readinto(memoryview(whole)) != whole.size:  # type: ignore[attr-defined]
            raise ValueError("it was cut short while it was read")
        found = {}
        for name, (dtype, shape) in self.table.items():
            begin, end = self._places[name]
            # Files of other programs may not be aligned; those arrays are copied.
            found[name] = np.require(whole[begin:end].view(dtype).reshape(shape), requirements="A")
        facts = {key: value for key, value in self.header.items() if key != "sha256"}
        if self.header.get("sha256") != _digest(facts, found):
            raise ValueError("its numbers are not those that were written")
        return found


@contextmanager
def open_arrays(path: str | os.PathLike, kind: str, version: int) -> Iterator[KeptArrays]:
    """Open a file that `write_arrays` wrote.

    Raises
    ------
    ValueError
        If it is damaged, cut short, of another kind or version, or not a file of this package.
    OSError
        If it cannot be read.
    """
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST):
            raise ValueError("it is not a file of arrays, or was cut short")
        try:
            listed = parsed(file.read(length))
            facts = parsed(listed.pop("__metadata__")[_HEADER])
            table = _table(listed)
            places = {name: _place(entry, *table[name]) for name, entry in listed.items()}
        except (KeyError, TypeError, AttributeError, ValueError):
            raise ValueError("it has no tumorjax header, or a damaged one") from None
        if not isinstance(facts, dict) or (facts.get("kind"), facts.get("version")) != (kind, version):
            found = (facts.get("kind"), facts.get("version")) if isinstance(facts, dict) else (None, None)
            raise ValueError(f"it is of {found[0]!s:.60}, version {found[1]!s:.20}, not {kind}, {version}")
        end = 0
        for first, last in sorted(places.values()):
            if first != end:
                raise ValueError("its table is damaged")
            end = last
        if end != size - 8 - length:
            raise ValueError("it was cut short, or is longer than its table says")
        # Weight files of version 0.1 do not repeat the table in the header; networks check it themselves.
        if facts.get("arrays", _shown(table)) != _shown(table):
            raise ValueError("its table is damaged")
        yield KeptArrays(facts, table, file, places)


def _table(listed: Mapping[str, Any]) -> Table:
    return {name: (_CODES[entry["dtype"]], tuple(entry["shape"])) for name, entry in listed.items()}


def _shown(table: Table) -> dict[str, list[Any]]:
    """Return a table in the form that JSON can hold."""
    return {name: [dtype, list(shape)] for name, (dtype, shape) in table.items()}


def _place(entry: Mapping[str, Any], dtype: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the first and last byte of an array, after checking them against its shape."""
    begin, end = entry["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)) or len(shape) > 32:
        raise ValueError("its table is damaged")
    if end - begin != math.prod(shape) * np.dtype(dtype).itemsize:
        raise ValueError("its table is damaged")
    return begin, end


def _bytes_of(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _digest(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(canonical(header))
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(_bytes_of(arrays[name]))
    return digest.hexdigest()
