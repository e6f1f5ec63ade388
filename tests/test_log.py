"""The log: silent unless it is configured, the same news as the callbacks, and a file of the command."""

import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tumorjax.cli.log import log_in
from tumorjax.cli.main import main
from tumorjax.progress import logged, silent
from tumorjax.results import Stopwatch


def test_the_package_configures_no_log():
    program = (
        "import logging, tumorjax\n"
        "logging.getLogger('tumorjax.pipeline').error('nobody hears this')\n"
        "assert not logging.getLogger().handlers and logging.getLogger('tumorjax').level == logging.NOTSET"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_a_callback_and_the_log_hear_the_same(caplog):
    told = []
    log = logging.getLogger("tumorjax.test")
    with caplog.at_level(logging.DEBUG, logger="tumorjax"):
        hear = logged(lambda *news: told.append(news), log)
        hear("reading", None)
        hear("search", 0.0, math.nan)
        hear("search", 0.5, -12.25)
        hear("maps", 1.0)
    assert told[:2] == [("reading", None), ("search", 0.0, pytest.approx(math.nan, nan_ok=True))]
    assert told[2:] == [("search", 0.5, -12.25), ("maps", 1.0)]
    stages = [each.message for each in caplog.records if each.levelno == logging.INFO]
    assert stages == ["reading", "search", "maps"]
    details = [each.message for each in caplog.records if each.levelno == logging.DEBUG]
    assert details == ["search: 0 %", "search: 50 %, objective -12.25", "maps: 100 %"]
    logged(silent, log)("search", 0.5, 1.0)


def test_a_stopwatch_logs_its_stages(caplog):
    with caplog.at_level(logging.INFO, logger="tumorjax"), Stopwatch()("images"):
        pass
    assert caplog.messages == ["images: 0.0 s"]


def test_the_command_appends_to_a_file(tmp_path, capsys):
    file = tmp_path / "log.txt"
    log = logging.getLogger("tumorjax")
    before = log.level, list(log.handlers)
    for _ in range(2):
        # It fails on its first check, before any work.
        assert main(["simulate", "--diffusivity=0.1", "--proliferation=0.02", "--duration=9", "--origin", "0", "0", "0",
                     f"--out={tmp_path / 'out'}", "--resolution=99", f"--log-file={file}"]) == 2  # fmt: skip
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4
    assert " INFO    tumorjax: tumorjax " in lines[0] and "--resolution=99" in lines[0]
    assert " ERROR   tumorjax: InputError: resolution: got 99 mm" in lines[1]
    assert (log.level, log.handlers) == before
    with log_in(file, "line\nbreak"):
        pass
    assert "line break" in file.read_text(encoding="utf-8").splitlines()[4]
    capsys.readouterr()
    assert main(["demo", f"--out={tmp_path / 'out'}", f"--log-file={tmp_path / 'none' / 'log.txt'}"]) == 2
    assert "log.txt cannot be written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_is_appended_to_a_file_that_is_no_log(tmp_path, capsys):
    image = tmp_path / "segmentation.nii"
    image.write_bytes(bytes(400))
    assert main(["demo", f"--out={tmp_path / 'out'}", f"--log-file={image}"]) == 2
    assert "segmentation.nii is there already, and no log of tumorjax; give another file" in capsys.readouterr().err
    assert image.read_bytes() == bytes(400)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
def test_the_work_goes_on_where_the_log_cannot_be_written(capsys):
    done = []
    with log_in(Path("/dev/full"), "command"):
        logging.getLogger("tumorjax.test").info("more")
        done.append(True)
    said = capsys.readouterr().err
    assert done and said.count("\n") == 1 and "/dev/full cannot be written; the log ends here" in said
