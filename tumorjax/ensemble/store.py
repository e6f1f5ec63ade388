"""What a database is on disk: a Zarr store, and a manifest of what is finished.

A file that Zarr does not find it takes for one full of zeros. So only what the manifest lists is there: each shard's
entry is written after its files, and the entries are joined in one file once there are all.
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
"""The SHA-256 and the size (bytes) of each of some files."""

_ROOT, _MANIFEST, _ENTRIES = "zarr.json", "manifest.json", "manifest/"
_OURS = ("density/", "parameters/", "coordinates/", "rejected/", "anatomy/", _ENTRIES)
# Larger ones are not ours: descriptions take a few kilobytes, and voxels come from an atlas.
_LONGEST_ROOT, _MOST_VOXELS = 2**22, 2**27
# What Zarr and a recipe raise of a store that somebody has forged, checksums and all.
_FORGED = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RuntimeError, OSError)


class DamagedError(ValueError):
    """A file of a database is not as it was written; the message is one line: which, and what to do."""


def attributes(recipe: Recipe) -> dict[str, Any]:
    """Return what the store says of itself."""
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
    """Return the files that are no shard's: metadata and the anatomy. The root comes first."""
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
    """Return the files of a shard: those that Zarr would write for its rows."""
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
    """Return what a store says of itself; a ValueError if it is none, or of another format."""
    wrong = f"{files.url} is no database of tumours"
    if _ROOT not in sizes:
        raise ValueError(f"{wrong}; build one there, or give its folder or URL")
    try:
        if sizes[_ROOT] > _LONGEST_ROOT:
            raise ValueError(f"{_ROOT} has {sizes[_ROOT]} bytes")
        found = parsed(files.read(_ROOT))["attributes"]
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']!r:.40}")
        if found["version"] != VERSION:
            raise ValueError(f"it has version {found['version']!r:.40} of the format, this package reads {VERSION}")
        if not isinstance(found["recipe"], dict) or fingerprint(found["recipe"]) != found["fingerprint"]:
            raise ValueError("its description is damaged")
        if type(found["shards"]) is not int:
            raise ValueError(f"it has {found['shards']!r:.40} shards")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"{_ROOT} lacks {error}" if isinstance(error, KeyError) else error
        raise DamagedError(
            f"{wrong} that can be read: {reason}; build it again with the settings that it had"
        ) from None
    return found


def is_of(files: Files, sizes: dict[str, int], of: str) -> bool:
    """Return whether a store whose description is damaged has a fingerprint, as its manifest says."""
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
    """Return the arrays of a store, to be read, if they are those of its recipe."""
    import zarr

    try:
        group, arrays = zarr.open_group(store=files.zarr(), mode="r"), {}
        for name, layout in expected(recipe).items():
            found: Any = group.get(name)
            there = {key: getattr(found, key, None) for key in layout} | {"dtype": str(getattr(found, "dtype", None))}
            if there != layout:
                raise ValueError(f"its array {name} is {there}, its recipe says {layout}")
            arrays[name] = found
    except _FORGED as error:
        raise ValueError(f"the database {files.url} cannot be used: {' '.join(str(error).split())}") from None
    return arrays


def write_common(files: Files, recipe: Recipe) -> None:
    """Write the files that are no shard's, unless they are there already."""
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
    """Return the entries of the shards that were finished with a fingerprint; and those of common files, if all were.

    Entries of shards that were made anew since all were finished take the place of the old ones.

    Raises
    ------
    DamagedError
        If the manifest is not as it was written, unless `damaged_too`: then it counts for nothing.
    """
    shards, common = {}, None
    if _MANIFEST in sizes:
        whole = _contents(files, _MANIFEST)
        if not isinstance(whole.get("shards"), list) and not damaged_too:
            raise DamagedError(
                f"{_MANIFEST} of the database {files.url} is damaged, which holds the checksums of all others; put a "
                "copy of it there, or build with the same settings and --repair (repair=True), which makes all shards "
                "anew"
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
    """Join the entries of all shards, and remove what the finished store does not have."""
    common = _entry(common_files(recipe))
    whole = {"fingerprint": recipe.fingerprint, "common": common, "shards": [shards[i] for i in range(recipe.shards)]}
    content, sizes = sealed(whole), files.sizes()
    if sizes.get(_MANIFEST) != len(content) or files.read(_MANIFEST) != content:
        files.write(_MANIFEST, content)
    files.remove([key for key in sizes if key.startswith(_ENTRIES)])
    files.remove_partial()


def erase(files: Files) -> None:
    """Remove a database; the manifest first, so that none is ever taken for whole."""
    sizes = files.sizes()
    files.remove([_MANIFEST, *(key for key in sizes if key.startswith(_OURS)), _ROOT])
    files.remove_partial()


def in_full_length(recipe: Recipe, sizes: dict[str, int], index: int, entry: Entry) -> bool:
    """Return whether the files of a shard are there in full length, and hold as many tumours as the recipe says.

    Parameters are not compressed: so no number of a recipe takes more memory than there are bytes on the disk.
    """
    _, found = entry[key_of("parameters", index)]
    wanted = 4 * recipe.shard_length * len(recipe.names)
    return found == wanted and all(sizes.get(key) == size for key, (_, size) in entry.items())


def intact(files: Files, sizes: dict[str, int], entry: Entry) -> bool:
    """Return whether files are there, and their checksums agree."""
    return all(sizes.get(key) == size and checksum(files.read(key)) == digest for key, (digest, size) in entry.items())


def check(files: Files, shards: dict[int, Entry], keys: Iterable[str]) -> None:
    """Raise a DamagedError where files of shards are not what the manifest says."""
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
    """Return the shards whose files are not what the manifest says; `deep` compares their checksums, too."""
    sizes = files.sizes()

    def good(index: int) -> bool:
        entry = shards[index]
        return in_full_length(recipe, sizes, index, entry) and (not deep or intact(files, sizes, entry))

    with ThreadPoolExecutor() as pool:
        return sorted(index for index, whole in zip(shards, pool.map(good, shards), strict=True) if not whole)


def _arrays(kept: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Create group and arrays in a store of memory, whose files are then in `kept`."""
    import zarr
    import zarr.storage

    group = zarr.create_group(store=zarr.storage.MemoryStore(kept), attributes=attributes(recipe))
    arrays: dict[str, Any] = {"group": group}
    for name, layout in expected(recipe).items():
        # A row of zeros must not be taken for one that need not be written.
        fill = 0 if name == "density" else -1
        compressors = _zstd() if name == "density" else None
        arrays[name] = group.create_array(name, **layout, compressors=compressors, fill_value=fill)
    return arrays


def _zstd() -> Any:
    from zarr.codecs import ZstdCodec

    return ZstdCodec(level=5)


def key_of(name: str, index: int) -> str:
    """Return the file of an array that holds the rows of a shard."""
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
    """Return what a file of the manifest says; nothing where it is damaged.

    Those of version 0.1 have no checksum of their own: damage makes them differ from the files that they list.
    """
    try:
        return unsealed(files.read(key), old=True)
    except (ValueError, FileNotFoundError):
        return {}
