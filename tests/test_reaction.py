"""Reactions of a user's own: their solutions, and derivatives through every scheme."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import ball_brain, slope
from tumorjax import (
    AbstractReaction,
    Anatomy,
    Chemotherapy,
    FisherKolmogorov,
    FlowSplitting,
    ForwardMode,
    Grid,
    GrowthParams,
    InitialDensity,
    MassEffect,
    MassEffectParams,
    SplitEuler,
    StrangRKL2,
    simulate,
)

BRAIN = ball_brain()
ORIGIN = np.array([-4.0, 2.0, 1.0])


class Generalized(AbstractReaction):
    """f(c) = c (1 - c^n) / n, and a map of where cells divide faster."""

    power: Any
    faster: Any = None

    def __call__(self, density, grown, killed=None):
        grown = grown if self.faster is None else grown * self.faster
        there = density > 0
        shrunk = jnp.where(there, density, 1) ** self.power
        density = jnp.where(there, density / (shrunk + (1 - shrunk) * jnp.exp(-grown)) ** (1 / self.power), 0)
        return density if killed is None else density * jnp.exp(-killed)


class Params(GrowthParams):
    """Parameters with the power of the reaction."""

    power: Any = 1.0


class Model(FisherKolmogorov):
    """Growth whose reaction is that of `Params`."""

    def reaction(self, params):
        return Generalized(params.power)


class Mapped(FisherKolmogorov):
    """Growth that is faster where there is white matter."""

    power: Any = 2.0

    def terms(self, params, anatomy):
        reaction = Generalized(self.power, 1 + 0.5 * jnp.asarray(anatomy.white_matter))
        return dataclasses.replace(super().terms(params, anatomy), reaction=reaction)


def cells(power, stepper=None, model=None, **settings):
    """The sum of the squares of the density, smooth in the power."""
    params = Params(0.1, 0.05, ORIGIN, 120.0, power)
    return jnp.sum(simulate(model or Model(), params, BRAIN, stepper=stepper, throw=False, **settings).density ** 2)


def test_without_diffusion_it_is_the_reaction_alone():
    grid = Grid.from_spacing((6, 5, 4), 2.0)
    anatomy = Anatomy(grid, jnp.ones(grid.shape), jnp.zeros(grid.shape), jnp.zeros(grid.shape))
    begin = np.random.default_rng(0).uniform(0.01, 0.8, grid.shape)
    params = Params(0.0, 0.05, InitialDensity(begin), 60.0, 0.5)
    # d(c^-n)/dt = rho (1 - c^-n), whose solution is an exponential.
    expected = (1 + (begin**-0.5 - 1) * np.exp(-0.05 * 60)) ** -2
    np.testing.assert_allclose(simulate(Model(), params, anatomy).density, expected, rtol=1e-12)


def test_the_logistic_one_is_its_own_special_case():
    params = Params(0.1, 0.05, ORIGIN, 120.0, 1.0)
    plain = simulate(FisherKolmogorov(), params, BRAIN).density
    np.testing.assert_allclose(simulate(Model(), params, BRAIN).density, plain, atol=1e-13)
    drug = (Chemotherapy(30.0, 90.0, rate=0.01),)
    # The drug's part is split here, and exact there.
    treated = [simulate(model, params, BRAIN, treatments=drug).density for model in (FisherKolmogorov(), Model())]
    assert 1e-6 < float(jnp.abs(treated[0] - treated[1]).max()) < 0.02
    assert float(treated[1].sum()) < 0.8 * float(plain.sum())


@pytest.mark.parametrize("stepper", (StrangRKL2(), SplitEuler()))
def test_derivative_by_its_number(stepper):
    value, derivative = jax.jit(jax.value_and_grad(lambda n: cells(n, stepper)))(1.4)
    steps = np.array([0.04, 0.02, 0.01])
    values = jax.jit(jax.vmap(lambda n: cells(n, stepper)))(1.4 + jnp.asarray(steps))
    assert abs(float(derivative)) > 0.1
    assert slope(steps, np.abs(values - value - steps * derivative)) == pytest.approx(2, abs=0.1)
    along = jax.jit(lambda n: jax.jvp(lambda m: cells(m, stepper, adjoint=ForwardMode()), (n,), (1.0,))[1])(1.4)
    np.testing.assert_allclose(along, derivative, rtol=1e-10)


def test_derivative_by_its_map():
    # By tissue maps, on which its map depends, and by its number, which is the model's.
    def value(step):
        moved = eqx.tree_at(lambda a: a.white_matter, BRAIN, jnp.asarray(BRAIN.white_matter) * (1 - 0.1 * step))
        params = GrowthParams(0.1, 0.05, ORIGIN, 120.0)
        return jnp.sum(simulate(Mapped(power=2.0 + step), params, moved, throw=False).density ** 2)

    steps = np.array([0.04, 0.02, 0.01])
    begin, derivative = jax.jit(jax.value_and_grad(value))(0.0)
    values = jax.jit(jax.vmap(value))(jnp.asarray(steps))
    assert slope(steps, np.abs(values - begin - steps * derivative)) == pytest.approx(2, abs=0.1)


def test_growth_with_mass_effect_has_it_too():
    params = Params(0.1, 0.05, ORIGIN, 60.0, 2.0)
    alone, displaced = (
        simulate(model, given, BRAIN, stepper=stepper).density
        for model, given, stepper in (
            (Model(), params, FlowSplitting().growth),
            (MassEffect(Model()), MassEffectParams(params, 0.0), None),
        )
    )
    np.testing.assert_allclose(displaced, alone, atol=1e-6)
    assert float(jnp.abs(alone - simulate(FisherKolmogorov(), params, BRAIN).density).max()) > 0.05
