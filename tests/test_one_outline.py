"""A patient of whom one outline is known: it counts once, and everything that shows two does with one."""

import csv
import json

import numpy as np
import pytest

from tests.problems import ball_brain, patient
from tumorjax.calibration import Problem, default_prior
from tumorjax.calibration.foci import core_and_lesion
from tumorjax.growth import FisherKolmogorov, GrowthParams, MassEffect
from tumorjax.integrate import Calendar, simulate
from tumorjax.io import Volume
from tumorjax.methods import LBFGS
from tumorjax.methods.multi_atlas.candidates import focus_of_each, with_candidates
from tumorjax.methods.search.starts import geometric_starts
from tumorjax.observation import Outline
from tumorjax.patient import load_patient, load_visits
from tumorjax.pipeline import personalize
from tumorjax.pipeline.problems import problem_of

SPACING = 8.0
TRUTH = GrowthParams(0.3, 0.05, np.array([-25.0, -10.0, 15.0]), 170.0)
DAYS = (0.0, 60.0)


@pytest.fixture(scope="module")
def seen(atlas):
    """Segmentations of two days with the core alone, one of the first day with both outlines, and maps of tissue."""
    anatomy = ball_brain((22, 22, 22), SPACING)
    series = simulate(FisherKolmogorov(), TRUTH, anatomy, calendar=Calendar.of(DAYS)).series
    affine = np.asarray(anatomy.grid.affine)
    both, alone = [
        [Volume(np.select([c > 0.6, c > floor], [1, 2], 0).astype(np.uint8), affine, name="segmentation") for c in each]
        for floor, each in ((0.2, np.asarray(series)), (0.6, np.asarray(series)))
    ]
    tissue = {key: atlas / f"{name}.nii.gz" for key, name in zip(KEYS, ("wm", "gm", "csf"), strict=True)}
    return both, alone, tissue | {"resolution": SPACING}


KEYS = ("white_matter", "grey_matter", "csf")


def core_alone(problem, **changed):
    """Return the problem of the same patient, of whom the core alone is outlined."""
    observations = {"core": problem.observations["core"]}
    prior = default_prior(problem.anatomy, observations, **changed)
    return Problem(changed.get("model", problem.model), problem.anatomy, observations, prior)


