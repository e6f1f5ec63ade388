"""Alignments of atlases with patients, kept in the user's cache, so that the same images are registered once."""

import hashlib
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tumorjax import registration
from tumorjax.io import Volume
from tumorjax.quality import Note
from tumorjax.registration import RegistrationWarning, Transform
from tumorjax.registration.transform import Field
from tumorjax.storage import open_arrays, user_cache, write_arrays

# Kind and version of the files; and how many of them are kept, which are some ten megabytes each.
_KIND, _VERSION, _MOST = "alignment", 1, 20
# What of a map is no array.
_FACTS = ("measure", "before", "after", "seconds", "folds", "inverse_error", "weakened")


def kept_alignment(find: Callable[[], tuple[Transform, list[str]]], *given: Any) -> tuple[Transform, list[str]]:
    """Return a map and its notes: those in the cache, if everything given is as it was, or else what `find` returns.

    The cache is the folder `$TUMORJAX_ALIGNMENTS`, by default `tumorjax/alignments` in `$XDG_CACHE_HOME` or `~/.cache`;
    nothing is kept where the variable is empty. It holds the maps that were used last, each with a digest of everything
    that it depends on, the code of the registration among it. One that failed, or came with a warning or a note on its
    quality, is found anew each time, and so is one whose file is damaged. Where nothing can be written, none is kept.

    Parameters
    ----------
    find
        Registers the images.
    given
        What the map depends on: images, arrays, texts and numbers.
    """
    if (folder := _folder()) is None:
        return find()
    place = folder / f"{_digest(given)}.arrays"
    with suppress(ValueError, KeyError, TypeError, OSError):
        found = _read(place)
        # The oldest are removed first.
        place.touch()
        return found
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        transform, notes = find()
    for each in caught:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    warned = any(issubclass(each.category, RegistrationWarning) for each in caught)
    if not (transform.failure or warned or any(isinstance(note, Note) for note in notes)):
        with suppress(OSError):
            _write(place, transform, notes)
            _forget(place.parent)
    return transform, notes


def _folder() -> Path | None:
    if (own := os.environ.get("TUMORJAX_ALIGNMENTS")) is not None:
        return Path(own) if own else None
    return user_cache() / "alignments"


def _digest(given: Any) -> str:
    """Return a digest of images and settings, of the code of the registration, and of its libraries."""
    digest = hashlib.sha256("/".join(map(version, ("tumorjax", "numpy", "scipy", "SimpleITK"))).encode())
    sources = [*Path(registration.__file__).parent.glob("*.py"), *Path(__file__).parent.glob("*.py")]
    for file in sorted(sources):
        digest.update(file.read_bytes())
    for each in given:
        if isinstance(each, Volume):
            digest.update(repr((each.data.dtype, each.data.shape, np.asarray(each.affine).tolist())).encode())
            digest.update(np.ascontiguousarray(each.data).tobytes())
        else:
            digest.update(repr(each).encode())
    return digest.hexdigest()


def _write(place: Path, transform: Transform, notes: list[str]) -> None:
    arrays, field = {"matrix": transform.matrix}, transform.field
    if field is not None:
        arrays |= {f"field.{name}": getattr(field, name) for name in ("affine", "forward", "backward")}
    # JSON has no number for what was not measured.
    facts = {name: getattr(transform, name) for name in _FACTS if getattr(transform, name) == getattr(transform, name)}
    place.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(place, _KIND, _VERSION, {"facts": facts, "notes": [str(note) for note in notes]}, arrays)


def _read(place: Path) -> tuple[Transform, list[str]]:
    with open_arrays(place, _KIND, _VERSION) as kept:
        arrays, facts, notes = kept.read(), dict(kept.header["facts"]), list(kept.header["notes"])
    facts["inverse_error"] = tuple(facts["inverse_error"])
    field = None
    if "field.forward" in arrays:
        field = Field(*(arrays[f"field.{name}"] for name in ("affine", "forward", "backward")))
    return Transform(arrays["matrix"], field=field, **facts), notes


def _forget(folder: Path) -> None:
    """Remove the maps that were not used for longest."""
    for old in sorted(folder.glob("*.arrays"), key=lambda file: -file.stat().st_mtime)[_MOST:]:
        old.unlink(missing_ok=True)
