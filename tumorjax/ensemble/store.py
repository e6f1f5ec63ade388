"""The layout of a database on disk: a Zarr store, and a manifest of the finished shards.

Zarr treats a missing file as one full of zeros. Therefore only shards in the manifest count as present: the entry of
each shard is written after its files, and all entries are joined in one file when the database is complete.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tumorjax.ensemble.files import Files, checksum
from tumorjax.ensemble.growing import REASONS, Shard
from tumorjax.ensemble.recipe import Recipe, fingerprint, map_arrays
from tumorjax.storage import parsed, sealed, unsealed

FORMAT = "tumorjax database"
VERSION = 1

Entry = dict[str, list]
"""The SHA-256 and the size (bytes) of each file of a shard."""

_ROOT, _MANIFEST, _ENTRIES = "zarr.json", "manifest.json", "manifest/"
_OURS = ("density/", "parameters/", "coordinates/", "rejected/", "anatomy/", _ENTRIES)
# Limits on the size of files to read: descriptions take a few kilobytes, and the voxels are those of an atlas.
_LONGEST_ROOT, _MOST_VOXELS = 2**22, 2**27
# Exceptions of Zarr and of recipes on a store that was manipulated together with its checksums.
_FORGED = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RuntimeError, OSError)


class DamagedError(ValueError):
    """A file of a database is not as it was written; the message says in one line which, and what to do."""


def attributes(recipe: Recipe) -> dict[str, Any]:
    """Return the attributes that describe the store."""
    columns = [{"name": name, "unit": unit} for name, unit in zip(recipe.names, recipe.units, strict=True)]
    return {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": recipe.fingerprint,
        "recipe": recipe.description,
        "shards": recipe.shards,
        "parameters": columns,
        "coordinates": recipe.prior.names,
        "rejected": list(REASONS),
    }


def common_files(recipe: Recipe) -> dict[str, bytes]:
    """Return the files that belong to no shard: metadata and the anatomy. The root comes first."""
    kept: dict[str, Any] = {}
    group = _arrays(kept, recipe)["group"]
    anatomy = group.create_group("anatomy")
    for name, values in map_arrays(recipe.anatomy).items():
        array = anatomy.create_array(
            name, shape=values.shape, dtype="float32", chunks=values.shape, compressors=_zstd(), fill_value=-1
        )
        array[...] = values
    content = {key: value.to_bytes() for key, value in kept.items()}
    return {_ROOT: content.pop(_ROOT), **dict(sorted(content.items()))}


def shard_files(recipe: Recipe, index: int, shard: Shard) -> dict[str, bytes]:
    """Return the files of a shard, as Zarr would write them for its rows."""
    kept: dict[str, Any] = {}
    arrays = _arrays(kept, recipe)
    rows = recipe.rows(index)
    arrays["density"][rows] = shard.densities
    arrays["parameters"][rows] = shard.parameters
    arrays["coordinates"][rows] = shard.coordinates
    arrays["rejected"][index] = shard.rejected
    return {key: kept[key].to_bytes() for key in _keys(index)}


def expected(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return shape, dtype, shards and chunks of the arrays."""
    box, n, length = recipe.anatomy.grid.shape, recipe.count, recipe.shard_length
    columns, size = len(recipe.names), recipe.prior.size
    return {
        "density": {"shape": (n, *box), "dtype": recipe.dtype, "shards": (length, *box), "chunks": (1, *box)},
        "parameters": {"shape": (n, columns), "dtype": "float32", "shards": None, "chunks": (length, columns)},
        "coordinates": {"shape": (n, size), "dtype": "float32", "shards": None, "chunks": (length, size)},
        "rejected": {"shape": (recipe.shards, 4), "dtype": "int32", "shards": None, "chunks": (1, 4)},
    }


def read_attributes(files: Files, sizes: dict[str, int]) -> dict[str, Any]:
    """Return the attributes that describe a store; a ValueError if it is not a database or has another format."""
    wrong = f"{files.url} is not a database of tumours"
    if _ROOT not in sizes:
        raise ValueError(f"{wrong}; build one there, or give its folder or URL")
    try:
        if sizes[_ROOT] > _LONGEST_ROOT:
            raise ValueError(f"{_ROOT} has {sizes[_ROOT]} bytes")
        found = parsed(files.read(_ROOT))["attributes"]
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']!r:.40}")
        if found["version"] != VERSION:
            raise ValueError(f"its format has version {found['version']!r:.40}, but this package reads {VERSION}")
        if not isinstance(found["recipe"], dict) or fingerprint(found["recipe"]) != found["fingerprint"]:
            raise ValueError("its description is damaged")
        if type(found["shards"]) is not int:
            raise ValueError(f"it has {found['shards']!r:.40} shards")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"{_ROOT} lacks {error}" if isinstance(error, KeyError) else error
        raise DamagedError(f"{wrong} that can be read: {reason}; build it again with the same settings") from None
    return found


