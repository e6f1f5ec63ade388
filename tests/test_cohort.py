"""Cohorts: patients are independent, finished work is not repeated, and an unusable table is reported at once."""

import contextlib
import csv
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tests.work as work
import tumorjax.workers as engine
from tests.test_cli import RAS, made_up, save
from tumorjax.atlas import load_atlas
from tumorjax.cli import main
from tumorjax.cli.cohort import _said, personalize_patient
from tumorjax.cli.parser import command_parser
from tumorjax.cli.table import placed, read_table
from tumorjax.io import InputError, output_folder, read_rows, read_volume, sha256
from tumorjax.report.index import write_index
from tumorjax.results.provenance import finished
from tumorjax.storage import exclusive
from tumorjax.workers import Outcome, attempt, run_tasks

pytestmark = pytest.mark.usefixtures("jax_as_installed")

ROOT = Path(__file__).resolve().parent.parent

# --- who does the work ---------------------------------------------------------------------------------------------


def test_no_task_stops_another():
    tasks = [
        ("pid",),
        ("raise", ValueError("two\n lines")),
        ("raise", KeyError("key")),
        ("raise", OSError()),
        ("pid",),
        ("exit", 3),
        ("pid",),
        ("die",),
        ("return", None),
    ]
    outcomes = list(run_tasks(work.do, tasks))
    assert [outcome.number for outcome in outcomes] == list(range(9))
    assert [outcome.error for outcome in outcomes] == [
        None,
        "two lines",
        "KeyError: 'key'",
        "OSError",
        None,
        "its process ended with code 3",
        None,
        "its process was ended by SIGKILL; perhaps memory is short",
        None,
    ]
    first, second, third = (outcomes[index].result for index in (0, 4, 6))
    # Programs that are compiled in a process serve all its tasks.
    assert first == second != third != os.getpid() != first
    assert all(outcome.seconds >= 0 for outcome in outcomes)


def test_processes_give_way_to_fresh_ones_and_end_with_the_iteration(monkeypatch):
    monkeypatch.setattr(engine.pool, "_RENEWED", 2)
    with contextlib.closing(run_tasks(work.do, [("pid",)] * 4)) as outcomes:
        first, second, third = (next(outcomes).result for _ in range(3))
    assert first == second != third
    for pid in (first, third):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("blow", (signal.SIGKILL, signal.SIGINT))
def test_nothing_goes_on_without_who_began_it(blow):
    code = """
import signal, tests.work, tumorjax.workers
signal.signal(signal.SIGINT, signal.default_int_handler)
list(tumorjax.workers.run_tasks(tests.work.do, [("wait",)]))
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert child.stdout.readline() == "waiting\n"
        child.send_signal(blow)
        # Reading ends when no process is left that could write.
        assert child.communicate(timeout=60) == ("", None)
        assert child.returncode == -blow
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("blow", (signal.SIGTERM, signal.SIGKILL))
def test_a_cohort_that_is_ended_leaves_no_process_and_no_half_of_a_patient(tmp_path, blow):
    save(tmp_path / "first.nii", np.full((2, 2, 2), 1.0), RAS)
    (tmp_path / "table.csv").write_text("patient,segmentation,labels\nP1,first.nii,brats2021\n")
    code = """
