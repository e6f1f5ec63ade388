"""Calibration from images: the real patients, and a synthetic one with a known truth."""

import dataclasses
import sys

import jax
import numpy as np
import pytest

from tests.problems import patient as problem_with_a_truth
from tumorjax.atlas import deformed_atlas, load_atlas
from tumorjax.calibration import Calibration
from tumorjax.calibration.cost import Cost
from tumorjax.calibration.estimates import correlation_of
from tumorjax.calibration.method import AbstractMethod
from tumorjax.io import read_volume
from tumorjax.methods import LBFGS
from tumorjax.methods.sampling.posterior import Posterior, posterior_of
from tumorjax.methods.sampling.sample import Sample, SamplerStats
from tumorjax.patient import load_patient
from tumorjax.pipeline import synthetic as tumours
from tumorjax.pipeline.personalize import personalize
from tumorjax.pipeline.synthetic import synthetic_patient
from tumorjax.pipeline.volumes import LEVELS, THRESHOLDS
from tumorjax.planning import dice
from tumorjax.quality import Status, status_of
from tumorjax.results.stages import Stopwatch

pytestmark = pytest.mark.usefixtures("jax_as_installed")

RESOLUTION = 4.0
# A patient whose front is not much thinner than the 4 mm voxels that these tests can afford.
SEED = 8


def figure(result, name):
    value = result.metrics[name]
    assert value is not None
    return value


def assert_within_budget(result):
    cost, method = result.calibration.cost, LBFGS()
    assert 0 < cost.gradients <= method.budget
    assert 0 < cost.coarse_gradients <= method.budget * method.starts
    assert figure(result, "forward_solves") > cost.gradients + cost.coarse_gradients


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
    assert not result.notes and result.quality is Status.GOOD and not result.reasons
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
    assert (patient.core.sum(), patient.lesion.sum()) == (9317, 30179)
    assert patient.brain.sum() == pytest.approx(1.6e6, rel=0.01)
    # An affine map reaches 0.88.
    assert patient.transform is not None
    assert patient.transform.field is not None
    assert patient.transform.after > 0.93
    assert any("by an affine map and a deformation" in note for note in patient.notes)
    assert np.asarray(patient.anatomy.tissue)[patient.lesion_fraction > 0.5].mean() > 0.98
    result = personalize(patient)
    assert figure(result, "dice_sum") >= 1.30
    # This tumour displaces the brain.
    (note,) = result.notes
    assert f"Dice {figure(result, 'dice_core'):.2f} (core)" in note
    assert "--model mass-effect" in note
    assert "coverage_plan" not in result.metrics
    assert result.recurrence is None
    assert not result.predicted
    assert_within_budget(result)


@pytest.fixture(scope="module")
def synthetic():
    return synthetic_patient(SEED, resolution=2.0)


@pytest.fixture(scope="module")
def outlined(synthetic):
    """The synthetic patient, as its segmentation shows it."""
    return load_patient(segmentation=synthetic.segmentation, resolution=RESOLUTION)


@pytest.fixture(scope="module")
def found(outlined):
    watch, said = Stopwatch(), []
    patient = outlined
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
    rows = {row.name: row for row in calibration.estimates(synthetic.truth)}
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
    names, matrix = correlation_of(result.calibration, result.estimates)
    assert set(names) < {row.name for row in result.estimates}
    assert matrix.shape == (len(names), len(names))
    np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-5)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)


def test_stages_are_timed_and_reported(found):
    result, watch, said = found
    assert [name for name, _ in watch.stages] == ["preparation", "calibration", "maps", "plan"]
    assert watch.seconds() == pytest.approx(sum(seconds for _, seconds in watch.stages))
    assert result.metrics["seconds_calibration"] == pytest.approx(watch.seconds("calibration"), abs=1e-3)
    assert {"coarse search", "search", "uncertainty"} <= {stage for stage, _ in said}
    assert all(share is None or 0 <= share <= 1 for _, share in said)


@pytest.fixture(scope="module")
def on_coarse_voxels():
    return synthetic_patient(SEED, resolution=4.0)


def test_a_synthetic_patient_follows_from_its_seed(on_coarse_voxels):
    one, again, other = on_coarse_voxels, *(synthetic_patient(SEED + i, resolution=4.0) for i in range(2))
    assert again.truth == one.truth
    np.testing.assert_array_equal(again.segmentation.data, one.segmentation.data)
    np.testing.assert_array_equal(again.density, one.density)
    assert other.truth != one.truth
    assert (other.segmentation.data != one.segmentation.data).any()


