"""The state of a calibration in a file, from which a run that was killed continues to the same draws."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from tumorjax.calibration.saving import decoded, encoded
from tumorjax.io import InputError
from tumorjax.option import Option
from tumorjax.storage import KeptArrays, Table, exclusive, open_arrays, write_arrays

CHECKPOINT = Option(
    "checkpoint",
    "keeps what is done; the same command, started again, goes on from there",
    Path,
    "FILE",
    writes=True,
)

_KIND, _VERSION = "state of a calibration", 1
# How a file of version 0.1 begins, which was an archive of NumPy's.
_OLD = b"PK"

T = TypeVar("T")
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
        with _opened(self.path) as file:
            found = file.header.get("fingerprint")
            # The arrays of another calibration may be anything.
            if found == self.fingerprint and not self._expects(file.table):
                raise ValueError("its arrays are not those of this calibration")
            arrays = file.read()
        if found != self.fingerprint:
            raise ValueError(
                f"{self.path} is of another calibration (other data, settings, key or version); "
                "give another file, or remove it to begin anew"
            )
        return arrays

    def _expects(self, table: Table) -> bool:
        return not self._layouts or any(_fits(table, layout, self._most) for layout in self._layouts)

    def save(self, **arrays: Any) -> None:
        """Replace the file by these arrays; a process that is killed meanwhile leaves the earlier file."""
        if self.path is not None:
            write_arrays(self.path, _KIND, _VERSION, {"fingerprint": self.fingerprint}, arrays)


class Stages:
    """The stages of a calibration, whose results are kept as soon as they are there.

    Parameters
    ----------
    checkpoint
        Keeps them; by default nothing is kept.

    Raises
    ------
    ValueError
        If the file of the checkpoint is of another calibration, damaged, or no checkpoint.
    """

    def __init__(self, checkpoint: Checkpoint | None = None) -> None:
        self._checkpoint = checkpoint = checkpoint or Checkpoint(None)
        # Of each: its name, the seconds that it took, and its result.
        self._kept: list[tuple[str, float, Any]] = []
        self._next = 0
        self.seconds = 0.0
        """The time that the stages took that earlier runs have finished."""
        if (arrays := checkpoint.load()) is not None:
            try:
                self._kept = decoded(json.loads(arrays.pop("stages").tobytes()), arrays)
                self.seconds = sum(seconds for _, seconds, _ in self._kept)
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
                raise ValueError(
                    f"{checkpoint.path} holds no stages of a calibration; remove it to begin anew"
                ) from None

    def __call__(self, name: str, work: Callable[[], T]) -> T:
        """Return the result of a stage: that which is kept, or else what `work` returns, which is kept.

        Stages come in the same order in every run.
        """
        number, self._next = self._next, self._next + 1
        if number < len(self._kept):
            found, _, result = self._kept[number]
            if found != name:
                raise ValueError(
                    f"{self._checkpoint.path} has the stage {found!r}, not {name!r}; remove it to begin anew"
                )
            return result
        began = time.monotonic()
        result = work()
        if self._checkpoint.path is not None:
            self._kept.append((name, time.monotonic() - began, result))
            arrays: dict[str, Any] = {}
            text = json.dumps(encoded(self._kept, "stage", arrays))
            self._checkpoint.save(stages=np.frombuffer(text.encode(), np.uint8), **arrays)
        return result

    def each(self, names: Sequence[str], work: Callable[[int], Iterator[T]]) -> list[T]:
        """Return the results of several stages: those that are kept, and the others, which are kept one by one.

        Parameters
        ----------
        names
            Of the stages, in order.
        work
            Receives how many of the results are kept, and gives the others in order, as soon as each is there.
        """
        found: list[T] = []

        def others() -> Generator[T, None, None]:
            yield from work(len(found))

        with closing(others()) as missing:
            for name in names:
                found.append(self(name, lambda: next(missing)))
        return found


@contextmanager
def stages_of(path: str | os.PathLike | None, *identity: Any) -> Iterator[Stages]:
    """Give the stages that a file keeps for a calibration of this identity, which this process alone may write."""
    with Checkpoint(path, *identity) as checkpoint:
        yield Stages(checkpoint)


def checkpoint_of(options: Mapping[str, Any]) -> str | None:
    """Return the path of the checkpoint among the options of a command; None for none.

    Raises
    ------
    InputError
        If it is a folder, lies in the folder of the results, or cannot be written.
    ValueError
        If another command writes to it; if it is there and damaged, or no checkpoint. Whether it is of this calibration
        is known when that begins.
    """
    if (given := options.get("checkpoint")) is None:
        return None
    path, out = Path(given), options.get("out")
    if out is not None and path.resolve().is_relative_to(out.resolve()):
        raise InputError(f"checkpoint: {path} lies in the folder of the results, which appears whole; give another")
    if path.is_dir():
        raise InputError(f"checkpoint: {path} is a folder; give a file")
    # The calibration may begin in an hour, and save for the first time after another.
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise InputError(f"checkpoint: nothing can be written into {folder}; give a file elsewhere")
    with exclusive(path):
        if path.exists():
            with _opened(path) as file:
                file.read()
    return str(path)


@contextmanager
def _opened(path: Path) -> Iterator[KeptArrays]:
    """Open a checkpoint; a ValueError of one line says why it cannot be used, if that is found meanwhile."""
    try:
        with open_arrays(path, _KIND, _VERSION) as file:
            yield file
    except (OSError, ValueError) as error:
        reason = "it is of version 0.1" if _begins_with(path, _OLD) else str(error)
        raise ValueError(f"{path} is no checkpoint of a calibration ({reason}); remove it to begin anew") from None


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
    """Return a digest of trees of arrays and settings, by their values, and of the version of this package."""
    digest = hashlib.sha256(version("tumorjax").encode())
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
