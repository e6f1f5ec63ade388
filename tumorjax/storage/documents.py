"""JSON with a checksum of its own, and JSON that others may have written."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Descriptions take kilobytes, and lists of the files of a large database some megabytes.
_LONGEST = 2**28
_DIGEST = "sha256"


def sealed(contents: Mapping[str, Any]) -> bytes:
    """Return contents as JSON with their checksum, the same bytes for the same contents; `unsealed` reads them."""
    # As they will be read: a tuple is a list there.
    contents = json.loads(json.dumps(contents))
    return (json.dumps({_DIGEST: _digest(contents), **contents}, indent=1, sort_keys=True) + "\n").encode()


def unsealed(content: bytes | str, *, old: bool = False) -> dict[str, Any]:
    """Return what was sealed.

    Parameters
    ----------
    content
        From `sealed`.
    old
        Accept contents without a checksum, as versions before 0.2 wrote some.

    Raises
    ------
    ValueError
        If it is no JSON object, or not as it was written.
    """
    contents = parsed(content)
    if not isinstance(contents, dict):
        raise ValueError("it is no JSON object")
    if _DIGEST not in contents:
        if not old:
            raise ValueError("it has no checksum")
        return contents
    if contents.pop(_DIGEST) != _digest(contents):
        raise ValueError("it is not as it was written")
    return contents


def parsed(content: bytes | str) -> Any:
    """Return what JSON says, whoever wrote it.

    Raises
    ------
    ValueError
        If it is no JSON, longer than any of ours, or nested so deeply that it cannot be read.
    """
    if len(content) > _LONGEST:
        raise ValueError(f"it has {len(content)} bytes, more than {_LONGEST}")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def canonical(contents: Mapping[str, Any]) -> bytes:
    """Return the one JSON text of contents, of which a checksum can be taken."""
    try:
        return json.dumps(contents, sort_keys=True).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _digest(contents: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(contents)).hexdigest()
