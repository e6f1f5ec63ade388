"""Cheap posteriors that screen the solves of samplers, by which the draws stay those of the exact posterior."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import patient
from tests.targets import Banana, Failing, Gaussian, Rough, same_stats
from tests.test_simple_samplers import Killed, killer, standardised
from tumorjax import LBFGS, TMCMC, FisherKolmogorov, Metropolis, calibrate
from tumorjax.calibration import published_observations, published_prior
from tumorjax.io import InputError
from tumorjax.methods.sampling.diagnostics import diagnose
from tumorjax.methods.sampling.marginal import MarginalTarget
from tumorjax.methods.sampling.moves import accepted_twice
from tumorjax.methods.sampling.screen import refuses_screen, screen_named, screened
from tumorjax.methods.sampling.target import Screened, log_likelihoods
from tumorjax.quality import Status, status_of

KEY = jax.random.key(11)
# Off by a standard deviation or more, and half as wide.
BIASED = Screened(Gaussian(3), Rough(Gaussian(3), 0.15, 2.0))


def test_both_stages_have_their_probabilities():
    first, second = np.log([0.5, 3.0, 0.2, 4.0]), np.log([0.5, 0.25, 2.0, 7.0])
    uniform = (np.stack(np.meshgrid(*(np.arange(100),) * 2)).reshape(2, -1) + 0.5) / 100
    asked = []

    def correction(some):
        asked.append(len(some))
        return second[some % 4]

    ratio = np.tile(first, uniform.shape[1])
    passed, moving = accepted_twice(ratio, np.repeat(uniform, 4, axis=1), correction)
    np.testing.assert_allclose(passed.reshape(-1, 4).mean(axis=0), [0.5, 1, 0.2, 1])
    np.testing.assert_allclose(moving.reshape(-1, 4).mean(axis=0), [0.25, 0.25, 0.2, 1])
    # Nothing is computed for proposals that the first stage has rejected.
    assert asked == [passed.sum()]
    passed, moving = accepted_twice(ratio, np.repeat(uniform, 4, axis=1), None)
    np.testing.assert_array_equal(passed, moving)


@pytest.fixture(scope="module")
def walked():
    target = Gaussian(3)
    return Metropolis(draws=2500, burn_in=500).draw(BIASED, KEY, target.mean, 4 * target.covariance)


def test_draws_are_those_of_the_target_and_not_of_the_screen(walked):
    target = Gaussian(3)
    assert standardised(walked, target, walked.stats.ess.min() / 2).max() < 3.5
    # Of which it is far.
    screen = BIASED.screen
    alone = Metropolis(draws=2500, burn_in=500).draw(screen, KEY, target.mean, 4 * target.covariance)
    assert standardised(alone, target, alone.stats.ess.min() / 2).max() > 6
    np.testing.assert_allclose(
        walked.log_likelihoods[:, ::300].ravel(), log_likelihoods(target, walked.draws[:, ::300].reshape(-1, 3))
    )


def test_solves_of_both_kinds_are_counted(walked):
    cost = walked.stats.cost
    assert cost.coarse_solves == 4 * 3001
    assert 4 * 2500 * np.mean(walked.stats.acceptance) < cost.solves < 0.6 * cost.coarse_solves
    assert (walked.stats.unscreened, walked.stats.failed) == (0.0, 0)


def test_a_screen_that_is_the_target_rejects_nothing_twice():
    target = Gaussian(2)
    both = Metropolis(draws=200, burn_in=50).draw(Screened(target, target), KEY)
    plain = Metropolis(draws=200, burn_in=50).draw(target, KEY)
    np.testing.assert_array_equal(both.draws, plain.draws)
    assert both.stats.cost.coarse_solves == plain.stats.cost.solves == 4 * 251
    assert plain.stats.unscreened is None and plain.stats.cost.coarse_solves == 0


def test_where_a_screen_has_no_answer_is_told():
    target = Gaussian(2)
    bound = float(target.mean[0] - 0.5 * np.sqrt(target.covariance[0, 0]))
    for method in (Metropolis(draws=400, burn_in=200), TMCMC(particles=256, steps=2)):
        # Chains begin below the bound, so that each has an answer.
        start = target.mean - 2 * np.sqrt(np.diagonal(target.covariance))
        start = {"centre": start, "covariance": 0.04 * target.covariance} if isinstance(method, Metropolis) else {}
        found = method.draw(Screened(target, Failing(target, bound)), KEY, **start)
        assert found.draws[..., 0].max() <= bound
        assert 0.05 < found.stats.unscreened < 0.9
        weights = np.zeros(found.log_likelihoods.size)
        told = diagnose(["a", "b"], found.draws, weights, np.nan, "it", found.stats)
        (note,) = [each for each in told.notes() if "the screen had no answer" in each]
        assert status_of([note]) is Status.DOUBTFUL
        assert ("of these by the screen", str(found.stats.cost.coarse_solves)) in told.facts()


def test_a_run_that_was_killed_continues_with_its_screen(tmp_path):
    target, settings = Screened(Banana(), Rough(Banana(), 0.1, 0.7)), {"draws": 200, "burn_in": 100}
    whole = Metropolis(**settings).draw(target, KEY)
    method = Metropolis(**settings, checkpoint=str(tmp_path / "run"))
    with pytest.raises(Killed):
        method.draw(target, KEY, progress=killer(3))
    again = method.draw(target, KEY)
    np.testing.assert_array_equal(again.draws, whole.draws)
    assert same_stats(again.stats, whole.stats)
    with pytest.raises(ValueError, match="of another calibration"):
        method.draw(target.target, KEY)


def test_a_screen_is_made_of_a_factor_a_model_or_a_problem():
    problem = patient()
    assert isinstance(screened(problem, None), MarginalTarget)
    coarse = screened(problem, 2)
    assert coarse.screen.problem.anatomy.grid.shape == problem.coarsen(2).anatomy.grid.shape
    assert coarse.target.problem is problem
    model = FisherKolmogorov(ratio=5.0)
    other = screened(problem, model)
    assert other.screen.problem.model == model and other.target.problem.model == problem.model
    # No fibres are shown to a model in its place.
    fibres = jnp.zeros((*problem.anatomy.grid.shape, 6)).at[..., jnp.array([0, 3, 5])].set(1.0)
    along = dataclasses.replace(problem, anatomy=dataclasses.replace(problem.anatomy, fibres=fibres))
    assert screened(along, model).screen.problem.anatomy.fibres is None
    own = screened(problem, problem.coarsen(4))
    assert own.screen.problem.anatomy.grid.shape == problem.coarsen(4).anatomy.grid.shape


def test_screens_that_cannot_stand_for_a_problem():
    problem = patient()
    assert refuses_screen(problem, 2) is refuses_screen(problem, None) is None
    other = patient(pet=(1.0, 0.1))
    with pytest.raises(ValueError, match=r"the screen has the unknowns .*pet.*; give a problem over those"):
        calibrate(problem, TMCMC(screen=other), key=KEY)
    with pytest.raises(ValueError, match="screen must be a factor between voxels"):
        Metropolis(screen=True)
    assert screen_named({}) is None and screen_named({}, 2) == 2
    assert screen_named({"screen": "none"}, 2) is None and screen_named({"screen": "coarse"}) == 2


def test_a_patient_is_screened_on_coarser_voxels():
    problem = patient()
    method = Metropolis(chains=2, draws=20, burn_in=20, start=LBFGS(starts=1, budget=15), screen=2)
    found = calibrate(problem, method, key=KEY)
    cost = found.stats.cost
    assert cost.coarse_solves == 2 * 41 > cost.solves > 2
    point = np.asarray(found.draws[0, -1])
    params = problem.prior.constrain(jnp.asarray(point))
    value = problem.log_likelihood(problem.predict(params), params)
    assert float(found.log_likelihoods[0, -1]) == pytest.approx(float(value), rel=1e-6)


@pytest.fixture(scope="module")
def surrogate():
    """A network that has learnt nothing, so that it is as wrong as a screen can be."""
    nnx = pytest.importorskip("flax.nnx")
    from tumorjax.growth import LearnedGrowth
    from tumorjax.networks import Surrogate, SurrogateArchitecture, TrainingBox

    box = TrainingBox((("mu1", 1.0, 10.0), ("mu2", 1.0, 5.0)))
    return LearnedGrowth.of(Surrogate(SurrogateArchitecture("patch", (8, 8), 4.0, box, 24, blocks=1), nnx.Rngs(0)))


def eleven():
    """The published model of a patient with two outlines and PET, on voxels of 4 mm, that are worth few each."""
    problem = patient("isolines", pet=(0.8, 0.1))
    images = published_observations(problem.observations, effective_voxels=8.0)
    prior = published_prior(problem.anatomy, images)
    assert prior.size == 11
    return dataclasses.replace(problem, observations=images, prior=prior)


def value_at(problem, found, i):
    params = problem.prior.constrain(jnp.asarray(found.draws[0, i]))
    return float(problem.log_likelihood(problem.predict(params), params))


def test_eleven_parameters_through_the_surrogate_alone(surrogate):
    problem = dataclasses.replace(eleven(), model=surrogate)
    found = calibrate(problem, TMCMC(particles=64, steps=1), key=KEY)
    assert found.draws.shape == (1, 64, 11) and np.isfinite(np.asarray(found.draws)).all()
    assert np.isfinite(float(found.log_evidence)) and found.cost.coarse_solves == 0
    assert float(found.log_likelihoods[0, 5]) == pytest.approx(value_at(problem, found, 5), rel=1e-5)
    # A part of the published box is outside of what a network has learnt.
    assert 0 < found.stats.failed < found.cost.solves
    assert {"diffusivity", "proliferation", "pet_scale", "pet_noise"} <= {row.name for row in found.estimates()}


def test_the_surrogate_screens_the_solver(surrogate):
    problem = eleven()
    found = calibrate(problem, TMCMC(particles=64, steps=1, screen=surrogate), key=KEY)
    cost = found.stats.cost
    assert cost.coarse_solves > cost.solves >= 64
    for i in (0, 40):
        assert float(found.log_likelihoods[0, i]) == pytest.approx(value_at(problem, found, i), rel=1e-5)
    assert found.stats.details["coarse_stages"] > 0 and found.stats.unscreened is not None


def test_the_command_takes_the_surrogate_of_the_package(monkeypatch):
    pytest.importorskip("flax")
    method = TMCMC.from_options({"particles": 64, "screen": "surrogate", "resolution": 2.0})
    assert method.screen.name == "learned" and method.particles == 64
    monkeypatch.setitem(sys.modules, "flax", None)
    with pytest.raises(InputError, match=r"screen: surrogate needs flax, .*pip install 'tumorjax\[networks\]'"):
        Metropolis.from_options({"screen": "surrogate"})
