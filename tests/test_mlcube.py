"""PredictGBM's contract for containers: a folder of patients in, a density of each out."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from tests.test_cli import RAS, made_up, save
from tumorjax.cli import main
from tumorjax.planning import dice

pytestmark = pytest.mark.usefixtures("jax_as_installed")

ROOT = Path(__file__).resolve().parent.parent
COARSE = ("--resolution=8", "--quiet")


@pytest.fixture(scope="module")
def images():
    images = made_up()
    # The labels of BraTS 2023, of a tumour that is large enough for coarse voxels.
    core = images["recurrence"] > 0
    lesion = ndimage.binary_dilation(core, iterations=4) & (images["brain_mask"] > 0)
    images["tumorseg"] = np.select([core, lesion], [3, 2], 0).astype(np.uint8)
    return images


def fill(folder, number, images, *names, box=slice(None)):
    home = folder / f"Patient-{number}"
    home.mkdir(parents=True)
    affine = RAS.copy()
    for name in ("gm", "wm", "csf", "tumorseg", *names):
        start = 0
        if name == "tumorseg" and box.start:
            start = box.start
        affine[:3, 3] = (RAS @ [start, start, start, 1])[:3]
        data = images[name][box, box, box] if start else images[name]
        save(home / f"{number}-{name}.nii.gz", data, affine)
    return home


@pytest.fixture(scope="module")
def predicted(images, tmp_path_factory):
    """The folders and what the command says: a patient with PET, a broken one, and one with a cropped segmentation."""
    folder, out = tmp_path_factory.mktemp("mlcube_io0"), tmp_path_factory.mktemp("mlcube_io1")
    fill(folder, "00000", images, "pet", "brain_mask")
    (fill(folder, "00001", images) / "00001-gm.nii.gz").unlink()
    fill(folder, "00002", images, box=slice(8, 40))
    (folder / "notes").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tumorjax", "mlcube", folder, out, *COARSE], capture_output=True, text=True, cwd=ROOT
    )
    return folder, out, done


def test_one_broken_patient_does_not_stop_the_others(predicted):
    _, out, done = predicted
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "tumorjax mlcube: Patient-00001: has no 00001-gm.nii.gz; a patient needs a segmentation and three tissue maps"
    ]
    assert sorted(path.name for path in out.iterdir()) == ["00000.nii.gz", "00002.nii.gz"]


def test_the_density_is_on_the_voxels_of_the_segmentation(predicted, images):
    folder, out, _ = predicted
    for number in ("00000", "00002"):
        given = nib.load(folder / f"Patient-{number}" / f"{number}-tumorseg.nii.gz")
        density = nib.load(out / f"{number}.nii.gz")
        assert density.shape == given.shape
        np.testing.assert_allclose(density.affine, given.affine)
        assert density.get_data_dtype() == np.float32
        values, labels = density.get_fdata(), np.asarray(given.dataobj)
        assert values.min() >= 0 and values.max() <= 1
        assert dice(values > np.sort(values.ravel())[-int((labels == 3).sum())], labels == 3) > 0.7
    # What came before is not replaced, unless that is permitted.
    before = (out / "00000.nii.gz").read_bytes()
    assert main(["mlcube", str(folder), str(out), *COARSE]) == 2
    assert (out / "00000.nii.gz").read_bytes() == before


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda folder: None, [], "is no folder; give one with a folder Patient-00000 for each patient"),
        (lambda folder: folder.mkdir(), [], "has no folder of a patient; each is called Patient- and a name"),
        (lambda folder: (folder / "Patient-1").mkdir(parents=True), ["--resolution=9"], "resolution: got 9 mm; give"),
        (lambda folder: (folder / "Patient-1").mkdir(parents=True), ["--labels=braats"], "labels: got 'braats'; give"),
        (lambda folder: (folder / "Patient-1").mkdir(parents=True), ["--draws=5"], "draws: is not for lbfgs"),
        (
            lambda folder: (folder / "Patient-1").mkdir(parents=True),
            ["--method=tmcmc", "--checkpoint=file"],
            "checkpoint: belongs to one patient; leave it out",
        ),
    ],
)
def test_what_cannot_begin_is_one_line(tmp_path, capsys, make, options, message):
    make(tmp_path / "in")
    assert main(["mlcube", str(tmp_path / "in"), str(tmp_path / "out"), "--quiet", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tumorjax mlcube: error: ") and message in line
    assert not (tmp_path / "out").exists()


def recipe(name):
    return (ROOT / "containers" / name).read_text()


def test_the_containers_begin_the_command_with_the_folders_of_the_contract():
    entry = re.search(r"^ENTRYPOINT (\[.*\])\n(?:.*\n)*?CMD (\[.*\])$", recipe("Dockerfile"), re.M)
    words = [word for line in entry.groups() for word in eval(line)]
    assert words == ["tumorjax", "mlcube", "/mlcube_io0", "/mlcube_io1"]
    run = re.search(r"^%runscript\n((?: .*\n)+)", recipe("tumorjax.def"), re.M)[1]
    assert "exec tumorjax mlcube /mlcube_io0 /mlcube_io1" in run


def test_the_containers_copy_what_there_is():
    for name, keyword in (("Dockerfile", "COPY "), ("tumorjax.def", "    ")):
        section = recipe(name)
        if name == "tumorjax.def":
            section = re.search(r"^%files\n((?: .*\n)+)", section, re.M)[1]
        copied = [shlex.split(line)[:-1] for line in section.splitlines() if line.startswith(keyword)]
        sources = [word for words in copied for word in words if word != "COPY" and not word.startswith("--")]
        assert {"constraints.txt", "pyproject.toml", "tumorjax"} <= set(sources)
        assert all((ROOT / source).exists() for source in sources)
        assert "-c constraints.txt" in recipe(name)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="needs hadolint")
def test_the_dockerfile_is_clean():
    subprocess.run(["hadolint", ROOT / "containers" / "Dockerfile"], check=True)
