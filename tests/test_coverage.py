"""Diagnostics: a correct posterior passes, and each kind of error has the effect that theory predicts."""

import numpy as np
import pytest
from scipy import stats

from tumorjax.calibration.coverage import (
    central_credibility,
    coverage,
    density_credibility,
    distance_credibility,
    predictive_p_values,
    ranks,
    uniformity,
)

SETS, DRAWS = 2000, 60
SIGMA = np.array([0.5, 1.0, 2.0])


def posteriors(*, width=1.0, shift=0.0, seed=0):
    """Return truths, draws and log-densities for a normal prior and normal data, with errors put into the posterior.

    The posterior of theta ~ N(0, 1) and y ~ N(theta, sigma^2) is N(y / (1 + sigma^2), sigma^2 / (1 + sigma^2)); its
    standard deviation is multiplied by `width`, and `shift` of them are added to its mean.
    """
    rng = np.random.default_rng(seed)
    truths = rng.normal(size=(SETS, 3))
    data = truths + SIGMA * rng.normal(size=truths.shape)
    right = SIGMA / np.sqrt(1 + SIGMA**2)
    mean, deviation = data / (1 + SIGMA**2) + shift * right, width * right
    draws = mean[:, None] + deviation * rng.normal(size=(SETS, DRAWS, 3))

    def log_density(points, centre):
        return -0.5 * np.sum(((points - centre) / deviation) ** 2, axis=-1)

    return truths, draws, log_density(truths, mean), log_density(draws, mean[:, None]), data


def all_credibilities(truths, draws, log_truths, log_draws, log_weights=None):
    return {
        "central": central_credibility(ranks(truths, draws, log_weights)[:, 1]),
        "density": density_credibility(log_truths, log_draws, log_weights),
        "distance": distance_credibility(truths, draws, log_weights),
    }


def test_a_right_posterior_has_uniform_ranks_and_nominal_coverage():
    truths, draws, *densities, _ = posteriors()
    found = ranks(truths, draws)
    assert found.shape == truths.shape
    assert np.all((found > 0) & (found < 1))
    assert np.all(uniformity(found) > 1e-3)
    for name, credibility in all_credibilities(truths, draws, *densities).items():
        assert uniformity(credibility) > 1e-3, name
        # So many levels that some would be outside of bounds that hold 99 % each.
        told = coverage(credibility, probability=0.9999)
        assert np.all((told.found >= told.low) & (told.found <= told.high)), name
        assert np.max(np.abs(told.found - told.levels)) < 0.04, name


def test_ranks_of_few_draws_are_exactly_uniform():
    # Three draws: without the random part, ranks would be thirds.
    rng = np.random.default_rng(1)
    found = ranks(rng.normal(size=20_000), rng.normal(size=(20_000, 3)))
    assert stats.kstest(found, "uniform").pvalue > 1e-3
    assert np.quantile(found, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.015)


@pytest.mark.parametrize("width", (0.6, 1.6))
def test_a_wrong_width_is_found_with_the_coverage_of_theory(width):
    truths, draws, *densities, _ = posteriors(width=width)
    levels = np.array([0.5, 0.8, 0.9])
    central = 2 * stats.norm.cdf(width * stats.norm.ppf((1 + levels) / 2)) - 1
    balls = stats.chi2(3).cdf(width**2 * stats.chi2(3).ppf(levels))
    expected = {"central": central, "density": balls}
    for name, credibility in all_credibilities(truths, draws, *densities).items():
        assert uniformity(credibility) < 1e-6, name
        if name in expected:
            np.testing.assert_allclose(coverage(credibility, levels).found, expected[name], atol=0.035)
    assert np.all(uniformity(ranks(truths, draws)) < 1e-6)


def test_a_bias_is_found():
    truths, draws, *densities, _ = posteriors(shift=0.4)
    found = ranks(truths, draws)
    assert np.all(uniformity(found) < 1e-6)
    # Draws are too large, so the truth ranks low: Pr(N(0, 1) < N(0.4, 1)), the rank's mean.
    np.testing.assert_allclose(found.mean(axis=0), 1 - stats.norm.cdf(0.4 / np.sqrt(2)), atol=0.02)
    credibilities = all_credibilities(truths, draws, *densities)
    # Intervals about the median hardly notice.
    assert uniformity(credibilities["density"]) < 1e-3
    assert uniformity(credibilities["distance"]) < 1e-3


