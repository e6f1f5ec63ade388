"""Benchmarks run, and leave records that a program can read."""

import datetime
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.record import Record, median_seconds, report

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def assert_complete(content):
    assert {"system", "cpu", "cores", "devices"} <= set(content["machine"])
    assert {"tumorjax", "jax", "numpy", "python"} <= set(content["versions"])
    assert datetime.datetime.fromisoformat(content["date"]).tzinfo is not None
    assert content["records"]
    for record in content["records"]:
        assert {"name", "value", "unit"} <= set(record)
        assert math.isfinite(record["value"]), record["name"]


def test_personalize_small(tmp_path):
    path = tmp_path / "records.json"
    done = run("personalize", "--size", "small", "--json", path)
    assert done.returncode == 0, done.stderr
    content = json.loads(path.read_text())
    assert_complete(content)
    assert (content["benchmark"], content["size"]) == ("personalize", "small")
    values = {record["name"]: record["value"] for record in content["records"]}
    assert {"forward_seconds", "gradient_ratio", "synthetic_dice_0.1"} <= set(values)
    assert values["forward_relative_error"] < 0.1
    assert values["synthetic_dice_0.1"] > 0.8
    assert "forward_seconds" in done.stdout
    assert [each.name for each in tmp_path.iterdir()] == ["records.json"]


def test_an_unknown_benchmark():
    done = run("unheard-of")
    assert done.returncode == 2
    assert "invalid choice: 'unheard-of'" in done.stderr


def test_records_are_written_whole(tmp_path, capsys):
    path = tmp_path / "records.json"
    report("some", "small", [Record("one", 1.5, "s", "<= 2", {"shape": [1, 2]})], path)
    content = json.loads(path.read_text())
    assert_complete(content)
    assert content["records"] == [
        {"name": "one", "value": 1.5, "unit": "s", "target": "<= 2", "details": {"shape": [1, 2]}}
    ]
    assert "one" in capsys.readouterr().out
    report("some", "small", [], None)
    assert [each.name for each in tmp_path.iterdir()] == ["records.json"]


def test_the_median_is_of_calls_after_the_first():
    calls = []
    assert median_seconds(lambda: calls.append(None), 5) >= 0
    assert len(calls) == 6


@pytest.mark.parametrize("option", ["--size=huge", "--speed"])
def test_unknown_options(option):
    assert run("personalize", option).returncode == 2
