"""Reading a finished database of simulated tumours."""

import operator
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from tumorjax.anatomy import Anatomy
from tumorjax.ensemble import store
from tumorjax.ensemble.files import Files
from tumorjax.ensemble.growing import REASONS, as_density
from tumorjax.ensemble.recipe import Recipe
from tumorjax.grid import Grid
from tumorjax.integrate import Solution, simulate

# Number of damaged shards that a message lists.
_SHOWN = 10


class Database:
    """A database of simulated tumours in one anatomy, in a folder or at a URL.

    `build_database` makes it. Opening checks that the build is finished and that no file is missing or cut short. The
    files of a shard are compared with their checksums when they are read for the first time; `verify` compares those of
    all shards.

    Parameters
    ----------
    url
        A folder, or a URL of fsspec.

    Raises
    ------
    ValueError
        If there is no database, or it has another format, is not finished, or is damaged.
    """

    def __init__(self, url: str | os.PathLike) -> None:
        self._files = files = Files(url)
        sizes = files.sizes()
        self.attributes: dict[str, Any] = store.read_attributes(files, sizes)
        shards, common = store.read_manifest(files, sizes, self.fingerprint)
        if common is None:
            raise ValueError(
                f"the database {files.url} is not finished ({len(shards)} of {self.attributes['shards']} shards); "
                "build it to the end"
            )
        if not store.intact(files, sizes, common):
            raise ValueError(
                f"the metadata of the database {files.url} are damaged; build it again with the same settings"
            )
        self.recipe: Recipe = store.read_recipe(files, self.attributes)
        # Entries beyond the number of shards in the recipe are ignored.
        self._shards = {index: entry for index, entry in shards.items() if index < self.recipe.shards}
        good = {
            index for index, entry in self._shards.items() if store.in_full_length(self.recipe, sizes, index, entry)
        }
        if len(good) < self.recipe.shards:
            bad = list(islice((index for index in range(self.recipe.shards) if index not in good), _SHOWN))
            more = self.recipe.shards - len(good) - len(bad)
            listed = ", ".join(map(str, bad)) + (f" and {more} more" if more else "")
            raise ValueError(
                f"shards of the database {files.url} are missing or cut short: {listed}; build it again with repair"
            )
        self._arrays = store.open_arrays(files, self.recipe)
        # Files that were compared with their checksums already.
        self._seen: set[str] = set()

    @classmethod
    def open(cls, url: str | os.PathLike) -> "Database":
        """Return the database in a folder or at a URL."""
        return cls(url)

    def __len__(self) -> int:
        return self.recipe.count

    def __repr__(self) -> str:
        return f"Database({self.url!r}): {len(self)} tumours, {self.recipe.dtype}, grid {self.grid.shape}"

    @property
    def url(self) -> str:
        """The URL, or the absolute path of the folder."""
        return self._files.url

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the recipe, in hexadecimal."""
        return self.attributes["fingerprint"]

    @property
    def anatomy(self) -> Anatomy:
        """The brain, on the grid of the densities; see `anatomy_hash`."""
        return self.recipe.anatomy

    @property
    def grid(self) -> Grid:
        """The grid of the densities: the box of the atlas' grid `recipe.atlas` that begins at voxel `recipe.start`."""
        return self.recipe.anatomy.grid

    @property
    def shard_length(self) -> int:
        """Number of tumours in one file; reading is fastest in blocks of this length."""
        return self.recipe.shard_length

    @property
    def stored_bytes(self) -> int:
        """Total size of the files of all shards."""
        return sum(size for entry in self._shards.values() for _, size in entry.values())

    @property
    def rejected(self) -> dict[str, int]:
        """Number of draws that were rejected, by reason."""
        counts: Int[np.ndarray, "n 4"] = self._checked("rejected", self._shards)[...]
        return dict(zip(REASONS, counts.sum(axis=0, dtype=int).tolist(), strict=True))

    @cached_property
    def table(self) -> Float[np.ndarray, "n p"]:
        """The parameters of all tumours; `recipe.names` and `recipe.units` describe the columns."""
        return self._checked("parameters", self._shards)[...]

    @cached_property
    def coordinates(self) -> Float[np.ndarray, "n d"]:
        """The coordinates of all tumours in the prior, `recipe.prior`."""
        return self._checked("coordinates", self._shards)[...]

    def density(self, index: int) -> Float[np.ndarray, "x y z"]:
        """Return the density of one tumour, (x, y, z), float32, fraction of the carrying capacity."""
        row = self._index(index)
        return as_density(self._checked("density", [row // self.shard_length])[row])

    def densities(self, rows: slice = slice(None)) -> np.ndarray:
        """Return the densities of some tumours as they are stored, (m, x, y, z); see `as_density`."""
        shards = {row // self.shard_length for row in range(*rows.indices(len(self)))}
        return self._checked("density", sorted(shards))[rows]

    def blocks(
        self, count: int | None = None, progress: Callable[[float], None] = lambda share: None
    ) -> Iterator[np.ndarray]:
        """Yield the densities of the first tumours as they are stored, one file at a time, (m, x, y, z).

        Parameters
        ----------
        count
            Number of tumours; by default all.
        progress
            Function that is called with the share that has been read.
        """
        count = len(self) if count is None else min(count, len(self))
        for begin in range(0, count, self.shard_length):
            progress(begin / count)
            yield self.densities(slice(begin, min(begin + self.shard_length, count)))
        progress(1.0)

    def parameters(self, index: int | slice) -> Any:
        """Return the model's parameters of one tumour, or of several along a leading axis."""
        return self.recipe.params(self.table[index if isinstance(index, slice) else self._index(index)])

    def grow(self, index: int) -> Solution:
        """Grow one tumour again, in single precision: what is not stored of it, such as the displacement, is there.

        Raises
        ------
        ValueError
            If the solve fails, which it did not when the database was built.
        """
        with jax.enable_x64(False):
            anatomy = jax.tree.map(jnp.asarray, self.anatomy)
            return simulate(self.recipe.model, self.parameters(index), anatomy)

    def verify(self) -> list[int]:
        """Return the shards that differ from their checksums; `build_database` with `repair` builds them again."""
        return store.damaged(self._files, self.recipe, self._shards, deep=True)

    def _index(self, index: int) -> int:
        return range(len(self))[operator.index(index)]

    def _checked(self, name: str, shards: Iterable[int]) -> Any:
        """Return an array after comparing its files for some shards with their checksums, each file only once."""
        if new := [key for index in shards if (key := store.key_of(name, index)) not in self._seen]:
            store.check(self._files, self._shards, new)
            self._seen.update(new)
        return self._arrays[name]
