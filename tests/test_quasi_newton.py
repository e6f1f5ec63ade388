"""L-BFGS on functions with known minima, with budgets and with failures."""

import numpy as np
import pytest
from scipy.optimize import rosen, rosen_der

from tumorjax.calibration.quasi_newton import minimise
from tumorjax.calibration.result import CalibrationResult


def counted(function, gradient):
    """Return an objective, and the list of the points at which it was evaluated."""
    points = []

    def objective(point):
        points.append(np.array(point))
        return float(function(point)), np.asarray(gradient(point), float)

    return objective, points


def search(objective, start, *, budget=200, gradient=1e-8, value=0.0, **rest):
    return minimise(
        objective, np.asarray(start, float), budget=budget, gradient_tolerance=gradient, value_tolerance=value, **rest
    )


SCALES = np.array([1e-3, 1e-1, 1.0, 30.0, 1e3])
CENTRE = np.array([3.0, -1.0, 0.5, 2.0, -4.0])


def bowl(point):
    return 5 + 0.5 * np.sum(SCALES * (point - CENTRE) ** 2)


def bowl_gradient(point):
    return SCALES * (point - CENTRE)


def test_rosenbrock():
    objective, points = counted(rosen, rosen_der)
    found = search(objective, [-1.2, 1.0])
    np.testing.assert_allclose(found.point, 1, atol=1e-6)
    assert found.value < 1e-12
    assert found.result is CalibrationResult.GRADIENT
    assert found.evaluations == len(points) < 70


def test_a_badly_scaled_quadratic():
    objective, points = counted(bowl, bowl_gradient)
    found = search(objective, np.zeros(5), budget=400)
    np.testing.assert_allclose(found.point, CENTRE, atol=1e-4)
    assert found.value == pytest.approx(5, abs=1e-10)
    assert found.evaluations == len(points) < 150


def test_history_falls_from_the_start_to_the_best():
    objective, points = counted(rosen, rosen_der)
    told = []
    found = search(objective, [-1.2, 1.0, 0.7], progress=lambda evaluations, value: told.append((evaluations, value)))
    assert found.history[0] == rosen(points[0])
    assert found.history[-1] == found.value == min(rosen(p) for p in points)
    assert np.all(np.diff(found.history) < 0)
    np.testing.assert_array_equal(found.gradient, rosen_der(found.point))
    assert [evaluations for evaluations, _ in told] == list(range(2, len(points) + 1))
    assert np.all(np.diff([value for _, value in told]) <= 0)


@pytest.mark.parametrize("budget", (2, 3, 7, 20))
def test_the_budget_is_kept_to(budget):
    objective, points = counted(rosen, rosen_der)
    found = search(objective, [-1.2, 1.0], budget=budget)
    assert len(points) == found.evaluations == budget
    assert found.result is CalibrationResult.BUDGET
    assert found.value == min(rosen(p) for p in points) <= rosen(points[0])


def test_stops_where_the_gradient_is_small():
    objective, points = counted(bowl, bowl_gradient)
    found = search(objective, CENTRE + 1e-7, gradient=1e-3)
    assert len(points) == 1
    assert found.result is CalibrationResult.GRADIENT
    loose = search(objective, np.zeros(5), gradient=1.0)
    assert np.abs(loose.gradient).max() < 1
    assert loose.result is CalibrationResult.GRADIENT


def test_stops_where_the_value_no_longer_improves():
    objective, _ = counted(bowl, bowl_gradient)
    found = search(objective, np.zeros(5), gradient=0.0, value=1e-3)
    assert found.result is CalibrationResult.VALUE
    assert found.history[-3] - found.history[-1] < 1e-3 * found.value
    assert found.value < 5.1


@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_a_start_that_is_not_finite(bad):
    objective, points = counted(lambda p: bad, lambda p: np.zeros(2))
    found = search(objective, [0.0, 0.0])
    assert found.result is CalibrationResult.NOT_FINITE
    assert len(points) == found.evaluations == 1
    objective, _ = counted(lambda p: 1.0, lambda p: np.array([1.0, np.nan]))
    assert search(objective, [0.0, 0.0]).result is CalibrationResult.NOT_FINITE


def test_walks_around_where_the_objective_is_not_finite():
    # The logarithm of a product of distances, and NaN beyond a wall that the first steps run into.
    def value(p):
        return p.sum() - np.log(p).sum() if np.all(p > 0) else np.nan

    def slope(p):
        return 1 - 1 / p if np.all(p > 0) else np.full(2, np.nan)

    objective, points = counted(value, slope)
    found = search(objective, [30.0, 0.1])
    assert any(np.any(p <= 0) for p in points)
    np.testing.assert_allclose(found.point, 1, atol=1e-6)
    assert np.isfinite(found.history).all()


def test_a_wrong_gradient_ends_the_search():
    # The gradient has the wrong sign, so no step can decrease the function.
    objective, points = counted(bowl, lambda p: -bowl_gradient(p))
    found = search(objective, np.zeros(5))
    assert found.result is CalibrationResult.LINE_SEARCH
    assert found.evaluations == len(points) < 50
    np.testing.assert_array_equal(found.point, 0)