def is_of(files: Files, sizes: dict[str, int], of: str) -> bool:
    """Return whether a store whose description is damaged has this fingerprint in its manifest."""
    keys = (key for key in sizes if key == _MANIFEST or key.startswith(_ENTRIES))
    return any(_contents(files, key).get("fingerprint") == of for key in keys)


def read_recipe(files: Files, found: dict[str, Any]) -> Recipe:
    """Return the recipe of a store with these attributes."""
    import zarr

    try:
        described = found["recipe"]["anatomy"]
        shape = tuple(described["shape"])
        voxels = int(np.prod([int(n) for n in shape], dtype=object))
        if len(shape) != 3 or not 0 < voxels < _MOST_VOXELS:
            raise ValueError(f"its grid has shape {shape}")
        group, maps = zarr.open_group(store=files.zarr(), mode="r"), {}
        for name in described["maps"]:
            array: Any = group[f"anatomy/{name}"]
            if array.shape[:3] != shape or array.shape[3:] not in ((), (6,)) or array.dtype != np.float32:
                raise ValueError(f"its map {name} has shape {array.shape} and dtype {array.dtype}")
            maps[name] = array[...]
        return Recipe.restored(found["recipe"], maps)
    except _FORGED as error:
        raise ValueError(f"the database {files.url} cannot be used: {' '.join(str(error).split())}") from None


def open_arrays(files: Files, recipe: Recipe) -> dict[str, Any]:
    """Open the arrays of a store for reading, after comparing their layout with the recipe."""
    import zarr

    try:
        group, arrays = zarr.open_group(store=files.zarr(), mode="r"), {}
        for name, layout in expected(recipe).items():
            found: Any = group.get(name)
            there = {key: getattr(found, key, None) for key in layout} | {"dtype": str(getattr(found, "dtype", None))}
            if there != layout:
                raise ValueError(f"its array {name} is {there}, but its recipe requires {layout}")
            arrays[name] = found
    except _FORGED as error:
        raise ValueError(f"the database {files.url} cannot be used: {' '.join(str(error).split())}") from None
    return arrays


def write_common(files: Files, recipe: Recipe) -> None:
    """Write the files that belong to no shard, unless they are there already."""
    sizes = files.sizes()
    for key, content in common_files(recipe).items():
        if sizes.get(key) != len(content) or files.read(key) != content:
            files.write(key, content)


def write_shard(files: Files, recipe: Recipe, index: int, shard: Shard) -> None:
    """Write a shard, and then its entry in the manifest."""
    content = shard_files(recipe, index, shard)
    files.remove([_entry_key(index)])
    for key, data in content.items():
        files.write(key, data)
    entry = {"fingerprint": recipe.fingerprint, "files": _entry(content)}
    files.write(_entry_key(index), sealed(entry))


def read_manifest(
    files: Files, sizes: dict[str, int], of: str, *, damaged_too: bool = False
) -> tuple[dict[int, Entry], Entry | None]:
    """Return the entries of the finished shards with a fingerprint; and that of common files if all are finished.

    Entries of shards that were built again after the database was complete replace the old ones.

    Raises
    ------
    DamagedError
        If the manifest is not as it was written; with `damaged_too`, a damaged manifest is ignored instead.
    """
    shards, common = {}, None
    if _MANIFEST in sizes:
        whole = _contents(files, _MANIFEST)
        if not isinstance(whole.get("shards"), list) and not damaged_too:
            raise DamagedError(
                f"{_MANIFEST} of the database {files.url}, which contains all checksums, is damaged; replace it by a "
                "copy, or build with the same settings and --repair (repair=True), which builds all shards again"
            )
        if whole.get("fingerprint") == of and isinstance(whole.get("shards"), list):
            shards, common = dict(enumerate(whole["shards"])), whole.get("common")
    for key in sizes:
        number = key.removeprefix(_ENTRIES).removesuffix(".json")
        if number.isdecimal() and (one := _contents(files, key)).get("fingerprint") == of:
            shards[int(number)] = one.get("files")
    shards = {i: entry for i, entry in shards.items() if _well_formed(entry) and set(entry) == set(_keys(i))}
    return shards, common if _well_formed(common) else None


