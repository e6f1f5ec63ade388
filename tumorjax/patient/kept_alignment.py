"""Alignments of atlases with patients, kept in the user's cache, so that the same images are registered once."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tumorjax.patient.kept import Kind, kept
from tumorjax.quality import Note
from tumorjax.registration import Transform
from tumorjax.registration.transform import Field

# What of a map is no array.
_FACTS = ("measure", "before", "after", "seconds", "folds", "inverse_error", "weakened")
_Found = tuple[Transform, list[str]]


def kept_alignment(find: Callable[[], _Found], *given: Any) -> _Found:
    """Return a map and its notes: those in the cache, if everything given is as it was, or else what `find` returns.

    A map that failed, or came with a note on its quality, is found anew each time; see `kept`.
    """
    return kept(Kind("alignment", 2, "", _encoded, _decoded), find, *given)


def _encoded(found: _Found) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    transform, notes = found
    if transform.failure or any(isinstance(note, Note) for note in notes):
        return None
    arrays, field = {"matrix": transform.matrix}, transform.field
    if field is not None:
        arrays |= {f"field.{name}": getattr(field, name) for name in ("affine", "forward", "backward")}
    # JSON has no number for what was not measured.
    facts = {name: getattr(transform, name) for name in _FACTS if getattr(transform, name) == getattr(transform, name)}
    return {"facts": facts, "notes": [str(note) for note in notes]}, arrays


def _decoded(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> _Found:
    facts, notes = dict(header["facts"]), list(header["notes"])
    facts["inverse_error"] = tuple(facts["inverse_error"])
    field = None
    if "field.forward" in arrays:
        field = Field(*(arrays[f"field.{name}"] for name in ("affine", "forward", "backward")))
    return Transform(arrays["matrix"], field=field, **facts), notes
