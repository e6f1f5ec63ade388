"""Models as others see them: one of a user's own, and one that moves tissue, from simulation to calibration."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import ball_brain, slope
from tumorjax.calibration import Problem, calibrate, default_prior
from tumorjax.calibration.laplace import laplace_covariance
from tumorjax.growth import (
    AbstractGrowth,
    AbstractGrowthParams,
    AbstractReaction,
    FisherKolmogorov,
    MassEffect,
    ReactionDiffusion,
    ScaledGrowthParams,
    Seeds,
)
from tumorjax.integrate import AbstractStepper, ForwardMode, Schedule, StrangRKL2, simulate
from tumorjax.methods import LBFGS
from tumorjax.methods.search.starts import geometric_starts
from tumorjax.observation import Outline
from tumorjax.operators import face_conductance
from tumorjax.prior import LogNormal

pytestmark = pytest.mark.usefixtures("compiled_plainly")

BRAIN = ball_brain((10, 11, 9), (6.0, 6.0, 6.5))
ORIGIN = np.array([3.0, -4.0, 2.0])


class Starved(AbstractReaction):
    """Ricker's law, slower by a share that the hunger takes."""

    hunger: Any

    def __call__(self, density, grown, killed=None):
        return density * jnp.exp(grown * (1 - self.hunger) * (1 - density))


class StarvedParams(AbstractGrowthParams):
    """Without a form that others could be brought to."""

    spread: Any
    divisions: Any
    origin: Any
    hunger: Any

    @property
    def duration(self):
        return 100.0 + 0 * jnp.asarray(self.spread)

    @property
    def valid(self):
        return jnp.asarray(self.spread) >= 0


class StarvedGrowth(AbstractGrowth):
    """Another right-hand side, with a parameter of its own; all else is the default."""

    name: ClassVar[str] = "starved"
    parameters: ClassVar[tuple[type, ...]] = (StarvedParams,)

    def initial(self, params, anatomy):
        return Seeds(params.origin, 60.0, 6.0).initial(anatomy)

    def seeded(self, params, anatomy):
        return Seeds(params.origin, 60.0, 6.0).seeded(anatomy)

    def terms(self, params, anatomy):
        inside = anatomy.tissue.astype(anatomy.dtype)
        conductance = face_conductance(inside, inside, jnp.asarray(anatomy.grid.spacing))
        return ReactionDiffusion(
            conductance, inside, params.spread**2, params.divisions**2, reaction=Starved(params.hunger)
        )

    def default_prior(self, origin, speed):
        return StarvedParams(LogNormal(6.0, 0.5), LogNormal(2.5, 0.3), origin, LogNormal(0.1, 0.5))


TRUTH = StarvedParams(jnp.asarray(6.0), jnp.asarray(2.6), jnp.asarray(ORIGIN), jnp.asarray(0.1))


def outlines(density):
    """Return the outlines of core and lesion."""
    tissue = np.asarray(BRAIN.tissue)
    levels = {"core": 0.5, "lesion": 0.15}
    return {name: Outline((np.asarray(density) > level).astype(float), tissue) for name, level in levels.items()}


def problem_with(model, density):
    return Problem(model, BRAIN, outlines(density), default_prior(BRAIN, outlines(density), model=model))


def test_a_model_of_ones_own_runs_through():
    model = StarvedGrowth()
    density = simulate(model, TRUTH, BRAIN).density
    assert 0.5 < float(density.max()) <= 1

    @jax.jit
    def cells(hunger):
        return simulate(model, dataclasses.replace(TRUTH, hunger=hunger), BRAIN, throw=False).density.sum()

    rate, steps = float(jax.jit(jax.grad(cells))(0.1)), 0.02 / 2.0 ** np.arange(3)
    remainders = [abs(float(cells(0.1 + h) - cells(0.1)) - h * rate) for h in steps]
    assert slope(steps, remainders) == pytest.approx(2, abs=0.2)
    problem = problem_with(model, density)
    found = calibrate(problem, LBFGS(starts=1, coarsening=1, budget=4))
    begun = float(problem.log_posterior(jnp.zeros(problem.prior.size)))
    assert float(problem.log_posterior(found.coordinates)) > begun
    assert np.linalg.eigvalsh(found.covariance).min() > 0
    # Its numbers are named, though it says nothing of them.
    names = [quantity.name for quantity in model.quantities(found.params.growth)]
    assert names == ["origin_x", "origin_y", "origin_z", "spread", "divisions", "hunger"]


def test_a_model_may_have_a_scheme_of_its_own():
    class Doubling(eqx.Module):
        """An equation of its own."""

        factor: Any

        def over(self, share):
            return self

    class Twice(AbstractStepper):
        """A scheme that multiplies the density once."""

        advances: ClassVar[tuple[type, ...]] = (Doubling,)

        def schedule(self, terms, interval):
            return Schedule.graded(interval, 1.0, jnp.ones(()), jnp.zeros(()))

        def step(self, terms, schedule, k, state):
            return jnp.minimum(terms.factor * state, 1)

    class Doubled(StarvedGrowth):
        def terms(self, params, anatomy):
            return Doubling(jnp.asarray(2.0))

    class Scheduled(Doubled):
        def stepper(self):
            return Twice()

    model = Scheduled()
    density = simulate(model, TRUTH, BRAIN).density
    np.testing.assert_allclose(density, jnp.minimum(2 * model.initial(TRUTH, BRAIN), 1))
    np.testing.assert_array_equal(simulate(Doubled(), TRUTH, BRAIN, stepper=Twice()).density, density)
    with pytest.raises(ValueError, match=r"Doubled .* for which there is no default scheme; give a stepper"):
        simulate(Doubled(), TRUTH, BRAIN)
    with pytest.raises(ValueError, match="StrangRKL2 advances ReactionDiffusion, but the equations of Scheduled"):
        simulate(model, TRUTH, BRAIN, stepper=StrangRKL2())


def test_mass_effect_has_a_covariance_from_an_ordinary_origin():
    density = simulate(FisherKolmogorov(), ScaledGrowthParams(8.0, 3.0, ORIGIN), BRAIN).density
    problem = problem_with(MassEffect(), density)
    assert {"growth.mass_effect", "growth.growth.origin[0]"} < set(problem.prior.names)
    begun = problem.prior.unconstrain(geometric_starts(problem, 1)[0])
    assert begun.shape == (problem.prior.size,) and np.isfinite(begun).all()
    # Derivatives are batched while these are traced; what they are, tests of the solver hold.
    covariance = eqx.filter_eval_shape(laplace_covariance, problem, begun)
    assert covariance.shape == (problem.prior.size, problem.prior.size)
    slopes = jax.eval_shape(jax.jacfwd(lambda z: problem.density(problem.prior.constrain(z), ForwardMode())), begun)
    assert slopes.shape == (*BRAIN.grid.shape, problem.prior.size)


def test_a_default_prior_is_its_models():
    density = np.asarray(simulate(FisherKolmogorov(), ScaledGrowthParams(8.0, 3.0, ORIGIN), BRAIN).density)
    still, moved = (
        default_prior(BRAIN, outlines(density), model=model) for model in (FisherKolmogorov(), MassEffect())
    )
    assert moved.size == still.size + 1
    weak = moved.distributions.growth.like(ScaledGrowthParams(8.0, 3.0, ORIGIN))
    assert 0 < float(weak.mass_effect) < 5e4
    assert moved.unconstrain(dataclasses.replace(moved.constrain(jnp.zeros(moved.size)), growth=weak)).shape == (10,)
