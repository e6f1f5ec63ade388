"""BIDS: a subject's images are found, ambiguous datasets are refused, and results are derivatives."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from tests.test_cli import RAS, made_up, save
from tumorjax.cli import main
from tumorjax.cli.parser import command_parser
from tumorjax.cli.table import read_table
from tumorjax.io import InputError
from tumorjax.results.bids import check_derivatives, check_subject, write_derivatives

pytestmark = [
    pytest.mark.usefixtures("jax_as_installed"),
    # pybids and what it stands on.
    pytest.mark.filterwarnings("ignore"),
]


def described(folder, **more):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "made up", "BIDSVersion": "1.9.0", **more}))
    return folder


@pytest.fixture
def dataset(tmp_path):
    """A dataset of empty files: subject 01 with two sessions, and 02 with none; segmentations among derivatives."""
    root = described(tmp_path / "dataset")
    segmented = described(
        root / "derivatives" / "segmented", DatasetType="derivative", GeneratedBy=[{"Name": "segmented"}]
    )
    files = [
        root / f"sub-01/ses-{session}/anat/sub-01_ses-{session}_{kind}T1w.nii.gz"
        for session in ("pre", "post")
        for kind in ("", "ce-gadolinium_")
    ]
    files += [
        root / "sub-01/ses-pre/pet/sub-01_ses-pre_trc-FET_pet.nii.gz",
        root / "sub-01/ses-pre/anat/sub-01_ses-pre_FLAIR.nii.gz",
        root / "sub-02/anat/sub-02_T1w.nii.gz",
        root / "sub-04/anat/sub-04_FLAIR.nii.gz",
        *(
            segmented / f"sub-01/ses-pre/anat/sub-01_ses-pre_{kind}.nii.gz"
            for kind in ("desc-tumor_dseg", "dseg", "space-MNI152_desc-tumor_dseg", "desc-brain_mask")
        ),
        segmented / "sub-02/anat/sub-02_label-lesion_mask.nii.gz",
    ]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def test_the_images_of_a_subject_are_found(dataset):
    pytest.importorskip("bids")
    from tumorjax.io.bids import find_images

    found = find_images(dataset, "01", "pre")
    assert {name: path.name for name, path in found.items()} == {
        "t1": "sub-01_ses-pre_T1w.nii.gz",
        "segmentation": "sub-01_ses-pre_desc-tumor_dseg.nii.gz",
        "pet": "sub-01_ses-pre_trc-FET_pet.nii.gz",
        "flair": "sub-01_ses-pre_FLAIR.nii.gz",
        "brain_mask": "sub-01_ses-pre_desc-brain_mask.nii.gz",
    }
    assert find_images(dataset, "sub-01", "ses-pre") == found
    other = find_images(dataset, "02")
    assert {name: path.name for name, path in other.items()} == {
        "t1": "sub-02_T1w.nii.gz",
        "segmentation": "sub-02_label-lesion_mask.nii.gz",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("03",), r"has no subject 03; give another --subject"),
        (("01",), r"subject 01 has the sessions post, pre; give --session"),
        (("01", "later"), r"subject 01 has no session later, but the sessions post, pre"),
        (("02", "pre"), r"subject 02 has no session pre, but no sessions"),
        (("04",), r"subject 04 has no T1 image \(anat/\*_T1w.nii.gz\); give --t1"),
        (("0/1",), r"subject: got '0/1'; BIDS labels have letters and digits only"),
    ],
)
def test_what_cannot_be_found_is_one_line(dataset, given, message):
    pytest.importorskip("bids")
    from tumorjax.io.bids import find_images

    with pytest.raises(InputError, match=message):
        find_images(dataset, *given)


def test_two_images_of_a_kind_are_not_guessed(dataset):
    pytest.importorskip("bids")
    from tumorjax.io.bids import find_images

    (dataset / "sub-02/anat/sub-02_run-2_T1w.nii.gz").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"subject 02 has 2 images for --t1: sub-02_T1w.nii.gz, sub-02_run-2_T1w.nii.gz"
    ):
        find_images(dataset, "02")
    # Who names one has chosen.
    assert "t1" not in find_images(dataset, "02", given=["t1"])
    for run in (1, 2):
        (dataset / f"sub-02/anat/sub-02_run-{run}_FLAIR.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"subject 02 has 2 images for --flair: .*run-1_FLAIR.nii.gz, .*; give one$"):
        find_images(dataset, "02", given=["t1"])
    (dataset / "dataset_description.json").unlink()
    with pytest.raises(InputError, match=r"has no dataset_description.json; give the folder of a BIDS dataset"):
        find_images(dataset, "02")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "segmentation: give --segmentation FILE, --visits FILE, or --bids DIR --subject LABEL"),
        (["--bids=x"], "subject: goes with --bids DIR"),
        (["--segmentation=x", "--subject=01"], "subject: goes with --bids DIR"),
        (["--segmentation=x", "--session=01"], "session: goes with --subject"),
        (["--visits=x", "--bids=x", "--subject=01"], "bids: finds the images of one day, and --visits names those of"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, capsys, options, message):
    assert main(["personalize", *options, f"--out={tmp_path / 'out'}", "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tumorjax personalize: error: ") and message in line


def test_subjects_of_a_cohort(dataset, tmp_path):
    pytest.importorskip("bids")
    parser = command_parser(["personalize-cohort"])._subparsers._group_actions[0].choices["personalize"]
    known = {action.option_strings[-1].removeprefix("--"): action for action in parser._actions}
    table = tmp_path / "cohort.csv"
    table.write_text("patient;subject;session\nA;01;pre\nB;02;\n")
    patients = read_table(table, parser, known, {"bids": dataset}, tmp_path / "out")
    assert patients["A"].t1.name == "sub-01_ses-pre_T1w.nii.gz"
    assert patients["B"].segmentation.name == "sub-02_label-lesion_mask.nii.gz"
    table.write_text("patient,subject,session\nA,01,pre\nB,04,\n")
    with pytest.raises(InputError, match=r"patient B: bids .* has no T1 image"):
        read_table(table, parser, known, {"bids": dataset}, tmp_path / "out")


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("density.nii.gz", "density_std.nii.gz", "plan.nii.gz", "probability_0.01.nii.gz"):
        save(folder / name, np.zeros((4, 4, 4), np.float32), np.eye(4))
    for name in ("parameters.json", "report.html", "SHA256SUMS"):
        (folder / name).write_text("{}")
    return folder


def test_results_are_derivatives(results, tmp_path):
    root = tmp_path / "derivatives"
    folder = write_derivatives(root, results, "01", "pre", ["bids::sub-01/ses-pre/anat/sub-01_ses-pre_T1w.nii.gz"])
    assert folder == root / "sub-01" / "ses-pre" / "anat"
    assert sorted(path.name for path in folder.iterdir()) == [
        "SHA256SUMS",
        "sub-01_ses-pre_desc-parameters_tumorjax.json",
        "sub-01_ses-pre_desc-probability001_tumorjax.nii.gz",
        "sub-01_ses-pre_desc-report_tumorjax.html",
        "sub-01_ses-pre_label-plan_desc-tumorjax_mask.json",
        "sub-01_ses-pre_label-plan_desc-tumorjax_mask.nii.gz",
        "sub-01_ses-pre_label-tumor_desc-density_probseg.json",
        "sub-01_ses-pre_label-tumor_desc-density_probseg.nii.gz",
        "sub-01_ses-pre_label-tumor_desc-densitystd_probseg.json",
        "sub-01_ses-pre_label-tumor_desc-densitystd_probseg.nii.gz",
    ]
    sidecar = json.loads((folder / "sub-01_ses-pre_label-tumor_desc-density_probseg.json").read_text())
    assert sidecar["Sources"] == ["bids::sub-01/ses-pre/anat/sub-01_ses-pre_T1w.nii.gz"]
    description = json.loads((root / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and description["GeneratedBy"][0]["Name"] == "tumorjax"
    # Another subject joins, the same one does not without permission, and a dataset of others is left alone.
    write_derivatives(root, results, "02", None, [])
    with pytest.raises(InputError, match="is not empty"):
        write_derivatives(root, results, "01", "pre", [])
    # That is known before there are results.
    with pytest.raises(InputError, match="has results of sub-01 already; permit --overwrite"):
        check_subject(root, results, "01", "pre")
    check_subject(root, results, "01", "post")
    check_subject(root, results, "01", "pre", overwrite=True)
    for out in (tmp_path / "new", tmp_path / "new" / "out", tmp_path):
        with pytest.raises(InputError, match="lies in the folder of the results, or that in it"):
            check_subject(tmp_path / "new", out, "01", None)
    write_derivatives(root, results, "01", "pre", [], overwrite=True)
    with pytest.raises(InputError, match="is a dataset of another program"):
        check_derivatives(described(tmp_path / "other", GeneratedBy=[{"Name": "fmriprep"}]))
    with pytest.raises(InputError, match="is no dataset, and not empty"):
        check_derivatives(results)


@pytest.mark.skipif(shutil.which("bids-validator-deno") is None, reason="needs the validator, bids-validator-deno")
def test_the_validator_passes(results, tmp_path):
    root = tmp_path / "derivatives"
    write_derivatives(root, results, "01", "pre", [])
    done = subprocess.run(["bids-validator-deno", "--json", root], capture_output=True, text=True)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []


def test_a_subject_from_dataset_to_derivatives(tmp_path, capsys):
    pytest.importorskip("bids")
    images, root = made_up(), described(tmp_path / "dataset")
    anat = root / "sub-01" / "anat"
    anat.mkdir(parents=True)
    save(anat / "sub-01_T1w.nii.gz", images["t1"], RAS)
    segmented = described(root / "derivatives" / "segmented", GeneratedBy=[{"Name": "by hand"}]) / "sub-01" / "anat"
    segmented.mkdir(parents=True)
    save(segmented / "sub-01_label-tumor_mask.nii.gz", images["recurrence"], RAS)
    maps = [f"--{name}={save(tmp_path / f'{name}.nii.gz', images[name], RAS)}" for name in ("wm", "gm", "csf")]
    derivatives = root / "derivatives" / "tumorjax"
    options = [f"--bids={root}", "--subject=01", f"--out={tmp_path / 'out'}", f"--bids-derivatives={derivatives}"]
    assert main(["personalize", *options, *maps, "--resolution=8", "--quiet"]) in (0, 3)
    notes = (tmp_path / "out" / "report.html").read_text()
    assert "Images of the BIDS dataset: segmentation sub-01_label-tumor_mask.nii.gz; t1 sub-01_T1w.nii.gz." in notes
    assert "<h1>sub-01</h1>" in notes
    density = derivatives / "sub-01" / "anat" / "sub-01_label-tumor_desc-density_probseg"
    sidecar = json.loads(density.with_suffix(".json").read_text())
    assert sidecar["Sources"] == [
        "bids::derivatives/segmented/sub-01/anat/sub-01_label-tumor_mask.nii.gz",
        "bids::sub-01/anat/sub-01_T1w.nii.gz",
    ]
    assert density.with_suffix(".nii.gz").read_bytes() == (tmp_path / "out" / "density.nii.gz").read_bytes()
