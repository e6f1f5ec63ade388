"""Folders of results: written whole, and careful with what lies there already."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tumorjax.io.errors import fail
from tumorjax.storage import sha256

_CHECKSUMS = "SHA256SUMS"


@contextmanager
def output_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder whose files move to `path` when the block ends well.

    When the block raises, nothing of it is left and `path` is as it was. A new folder appears in
    one rename. In an existing one each file is replaced in one rename; there, files that an earlier
    run wrote and this one did not are removed, and files of any other origin stay. If one of
    those has the name of a result, it is kept under the name with `.kept` appended.
    The list `SHA256SUMS` in the folder tells which files a run wrote.

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
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_dir():
        fail("output", path, "is a file; give a folder")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        fail("output", path, "is not empty; give another folder or permit overwriting")
    # Inside an existing folder, which may be a mount point that cannot be renamed.
    home = path if path.is_dir() else next(folder for folder in path.parents if folder.exists())
    staging = home / f".partial-{uuid.uuid4().hex[:8]}"
    try:
        staging.mkdir()
    except OSError as error:
        fail("output", path, f"cannot be written ({error.strerror}); give a folder with write permission")
    try:
        yield staging
        written = sorted(p.relative_to(staging).as_posix() for p in staging.rglob("*") if not p.is_dir())
        sums = "".join(f"{sha256(staging / name)}  {name}\n" for name in written)
        (staging / _CHECKSUMS).write_text(sums, encoding="utf-8")
        if path.is_dir():
            _replace_files(staging, path, [*written, _CHECKSUMS])
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace_files(staging: Path, path: Path, written: list[str]) -> None:
    ours = {_CHECKSUMS} if (path / _CHECKSUMS).is_file() else set()
    for line in (path / _CHECKSUMS).read_text(encoding="utf-8").splitlines() if ours else ():
        digest, _, name = line.partition("  ")
        file = path / name
        # A list that was tampered with must not reach outside, and an edited result is no longer ours.
        inside = file.resolve().is_relative_to(path) and not file.is_symlink()
        if inside and file.is_file() and sha256(file) == digest:
            ours.add(name)
    for name in written:
        file = path / name
        if name not in ours and (file.exists() or file.is_symlink()):
            file.rename(_free_name(file))
        file.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / name, file)
    for name in ours.difference(written):
        (path / name).unlink()
        for parent in (path / name).relative_to(path).parents[:-1]:
            if not any((path / parent).iterdir()):
                (path / parent).rmdir()


def _free_name(file: Path) -> Path:
    kept, count = file.with_name(f"{file.name}.kept"), 1
    while kept.exists():
        kept, count = file.with_name(f"{file.name}.kept{count}"), count + 1
    return kept
