"""Endings of commands: by signals, with closed streams, and with names that cannot be printed or encoded."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tumorjax.cli.commands as commands
from tests.test_geometry import image, lesion, stored
from tumorjax.cli import main
from tumorjax.cli.console import Screen
from tumorjax.cli.ending import Ended, complain, exit_code, raised_signals
from tumorjax.io import InputError, output_folder, read_volume
from tumorjax.registration import load_transform
from tumorjax.text import printable

ROOT = Path(__file__).resolve().parent.parent

# --- text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Müller μ1 ≥ 0.5\tmm²\n", "Müller μ1 ≥ 0.5\tmm²\n"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("abc\u202egnp", r"abc\u202egnp"),
        (os.fsdecode(b"M\xfcller"), r"M\xfcller"),
        ("\ud800", r"\ud800"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown
    printable(text).encode("utf-8")


def code_of(command):
    try:
        return main(command)
    except SystemExit as ended:
        return ended.code


def test_names_reach_no_terminal_as_they_are(tmp_path, capsys):
    evil = tmp_path / "\x1b[2Jseg\udcfc.nii.gz"
    with pytest.raises(InputError, match=r"\\x1b\[2Jseg\\xfc\.nii\.gz: does not exist") as caught:
        read_volume(evil, name="segmentation")
    str(caught.value).encode()
    options = [f"--segmentation={evil}", f"--t1={evil}", f"--out={tmp_path / 'out'}"]
    for command in (
        ["personalize", *options],
        ["personalize", *options, "--\x1b[31m"],
        ["personalize", *options, "--resolution=\x1b[31m"],
        ["simulate", "--diffusivity", "\x1b", "--proliferation=1"],
        ["\x1b[31m"],
        ["train", "surrogate", f"--config={evil}"],
        ["personalize-cohort", str(evil), f"--out={tmp_path / 'out'}"],
        ["database", "info", str(evil)],
    ):
        assert code_of(command) == 2
        printed = capsys.readouterr()
        assert "\x1b" not in printed.out + printed.err and "\udcfc" not in printed.err, command
        assert len(printed.err.splitlines()) == 1


def test_notes_and_figures_are_shown_safely(capsys):
    screen = Screen(quiet=False, as_json=False)
    screen.note("\x1b[31mnote\udcfc")
    screen.progress("\x1b[31mstage")
    screen.results({"name": "\x1b[31m", "dice": 0.5}, "out\udcfc")
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert r"\x1b[31mnote\xfc" in printed.err and r"out\xfc" in printed.err and r"\x1b[31m" in printed.out


# --- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_cleans_up_and_gives_its_code(tmp_path, monkeypatch, capsys, name):
    number = getattr(signal, name)

    def hit(options, out, screen):
        (out / "half.txt").write_text("1")
        os.kill(os.getpid(), number)
        raise AssertionError

    monkeypatch.setattr(commands, "simulate_tumour", hit)
    growth = ["--diffusivity=0.1", "--proliferation=0.02", "--duration=10", "--origin", "0", "0", "0"]
    assert main(["simulate", *growth, f"--out={tmp_path / 'out'}"]) == 128 + number
    how = "interrupted" if name == "SIGINT" else f"ended by {name}"
    assert capsys.readouterr().err == f"tumorjax simulate: {how}; nothing was written\n"
    assert os.listdir(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("there", [False, True])
def test_a_checkpoint_is_named_if_it_has_been_written(tmp_path, monkeypatch, capsys, there):
    def hit(options):
        if there:
            options.checkpoint.write_text("1")
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(commands, "perform", hit)
    images = [f"--{kind}={tmp_path / 'image.nii.gz'}" for kind in ("segmentation", "t1")]
    assert main(["personalize", *images, f"--out={tmp_path / 'out'}", f"--checkpoint={tmp_path / 'kept'}"]) == 130
    more = f"; {tmp_path / 'kept'} keeps what is done, and the same command goes on from there" if there else ""
    assert capsys.readouterr().err == f"tumorjax personalize: interrupted; nothing was written{more}\n"


def test_an_error_of_cleaning_up_does_not_hide_the_signal(tmp_path, monkeypatch, capsys):
    def hit(options, out, screen):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            # As Python's own `rmtree` does if the signal comes between closing a descriptor and noting that.
            os.close(99999)

    monkeypatch.setattr(commands, "simulate_tumour", hit)
    growth = ["--diffusivity=0.1", "--proliferation=0.02", "--duration=10", "--origin", "0", "0", "0"]
    assert main(["simulate", *growth, f"--out={tmp_path / 'out'}"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "tumorjax simulate: ended by SIGTERM; nothing was written\n"


@pytest.mark.parametrize("there", [False, True])
def test_a_signal_that_comes_after_the_results_says_that_they_were_written(tmp_path, monkeypatch, capsys, there):
    out, remove, hits = tmp_path / "out", shutil.rmtree, []

    def written(options, out, screen):
        (out / "whole.txt").write_text("1")
        return {}

    def late(path, **options):
        if not hits:
            hits.append(path)
            os.kill(os.getpid(), signal.SIGTERM)
        remove(path, **options)

    monkeypatch.setattr(commands, "simulate_tumour", written)
    monkeypatch.setattr(shutil, "rmtree", late)
    if there:
        out.mkdir()
    growth = ["--diffusivity=0.1", "--proliferation=0.02", "--duration=10", "--origin", "0", "0", "0"]
    assert main(["simulate", *growth, f"--out={out}"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "tumorjax simulate: ended by SIGTERM; all results were written\n"
    assert set(os.listdir(out)) == {"whole.txt", "SHA256SUMS"} and set(os.listdir(tmp_path)) <= {"out", ".out.lock"}


def test_a_build_that_a_cluster_ends_says_how_it_goes_on(atlas, tmp_path, monkeypatch, capsys):
    import tumorjax.ensemble as ensemble

    monkeypatch.setattr(ensemble, "build_database", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    command = ["database", "build", str(tmp_path / "db"), "--count=8", f"--atlas={atlas}", "--resolution=8", "--quiet"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 143
    assert "tumorjax database: ended by SIGTERM; " in (said := capsys.readouterr().err) and "goes on from there" in said


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raised_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_does_not_disturb_cleaning_up(tmp_path):
    with pytest.raises(Ended) as caught, raised_signals(), output_folder(tmp_path / "out"):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
    assert exit_code(caught.value) == 143 and os.listdir(tmp_path) == []


def test_a_signal_is_not_lost_in_a_finalizer():
    class Last:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            # What a handler raises here, Python drops.
            time.sleep(0.01)

    done = []
    with pytest.raises(Ended), raised_signals():
        Last()
        done.append("finalized")
        time.sleep(10)
        done.append("to the end")
    assert done == ["finalized"]


# --- streams -------------------------------------------------------------------------------------------------------

# The command without its work, in processes that each have one unusual stream.
STREAMS = """
import os, sys
import tumorjax.cli.commands as commands
from tumorjax.cli import main
commands.simulate_tumour = lambda options, out, screen: {"cells_ml": float((out / "a.txt").write_text("1"))}

