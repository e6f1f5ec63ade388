"""The state of a sampler in a file, from which a run that was killed continues to the same draws."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tumorjax.storage import Table, exclusive, open_arrays, write_arrays

_KIND, _VERSION = "state of a sampler", 1
# How a file of version 0.1 begins, which was an archive of NumPy's.
_OLD = b"PK"

Layout = Mapping[str, tuple[str, tuple[int | str, ...]]]
"""Kind of the dtype (a letter of NumPy's) and shape of each array; a name is a length that is not known yet."""


class Checkpoint:
    """A file of named arrays that is replaced whole, with a checksum. As a context, this process alone writes it.

    Parameters
    ----------
    path
        A file; None keeps nothing.
    identity
        Trees of arrays and settings (method, target, key) that determine the run. A file of another identity is
        refused.
    layouts
        Possible kinds and shapes of the arrays; anything is accepted if there are none.
    most
        The largest values of the lengths that have names in the layouts.
    """

    def __init__(
        self,
        path: str | os.PathLike | None,
        *identity: Any,
        layouts: Sequence[Layout] = (),
        most: Mapping[str, int] | None = None,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.fingerprint = "" if path is None else fingerprint(*identity)
        self._layouts, self._most = layouts, most or {}
        self._held = ExitStack()

    def __enter__(self) -> "Checkpoint":
        if self.path is not None:
            self._held.enter_context(exclusive(self.path))
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    def load(self) -> dict[str, np.ndarray] | None:
        """Return the arrays that were saved last, or None where there is no file yet.

        Raises
        ------
        ValueError
            If the file belongs to another calibration, is damaged, or is no checkpoint.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            with open_arrays(self.path, _KIND, _VERSION) as file:
                found = file.header.get("fingerprint")
                # The arrays of another calibration may be anything.
                if found == self.fingerprint and not self._expects(file.table):
                    raise ValueError("its arrays are not those of this calibration")
                arrays = file.read()
        except (OSError, ValueError) as error:
            reason = "it is of version 0.1" if _begins_with(self.path, _OLD) else str(error)
            raise ValueError(f"{self.path} is no checkpoint of a sampler ({reason}); remove it to begin anew") from None
        if found != self.fingerprint:
            raise ValueError(
                f"{self.path} is of another calibration (other data, settings or key); "
                "give another file, or remove it to begin anew"
            )
        return arrays

    def _expects(self, table: Table) -> bool:
        return not self._layouts or any(_fits(table, layout, self._most) for layout in self._layouts)

    def save(self, **arrays: Any) -> None:
        """Replace the file by these arrays; a process that is killed meanwhile leaves the earlier file."""
        if self.path is not None:
            write_arrays(self.path, _KIND, _VERSION, {"fingerprint": self.fingerprint}, arrays)


def _fits(table: Table, layout: Layout, most: Mapping[str, int]) -> bool:
    """Return whether arrays match a layout, with one value for each name of a length."""
    if table.keys() != layout.keys():
        return False
    lengths: dict[str, int] = {}
    for name, (kind, shape) in layout.items():
        dtype, found = table[name]
        if np.dtype(dtype).kind != kind or len(found) != len(shape):
            return False
        for n, wanted in zip(found, shape, strict=True):
            if n != (lengths.setdefault(wanted, n) if isinstance(wanted, str) else wanted):
                return False
    return all(n <= most.get(name, n) for name, n in lengths.items())


def _begins_with(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False


def fingerprint(*trees: Any) -> str:
    """Return a digest of trees of arrays and settings, by their values."""
    digest = hashlib.sha256()
    leaves, structure = jax.tree.flatten(trees)
    digest.update(str(structure).encode())
    for leaf in leaves:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
            array = np.asarray(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()
