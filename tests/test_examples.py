"""The scripts of `examples/` run, and print what they promise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRINTED = {
    "01_simulate.py": ("derivative with respect to mu1", "mu1 = 10.0 mm"),
    "03_treatment.py": ("at diagnosis", "after treatment with 30 x 2 Gy", "the brain moves by up to"),
    "04_rat.py": ("D_w", "u_T2", "draws are worth", "day 16"),
    "02_personalize.py": ("mu1", "threshold_core", "Dice of the core"),
}


def test_every_example_is_run():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_runs(name):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        # As a user runs it, whatever the tests have set; the compilation cache is a matter of time alone.
        env={key: value for key, value in os.environ.items() if key not in ("JAX_ENABLE_X64", "PYTHONWARNINGS")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for text in PRINTED[name]:
        assert text in done.stdout
    assert "nan" not in done.stdout
