"""Importance sampling, stratified points, rejection and Metropolis draw from known posteriors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import patient
from tests.targets import AbstractKnown, Banana, Failing, Gaussian, TwoModes, same_stats
from tumorjax.calibration import CalibrationResult, calibrate
from tumorjax.methods import LBFGS
from tumorjax.methods.sampling.metropolis import Metropolis
from tumorjax.methods.sampling.rejection import Rejection
from tumorjax.methods.sampling.target import log_likelihoods
from tumorjax.methods.sampling.weighted import Importance, Stratified

KEY = jax.random.key(11)


class Wide(Gaussian):
    """A Gaussian whose posterior is not far from the prior, so that draws of the prior find it."""

    @property
    def precision(self):
        return super().precision / 25


class Killed(Exception):
    pass


def killer(times):
    """Progress function that raises at a given call."""
    told = []

    def progress(*news):
        told.append(news)
        if len(told) == times:
            raise Killed

    return progress


def standardised(found, target, ess):
    """Return errors of means and variances in their standard errors, for weighted draws."""
    draws = found.draws.reshape(-1, target.size)
    log_weights = np.zeros(len(draws)) if found.log_weights is None else found.log_weights[0]
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    variance = np.diagonal(target.covariance)
    away = draws - target.mean
    squares = weights @ (away**2 - variance) / np.sqrt(weights @ (away**2 - variance) ** 2 / ess)
    return np.abs(np.concatenate([weights @ away / np.sqrt(variance / ess), squares]))


def check(found, target, ess=None):
    assert standardised(found, target, found.stats.effective if ess is None else ess).max() < 3.5
    assert abs(found.log_evidence - target.log_evidence) < 3 * found.stats.log_evidence_error
    np.testing.assert_allclose(
        found.log_likelihoods[0, ::50], log_likelihoods(target, found.draws[0, ::50]), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("size", (1, 5))
def test_importance_from_the_laplace_approximation(size):
    target = Gaussian(size)
    found = Importance(2000).draw(target, KEY, target.mean, target.covariance)
    check(found, target)
    stats = found.stats
    # The efficiency of a t of five degrees of freedom for a Gaussian.
    assert 0.7 < stats.effective / 2000 < 0.98
    assert 0.003 < stats.log_evidence_error < 0.02
    assert (stats.cost.solves, stats.failed) == (2000, 0)


def test_importance_from_the_prior():
    target = Banana()
    found = Importance(4000, proposal="prior").draw(target, KEY)
    check(found, target)
    assert 100 < found.stats.effective < 1000


def test_the_error_of_the_evidence_is_calibrated():
    target = Wide(2)
    keys = jax.random.split(KEY, 25)
    for method, tight in (
        (Importance(128, proposal="prior"), 0.15),
        (Stratified(128, strata="latin", repeats=8), 0.15),
        (Stratified(128, strata="sobol", repeats=8), 0.08),
    ):
        runs = [method.draw(target, key) for key in keys]
        errors = np.array([run.log_evidence for run in runs]) - target.log_evidence
        told = np.sqrt(np.mean([run.stats.log_evidence_error**2 for run in runs]))
        assert 0.6 < told / np.sqrt(np.mean(errors**2)) < 1.6
        assert told < tight


@pytest.mark.parametrize("strata", ("latin", "sobol"))
def test_stratified_points(strata):
    target = Wide(3)
    found = Stratified(2048, strata=strata).draw(target, KEY)
    check(found, target)
    # Every slice of every coordinate has one point of each design.
    for design in np.split(found.draws[0], 8):
        slices = np.floor(jax.scipy.special.ndtr(design) * 256).astype(int)
        np.testing.assert_array_equal(np.sort(slices, axis=0), np.arange(256)[:, None].repeat(3, axis=1))


@pytest.mark.parametrize("target", (Wide(2), Banana(), TwoModes(2, 0.3)))
def test_rejection_draws_exactly(target):
    # Far from where the likelihood is largest; of two modes it finds the lower.
    found = Rejection(200, budget=40_000).draw(target, KEY, np.full(2, -0.9))
    check(found, target, ess=200)
    stats = found.stats
    assert stats.failed == 0
    solves, (acceptance,) = stats.cost.solves - stats.cost.gradients, stats.acceptance
    assert 200 / acceptance <= solves < 200 / acceptance + 64
    assert stats.cost.gradients >= 1
    assert stats.details["bound"] == pytest.approx(np.log(0.7) if isinstance(target, TwoModes) else 0.0, abs=0.02)
    assert found.log_weights is None


def test_a_bound_that_was_too_low_is_raised():
    class Blind(Wide):
        """A target with a gradient of zero."""

        def log_likelihood(self, z):
            return jax.lax.stop_gradient(super().log_likelihood(z))

    target = Blind(2)
    found = Rejection(400).draw(target, KEY, np.full(2, 1.5))
    assert log_likelihoods(target, np.full((1, 2), 1.5))[0] < -0.3
    assert -0.05 < found.stats.details["bound"] < 0
    check(found, target, ess=400)


def test_rejection_gives_up_at_its_budget():
    with pytest.raises(ValueError, match=r"^\d+ of the 50 draws wanted were accepted within the budget of 100 solves"):
        Rejection(50, budget=100).draw(Gaussian(3), KEY, Gaussian(3).mean)


@pytest.fixture(scope="module")
def walked():
    target = Gaussian(3)
    return Metropolis(draws=1500, burn_in=500).draw(target, KEY, target.mean, 4 * target.covariance)


def test_metropolis_on_a_gaussian(walked):
    assert walked.draws.shape == (4, 1500, 3)
    assert standardised(walked, Gaussian(3), walked.stats.ess.min() / 2).max() < 3.5
    np.testing.assert_allclose(
        walked.log_likelihoods[:, ::300].ravel(), log_likelihoods(Gaussian(3), walked.draws[:, ::300].reshape(-1, 3))
    )


def test_statistics_of_metropolis(walked):
    stats = walked.stats
    assert stats.cost.solves == 4 * 2001
    assert stats.failed == 0
    assert stats.r_hat.shape == stats.ess.shape == (3,)
    assert stats.r_hat.max() < 1.05
    assert 200 < stats.ess.min() < 6000
    # It is tuned to 0.234.
    assert len(stats.acceptance) == 4
    assert 0.15 < min(stats.acceptance) <= max(stats.acceptance) < 0.35


def test_metropolis_learns_the_covariance():
    target = Gaussian(3)
    # The prior's covariance, of which proposals are accepted in one of hundreds.
    found = Metropolis(draws=500, burn_in=600).draw(target, KEY, np.zeros(3), np.eye(3))
    assert 0.12 < min(found.stats.acceptance) <= max(found.stats.acceptance) < 0.4
    assert found.stats.ess.min() > 60


@pytest.mark.parametrize(
    ("method", "given"),
    (
        (Importance(300), ("centre", "covariance")),
        (Stratified(512), ()),
        (Rejection(100, budget=1000), ("centre",)),
        (Metropolis(chains=2, draws=70, burn_in=60, block=25), ("centre", "covariance")),
    ),
)
@pytest.mark.parametrize("times", (1, 3))
def test_goes_on_where_it_was_killed(tmp_path, method, given, times):
    target, path = Wide(2), str(tmp_path / "file.npz")
    arguments = {name: {"centre": target.mean, "covariance": target.covariance}[name] for name in given}
    whole = method.draw(target, KEY, **arguments)
    keeping = dataclasses.replace(method, checkpoint=path)
    with pytest.raises(Killed):
        keeping.draw(target, KEY, **arguments, progress=killer(times))
    resumed = keeping.draw(target, KEY, **arguments)
    np.testing.assert_array_equal(resumed.draws, whole.draws)
    np.testing.assert_array_equal(resumed.log_likelihoods, whole.log_likelihoods)
    assert same_stats(resumed.stats, whole.stats)
    with pytest.raises(ValueError, match="another calibration"):
        keeping.draw(target, jax.random.key(0), **arguments)


def test_failed_solves_have_no_share():
    # Half of the posterior's probability, and of the evidence, where the target is symmetric.
    class Symmetric(AbstractKnown):
        def log_likelihood(self, z):
            return -0.5 * jnp.sum(z**2)

    target, centre, covariance = Failing(Symmetric(2)), np.zeros(2), 0.5 * np.eye(2)
    log_evidence = np.log(0.5) + 2 * np.log(np.sqrt(0.5))
    for found in (
        Importance(1000).draw(target, KEY, centre, covariance),
        Stratified(1024).draw(target, KEY),
        Rejection(200).draw(target, KEY, centre - 0.1),
    ):
        stats = found.stats
        assert 0.4 < stats.failed / stats.cost.solves < 0.6
        assert abs(found.log_evidence - log_evidence) < 3.5 * stats.log_evidence_error
        log_weights = np.zeros(len(found.draws[0])) if found.log_weights is None else found.log_weights[0]
        weights = np.exp(log_weights - log_weights.max())
        assert weights[found.draws[0, :, 0] > 0].sum() == 0
    walked = Metropolis(draws=300, burn_in=100).draw(target, KEY, centre, covariance)
    assert walked.draws[..., 0].max() <= 0
    assert 100 < walked.stats.failed < walked.stats.cost.solves / 2


def test_nothing_is_possible():
    target = Failing(Gaussian(2), -30.0)
    with pytest.raises(ValueError, match="all 100 points have likelihood zero, or failed: the prior excludes the data"):
        Importance(100, proposal="prior").draw(target, KEY)
    with pytest.raises(ValueError, match="fails where the search for its largest value begins"):
        Rejection().draw(target, KEY, np.zeros(2))
    with pytest.raises(ValueError, match="fails even close to the start"):
        Metropolis().draw(target, KEY, np.zeros(2), np.eye(2))


def test_too_few_draws_are_refused_with_their_number():
    few = Rejection(draws=100, budget=100)
    with pytest.raises(ValueError, match=r"^[1-9]\d? of the 100 draws .* of 100 solves: the posterior is much"):
        few.draw(Gaussian(2), KEY, np.zeros(2))
    with pytest.raises(ValueError, match=r"100 solves, of which [4-6]\d gave no likelihood: the posterior is much"):
        few.draw(Failing(Gaussian(2)), KEY, np.full(2, -0.5))


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    (
        (Importance, {"draws": 1}, "draws must be a whole number of at least 2, got 1"),
        (Importance, {"draws": 10.5}, "draws must be a whole number of at least 2, got 10.5"),
        (Importance, {"start": 3}, "start must be a method object such as LBFGS\\(\\), or None, got 3"),
        (Importance, {"checkpoint": 7}, "checkpoint must be the path of a file or None, got 7"),
        (Importance, {"proposal": "flow"}, "'laplace' or 'prior', got 'flow'"),
        (Stratified, {"strata": "grid"}, "'latin' or 'sobol', got 'grid'"),
        (Stratified, {"draws": 100}, "draws must be a multiple of the 8 designs, got 100"),
        (Stratified, {"draws": 96}, "8 times a power of 2 for Sobol points, got 96"),
        (Stratified, {"repeats": 1}, "repeats must be a whole number of at least 2, got 1"),
        (Rejection, {"draws": np.nan}, "draws must be a whole number of at least 2, got nan"),
        (Rejection, {"budget": 10}, "budget must be at least draws, got 10 and 100"),
        (Metropolis, {"chains": 0}, "chains must be a whole number of at least 1, got 0"),
        (Metropolis, {"burn_in": -1}, "burn_in must be a whole number of at least 0, got -1"),
    ),
)
def test_bad_settings_are_refused(method, settings, message):
    with pytest.raises(ValueError, match=message):
        method(**settings)


@pytest.mark.parametrize("method", (Importance(), Stratified(), Rejection(), Metropolis()))
def test_a_key_is_needed(method):
    with pytest.raises(ValueError, match=f"{type(method).__name__} draws random numbers; give calibrate a key"):
        calibrate(patient(), method)


def test_calibrations_of_a_tumour():
    problem = patient()
    search = LBFGS(starts=2, coarsening=2, value_tolerance=1e-3)
    near = calibrate(problem, search)
    # Of growth: that of the thresholds given growth is along a curve, which is thinner than Laplace's approximation.
    factor = np.linalg.cholesky(near.covariance[:5, :5])

    def white(points):
        return np.linalg.solve(factor, (np.asarray(points) - np.asarray(near.coordinates))[..., :5].reshape(-1, 5).T)

    found = calibrate(problem, Importance(200, start=search), key=KEY)
    assert found.result is CalibrationResult.COMPLETE
    assert found.draws.shape == (1, 200, 9)
    assert found.stats.effective > 20
    # With the search around which the draws were proposed.
    # Each draw is completed by a second solve.
    assert found.cost.solves == 2 * 200 + near.cost.solves and found.cost.gradients == near.cost.gradients
    # Laplace's approximation of the evidence.
    peak = -near.stats.objective
    laplace = peak + 0.5 * np.linalg.slogdet(near.covariance)[1]
    assert abs(float(found.log_evidence) - laplace) < 1
    assert np.abs(white(found.draws) @ np.exp(found.log_weights)).max() < 1
    walked = calibrate(problem, Metropolis(chains=2, draws=60, burn_in=40, block=20, start=search), key=KEY)
    assert walked.draws.shape == (2, 60, 9)
    assert np.abs(white(walked.draws)).max() < 6
