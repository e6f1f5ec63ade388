"""Files on disk: atomic replacement, and locks for one command at a time."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tumorjax.storage import InUseError, exclusive, new_file, open_arrays, sealed, sha256, unsealed, write_arrays

HOLDER = """
import sys, time
from tumorjax.storage import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a path in a folder that does not exist yet."""
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


# --- documents -----------------------------------------------------------------------------------------------------


def test_documents_come_back(tmp_path):
    contents = {"name": "Müller", "numbers": (1, 2.5, None), "inner": {"a": [True]}}
    assert unsealed(sealed(contents)) == contents | {"numbers": [1, 2.5, None]}
    assert unsealed(b'{"a": 1}', old=True) == {"a": 1}
    for content in (b'{"a": 1}', b"[1]", b"", b"\xff", b'{"sha256": 3, "a": 1}', b"[" * 100_000, b"1" * 5000):
        with pytest.raises(ValueError, match=r"^.+$"):
            unsealed(content)


def test_every_bit_of_a_document_counts():
    content = sealed({"step": 7, "name": "a", "scale": 0.25})
    for position, bit in itertools.product(range(len(content)), range(8)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << bit
        try:
            found = unsealed(bytes(flipped))
        except ValueError:
            continue
        # White space carries nothing.
        assert found == unsealed(content)


# --- arrays --------------------------------------------------------------------------------------------------------

ARRAYS = {
    "weights": np.linspace(-1, 1, 15, dtype=np.float32).reshape(3, 5),
    "mask": np.array([True, False, True]),
    "step": np.array(7, np.int32),
    "none": np.zeros((0, 4)),
    "halves": np.arange(3, dtype=np.float16),
    "bytes": np.arange(9, dtype=np.uint8)[::-1],
}


@pytest.fixture
def kept(tmp_path):
    """A file of arrays."""
    write_arrays(tmp_path / "kept", "a thing", 3, {"about": ["me", 1.5]}, ARRAYS)
    return tmp_path / "kept"


def read(path):
    with open_arrays(path, "a thing", 3) as file:
        arrays = file.read()
        return file.header["about"], arrays


def same(found):
    about, arrays = found
    assert about == ["me", 1.5]
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(arrays[name], array)


def test_arrays_come_back_and_others_read_them(kept):
    same(read(kept))
    assert os.listdir(kept.parent) == ["kept"]
    found = pytest.importorskip("safetensors.numpy").load_file(kept)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_bit_of_every_byte_of_a_file_of_arrays_counts(kept):
    content = kept.read_bytes()
    bits = np.random.default_rng(0).integers(8, size=len(content)).tolist()
    for position, bit in enumerate(bits):
        flipped = bytearray(content)
        flipped[position] ^= 1 << bit
        kept.write_bytes(flipped)
        try:
            found = read(kept)
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 300
        else:
            same(found)


def test_a_file_of_arrays_that_was_cut_short_is_refused(kept):
    content = kept.read_bytes()
    for length in (*range(0, len(content), 7), len(content) - 1):
        kept.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"^it .*$"):
            read(kept)
    kept.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="longer than its table"):
        read(kept)


def forged(path, entry, told=None, numbers=b""):
    """Write a file whose table has one entry."""
    told = json.dumps({"kind": "a thing", "version": 3, "about": 1} if told is None else told)
    text = json.dumps({"__metadata__": {"tumorjax": told}, "a": entry}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + numbers)


@pytest.mark.parametrize(
    "entry",
    (
        {"dtype": "F32", "shape": [10**15], "data_offsets": [0, 4 * 10**15]},
        {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [10**4000] * 3, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4]},
        {"dtype": "O", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        [],
        None,
    ),
)
def test_forged_tables_take_no_memory(tmp_path, entry):
    forged(tmp_path / "forged", entry, numbers=bytes(4))
    with pytest.raises(ValueError, match=r"^it"), open_arrays(tmp_path / "forged", "a thing", 3) as file:
        # Nothing but the checksum is wrong with the last but two.
        assert entry == {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
        file.read()


@pytest.mark.parametrize("told", ([], "text", {"kind": "other", "version": 3}, {"kind": "a thing"}, {"kind": [[]] * 9}))
def test_forged_headers_are_refused(tmp_path, told):
    forged(tmp_path / "forged", {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, told, bytes(4))
    with pytest.raises(ValueError, match=r"^it "), open_arrays(tmp_path / "forged", "a thing", 3):
        raise AssertionError


def test_headers_that_are_no_text_or_too_deep_are_refused(tmp_path):
    path = tmp_path / "forged"
    for text in (b"[" * 50_000, b"\xff" * 40, b'{"__metadata__": ' + b"[" * 50_000, b"null", b"{}"):
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        with pytest.raises(ValueError, match=r"^it "), open_arrays(path, "a thing", 3):
            raise AssertionError
    path.write_bytes((2**63).to_bytes(8, "little"))
    with pytest.raises(ValueError, match=r"^it "), open_arrays(path, "a thing", 3):
        raise AssertionError


def test_a_writer_that_is_killed_leaves_the_file_before(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    child = "import os, sys\nfrom tumorjax.storage import new_file\n"
    child += "with new_file(sys.argv[1]) as partial:\n    partial.write_text('half')\n    os.kill(os.getpid(), 9)\n"
    assert subprocess.run([sys.executable, "-c", child, path], check=False).returncode == -9
    assert (path.read_text(), sorted(os.listdir(tmp_path))) == ("old", [".file.partial", "file"])
    # The next writer takes over what was left.
    with new_file(path) as partial:
        partial.write_text("new")
    assert (path.read_text(), os.listdir(tmp_path)) == ("new", ["file"])


def test_writers_of_one_file_wait_for_each_other(tmp_path):
    path = tmp_path / "file"

    def write(number):
        with new_file(path) as partial:
            partial.write_text(f"{number} ")
            time.sleep(0.002)
            with partial.open("a") as file:
                file.write(f"{number}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    first, second = path.read_text().split()
    assert first == second
    assert os.listdir(tmp_path) == ["file"]


def test_of_many_writers_no_reader_sees_a_mixture(tmp_path):
    path, content, found, failed = tmp_path / "file", b"\0" * 500, [], []
    path.write_bytes(content * 4)

    def write(number):
        try:
            for _ in range(12):
                with new_file(path) as partial, partial.open("wb") as file:
                    for _ in range(4):
                        file.write(bytes([number]) * len(content))
                        file.flush()
        except OSError as error:
            failed.append(error)

    # Three at least: one that has renamed its file, one that waited for that, and one that comes then.
    threads = [threading.Thread(target=write, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found.append(path.read_bytes())
    assert not failed
    assert {(len(each), len(set(each))) for each in found} == {(4 * len(content), 1)}
    assert os.listdir(tmp_path) == ["file"]


def test_a_lock_does_not_follow_a_link(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".file.partial").symlink_to("precious")
    (tmp_path / ".file.lock").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic links"), new_file(tmp_path / "file") as partial:
        partial.write_text("other")
    with pytest.raises(OSError, match="symbolic links"), exclusive(tmp_path / "file"):
        raise AssertionError
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*draws.npz'"), new_file(tmp_path / "draws.npz"):
        raise OSError(28, "No space left on device")
