"""Transitional MCMC: known posteriors and their evidence, and the cost in the statistics."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.problems import OUTLINES, TRUTH, patient
from tests.targets import Banana, Failing, Gaussian, Rough, TwoModes
from tumorjax.calibration import CalibrationResult, Parameters, calibrate
from tumorjax.calibration.cost import Cost
from tumorjax.calibration.method import AbstractMethod
from tumorjax.methods import Posterior
from tumorjax.methods.sampling import TMCMC
from tumorjax.methods.sampling.marginal import MarginalTarget
from tumorjax.methods.sampling.moves import (
    accepted,
    adapted,
    generator,
    log_reverse_ratio,
    next_temperature,
    propose,
    systematic,
)
from tumorjax.methods.sampling.sampler import OVERDISPERSION
from tumorjax.methods.sampling.target import Screened
from tumorjax.progress import silent
from tumorjax.storage import open_arrays

SEEDS = 6
TARGETS = {
    "gaussian": (Gaussian(4), Rough(Gaussian(4), 0.1, 0.7)),
    "banana": (Banana(3), Rough(Banana(3), 0.1, 0.7)),
    "equal modes": (TwoModes(2), Rough(TwoModes(2, 0.3), 0.1, 0.7)),
    "unequal modes": (TwoModes(2, 0.2), Rough(TwoModes(2, 0.4), 0.1, 0.7)),
}
METHODS = {
    "random walk": TMCMC(particles=1024, variation=1.0, scale=None, steps=3),
    "published": TMCMC(particles=2048, variation=1.0, scale=0.2, steps=1),
    "langevin": TMCMC(particles=512, steps=3, move="langevin"),
    "screening": TMCMC(particles=1024, steps=3),
    "langevin screening": TMCMC(particles=512, steps=3, move="langevin"),
    "start": TMCMC(particles=512, steps=3),
    "start screening": TMCMC(particles=512, steps=3),
}
CASES = [("random walk", name) for name in TARGETS] + [
    ("published", "banana"),
    ("langevin", "gaussian"),
    ("langevin", "unequal modes"),
    ("screening", "gaussian"),
    ("screening", "banana"),
    ("screening", "unequal modes"),
    ("langevin screening", "banana"),
    ("start", "gaussian"),
    ("start", "banana"),
    ("start screening", "banana"),
]


@functools.cache
def draws(method, name):
    """Return the draws of several independent runs."""
    target, screen = TARGETS[name]
    screen = screen if "screening" in method else None
    # Off by half a standard deviation, and without correlations.
    start = {}
    if "start" in method:
        spread = np.sqrt(np.diagonal(target.covariance))
        start = {"centre": target.mean + 0.5 * spread, "covariance": np.diag(spread**2)}
    seen = target if screen is None else Screened(target, screen)
    return [METHODS[method].draw(seen, jax.random.key(seed), **start) for seed in range(SEEDS)]


def unbiased(values, truth, error):
    """Return whether the mean of independent estimates agrees with the truth, and the errors of single ones."""
    values = np.asarray(values)
    deviation = values.std(axis=0, ddof=1)
    far = np.abs(values.mean(axis=0) - truth) / (deviation / np.sqrt(len(values)))
    # Student's t, for each number of 200.
    return np.all(far < stats.t(len(values) - 1).ppf(1 - 0.0025)) and np.all(deviation < error)


@pytest.mark.parametrize(("method", "name"), CASES)
def test_evidence_is_unbiased(method, name):
    evidence = [run.log_evidence for run in draws(method, name)]
    assert unbiased(evidence, TARGETS[name][0].log_evidence, 0.25)


@pytest.mark.parametrize(("method", "name"), CASES)
def test_moments_are_those_of_the_posterior(method, name):
    target = TARGETS[name][0]
    deviation = np.sqrt(np.diagonal(target.covariance))
    points = [(run.draws[0] - target.mean) / deviation for run in draws(method, name)]
    assert unbiased([p.mean(axis=0) for p in points], 0, 0.2)
    correlation = target.covariance / np.outer(deviation, deviation)
    upper = np.triu_indices(target.size)
    assert unbiased([(p.T @ p / len(p))[upper] for p in points], correlation[upper], 0.25)


@pytest.mark.parametrize("method", ("random walk", "langevin", "screening"))
def test_modes_have_their_shares(method):
    shares = [np.mean(run.draws[0].sum(axis=1) > 0) for run in draws(method, "unequal modes")]
    assert unbiased(shares, 0.2, 0.06)


def test_draws_come_with_their_likelihoods():
    for method, name in (("langevin", "unequal modes"), ("screening", "unequal modes"), ("start", "banana")):
        run = draws(method, name)[0]
        expected = jax.vmap(TARGETS[name][0].log_likelihood)(jnp.asarray(run.draws[0]))
        np.testing.assert_allclose(run.log_likelihoods[0], expected, rtol=1e-12)


@pytest.mark.parametrize(("method", "coarse"), (("random walk", False), ("screening", True)))
def test_temperatures_rise_by_the_variation_of_the_weights(method, coarse):
    found, particles = draws(method, "gaussian")[0].stats, METHODS[method].particles
    first, ladder = found.details["coarse_stages"], found.ladder
    legs = [slice(first, None)] + [slice(first)] * coarse
    assert (first > 0) == coarse
    for leg in legs:
        temperatures, effective = ladder["temperature"][leg], ladder["effective draws"][leg]
        assert temperatures[-1] == 1
        assert np.all(np.diff([0.0, *temperatures]) > 0)
        # A coefficient of variation of 1 halves the effective sample size.
        np.testing.assert_allclose(effective[:-1], particles / 2, rtol=1e-9)
        assert particles / 2 <= effective[-1] <= particles
    assert {len(row) for row in ladder.values()} == {found.details["stages"]}
    assert ladder["acceptance"] == found.acceptance


def test_statistics_tell_what_it_cost():
    plain = draws("random walk", "gaussian")[0].stats
    assert plain.cost.solves == 1024 * (1 + 3 * plain.details["stages"])
    assert plain.cost.coarse_solves == plain.cost.gradients == plain.failed == 0
    steep = draws("langevin", "gaussian")[0].stats
    assert steep.cost.solves == steep.cost.gradients == 512 * (1 + 3 * steep.details["stages"])
    screened = draws("screening", "gaussian")[0].stats
    coarse_stages = screened.details["coarse_stages"]
    assert screened.cost.coarse_solves == 1024 * (1 + 3 * screened.details["stages"])
    fine_stages = screened.details["stages"] - coarse_stages
    moved = 3 * 1024 * sum(screened.acceptance[coarse_stages:])
    assert 1024 + moved <= screened.cost.solves < 1024 * (1 + 3 * fine_stages)
    assert screened.cost.solves < plain.cost.solves / 4
    both = draws("langevin screening", "banana")[0].stats.cost
    assert both.gradients == 0
    assert both.coarse_gradients == both.coarse_solves


def test_a_good_approximation_leaves_one_stage_and_rejects_nothing():
    target = Gaussian(3)
    found = TMCMC(particles=256, steps=2).draw(Screened(target, target), jax.random.key(0)).stats
    assert found.details["stages"] - found.details["coarse_stages"] == 1
    assert found.cost.solves == 256 + round(256 * 2 * found.acceptance[-1])


def test_an_approximation_saves_stages():
    for name in ("gaussian", "banana"):
        from_prior, from_start = draws("random walk", name)[0].stats, draws("start", name)[0].stats
        assert from_start.details["stages"] < from_prior.details["stages"]


def test_failed_solves_have_probability_zero():
    # Two thirds of the prior fail.
    target, bound = Gaussian(2), -0.5
    runs = [TMCMC(particles=1024).draw(Failing(target, bound), jax.random.key(seed)) for seed in range(SEEDS)]
    possible = stats.norm(target.mean[0], np.sqrt(target.covariance[0, 0])).logcdf(bound)
    assert unbiased([run.log_evidence for run in runs], target.log_evidence + possible, 0.2)
    for run in runs:
        assert run.draws[..., 0].max() <= bound
        assert 0.6 * 1024 < run.stats.failed < run.stats.cost.solves / 2
        assert np.isfinite(run.log_likelihoods).all()


def test_keys_decide():
    method, target = TMCMC(particles=64), Gaussian(2)
    first, again, other = (method.draw(target, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.draws, again.draws)
    assert first.log_evidence == again.log_evidence
    assert not np.any(first.draws == other.draws)
    assert generator(jax.random.key(0), 1, 2).uniform() != generator(jax.random.key(0), 2, 1).uniform()


def test_progress_is_reported():
    told = []
    found = TMCMC(particles=64).draw(
        Screened(Gaussian(2), Rough(Gaussian(2))), jax.random.key(0), progress=lambda *news: told.append(news)
    )
    coarse = found.stats.details["coarse_stages"]
    fine = found.stats.details["stages"] - coarse
    assert list(dict.fromkeys(name for name, _, _ in told)) == [
        "prior",
        *(f"stage of the screen {i + 1}" for i in range(coarse)),
        "posterior of the screen",
        *(f"stage {coarse + i + 1}" for i in range(fine)),
    ]
    for stage in {name for name, _, _ in told}:
        shares = [share for name, share, _ in told if name == stage]
        assert np.all(np.diff(shares) >= 0)
        assert 0 < shares[0] <= shares[-1] == 1
    assert np.isfinite([value for _, _, value in told]).all()


def test_the_next_temperature_gives_the_variation():
    gain = np.append(-30 * np.random.default_rng(0).exponential(size=500), -np.inf)
    for variation in (0.5, 1.0):
        temperature = next_temperature(0.1, gain, variation)
        assert 0.1 < temperature < 1
        weights = np.exp((temperature - 0.1) * gain[:-1])
        assert weights.std() / weights.mean() == pytest.approx(variation, rel=1e-12)
    assert next_temperature(0.1, gain * 1e-3, 1.0) == 1


def test_resampling_rounds_the_expected_counts():
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=200) * (rng.uniform(size=200) < 0.7)
    weights /= weights.sum()
    counts = [np.bincount(systematic(weights, u), minlength=200) for u in np.linspace(0, 1, 401)[:-1]]
    assert np.all((counts >= np.floor(200 * weights - 1e-9)) & (counts <= np.ceil(200 * weights + 1e-9)))
    np.testing.assert_allclose(np.mean(counts, axis=0), 200 * weights, atol=1 / 400)


def test_proposals_have_the_density_that_their_ratio_says():
    rng = np.random.default_rng(0)
    factor = np.tril(rng.normal(size=(3, 3)))
    points, slopes, there, noise = rng.normal(size=(4, 10, 3))
    scale, covariance = 0.7, factor @ factor.T
    proposal = propose(points, slopes, factor, scale, noise)

    def log_density(to, start, slope):
        middle = start + 0.5 * scale**2 * covariance @ slope
        return stats.multivariate_normal(middle, scale**2 * covariance).logpdf(to)

    expected = [
        log_density(points[i], proposal.points[i], there[i]) - log_density(proposal.points[i], points[i], slopes[i])
        for i in range(10)
    ]
    np.testing.assert_allclose(log_reverse_ratio(proposal, there, factor, scale), expected, rtol=1e-10)
    walk = propose(points, 0.0, factor, scale, noise)
    np.testing.assert_allclose(walk.points, points + scale * noise @ factor.T)


def test_what_is_impossible_is_not_accepted():
    ratios = np.array([-np.inf, np.nan, -0.1, 0.1, 1e5])
    assert accepted(ratios, np.full(5, 0.92)).tolist() == [False, False, False, True, True]
    assert accepted(ratios, np.full(5, 0.9)).tolist() == [False, False, True, True, True]


@pytest.mark.parametrize(("wanted", "order"), ((0.234, 1), (0.574, 3)))
def test_steps_adapt_to_their_acceptance(wanted, order):
    def acceptance(scale):
        return 2 * stats.norm.cdf(-0.5 * (scale / 0.8) ** order)

    scale = adapted(1.1, acceptance(1.1), wanted, order)
    assert acceptance(scale) == pytest.approx(wanted)
    assert adapted(1.0, 0.0, wanted, order) < 1 < adapted(1.0, 1.0, wanted, order)
    assert adapted(1.0, 0.0, wanted, 1) == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    (
        ({"particles": 0}, "particles must be a whole number of at least 1, got 0"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"screen": 1}, "screen must be at least 2 if it is a factor between voxels, got 1"),
        ({"screen": "coarse"}, "a factor between voxels, a model of growth, a problem, or None, got 'coarse'"),
        ({"variation": 0.0}, "variation must be finite and positive, got 0.0"),
        ({"scale": -1.0}, "scale must be finite and positive, got -1.0"),
        ({"scale": np.inf}, "scale must be finite and positive, got inf"),
        ({"move": "gibbs"}, "move must be 'random-walk' or 'langevin', got 'gibbs'"),
    ),
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TMCMC(**settings)


def test_what_cannot_be_sampled_is_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="give calibrate a key"):
        TMCMC().draw(Gaussian(2), None)
    with pytest.raises(ValueError, match="7 particles do not span 4 coordinates; take at least 8"):
        TMCMC(particles=7).draw(Gaussian(4), key)
    with pytest.raises(ValueError, match="the prior excludes the data: only 0 of 64 draws from it are possible"):
        TMCMC(particles=64).draw(Failing(Gaussian(2), -10.0), key)
    with pytest.raises(ValueError, match="the posterior of the screen excludes the data: only 0 of 64"):
        TMCMC(particles=64).draw(Screened(Failing(Gaussian(2), -10.0), Gaussian(2)), key)


def test_draws_parameters_of_a_patient():
    problem = patient()
    found = calibrate(problem, TMCMC(particles=96, steps=2, screen=2), key=jax.random.key(0))
    assert isinstance(found, Posterior)
    assert found.result is CalibrationResult.COMPLETE
    assert found.draws.shape == (1, 96, 9)
    np.testing.assert_allclose(found.log_weights, -np.log(96))
    assert np.isfinite(found.log_evidence)
    # Two steps a stage would take some 3000 without the coarser voxels.
    assert found.cost.solves < 1500 < found.cost.coarse_solves
    # Where and how it grows is known far better than before, and is what it was.
    growth = np.asarray(found.draws[0, :, :5])
    truth = np.asarray(problem.prior.unconstrain(Parameters(TRUTH, OUTLINES)))[:5]
    assert np.all(growth.std(axis=0) < 0.15)
    assert np.all(np.abs(growth.mean(axis=0) - truth) < 4 * growth.std(axis=0))
    best = int(np.argmax(found.log_likelihoods[0] - 0.5 * np.sum(np.square(found.draws[0]), axis=1)))
    np.testing.assert_array_equal(found.coordinates, found.draws[0, best])
    solved = problem.log_likelihood(problem.predict(found.params), found.params)
    assert float(found.log_likelihoods[0, best]) == pytest.approx(float(solved))


class AtTheTruth(AbstractMethod):
    """TMCMC finds the parameters that the patient was made with."""

    def run(self, problem, key, progress):
        truth = problem.prior.unconstrain(Parameters(TRUTH, OUTLINES))
        return SimpleNamespace(coordinates=truth, covariance=0.01 * np.eye(9), cost=Cost(3))


def test_particles_begin_where_another_method_ended():
    problem = patient()
    found = calibrate(problem, TMCMC(particles=48, steps=1, start=AtTheTruth()), key=jax.random.key(0))
    # What belongs to the images is drawn given these.
    draws = np.asarray(found.draws[0, :, :5])
    truth = np.asarray(problem.prior.unconstrain(Parameters(TRUTH, OUTLINES)))[:5]
    assert np.all(np.abs(draws - truth) < 1.2)
    assert found.cost.solves == found.stats.cost.solves + 3
    params = jax.tree.map(lambda leaf: leaf[0], found.samples)
    solved = problem.log_likelihood(problem.predict(params), params)
    assert float(found.log_likelihoods[0, 0]) == pytest.approx(float(solved), rel=1e-6)


class Finds(AbstractMethod):
    """Finds a point, and what is given of its uncertainty."""

    coordinates: np.ndarray
    covariance: np.ndarray | None = None

    def run(self, problem, key, progress):
        return SimpleNamespace(coordinates=self.coordinates, covariance=self.covariance, cost=Cost(3))


def test_particles_begin_around_a_point_without_uncertainty(tmp_path):
    problem = patient()
    truth = np.asarray(problem.prior.unconstrain(Parameters(TRUTH, OUTLINES)))
    path = tmp_path / "point.state"
    method = TMCMC(particles=48, steps=1, start=Finds(truth), checkpoint=str(path))
    found = calibrate(problem, method, key=jax.random.key(0))
    assert np.isfinite(found.draws).all() and np.isfinite(found.log_evidence)
    assert np.abs(np.mean(found.draws[0], axis=0) - truth)[:5].max() < 1
    with open_arrays(path, "state of a calibration", 1) as kept:
        stored = kept.read()
    assert all(np.isfinite(stored[name]).all() for name in ("centre", "covariance", "points"))
    assert stored["begun"][0] == 3
    np.testing.assert_array_equal(stored["centre"], truth[:5])


def test_what_chains_begin_around_is_finite_and_of_full_rank(tmp_path):
    problem, key = patient(), jax.random.key(0)
    matches = np.random.default_rng(0).normal(size=(3, 9))
    few, broad = np.cov(matches.T, bias=True), np.eye(5) / OVERDISPERSION**2
    whole = few + 0.01 * np.eye(9)
    # Of the coordinates that are drawn.
    drawn = few[:5, :5]
    for given, expected in ((None, broad), (few, drawn + broad), (whole, whole[:5, :5])):
        kept = TMCMC(start=Finds(matches[0], given))._begin(MarginalTarget(problem), key, silent)
        np.testing.assert_allclose(kept["covariance"], expected)
        np.linalg.cholesky(kept["covariance"])
    for start in (Finds(np.full(9, np.nan)), Finds(matches[0], np.full((9, 9), np.nan))):
        with pytest.raises(ValueError, match=r"what Finds found is not finite.*; give another start"):
            calibrate(problem, TMCMC(start=start, checkpoint=str(tmp_path / "nothing.state")), key=key)
    assert not list(tmp_path.iterdir())


def test_too_few_particles_are_refused_before_the_start_is_found():
    with pytest.raises(ValueError, match="9 particles do not span 5 coordinates; take at least 10"):
        calibrate(patient(), TMCMC(particles=9, start=Finds(None)), key=jax.random.key(0))
