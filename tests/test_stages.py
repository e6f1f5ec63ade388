"""Calibrations that keep the result of each stage: a run that was killed continues to the same result."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.problems import patient
from tests.test_checkpoint import Killed
from tumorjax.calibration import calibrate
from tumorjax.io import InputError
from tumorjax.methods import LBFGS
from tumorjax.methods.checkpoint import Checkpoint, Stages, checkpoint_of, stages_of
from tumorjax.storage import InUseError

SEARCH = LBFGS(starts=2, budget=4)


def killed_at(stage, share=0.0):
    """Return a progress that ends the run when a stage has gone so far."""

    def progress(name, done, value):
        if name == stage and done >= share:
            raise Killed

    return progress


def same(first, second):
    """Check that two calibrations are bitwise equal, except for their seconds."""
    for one, two in zip(
        *(jax.tree.leaves((c.params, c.coordinates, c.covariance)) for c in (first, second)), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    assert first.histories == second.histories
    assert dataclasses.replace(first.cost, seconds=0.0) == dataclasses.replace(second.cost, seconds=0.0)


@pytest.fixture(scope="module")
def whole():
    return calibrate(patient("shares"), SEARCH)


def test_a_search_that_is_killed_goes_on_to_the_same_result(tmp_path, whole):
    path, told = tmp_path / "kept", []
    search = dataclasses.replace(SEARCH, checkpoint=str(path))
    for stage, share in (("coarse search", 0.5), ("search", 0.0), ("uncertainty", 0.0)):
        with pytest.raises(Killed):
            calibrate(patient("shares"), search, progress=killed_at(stage, share))
    found = calibrate(patient("shares"), search, progress=lambda stage, *news: told.append(stage))
    # All searches had ended.
    assert told == ["uncertainty"]
    same(found, whole)
    assert found.cost.seconds > 0
    with pytest.raises(ValueError, match="kept is of another calibration"):
        calibrate(patient("drawn"), search)
    with pytest.raises(ValueError, match="kept is of another calibration"):
        calibrate(patient("shares"), dataclasses.replace(search, budget=5))
    good = path.read_bytes()
    for content in (good[:-1], good[:300] + bytes([good[300] ^ 1]) + good[301:], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="remove it to begin anew"):
            calibrate(patient("shares"), search)


CHILD = """
import dataclasses, sys, time
import jax
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
from tests.problems import patient
from tests.test_stages import SEARCH
from tumorjax.calibration import calibrate

def progress(stage, share, value):
    if stage == "search":
        print("ready", flush=True)
        time.sleep(600)

calibrate(patient("shares"), dataclasses.replace(SEARCH, checkpoint=sys.argv[1]), progress=progress)
"""


def test_a_process_that_is_killed_goes_on_to_the_same_result(tmp_path, whole):
    path = tmp_path / "kept"
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen([sys.executable, "-c", CHILD, path], cwd=root, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        child.kill()
    assert child.returncode == -9
    told = []
    search = dataclasses.replace(SEARCH, checkpoint=str(path))
    same(calibrate(patient("shares"), search, progress=lambda stage, *news: told.append(stage)), whole)
    assert "coarse search" not in told and "search" in told


def test_stages_are_those_of_one_run_alone(tmp_path):
    path = tmp_path / "kept"
    with stages_of(path, "identity") as stages:
        assert stages("first", lambda: 1) == 1
        with pytest.raises(InUseError), stages_of(path, "identity"):
            pass
    with stages_of(path, "identity") as stages, pytest.raises(ValueError, match="has the stage 'first', not 'other'"):
        stages("other", lambda: 2)
    # Nothing is kept without a file.
    assert Stages()("first", lambda: 3) == 3


def test_of_several_stages_those_that_are_missing_are_made(tmp_path):
    path, made = tmp_path / "kept", []

    def work(first, fails=None):
        for i in range(first, 3):
            if i == fails:
                raise OSError("the disk is full")
            made.append(i)
            yield 10 * i

    names = ["first", "second", "third"]
    with stages_of(path, "identity") as stages, pytest.raises(OSError, match="full"):
        stages.each(names, lambda first: work(first, fails=2))
    with stages_of(path, "identity") as stages:
        assert stages.each(names, work) == [0, 10, 20]
        assert stages("fourth", lambda: 4) == 4
    assert made == [0, 1, 2]
    with stages_of(path, "identity") as stages:
        assert stages.each(names, work) == [0, 10, 20]
    assert made == [0, 1, 2]


def test_a_checkpoint_is_no_folder_and_outside_of_the_results(tmp_path):
    assert checkpoint_of({}) is None
    assert checkpoint_of({"checkpoint": tmp_path / "kept", "out": tmp_path / "out"}) == str(tmp_path / "kept")
    with pytest.raises(InputError, match="lies in the folder of the results"):
        checkpoint_of({"checkpoint": tmp_path / "out" / "kept", "out": tmp_path / "out"})
    with pytest.raises(InputError, match="is a folder"):
        checkpoint_of({"checkpoint": tmp_path})


def test_a_checkpoint_that_cannot_be_used_is_refused_before_the_work(tmp_path):
    kept, given = tmp_path / "kept", {"checkpoint": tmp_path / "kept"}
    with Checkpoint(kept, "identity") as checkpoint:
        checkpoint.save(numbers=np.arange(100.0))
        with pytest.raises(InUseError):
            checkpoint_of(given)
    assert checkpoint_of(given) == str(kept)
    whole = kept.read_bytes()
    for damaged in (whole[:-1], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], b""):
        kept.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"kept is no checkpoint of a calibration \(.*\); remove it to begin anew"):
            checkpoint_of(given)
    with pytest.raises(InputError, match=r"nothing can be written into .*kept; give a file elsewhere"):
        checkpoint_of({"checkpoint": kept / "below"})
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
