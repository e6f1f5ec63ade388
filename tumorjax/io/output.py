"""Folders of results: written atomically, by one run at a time, without harm to files that are there already."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tumorjax.io.errors import InputError, fail
from tumorjax.io.replacing import CHANGING, NEW, PARTIAL, replace_files, undo
from tumorjax.storage import DISK_ERRORS, InUseError, exclusive, sha256
from tumorjax.storage.locks import release, taken
from tumorjax.text import printable

WRITTEN = "all results were written"
"""Note of an interrupt that came too late to prevent the results."""

_CHECKSUMS = "SHA256SUMS"


@contextmanager
def output_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder whose files move to `path` when the block ends without an error.

    If the block raises, its files are removed and `path` is unchanged. An interrupt that comes when the files are in
    place already has the note `WRITTEN`. A new folder appears in one rename. In an
    existing folder, either all files are replaced or none: files of an earlier run that this one did not write are
    removed, and all other files stay. If one of these has the name of a result, it is renamed with `.kept` appended.
    `SHA256SUMS` in the folder lists the files that a run wrote. Meanwhile, other runs into the folder are refused.

    A killed run leaves at most a hidden folder, which the next run into the same folder removes. If it was killed while
    it replaced files, it leaves a folder without `SHA256SUMS`, which the next run, or `settle`, restores.

    Parameters
    ----------
    path
        The folder of the results; missing parent folders are made.
    overwrite
        Permit a folder that is not empty.

    Raises
    ------
    InputError
        If the folder is not empty and `overwrite` is false, or it cannot be written to.
    InUseError
        If another run writes there.
    """
    path, entered, sums = _place(path), False, None
    try:
        with exclusive(path), _staging(path, overwrite) as staging:
            entered = True
            yield staging / NEW
            sums = _summed(staging / NEW)
            _publish(staging, path, overwrite)
    except KeyboardInterrupt as interrupt:
        # It may come when the files are in place already, and only the temporary folder is left to be removed.
        if sums is not None and _complete(path, sums):
            interrupt.add_note(WRITTEN)
        raise
    except OSError as error:
        # The error of a full or failing disk names no file.
        if not entered or (error.filename is None and error.errno in DISK_ERRORS):
            raise InputError(
                f"output {printable(path)}: cannot be written ({error.strerror}); give a folder with write permission "
                "and free space"
            ) from error
        raise


def settle(path: str | Path) -> None:
    """Restore a folder of results if a run was killed while it replaced files there.

    Call this before reading results. Other leftovers of killed runs are removed.

    Raises
    ------
    InUseError
        If a run is at work there.
    OSError
        If the files cannot be restored.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir() and any(name == CHANGING or name.startswith(PARTIAL) for name in os.listdir(path)):
        with exclusive(path):
            sweep(path)
            undo(path)


def _place(path: str | Path) -> Path:
    # Unlike `Path.resolve`, this does not raise an error for circular links.
    path = Path(os.path.realpath(path))
    if path.is_symlink():
        fail("output", path, "is a broken symbolic link; remove it or give another folder")
    if os.path.lexists(path) and not path.is_dir():
        fail("output", path, "is a file; give a folder")
    return path


@contextmanager
def _staging(path: Path, overwrite: bool) -> Iterator[Path]:
    """Yield the temporary folder, locked so that no other run takes it for a leftover; it is removed at the end."""
    sweep(path)
    undo(path)
    _check_free(path, overwrite)
    # Put it inside an existing folder, because that may be a mount point, which cannot be renamed.
    home = path if path.is_dir() else next(folder for folder in path.parents if folder.is_dir())
    staging = home / f"{PARTIAL}{uuid.uuid4().hex[:8]}"
    staging.mkdir()
    descriptor = taken(staging, staging, wait=False)
    try:
        (staging / NEW).mkdir()
        yield staging
    finally:
        try:
            shutil.rmtree(staging, ignore_errors=True)
        except KeyboardInterrupt:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        finally:
            release(descriptor, staging)


def sweep(path: Path) -> None:
    """Remove the temporary folders that killed runs into a folder have left; those in use stay."""
    for home in (path, *path.parents):
        if not home.is_dir():
            continue
        for left in home.glob(f"{PARTIAL}*"):
            with suppress(OSError, InUseError):
                # Where locks do not work, a folder may be in use, so it is not removed.
                if not left.is_symlink() and left.is_dir() and (descriptor := taken(left, left, wait=False)):
                    shutil.rmtree(left, ignore_errors=True)
                    release(descriptor, left)
        if home != path:
            return


def _check_free(path: Path, overwrite: bool) -> None:
    if path.is_dir() and not overwrite and any(not name.startswith(PARTIAL) for name in os.listdir(path)):
        fail("output", path, "is not empty; give another folder or permit overwriting")


def _files(new: Path) -> list[str]:
    return sorted(p.relative_to(new).as_posix() for p in new.rglob("*") if not p.is_dir())


def _summed(new: Path) -> str:
    """Write the list of checksums beside the new files, and return it."""
    sums = "".join(f"{sha256(new / name)}  {name}\n" for name in _files(new))
    (new / _CHECKSUMS).write_text(sums, encoding="utf-8", errors="surrogateescape")
    return sums


def _complete(path: Path, sums: str) -> bool:
    """Return whether a folder holds the results with these checksums, and no other run's beside them."""
    with suppress(OSError):
        kept = (path / _CHECKSUMS).read_text(encoding="utf-8", errors="surrogateescape")
        return kept == sums and not os.path.lexists(path / CHANGING)
    return False


def _publish(staging: Path, path: Path, overwrite: bool) -> None:
    new = staging / NEW
    written = [name for name in _files(new) if name != _CHECKSUMS]
    if staging.parent == path:
        # Other programs, which take no lock, may have put files here.
        _check_free(path, overwrite)
        replace_files(staging, path, [*written, _CHECKSUMS], _written_before(path))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # If another program has made a folder meanwhile, this succeeds only where that is empty.
        os.rename(new, path)
    except OSError as error:
        if not os.path.lexists(path):
            raise
        fail("output", path, f"was made by another program meanwhile ({error.strerror}); give another folder")


def _written_before(path: Path) -> set[str]:
    """Return the files of an earlier run that are still as it wrote them."""
    sums = path / _CHECKSUMS
    if sums.is_symlink() or not sums.is_file():
        return set()
    ours = {_CHECKSUMS}
    for line in sums.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        digest, _, name = line.partition("  ")
        file = path / name
        with suppress(OSError, ValueError):
            # A manipulated list or a link must not reach outside the folder; a result that a user edited is kept.
            inside = file.is_relative_to(path) and os.path.normpath(file) == os.path.realpath(file) == str(file)
            if inside and file.is_file() and sha256(file) == digest:
                ours.add(name)
    return ours