# --- one date --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_test_as_installed", "one_test_compiled_plainly")
def test_a_patient_with_one_outline_is_calibrated_to_one(seen, tmp_path):
    _, (alone, _), tissue = seen
    known = load_patient(segmentation=alone, labels={"core": (1,)}, **tissue)
    assert list(known.outlines) == ["core"]
    result = personalize(known, method=LBFGS(starts=1, coarsening=1))
    names = result.calibration.prior.names
    assert "observations.core.threshold" in names and not any("lesion" in name for name in names)
    assert result.metrics["dice_core"] > 0.85
    assert result.metrics["dice_lesion"] is None and result.metrics["dice_sum"] is None
    # One outline says next to nothing of its own threshold: in coordinates of a prior of unit variance.
    place = names.index("observations.core.threshold")
    assert np.sqrt(result.calibration.covariance[place, place]) > 0.8
    assert [row.name for row in result.estimates if row.name.startswith("threshold")] == ["threshold_core"]
    assert any("The core alone is outlined, which counts as one outline" in note for note in result.notes)
    result.save(tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Core inside" in page and "for the core.</p>" in page
    assert "Lesion inside" not in page and "Dice, FLAIR lesion" not in page
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["dice_lesion"] is None


def test_an_outline_of_the_lesion_may_come_from_elsewhere(seen):
    _, (alone, _), tissue = seen
    known = load_patient(segmentation=alone, labels={"core": (1,)}, **tissue)
    whole = Outline(inside=known.lesion_fraction, valid=np.asarray(known.anatomy.tissue))
    assert list(problem_of(known, observations={"lesion": whole}).observations) == ["core", "lesion"]


# --- two dates -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_test_as_installed", "one_test_compiled_plainly")
def test_a_later_day_may_show_the_core_alone(seen, tmp_path, monkeypatch):
    (both, _), (_, alone), tissue = seen
    rows = [
        {"day": DAYS[0], "segmentation": both, "labels": {"core": (1,), "edema": (2,)}},
        {"day": DAYS[1], "segmentation": alone, "labels": {"core": (1,)}},
    ]
    known = load_visits(rows, **tissue)
    monkeypatch.setattr("tumorjax.pipeline.course._SOLVES", 20)
    result = personalize(known, method=LBFGS(starts=1, coarsening=1))
    assert [row.name for row in result.estimates if row.name.startswith("threshold")] == [
        "threshold_core",
        "threshold_lesion",
    ]
    (speed,) = [row for row in result.estimates if row.name == "speed"]
    low, high = speed.interval
    assert low < 2 * np.sqrt(TRUTH.diffusivity * TRUTH.proliferation) < high
    assert result.metrics["dice_lesion"] is None and result.metrics["dice_lesion_day_0"] > 0.8
    assert any("On day 60 the core alone is outlined" in note for note in result.notes)
    result.save(tmp_path / "out")
    with (tmp_path / "out" / "forecast.csv").open(newline="") as file:
        outlined = {(row["day"], row["outline"]): row["outlined_ml"] for row in csv.DictReader(file)}
    volume = float(np.count_nonzero(alone.data)) * SPACING**3 / 1000
    assert float(outlined["60", "core"]) == pytest.approx(volume, abs=1e-3) and outlined["60", "lesion"] == ""
    assert float(outlined["0", "lesion"]) > float(outlined["0", "core"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Lesion inside" not in page and "for the whole lesion" in page


def test_a_first_day_may_show_the_core_alone(seen):
    (_, both), (alone, _), tissue = seen
    rows = [
        {"day": DAYS[0], "segmentation": alone, "labels": {"core": (1,)}},
        {"day": DAYS[1], "segmentation": both, "labels": {"core": (1,), "edema": (2,)}},
    ]
    problem = problem_of(load_visits(rows, **tissue))
    assert [sorted(visit.observations) for visit in problem.visits] == [["core"], ["core", "lesion"]]
    assert sorted(problem.prior.distributions.observations) == ["core", "lesion"]
    # The radius of the core on both days gives the speed with which a search begins.
    cores = [float(visit.observations["core"].inside.sum()) * SPACING**3 for visit in problem.visits]
    radii = np.cbrt(3 * np.array(cores) / (4 * np.pi))
    assert float(geometric_starts(problem, 1)[0].growth.speed) == pytest.approx((radii[1] - radii[0]) / 60, rel=1e-3)


# --- what methods need -----------------------------------------------------------------------------------------------


def test_starts_have_the_front_of_the_prior():
    problem = core_alone(patient("isolines"))
    core, lesion = core_and_lesion(problem.observations)
    assert core is lesion
    starts = geometric_starts(problem, 3)
    assert [float(start.growth.mu1 / start.growth.mu2) for start in starts] == pytest.approx([2.0] * 3)
    assert len({tuple(start.growth.origin) for start in starts}) == 3
    assert all(list(start.observations) == ["core"] for start in starts)


def test_gaussians_lie_in_the_core_as_with_two_outlines():
    asked = patient("isolines", dtype=np.float32)
    both = default_prior(asked.anatomy, asked.observations, model=MassEffect())
    two = with_candidates(Problem(MassEffect(), asked.anatomy, asked.observations, both))
    one = with_candidates(core_alone(asked, model=MassEffect()))
    basis, other = (each.prior.distributions.growth.growth.origin for each in (one, two))
    np.testing.assert_array_equal(basis.centres, other.centres)
    numbers, weights = focus_of_each(one, basis)
    assert not numbers.any() and weights.tolist() == [1.0]