import sys, tests.work, tumorjax.cli.cohort as cohort
from tumorjax.cli import main
cohort.personalize_patient = tests.work.linger
sys.exit(main(sys.argv[1:]))
"""
    arguments = ["personalize-cohort", str(tmp_path / "table.csv"), f"--out={tmp_path / 'out'}", "--quiet"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        word, pid = child.stdout.readline().split()
        assert word == "writing"
        child.send_signal(blow)
        # Reading ends when no process is left that could write.
        _, said = child.communicate(timeout=60)
    if blow == signal.SIGTERM:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
        assert child.returncode == 143 and "ended by SIGTERM" in said and "goes on from there" in said
        assert not list((tmp_path / "out").glob(".partial*"))
    else:
        # The next run into the same place sweeps.
        assert list((tmp_path / "out").glob(".partial*"))
        with output_folder(tmp_path / "out" / "P1") as out:
            (out / "whole.txt").write_text("1")
        assert sorted(os.listdir(tmp_path / "out" / "P1")) == ["SHA256SUMS", "whole.txt"]
        assert not list((tmp_path / "out").glob(".partial*"))


def test_a_cluster_outlives_killed_workers_and_blames_who_kills_them(tmp_path):
    import cloudpickle
    import dask
    from distributed import LocalCluster

    cloudpickle.register_pickle_by_value(work)
    tasks = [
        ("return", 1),
        ("die",),
        ("return", 2),
        ("die once", str(tmp_path / "once")),
        ("raise", ValueError("no")),
    ]
    settings = {"distributed.scheduler.allowed-failures": 0}
    with (
        dask.config.set(settings),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        found = sorted(run_tasks(work.do, tasks, scheduler=cluster.scheduler_address))
    assert [outcome.number for outcome in found] == [0, 1, 2, 3, 4]
    assert [outcome.result for outcome in found] == [1, None, 2, "at last", None]
    assert [outcome.error for outcome in found if outcome.error] == [
        "its workers die again and again; see their logs, perhaps memory is short",
        "no",
    ]


def test_a_scheduler_that_does_not_answer_is_reported():
    with pytest.raises(ValueError, match="no Dask scheduler answers at nowhere://x:1"):
        list(run_tasks(work.do, [("return", 1)], scheduler="nowhere://x:1"))


# --- tables --------------------------------------------------------------------------------------------------------


def cohort(table, out, *more):
    return ["personalize-cohort", str(table), f"--out={out}", *more]


def exit_code(command):
    """The exit code and the streams, as a shell gets them."""
    try:
        return main(command)
    except SystemExit as leaving:
        return leaving.code


def assert_refused(command, capsys, pattern):
    assert exit_code(command) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("tumorjax personalize-cohort: error: ")
    assert pattern in printed.err, printed.err


@pytest.mark.parametrize(
    ("content", "pattern"),
    (
        (None, "cannot be read (No such file or directory)"),
        (b"", "lists no patient"),
        (b"patient,segmentation\n\n,\n", "lists no patient"),
        (b"patient,segmentation\np\xe4,s.nii\n", "is no CSV file in UTF-8"),
        (b'patient,segmentation\n"p,s.nii\n', "is no CSV file in UTF-8"),
        (b"patient,segmentation,tumour\np,s.nii,x\n", "unknown column 'tumour'; known are patient, segmentation, "),
        (b"patient,segmentation,out\np,s.nii,x\n", "unknown column 'out'"),
        (b"patient,segmentation,json\np,s.nii,yes\n", "unknown column 'json'"),
        (b"patient,segmentation,--t1\np,s.nii,x\n", "unknown column '--t1'"),
        (b"patient,t1\np,t1.nii\n", "has no column 'segmentation' or 'visits' or 'subject'; found patient, t1"),
        (b"segmentation\ns.nii\n", "has no column 'patient'"),
        (b"patient,segmentation,t1,t1\np,s.nii,a,b\n", "the column 't1' is there twice"),
        (b"patient,segmentation\np,s.nii,more\n", "line 2: has 3 cells, the header 2"),
        (b"patient,segmentation,t1\np,s.nii,a\nq,s.nii\n", "line 3: has 2 cells, the header 3"),
        (b"patient,segmentation\np,s.nii\np,s.nii\n", "line 3: got p and p; give each patient a name"),
        (b"patient,segmentation\nPat,s.nii\npat,s.nii\n", "line 3: got pat and Pat"),
        (b"patient,segmentation\n,s.nii\n", "the patient '' cannot have a folder of that name"),
        (b"patient,segmentation\n../p,s.nii\n", "line 2: the patient '../p' cannot"),
        (b"patient,segmentation\n.p,s.nii\n", "the patient '.p' cannot"),
        (b"patient,segmentation\na b,s.nii\n", "the patient 'a b' cannot"),
        (b"patient,segmentation\nCohort.csv,s.nii\n", "the patient 'Cohort.csv' cannot"),
        (b"patient,segmentation\n" + b"p" * 101 + b",s.nii\n", "cannot have a folder"),
        (b"patient,segmentation\np,\n", "patient p: has no segmentation; each patient needs one"),
        (b"patient,segmentation,model\np,s.nii,elastic\n", "patient p: argument --model: invalid choice: 'elastic'"),
        (b"patient,segmentation,resolution\np,s.nii,fine\n", "patient p: argument --resolution: invalid float value"),
        (b"patient,segmentation,resolution\np,s.nii,20\n", "patient p: resolution: got 20 mm; give 0.5 to 8"),
        (b"patient,segmentation,margin\np,s.nii,90\n", "patient p: margin: got 90 mm; give 0 to 50"),
        (b"patient,segmentation,recurrence-labels\np,s.nii,a\n", "patient p: recurrence-labels: got 'a'; write"),
        (b"patient,segmentation,no-refine\np,s.nii,no\n", "patient p: no-refine: got 'no'; write yes, or nothing"),
        (
            b"patient,segmentation,labels\np,s.nii,core=1 --out=x\n",
            "patient p: labels: got '--out=x'; give values with",
        ),
        (b"patient,segmentation,labels\np,s.nii,core='1\n", "patient p: No closing quotation"),
        (b"patient,segmentation,seed\np,s.nii,3\n", "patient p: seed: is not for lbfgs"),
        (b"patient,segmentation,sparsity\np,s.nii,3\n", "patient p: sparsity: is not for lbfgs"),
    ),
)
def test_tables_that_cannot_be_used_are_refused_before_anything_begins(tmp_path, capsys, content, pattern):
    table = tmp_path / "table.csv"
    if content is not None:
        table.write_bytes(content)
    assert_refused(cohort(table, tmp_path / "out"), capsys, pattern)
    assert not (tmp_path / "out").exists()


def test_options_for_all_are_checked_too(tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_text("patient,segmentation\np,s.nii\n")
    assert_refused(
        cohort(table, tmp_path / "out", "--seed=3"), capsys, "seed: no patient's model or method takes it; leave it out"
    )
    assert_refused(cohort(table, tmp_path / "out", "--t1=x"), capsys, "unknown option or argument: --t1=x")
    assert not (tmp_path / "out").exists()


def test_atlases_of_a_table_lie_beside_it(atlas, tmp_path):
    table, parser = tmp_path / "table.csv", command_parser()._subparsers._group_actions[0].choices["personalize"]
    known = {action.option_strings[-1].removeprefix("--"): action for action in parser._actions}
    (tmp_path / "s.nii").touch()
    (tmp_path / "brain").symlink_to(atlas)
    table.write_text("patient,segmentation,model,atlases\np,s.nii,mass-effect,brain family:2\n")
    found = read_table(table, parser, known, {}, tmp_path / "out")
    assert found["p"].atlases == [str(tmp_path / "brain"), "family:2"]
    table.write_text("patient,segmentation,model,atlases\np,s.nii,mass-effect,brain absent\n")
    with pytest.raises(InputError, match="patient p: atlases absent does not exist; check the paths"):
        read_table(table, parser, known, {}, tmp_path / "out")
    table.write_text("patient,segmentation\np,s.nii\n")
    # An empty word is no folder.
    with pytest.raises(InputError, match="patient p: atlas '' does not exist"):
        read_table(table, parser, known, placed({"atlas": ""}, tmp_path), tmp_path / "out")


def test_options_for_all_hold_for_those_whose_method_takes_them(tmp_path):
    table, parser = tmp_path / "table.csv", command_parser()._subparsers._group_actions[0].choices["personalize"]
    (tmp_path / "s.nii").touch()
    table.write_text("patient,segmentation,method,particles\np,s.nii,,\nq,s.nii,tmcmc,\nr,s.nii,tmcmc,70\n")
    known = {action.option_strings[-1].removeprefix("--"): action for action in parser._actions}
    found = read_table(table, parser, known, {"particles": 64, "seed": 3}, tmp_path / "out")
    assert [(each.particles, each.seed) for each in found.values()] == [(None, None), (64, 3), (70, 3)]
    table.write_text("patient,segmentation,model\np,s.nii,\nq,s.nii,mass-effect\n")
    found = read_table(table, parser, known, {"healthy": "affine"}, tmp_path / "out")
    assert [each.healthy for each in found.values()] == [None, "affine"]
    table.write_text("patient,segmentation,healthy\np,s.nii,affine\n")
    with pytest.raises(InputError, match="patient p: healthy: is not for fisher-kolmogorov"):
        read_table(table, parser, known, {}, tmp_path / "out")
    table.write_text("patient,segmentation,method,particles\np,s.nii,lbfgs,64\n")
    with pytest.raises(InputError, match="patient p: particles: is not for lbfgs"):
        read_table(table, parser, known, {"particles": 64}, tmp_path / "out")


def test_patients_of_several_visits_and_of_one_in_a_table(tmp_path):
    table, parser = tmp_path / "table.csv", command_parser()._subparsers._group_actions[0].choices["personalize"]
    known = {action.option_strings[-1].removeprefix("--"): action for action in parser._actions}
    for day in (0, 60, 90):
        (tmp_path / f"{day}.nii").touch()
    for count in (2, 3):
        rows = [f"{day},{day}.nii\n" for day in (0, 60, 90)[:count]]
        (tmp_path / f"visits{count}.csv").write_text("day,segmentation\n" + "".join(rows))
    (tmp_path / "treatments.csv").write_text("day,kind,dose\n10,radiation,2\n")
    table.write_text(
        "patient,segmentation,visits,treatments,forecast\n"
        "one,0.nii,,,\n"
        "two,,visits2.csv,treatments.csv,\n"
        'three,,visits3.csv,,"100,110"\n'
    )
    common = {"forecast": "120", "hold_out": True}
    found = read_table(table, parser, known, common, tmp_path / "out")
    # What needs more visits than a patient has is for the others.
    assert [(each.forecast, each.hold_out) for each in found.values()] == [
        (None, False),
        ("120", False),
        ("100,110", True),
    ]
    assert found["two"].treatments == tmp_path / "treatments.csv" and found["one"].visits is None
    for row, message in {
        "a,0.nii,visits2.csv,,": "not allowed with argument",
        "a,0.nii,,treatments.csv,": "treatments: is for several visits",
        "a,,visits2.csv,,50": "forecast: got day 50, but the last visit is on day 60",
        "a,,visits4.csv,,": "visits4.csv: cannot be read",
        "a,,,,90": "has no segmentation; each patient needs one, or a table of visits",
    }.items():
        table.write_text(f"patient,segmentation,visits,treatments,forecast\n{row}\n")
        with pytest.raises(InputError, match=message):
            read_table(table, parser, known, {}, tmp_path / "out")
    table.write_text("patient,visits,method,database\na,visits2.csv,retrieval,0.nii\n")
    with pytest.raises(InputError, match="patient a: "):
        read_table(table, parser, known, {}, tmp_path / "out")
    table.write_text("patient,segmentation\na,0.nii\n")
    with pytest.raises(InputError, match="forecast: no patient has so many visits; leave it out"):
        read_table(table, parser, known, common, tmp_path / "out")


def test_help_says_what_it_returns_and_what_it_is_not_for(capsys):
    assert exit_code(["personalize-cohort", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in ("not for clinical use", "1 if some failed", "--resolution", "--scheduler"):
        assert words in said


# --- patients, whose results are made up ---------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch):
    """The calls of a stub that writes small files, and fails for a patient without a segmentation."""
    asked = []

    def personalize(options):
        asked.append(options)
        with output_folder(options.out, options.overwrite) as out:
            tissue = None if options.tissue is None else options.tissue[0]
            files = {"segmentation": options.segmentation, "T1": options.t1, "tissue": tissue}
            digests = {f"sha256 of {role}": sha256(path) for role, path in files.items() if path is not None}
            provenance = {"command": options.command_line, **digests}
            figures = {"quality": "good" if len(asked) % 2 else "failed", "quality_reasons": ["One.", "Two."]}
            figures |= {"dice_core": len(asked) / 8, "seconds_total": float(len(asked))}
            mu1 = {"value": len(asked) / 4, "standard_deviation": None}
            (out / "parameters.json").write_text(json.dumps({"parameters": {"mu1": mu1}, "provenance": provenance}))
            (out / "metrics.json").write_text(json.dumps(figures | ({"steps": 7} if options.t1 else {})))
            (out / "density.nii.gz").write_text("image")
        return figures | ({"steps": 7} if options.t1 else {})

    def here(_, tasks, *, scheduler):
        assert scheduler is None
        yield from (attempt(personalize, index, task) for index, task in enumerate(tasks))

    monkeypatch.setattr(engine, "run_tasks", here)
    # Images are text here.
    monkeypatch.setattr("tumorjax.cli.table.check_segmentations", lambda table, patients: None)
    return asked


@pytest.fixture
def table(tmp_path):
    """A table of two patients, with images that have a name as a file."""
    folder = tmp_path / "study"
    (folder / "atlas").mkdir(parents=True)
    for name in ("first", "second one", "t1", "tissue"):
        (folder / f"{name}.nii").write_text(name)
    (folder / "table.csv").write_text(
        "\ufeffpatient,segmentation,t1,tissue,atlas,labels,resolution\r\n"
        "P1,first.nii,,tissue.nii csf=1 gm=2 wm=3,,,\r\n"
        ",,,,,,\r\n"
        "P-2.b, second one.nii ,t1.nii,,atlas,core=1 edema=2,4\r\n",
        newline="",
    )
    return folder / "table.csv"


def rows(out):
    with open(out / "cohort.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rows_become_options(table, made, tmp_path, monkeypatch):
    (tmp_path / "wm.nii").touch()
    monkeypatch.chdir(tmp_path)
    command = cohort("study/table.csv", "out", "--resolution=3", "--wm=wm.nii", "--labels", "core=5", "--quiet")
    assert main(command) == 0
    first, second = made
    folder = table.parent
    assert (first.segmentation, second.segmentation) == (folder / "first.nii", folder / "second one.nii")
    assert (first.resolution, second.resolution) == (3, 4)
    assert (first.labels, second.labels) == (["core=5"], ["core=1", "edema=2"])
    assert (first.tissue, first.atlas) == ([str(folder / "tissue.nii"), "csf=1", "gm=2", "wm=3"], None)
    assert (second.tissue, second.atlas, second.t1) == (None, str(folder / "atlas"), folder / "t1.nii")
    assert first.wm == second.wm == tmp_path / "wm.nii"
    assert (first.out, second.out) == (tmp_path / "out" / "P1", tmp_path / "out" / "P-2.b")
    assert second.command_line == (
        f"tumorjax personalize '--segmentation={folder}/second one.nii' --labels core=1 edema=2 --t1={folder}/t1.nii "
        f"--wm={tmp_path}/wm.nii --atlas={folder}/atlas --resolution=4.0 --out={tmp_path}/out/P-2.b"
    )


def test_the_table_and_the_summary(table, made, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert main(cohort(table, out, "--json")) == 0
    assert rows(out) == [
        {"patient": "P1", "status": "done", "quality": "good", "error": "", "seconds": "1.0",
         "quality_reasons": "One. Two.", "dice_core": "0.125", "seconds_total": "1.0", "mu1": "0.25", "mu1_sd": "",
         "steps": ""},
        {"patient": "P-2.b", "status": "done", "quality": "failed", "error": "", "seconds": "2.0",
         "quality_reasons": "One. Two.", "dice_core": "0.25", "seconds_total": "2.0", "mu1": "0.5", "mu1_sd": "",
         "steps": "7"},
    ]  # fmt: skip
    # What is known first of each.
    assert list(rows(out)[0])[:3] == ["patient", "status", "quality"]
    printed = capsys.readouterr()
    # A result that has failed stops nothing, and is reported.
    assert "failed: P-2.b: One. Two." in printed.err
    assert json.loads(printed.out) == {
        "patients": 2, "done": 2, "skipped": 0, "failed": 0, "errors": {},
        "quality_good": 1, "quality_doubtful": 0, "quality_failed": 1,
        "dice_core": {"median": 0.1875, "least": 0.125, "most": 0.25},
        "seconds": {"median": 1.5, "least": 1, "most": 2},
    }  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["P-2.b", "P1", "cohort.csv", "index.html"]


def test_the_same_command_goes_on_where_it_was(table, made, tmp_path, capsys):
    out, second = tmp_path / "out", table.parent / "second one.nii"
    hidden = second.rename(table.parent / "hidden")
    second.mkdir()
    assert exit_code(cohort(table, out)) == 1
    printed = capsys.readouterr()
    assert f"note: P-2.b failed: [Errno 21] Is a directory: '{second}'" in printed.err
    words = " ".join(printed.out.split())
    assert words == (
        "patients 2 done 1 skipped 0 failed 1 quality_good 1 quality_doubtful 0 quality_failed 0 "
        "dice_core 0.125 (0.125 to 0.125) seconds 1 (1 to 1)"
    )
    assert [row["status"] for row in rows(out)] == ["done", "failed"]
    # A killed run leaves this.
    (out / ".partial-results-0123").mkdir()
    (out / "P1" / ".partial-results-0123").mkdir()
    second.rmdir()
    hidden.rename(second)
    assert main(cohort(table, out, "--json")) == 0
    assert [options.out.name for options in made] == ["P1", "P-2.b", "P-2.b"]
    assert [row["seconds"] for row in rows(out)] == ["1.0", "3.0"]
    assert json.loads(capsys.readouterr().out)["skipped"] == 1
    assert not list(out.rglob(".partial-*"))
    before = (out / "cohort.csv").read_bytes()
    assert main(cohort(table, out, "--quiet")) == 0
    assert len(made) == 3 and (out / "cohort.csv").read_bytes() == before
    assert capsys.readouterr() == ("", "")


def test_each_patient_has_its_name_in_the_log(table, made, tmp_path, monkeypatch):
    out, file = tmp_path / "out", tmp_path / "log.txt"
    (table.parent / "first.nii").unlink()
    (table.parent / "first.nii").mkdir()
    assert exit_code(cohort(table, out, "--quiet", f"--log-file={file}")) == 1
    before = file.read_text(encoding="utf-8").splitlines()
    assert "personalize-cohort" in before[0]
    assert before[1].endswith("INFO    tumorjax.cli.cohort: 0 of 2 patients have results")
    assert "ERROR   tumorjax.cli.cohort: P1: failed: [Errno 21] Is a directory" in before[2]
    assert before[3].endswith("INFO    tumorjax.cli.cohort: P-2.b: done in 2.0 s, quality failed")
    # What a patient says is written where the work is done, by another process; a second run goes on below.
    log = logging.getLogger("tumorjax.pipeline.made_up")
    monkeypatch.setattr("tumorjax.cli.commands.perform", lambda options: log.info("registration"))
    assert made[1].log_file == file
    for _ in range(2):
        personalize_patient(made[1])
    after = file.read_text(encoding="utf-8").splitlines()
    assert after[: len(before)] == before and len(after) == len(before) + 4
    assert after[-1].endswith("INFO    tumorjax.pipeline.made_up: P-2.b: registration")


def test_the_page_links_the_reports(table, made, tmp_path):
    out = tmp_path / "out"
    # A file that cannot be read is one patient's failure, whose name and reason are shown as text.
    (table.parent / "second one.nii").unlink()
    (table.parent / "second one.nii").mkdir()
    assert exit_code(cohort(table, out, "--quiet")) == 1
    page = (out / "index.html").read_text()
    assert '<a href="P1/report.html">P1</a>' in page
    assert "P-2.b/report.html" not in page and "Is a directory" in page
    assert "2 patients: 1 good, 0 doubtful, 0 failed, 1 no result." in " ".join(page.split())
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")


def test_reasons_are_escaped_on_the_page(tmp_path):
    entry = {
        "patient": "P1",
        "status": "done",
        "quality": "failed",
        "error": None,
        "quality_reasons": "<b>&",
        "mu1": 2.5,
    }
    write_index(tmp_path / "index.html", "<i>study</i>", [entry])
    page = (tmp_path / "index.html").read_text()
    assert "&lt;b&gt;&amp;" in page and "&lt;i&gt;study" in page and "<b>" not in page
    assert '<td class="number">2.50</td>' in page


def test_all_faults_of_a_table_are_told_at_once(tmp_path, capsys):
    table = tmp_path / "table.csv"
    lines = [f"p{number},s.nii,{margin}" for number, margin in enumerate((90, 15, 80, 70, 60, 99, 98))]
    table.write_text("\n".join(["patient;segmentation;margin", *lines]).replace(",", ";"))
    (tmp_path / "s.nii").touch()
    assert main(cohort(table, tmp_path / "out")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "patient p0: margin: got 90 mm; give 0 to 50; patient p2: margin: got 80" in line
    assert "patient p5: " in line and "patient p6: " not in line and line.endswith("; and 1 more")


def test_labels_that_cannot_be_read_are_those_of_a_patient(tmp_path, capsys):
    save(tmp_path / "good.nii", made_up()["segmentation"], RAS)
    table = tmp_path / "table.csv"
    table.write_text("patient,segmentation,labels\na,good.nii,lesion=1\nb,good.nii,\nc,good.nii,foo\n")
    assert main(cohort(table, tmp_path / "out")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "table.csv, patient a: labels: got the name 'lesion'" in line and "; patient c: labels: got 'foo'" in line


def test_two_patients_do_not_share_a_checkpoint(tmp_path, capsys):
    (tmp_path / "s.nii").touch()
    table = tmp_path / "table.csv"
    rows = "a,s.nii,tmcmc,kept\nb,s.nii,tmcmc,other\nc,s.nii,tmcmc,./kept\n"
    table.write_text(f"patient,segmentation,method,checkpoint\n{rows}")
    assert main(cohort(table, tmp_path / "out")) == 2
    assert "patient c: checkpoint" in (said := capsys.readouterr().err) and "is that of a, too" in said


def test_segmentations_are_looked_at_before_anything_runs(tmp_path, capsys):
    labels = made_up()["segmentation"]
    save(tmp_path / "good.nii", labels, RAS)
    save(tmp_path / "strange.nii", np.where(labels == 2, 9, labels), RAS)
    save(tmp_path / "empty.nii", labels * 0, RAS)
    (tmp_path / "text.nii").write_text("no image")
    table = tmp_path / "table.csv"
    table.write_text(
        "patient,segmentation,labels\na,good.nii,\nb,strange.nii,\nc,strange.nii,core=1 edema=9\nd,empty.nii,\n"
        "e,text.nii,\nf,good.nii,core=7\n"
    )
    assert main(cohort(table, tmp_path / "out")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for words in (
        "b: segmentation",
        "d: segmentation",
        "e: segmentation",
        "f: segmentation",
        "is empty",
        "no core label 7",
    ):
        assert words in line
    assert "patient a" not in line and "patient c" not in line
    assert not (tmp_path / "out").exists()


def test_organs_of_a_table_lie_beside_it(tmp_path):
    table, parser = tmp_path / "table.csv", command_parser()._subparsers._group_actions[0].choices["personalize"]
    known = {action.option_strings[-1].removeprefix("--"): action for action in parser._actions}
    save(tmp_path / "s.nii", made_up()["recurrence"], RAS)
    table.write_text("patient,segmentation,plan_dose,spare\np,s.nii,30x2,stem=s.nii:54 nerve=s.nii:50\n")
    found = read_table(table, parser, known, {}, tmp_path / "out")
    assert found["p"].spare == [f"stem={tmp_path}/s.nii:54", f"nerve={tmp_path}/s.nii:50"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_spreadsheets_and_of_python_are_read(table, made, tmp_path, separator):
    table.write_text("patient,segmentation,brain_mask\nP1,first.nii,t1.nii\n".replace(",", separator))
    assert main(cohort(table, tmp_path / "out", "--quiet")) == 0
    assert [options.brain_mask for options in made] == [table.parent / "t1.nii"]


@pytest.mark.parametrize("first", ["\r\n", ";;\r\n"])
def test_blank_lines_before_the_header_are_no_header(tmp_path, first):
    (tmp_path / "table.csv").write_text(f"{first}patient;segmentation\r\nP1;s.nii\r\n", newline="")
    header, rows = read_rows(tmp_path / "table.csv")
    assert header == ["patient", "segmentation"] and [cells for _, cells in rows] == [["P1", "s.nii"]]


@pytest.mark.parametrize(
    ("column", "cell", "told"),
    [
        ("t1", "gone.nii", "t1 gone.nii does not exist"),
        ("tissue", "gone.nii csf=1 gm=2 wm=3", "tissue gone.nii does not exist"),
        ("atlas", "gone", "atlas gone does not exist"),
    ],
)
def test_a_file_that_is_missing_is_reported_before_anything_runs(table, made, tmp_path, capsys, column, cell, told):
    lines = [f"p{number},first.nii,{cell if number >= 79 else ''}" for number in range(81)]
    table.write_text("\n".join([f"patient,segmentation,{column}", *lines]))
    told = told.replace("t1 ", f"t1 {table.parent}/")
    assert_refused(cohort(table, tmp_path / "out"), capsys, f"patient p79: {told}, and 1 more files; check the paths")
    assert not made and not (tmp_path / "out").exists()


def test_a_study_that_has_moved_goes_on(table, made, tmp_path):
    assert main(cohort(table, tmp_path / "out", "--quiet")) == 0
    (table.parent / "tissue.nii").rename(table.parent / "maps.nii")
    table.write_text(table.read_text().replace("tissue.nii", "maps.nii"))
    (tmp_path / "out" / "P-2.b").rename(tmp_path / "kept")
    (tmp_path / "out").rename(tmp_path / "moved")
    assert main(cohort(table, tmp_path / "moved", "--quiet")) == 0
    assert [options.out.name for options in made] == ["P1", "P-2.b", "P-2.b"]


def test_a_worker_that_was_lost_after_its_work_has_done_it(table, made, tmp_path):
    assert main(cohort(table, tmp_path / "out", "--quiet")) == 0
    metrics = personalize_patient(made[1])
    assert (metrics["dice_core"], metrics["seconds_total"], metrics["steps"]) == (0.25, 2.0, 7)
    made[1].command_line += " --seed=3"
    with pytest.raises(ValueError, match="is not empty; give another folder"):
        personalize_patient(made[1])


def spoil(out, table, what):
    match what:
        case "option":
            return ["--resolution=3"]
        case "image":
            (table.parent / "first.nii").write_text("another")
        case "label map":
            (table.parent / "tissue.nii").write_text("another")
        case "record":
            (out / "P1" / "parameters.json").write_text("{}")
        case "metrics":
            (out / "P1" / "metrics.json").write_text('{"dice_core": 1}')
        case "map":
            (out / "P1" / "density.nii.gz").unlink()
        case "foreign":
            shutil.rmtree(out / "P1")
            (out / "P1").mkdir()
            (out / "P1" / "notes.txt").write_text("mine")
    return []


@pytest.mark.parametrize(
    ("what", "told"),
    (
        ("option", "P1 has results of other settings (other resolution); give another --out, or permit --overwrite"),
        ("image", "P1 has results of other settings (other segmentation)"),
        ("label map", "P1 has results of other settings (other tissue)"),
        ("record", "P1 holds something else than whole results"),
        ("metrics", "P1 holds something else than whole results"),
        ("map", "P1 holds something else than whole results"),
        ("foreign", "P1 holds something else than whole results"),
    ),
)
def test_other_results_are_replaced_only_if_permitted(table, made, tmp_path, capsys, what, told):
    out = tmp_path / "out"
    assert main(cohort(table, out, "--quiet")) == 0
    more = spoil(out, table, what)
    assert_refused(cohort(table, out, *more), capsys, told)
    assert len(made) == 2
    assert main(cohort(table, out, *more, "--overwrite", "--quiet")) == 0
    assert [options.out.name for options in made[2:]] == ["P1"]
    assert main(cohort(table, out, *more, "--quiet")) == 0
    assert len(made) == 3
    assert (out / "P1" / "notes.txt").is_file() == (what == "foreign")


def test_no_flipped_bit_in_a_record_gives_other_metrics(table, made, tmp_path):
    assert main(cohort(table, tmp_path / "out", "--quiet")) == 0
    folder, random = tmp_path / "out" / "P1", np.random.default_rng(0)
    wanted, refused = finished(folder, made[0].command_line), 0
    assert wanted["dice_core"] == 0.125
    for name in ("SHA256SUMS", "parameters.json", "metrics.json"):
        content = (folder / name).read_bytes()
        spoilt = [content[:length] for length in (0, len(content) // 2, content.rfind(b"\n", 0, -1) + 1)]
        spoilt += [b"[" * 100_000, b"\xff", b"null", b"\0"]
        for position in random.integers(len(content), size=40):
            flipped = bytearray(content)
            flipped[position] ^= 1 << random.integers(8)
            spoilt.append(bytes(flipped))
        for other in spoilt:
            (folder / name).write_bytes(other)
            try:
                found = finished(folder, made[0].command_line)
            except InputError as error:
                assert "\n" not in str(error)
                refused += 1
            else:
                assert found == wanted
        (folder / name).write_bytes(content)
    assert refused > 100


@pytest.mark.parametrize("change", ({"provenance": {"command": None}}, {"provenance": {"command": 5}}, {}, []))
def test_forged_records_are_refused(table, made, tmp_path, change):
    assert main(cohort(table, tmp_path / "out", "--quiet")) == 0
    folder = tmp_path / "out" / "P1"
    before = sha256(folder / "parameters.json")
    (folder / "parameters.json").write_text(json.dumps(change))
    sums = (folder / "SHA256SUMS").read_text()
    (folder / "SHA256SUMS").write_text(sums.replace(before, sha256(folder / "parameters.json")))
    with pytest.raises(InputError, match="P1 holds something else than whole results"):
        finished(folder, made[0].command_line)


def test_two_commands_do_not_work_in_one_folder(table, made, tmp_path, capsys):
    out = tmp_path / "out"
    (out / ".partial-0123").mkdir(parents=True)
    with exclusive(out):
        assert_refused(cohort(table, out), capsys, "another command is at work there")
    assert not made and (out / ".partial-0123").is_dir()


def test_an_interruption_reports_how_to_continue(table, tmp_path, monkeypatch, capsys):
    def interrupted(_, tasks, *, scheduler):
        finished = tmp_path / "out" / "P1"
        finished.mkdir()
        (finished / "parameters.json").write_text('{"parameters": {}}')
        yield Outcome(0, {"dice_core": 1.0}, None, 1.0)
        (tmp_path / "out" / ".partial-results-0123").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "run_tasks", interrupted)
    monkeypatch.setattr("tumorjax.cli.table.check_segmentations", lambda table, patients: None)
    assert exit_code(cohort(table, tmp_path / "out")) == 130
    assert "keeps the patients that are finished, and the same command goes on from there" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["P1"]


def test_progress_gives_the_rate_and_the_time_that_is_left():
    assert _said(3, 10, 1 / 60) == "3 of 10 patients, 60/h, 7\N{NO-BREAK SPACE}min 00\N{NO-BREAK SPACE}s left"


# --- patients ------------------------------------------------------------------------------------------------------


def test_a_patient_with_a_broken_image_fails_alone(tmp_path, capsys):
    """Segmentations are read before anything runs, other images when their patient's turn has come."""
    images = made_up()
    for name in ("segmentation", "wm", "gm", "csf"):
        save(tmp_path / f"{name}.nii.gz", images[name], RAS)
    save(tmp_path / "empty.nii.gz", 0 * images["segmentation"], RAS)
    (tmp_path / "t1.nii.gz").write_bytes(b"no image")
    table, out = tmp_path / "table.csv", tmp_path / "out"
    table.write_text("patient,segmentation\nbroken,empty.nii.gz\nwhole,segmentation.nii.gz\n")
    assert_refused(cohort(table, out), capsys, "patient broken: segmentation")
    table.write_text("patient,segmentation,t1\nbroken,segmentation.nii.gz,t1.nii.gz\nwhole,segmentation.nii.gz,\n")
    maps = [f"--{name}={tmp_path / name}.nii.gz" for name in ("wm", "gm", "csf")]
    command = cohort(table, out, *maps, "--resolution=6", "--json")
    assert exit_code(command) == 1
    printed = capsys.readouterr()
    assert "note: broken failed: T1" in printed.err
    summary = json.loads(printed.out)
    assert (summary["done"], summary["failed"], summary["skipped"]) == (1, 1, 0)
    assert "is not a readable" in summary["errors"]["broken"]
    assert sorted(path.name for path in out.iterdir()) == ["cohort.csv", "index.html", "whole"]
    broken, whole = rows(out)
    assert (broken["status"], broken["dice_core"]) == ("failed", "")
    metrics = json.loads((out / "whole" / "metrics.json").read_text())
    assert (whole["quality"], metrics.pop("quality"), metrics.pop("quality_reasons")) == ("good", "good", [])
    assert {name: float(whole[name]) for name in metrics} == metrics
    assert float(whole["dice_sum"]) > 1.5
    density = read_volume(out / "whole" / "density.nii.gz", name="density")
    assert density.data.shape == images["segmentation"].shape
    times = {path: path.stat().st_mtime_ns for path in (out / "whole").iterdir()}
    assert exit_code(command) == 1
    assert json.loads(capsys.readouterr().out)["skipped"] == 1
    assert {path: path.stat().st_mtime_ns for path in (out / "whole").iterdir()} == times
    assert rows(out)[1] == whole