def test_the_prior_for_a_posterior_is_found_by_points_that_follow_the_data():
    truths, _, _, _, data = posteriors()
    prior = np.random.default_rng(5).normal(size=(SETS, DRAWS, 3))
    assert np.all(uniformity(ranks(truths, prior)) > 1e-3)
    assert uniformity(distance_credibility(truths, prior)) > 1e-3
    assert uniformity(distance_credibility(truths, prior, references=data)) < 1e-6


def test_weights_make_wide_draws_right():
    truths, draws, log_truths, log_draws, _ = posteriors(width=1.5)
    # From N(m, (1.5 s)^2) to N(m, s^2): the log-density of the first times 1 - 1.5^2.
    log_weights = log_draws * (1.5**2 - 1) + 7.0
    assert uniformity(ranks(truths, draws)).max() < 1e-6
    assert np.all(uniformity(ranks(truths, draws, log_weights)) > 1e-3)
    for name, credibility in all_credibilities(truths, draws, log_truths, log_draws, log_weights).items():
        told = coverage(credibility, np.array([0.5, 0.9]))
        np.testing.assert_allclose(told.found, told.levels, atol=0.04, err_msg=name)


def test_ties_are_shared_at_random():
    # All draws are the truth, as of a parameter at its bound.
    found = ranks(np.zeros(5000), np.zeros((5000, 40)))
    assert stats.kstest(found, "uniform").pvalue > 1e-3


def test_uniformity_is_a_test_of_its_level():
    rng = np.random.default_rng(0)
    p = uniformity(rng.uniform(size=(200, 2000)))
    assert p.shape == (2000,)
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.02)
    # By hand: ten values, two bins.
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.45, 0.48, 0.49, 0.6, 0.7, 1.0])
    assert float(uniformity(values)) == pytest.approx(stats.chisquare([7, 3]).pvalue)


def test_bounds_of_coverage_are_binomial():
    told = coverage(np.linspace(0.005, 0.995, 100), np.array([0.2, 0.9]), probability=0.95)
    np.testing.assert_allclose(told.found, [0.2, 0.9])
    for level, low, high in zip(told.levels, told.low, told.high, strict=True):
        binomial = stats.binom(100, level)
        assert binomial.cdf(100 * high + 1e-6) - binomial.cdf(100 * low - 1 + 1e-6) >= 0.95
        assert low < level < high


def test_predictive_p_values():
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(40_000, 3))
    p = predictive_p_values(np.array([0.0, 1.0, -2.0]), predicted)
    np.testing.assert_allclose(p, stats.norm.sf([0, 1, -2]), atol=0.01)
    # Weights that turn N(0, 1) into N(1, 1).
    p = predictive_p_values(np.array(1.0), predicted[:, 0], predicted[:, 0])
    assert float(p) == pytest.approx(0.5, abs=0.02)
    assert float(predictive_p_values(np.array(1.0), np.array([0.0, 1.0, 1.0, 2.0]))) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda: ranks(np.zeros((4, 2)), np.zeros((4, 9, 3))), r"do not fit: \(4, 2\) and \(4, 9, 3\)"),
        (lambda: ranks(np.array([np.nan]), np.zeros((1, 9))), "must be finite; leave out data sets whose"),
        (lambda: ranks(np.zeros(4), np.zeros((4, 9)), np.zeros((4, 8))), r"shape \(4, 8\) for draws \(4, 9\)"),
        (lambda: ranks(np.zeros(4), np.zeros((4, 9)), np.full((4, 9), -np.inf)), "a draw must have a finite"),
        (lambda: uniformity(np.zeros(9)), "at least ten data sets, got 9"),
        (lambda: uniformity(np.full(20, 1.5)), r"lie in \[0, 1\], got values from 1\.5"),
        (lambda: predictive_p_values(np.zeros(2), np.zeros((9, 3))), r"shape \(2,\), those of the draws \(d, ...\)"),
    ),
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
