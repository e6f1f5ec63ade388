"""The comparison of methods: figures of known results, resuming, and the baseline's search."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks import compare, peers, suite
from benchmarks.curves import COLOURS
from benchmarks.evolution import CMAES
from benchmarks.record import Record
from tests.problems import TRUTH, patient
from tumorjax import LBFGS, calibrate
from tumorjax.calibration import Estimate
from tumorjax.grid import Grid
from tumorjax.growth import FisherKolmogorov

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (6, 6, 6)


def case(name):
    """A patient with one voxel in ten full of cells, and one number."""
    density = np.zeros(SHAPE)
    density.flat[:20] = 0.9
    return suite.Case(name, SimpleNamespace(), density, {"mu1": 7.0, "mu2": 3.0}, None)


def result(shift, interval=None):
    """The result of a method that places every cell `shift` voxels too far."""
    density = np.zeros(SHAPE)
    density.flat[shift : 20 + shift] = 0.9
    plan = np.zeros(SHAPE, bool)
    plan.flat[:15] = True
    numbers = {"mu1": 7.5, "mu2": 3.1, "threshold_core": 0.7}
    estimates = [Estimate(name, name, value, 0.1, "", "", interval=interval) for name, value in numbers.items()]
    metrics = {"dice_sum": 1.5, "forward_solves": 10, "tumour_ml": 3.0, "coverage_plan": None}
    known = {"estimates": estimates, "metrics": metrics, "model": FisherKolmogorov(), "calibration": None}
    return SimpleNamespace(density=density, plan=plan, standard_plan=~plan, **known)


def test_beside_the_truth():
    found = compare.beside_the_truth(case("synthetic_00"), result(5))
    # Of 25 voxels in which either has cells, ten differ by 0.9.
    assert found["density_error"] == pytest.approx(10 * 0.9 / 25)
    assert found["dice_0.01"] == found["dice_0.1"] == found["dice_0.8"] == pytest.approx(15 / 20)
    assert (found["cells_in_plan"], found["cells_in_standard_plan"]) == pytest.approx((0.75, 0.25))
    # Unknown parameters of the truth are not compared.
    assert found["errors"] == pytest.approx({"mu1": 0.5, "mu2": 0.1})
    assert found["inside_90"] == {"mu1": False, "mu2": True}
    draws = compare.beside_the_truth(case("synthetic_00"), result(0, interval=(6.9, 7.6)))
    assert draws["inside_90"] == {"mu1": True, "mu2": False}
    # A displacement twice as large as the true one, and a mass effect that is a tenth too small.
    true = np.ones((*SHAPE, 3))
    pushing = suite.Case("synthetic_01", SimpleNamespace(), np.ones(SHAPE), {"mass_effect": 5e4}, None, true)
    push = Estimate("mass_effect", "γ", 4.5e4, 6e3, "Pa", "", interval=None)
    one = SimpleNamespace(**{**vars(result(0)), "estimates": [push], "displacement": 2 * true})
    found = compare.beside_the_truth(pushing, one)
    assert (found["displacement_field_error"], found["mass_effect_bias"]) == pytest.approx((1.0, -0.1))
    records = {record.name: record for record in compare.pushing({"synthetic_01": found, "synthetic_02": {}})}
    assert records["pushing_gamma_bias"].value == pytest.approx(-0.1)
    assert records["pushing_displacement_field_error"].details["each"] == {"synthetic_01": pytest.approx(1.0)}
    assert (records["pushing_coverage_90"].value, records["pushing_coverage_90"].details) == (1.0, {"of": 1})
    real = suite.Case("patient_fet", SimpleNamespace(), None, {}, None)
    assert compare.beside_the_truth(real, result(0)) == {}


def test_all_pairs_are_run_once_and_failures_are_results(tmp_path, monkeypatch, capsys):
    called = []

    def good(one):
        called.append(one.name)
        return result(int(one.name[-2:]))

    def bad(one):
        raise ValueError("no such tumour")

    def same(names, resolution):
        return (case(name) for name in names)

    monkeypatch.setenv("TUMORJAX_COHORTS", str(tmp_path))
    monkeypatch.setattr(compare, "METHODS", {"good": good, "bad": bad})
    monkeypatch.setattr(compare, "cases", same)
    names = ["synthetic_00", "synthetic_05"]
    records = {each.name: each for each in compare.run("full", patients=names)}
    assert called == names
    assert (records["good_failures"].value, records["bad_failures"].value) == (0, 2)
    assert records["bad_failures"].details["synthetic_00"] == "ValueError: no such tumour"
    assert records["good_dice_0.1"].value == pytest.approx((1 + 0.75) / 2)
    assert records["good_displaced_dice_0.1"].value == pytest.approx(0.75)
    assert records["good_plain_dice_0.1"].value == 1
    assert records["good_error_mu1"].value == pytest.approx(0.5)
    assert records["good_coverage_90"].value == 0.5
    low, high = records["good_dice_0.1"].details["bootstrap 95 % interval of the median"]
    assert low == pytest.approx(0.75) and high == 1
    assert "good_coverage_plan" not in records and "bad_seconds" not in records
    assert all(math.isfinite(each.value) for each in records.values())
    rows = compare.table(list(records.values()), compare.HEADLINE).splitlines()
    assert rows[2].startswith("| `good` | 1.00 | 0.75 | 1.50 | 50 % | ")
    costs = compare.table(list(records.values()), compare.COSTS).splitlines()
    assert " | 10 | - | - | " in costs[2] and costs[2].endswith(" | 0 |")
    assert rows[3] == "| `bad` |" + " - |" * 6
    assert costs[3] == "| `bad` |" + " - |" * 6 + " 2 |"
    single = (("seventh", "dice_0.1 of synthetic_05", "{:.2f}"),)
    assert compare.table(list(records.values()), single).splitlines()[2] == "| `good` | 0.75 |"
    # An interrupted comparison continues with the missing pairs, and reports the results in the files.
    kept = tmp_path / "compare-4mm"
    (kept / "synthetic_05-good.json").unlink()
    stored = json.loads((kept / "synthetic_00-good.json").read_text())
    (kept / "synthetic_00-good.json").write_text(json.dumps(stored | {"seconds": 1e6}))
    again = {each.name: each for each in compare.run("full", methods=["good"], patients=names)}
    assert called == [*names, "synthetic_05"]
    assert again["good_seconds"].value > 1e5
    assert not list(kept.glob("*.partial"))
    compare.figures(list(again.values()), tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"compare.png", "compare_coverage.png"}
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_each_method_has_a_colour():
    assert len(set(COLOURS)) == len(COLOURS) >= len(compare.METHODS)


@pytest.mark.parametrize(
    ("page", "columns"),
    [
        ("README.md", compare.HEADLINE),
        ("docs/results/comparison.md", compare.ACCURACY),
        ("docs/results/comparison.md", compare.COSTS),
        ("docs/results/comparison.md", compare.REAL),
    ],
)
def test_pages_show_what_was_measured(page, columns):
    kept = json.loads((ROOT / "benchmarks" / "results" / "compare.json").read_text())
    assert compare.table([Record(**each) for each in kept["records"]], columns) in (ROOT / page).read_text()


def test_the_page_shows_what_was_measured_of_peers():
    kept = json.loads((ROOT / "benchmarks" / "results" / "peers.json").read_text())
    shown = peers.table([Record(**each) for each in kept["records"]])
    assert shown.count("\n") == 11
    assert shown in (ROOT / "docs" / "results" / "peers.md").read_text()


def test_the_evolution_strategy_comes_near_the_gradient_search(one_test_as_installed):
    problem = patient("shares", dtype="float32")
    told = []
    found = calibrate(
        problem, CMAES(budget=800), key=jax.random.key(3), progress=lambda stage, share, _: told.append(share)
    )
    best = calibrate(problem, LBFGS())
    reached, sought = (float(problem.log_posterior(each.coordinates)) for each in (found, best))
    assert sought - 5 < reached < sought + 0.5
    np.testing.assert_allclose(found.params.growth.mu1, TRUTH.mu1, rtol=0.2)
    # A generation is finished that began within the budget.
    assert 700 < found.cost.solves < 820
    assert told == sorted(told) and told[-1] == 1


def test_a_place_before_the_push_is_followed_to_where_it_lies_now():
    """A displacement A x that is linear in space has a closed solution of x - A x = X."""
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = (-20.0, -18.0, -25.0)
    world = np.moveaxis(np.indices((21, 20, 18)), 0, -1) * np.diag(affine)[:3] + affine[:3, 3]
    slope = np.array([[0.1, 0.05, 0.0], [-0.1, 0.2, 0.0], [0.0, 0.05, -0.1]])
    before = np.array([[3.0, -4.0, 5.0], [0.0, 1.0, -6.0]])
    now = suite.pushed(before, world @ slope.T, Grid(world.shape[:3], affine))
    np.testing.assert_allclose(now, before @ np.linalg.inv(np.eye(3) - slope).T, atol=1e-9)
