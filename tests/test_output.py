"""Folders of results: one run at a time, and either all files or none, whatever happens at any moment."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tumorjax.io import InputError, output_folder, settle
from tumorjax.storage import InUseError, sha256

OLD = {"a.txt": "old a", "sub/b.txt": "old b", "gone/c.txt": "old c"}
NEW = {"a.txt": "new a", "sub/b.txt": "new b", "d.txt": "new d"}


def write(path, results, overwrite=False):
    with output_folder(path, overwrite) as folder:
        for name, text in results.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def content(folder):
    return {name: text for name, text in files(folder).items() if name != "SHA256SUMS"}


def whole(folder):
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    return bool(lines) and all(sha256(folder / name) == digest for digest, name in (each.split("  ") for each in lines))


# --- one run ---------------------------------------------------------------------------------------------------------


def test_new_output_folder_appears_at_the_end(tmp_path):
    with output_folder(tmp_path / "deep" / "run") as folder:
        (folder / "a.txt").write_text("1")
        assert not (tmp_path / "deep" / "run").exists()
    assert set(files(tmp_path)) == {"deep/run/a.txt", "deep/run/SHA256SUMS"}
    assert (tmp_path / "deep/run/SHA256SUMS").read_text() == f"{sha256(tmp_path / 'deep/run/a.txt')}  a.txt\n"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_run_leaves_everything_as_it_was(tmp_path, error):
    write(tmp_path / "old", {"a.txt": "1"})
    before = files(tmp_path)
    for path in (tmp_path / "old", tmp_path / "new" / "run"):
        with pytest.raises(error), output_folder(path, overwrite=True) as folder:
            (folder / "a.txt").write_text("2")
            raise error
    assert files(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_overwriting_replaces_its_own_files_only(tmp_path):
    path = tmp_path / "run"
    write(path, {"a.txt": "1", "stale/b.txt": "1", "edited.txt": "1"})
    (path / "edited.txt").write_text("by hand")
    (path / "notes.txt").write_text("mine")
    (path / "c.txt").write_text("mine too")
    write(path, {"a.txt": "2", "c.txt": "2"}, overwrite=True)
    left = files(path)
    assert left.pop("SHA256SUMS").count("\n") == 2
    assert left == {
        "a.txt": "2",
        "c.txt": "2",
        "c.txt.kept": "mine too",
        "edited.txt": "by hand",
        "notes.txt": "mine",
    }
    assert not (path / "stale").exists()


def test_a_forged_list_of_files_does_not_reach_outside(tmp_path):
    (tmp_path / "precious.txt").write_text("1")
    (tmp_path / "run").mkdir()
    digest = sha256(tmp_path / "precious.txt")
    (tmp_path / "run" / "SHA256SUMS").write_text(f"{digest}  ../precious.txt\n{digest}  {tmp_path}/precious.txt\n")
    write(tmp_path / "run", {"a.txt": "1"}, overwrite=True)
    assert (tmp_path / "precious.txt").exists()


def test_output_folder_refuses(tmp_path):
    (tmp_path / "file").write_text("1")
    with pytest.raises(InputError, match="is not empty; give another folder or permit overwriting"):
        write(tmp_path, {})
    with pytest.raises(InputError, match="is a file; give a folder"):
        write(tmp_path / "file", {})
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "file" / "run", {})
    assert set(files(tmp_path)) == {"file"}


# --- two runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
def test_a_second_run_is_refused_at_once(tmp_path, there):
    out = tmp_path / "out"
    if there:
        out.mkdir()
    with output_folder(out) as folder:
        (folder / "a.txt").write_text("first")
        for overwrite in (False, True):
            with pytest.raises(InUseError, match="another command is at work there"), output_folder(out, overwrite):
                raise AssertionError
    assert content(out) == {"a.txt": "first"} and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("there", [False, True])
def test_files_that_came_meanwhile_are_not_replaced(tmp_path, there):
    # Written by a program that takes no lock.
    out = tmp_path / "out"
    if there:
        out.mkdir()
    with pytest.raises(InputError, match=r"meanwhile|not empty"), output_folder(out) as folder:
        (folder / "a.txt").write_text("mine")
        out.mkdir(exist_ok=True)
        (out / "a.txt").write_text("theirs")
    assert content(out) == {"a.txt": "theirs"} and os.listdir(out) == ["a.txt"]
    assert os.listdir(tmp_path) == ["out"]


def test_an_empty_folder_that_came_meanwhile_is_taken(tmp_path):
    out = tmp_path / "out"
    with output_folder(out) as folder:
        (folder / "a.txt").write_text("mine")
        out.mkdir()
    assert content(out) == {"a.txt": "mine"}


# --- links ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["a.txt", "sub", "SHA256SUMS"])
def test_nothing_is_written_through_a_link(tmp_path, link):
    out, outside = tmp_path / "out", tmp_path / "outside"
    write(out, OLD)
    outside.mkdir()
    for name in ("b.txt", "plain.txt"):
        (outside / name).write_text("precious")
    target = out / link
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    target.symlink_to(outside if link == "sub" else outside / "plain.txt")
    write(out, NEW, overwrite=True)
    assert content(outside) == {"b.txt": "precious", "plain.txt": "precious"}
    assert (out / f"{link}.kept").is_symlink()
    for name, text in NEW.items():
        assert (out / name).read_text() == text and not (out / name).is_symlink()
    assert whole(out)


def test_links_that_lead_nowhere_are_refused(tmp_path):
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    for path in (tmp_path / "one", tmp_path / "one" / "out"):
        with pytest.raises(InputError, match=r"output .*one"), output_folder(path):
            raise AssertionError


# --- errors in the middle ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(12))
def test_an_error_in_the_middle_leaves_the_old_files(tmp_path, monkeypatch, step):
    out = tmp_path / "out"
    write(out, OLD)
    (out / "d.txt").write_text("mine")
    before, rename, calls = content(out), os.rename, []

    def failing(source, target):
        calls.append(source)
        if len(calls) == step + 1:
            raise OSError(5, "Input/output error", str(target))
        return rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    try:
        write(out, NEW, overwrite=True)
    except (OSError, InputError):
        assert content(out) == before
    else:
        # It takes fewer steps.
        assert step >= 11 and content(out) == {**NEW, "d.txt.kept": "mine"}
    assert whole(out) and not [name for name in os.listdir(out) if name.startswith(".")]
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("named", [False, True])
def test_a_full_disk_names_the_folder(tmp_path, named):
    file = [str(tmp_path / "elsewhere")] if named else []
    message = "elsewhere" if named else r"out: cannot be written \(No space"
    with pytest.raises((InputError, OSError), match=message), output_folder(tmp_path / "out"):
        raise OSError(28, "No space left on device", *file)


# --- kills ---------------------------------------------------------------------------------------------------------

# A process that kills itself before the n-th change of the file system.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from tests.test_output import NEW, write

def counted(function):
    def call(*arguments, **named):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call

out, overwrite = Path(sys.argv[1]), sys.argv[2] == "True"
prepared = Path(sys.argv[3])
steps = 0
while True:
    shutil.rmtree(out.parent)
    shutil.copytree(prepared, out.parent)
    if not (child := os.fork()):
        left = steps
        for name in ("rename", "replace", "mkdir", "rmdir", "unlink", "open"):
            setattr(os, name, counted(getattr(os, name)))
        write(out, NEW, overwrite)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(status, flush=True)
    if sys.stdin.readline() != "on\\n":
        break
    steps += 1
"""


