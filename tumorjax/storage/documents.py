"""JSON documents with a checksum, and safe parsing of JSON from any source."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Descriptions take kilobytes, and lists of the files of a large database some megabytes.
_LONGEST = 2**28
_DIGEST = "sha256"


def sealed(contents: Mapping[str, Any]) -> bytes:
    """Return contents as JSON with their checksum, always the same bytes for the same contents; see `unsealed`."""
    # The round trip turns tuples into lists, as they will be when read.
    contents = json.loads(json.dumps(contents))
    return (json.dumps({_DIGEST: _digest(contents), **contents}, indent=1, sort_keys=True) + "\n").encode()


def unsealed(content: bytes | str, *, old: bool = False) -> dict[str, Any]:
    """Return the contents of a document that `sealed` made, after comparing the checksum.

    Parameters
    ----------
    content
        The document.
    old
        Accept documents without a checksum, such as versions before 0.2 wrote.

    Raises
    ------
    ValueError
        If it is not a JSON object, or not as it was written.
    """
    contents = parsed(content)
    if not isinstance(contents, dict):
        raise ValueError("it is not a JSON object")
    if _DIGEST not in contents:
        if not old:
            raise ValueError("it has no checksum")
        return contents
    if contents.pop(_DIGEST) != _digest(contents):
        raise ValueError("it is not as it was written")
    return contents


def parsed(content: bytes | str) -> Any:
    """Parse JSON from any source, also an untrusted one.

    Raises
    ------
    ValueError
        If it is not JSON, longer than any file of this package, or nested so deeply that it cannot be read.
    """
    if len(content) > _LONGEST:
        raise ValueError(f"it has {len(content)} bytes, more than {_LONGEST}")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def canonical(contents: Mapping[str, Any]) -> bytes:
    """Return the canonical JSON text of contents, for their checksum."""
    try:
        return json.dumps(contents, sort_keys=True).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _digest(contents: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(contents)).hexdigest()
