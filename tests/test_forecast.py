"""Forecasts: the fit on the days of visits, known distributions after them, and treatments to come."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.visits import DAYS, DEVIATION, MEAN, MEDIAN, SPREAD, TRUTH, patient_of_visits, radiation, volumes_of_visits
from tumorjax.calibration import Calibration, Parameters, Problem, Visit, calibrate, forecast
from tumorjax.calibration.result import CalibrationResult
from tumorjax.growth import Chemotherapy
from tumorjax.methods import LBFGS
from tumorjax.observation import DensityMap, DensityMapParams, OutlineParams
from tumorjax.prior import Prior, SameAs

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def volumes():
    problem, mean, covariance = volumes_of_visits((5.0, 25.0, 55.0))
    return problem, calibrate(problem, LBFGS(starts=1)), mean, covariance


def test_bands_of_a_volume_are_known(volumes):
    """The logarithm of the volume is Gaussian on every day, whose mean and deviation follow from the posterior."""
    problem, found, mean, covariance = volumes
    days = np.array([155.0, 25.0, 55.0])
    told = forecast(problem, found, days, key=KEY, count=800).volume("volume")
    slopes = np.stack([np.full(3, SPREAD), DEVIATION * (days - 5.0)], axis=1)
    middle = np.log(MEDIAN) + MEAN * (days - 5.0) + slopes @ mean
    spread = np.sqrt(np.einsum("ti,ij,tj->t", slopes, covariance, slopes))
    np.testing.assert_allclose(np.log(told.mode), middle, atol=4 * 1.3 * spread.max() / np.sqrt(800))
    np.testing.assert_allclose(np.log(told.high / told.low) / (2 * 1.645 * spread), 1, atol=0.12)
    # Nothing is known of day 155 but by the rate.
    assert spread[0] > 2 * spread[2]


def test_a_drug_to_come_acts_from_its_day_on(volumes):
    problem, found, *_ = volumes
    days, drug = (60.0, 90.0), {"drug": Chemotherapy(70.0, 80.0, 0.05)}
    plain, treated = (forecast(problem, found, days, key=KEY, count=5, treatments=more) for more in ({}, drug))
    ratio = treated.volumes["volume"] / plain.volumes["volume"]
    np.testing.assert_allclose(ratio, np.broadcast_to([1, np.exp(-0.5)], (5, 2)), rtol=1e-6)


@pytest.mark.parametrize(
    ("days", "more", "message"),
    [
        ((), {}, "a forecast needs days that are finite numbers"),
        ((4.0, 60.0), {}, "a forecast begins with the first visit on day 5, got day 4"),
        ((60.0,), {"mapped": (61.0,)}, "maps are wanted for day 61, which is none of the days of the forecast"),
        ((60.0,), {"count": 0}, "count must be a whole number of at least 1"),
        (
            (60.0,),
            {"treatments": {"drug": Chemotherapy(70.0, 80.0, 0.05)}},
            "takes place on day 70, but the last visit",
        ),
    ],
)
def test_forecasts_that_cannot_be(volumes, days, more, message):
    problem, found, *_ = volumes
    with pytest.raises(ValueError, match=message):
        forecast(problem, found, days, key=KEY, **more)


@pytest.mark.usefixtures("one_test_compiled_plainly")
def test_the_forecast_for_a_visit_is_the_fit_and_alpha_serves_again():
    problem = patient_of_visits()
    observations = {name: OutlineParams(u, 4.0) for name, u in (("core", 0.65), ("lesion", 0.25))}
    params = jax.tree.map(jnp.asarray, Parameters(TRUTH, observations, {"radiation": {"alpha": 0.03}}))
    z = jnp.asarray(problem.prior.unconstrain(params))
    # As a single match is known: without uncertainty.
    found = Calibration(params, problem.prior, z, None, CalibrationResult.COMPLETE)
    again = dataclasses.replace(radiation(SameAs("treatments.radiation.alpha")), days=(180.0,))
    told = forecast(problem, found, (*DAYS[1:], 190.0), key=KEY, treatments={"again": again}, thresholds=(0.1,))
    assert told.density.shape == (3, *problem.anatomy.grid.shape)
    np.testing.assert_allclose(told.density[1], problem.density(params), atol=2e-3)
    np.testing.assert_allclose(told.deviation, 0, atol=1e-9)
    np.testing.assert_array_equal(told.probabilities[0.1], told.density > 0.1)
    voxel = float(problem.anatomy.grid.voxel_volume)
    counted = voxel * (np.asarray(told.density) > 0.25).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(told.volumes["lesion"][0], counted)
    np.testing.assert_array_equal(told.inside["lesion"], told.density > 0.25)
    # The same with the number itself.
    known = dataclasses.replace(again, alpha=0.03)
    same = forecast(problem, found, (130.0, 190.0), key=KEY, treatments={"again": known}, mapped=(190.0,))
    np.testing.assert_allclose(same.density, told.density[2:], atol=2e-3)
    assert same.volumes["lesion"].shape == (1, 2) and same.mapped.tolist() == [190.0]
    with pytest.raises(ValueError, match="has a treatment 'radiation' already"):
        forecast(problem, found, (190.0,), key=KEY, treatments={"radiation": known})


@pytest.mark.usefixtures("one_test_compiled_plainly")
def test_without_an_outline_the_cells_are_summed():
    problem = patient_of_visits(DAYS[:2], treated=False)
    solution = problem.solve(Parameters(TRUTH, {}))
    maps = {"cells": DensityMap(solution.density, problem.anatomy.tissue)}
    prior = Prior(Parameters(problem.prior.distributions.growth, {"cells": DensityMapParams(0.1)}))
    seen = Problem(problem.model, problem.anatomy, [Visit(day, maps) for day in DAYS[:2]], prior)
    params = jax.tree.map(jnp.asarray, Parameters(TRUTH, {"cells": DensityMapParams(0.1)}))
    found = Calibration(params, prior, jnp.asarray(prior.unconstrain(params)), None, CalibrationResult.COMPLETE)
    told = forecast(seen, found, DAYS[1:2], key=KEY)
    voxel = float(problem.anatomy.grid.voxel_volume)
    np.testing.assert_allclose(told.volumes["cells"], [[voxel * solution.density.sum()]], rtol=1e-4)
