"""Maps of the posterior: what few draws say can be counted by hand."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.problems import patient
from tumorjax.calibration.evaluation import evaluate, fields
from tumorjax.calibration.sampling import maps
from tumorjax.calibration.sampling.maps import posterior_maps
from tumorjax.calibration.sampling.posterior import posterior_of

LEVELS = (0.01, 0.3)


@pytest.fixture(scope="module")
def problem():
    return patient()


@pytest.fixture(scope="module")
def centre(problem):
    """The truth's coordinates are finite; draws lie about it."""
    return 0.2 * np.ones(problem.prior.size)


def posterior(problem, draws, weights=None):
    shape = draws.shape[:2]
    with np.errstate(divide="ignore"):
        log_weights = None if weights is None else np.log(weights)
    return posterior_of(problem, draws, np.zeros(shape), log_weights=log_weights, stats=())


def densities(problem, points):
    return np.stack([np.asarray(evaluate(fields, problem, z).density) for z in points])


def test_few_draws_are_averaged_by_weight(problem, centre):
    points = np.stack([centre, centre + 0.5, centre - 0.5])
    weights = np.array([0.5, 0.2, 0.3])
    # The first comes twice, with its weight in two parts; one has none.
    draws = np.stack([points[0], points[1], points[0], points[2], 9 + centre]).reshape(1, 5, -1)
    told = []
    found = posterior_maps(
        problem, posterior(problem, draws, np.array([[0.4, 0.2, 0.1, 0.3, 0]])), LEVELS, progress=told.append
    )
    each = densities(problem, points)
    mean = np.tensordot(weights, each, axes=1)
    np.testing.assert_allclose(found.mean, mean, atol=1e-12)
    np.testing.assert_allclose(found.std, np.sqrt(np.tensordot(weights, (each - mean) ** 2, axes=1)), atol=1e-7)
    for level, probability in zip(LEVELS, found.probabilities, strict=True):
        np.testing.assert_allclose(probability, np.tensordot(weights, each > level, axes=1), atol=1e-12)
        # Each sum of weights occurs where the draws differ.
        assert len(np.unique(probability.round(6))) > 3
    assert (found.solves, found.failed) == (3, 0)
    np.testing.assert_allclose(told, [1 / 3, 2 / 3, 1])


def test_one_draw_leaves_no_doubt(problem, centre):
    found = posterior_maps(problem, posterior(problem, np.tile(centre, (2, 10, 1))), LEVELS)
    assert found.solves == 1
    assert found.std.max() < 1e-7
    assert set(np.unique(found.probabilities)) == {0, 1}


def test_many_draws_are_resampled_evenly(problem, centre):
    shifts = np.linspace(-1, 1, 40)
    draws = (centre + shifts[:, None] * np.eye(problem.prior.size)[0]).reshape(2, 20, -1)
    weights = np.concatenate([np.full(30, 1.0), np.full(10, 3.0)])
    chosen, heavy = maps._distinct(posterior(problem, draws, weights.reshape(2, 20)), 20, None)
    assert len(chosen) == 20
    np.testing.assert_allclose(heavy, 1 / 20)
    # 60 parts in all, of which every third is taken: ten of the light thirty, each of the heavy ten.
    place = np.round((chosen[:, 0] - centre[0] + 1) * 39 / 2).astype(int)
    assert np.all(np.diff(place[:10]) == 3)
    np.testing.assert_array_equal(place[10:], np.arange(30, 40))
    begins = {maps._distinct(posterior(problem, draws), 20, jax.random.key(i))[0][0, 0] for i in range(8)}
    assert len(begins) == 2


def test_a_heavy_draw_is_solved_once(problem, centre):
    draws = np.stack([centre + 0.01 * i for i in range(30)]).reshape(1, 30, -1)
    weights = np.full((1, 30), 0.1 / 29)
    weights[0, 4] = 0.9
    chosen, heavy = maps._distinct(posterior(problem, draws, weights), 10, None)
    assert len(chosen) <= 3
    assert heavy.sum() == pytest.approx(1)
    assert heavy.max() >= 0.8


def test_a_batch_on_an_accelerator_gives_the_same(problem, centre, monkeypatch):
    draws = np.stack([centre, centre + 0.4, centre - 0.3]).reshape(1, 3, -1)
    plain = posterior_maps(problem, posterior(problem, draws), LEVELS)
    monkeypatch.setattr(maps, "_BATCH", 2)
    monkeypatch.setattr(maps.jax, "default_backend", lambda: "gpu")
    batched = posterior_maps(problem, posterior(problem, draws), LEVELS)
    np.testing.assert_allclose(batched.mean, plain.mean, atol=1e-9)
    np.testing.assert_allclose(batched.probabilities, plain.probabilities, atol=1e-9)
    assert batched.solves == 3


def test_failed_solves_are_left_out_and_counted(problem, centre, monkeypatch):
    draws = np.stack([centre, centre + 0.4, centre - 0.4]).reshape(1, 3, -1)
    posterior_ = posterior(problem, draws)
    good = densities(problem, draws[0])

    def some(problem, points):
        yield good[0]
        yield np.full_like(good[1], np.nan)
        yield good[2]

    monkeypatch.setattr(maps, "_densities", some)
    found = posterior_maps(problem, posterior_, LEVELS)
    np.testing.assert_allclose(found.mean, (good[0] + good[2]) / 2, atol=1e-12)
    assert (found.solves, found.failed) == (3, 1)
    assert found.probabilities.max() == 1
    monkeypatch.setattr(maps, "_densities", lambda problem, points: (np.full_like(good[0], np.nan) for _ in points))
    with pytest.raises(ValueError, match="none of the 3 solves"):
        posterior_maps(problem, posterior_, LEVELS)


def test_maps_may_be_of_a_larger_box(problem, centre):
    small = dataclasses.replace(
        problem,
        anatomy=problem.anatomy.crop((1, 1, 1), tuple(n - 2 for n in problem.anatomy.grid.shape)),
        observations=tuple(
            type(o)(o.inside[1:-1, 1:-1, 1:-1], o.valid[1:-1, 1:-1, 1:-1]) for o in problem.observations
        ),
    )
    found = posterior_maps(problem, posterior(small, centre.reshape(1, 1, -1)), LEVELS)
    assert found.mean.shape == problem.anatomy.grid.shape


def test_refuses_no_draws(problem, centre):
    with pytest.raises(ValueError, match="got count 0"):
        posterior_maps(problem, posterior(problem, centre.reshape(1, 1, -1)), LEVELS, count=0)
