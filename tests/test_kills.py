"""Long commands that are killed at random moments: their files can be read, and the same command completes them."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flax")
pytest.importorskip("zarr")

ROOT = Path(__file__).resolve().parent.parent
TASKS = ("build", "index", "train", "tmcmc")


# Others, and many more kills, by hand: see tests/kills.py.
def test_what_is_killed_at_random_moments_ends_as_if_nobody_had(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "tests.kills", tmp_path, "0", "3", *TASKS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(TASKS)
