"""Hamiltonian Monte Carlo around a maximum: moments that are known."""

import numpy as np
import pytest

from tumorjax.methods.search.trajectories import trajectories

SIZE = 12
# Steepness of a wall that the normal approximation at the maximum does not see.
STEEP = 12.0


def normal(precision):
    def objective(x):
        return 0.5 * x @ precision @ x, precision @ x

    return objective


def walled(x):
    """Minus the log-density of a standard normal distribution with a wall above a half of the first coordinate."""
    wall = np.exp(STEEP * (x[0] - 0.5))
    return 0.5 * x @ x + wall, x + STEEP * wall * np.eye(SIZE)[0]


def test_moments_of_a_normal_distribution_by_a_wrong_factor():
    random = np.random.default_rng(3)
    root = random.normal(size=(SIZE, SIZE)) / np.sqrt(SIZE)
    precision = root @ root.T + np.eye(SIZE)
    found = trajectories(normal(precision), np.zeros(SIZE), 0.8 * np.eye(SIZE), 3000, warmup=50)
    assert found.steps.shape == (3000, SIZE)
    assert 0.6 < found.acceptance < 0.95
    covariance = np.linalg.inv(precision)
    np.testing.assert_allclose(found.steps.mean(axis=0), 0.0, atol=0.08)
    np.testing.assert_allclose(np.cov(found.steps.T), covariance, atol=0.1 * np.abs(covariance).max())


def test_a_wall_that_the_normal_approximation_does_not_see():
    found = trajectories(walled, np.zeros(SIZE), np.eye(SIZE), 3000, warmup=50)
    x = np.linspace(-6, 1.5, 20001)
    density = np.exp(-0.5 * x**2 - np.exp(STEEP * (x - 0.5)))
    mean = np.sum(x * density) / density.sum()
    deviation = np.sqrt(np.sum((x - mean) ** 2 * density) / density.sum())
    assert found.steps[:, 0].mean() == pytest.approx(mean, abs=0.06)
    assert found.steps[:, 0].std() == pytest.approx(deviation, rel=0.08)
    assert found.steps[:, 0].max() < 1.0


def test_where_there_is_no_density_nothing_is_accepted():
    def objective(x):
        return (np.nan if x[0] > 0.5 else 0.5 * x @ x), x

    found = trajectories(objective, np.zeros(3), np.eye(3), 200)
    assert found.steps[:, 0].max() <= 0.5
    assert np.isfinite(found.steps).all()


def test_draws_are_those_of_the_seed_and_are_counted():
    shares = []
    runs = [
        trajectories(walled, np.zeros(SIZE), np.eye(SIZE), 5, warmup=3, seed=seed, progress=shares.append)
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(runs[0].steps, runs[1].steps)
    assert len(runs[0].steps) == 5 and not np.array_equal(runs[0].steps, runs[2].steps)
    assert shares[5] == 1.0 and runs[0].gradients > 2 * 6
