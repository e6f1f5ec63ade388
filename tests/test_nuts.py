"""NUTS draws from known posteriors, and continues after it was killed."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import patient
from tests.targets import Banana, Failing, Gaussian, same_stats
from tumorjax.calibration import CalibrationResult, calibrate
from tumorjax.methods import LBFGS
from tumorjax.methods.sampling import hamiltonian
from tumorjax.methods.sampling.diagnostics import mixing
from tumorjax.methods.sampling.marginal import MarginalTarget
from tumorjax.methods.sampling.nuts import NUTS
from tumorjax.methods.sampling.target import ProblemTarget, log_likelihoods

KEY = jax.random.key(1)


class Killed(Exception):
    pass


def killer(blocks):
    """Progress function that raises at a given call."""
    told = []

    def progress(*news):
        told.append(news)
        if len(told) == blocks:
            raise Killed

    return progress


def deviations(chains, mean, covariance):
    """Return the errors of the means and variances of draws in units of their standard errors."""
    squares = (chains.draws - mean) ** 2
    variance = np.diagonal(covariance)
    means = (chains.draws.mean(axis=(0, 1)) - mean) / np.sqrt(variance / chains.stats.ess)
    # Squares mix more slowly than antithetic draws.
    errors = squares.std(axis=(0, 1)) / np.sqrt(mixing(squares)[1])
    return np.abs(np.concatenate([means, (squares.mean(axis=(0, 1)) - variance) / errors]))


@pytest.fixture(scope="module")
def gaussian():
    return NUTS(draws=500, warmup=100).draw(target := Gaussian(5), KEY, target.mean, 2 * target.covariance)


def test_moments_of_a_gaussian(gaussian):
    target = Gaussian(5)
    assert gaussian.draws.shape == (4, 500, 5)
    assert deviations(gaussian, target.mean, target.covariance).max() < 3


def test_likelihoods_are_those_of_the_draws(gaussian):
    expected = log_likelihoods(Gaussian(5), gaussian.draws[:, ::100].reshape(-1, 5)).reshape(4, -1)
    np.testing.assert_allclose(gaussian.log_likelihoods[:, ::100], expected, rtol=1e-10, atol=1e-10)


def test_statistics_of_a_gaussian(gaussian):
    stats = gaussian.stats
    assert stats.divergences == stats.failed == stats.details["saturated"] == 0
    assert stats.r_hat.shape == stats.ess.shape == (5,)
    assert stats.r_hat.max() < 1.02
    assert stats.ess.min() > 800
    step_size, depth = stats.details["step_size"], stats.details["depth"]
    assert len(stats.acceptance) == len(step_size) == len(depth) == 4
    assert 0.6 < min(stats.acceptance) <= max(stats.acceptance) < 0.97
    assert min(step_size) > 0.3
    # A tree of depth k is of k doublings, the last of which may be left early.
    trees = 4 * 600
    assert trees < stats.cost.gradients == stats.cost.solves < trees * (2 ** (max(depth) + 1))


def test_moments_of_a_banana():
    target = Banana()
    method = NUTS(draws=4000, warmup=300, target_acceptance=0.95, block=500)
    # Nothing to do with the posterior, to which the mass matrix has to adapt.
    found = method.draw(target, jax.random.key(5), np.zeros(2), np.diag([1.0, 0.01]))
    assert found.stats.r_hat.max() < 1.02
    *errors, _ = deviations(found, target.mean, target.covariance)
    assert max(errors) < 3
    # The tail is visited so rarely that its error cannot be estimated from draws.
    assert found.draws[..., 1].var() == pytest.approx(target.covariance[1, 1], rel=0.15)


def test_the_batch_draws_as_the_threads_do():
    target, settings = Gaussian(3), {"chains": 3, "draws": 10, "warmup": 20, "block": 7}
    # Rounding grows along a chain: few draws.
    threads, batch = (
        NUTS(chain_method=method, **settings).draw(target, KEY, target.mean, target.covariance)
        for method in ("threads", "vectorised")
    )
    np.testing.assert_allclose(threads.draws, batch.draws, rtol=1e-6, atol=1e-6)
    assert len(np.unique(threads.draws[:, -1, 0])) == 3


# In warm-up, between two blocks that the end of warm-up parts, and among the draws.
@pytest.mark.parametrize("blocks", (1, 4, 6))
def test_goes_on_where_it_was_killed(tmp_path, blocks):
    target = Banana()
    settings = {"chains": 2, "draws": 45, "warmup": 30, "block": 10}
    whole = NUTS(**settings).draw(target, KEY, target.mean, target.covariance)
    method = NUTS(checkpoint=str(tmp_path / "nuts.npz"), **settings)
    with pytest.raises(Killed):
        method.draw(target, KEY, target.mean, target.covariance, killer(blocks))
    told = []
    resumed = method.draw(target, KEY, target.mean, target.covariance, lambda *news: told.append(news))
    assert len(told) == 8 - blocks
    np.testing.assert_array_equal(resumed.draws, whole.draws)
    np.testing.assert_array_equal(resumed.log_likelihoods, whole.log_likelihoods)
    assert same_stats(resumed.stats, whole.stats)


def test_one_program_for_all_targets_and_blocks():
    settings = {"chains": 2, "draws": 10, "warmup": 20, "block": 8}
    traces = []

    class Counting(Gaussian):
        shift: jax.Array = 0.0

        def log_posterior(self, z):
            traces.append(1)
            return super().log_posterior(z - self.shift)

    for shift in (0.0, 0.5):
        target = Counting(2, jnp.asarray(shift))
        NUTS(**settings).draw(target, KEY, target.mean, target.covariance)
        if shift == 0:
            first = len(traces)
    assert len(traces) == first


def test_failed_solves_are_divergences():
    target = Failing(Gaussian(2), -1.0)
    found = NUTS(draws=300, warmup=100).draw(target, KEY, np.array([-1.3, 0.5]), 0.3 * np.eye(2))
    assert found.draws[..., 0].max() < -1
    assert np.isfinite(found.log_likelihoods).all()
    stats = found.stats
    # Each cuts off a trajectory; those of warm-up and at the starts are failures as well.
    assert stats.failed > stats.divergences > 50
    # The truncated Gaussian, from draws of the whole one.
    rng = np.random.default_rng(0)
    exact = rng.multivariate_normal(Gaussian(2).mean, Gaussian(2).covariance, size=200_000)
    exact = exact[exact[:, 0] < -1]
    error = exact.std(axis=0) / np.sqrt(stats.ess)
    np.testing.assert_array_less(np.abs(found.draws.mean(axis=(0, 1)) - exact.mean(axis=0)), 4 * error)


def test_energy_lost_is_no_failed_solve():
    class Wall(Gaussian):
        def log_likelihood(self, z):
            return jnp.where(z[0] > 0, -1e5, super().log_likelihood(z))

    target = Wall(2)
    stats = NUTS(chains=2, draws=100, warmup=50).draw(target, KEY, np.array([-1.0, 1.0]), np.eye(2)).stats
    assert stats.divergences > 0
    assert stats.failed == 0


def test_nothing_is_possible_near_the_start():
    with pytest.raises(ValueError, match="fails even close to the start: the prior excludes the data"):
        NUTS().draw(Failing(Gaussian(2), -30.0), KEY, np.zeros(2), np.eye(2))


@pytest.mark.parametrize(
    ("settings", "message"),
    (
        ({"chains": 0}, "chains must be a whole number of at least 1, got 0"),
        ({"draws": 3}, "draws must be a whole number of at least 4, got 3"),
        ({"block": 0}, "block must be a whole number of at least 1, got 0"),
        ({"warmup": 10}, "warmup must be a whole number of at least 20, got 10"),
        ({"max_tree_depth": 0}, "max_tree_depth must be a whole number of at least 1, got 0"),
        ({"max_tree_depth": 16}, "max_tree_depth must be at most 15, got 16"),
        ({"start": LBFGS}, "start must be a method object"),
        ({"target_acceptance": 1.0}, "target_acceptance must be between 0 and 1, got 1.0"),
        ({"chain_method": "parallel"}, "'vectorised', 'threads' or None, got 'parallel'"),
    ),
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        NUTS(**settings)


def test_needs_a_key_and_numpyro(monkeypatch):
    problem = patient()
    with pytest.raises(ValueError, match="NUTS draws random numbers; give calibrate a key"):
        calibrate(problem, NUTS())
    monkeypatch.setitem(sys.modules, "numpyro", None)
    with pytest.raises(
        ValueError, match=r"NUTS needs numpyro, which is not installed: pip install 'tumorjax\[bayes\]'"
    ):
        calibrate(problem, NUTS(), key=KEY)


def test_in_single_precision():
    class Single(Gaussian):
        @property
        def dtype(self):
            return jnp.dtype("float32")

        def log_likelihood(self, z):
            assert z.dtype == self.dtype
            return super().log_likelihood(z)

    target = Single(2)
    method = NUTS(chains=2, draws=200, warmup=50)
    found = method.draw(target, KEY, target.mean, target.covariance)
    assert deviations(found, target.mean, target.covariance).max() < 4


# Far too few for moments: what a problem adds to a target.
SHORT = {"chains": 2, "draws": 4, "warmup": 20, "max_tree_depth": 2, "block": 12}


def test_calibrates_a_tumour_and_does_not_begin_again(tmp_path):
    problem = patient()
    search = LBFGS(starts=2, coarsening=2, value_tolerance=1e-3)
    method = NUTS(checkpoint=str(tmp_path / "tumour.npz"), start=search, **SHORT)
    found = calibrate(problem, method, key=KEY)
    assert found.result is CalibrationResult.COMPLETE
    assert found.draws.shape == (2, 4, 9)
    assert found.stats.failed == 0
    assert 2 * 24 < found.stats.cost.gradients <= 2 * 24 * 3 + 2
    points = np.asarray(found.draws, float).reshape(-1, 9)
    expected = log_likelihoods(ProblemTarget(problem), points)
    np.testing.assert_allclose(np.ravel(found.log_likelihoods), expected, rtol=1e-9)
    best = points[np.argmax(expected - 0.5 * np.sum(points**2, axis=1))]
    np.testing.assert_allclose(found.coordinates, best)
    told = []
    again = calibrate(problem, method, key=KEY, progress=lambda *news: told.append(news))
    # The draws are completed again.
    assert {stage for stage, *_ in told} == {"unknowns of images"}
    np.testing.assert_array_equal(again.draws, found.draws)
    # What the search took is kept with its result.
    assert found.cost.coarse_gradients > 0 and found.cost.gradients > found.stats.cost.gradients
    assert again.cost.figures() == found.cost.figures()


def test_begins_at_the_prior_without_a_search():
    problem = patient()
    found = calibrate(problem, NUTS(start=None, **SHORT), key=KEY)
    assert np.isfinite(found.log_likelihoods).all()
    assert found.cost.solves == found.stats.cost.solves
    around = NUTS(**SHORT).draw(MarginalTarget(problem), KEY, np.zeros(5), np.eye(5))
    np.testing.assert_array_equal(found.draws[:, :, :5], around.draws)


def test_single_precision_as_installed(one_test_as_installed):
    assert hamiltonian._real() == np.float32
    target = Gaussian(2)
    found = NUTS(chains=2, draws=200, warmup=50).draw(target, KEY, target.mean, target.covariance)
    assert deviations(found, target.mean, target.covariance).max() < 4