def test_a_synthetic_patient_looks_like_one(synthetic):
    labels, grid = synthetic.segmentation.data, synthetic.segmentation.grid
    assert set(np.unique(labels)) == {0, 1, 2}
    assert synthetic.t1.data.shape == labels.shape == synthetic.density.shape
    assert 10 < (labels > 0).sum() * float(grid.voxel_volume) / 1000 < 200
    truth = synthetic.truth
    assert truth["threshold_core"] > truth["threshold_lesion"]
    # Outlines wobble about the truth.
    for numbers, threshold in (((1,), "threshold_core"), ((1, 2), "threshold_lesion")):
        assert 0.8 < dice(np.isin(labels, numbers), synthetic.density > truth[threshold]) < 0.999


def test_a_synthetic_patient_may_be_displaced(on_coarse_voxels):
    still, moved = on_coarse_voxels, synthetic_patient(SEED, mass_effect=6e4, resolution=4.0)
    assert still.displacement is None
    # The same tumour, but for what its force does: brain moves, and its image with it.
    lengths = np.linalg.norm(moved.displacement, axis=-1)
    assert 2 < lengths.max() < 30
    assert moved.truth == still.truth | {"mass_effect": 6e4}
    assert 0.6 < dice(moved.density > 0.5, still.density > 0.5) < 0.99
    differs = moved.t1.data != still.t1.data
    assert lengths[differs].min() > 0
    assert np.abs(moved.t1.data - still.t1.data)[lengths > 3].mean() > 0.02 * still.t1.data.max()


def test_a_displaced_tumour_without_a_core_is_drawn_again(monkeypatch):
    grow, drawn = tumours._pushing, []

    def thin_at_first(growth, mass_effect, anatomy):
        drawn.append(float(growth.mu1))
        solution = grow(growth, mass_effect, anatomy)
        return dataclasses.replace(solution, density=solution.density * (0.5 if len(drawn) == 1 else 1.0))

    monkeypatch.setattr(tumours, "_pushing", thin_at_first)
    moved = synthetic_patient(SEED, mass_effect=6e4, resolution=4.0)
    assert len(drawn) >= 2 and moved.truth["mu1"] == drawn[-1] != drawn[0]
    assert (moved.segmentation.data == 1).sum() * 0.064 > 1


def test_a_synthetic_patient_may_have_another_brain(on_coarse_voxels):
    brain, _ = deformed_atlas(load_atlas("icbm152"), 7)
    own, other = on_coarse_voxels, synthetic_patient(SEED, brain=brain, resolution=4.0)
    assert other.t1.data.shape == own.t1.data.shape
    assert (other.t1.data != own.t1.data).mean() > 0.1
    assert other.truth != own.truth


def test_without_wobble_the_outlines_are_the_isolines():
    patient = synthetic_patient(SEED, resolution=4.0, wobble=0)
    inside = patient.segmentation.data > 0
    assert (patient.density[inside] > patient.truth["threshold_lesion"]).all()
    core = patient.segmentation.data == 1
    assert (patient.density[core] > patient.truth["threshold_core"]).all()


# Draws from the posterior, by a sampler that is given them.


class Given(AbstractMethod):
    """Draws from the Laplace approximation of a calibration, in two chains."""

    calibration: Calibration
    draws: int = 20

    def run(self, problem, key, progress):
        z, covariance = (np.asarray(a, float) for a in (self.calibration.coordinates, self.calibration.covariance))
        away = np.random.default_rng(0).normal(size=(2, self.draws, z.size))
        progress("draws", 1.0, 0.0)
        size = problem.prior.size
        stats = SamplerStats(Cost(70, 70), r_hat=np.full(size, 1.001), ess=np.full(size, 500.0))
        draws = z + away @ np.linalg.cholesky(covariance).T
        return posterior_of(problem, Sample(draws, -0.5 * np.sum(away**2, axis=-1), stats=stats))


@pytest.fixture(scope="module")
def drawn(outlined, found):
    recurrence = outlined.reference
    return personalize(outlined, method=Given(found[0].calibration), key=jax.random.key(0), recurrence=recurrence)


def test_maps_of_draws_agree_with_those_of_the_approximation_they_are_from(outlined, found, drawn):
    laplace = found[0]
    assert drawn.density.shape == outlined.reference.data.shape
    seen = laplace.density > 0.05
    assert np.corrcoef(laplace.density[seen], drawn.density[seen])[0, 1] > 0.98
    assert drawn.density_std[seen].mean() == pytest.approx(laplace.density_std[seen].mean(), rel=0.4)
    assert figure(drawn, "dice_sum") == pytest.approx(figure(laplace, "dice_sum"), abs=0.1)
    assert figure(drawn, "forward_solves") == 70 + 40
    assert figure(drawn, "gradients") == 70


