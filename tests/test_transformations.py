"""The public functions under JAX's transformations and their compositions, with NumPy and with JAX arrays.

Each function takes two numbers and an anatomy, which is closed over or passed. Values are compared with those of
plain calls, and derivatives with differences. Growth with mass effect, which takes long to compile, is traced alone:
the values of its transformations are in `test_mass_effect.py`.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import ball_brain
from tumorjax import FisherKolmogorov, ForwardMode, GrowthParams, ScaledGrowthParams, simulate, simulate_many
from tumorjax.calibration import Parameters, Problem
from tumorjax.growth import (
    Chemotherapy,
    GaussianBasis,
    GompertzGrowth,
    MassEffect,
    MassEffectParams,
    Radiotherapy,
    VolumeParams,
)
from tumorjax.integrate import SplitEuler
from tumorjax.observation import FluidMap, FluidMapParams, Outline, OutlineParams, Pet, PetParams
from tumorjax.prior import LogNormal, Normal, Prior, Uniform

pytestmark = pytest.mark.usefixtures("compiled_plainly")

BRAIN = ball_brain((7, 6, 7), (6.0, 7.0, 6.0))
ORIGIN = np.array([-6.0, -4.0, 2.0])
SHAPE, TISSUE = BRAIN.grid.shape, np.asarray(BRAIN.tissue)
SHARE = np.where(TISSUE, np.random.default_rng(0).uniform(0.1, 0.9, SHAPE), 0)
WEIGHTS = np.random.default_rng(1).uniform(0.5, 1.5, SHAPE)
NUMBERS = jnp.asarray(4.0), jnp.asarray(2.0)
HERE, THERE = np.array([4.0, 1.6]), np.array([3.0, 1.9])


def weighed(density):
    return jnp.sum(jnp.asarray(WEIGHTS, density.dtype) * density)


def grown(x, anatomy, **settings):
    params = ScaledGrowthParams(x[0], x[1], ORIGIN)
    return weighed(simulate(FisherKolmogorov(), params, anatomy, throw=False, **settings).density)


def by_euler(x, anatomy, **settings):
    # By days, and from Gaussians.
    params = GrowthParams(0.01 * x[0], 0.02 * x[1], GaussianBasis(ORIGIN[None], [0.3], 6.0), 40.0)
    return weighed(simulate(FisherKolmogorov(), params, anatomy, stepper=SplitEuler(), **settings).density)


def treated(x, anatomy, **settings):
    treatments = (Radiotherapy((10, 20), 0.5 * x[0], 0.1), Chemotherapy(5, 30, 0.01 * x[1]))
    params = ScaledGrowthParams(*NUMBERS, ORIGIN)
    solution = simulate(FisherKolmogorov(), params, anatomy, treatments=treatments, save_every=15.0, **settings)
    return weighed(solution.series[1] + solution.density)


def many(x, anatomy, **settings):
    params = ScaledGrowthParams(x[0] * np.array([1.0, 0.8]), x[1] * np.ones(2), np.stack([ORIGIN, ORIGIN]))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, anatomy.dtype), params)
    return jnp.sum(simulate_many(FisherKolmogorov(), params, anatomy, batch_size=2, summary=cells, **settings))


def cells(solution):
    return weighed(solution.density)


def volume(x, anatomy, **settings):
    del anatomy
    params = VolumeParams(10 * x[0], 0.02 * x[1], 50.0, 9e4)
    return simulate(GompertzGrowth(), params, treatments=(Chemotherapy(10, 20, 0.01 * x[1]),)).volume


def observed(x, anatomy, **settings):
    del settings
    density = jnp.asarray(SHARE, anatomy.dtype) * (0.2 * x[0])
    valid, share = anatomy.tissue, jnp.asarray(SHARE, anatomy.dtype)
    return (
        Outline(share, valid, effective_voxels=60.0).log_prob(density, OutlineParams(0.3 * x[1], 2.0))
        + Pet(share, valid, effective_voxels=60.0).log_prob(density, PetParams(x[1], 0.3))
        + FluidMap(share, valid, effective_voxels=60.0).log_prob(density, FluidMapParams(0.2 * x[1]))
    ).astype(anatomy.dtype)


def moved(x, anatomy, **settings):
    del settings
    part = anatomy.crop((1, 1, 1), (5, 4, 5)).coarsen(2).astype(anatomy.dtype)
    return x[0] * jnp.sum(part.white_matter) + x[1] ** 2 * part.grid.to_world(jnp.ones(3, anatomy.dtype)).sum()


def posterior(x, anatomy, *, adjoint=None):
    tissue = anatomy.tissue
    observations = {"core": Outline(SHARE, tissue), "pet": Pet(SHARE, tissue)}
    growth = ScaledGrowthParams(LogNormal(4.0, 0.5), LogNormal(1.6, 0.4), Normal(ORIGIN, 3.0))
    threshold = OutlineParams(Uniform(0.1, 0.5), LogNormal(3.0, 0.5))
    unknown = {"core": threshold, "pet": PetParams(LogNormal(1.0, 0.3), 0.4)}
    problem = Problem(FisherKolmogorov(), anatomy, observations, Prior(Parameters(growth, unknown)))
    z = jnp.zeros(problem.prior.size, anatomy.dtype).at[0].set(x[0] - 4).at[1].set(x[1] - 1.6)
    if adjoint is None:
        return problem.log_posterior(z)
    params = problem.prior.constrain(z)
    return problem.log_likelihood(problem.predict(params, adjoint), params) - jnp.sum(z**2) / 2


VERBS = (grown, by_euler, treated, many, volume, observed, moved, posterior)
ANATOMIES = {"NumPy": BRAIN, "JAX": jax.tree.map(jnp.asarray, BRAIN)}
# Compositions for all, and for what compiles quickly each transformation by itself, too.
TABLE = [
    pytest.param(verb, transformation, id=f"{verb.__name__}-{transformation}")
    for verbs, transformations in (
        ((by_euler, treated, many, posterior), ("jit of grad", "jit of vmap", "jvp")),
        ((grown, volume, observed, moved), ("jit", "grad", "jit of grad", "vmap of grad", "jit of vmap", "jvp")),
    )
    for verb in verbs
    for transformation in transformations
    if (verb, transformation) != (many, "jvp")
]
PLACES = [
    pytest.param(verb, where, id=f"{verb.__name__}-{where}")
    for where, verbs in (
        ("passed", VERBS),
        ("NumPy", (grown, treated, posterior)),
        ("float32", (grown, by_euler, observed)),
    )
    for verb in verbs
]


@functools.cache
def plain(verb):
    """Return the values of plain calls here and there, and the gradients by differences."""
    with_jit = jax.jit(functools.partial(verb, anatomy=BRAIN))
    values = np.array([float(verb(HERE, BRAIN)), float(with_jit(THERE))])
    steps = 1e-4 * np.eye(2)
    slopes = [[float(with_jit(x + h) - with_jit(x - h)) / 2e-4 for h in steps] for x in (HERE, THERE)]
    return values, np.array(slopes)


@pytest.mark.parametrize(("verb", "transformation"), TABLE)
def test_a_transformation_gives_what_plain_calls_do(verb, transformation):
    values, slopes = plain(verb)
    both, closed = jnp.stack([HERE, THERE]), functools.partial(verb, anatomy=ANATOMIES["JAX"])
    if transformation == "jit":
        np.testing.assert_allclose(jax.jit(closed)(both[0]), values[0], rtol=1e-9)
    elif transformation == "jit of vmap":
        np.testing.assert_allclose(jax.jit(jax.vmap(closed))(both), values, rtol=1e-9)
    elif transformation == "jvp":
        forward = functools.partial(closed, adjoint=ForwardMode())
        value, along = jax.jvp(forward, (both[0],), (jnp.asarray([0.3, -0.7]),))
        np.testing.assert_allclose(value, values[0], rtol=1e-9)
        np.testing.assert_allclose(along, slopes[0] @ [0.3, -0.7], rtol=1e-5, atol=1e-8)
    elif transformation == "vmap of grad":
        np.testing.assert_allclose(jax.vmap(jax.grad(closed))(both), slopes, rtol=1e-5, atol=1e-8)
    else:
        gradient = jax.grad(closed) if transformation == "grad" else jax.jit(jax.grad(closed))
        np.testing.assert_allclose(gradient(both[0]), slopes[0], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("verb", "where"), PLACES)
def test_anatomies_of_both_kinds_closed_over_and_passed_agree(verb, where):
    values, slopes = plain(verb)
    if where == "float32":
        single = jax.tree.map(jnp.asarray, BRAIN.astype(np.float32))
        value, found = jax.jit(jax.value_and_grad(lambda x: verb(x, single)))(jnp.asarray(HERE, jnp.float32))
        assert value.dtype == found.dtype == np.float32
        np.testing.assert_allclose(value, values[0], rtol=1e-4)
        np.testing.assert_allclose(found, slopes[0], rtol=2e-3, atol=1e-3)
        return
    if where == "passed":
        value, found = jax.jit(jax.value_and_grad(verb))(HERE, ANATOMIES["NumPy"])
    else:
        value, found = jax.jit(jax.value_and_grad(lambda x: verb(x, ANATOMIES["NumPy"])))(HERE)
    np.testing.assert_allclose(value, values[0], rtol=1e-9)
    np.testing.assert_allclose(found, slopes[0], rtol=1e-5, atol=1e-8)


def pushed(x, anatomy, **settings):
    params = MassEffectParams(ScaledGrowthParams(x[0], x[1], ORIGIN), 1e3 * x[0])
    solution = simulate(MassEffect(FisherKolmogorov(math.inf)), params, anatomy, throw=False, **settings)
    return jnp.sum(solution.displacement**2) + jnp.sum(solution.anatomy.csf)


def test_growth_with_mass_effect_is_traced_by_all():
    both = jnp.stack([HERE, THERE])
    closed = functools.partial(pushed, anatomy=ANATOMIES["JAX"])
    assert jax.eval_shape(closed, both[0]).shape == ()
    assert jax.eval_shape(jax.vmap(jax.grad(closed)), both).shape == (2, 2)
    assert jax.eval_shape(jax.grad(pushed), both[0], ANATOMIES["NumPy"]).shape == (2,)
    forward = functools.partial(closed, adjoint=ForwardMode())
    assert jax.eval_shape(lambda x: jax.jvp(forward, (x,), (x,))[1], both[0]).shape == ()


def test_a_batch_of_parameters_has_its_axis_throughout():
    mu1, mu2, origins = np.linspace(2, 4, 3), np.linspace(1, 2, 3), np.tile(ORIGIN, (3, 1))
    params = ScaledGrowthParams(mu1, mu2, origins)
    single = [
        simulate(FisherKolmogorov(), ScaledGrowthParams(a, b, list(o)), BRAIN).density
        for a, b, o in zip(mu1, mu2, origins, strict=True)
    ]
    batch = jax.vmap(lambda p: simulate(FisherKolmogorov(), p, BRAIN).density)(params)
    np.testing.assert_allclose(batch, single, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(simulate_many(FisherKolmogorov(), params, BRAIN), single, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "make",
    (
        lambda x: ScaledGrowthParams(x, 1.5, ORIGIN),
        lambda x: ScaledGrowthParams(2.0, x, ORIGIN),
        lambda x: ScaledGrowthParams(2.0, 1.5, ORIGIN, x),
    ),
    ids=("mu1", "mu2", "speed"),
)
def test_a_negative_number_that_is_traced_gives_nan(make):
    density = jax.jit(lambda x: simulate(FisherKolmogorov(), make(x), BRAIN).density.sum())
    assert np.isnan(density(-1.5))
    assert np.isfinite(density(1.5))