def test_tumours_that_displace_the_brain(tmp_path, capsys):
    """The growth of both is calibrated in ICBM152, in one process after the other, and only one asks for more."""
    grid = load_atlas("icbm152").t1.grid.with_spacing(8.0)
    world = np.asarray(grid.to_world(np.moveaxis(np.indices(grid.shape).astype(float), 0, -1)))
    for name, x in (("left", -28.0), ("right", 28.0)):
        distance = np.linalg.norm(world - np.array([x, -5.0, 30.0]), axis=-1)
        save(
            tmp_path / f"{name}.nii.gz",
            np.select([distance < 16, distance < 26], [1, 2], 0).astype(np.uint8),
            np.asarray(grid.affine),
        )
    table, out = tmp_path / "table.csv", tmp_path / "out"
    table.write_text("patient,segmentation,healthy\nleft,left.nii.gz,\nright,right.nii.gz,coupled\n")
    settings = ["--model=mass-effect", "--growth-in=tissue", "--no-refine", "--sparsity=1", "--resolution=8", "--json"]
    assert exit_code(cohort(table, out, *settings)) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["done"], summary["failed"]) == (2, 0)
    left, right = rows(out)
    for name, row in (("left", left), ("right", right)):
        assert float(row["dice_lesion"]) > 0.7 and float(row["max_displacement_mm"]) > 0
        moved = read_volume(out / name / "displacement_norm.nii.gz", name="displacement")
        assert moved.data.shape == grid.shape and moved.data.max() > 0
    assert "there is no T1 image" in right["quality_reasons"] and "no T1 image:" not in left["quality_reasons"]