def test_probabilities_and_credible_volumes(outlined, drawn):
    assert list(drawn.probabilities) == list(THRESHOLDS)
    before = np.ones(drawn.density.shape)
    for probability in drawn.probabilities.values():
        assert 0 <= probability.min() < 0.9 < probability.max() <= 1
        assert (probability <= before + 1e-6).all()
        before = probability
    # Markov's inequality holds in every voxel, before interpolation and after.
    assert (drawn.probabilities[0.5] * 0.5 <= drawn.density + 1e-6).all()
    half, most = (drawn.credible[level] for level in LEVELS)
    assert half.any() and not (half & ~most).any() and most.sum() > half.sum()
    assert not (most & ~outlined.brain).any()
    np.testing.assert_array_equal(most, (drawn.probabilities[0.01] > 0.1 + 1e-6) & outlined.brain)
    voxel = float(outlined.reference.grid.voxel_volume) / 1000
    assert figure(drawn, "credible_90_ml") == pytest.approx(most.sum() * voxel)
    assert figure(drawn, "coverage_credible_90") == pytest.approx(
        (most & drawn.recurrence).sum() / drawn.recurrence.sum()
    )
    assert figure(drawn, "effective_draws") == 500
    # Nothing is wrong with the draws; of the recurrence it is said which labels count.
    (told,) = drawn.notes
    assert told.startswith("Labels that count as recurrence: 1 (")
    assert drawn.quality is status_of(outlined.notes)


def test_without_draws_there_are_no_probabilities(found):
    assert found[0].probabilities == found[0].credible == {}
    assert all(row.interval is None and row.mode == row.value for row in found[0].estimates if not row.fixed)


def test_estimates_are_those_of_the_draws(drawn):
    rows = {row.name: row for row in drawn.estimates}
    samples, best = drawn.calibration.samples, drawn.calibration.params
    for name, values, mode in (
        ("mu1", samples.growth.mu1, best.growth.mu1),
        ("origin_y", samples.growth.origin[:, 1], best.growth.origin[1]),
        ("threshold_lesion", samples.observations["lesion"].threshold, best.observations["lesion"].threshold),
        ("proliferation", jax.vmap(lambda g: g.physical().proliferation)(samples.growth), None),
    ):
        row, values = rows[name], np.asarray(values, float)
        assert row.value == pytest.approx(values.mean(), rel=1e-5)
        assert row.deviation == pytest.approx(values.std(), rel=1e-4)
        # Forty draws: two below the fifth percentile, and two above the other.
        low, high = row.interval
        assert (values < low).sum() == (values > high).sum() == 2
        assert mode is None or row.mode == pytest.approx(float(mode))
    assert float(drawn.calibration.centre.growth.mu1) == pytest.approx(rows["mu1"].value)


def made_up(weights=None, stats=None, moved=None):
    problem = problem_with_a_truth(dtype=np.float32)
    draws = 0.1 * np.random.default_rng(1).normal(size=(2, 50, problem.prior.size))
    if moved is not None:
        draws[:, moved:] = draws[:, :1]
    with np.errstate(divide="ignore"):
        log_weights = None if weights is None else np.log(weights)
    sample = Sample(draws, np.zeros((2, 50)), log_weights, stats=stats or SamplerStats())
    return posterior_of(problem, sample, method="a sampler")


def test_weighted_draws_have_weighted_estimates():
    weights = np.zeros((2, 50))
    weights[0, :2], weights[1, 7] = (0.25, 0.25), 0.5
    posterior = made_up(weights)
    row = next(row for row in posterior.estimates() if row.name == "mu1")
    three = np.asarray(posterior.samples.growth.mu1, float)[[0, 1, 57]]
    mean = three @ [0.25, 0.25, 0.5]
    assert row.value == pytest.approx(mean)
    assert float(posterior.mean(lambda params: params.growth.mu1)) == pytest.approx(mean)
    assert float(posterior.standard_deviations().growth.mu1) == pytest.approx(row.deviation, rel=1e-4)
    assert row.deviation == pytest.approx(np.sqrt((three - mean) ** 2 @ [0.25, 0.25, 0.5]))
    assert row.interval[0] >= three.min() - 1e-6 and row.interval[1] <= three.max() + 1e-6
    assert posterior.diagnostics.effective == pytest.approx(1 / (2 * 0.25**2 + 0.5**2))
    assert posterior.diagnostics.distinct == 3


