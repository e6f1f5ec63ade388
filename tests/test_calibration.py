"""Calibration finds the truth, with a correct uncertainty and within the budget."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.problems import OUTLINES, TRUTH, patient, slope
from tumorjax.calibration import CalibrationResult, Parameters, Problem, calibrate, default_prior
from tumorjax.calibration.evaluation import evaluate, value_and_gradient
from tumorjax.calibration.laplace import laplace_maps
from tumorjax.growth import FisherKolmogorov, GompertzGrowth
from tumorjax.growth.outcome import Outcome
from tumorjax.integrate import ForwardMode, Result
from tumorjax.methods import LBFGS, Stratified
from tumorjax.methods.search.starts import geometric_starts, prior_points, starting_points
from tumorjax.observation import Outline, OutlineParams, PetParams
from tumorjax.prior import Prior, Uniform

METHOD = LBFGS(starts=2, coarsening=2, budget=60, gradient_tolerance=0.02, value_tolerance=1e-3)
NAMES = [
    "growth.mu1",
    "growth.mu2",
    "growth.origin[0]",
    "growth.origin[1]",
    "growth.origin[2]",
    "observations.core.threshold",
    "observations.core.sharpness",
    "observations.lesion.threshold",
    "observations.lesion.sharpness",
]


@pytest.fixture(scope="module")
def problem():
    return patient()


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def calibrated(problem, told):
    return calibrate(problem, METHOD, progress=lambda *news: told.append(news))


def misfit(calibration, **observations):
    """Return the squared distance to the truth in the metric of the covariance, which should follow chi squared."""
    truth = calibration.prior.unconstrain(Parameters(TRUTH, OUTLINES | observations))
    away = np.asarray(calibration.coordinates, float) - np.asarray(truth, float)
    return float(away @ np.linalg.solve(np.asarray(calibration.covariance, float), away))


def test_finds_the_truth_within_its_uncertainty(calibrated):
    assert calibrated.result in (CalibrationResult.VALUE, CalibrationResult.GRADIENT)
    assert 1 < misfit(calibrated) < stats.chi2(9).ppf(0.999)
    assert float(calibrated.params.growth.mu1) == pytest.approx(8, rel=0.2)
    assert float(calibrated.params.growth.mu2) == pytest.approx(3, rel=0.1)
    assert np.linalg.norm(calibrated.params.growth.origin - TRUTH.origin) < 1.5
    assert float(calibrated.params.growth.speed) == TRUTH.speed
    spread = calibrated.standard_deviations().growth
    assert 0.2 < float(spread.mu1) < 2
    assert np.all((spread.origin > 0.1) & (spread.origin < 1))


def test_finds_the_truth_where_the_likelihood_is_largest_there():
    found = calibrate(patient("shares"), METHOD)
    # Only the prior draws away from it.
    assert misfit(found) < 0.5
    assert float(found.params.growth.mu1) == pytest.approx(8, rel=0.04)
    assert float(found.params.growth.mu2) == pytest.approx(3, rel=0.03)
    assert np.linalg.norm(found.params.growth.origin - TRUTH.origin) < 0.2


def test_statistics_tell_what_it_cost(calibrated):
    cost, search, histories = calibrated.cost, calibrated.stats, calibrated.histories
    assert (len(calibrated.coarse_histories), len(histories)) == (2, 1)
    for history in (*calibrated.coarse_histories, *histories):
        assert np.all(np.diff(history) < 0)
    assert histories[-1][-1] == search.objective
    assert search.iterations == len(histories[-1]) - 1
    assert search.iterations < cost.gradients <= METHOD.budget
    assert cost.coarse_gradients <= 2 * METHOD.budget
    # Every gradient holds a solve.
    assert (cost.solves, cost.coarse_solves) == (cost.gradients, cost.coarse_gradients)
    assert cost.figures() == {
        "forward_solves": cost.gradients + cost.coarse_gradients,
        "gradients": cost.gradients,
        "coarse_gradients": cost.coarse_gradients,
    }
    assert cost.seconds > 0


def test_progress_is_reported(calibrated, told):
    stages = [stage for stage, _, _ in told]
    assert list(dict.fromkeys(stages)) == ["coarse search", "search", "uncertainty"]
    for stage in ("coarse search", "search"):
        shares = [share for name, share, _ in told if name == stage]
        assert np.all(np.diff(shares) >= 0)
        assert 0 < shares[0] <= shares[-1] <= 1
    assert told[-1][2] == calibrated.stats.objective


def test_a_calibration_describes_itself(calibrated):
    assert calibrated.prior.names == NAMES
    assert calibrated.covariance.shape == (9, 9)
    for got, expected in zip(
        jax.tree.leaves(calibrated.prior.constrain(calibrated.coordinates)),
        jax.tree.leaves(calibrated.params),
        strict=True,
    ):
        np.testing.assert_array_equal(got, expected)
    correlation = np.asarray(calibrated.correlation())
    np.testing.assert_allclose(np.diagonal(correlation), 1)
    np.testing.assert_allclose(correlation, correlation.T, atol=1e-12)
    assert np.linalg.eigvalsh(correlation).min() > 0
    # The prior is the widest that the posterior can be.
    assert np.linalg.eigvalsh(calibrated.covariance).max() <= 1 + 1e-12


@pytest.fixture(scope="module")
def samples(calibrated):
    return jax.tree.map(np.asarray, calibrated.sample(jax.random.key(0), 4000))


def test_standard_deviations_are_those_of_samples(calibrated, samples):
    spread = calibrated.standard_deviations()
    # The origin is linear in its coordinates; the rest is nearly so where the deviation is small.
    np.testing.assert_allclose(np.std(samples.growth.origin, axis=0), spread.growth.origin, rtol=0.05)
    np.testing.assert_allclose(np.mean(samples.growth.origin, axis=0), calibrated.params.growth.origin, atol=0.1)
    assert float(np.std(samples.growth.mu2)) == pytest.approx(float(spread.growth.mu2), rel=0.1)
    assert float(spread.growth.speed) == 0


def test_gradient_of_the_posterior(problem):
    point = problem.prior.unconstrain(Parameters(TRUTH, OUTLINES)) + 0.1
    direction = jnp.asarray(np.random.default_rng(0).normal(size=9))
    # The call of the search, so that it is not compiled again.
    value, gradient = evaluate(value_and_gradient, problem, point)
    derivative = float(gradient @ direction)
    assert abs(derivative) > 1
    steps = np.array([4e-4, 2e-4, 1e-4, 5e-5])
    values = [evaluate(value_and_gradient, problem, point + h * direction)[0] for h in steps]
    remainder = [abs(float(v - value) - h * derivative) for v, h in zip(values, steps, strict=True)]
    assert slope(steps, remainder) == pytest.approx(2, abs=0.05)


def test_posterior_is_likelihood_times_prior(problem, calibrated):
    z, params = calibrated.coordinates, calibrated.params
    density = problem.density(params)
    likelihood = sum(o.log_prob(density, params.observations[name]) for name, o in problem.observations.items())
    assert -calibrated.stats.objective == pytest.approx(float(likelihood - 0.5 * jnp.sum(z**2)), rel=1e-12)


def test_covariance_is_the_inverse_of_the_dense_information(problem, calibrated):
    def predictions(z):
        params = problem.prior.constrain(z)
        density = problem.density(params, ForwardMode())
        pairs = [o.expected(density, params.observations[name])[0] for name, o in problem.observations.items()]
        return jnp.stack([mean for mean, _ in pairs]), jnp.stack([precision for _, precision in pairs])

    jacobian, precision = jax.jit(jax.jacfwd(predictions, has_aux=True))(calibrated.coordinates)
    rows = np.asarray(jacobian).reshape(-1, 9)
    information = np.eye(9) + (rows * np.reshape(precision, (-1, 1))).T @ rows
    np.testing.assert_allclose(calibrated.covariance, np.linalg.inv(information), rtol=1e-8, atol=1e-12)


def test_deviation_of_the_density_is_that_of_samples(problem, calibrated, samples):
    maps = laplace_maps(problem, calibrated.coordinates, calibrated.covariance)
    density, deviation = maps.density, maps.deviation
    solve = jax.jit(lambda params: problem.density(params))
    np.testing.assert_allclose(density, solve(calibrated.params), atol=1e-12)
    sampled = np.std([solve(jax.tree.map(lambda leaf, i=i: leaf[i], samples)) for i in range(100)], axis=0)
    tissue = np.asarray(problem.anatomy.tissue)
    np.testing.assert_array_equal(np.asarray(deviation)[~tissue], 0)
    assert np.asarray(deviation)[tissue].min() > 0
    uncertain = sampled > 0.3 * sampled.max()
    assert uncertain.sum() > 50
    ratio = np.asarray(deviation)[uncertain] / sampled[uncertain]
    assert 1 / 2 < ratio.min() <= ratio.max() < 2
    assert 0.8 < np.median(ratio) < 1.25


@pytest.mark.parametrize("budget", (2, 5))
def test_the_budget_is_kept_to(problem, budget):
    found = calibrate(
        problem, LBFGS(starts=2, coarsening=2, budget=budget, gradient_tolerance=0.0, value_tolerance=0.0)
    )
    assert found.result is CalibrationResult.BUDGET
    assert found.cost.gradients == found.cost.solves == budget
    assert found.cost.coarse_gradients == found.cost.coarse_solves == 2 * budget


def test_finds_scale_and_noise_of_pet_in_float32():
    scale, noise = 3e4, 6e3
    problem = patient(pet=(scale, noise), dtype=jnp.float32)
    start = Parameters(
        geometric_starts(problem, 1)[0].growth,
        {"core": OutlineParams(0.7, 3.0), "lesion": OutlineParams(0.2, 3.0), "pet": PetParams(4e4, 5e3)},
    )
    found = calibrate(problem, LBFGS(starts=(start,), coarsening=1, value_tolerance=0.01))
    assert {leaf.dtype for leaf in jax.tree.leaves((found.params, found.covariance))} == {np.dtype("float32")}
    assert len(found.histories) == 1
    assert found.prior.names[-2:] == ["observations.pet.scale", "observations.pet.noise"]
    assert misfit(found, pet=PetParams(scale, noise)) < stats.chi2(11).ppf(0.999)
    pet, spread = found.params.observations["pet"], found.standard_deviations().observations["pet"]
    assert abs(float(pet.scale) - scale) < 3 * float(spread.scale) < 0.3 * scale
    assert abs(float(pet.noise) - noise) < 3 * float(spread.noise) < 0.05 * noise


@pytest.fixture(scope="module")
def smooth():
    """A problem whose outlines follow isolines."""
    return patient("isolines")


def test_starts_are_plausible_tumours(smooth):
    starts = geometric_starts(smooth, 4)
    assert len(starts) == 4
    origins = np.array([start.growth.origin for start in starts])
    core = np.asarray(smooth.observations["core"].inside) > 0.5
    nearest = np.round(smooth.anatomy.grid.to_index(origins)).astype(int)
    assert core[tuple(nearest.T)].all()
    assert np.asarray(smooth.anatomy.tissue)[tuple(nearest.T)].all()
    assert len(np.unique(origins[1:], axis=0)) == 3
    for start in starts:
        assert 1 / 2 < start.growth.mu1 / TRUTH.mu1 < 2
        assert 1 / 2 < start.growth.mu2 / TRUTH.mu2 < 2
        z = smooth.prior.unconstrain(start)
        assert np.isfinite(z).all()
        assert float(jnp.abs(z).max()) < 4


def test_default_prior_is_about_the_outlines(smooth):
    prior = default_prior(smooth.anatomy, smooth.observations, speed=0.3)
    assert prior.names == NAMES
    middle, spread = (prior.constrain(jnp.full(9, value)) for value in (0.0, 1.0))
    labels = np.asarray(smooth.observations["core"].inside)
    centre = smooth.anatomy.grid.to_world(np.argwhere(labels > 0).astype(float)).mean(axis=0)
    np.testing.assert_allclose(middle.growth.origin, centre, atol=1e-9)
    assert float(middle.growth.speed) == pytest.approx(0.3)
    volume = float(smooth.observations["lesion"].inside.sum()) * 64
    radius = (3 * volume / (4 * np.pi)) ** (1 / 3)
    np.testing.assert_allclose(spread.growth.origin - middle.growth.origin, radius / 2)
    for edge, expected in ((-30.0, (0.5, 0.05)), (30.0, (0.85, 0.5))):
        outlines = prior.constrain(jnp.full(9, edge)).observations
        np.testing.assert_allclose([outlines[name].threshold for name in ("core", "lesion")], expected)


def without_core(problem):
    """Return the problem without the outline of the core."""
    unknown = problem.prior.distributions
    prior = Prior(Parameters(unknown.growth, {"lesion": unknown.observations["lesion"]}))
    return Problem(problem.model, problem.anatomy, {"lesion": problem.observations["lesion"]}, prior)


def test_problems_coarsen_as_a_whole(problem):
    rough = problem.coarsen(2)
    assert rough.anatomy.grid.shape == rough.observations["core"].inside.shape == (10, 10, 10)
    np.testing.assert_allclose(rough.anatomy.grid.spacing, 8)
    assert rough.prior.names == problem.prior.names


def test_bad_problems_are_refused(problem):
    with pytest.raises(ValueError, match="at least one observation"):
        Problem(problem.model, problem.anatomy, {}, problem.prior)
    small = Outline(jnp.ones((3, 3, 3)), jnp.ones((3, 3, 3), bool))
    with pytest.raises(
        ValueError, match=r"'core' has shape \(3, 3, 3\) on an anatomy of shape \(20, 20, 20\); resample"
    ):
        Problem(problem.model, problem.anatomy, {"core": small}, problem.prior)
    with pytest.raises(ValueError, match="need the outline of the core; give starts of your own"):
        geometric_starts(without_core(problem), 2)
    with pytest.raises(ValueError, match="named core, and one named lesion if known, got none; write a Prior"):
        default_prior(problem.anatomy, {})


def test_the_verb_refuses_what_is_no_method(problem):
    for method, message in (
        ("lbfgs", r"method must be a method object such as LBFGS\(\), got 'lbfgs'; give one"),
        (LBFGS, r"method must be .*, got the class LBFGS; give an object of it, LBFGS\(\)"),
        (None, "method must be .*, got None; give one"),
    ):
        with pytest.raises(ValueError, match=message):
            calibrate(problem, method)
    with pytest.raises(ValueError, match=r"calibrate needs a Problem \(model, .*\), got Anatomy"):
        calibrate(problem.anatomy, METHOD)
    with pytest.raises(ValueError, match=r"calibrate needs a Problem \(model, .*\), got LBFGS"):
        calibrate(METHOD, problem)
    for model, name in ((GompertzGrowth(), "GompertzGrowth"), (FisherKolmogorov, "FisherKolmogorov"), (3, "int")):
        with pytest.raises(ValueError, match=f"in this order; got {name} and Anatomy"):
            Problem(model, problem.anatomy, problem.observations, problem.prior)
    with pytest.raises(ValueError, match="in this order; got Anatomy and FisherKolmogorov"):
        Problem(problem.anatomy, problem.model, problem.observations, problem.prior)
    with pytest.raises(
        ValueError, match=r'observations have names, as in \{"core": Outline\(\.\.\.\), .*\}; got Outline'
    ):
        default_prior(problem.anatomy, problem.observations["core"])
    with pytest.raises(ValueError, match="prior must be a Prior over Parameters, got Parameters; give default_prior"):
        Problem(problem.model, problem.anatomy, problem.observations, problem.prior.distributions)
    with pytest.raises(ValueError, match="observations must be images such as Outline or Pet, got ndarray as 'core'"):
        Problem(problem.model, problem.anatomy, {"core": np.zeros(problem.anatomy.grid.shape)}, problem.prior)


def test_observations_are_given_by_name(problem):
    core, lesion = problem.observations["core"], problem.observations["lesion"]
    for given, kind in ((core, "Outline"), ((core, lesion), "tuple"), ([core], "list")):
        with pytest.raises(ValueError, match=rf'have names, as in {{"core": Outline\(\.\.\.\), .*}}; got {kind}$'):
            Problem(problem.model, problem.anatomy, given, problem.prior)
    with pytest.raises(ValueError, match=r'as in {"core": OutlineParams\(\.\.\.\), .*}; got tuple'):
        Parameters(TRUTH, (OUTLINES["core"], OUTLINES["lesion"]))
    for name in ("t1 gd", "1", 1, "core[0]"):
        with pytest.raises(ValueError, match=r"words such as core or t1_gd, got "):
            Problem(problem.model, problem.anatomy, {name: core}, problem.prior)
    with pytest.raises(
        ValueError, match=r"the prior has the observation 'lesion', which the problem lacks; .* got core"
    ):
        Problem(problem.model, problem.anatomy, {"core": core}, problem.prior)
    with pytest.raises(ValueError, match="the problem has the observation 'adc', which the prior lacks"):
        Problem(problem.model, problem.anatomy, problem.observations | {"adc": core}, problem.prior)


def test_the_order_of_names_does_not_matter(problem):
    turned = {name: problem.observations[name] for name in ("lesion", "core")}
    unknown = problem.prior.distributions
    other = {name: unknown.observations[name] for name in ("lesion", "core")}
    same = Problem(problem.model, problem.anatomy, turned, Prior(Parameters(unknown.growth, other)))
    assert same.prior.names == problem.prior.names
    point = np.linspace(-0.2, 0.2, 9)
    values = [float(evaluate(value_and_gradient, each, point)[0]) for each in (problem, same)]
    assert values[0] == values[1] and np.isfinite(values[0])
    # What was given may change afterwards.
    turned.clear()
    assert list(same.observations) == ["core", "lesion"]


def test_standard_deviations_of_what_takes_a_solve(problem, calibrated):
    # Reverse mode and forward mode give the same result.
    cells = calibrated.standard_deviations(lambda p: problem.density(p).sum())
    forwards = calibrated.standard_deviations(lambda p: problem.density(p, ForwardMode()).sum())
    assert float(cells) > 1
    assert float(cells) == pytest.approx(float(forwards), rel=1e-6)
    with pytest.raises(
        ValueError, match=r"has 8000 numbers, too many .*; give .* problem.density\(params, ForwardMode"
    ):
        calibrated.standard_deviations(problem.density)


def test_standard_deviations_in_extreme_units(calibrated):
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), calibrated)
    plain, tiny, huge = (
        single.standard_deviations(lambda p, unit=unit: p.growth.mu1 * jnp.float32(unit)) for unit in (1, 1e-30, 1e30)
    )
    assert float(tiny) == pytest.approx(1e-30 * float(plain), rel=1e-5)
    assert float(huge) == pytest.approx(1e30 * float(plain), rel=1e-5)


def test_without_a_core_the_search_begins_in_the_prior(problem):
    points = prior_points(9, 6)
    assert [point.shape for point in points] == [(9,)] * 6
    np.testing.assert_array_equal(points[0], 0)
    distances = [np.linalg.norm(a - b) for i, a in enumerate(points) for b in points[:i]]
    assert min(distances) > 0.5 and max(np.abs(points[-1])) < 1.5
    one = without_core(problem)
    np.testing.assert_array_equal(starting_points(one, 3), prior_points(one.prior.size, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    (
        ({"starts": 0}, "starts must be at least 1, got 0"),
        ({"coarsening": 0}, "coarsening must be at least 1"),
        ({"budget": 1}, "budget at least 2"),
    ),
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LBFGS(**settings)


def test_a_search_without_a_finite_start_is_refused(problem):
    # A threshold at the bound of its prior has no coordinate.
    start = Parameters(TRUTH, {"core": OutlineParams(0.5, 4.0), "lesion": OutlineParams(0.25, 4.0)})
    with pytest.raises(ValueError, match="not finite at any start; check the prior"):
        calibrate(problem, LBFGS(starts=(start,), coarsening=2))


class Faulty(FisherKolmogorov):
    """A model whose solves end as the first parameter says: 1 to 4 in this order, and well above."""

    def predict(self, params, anatomy):
        """Return a density that is out of range below 1, and flags between 1 and 4."""
        at = params.mu1
        return Outcome(
            jnp.where(anatomy.tissue, jnp.where(at < 1, 1.02, 0.5), 0.0),
            too_fast=(at > 1) & (at < 2),
            folded=(at > 2) & (at < 3),
            unsolved=(at > 3) & (at < 4),
            unknown=(at > 4) & (at < 5),
        )


def test_a_solve_that_failed_in_any_way_is_impossible(problem):
    faulty = dataclasses.replace(problem, model=Faulty())
    ends = [faulty.solve(Parameters(dataclasses.replace(TRUTH, mu1=at), OUTLINES)) for at in np.arange(6) + 0.5]
    results = ("OUT_OF_RANGE", "FLOW_TOO_FAST", "DISPLACEMENT_FOLDS", "ELASTICITY_NOT_SOLVED", "OUTSIDE_TRAINING")
    assert [Result(int(each.result)).name for each in ends] == [*results, "SUCCESS"]
    assert [bool(jnp.isfinite(each.density).all()) for each in ends] == [False] * 5 + [True]
    # A seed in no tissue is a tumour that is not there, which images can speak about.
    away = problem.solve(Parameters(dataclasses.replace(TRUTH, origin=np.array([200.0, 0.0, 0.0])), OUTLINES))
    assert int(away.result) == Result.SEED_OUTSIDE_TISSUE and bool(jnp.isfinite(away.density).all())
    # Samplers count what the prior holds to be possible, and the solves say is not.
    width = Uniform(0.0, 8.0)
    unknown = eqx.tree_at(lambda p: p.growth.mu1, faulty.prior.distributions, width)
    narrow = dataclasses.replace(faulty, prior=Prior(unknown))
    found = calibrate(narrow, Stratified(256), key=jax.random.key(0))
    assert found.stats.failed == pytest.approx(256 * 5 / 8, abs=1)
    weights = np.exp(np.ravel(found.log_weights))
    ends = np.array([float(narrow.prior.constrain(jnp.asarray(z)).growth.mu1) for z in found.draws[0]])
    assert weights[ends < 5].sum() == 0 < weights[ends > 5].sum()
