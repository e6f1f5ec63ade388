"""All files of a folder replaced, or none: old ones are put aside until the new ones are there."""

import json
import os
import shutil
import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

CHANGING = ".changing"
"""A folder of this name holds what is put aside; while it is there, the files beside it are a mixture."""

PARTIAL = ".partial-results-"
"""In front of the names of temporary folders. Those of other writers begin with less of it."""
NEW = "new"
"""The folder of the new files in a temporary folder."""

_MOVED = "moved.json"
_OLD = "old"


def replace_files(staging: Path, path: Path, written: Sequence[str], ours: Collection[str]) -> None:
    """Move files into a folder, all or none.

    Whoever is killed meanwhile leaves the folder `CHANGING`, and `undo` puts everything back.

    Parameters
    ----------
    staging
        A folder inside `path` whose folder `NEW` holds the files.
    path
        The folder.
    written
        Names of the files, in the order in which they appear; the last one marks the folder as whole, and is the first
        to go.
    ours
        Files in the folder that an earlier run wrote: they are removed. Others of the same name are kept, under another
        one; so is whatever stands where a folder has to be.
    """
    changing = path / CHANGING
    names = [written[-1], *sorted(set(ours) - {written[-1]})]
    aside = [name for name in names if name in ours]
    kept = {name: _free_name(path, name) for name in _foreign(path, written, ours)}
    (staging / _OLD).mkdir()
    # Where the files are shows what is done; only these names are to be seen nowhere else.
    (staging / _MOVED).write_text(json.dumps({"written": list(written), "aside": aside, "kept": kept}))
    os.rename(staging, changing)
    try:
        for name in aside:
            _move(path / name, changing / _OLD / name)
        for name, other in kept.items():
            os.rename(path / name, path / other)
        for name in written:
            _move(changing / NEW / name, path / name)
        # From here on the new files are those that count.
        os.rename(changing, staging)
    except BaseException:
        undo(path)
        raise
    for name in aside:
        _remove_empty(path, name)


def undo(path: Path) -> None:
    """Put back what a run that did not come to its end has put aside; nothing happens where none was at it."""
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
        # What has arrived goes again; it is the new one, since no file arrives before all old ones are put aside.
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
    """Return what stands in the way of files and of their folders, and is none of ours."""
    found = []
    for name in written:
        for part in reversed(Path(name).parents[:-1]):
            # A link to a folder would lead outside.
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
    """Remove the folders of a file in which nothing is left."""
    with suppress(OSError):
        for parent in Path(name).parents[:-1]:
            (path / parent).rmdir()
