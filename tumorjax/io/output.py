"""Folders of results: written whole, by one run at a time, and careful with what lies there already."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tumorjax.io.errors import InputError, fail
from tumorjax.io.replacing import CHANGING, NEW, PARTIAL, replace_files, undo
from tumorjax.storage import exclusive, sha256
from tumorjax.text import printable

_CHECKSUMS = "SHA256SUMS"
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS}


@contextmanager
def output_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder whose files move to `path` when the block ends well.

    When the block raises, nothing of it is left and `path` is as it was. A new folder appears in
    one rename, which replaces nothing. In an existing one all files are replaced or none; there, files that an
    earlier run wrote and this one did not are removed, and files of any other origin stay. If one of
    those has the name of a result, it is kept under the name with `.kept` appended.
    `SHA256SUMS` in the folder lists the files that a run wrote. Other runs into the folder are refused
    meanwhile. A run that is killed leaves at most a hidden folder, which the next one into the same place removes;
    killed while it replaced files, it leaves a folder without `SHA256SUMS`, which the next one, or `settle`, puts back
    as it was before.

    Parameters
    ----------
    path
        The folder of the results; missing parents are made.
    overwrite
        Permit a folder that is not empty.

    Raises
    ------
    InputError
        If the folder is not empty and `overwrite` is false, or it cannot be written.
    InUseError
        If another run writes there.
    """
    path, entered = _place(path), False
    try:
        with exclusive(path), _staging(path, overwrite) as staging:
            entered = True
            yield staging / NEW
            _publish(staging, path, overwrite)
    except OSError as error:
        # A disk that is full, or fails, does not say which.
        if not entered or (error.filename is None and error.errno in _DISK):
            raise InputError(
                f"output {printable(path)}: cannot be written ({error.strerror}); give a folder with write permission "
                "and free space"
            ) from error
        raise


def settle(path: str | Path) -> None:
    """Put a folder of results back as it was, if a run was killed while it replaced files there.

    Who reads results calls this first. What a killed run has left besides is removed.

    Raises
    ------
    InUseError
        If a run is at work there.
    OSError
        If the files cannot be put back.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir() and any(name == CHANGING or name.startswith(PARTIAL) for name in os.listdir(path)):
        with exclusive(path):
            sweep(path)
            undo(path)


def _place(path: str | Path) -> Path:
    # Unlike `Path.resolve`, this raises nothing where links run in circles.
    path = Path(os.path.realpath(path))
    if path.is_symlink():
        fail("output", path, "is a symbolic link that leads nowhere; remove it or give another folder")
    if os.path.lexists(path) and not path.is_dir():
        fail("output", path, "is a file; give a folder")
    return path


@contextmanager
def _staging(path: Path, overwrite: bool) -> Iterator[Path]:
    """Give the temporary folder, locked, so that nobody takes it for one that was left; it is gone in the end."""
    import fcntl

    sweep(path)
    undo(path)
    _check_free(path, overwrite)
    # Inside an existing folder, which may be a mount point that cannot be renamed.
    home = path if path.is_dir() else next(folder for folder in path.parents if folder.is_dir())
    staging = home / f"{PARTIAL}{uuid.uuid4().hex[:8]}"
    staging.mkdir()
    descriptor = os.open(staging, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (staging / NEW).mkdir()
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(descriptor)


def sweep(path: Path) -> None:
    """Remove what killed runs have left where a run into a folder puts its files first; nothing that is in use."""
    import fcntl

    for home in (path, *path.parents):
        if not home.is_dir():
            continue
        for left in home.glob(f"{PARTIAL}*"):
            with suppress(OSError):
                descriptor = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
                try:
                    # Where nothing can be locked, nothing is removed either.
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left, ignore_errors=True)
                finally:
                    os.close(descriptor)
        if home != path:
            return


def _check_free(path: Path, overwrite: bool) -> None:
    if path.is_dir() and not overwrite and any(not name.startswith(PARTIAL) for name in os.listdir(path)):
        fail("output", path, "is not empty; give another folder or permit overwriting")


def _publish(staging: Path, path: Path, overwrite: bool) -> None:
    new = staging / NEW
    written = sorted(p.relative_to(new).as_posix() for p in new.rglob("*") if not p.is_dir())
    sums = "".join(f"{sha256(new / name)}  {name}\n" for name in written)
    (new / _CHECKSUMS).write_text(sums, encoding="utf-8", errors="surrogateescape")
    if staging.parent == path:
        # Others, who ask for no lock, may have put files here.
        _check_free(path, overwrite)
        replace_files(staging, path, [*written, _CHECKSUMS], _written_before(path))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Replaces an empty folder, if another program has made one meanwhile, and nothing else.
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
            # A list that was tampered with must not reach outside, nor a link; an edited result is no longer ours.
            inside = file.is_relative_to(path) and os.path.normpath(file) == os.path.realpath(file) == str(file)
            if inside and file.is_file() and sha256(file) == digest:
                ours.add(name)
    return ours