def test_a_best_draw_at_a_wall_does_not_hide_the_others():
    problem = problem_with_a_truth(dtype=np.float32)
    wall = [name.endswith("threshold") for name in problem.prior.names].index(True)
    draws = 0.1 * np.random.default_rng(2).normal(size=(1, 200, problem.prior.size))
    draws[..., wall] = np.linspace(-1, 1, 200)
    draws[0, 0] = 0
    draws[0, 0, wall] = 6
    best = np.zeros((1, 200))
    best[0, 0] = 100
    posterior = posterior_of(problem, Sample(draws, best))
    thresholds = np.asarray(posterior.samples.observations["core"].threshold)
    assert float(posterior.params.observations["core"].threshold) == pytest.approx(thresholds.max())
    found = float(posterior.standard_deviations().observations["core"].threshold)
    assert found == pytest.approx(thresholds.std(), rel=1e-3)
    assert found > 0.1 * np.ptp(thresholds)


def chains(**changed):
    posterior = made_up()
    size = posterior.prior.size
    good = {"cost": Cost(900, 900), "divergences": 0, "r_hat": np.ones(size), "ess": np.full(size, 800.0)}
    return made_up(stats=SamplerStats(**{**good, **changed})).diagnostics


def particles(**changed):
    ladder = {"temperature": (0.1, 1.0), "acceptance": (0.3, 0.2), "effective draws": (60.0, 70.0)}
    return made_up(stats=SamplerStats(Cost(300, coarse_solves=1000), ladder={**ladder, **changed})).diagnostics


def test_diagnostics_come_in_words():
    assert chains().notes() == []
    assert (chains().method, chains().solves, chains().chains, chains().draws) == ("a sampler", 900, 2, 100)
    r_hat = np.ones(9)
    r_hat[1] = 1.23
    (note,) = chains(r_hat=r_hat).notes()
    assert "have not mixed" in note and "1 of 9" in note and "1.23 for growth.mu2" in note
    (note,) = chains(r_hat=np.where(r_hat > 1, np.nan, 1)).notes()
    assert "nan for growth.mu2" in note
    (note,) = chains(ess=np.array([50.4, *[900.0] * 8])).notes()
    assert "100 draws are worth 50 independent ones" in note
    (note,) = chains(divergences=7).notes()
    assert note.startswith("7 of 100 trajectories diverged")
    (note,) = chains(failed=3).notes()
    assert note.startswith("3 of 900 solves gave no likelihood")
    # A hundred particles are few, whatever happened to them.
    few, *others = particles().notes()
    assert "worth 100 independent" in few and others == []
    assert particles().solves == 1300
    assert particles().ladder["temperature"] == [0.1, 1.0]
    assert any("only 1.0 % of the proposals" in note for note in particles(acceptance=(0.3, 0.01)).notes())
    assert made_up(moved=1).diagnostics.effective == pytest.approx(2)


def test_a_posterior_is_correlated_as_its_draws_are(drawn):
    assert isinstance(drawn.calibration, Posterior)
    names, matrix = correlation_of(drawn.calibration, drawn.estimates)
    flat = np.asarray(drawn.calibration.draws, float).reshape(-1, drawn.calibration.prior.size)
    assert matrix[0, 1] == pytest.approx(np.corrcoef(flat[:, 0], flat[:, 1])[0, 1], abs=1e-4)
    assert names[:2] == ["mu1", "mu2"]


def test_images_and_parameters_go_on_in_python(found):
    pytest.importorskip("xarray")
    result, *_ = found
    images = result.to_xarray()
    np.testing.assert_array_equal(images["density"], result.density)
    assert images["density_std"].dims == ("i", "j", "k")
    assert "displacement" not in images and "recurrence" not in images
    affine = np.reshape(images.attrs["affine"], (4, 4))
    place = affine @ [3, 5, 7, 1]
    here = images["density"].isel(i=3, j=5, k=7)
    np.testing.assert_allclose([here[axis] for axis in "xyz"], place[:3], rtol=1e-5)
    table = result.to_dataframe()
    assert table.loc["mu1", "value"] == next(each.value for each in result.estimates if each.name == "mu1")
    assert table.loc["speed", "fixed"] and np.isnan(table.loc["mu1", "low"])
    own = result.calibration.to_dataframe()
    assert list(own.columns) == list(table.columns) and own.index.name == "name"


def test_without_their_libraries_they_are_named(found, monkeypatch):
    for name, method in (("xarray", found[0].to_xarray), ("pandas", found[0].to_dataframe)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=f"pip install {name}"):
            method()
