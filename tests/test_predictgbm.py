"""PredictGBM's metric: the figures of the package `predict-gbm` itself, from the same files."""

import json
import os
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tumorjax.io import Volume, read_volume, write_volume
from tumorjax.planning import predictgbm_coverage

ROOT = Path(__file__).resolve().parent.parent
# The release of 2025 plans by a threshold; what the project publishes today is in its repository.
SOURCE = "git+https://github.com/BrainLesion/PredictGBM@504faf3"
SOURCES = {"released": "predict-gbm==0.1.0", "current": os.environ.get("PREDICT_GBM", SOURCE)}
# What the evaluation itself needs.
LIBRARIES = ("numpy", "scipy", "nibabel", "scikit-learn", "antspyx", "loguru", "pypdf", "rich", "typing-extensions")
# s, for each of two steps of an installation; where there is no network, the tests do not wait for long.
PATIENCE = 180
NAMES = ("segmentation", "recurrence", "density", "brain")


def installed(name: str) -> Path:
    """The interpreter of an environment with the package; the test is skipped where that cannot be had."""
    # Kept beside the environment of the tests, and removed with it.
    home = ROOT / ".venv" / "predict-gbm" / name
    python, ready = home / "bin" / "python", home / "installed"
    if ready.is_file() and ready.read_text() == SOURCES[name]:
        return python
    venv.create(home, clear=True, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries=1", "--timeout=15"]
    for what in (["--no-deps", SOURCES[name]], list(LIBRARIES)):
        try:
            subprocess.run([*pip, *what], check=True, capture_output=True, text=True, timeout=PATIENCE)
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            pytest.skip(f"needs {what[-1]}, which cannot be installed here: {said[-1] if said else error}")
    ready.write_text(SOURCES[name])
    return python


@pytest.fixture(params=sorted(SOURCES))
def evaluation(request, tmp_path):
    """A function that returns whether the package counts voxels, and its figures of each patient."""
    python = installed(request.param)

    def run(patients):
        for number, images in enumerate(patients):
            for name, data in zip(NAMES, images, strict=True):
                # BraTS's space.
                like = Volume(data, np.diag([-1.0, -1.0, 1.0, 1.0]), name=name)
                (tmp_path / str(number)).mkdir(exist_ok=True)
                write_volume(tmp_path / str(number) / f"{name}.nii.gz", data, like)
        command = [str(python), ROOT / "tests" / "predictgbm_evaluation.py"]
        done = subprocess.run(
            [*command, *(str(tmp_path / str(number)) for number in range(len(patients)))],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": "", "HOME": str(tmp_path)},
        )
        said = json.loads(done.stdout.splitlines()[-1])
        return said["counted"], said["shares"]

    return run


def distance_from(*centre):
    # The evaluation resamples the density onto its own voxels. If the length of the first axis is a power of two, that
    # is exact; otherwise rounding makes some zeros 1e-16, and outlines no outlines.
    shape = (128, 80, 76)
    return np.sqrt(sum((index - c) ** 2 for index, c in zip(np.indices(shape), centre, strict=True)))


def synthetic(number: int):
    """Segmentation, recurrence, density and brain of a patient: three that differ in what the density looks like."""
    rng = np.random.default_rng(number)
    brain = distance_from(64, 40, 38) <= 36
    distance, beyond = (
        distance_from(*rng.uniform((50, 28, 28), (56, 34, 34))),
        distance_from(*rng.uniform((64, 42, 42), (68, 46, 46))),
    )
    segmentation = np.select([distance < 3, distance < 5, distance < 9], [1, 3, 2], 0)
    recurrence = np.select([beyond < 3, beyond < 5, beyond < 9, beyond < 11], [4, 1, 3, 2], 0) * brain
    density = np.exp(-distance / 8) * ndimage.gaussian_filter(rng.uniform(0.5, 1.5, brain.shape), 1)
    # One reaches everywhere; one ends within the plan, and takes few values; one is an outline.
    density = (density, np.round(density * (distance < 16), 2), (distance < 9) * 1.0)[number]
    return segmentation.astype(np.uint8), recurrence.astype(np.uint8), density.astype(np.float32), brain


def compare(evaluation, patients):
    """Return our figures, which are those of the package."""
    counted, theirs = evaluation([(*images, brain.astype(np.uint8)) for *images, brain in patients])
    found = []
    for (segmentation, recurrence, density, brain), shares in zip(patients, theirs, strict=True):
        ours = predictgbm_coverage(density, segmentation, recurrence, brain)._asdict()
        names = sorted(ours) if counted else ["standard", "standard_all"]
        assert {n: ours[n] for n in names} == pytest.approx({n: shares[n] for n in names}, rel=0, abs=1e-12)
        found.append(ours)
    return found


def test_agrees_on_three_synthetic_patients(evaluation):
    found = compare(evaluation, [synthetic(number) for number in range(3)])
    # Shares that a wrong plan would not have, too.
    assert all(0 < share < 1 and shares["model"] != shares["standard"] for shares in found for share in shares.values())


def test_agrees_on_the_patient_with_fet(evaluation, data):
    names = ("segmentation", "recurrence", "brain_mask", "fet")
    images = {name: read_volume(data / "patient_fet" / f"{name}.nii.gz", name=name).data for name in names}
    # This patient's labels are 1 enhancing, 3 oedema and 4 necrotic.
    numbers = np.zeros(5, np.uint8)
    numbers[[1, 3, 4]] = 3, 2, 1
    segmentation = numbers[np.rint(images["segmentation"]).astype(int)]
    recurrence = np.where(images["recurrence"] > 0, 3, 0).astype(np.uint8)
    density = np.asarray(images["fet"] / images["fet"].max(), np.float32)
    brain = np.asarray(ndimage.binary_fill_holes(images["brain_mask"] > 0))
    (found,) = compare(evaluation, [(segmentation, recurrence, density, brain)])
    assert found["standard"] == 1
    assert found["model"] < 1
