"""Batches of simulations: equal to single ones, whatever the batch size, and compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import ball_brain
from tumorjax import (
    FisherKolmogorov,
    GrowthParams,
    MassEffectParams,
    ScaledGrowthParams,
    StrangRKL2,
    simulate,
    simulate_many,
)

pytestmark = pytest.mark.usefixtures("compiled_plainly")

ANATOMY = ball_brain((10, 11, 9), (4.0, 4.0, 4.5))
MODEL = FisherKolmogorov()
RNG = np.random.default_rng(0)
PARAMS = ScaledGrowthParams(
    jnp.asarray(RNG.uniform(2, 6, 5)),
    jnp.asarray(RNG.uniform(1, 3, 5)),
    jnp.asarray(RNG.uniform(-4, 4, (5, 3))),
    jnp.full(5, 0.5),
)


def member(i):
    return jax.tree.map(lambda leaf: leaf[i], PARAMS)


@pytest.fixture(scope="module")
def singles():
    return np.stack([simulate(MODEL, member(i), ANATOMY).density for i in range(5)])


@pytest.mark.parametrize("size", (None, 1, 2, 5, 99))
def test_batches_of_any_size_equal_single_solves(singles, size):
    densities = simulate_many(MODEL, PARAMS, ANATOMY, batch_size=size)
    np.testing.assert_allclose(densities, singles, rtol=1e-11, atol=1e-300)


def test_a_summary_is_kept_instead_of_densities(singles):
    def volume(solution):
        return {"cells": solution.density.sum(), "result": solution.result}

    kept = simulate_many(MODEL, PARAMS, ANATOMY, batch_size=2, summary=volume)
    np.testing.assert_allclose(kept["cells"], singles.sum(axis=(1, 2, 3)), rtol=1e-11)
    assert kept["result"].tolist() == [0] * 5


def test_a_batch_is_compiled_once():
    traces = []

    class Counting(StrangRKL2):
        def schedule(self, terms, interval):
            traces.append(interval)
            return super().schedule(terms, interval)

    stepper = Counting()
    simulate_many(MODEL, PARAMS, ANATOMY, batch_size=2, stepper=stepper)
    once = len(traces)
    assert once > 0
    simulate_many(MODEL, jax.tree.map(lambda leaf: 0.9 * leaf, PARAMS), ANATOMY, batch_size=2, stepper=stepper)
    assert len(traces) == once


@pytest.mark.parametrize("size", (None, 2))
def test_a_traced_batch_is_differentiated(singles, size):
    def cells(params):
        return simulate_many(MODEL, params, ANATOMY, batch_size=size, summary=lambda s: s.density.sum()).sum()

    value, slope = jax.jit(jax.value_and_grad(cells))(PARAMS)
    np.testing.assert_allclose(value, singles.sum(), rtol=1e-11)
    alone = jax.grad(lambda params: simulate(MODEL, params, ANATOMY).density.sum())(member(1))
    np.testing.assert_allclose(slope.mu2[1], alone.mu2, rtol=1e-9)


def test_a_failed_member_carries_its_code_and_no_other():
    broken = jax.tree.map(lambda leaf: leaf.at[3].set(jnp.nan), PARAMS)
    results = simulate_many(MODEL, broken, ANATOMY, batch_size=3, summary=lambda s: s.result)
    assert [bool(r) for r in results] == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("params", "size", "message"),
    (
        (ScaledGrowthParams(jnp.ones(3), jnp.ones(2), jnp.zeros((3, 3)), jnp.ones(3)), 1, "same leading axis"),
        (PARAMS, 0, "batch_size must be at least 1, got 0"),
    ),
)
def test_bad_batches_are_refused(params, size, message):
    with pytest.raises(ValueError, match=message):
        simulate_many(MODEL, params, ANATOMY, batch_size=size)


LENGTHS, COUNTS = PARAMS.mu1, PARAMS.mu2
ONE = ScaledGrowthParams(4.0, 2.0, np.array([1.0, 2.0, -1.0]))


@pytest.mark.parametrize(
    "params",
    (
        ScaledGrowthParams(LENGTHS, COUNTS, PARAMS.origin),
        ScaledGrowthParams(LENGTHS, 2.0, [1.0, 2.0, -1.0]),
        ScaledGrowthParams(4.0, np.asarray(COUNTS, np.float32), PARAMS.origin, 0.4),
        GrowthParams(0.1, COUNTS, jnp.zeros(3), 30.0),
        MassEffectParams(ScaledGrowthParams(LENGTHS, 2.0, np.zeros(3)), 1e4),
        MassEffectParams(ONE, np.linspace(0, 2e4, 5)),
        MassEffectParams(ScaledGrowthParams(4.0, 2.0, np.zeros((2, 3))), jnp.linspace(0, 2e4, 5)),
    ),
    ids=("speed", "origin", "float32", "physical", "force", "growth", "seeds"),
)
def test_what_a_batch_shares_is_repeated(params):
    leaves = jax.tree.leaves(params)
    assert {np.shape(leaf)[0] for leaf in leaves} == {5}
    # As `vmap` and `simulate_many` take them, also from inside.
    totals = jax.vmap(lambda one: jnp.stack([one.duration, *one.totals()]))(params)
    again = jax.jit(jax.vmap(lambda one: jnp.asarray(one.with_origin(one.origin).duration)))(params)
    np.testing.assert_allclose(totals[:, 0], again, rtol=1e-6)
    assert jax.tree.structure(params.crop((0, 0, 0), (2, 2, 2))) == jax.tree.structure(params)


def test_a_batch_may_share_all_but_one_number(singles):
    shared = ScaledGrowthParams(LENGTHS, float(COUNTS[0]), PARAMS.origin[0], 0.5)
    densities = simulate_many(MODEL, shared, ANATOMY)
    np.testing.assert_allclose(densities[0], singles[0], rtol=1e-11, atol=1e-300)
    assert np.ptp(densities.sum(axis=(1, 2, 3))) > 0


def test_single_tumours_stay_single():
    assert [np.shape(leaf) for leaf in jax.tree.leaves(MassEffectParams(ONE, 1e4))] == [(), (), (3,), (), ()]
    seeds = ScaledGrowthParams(4.0, 2.0, np.zeros((5, 3)))
    assert [np.shape(leaf) for leaf in jax.tree.leaves(seeds)] == [(), (), (5, 3), ()]
