"""Kept bytes: files replaced whole, and places that one command at a time writes to."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tumorjax.storage import InUseError, exclusive, new_file, sha256

HOLDER = """
import sys, time
from tumorjax.storage import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a place in a folder that is not there yet."""
    place = tmp_path / "new" / "place"
    with subprocess.Popen([sys.executable, "-c", HOLDER, place], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        yield place, child
        child.kill()


# --- locks ---------------------------------------------------------------------------------------------------------


def test_a_place_is_held_by_one_process_and_ends_with_it(holder):
    place, child = holder
    told = rf"place: another command is at work there \(process {child.pid} on .*\); wait"
    with pytest.raises(InUseError, match=told), exclusive(place):
        raise AssertionError
    child.send_signal(signal.SIGKILL)
    child.wait()
    # The file of the lock is still there, and locks nothing.
    assert os.listdir(place.parent) == [".place.lock"]
    with exclusive(place):
        pass
    assert os.listdir(place.parent) == []


def test_nothing_is_left_of_a_lock(tmp_path):
    with exclusive(tmp_path / "a" / "b" / "place"):
        assert (tmp_path / "a" / "b").is_dir()
    assert os.listdir(tmp_path) == []
    with exclusive(tmp_path / "a" / "place"):
        (tmp_path / "a" / "place").mkdir()
    assert os.listdir(tmp_path / "a") == ["place"]
    with pytest.raises(RuntimeError), exclusive(tmp_path / "other"):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["a"]


def test_names_of_one_place_are_one_lock(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with exclusive(tmp_path / "real"), exclusive(tmp_path / "other"):
        for name in ("link", "real/../link", "real/"):
            with pytest.raises(InUseError), exclusive(os.path.join(tmp_path, name)):
                raise AssertionError


def test_a_folder_in_which_nothing_may_be_made_is_locked_itself(tmp_path, monkeypatch):
    place, opened = tmp_path / "place", os.open
    place.mkdir()

    def read_only(path, flags, *more, **others):
        if flags & os.O_CREAT:
            raise PermissionError
        return opened(path, flags, *more, **others)

    monkeypatch.setattr(os, "open", read_only)
    with exclusive(place), pytest.raises(InUseError), exclusive(place):
        raise AssertionError
    with exclusive(place):
        assert os.listdir(tmp_path) == ["place"]


def test_who_waits_comes_next(tmp_path):
    place, order = tmp_path / "place", []

    def work(number):
        with exclusive(place, wait=True):
            order.append(number)
            time.sleep(0.002)
            order.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    # Each was alone between its coming and its going.
    assert sorted(order) == sorted(2 * list(range(16)))
    assert order[::2] == order[1::2]
    assert os.listdir(tmp_path) == []


def test_a_lock_says_nothing_that_another_wrote(tmp_path):
    with exclusive(tmp_path / "place"):
        (tmp_path / ".place.lock").write_bytes(b"\x1b[31mhaha\n")
        with pytest.raises(InUseError, match="at work there; wait for it"), exclusive(tmp_path / "place"):
            raise AssertionError


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "sub" / "file"
    with new_file(path) as partial:
        partial.write_text("old")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), new_file(path) as partial:
        partial.write_text("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path / "sub") == ["file"]
    # printf old | sha256sum
    assert sha256(path) == "cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4"
