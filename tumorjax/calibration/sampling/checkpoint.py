"""Where a sampler is, kept in a file, so that what is killed goes on to the same samples."""

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Checkpoint:
    """A file of named arrays that is replaced whole.

    Parameters
    ----------
    path
        A `.npz` file; None keeps nothing.
    identity
        What the sampler is about to do: trees of arrays and settings (method, target, key). A file of another
        identity is not gone on with.
    """

    def __init__(self, path: str | os.PathLike | None, *identity: Any) -> None:
        self.path = None if path is None else Path(path)
        self.fingerprint = "" if path is None else fingerprint(*identity)

    def load(self) -> dict[str, np.ndarray] | None:
        """Return the arrays that were saved last, or None where there is no file yet.

        Raises
        ------
        ValueError
            If the file is of another calibration, or is none of ours.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = dict(stored)
            found = str(arrays.pop("fingerprint"))
        except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path} is no checkpoint of a sampler ({error}); remove it to begin anew") from None
        if found != self.fingerprint:
            raise ValueError(
                f"{self.path} is of another calibration (other data, settings or key); "
                "give another file, or remove it to begin anew"
            )
        return arrays

    def save(self, **arrays: Any) -> None:
        """Replace the file by these arrays; who is killed meanwhile leaves the one before."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        with partial.open("wb") as file:
            np.savez(file, fingerprint=np.array(self.fingerprint), **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)


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