def finish(files: Files, recipe: Recipe, shards: dict[int, Entry]) -> None:
    """Join the entries of all shards in the manifest, and remove files that a finished store does not need."""
    common = _entry(common_files(recipe))
    whole = {"fingerprint": recipe.fingerprint, "common": common, "shards": [shards[i] for i in range(recipe.shards)]}
    content, sizes = sealed(whole), files.sizes()
    if sizes.get(_MANIFEST) != len(content) or files.read(_MANIFEST) != content:
        files.write(_MANIFEST, content)
    files.remove([key for key in sizes if key.startswith(_ENTRIES)])
    files.remove_partial()


def erase(files: Files) -> None:
    """Remove a database, its manifest first, so that the remains never count as complete."""
    sizes = files.sizes()
    files.remove([_MANIFEST, *(key for key in sizes if key.startswith(_OURS)), _ROOT])
    files.remove_partial()


def in_full_length(recipe: Recipe, sizes: dict[str, int], index: int, entry: Entry) -> bool:
    """Return whether the files of a shard have their full length and contain as many tumours as the recipe requires.

    Parameters are not compressed, so a manipulated recipe cannot allocate more memory than there are bytes on the disk.
    """
    _, found = entry[key_of("parameters", index)]
    wanted = 4 * recipe.shard_length * len(recipe.names)
    return found == wanted and all(sizes.get(key) == size for key, (_, size) in entry.items())


def intact(files: Files, sizes: dict[str, int], entry: Entry) -> bool:
    """Return whether files exist and agree with their checksums."""
    return all(sizes.get(key) == size and checksum(files.read(key)) == digest for key, (digest, size) in entry.items())


def check(files: Files, shards: dict[int, Entry], keys: Iterable[str]) -> None:
    """Raise a DamagedError if files of shards differ from their checksums in the manifest."""
    listed = {key: (index, pair) for index, entry in shards.items() for key, pair in entry.items()}

    def wrong(key: str) -> str | None:
        index, (digest, _) = listed[key]
        try:
            good = checksum(files.read(key)) == digest
        except OSError:
            good = False
        return None if good else f"{key} (shard {index})"

    with ThreadPoolExecutor() as pool:
        bad = [name for name in pool.map(wrong, keys) if name is not None]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise DamagedError(
            f"{bad[0]}{more} of the database {files.url} is damaged; build it again with the same settings and "
            "--repair (repair=True)"
        )


def damaged(files: Files, recipe: Recipe, shards: dict[int, Entry], *, deep: bool) -> list[int]:
    """Return the shards whose files differ from the manifest in size or, if `deep`, in their checksums."""
    sizes = files.sizes()

    def good(index: int) -> bool:
        entry = shards[index]
        return in_full_length(recipe, sizes, index, entry) and (not deep or intact(files, sizes, entry))

    with ThreadPoolExecutor() as pool:
        return sorted(index for index, whole in zip(shards, pool.map(good, shards), strict=True) if not whole)


def _arrays(kept: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Create the group and the arrays in memory; their files appear in `kept`."""
    import zarr
    import zarr.storage

    group = zarr.create_group(store=zarr.storage.MemoryStore(kept), attributes=attributes(recipe))
    arrays: dict[str, Any] = {"group": group}
    for name, layout in expected(recipe).items():
        # Zarr does not write rows that equal the fill value, which may be zero only for densities.
        fill = 0 if name == "density" else -1
        compressors = _zstd() if name == "density" else None
        arrays[name] = group.create_array(name, **layout, compressors=compressors, fill_value=fill)
    return arrays


def _zstd() -> Any:
    from zarr.codecs import ZstdCodec

    return ZstdCodec(level=5)


def key_of(name: str, index: int) -> str:
    """Return the key of the file with the rows of a shard of an array."""
    return f"{name}/c/{index}/0/0/0" if name == "density" else f"{name}/c/{index}/0"


def _keys(index: int) -> list[str]:
    return [key_of(name, index) for name in ("density", "parameters", "coordinates", "rejected")]


def _entry_key(index: int) -> str:
    return f"{_ENTRIES}{index:08d}.json"


def _entry(content: dict[str, bytes]) -> Entry:
    return {key: [checksum(data), len(data)] for key, data in content.items()}


def _well_formed(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(pair, list) and len(pair) == 2 for pair in entry.values())


def _contents(files: Files, key: str) -> dict[str, Any]:
    """Return the contents of a file of the manifest, or nothing if it is damaged.

    Files of version 0.1 have no checksum of their own; if one is damaged, it disagrees with the files that it lists.
    """
    try:
        return unsealed(files.read(key), old=True)
    except (ValueError, FileNotFoundError):
        return {}