@pytest.mark.parametrize("before", ["nothing", "empty", "results"])
def test_whenever_a_run_is_killed_the_folder_is_as_before_or_whole(tmp_path, before):
    prepared, out = tmp_path / "prepared", tmp_path / "work" / "out"
    prepared.mkdir()
    out.parent.mkdir()
    if before == "empty":
        (prepared / "out").mkdir()
    if before == "results":
        write(prepared / "out", OLD)
        (prepared / "out" / "d.txt").write_text("mine")
    old = content(prepared / "out") if before == "results" else {}
    new = {**NEW, "d.txt.kept": "mine"} if before == "results" else NEW
    overwrite, killed = before == "results", 0
    arguments = [sys.executable, "-c", KILLED, str(out), str(overwrite), str(prepared)]
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen(arguments, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        while True:
            status = int(child.stdout.readline())
            if status == 0:
                break
            assert status == signal.SIGKILL
            killed += 1
            mixed = out.is_dir() and not (out / "SHA256SUMS").exists() and bool(content(out))
            # A reader can tell, and repairs; then the same command succeeds, unless it had done so.
            settle(out)
            found = content(out) if out.is_dir() else {}
            assert found in (old, new), (killed, mixed)
            if found == old or overwrite:
                write(out, NEW, overwrite)
            assert content(out) == new or (found == new and overwrite), killed
            assert whole(out)
            assert not [name for name in os.listdir(out) if name.startswith(".")]
            # What lies beside a folder that was whole already, the next run into it or another one removes.
            write(out.parent / "next", NEW)
            assert sorted(name for name in os.listdir(out.parent) if name != ".out.lock") == ["next", "out"]
            child.stdin.write("on\n")
            child.stdin.flush()
        child.stdin.close()
    assert killed > (20 if overwrite else 8)


def test_what_a_live_run_has_is_not_swept(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    with output_folder(one) as folder:
        (folder / "a.txt").write_text("one")
        # Its temporary folder is beside it.
        (tmp_path / ".partial-results-00000000").mkdir()
        write(two, {"b.txt": "two"})
        assert sorted(name for name in os.listdir(tmp_path) if name.startswith(".partial")) == [folder.parent.name]
    assert content(one) == {"a.txt": "one"} and sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_a_forged_journal_reaches_nothing_outside(tmp_path):
    out = tmp_path / "out"
    write(out, OLD)
    (tmp_path / "precious").write_text("1")
    for moved in ('{"written": [], "aside": [], "kept": {"x": "../precious"}}', "[" * 100_000, '{"written": 3}'):
        (out / ".changing").mkdir(exist_ok=True)
        (out / ".changing" / "moved.json").write_text(moved)
        with pytest.raises(OSError, match=re.escape(f"{out / '.changing'}: is damaged")):
            settle(out)
    assert (tmp_path / "precious").read_text() == "1" and whole(out)
