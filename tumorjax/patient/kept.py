"""What was found from a patient's images, kept in the user's cache, so that the same images are worked on once."""

import hashlib
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tumorjax import atlas, grid, io, operators, registration
from tumorjax.io import Volume
from tumorjax.registration import RegistrationWarning
from tumorjax.storage import open_arrays, user_cache, write_arrays

T = TypeVar("T")
_LIBRARIES = ("tumorjax", "jax", "jaxlib", "numpy", "scipy", "SimpleITK")
# How many files of a kind are kept, which are some ten megabytes each.
_MOST = 20


class Kind(NamedTuple):
    """A kind of what is kept.

    Parameters
    ----------
    name, version
        Name and version of its files.
    folder
        Folder within that of the alignments, "" for this one.
    encode
        Returns a JSON object and arrays, from which `decode` makes the result again; None for what is not kept.
    decode
        Returns the result.
    """

    name: str
    version: int
    folder: str
    encode: Callable[[Any], tuple[dict[str, Any], dict[str, np.ndarray]] | None]
    decode: Callable[[dict[str, Any], dict[str, np.ndarray]], Any]


def kept(kind: Kind, find: Callable[[], T], *given: Any) -> T:
    """Return a result: that in the cache, if everything given is as it was, or else what `find` returns.

    The cache is the folder `$TUMORJAX_ALIGNMENTS`, by default `tumorjax/alignments` in `$XDG_CACHE_HOME` or `~/.cache`;
    nothing is kept where the variable is empty. It holds the results that were used last, each with a digest of all
    that it depends on, the code of registration and segmentation among it. One that came with a warning of the
    registration is found anew each time, and so is one whose file is damaged. Where nothing can be written, none is
    kept.

    Parameters
    ----------
    kind
        What it is.
    find
        Registers or segments the images.
    given
        What the result depends on: images, arrays, texts and numbers.
    """
    if (folder := _folder()) is None:
        return find()
    place = folder / kind.folder / f"{_digest(given)}.arrays"
    with suppress(ValueError, KeyError, TypeError, OSError):
        with open_arrays(place, kind.name, kind.version) as file:
            found = kind.decode(dict(file.header), file.read())
        # The oldest are removed first.
        place.touch()
        return found
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = find()
    for each in caught:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    warned = any(issubclass(each.category, RegistrationWarning) for each in caught)
    if not warned and (content := kind.encode(result)) is not None:
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_arrays(place, kind.name, kind.version, *content)
            _forget(place.parent)
    return result


def _folder() -> Path | None:
    if (own := os.environ.get("TUMORJAX_ALIGNMENTS")) is not None:
        return Path(own) if own else None
    return user_cache() / "alignments"


def _digest(given: Any) -> str:
    """Return a digest of images and settings, of the code that works on them, and of its libraries."""
    installed = [version(each) for each in _LIBRARIES]
    with suppress(PackageNotFoundError):
        installed.append(version("antspyx"))
    digest = hashlib.sha256("/".join(installed).encode())
    packages = (registration, atlas, io, operators)
    folders = [Path(__file__).parent, *(Path(package.__path__[0]) for package in packages)]
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    for file in (*files, Path(str(grid.__file__))):
        digest.update(file.read_bytes())
    for each in given:
        if isinstance(each, Volume):
            digest.update(repr(np.asarray(each.affine).tolist()).encode())
        data = np.asarray(each.data) if isinstance(each, Volume) else each
        if isinstance(data, np.ndarray):
            # In the order in which it lies in memory, without copies.
            turned = data.flags.f_contiguous and not data.flags.c_contiguous
            digest.update(repr((data.dtype, data.shape, turned)).encode())
            digest.update((data.T if turned else np.ascontiguousarray(data)).data)
        else:
            digest.update(repr(each).encode())
    return digest.hexdigest()


def _forget(folder: Path) -> None:
    """Remove what was not used for longest."""
    for old in sorted(folder.glob("*.arrays"), key=lambda file: -file.stat().st_mtime)[_MOST:]:
        old.unlink(missing_ok=True)
