"""From images to a calibrated map: the real patients, and a synthetic one whose truth is known."""

import numpy as np
import pytest

from tumorjax.calibration import LBFGS
from tumorjax.io import read_volume, write_volume
from tumorjax.pipeline.estimates import correlation, estimates
from tumorjax.pipeline.patient import load_patient
from tumorjax.pipeline.personalize import Stopwatch, personalize
from tumorjax.pipeline.synthetic import synthetic_patient
from tumorjax.planning import dice

pytestmark = pytest.mark.usefixtures("jax_as_installed")

RESOLUTION = 4.0
# A patient whose front is not much thinner than the 4 mm voxels that these tests can afford.
SEED = 8


def figure(result, name):
    value = result.metrics[name]
    assert value is not None
    return value


def assert_within_budget(result):
    stats, method = result.calibration.stats, LBFGS()
    assert 0 < stats.gradients <= method.budget
    assert 0 < stats.coarse_gradients <= method.budget * method.starts
    assert figure(result, "forward_solves") > stats.gradients + stats.coarse_gradients


def test_a_patient_with_a_recurrence(data):
    folder = data / "patient_fet"
    patient = load_patient(
        segmentation=folder / "segmentation.nii.gz",
        labels={"core": (1, 4), "edema": (3,)},
        brain_mask=folder / "brain_mask.nii.gz",
        tissue=data / "atlas_sri24" / "tissue_labels.nii.gz",
        tissue_labels={"csf": (1,), "gm": (2,), "wm": (3,)},
        resolution=RESOLUTION,
    )
    recurrence = read_volume(folder / "recurrence.nii.gz", name="recurrence")
    result = personalize(patient, recurrence=recurrence)
    assert figure(result, "dice_sum") >= 1.45
    assert figure(result, "coverage_plan") >= 0.99
    assert_within_budget(result)
    # What is published of this patient: the plan that guidelines give.
    published = read_volume(folder / "standard_plan.nii.gz", name="plan").data > 0
    assert dice(result.standard_plan, published) > 0.97
    assert result.plan.sum() == result.standard_plan.sum()
    assert not (result.plan & ~patient.brain).any()
    assert result.density.shape == result.density_std.shape == patient.reference.data.shape


def test_a_patient_with_t1(data):
    folder = data / "patient_mri"
    patient = load_patient(
        segmentation=folder / "segmentation.nii.gz",
        labels={"core": (1, 4), "edema": (2,)},
        t1=folder / "t1.nii.gz",
        resolution=RESOLUTION,
    )
    result = personalize(patient)
    assert figure(result, "dice_sum") >= 1.30
    assert "coverage_plan" not in result.metrics
    assert result.recurrence is None
    assert result.pet_predicted is None
    assert_within_budget(result)


@pytest.fixture(scope="module")
def synthetic():
    return synthetic_patient(SEED, resolution=2.0)


@pytest.fixture(scope="module")
def found(synthetic, tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "segmentation.nii.gz"
    write_volume(path, synthetic.segmentation.data, like=synthetic.segmentation)
    watch, said = Stopwatch(), []
    patient = load_patient(segmentation=path, resolution=RESOLUTION)
    result = personalize(patient, stopwatch=watch, progress=lambda stage, share: said.append((stage, share)))
    return result, watch, said


def test_a_synthetic_patient_is_found(synthetic, found):
    result, _, _ = found
    assert figure(result, "dice_sum") > 1.6
    for level in (0.1, 0.5):
        assert dice(result.density > level, synthetic.density > level) > 0.85
    assert_within_budget(result)


def test_estimates_carry_truth_and_deviations(synthetic, found):
    calibration = found[0].calibration
    rows = {row.name: row for row in estimates(calibration, synthetic.truth)}
    assert {name: row.truth for name, row in rows.items() if row.truth is not None} == synthetic.truth
    for name, row in rows.items():
        assert (row.deviation is None) == (name == "speed")
        assert row.deviation is None or 0 < row.deviation < np.inf
        assert np.isfinite(row.value)
        assert row.meaning
    # Coarse voxels and wobbling outlines: near the truth, by the measure of each number.
    assert rows["mu1"].value == pytest.approx(rows["mu1"].truth, rel=0.5)
    assert rows["mu2"].value == pytest.approx(rows["mu2"].truth, rel=0.5)
    seed = [rows[f"origin_{axis}"].value for axis in "xyz"]
    assert np.linalg.norm(np.subtract(seed, [synthetic.truth[f"origin_{axis}"] for axis in "xyz"])) < 15
    # D T = mu1^2 and rho T = mu2^2, whatever the speed.
    value = {name: row.value for name, row in rows.items()}
    assert value["diffusivity"] * value["duration"] == pytest.approx(value["mu1"] ** 2, rel=1e-4)
    assert value["proliferation"] * value["duration"] == pytest.approx(value["mu2"] ** 2, rel=1e-4)
    assert 2 * np.sqrt(value["diffusivity"] * value["proliferation"]) == pytest.approx(value["speed"], rel=1e-4)
    assert all(row.truth is None for row in found[0].estimates)


def test_correlation_belongs_to_the_rows(found):
    result = found[0]
    names, matrix = correlation(result.calibration, result.estimates)
    assert set(names) < {row.name for row in result.estimates}
    assert matrix.shape == (len(names), len(names))
    np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-5)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)


def test_stages_are_timed_and_told(found):
    result, watch, said = found
    assert [name for name, _ in watch.stages] == ["calibration", "maps", "plan"]
    assert watch.seconds() == pytest.approx(sum(seconds for _, seconds in watch.stages))
    assert result.metrics["seconds_calibration"] == pytest.approx(watch.seconds("calibration"), abs=1e-3)
    assert {"coarse search", "search", "uncertainty"} <= {stage for stage, _ in said}
    assert all(share is None or 0 <= share <= 1 for _, share in said)


def test_a_synthetic_patient_follows_from_its_seed(synthetic):
    again, other = synthetic_patient(SEED, resolution=2.0), synthetic_patient(SEED + 1, resolution=2.0)
    assert again.truth == synthetic.truth
    np.testing.assert_array_equal(again.segmentation.data, synthetic.segmentation.data)
    np.testing.assert_array_equal(again.density, synthetic.density)
    assert other.truth != synthetic.truth
    assert (other.segmentation.data != synthetic.segmentation.data).any()


def test_a_synthetic_patient_looks_like_one(synthetic):
    labels, grid = synthetic.segmentation.data, synthetic.segmentation.grid
    assert set(np.unique(labels)) == {0, 1, 2}
    assert synthetic.t1.data.shape == labels.shape == synthetic.density.shape
    assert 10 < (labels > 0).sum() * float(grid.voxel_volume) / 1000 < 200
    truth = synthetic.truth
    assert truth["threshold_core"] > truth["threshold_flair"]
    # Outlines wobble about the truth.
    for numbers, threshold in (((1,), "threshold_core"), ((1, 2), "threshold_flair")):
        assert 0.8 < dice(np.isin(labels, numbers), synthetic.density > truth[threshold]) < 0.999


def test_without_wobble_the_outlines_are_the_isolines():
    patient = synthetic_patient(SEED, resolution=4.0, wobble=0)
    inside = patient.segmentation.data > 0
    assert (patient.density[inside] > patient.truth["threshold_flair"]).all()
    core = patient.segmentation.data == 1
    assert (patient.density[core] > patient.truth["threshold_core"]).all()
