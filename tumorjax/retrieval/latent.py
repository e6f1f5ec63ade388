"""The compressed queries of the paper: comparison of codes of outlines from an autoencoder.

Core and lesion are each encoded by a network of their own, and the distances between their codes are added, as in the
paper.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from tumorjax.retrieval.direct import first
from tumorjax.retrieval.folders import DamagedFolderError, Rows, seal, unseal, usable
from tumorjax.retrieval.masks import cutoffs
from tumorjax.storage import is_as_written, sha256

_KIND = "codes of outlines, version 1"
_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Latent:
    """The variant that compares codes of outlines.

    Parameters
    ----------
    kind
        "ae", "vae" or "bf-hash".
    weights
        A file that `tumorjax train autoencoder` wrote; None uses the weights of the package.
    """

    kind: str
    weights: str | os.PathLike | None = None

    def writer(
        self, folder: Path, brain: Bool[np.ndarray, "x y z"], spacing: np.ndarray, thresholds: tuple[float, float]
    ) -> "_Writer":
        """Return a writer of codes into a folder, and copy the weights of the network there for queries.

        Raises
        ------
        ValueError
            If the weights are missing, damaged, of another kind, or of another grid.
        """
        path = Path(__file__).parents[1] / "networks" / "trained" / f"{self.kind}.safetensors"
        if self.weights is not None:
            path = Path(self.weights)
        command = f"tumorjax train autoencoder --database PLACE --kind {self.kind} --out {self.kind}.safetensors"
        if not path.is_file():
            raise ValueError(f"there are no weights for {self.kind!r} at {path}; train them with {command}")
        shutil.copyfile(path, folder / _WEIGHTS)
        network = _Network(folder / _WEIGHTS, sha256(folder / _WEIGHTS))
        trained = network.model.architecture
        if (trained.kind, trained.shape) != (self.kind, brain.shape):
            raise ValueError(
                f"the weights {path} are of {trained.kind!r} on a grid {trained.shape}, not of {self.kind!r} on "
                f"{brain.shape}; train others with {command}"
            )
        return _Writer(folder, brain, thresholds, network)

    def open(self, folder: Path, verify: bool = True) -> "Codes":
        """Open the codes in a folder."""
        facts, arrays = unseal(folder, _KIND, verify)
        with usable(folder):
            rows, network = arrays["codes"], _Network(folder / _WEIGHTS, facts["weights"])
            dtype = np.uint8 if self.kind == "bf-hash" else np.float16
            if facts["network"] != self.kind or rows.ndim != 3 or rows.dtype != dtype or rows.shape[1] != 2:
                raise ValueError(f"it holds no codes of {self.kind!r}")
        if verify:
            network.check()
        return Codes(rows, network)


class _Network:
    """An autoencoder in an index, read when it is first needed, since other variants work without its library."""

    def __init__(self, path: Path, digest: str) -> None:
        self.path, self.digest = path, digest

    def check(self) -> None:
        if not is_as_written(self.path, self.digest):
            raise DamagedFolderError(f"{self.path} is missing or was changed; remove the index and build it again")

    @cached_property
    def model(self) -> Any:
        from tumorjax.networks import load_autoencoder

        self.check()
        return load_autoencoder(self.path)

    def encode(self, outlines: Bool[np.ndarray, "n 2 x y z"]) -> Shaped[np.ndarray, "n 2 d"]:
        """Return the codes as they are stored: eight bits in a byte, or half-precision numbers.

        After rounding, the code of an outline does not depend on the other outlines of the batch.
        """
        from tumorjax.networks import encode

        codes = encode(self.model, outlines)
        return np.packbits(codes, axis=-1) if codes.dtype == bool else codes.astype(np.float16)


class _Writer:
    def __init__(
        self, folder: Path, brain: Bool[np.ndarray, "x y z"], thresholds: tuple[float, float], network: _Network
    ) -> None:
        self.folder, self.brain, self.thresholds, self.network = folder, brain, thresholds, network
        self.kind = network.model.architecture.kind
        # The code of empty outlines has the shape and the dtype of every code.
        empty = network.encode(np.zeros((1, 2, *brain.shape), bool))
        self._codes = Rows(folder / "codes.npy", empty.shape[1:], empty.dtype)

    def append(self, densities: Shaped[np.ndarray, "b x y z"]) -> None:
        self._codes.append(self.network.encode(outlines(densities, self.brain, self.thresholds)))

    def close(self) -> None:
        self._codes.close()
        seal(self.folder, _KIND, network=self.kind, weights=self.network.digest)


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of the cores and lesions of n tumours.

    Parameters
    ----------
    rows
        (n, 2, d): half-precision numbers, or bits packed into bytes; the array may lie on the disk.
    network
        The network that encodes a patient's outlines.
    """

    rows: Shaped[np.ndarray, "n 2 d"]
    network: _Network

    def __len__(self) -> int:
        """Return the number of tumours."""
        return len(self.rows)

    def search(
        self, core: Bool[np.ndarray, "x y z"], lesion: Bool[np.ndarray, "x y z"], k: int
    ) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k"]]:
        """Return the k tumours at the smallest distance, nearest first, and minus these distances.

        The distance is the sum of the L2 distances of both codes; for bits, L2 is the root of the Hamming distance.
        """
        (code,) = self.network.encode(np.stack([core, lesion])[None])
        rows = self._near(code, k)
        distance = np.sqrt(_squared(self.rows[rows], code)).sum(axis=1)
        best = first(k, distance, rows)
        return rows[best], -distance[best]

    def _near(self, code: Shaped[np.ndarray, "2 d"], k: int) -> Int[np.ndarray, "m"]:
        """Return candidates that include the k nearest tumours; all tumours if faiss is not installed."""
        if self._flat is None:
            return np.arange(len(self))
        both = _as_vectors(code[None])
        squared, _ = self._flat.search(both, k)
        # A sum of two distances lies between the root of the sum of their squares and sqrt(2) times that.
        reach = 2 * float(squared.max())
        # Slightly enlarged to allow for rounding; integers are exact.
        reach = int(reach) + 1 if both.dtype == np.uint8 else 1.001 * reach + 1e-6
        return np.asarray(self._flat.range_search(both, reach)[2], int)

    @cached_property
    def _flat(self) -> Any:
        """All codes in a faiss index, in which the codes of core and lesion form one vector."""
        try:
            import faiss
        except ImportError:
            return None
        vectors = _as_vectors(self.rows)
        size = vectors.shape[1]
        index: Any = faiss.IndexBinaryFlat(8 * size) if vectors.dtype == np.uint8 else faiss.IndexFlatL2(size)
        index.add(vectors)
        return index


def outlines(
    densities: Shaped[np.ndarray, "b x y z"], brain: Bool[np.ndarray, "x y z"], thresholds: Sequence[float]
) -> Bool[np.ndarray, "b 2 x y z"]:
    """Return the outlines of core and lesion of some tumours inside the brain."""
    cuts = cutoffs(thresholds, densities.dtype)
    return np.stack([densities > cut for cut in cuts], axis=1) & brain


def _as_vectors(codes: Shaped[np.ndarray, "n 2 d"]) -> Shaped[np.ndarray, "n 2d"]:
    flat = codes.reshape(len(codes), -1)
    return np.ascontiguousarray(flat, np.uint8 if flat.dtype == np.uint8 else np.float32)


def _squared(codes: Shaped[np.ndarray, "m 2 d"], code: Shaped[np.ndarray, "2 d"]) -> Shaped[np.ndarray, "m 2"]:
    """Return squared L2 distances between codes; for bits these are Hamming distances."""
    if code.dtype == np.uint8:
        return np.bitwise_count(codes ^ code).sum(axis=-1, dtype=int)
    difference = codes.astype(np.float32) - code.astype(np.float32)
    return np.einsum("nod,nod->no", difference, difference)
