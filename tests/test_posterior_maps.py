"""Maps of the posterior, compared with hand counts for a few draws."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.problems import patient
from tumorjax.calibration.evaluation import evaluate, fields
from tumorjax.methods.sampling import maps
from tumorjax.methods.sampling.maps import posterior_maps
from tumorjax.methods.sampling.posterior import posterior_of
from tumorjax.methods.sampling.sample import Sample

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
    return posterior_of(problem, Sample(draws, np.zeros(shape), log_weights))


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
    np.testing.assert_allclose(found.density, mean, atol=1e-12)
    np.testing.assert_allclose(found.deviation, np.sqrt(np.tensordot(weights, (each - mean) ** 2, axes=1)), atol=1e-7)
    assert list(found.probabilities) == list(LEVELS)
    for level, probability in found.probabilities.items():
        np.testing.assert_allclose(probability, np.tensordot(weights, each > level, axes=1), atol=1e-12)
        # Each sum of weights occurs where the draws differ.
        assert len(np.unique(probability.round(6))) > 3
    assert (found.cost.solves, found.notes, found.displacement) == (3, [], None)
    np.testing.assert_allclose(told, [1 / 3, 2 / 3, 1])


def test_one_draw_leaves_no_doubt(problem, centre):
    found = posterior_maps(problem, posterior(problem, np.tile(centre, (2, 10, 1))), LEVELS)
    assert found.cost.solves == 1
    assert found.deviation.max() < 1e-7
    assert set(np.unique(list(found.probabilities.values()))) == {0, 1}


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
    np.testing.assert_allclose(batched.density, plain.density, atol=1e-9)
    for level in LEVELS:
        np.testing.assert_allclose(batched.probabilities[level], plain.probabilities[level], atol=1e-9)
    assert batched.cost.solves == 3


def test_failed_solves_are_left_out_and_counted(problem, centre, monkeypatch):
    draws = np.stack([centre, centre + 0.4, centre - 0.4]).reshape(1, 3, -1)
    posterior_ = posterior(problem, draws)
    good = densities(problem, draws[0])

    def some(problem, points):
        yield good[0], None
        yield np.full_like(good[1], np.nan), None
        yield good[2], None

    monkeypatch.setattr(maps, "_grown", some)
    found = posterior_maps(problem, posterior_, LEVELS)
    np.testing.assert_allclose(found.density, (good[0] + good[2]) / 2, atol=1e-12)
    assert found.cost.solves == 3
    assert found.notes == ["1 of the 3 solves for the maps gave no density and are left out of them."]
    assert max(each.max() for each in found.probabilities.values()) == 1
    failed = (np.full_like(good[0], np.nan), None)
    monkeypatch.setattr(maps, "_grown", lambda problem, points: (failed for _ in points))
    with pytest.raises(ValueError, match="none of the 3 solves"):
        posterior_maps(problem, posterior_, LEVELS)


def test_maps_may_be_of_a_larger_box(problem, centre):
    small = dataclasses.replace(
        problem,
        anatomy=problem.anatomy.crop((1, 1, 1), tuple(n - 2 for n in problem.anatomy.grid.shape)),
        observations={
            name: type(o)(o.inside[1:-1, 1:-1, 1:-1], o.valid[1:-1, 1:-1, 1:-1])
            for name, o in problem.observations.items()
        },
    )
    found = posterior_maps(problem, posterior(small, centre.reshape(1, 1, -1)), LEVELS)
    assert found.density.shape == problem.anatomy.grid.shape


def test_refuses_no_draws(problem, centre):
    with pytest.raises(ValueError, match="got count 0"):
        posterior_maps(problem, posterior(problem, centre.reshape(1, 1, -1)), LEVELS, count=0)
