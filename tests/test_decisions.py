"""Decisions on a posterior: known optima of a dose map, and the known worth of a further scan."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tumorjax.decisions.dose as dose_module
from tests.visits import DEVIATION, NOISE, SPREAD, TRUTH, patient_of_visits, volumes_of_visits
from tumorjax.calibration import Calibration, Parameters, calibrate
from tumorjax.calibration.forecast import continued
from tumorjax.calibration.result import CalibrationResult
from tumorjax.decisions import plan_dose, scan_gains
from tumorjax.decisions.dose import Left, _cells_left, _mean, _spent, _weighed
from tumorjax.growth import Radiotherapy
from tumorjax.methods import LBFGS
from tumorjax.observation import OutlineParams
from tumorjax.prior import SameAs
from tumorjax.results.decisions import _ratio

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def volumes():
    problem, *_ = volumes_of_visits((5.0, 25.0, 55.0))
    return problem, calibrate(problem, LBFGS(starts=1))


def test_the_worth_of_a_scan_of_a_volume_is_known(volumes):
    """The logarithm of an exponential volume is linear in the coordinates, so that the covariances are exact."""
    problem, found = volumes
    candidates, until = np.array([60.0, 100.0, 140.0]), 155.0
    gains = scan_gains(problem, found, candidates, until, key=KEY, count=2)

    def slope(day):
        return np.array([SPREAD, DEVIATION * (day - 5.0)])

    def variance(days):
        rows = np.stack([slope(day) for day in days]) / NOISE
        return slope(until) @ np.linalg.inv(np.eye(2) + rows.T @ rows) @ slope(until)

    known = (5.0, 25.0, 55.0)
    expected = [0.5 * np.log(variance(known) / variance((*known, day))) for day in candidates]
    np.testing.assert_allclose(gains.forecast, expected, rtol=1e-5)
    assert gains.speed is None
    # The rate shows more the longer one waits.
    assert expected[0] < expected[1] < expected[2]


@pytest.fixture(scope="module")
def patient():
    """A patient of three visits and the true parameters, known without uncertainty."""
    problem = patient_of_visits()
    observations = {name: OutlineParams(u, 4.0) for name, u in (("core", 0.65), ("lesion", 0.25))}
    params = jax.tree.map(jnp.asarray, Parameters(TRUTH, observations, {"radiation": {"alpha": 0.03}}))
    z = jnp.asarray(problem.prior.unconstrain(params))
    return problem, Calibration(params, problem.prior, z, None, CalibrationResult.COMPLETE)


@pytest.mark.usefixtures("one_test_compiled_plainly")
def test_a_scan_of_a_patient_says_something_of_the_speed(patient):
    problem, found = patient
    gains = scan_gains(problem, found, [180.0, 230.0], 260.0, key=KEY)
    assert gains.speed is not None and (gains.speed > 0).all() and (gains.forecast > 0).all()
    # Nearer to the day in question a scan says more of it.
    assert gains.forecast[1] > gains.forecast[0]


def test_a_dose_is_spent_where_it_kills_most():
    """Without quadratic killing the best dose is the logarithm of the cells over n alpha, less a constant."""
    random = np.random.default_rng(0)
    cells, fractions, alpha, before = np.exp(random.normal(0, 1, (6, 5, 4))), 20, 0.05, 1.5
    dose, limits = np.full(cells.shape, before), np.full(cells.shape, 4.0)
    cells[0], limits[1] = 0.0, 2.0
    slope = -cells * fractions * alpha * np.exp(-fractions * alpha * before)
    best = _spent(dose, [(0.0, slope, alpha, 1e12)], fractions, limits, total := 0.5 * dose.sum())
    np.testing.assert_allclose(best.sum(), total, rtol=1e-6)
    between = (best > 0) & (best < limits)
    height = np.log(cells[between]) / (fractions * alpha) - best[between]
    assert between.sum() > 30 and np.ptp(height) < 0.01
    assert (best[0] == 0).all() and best[1].max() == 2.0
    assert (np.log(cells[1:][best[1:] == 0]) / (fractions * alpha) < height.mean() + 0.01).all()


@pytest.mark.usefixtures("one_test_compiled_plainly")
def test_a_plan_kills_more_with_the_same_dose(patient):
    problem, found = patient
    tissue = np.asarray(problem.anatomy.tissue)
    target = np.asarray(problem.observations["lesion"].inside) > 0.5
    alpha = SameAs("treatments.radiation.alpha")
    treatment = Radiotherapy.course(180.0, 10, np.where(target, 3.0, 0.0), alpha)
    plan = plan_dose(problem, found, treatment, 195.0, key=KEY)
    assert plan.cells.shape == (1,) and plan.cells[0] < plan.given_cells[0]
    assert plan.dose.sum() <= plan.given.sum() * (1 + 1e-6)
    # Of one draw the logarithm is as good.
    same = plan_dose(problem, found, treatment, 195.0, key=KEY, objective="log-kill", iterations=2)
    np.testing.assert_allclose(same.history, plan.history[:3], rtol=1e-6)
    assert same.objective == "log-kill"
    organ = np.zeros_like(tissue)
    organ[: tissue.shape[0] // 2] = True
    spared = plan_dose(problem, found, treatment, 195.0, key=KEY, spare={"half": (organ, 2.5)}, maximum=5.0)
    assert plan.cells[0] < spared.cells[0]
    assert spared.dose[organ].max() <= 2.5 and spared.dose.max() <= 5.0 and spared.dose[~tissue].max() == 0
    # At the optimum one more gray kills the same number of cells wherever it may be given.
    treated, _ = continued(problem, np.array([195.0]), {"planned": treatment})
    _, slope, *_ = _cells_left((treated, jnp.asarray(spared.dose)), found.params)
    between = (spared.dose > 0.05) & (spared.dose < np.where(organ, 2.5, 5.0) - 0.05)
    rates = -np.asarray(slope)[between]
    assert between.sum() > 20 and np.std(rates) < 0.05 * rates.mean()


@pytest.mark.parametrize("objective", ("cells", "log-kill"))
def test_every_draw_has_its_say_by_log_kill(objective):
    """A draw with a thousand times the cells of the other decides the mean of the cells, but not that of logarithms."""
    fractions, alpha, many = 20, 0.05, np.array([1000.0, 1.0])
    places = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]).reshape(2, 3, 1, 1)
    dose, limits = np.full((3, 1, 1), 1.0), np.full((3, 1, 1), 9.0)
    history = []
    for _ in range(60):
        cells = many[:, None, None, None] * places * np.exp(-fractions * alpha * dose)
        found = [Left(each.sum(), -fractions * alpha * each, alpha, 1e12) for each in cells]
        history.append(_mean(found, objective))
        dose = _spent(dose, _weighed(found, objective), fractions, limits, 3.0)
    assert dose.sum() == pytest.approx(3.0) and all(later < 1.0001 * earlier for earlier, later in pairwise(history))
    first, second, both = dose.ravel()
    if objective == "cells":
        # What is left is the same in both places of the first draw: all dose is there.
        np.testing.assert_allclose([first, second, both], [1.5, 0, 1.5], atol=0.01)
    else:
        # By symmetry, and since d log(a + b) = (da + db) / (a + b): the last place weighs twice as much.
        apart = np.log(2)
        np.testing.assert_allclose([first, second, both - apart], 1 - apart / 3, atol=0.01)


@pytest.mark.usefixtures("one_test_compiled_plainly")
def test_a_plan_where_no_cell_is_left(patient):
    """They are fewer than the smallest number: nothing is divided by none, and no dose is lost."""
    problem, found = patient
    target = np.asarray(problem.observations["lesion"].inside) > 0.5
    whole = Radiotherapy.course(180.0, 20, np.where(np.asarray(problem.anatomy.tissue), 9.0, 0.0), 9.0)
    for limit in (None, 8.0):
        spare = {} if limit is None else {"organ": (target, limit)}
        plan = plan_dose(problem, found, whole, 215.0, key=KEY, spare=spare, iterations=2)
        assert plan.given_cells[0] == plan.cells[0] == 0 and plan.ratio[0] == 1
        assert plan.dose[target].max() == (limit or 9)
        assert _ratio(plan) == {"cells_over_uniform": 1.0, "cells_over_uniform_interval_90": [1.0, 1.0]}


@pytest.mark.usefixtures("one_test_compiled_plainly")
def test_progress_of_a_plan_does_not_go_back(patient, monkeypatch):
    problem, found = patient
    target = np.asarray(problem.observations["lesion"].inside) > 0.5
    # A map that is worse, of which every share of the way is tried.
    monkeypatch.setattr(dose_module, "_spent", lambda dose, *_: np.zeros_like(dose))
    treatment, told = Radiotherapy.course(180.0, 2, np.where(target, 3.0, 0.0), 0.03), []
    plan = plan_dose(problem, found, treatment, 195.0, key=KEY, count=2, progress=told.append)
    assert told == sorted(told) and told[-1] == 1 and len(plan.history) == 1


def test_few_fractions_are_given_in_full_or_not_at_all():
    """Where one gray kills less than the next, a voxel gets the dose at which the mean of all is largest, or none."""
    cells, alpha, ratio = np.array([[[3.0, 2.0, 1.0, 0.5]]]), 0.01, 1.0
    dose, limits = np.full(cells.shape, 2.0), np.full(cells.shape, 10.0)
    slope = -cells * alpha * (1 + 2 * dose / ratio) * np.exp(-alpha * dose * (1 + dose / ratio))
    best = _spent(dose, [(0.0, slope, alpha, ratio)], 1, limits, 20.0)
    doses = np.linspace(0.01, 10, 1000)
    fullest = doses[np.argmax((1 - np.exp(-alpha * doses * (1 + doses / ratio))) / doses)]
    assert best[0, 0, 2] == 0 and best[0, 0, 3] == 0
    assert best[0, 0, 0] > fullest - 0.2 and best[0, 0, 1] > fullest - 0.2 and best.sum() <= 20


@pytest.mark.parametrize(
    ("dose", "settings", "message"),
    [
        (None, {}, "the dose is a map on the anatomy's grid"),
        (0.0, {}, "the given dose is zero everywhere"),
        (2.0, {"day": 182.0}, "cells are counted after the last fraction on day 183"),
        (2.0, {"objective": "nobody"}, "objective is one of cells, log-kill, got 'nobody'"),
        (2.0, {"maximum": -1.0}, "the limit of maximum is a dose of at least 0 Gy a fraction, got -1"),
        (2.0, {"spare": {"eye": (np.ones(3, bool), 1.0)}}, "the mask of eye has shape"),
    ],
)
def test_plans_that_cannot_be(patient, dose, settings, message):
    problem, found = patient
    dose = 2.0 if dose is None else np.full(problem.anatomy.grid.shape, dose)
    treatment = Radiotherapy((180.0, 183.0), dose, 0.03)
    with pytest.raises(ValueError, match=message):
        plan_dose(problem, found, treatment, **{"day": 185.0, "key": KEY, **settings})


@pytest.mark.parametrize(
    ("days", "message"),
    [((), "candidates for a scan are days after the last visit"), ((55.0,), "after the last visit on day 55, got")],
)
def test_scans_that_cannot_be(volumes, days, message):
    problem, found = volumes
    with pytest.raises(ValueError, match=message):
        scan_gains(problem, found, days, 155.0, key=KEY)