def closed():
    os.close(1)
    sys.stdout = None

def full():
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)

def read():
    os.dup2(os.open("/dev/null", os.O_RDONLY), 1)

def pipe():
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)

def deaf():
    os.close(2)
    sys.stderr = None

for case, form in ((closed, "--json"), (full, "--json"), (read, "--json"), (pipe, "--overwrite"), (deaf, "--json")):
    if not (child := os.fork()):
        case()
        sys.exit(main([*sys.argv[2:], form, f"--out={sys.argv[1]}/{case.__name__}"]))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(f"{case.__name__}: {code}", file=sys.stderr, flush=True)
"""
GROWTH = ["simulate", "--diffusivity=0.1", "--proliferation=0.02", "--duration=10", "--origin", "0", "0", "0"]


def test_streams_that_are_closed_end_in_one_line(tmp_path):
    command = [sys.executable, "-c", STREAMS, str(tmp_path), *GROWTH]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    told, said = {}, []
    for line in done.stderr.splitlines():
        name, _, code = line.partition(": ")
        if code.isdigit():
            told[name] = (int(code), said)
            said = []
        else:
            said.append(line)
    assert told["closed"] == (
        2,
        ["tumorjax simulate: error: json: standard output is closed; leave it open, or leave out --json"],
    )
    for case, reason in (("full", "No space left on device"), ("read", "Bad file descriptor"), ("pipe", "Broken pipe")):
        code, (line,) = told[case]
        start = f"tumorjax simulate: error: standard output cannot be written ({reason}); results are in "
        assert code == 2 and line.startswith(start)
        # What was done is not lost.
        assert (tmp_path / case / "a.txt").is_file()
    assert not (tmp_path / "closed").exists()
    assert told["deaf"] == (0, [])


def test_complaints_survive_a_closed_stream(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    complain("nobody hears this")


# --- numbers and files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("rate = 1e999", "argument --rate: got inf; give a finite number"),
        ("rate = nan", "argument --rate: got nan"),
        (f"steps = {10**30}", "argument --steps: got 1000000000000000000000000000000; give a number of at most 18"),
        ("steps = " + "9" * 5000, "holds no options that can be read"),
        ("steps = " + "[" * 20_000, "is nested too deeply"),
        ("steps = [[1]]", "which is no option"),
        ("steps = 1979-05-27", "which is no option"),
        ('steps = "\\u001b[31m"', r"\\x1b"),
        ("steps = {a = 1}", "which is no option"),
    ],
)
def test_configs_with_nonsense_end_in_one_line(tmp_path, capsys, config, message):
    file = tmp_path / "config.toml"
    file.write_text(config)
    command = ["train", "surrogate", f"--config={file}", f"--out={tmp_path / 'w'}", "--database=x", "--atlas=icbm152"]
    code = code_of(command)
    printed = capsys.readouterr().err
    assert code == 2 and len(printed.splitlines()) == 1
    assert message.replace("\\\\", "\\") in printed


def test_links_in_circles_end_in_one_line(tmp_path, capsys):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    seg = stored(tmp_path / "seg.nii.gz", image(lesion()[1]))
    for options in (
        [f"--segmentation={seg}", f"--out={tmp_path / 'loop'}"],
        [f"--segmentation={seg}", f"--out={tmp_path / 'loop' / 'out'}"],
        [f"--segmentation={tmp_path / 'loop'}", f"--out={tmp_path / 'out'}"],
        [f"--segmentation={seg}", f"--atlas={tmp_path / 'loop'}", f"--out={tmp_path / 'out'}"],
        [f"--segmentation={seg}", "--model=mass-effect", f"--atlases={tmp_path / 'loop'}", f"--out={tmp_path / 'out'}"],
    ):
        assert main(["personalize", *options]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == ["loop", "seg.nii.gz"]


def test_a_name_in_latin_1_is_read_and_kept(tmp_path):
    from tumorjax.results.files import write_json

    name = os.fsdecode(b"M\xfcller \x1b[31m_seg.nii.gz")
    path = tmp_path / name
    stored(tmp_path / "seg.nii.gz", image(lesion()[1])).rename(path)
    volume = read_volume(path, name="segmentation")
    np.testing.assert_array_equal(volume.data, lesion()[1])
    with output_folder(tmp_path / os.fsdecode(b"r\xe9sultats")) as out:
        write_json(out / "parameters.json", {"provenance": {"command": f"tumorjax --segmentation={path}"}})
    (out,) = (each for each in tmp_path.iterdir() if each.is_dir())
    # The bytes of the name are not lost.
    assert json.loads((out / "parameters.json").read_text("utf-8"))["provenance"]["command"].endswith(name)


def test_a_transform_with_nonsense_in_it_is_refused_in_one_line(tmp_path):
    path = tmp_path / "map.tfm"
    for measured in ("[" * 100_000, '{"dice_before": 3}', '{"inverse_error": [1]}', '{"failure": 3}'):
        path.write_text(f"#Insight Transform File V1.0\n#Measured: {measured}\n")
        with pytest.raises(InputError, match="is not a usable transform") as caught:
            load_transform(path)
        assert "\n" not in str(caught.value)
