"""Replacing either all files of a folder or none: the old ones are kept aside until the new ones are in place."""

import json
import os
import shutil
import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

CHANGING = ".changing"
"""Name of the folder for files that are kept aside; while it exists, the files beside it are a mixture of both runs."""

PARTIAL = ".partial-results-"
"""Prefix of the names of temporary folders."""
NEW = "new"
"""Name of the folder for the new files inside a temporary folder."""

_MOVED = "moved.json"
_OLD = "old"


def replace_files(staging: Path, path: Path, written: Sequence[str], ours: Collection[str]) -> None:
    """Move files into a folder, either all or none.

    If the process is killed meanwhile, the folder `CHANGING` stays, and `undo` restores everything.

    Parameters
    ----------
    staging
        A folder inside `path` whose folder `NEW` contains the files.
    path
        The folder to move the files to.
    written
        Names of the files, in the order in which they are moved. The last one marks the folder as complete, and its old
        version is moved away first.
    ours
        Files in the folder that an earlier run wrote; they are removed. Other files with the name of a new file, or of
        a folder that new files need, are renamed and kept.
    """
    changing = path / CHANGING
    names = [written[-1], *sorted(set(ours) - {written[-1]})]
    aside = [name for name in names if name in ours]
    kept = {name: _free_name(path, name) for name in _foreign(path, written, ours)}
    (staging / _OLD).mkdir()
    # The progress can be seen from where the files are; only the names have to be recorded.
    (staging / _MOVED).write_text(json.dumps({"written": list(written), "aside": aside, "kept": kept}))
    os.rename(staging, changing)
    try:
        for name in aside:
            _move(path / name, changing / _OLD / name)
        for name, other in kept.items():
            os.rename(path / name, path / other)
        for name in written:
            _move(changing / NEW / name, path / name)
        # From here on the new files are valid, and `undo` does nothing.
        os.rename(changing, staging)
    except BaseException:
        undo(path)
        raise
    for name in aside:
        _remove_empty(path, name)


def undo(path: Path) -> None:
    """Restore the files that an interrupted run kept aside; do nothing if there was no such run."""
    changing = path / CHANGING
    if changing.is_symlink() or not changing.is_dir():
        return
    try:
        moved = json.loads((changing / _MOVED).read_text())
        written, aside, kept = moved["written"], moved["aside"], dict(moved["kept"])
        for name in (*written, *aside, *kept, *kept.values()):
            if os.path.isabs(name) or ".." in Path(name).parts:
                raise ValueError(f"the name {name!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise OSError(f"{changing}: is damaged ({error}); look into it, and remove it") from None
    for name in reversed(written):
        # A file at its place is a new one, since all old ones were moved away first; it is moved back.
        if not (changing / NEW / name).exists() and (path / name).is_file():
            _move(path / name, changing / NEW / name)
        _remove_empty(path, name)
    for name, other in kept.items():
        if not os.path.lexists(path / name) and os.path.lexists(path / other):
            os.rename(path / other, path / name)
    for name in reversed(aside):
        if (changing / _OLD / name).exists():
            _move(changing / _OLD / name, path / name)
    os.rename(changing, garbage := path / f"{PARTIAL}{uuid.uuid4().hex[:8]}")
    shutil.rmtree(garbage, ignore_errors=True)


def _foreign(path: Path, written: Sequence[str], ours: Collection[str]) -> list[str]:
    """Return the files of other origin that have the name of a new file or of a folder of new files."""
    found = []
    for name in written:
        for part in reversed(Path(name).parents[:-1]):
            # A link to a folder could lead outside.
            if part.as_posix() in ours:
                break
            if (path / part).is_symlink() or (os.path.lexists(path / part) and not (path / part).is_dir()):
                found.append(part.as_posix())
                break
        else:
            if name not in ours and os.path.lexists(path / name):
                found.append(name)
    return list(dict.fromkeys(found))


def _free_name(path: Path, name: str) -> str:
    kept, count = f"{name}.kept", 1
    while os.path.lexists(path / kept):
        kept, count = f"{name}.kept{count}", count + 1
    return kept


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(source, target)


def _remove_empty(path: Path, name: str) -> None:
    """Remove the parent folders of a file that are empty."""
    with suppress(OSError):
        for parent in Path(name).parents[:-1]:
            (path / parent).rmdir()
