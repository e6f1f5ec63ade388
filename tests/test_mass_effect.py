"""Growth with mass effect: closed forms, the limit without force, symmetries, order and gradients."""

import dataclasses
import functools
import math
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import ball_brain, slope
from tumorjax import CheckpointedAdjoint, FisherKolmogorov, ForwardMode, GrowthParams, ScaledGrowthParams, simulate
from tumorjax.anatomy import TISSUE_THRESHOLD, Anatomy
from tumorjax.grid import Grid
from tumorjax.growth import InitialDensity, MassEffect, MassEffectParams, Mechanics, Radiotherapy, Surgery
from tumorjax.growth.outcome import Outcome
from tumorjax.integrate import Interval, Result, StrangRKL2
from tumorjax.integrate.mass_effect import FlowSplitting
from tumorjax.integrate.stepper import Schedule

pytestmark = pytest.mark.usefixtures("compiled_plainly")

ANATOMY = ball_brain((16, 16, 16), 4.0)
SHAPE, TISSUE = ANATOMY.grid.shape, np.asarray(ANATOMY.tissue)
WEIGHTS = np.random.default_rng(0).uniform(0.5, 1.5, (4, *SHAPE))
EXACT = FlowSplitting(tolerance=1e-12)
# Every quantity that a solve can be differentiated with respect to; the final density is two thirds.
POINT = {
    "mass_effect": np.asarray(2e4),
    "mu1": np.asarray(5.0),
    "mu2": np.asarray(2.4),
    "origin": np.asarray([-11.0, -6.0, 5.0]),
    "ratio": np.asarray(8.0),
    "young": np.asarray(2300.0),
    "poisson": np.asarray(0.38),
    "white_matter": np.asarray(ANATOMY.white_matter),
    "grey_matter": np.asarray(ANATOMY.grey_matter),
}
SPEED = 0.5


def growth_of(v, speed=SPEED):
    return ScaledGrowthParams(v["mu1"], v["mu2"], v["origin"], speed)


def solve(v, speed=SPEED, adjoint=CheckpointedAdjoint(), stepper=EXACT):  # noqa: B008
    """Return the solution where grey matter has other elastic constants than white; nothing is raised."""
    mechanics = Mechanics((2100.0, v["young"], 100.0, 8000.0), (0.4, v["poisson"], 0.1, 0.45))
    white, grey = jnp.asarray(v["white_matter"]), jnp.asarray(v["grey_matter"])
    anatomy = eqx.tree_at(lambda a: (a.white_matter, a.grey_matter, a.csf), ANATOMY, (white, grey, 1 - white - grey))
    params = MassEffectParams(growth_of(v, speed), v["mass_effect"])
    model = MassEffect(FisherKolmogorov(v["ratio"]), mechanics, force="linear")
    return simulate(model, params, anatomy, stepper=stepper, adjoint=adjoint, throw=False)


def loss_of(solution):
    """Return a smooth scalar that depends on cells, tissue and displacement everywhere."""
    fields = (solution.density, solution.anatomy.white_matter, 0.3 * solution.anatomy.csf)
    moved = jnp.sum(WEIGHTS[3] * jnp.sum(solution.displacement**2, axis=-1))
    return sum(jnp.sum(w * field**2) for w, field in zip(WEIGHTS, fields, strict=False)) + moved


def loss(v, adjoint=CheckpointedAdjoint()):  # noqa: B008
    return loss_of(solve(v, adjoint=adjoint))


growing = jax.jit(solve)
gradient = jax.jit(jax.grad(loss))
push = jax.jit(lambda v, d: jax.jvp(functools.partial(loss, adjoint=ForwardMode()), (v,), (d,))[1])


def at(**changes):
    return {**POINT, **{name: np.asarray(value, float) for name, value in changes.items()}}


@pytest.fixture(scope="module")
def pushed():
    """The solution at `POINT`."""
    solution = growing(POINT)
    assert int(solution.result) == Result.SUCCESS
    return solution


@pytest.fixture(scope="module")
def gradients():
    return gradient(POINT)


def length(displacement):
    return np.linalg.norm(np.asarray(displacement), axis=-1)


def difference(a, b):
    """Return the relative L2 difference."""
    return float(np.linalg.norm(np.ravel(a - b)) / np.linalg.norm(np.ravel(b)))


# Without force.


def test_without_force_the_cells_do_what_the_growth_says(pushed):
    solution = growing(at(mass_effect=0.0))
    reference = simulate(FisherKolmogorov(POINT["ratio"]), growth_of(POINT), ANATOMY, stepper=FlowSplitting().growth)
    np.testing.assert_allclose(solution.density, reference.density, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(solution.displacement, 0)
    np.testing.assert_array_equal(solution.anatomy.white_matter, ANATOMY.white_matter)
    assert int(solution.steps) == int(reference.steps)
    assert difference(pushed.density, reference.density) > 0.05


def test_without_force_the_other_variant_does_so_too():
    growth = FisherKolmogorov(math.inf, dividing="white matter")
    solution = simulate(MassEffect(growth), MassEffectParams(growth_of(POINT), 0.0), ANATOMY)
    reference = simulate(growth, growth_of(POINT), ANATOMY, stepper=FlowSplitting().growth)
    assert float(reference.density.max()) > 0.1
    np.testing.assert_allclose(solution.density, reference.density, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(solution.displacement, 0)


# What is conserved, and the order in time.


class Counted(FlowSplitting):
    """The scheme with a given number of equal steps."""

    steps: Any = 1

    def schedule(self, terms, interval):
        return Schedule(self.steps, jnp.asarray([0.0, 1.0]), 1.0, terms.diffusivity * terms.steepest, closing=1)


@jax.jit
def evolve(steps, terms, state):
    return ForwardMode().advance(Counted(tolerance=1e-11, steps=steps), terms, state, Interval())


def begin(mass_effect, diffusivity, proliferation, peak, width=7.0):
    """Return terms over the whole time and a smooth initial state."""
    index = np.moveaxis(np.indices(SHAPE).astype(float), 0, -1)
    apart = np.asarray(ANATOMY.grid.to_world(index)) - POINT["origin"]
    density = peak * np.exp(-np.sum(apart**2, axis=-1) / (2 * width**2)) * TISSUE
    params = MassEffectParams(
        GrowthParams(np.asarray(diffusivity), np.asarray(proliferation), InitialDensity(density), 1.0),
        np.asarray(mass_effect),
    )
    model = MassEffect(force="linear")
    return model.terms(params, ANATOMY), model.initial(params, ANATOMY)


def test_transport_conserves_cells_and_tissue():
    terms, state = begin(1e4, 20.0, 0.0, 0.5)
    final = evolve(jnp.asarray(20), terms, state)
    assert float(final.too_fast) == float(final.unsolved) == 0
    np.testing.assert_allclose(final.density.sum(), state.density.sum(), rtol=1e-12)
    theta = final.material.density
    np.testing.assert_allclose(theta.sum(), theta.size, rtol=1e-12)
    assert float(jnp.abs(theta - 1).max()) > 0.05
    for after, before in zip(final.material.fractions, state.material.fractions, strict=True):
        assert difference(after, before) > 0.02
        np.testing.assert_allclose((theta * after).sum(), before.sum(), rtol=1e-12)


def test_fractions_remain_fractions(pushed):
    tissue = pushed.anatomy
    maps = np.stack([tissue.white_matter, tissue.grey_matter, tissue.csf])
    assert difference(maps[0], ANATOMY.white_matter) > 0.02
    assert maps.min() >= -1e-14
    assert maps.max() <= 1 + 1e-14
    np.testing.assert_allclose(maps.sum(axis=0), 1, atol=1e-13)
    density = np.asarray(pushed.density)
    assert density.min() >= 0
    assert 0.4 < density.max() <= 1


def test_the_splitting_is_of_second_order():
    """Tissue is left out: at its borders, how much a sweep smears depends on the length of the step."""
    terms, state = begin(1e4, 20.0, 6.0, 0.005, 9.0)
    reference = evolve(jnp.asarray(128), terms, state)
    counts = (8, 16, 32)
    found = [evolve(jnp.asarray(n), terms, state) for n in counts]
    for part in (lambda s: s.density, lambda s: s.displacement, lambda s: s.material.density - 1):
        assert slope(counts, [difference(part(s), part(reference)) for s in found]) == pytest.approx(-2, abs=0.2)
    assert length(np.moveaxis(np.asarray(reference.displacement), 0, -1)).max() > 1


# The displacement.


RADIUS, WIDTH, PRESSURE = 22.0, 6.0, 30.0
UNIFORM = Mechanics((2000.0, 2000.0, 2000.0, 1e-6), (0.4, 0.4, 0.4, 0.4))


def ball_head(spacing):
    """Return a head that is a ball of one material, and the distances from its centre, (x, y, z, 3)."""
    grid = Grid.from_spacing((int(48 / spacing),) * 3, spacing)
    apart = np.asarray(grid.to_world(np.moveaxis(np.indices(grid.shape).astype(float), 0, -1)))
    inside = (np.linalg.norm(apart, axis=-1) < RADIUS).astype(float)
    return Anatomy(grid, inside, np.zeros_like(inside), np.zeros_like(inside)), apart


def displace(spacing, coarsening, **settings):
    """Return the solution of a step in which cells only exert force, and the error relative to the closed form."""
    head, apart = ball_head(spacing)
    r = np.linalg.norm(apart, axis=-1)
    density = 0.8 * np.exp(-((r / WIDTH) ** 2)) * head.white_matter
    params = MassEffectParams(GrowthParams(0.0, 0.0, InitialDensity(density), 1.0), PRESSURE)
    stepper = FlowSplitting(StrangRKL2(first_steps=1), **settings)
    solution = simulate(
        MassEffect(mechanics=UNIFORM, coarsening=coarsening, force="linear"), params, head, stepper=stepper, throw=False
    )

    def cells(r):
        return 0.8 * (WIDTH**3 * math.sqrt(math.pi) / 4 * np.vectorize(math.erf)(r / WIDTH)
                      - WIDTH**2 / 2 * r * np.exp(-((r / WIDTH) ** 2)))  # fmt: skip

    first, shear = UNIFORM.moduli(float)
    stiffness = float(first[0] + 2 * shear[0])
    exact = PRESSURE / stiffness * (cells(r) / r**3 - cells(RADIUS) / RADIUS**3)[..., None] * apart
    return solution, difference(solution.displacement, exact * head.white_matter[..., None]), head


@pytest.fixture(scope="module")
def balls():
    return [displace(h, 1) for h in (3.0, 1.5)]


def test_displacement_of_a_ball_is_the_closed_form(balls):
    (_, coarse, _), (_, fine, _) = balls
    assert coarse < 0.06
    assert slope((3.0, 1.5), (coarse, fine)) == pytest.approx(2, abs=0.4)


def test_nothing_moves_outside_the_head(balls):
    solution, _, head = balls[0]
    outside = head.white_matter == 0
    np.testing.assert_array_equal(np.asarray(solution.displacement)[outside], 0)
    for name in ("white_matter", "grey_matter", "csf"):
        np.testing.assert_array_equal(np.asarray(getattr(solution.anatomy, name))[outside], 0)
    np.testing.assert_array_equal(np.asarray(solution.density)[outside], 0)


def test_elasticity_on_longer_voxels_is_about_the_same(balls):
    solution, _, _ = displace(3.0, 2)
    # Six millimetres for a ball of 22: mostly its staircase of a boundary.
    assert 0.001 < difference(solution.displacement, balls[0][0].displacement) < 0.25


def test_tissue_is_pushed_away(pushed):
    index = np.moveaxis(np.indices(SHAPE).astype(float), 0, -1)
    apart = np.asarray(ANATOMY.grid.to_world(index)) - POINT["origin"]
    u, r = np.asarray(pushed.displacement), np.linalg.norm(apart, axis=-1)
    near = (r > 6) & (r < 20)
    assert length(u).max() > 1
    assert np.min(np.sum(u * apart, axis=-1)[near]) > 0


def test_small_displacements_are_proportional_to_the_force():
    one, two = (growing(at(mass_effect=gamma)).displacement for gamma in (1.0, 2.0))
    assert length(one).max() > 1e-5
    assert difference(2 * one, two) < 1e-3


# Symmetries.


def test_time_scales_out(pushed):
    faster = growing(POINT, 3 * SPEED)
    np.testing.assert_allclose(faster.density, pushed.density, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(faster.displacement, pushed.displacement, atol=1e-8)


def test_reflections_commute(pushed):
    mirror = at(
        white_matter=POINT["white_matter"][::-1],
        grey_matter=POINT["grey_matter"][::-1],
        origin=POINT["origin"] * [-1, 1, 1],
    )
    mirrored = growing(mirror)
    np.testing.assert_allclose(mirrored.density[::-1], pushed.density, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        mirrored.displacement[::-1] * np.asarray([-1.0, 1.0, 1.0]), pushed.displacement, atol=1e-7
    )


# Derivatives.


def direction_of(name):
    step = 0.1 * POINT[name] * np.random.default_rng(2).uniform(0.5, 1.5, POINT[name].shape)
    if name.endswith("matter"):
        # Voxels near the threshold would change sides, and the domain with them.
        total = POINT["white_matter"] + POINT["grey_matter"]
        step = np.where(np.abs(total - TISSUE_THRESHOLD) > 0.01, step, 0)
    return {**jax.tree.map(np.zeros_like, POINT), name: -step}


def inner(a, b):
    return float(sum(np.vdot(a[name], b[name]) for name in b))


@pytest.mark.parametrize("name", POINT)
def test_taylor_remainder_is_of_second_order(gradients, pushed, name):
    # Steps over which few voxels meet a kink of the limiter, and whose remainder stands out of the rounding.
    direction, steps = direction_of(name), (1e-3 if name.endswith("matter") else 3e-4) * 0.5 ** np.arange(4)
    value, derivative = float(loss_of(pushed)), inner(gradients, direction)
    values = [float(loss_of(growing(jax.tree.map(lambda x, d, h=h: x + h * d, POINT, direction)))) for h in steps]
    assert abs(derivative) > 1e-6 * value
    remainder = np.abs(np.asarray(values) - value - steps * derivative)
    # Maps move the kinks of the limiter in many voxels; that their gradient is right shows in forward mode.
    assert slope(steps, remainder) == pytest.approx(2, abs=0.8 if name.endswith("matter") else 0.05)


def test_reverse_mode_equals_forward_mode(gradients):
    for name in POINT:
        direction = direction_of(name)
        assert inner(gradients, direction) == pytest.approx(float(push(POINT, direction)), rel=1e-8)


def test_default_tolerances_suffice_for_gradients(gradients):
    """A search needs two or three digits; solution and multiplier are found to tolerances of 1e-4 and 1e-3."""
    default = jax.jit(jax.grad(lambda v: loss_of(solve(v, stepper=FlowSplitting()))))(POINT)
    for name in ("mass_effect", "mu1", "mu2", "origin", "young", "poisson"):
        assert difference(default[name], gradients[name]) < 2e-3


# The force is what is new here. Where it is zero, tissue and cells are moved by what it would do, to first order.


def test_at_no_force_the_derivative_is_that_from_the_right():
    here = at(mass_effect=0.0)
    found, value = gradient(here), float(loss_of(growing(here)))
    assert np.isfinite(found["mass_effect"])
    steps = 100.0 * 0.5 ** np.arange(4)
    values = np.array([float(loss_of(growing(at(mass_effect=gamma)))) for gamma in steps])
    first = float(found["mass_effect"])
    assert abs(first * steps[-1]) > 1e-5 * value
    assert slope(steps, np.abs(values - value - steps * first)) == pytest.approx(2, abs=0.1)
    along = {**jax.tree.map(np.zeros_like, POINT), "mass_effect": np.asarray(1.0)}
    assert float(push(here, along)) == pytest.approx(first, rel=1e-8)


@pytest.mark.parametrize("edge", ({"mu1": 0.0}, {"mu2": 0.0}, {"mu1": 0.0, "mu2": 0.0}, {"ratio": np.inf}))
def test_at_the_edges_derivatives_are_finite_and_both_modes_agree(edge):
    here = at(**edge)
    found = gradient(here)
    for name in ("mass_effect", "mu1", "mu2", "ratio", "origin"):
        assert np.isfinite(found[name]).all()
        along = {**jax.tree.map(np.zeros_like, POINT), name: np.ones_like(POINT[name])}
        assert inner(found, along) == pytest.approx(float(push(here, along)), rel=1e-7, abs=1e-9)
    # D T = mu1^2 and rho T = mu2^2, and D = D_w / ratio.
    assert [float(found[name]) for name in edge] == [0.0] * len(edge)


# Transformations and precision.


def test_a_batch_equals_a_loop(pushed):
    many = [POINT, at(mass_effect=0.0), at(mu2=3.0, young=1000.0), at(origin=[8.0, 8.0, -9.0])]
    batch = jax.jit(jax.vmap(solve))(jax.tree.map(lambda *leaves: np.stack(leaves), *many))
    assert batch.result.tolist() == [Result.SUCCESS] * 4
    for i, v in enumerate(many):
        single = growing(v)
        np.testing.assert_allclose(batch.density[i], single.density, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(batch.displacement[i], single.displacement, atol=1e-8)
        np.testing.assert_allclose(batch.anatomy.white_matter[i], single.anatomy.white_matter, atol=1e-9)


def test_single_precision(pushed):
    mechanics = Mechanics((2100.0, 2300.0, 100.0, 8000.0), (0.4, 0.38, 0.1, 0.45))
    model = MassEffect(FisherKolmogorov(8.0), mechanics, force="linear")
    params = MassEffectParams(growth_of(POINT), 2e4)
    single = simulate(model, params, ANATOMY.astype(np.float32), stepper=FlowSplitting())
    assert {leaf.dtype for leaf in (single.density, single.displacement, single.anatomy.csf)} == {np.dtype("float32")}
    assert difference(np.asarray(single.density, float), pushed.density) < 1e-3
    assert difference(np.asarray(single.displacement, float), pushed.displacement) < 1e-3


# Treatments.


def test_surgery_leaves_csf_and_radiation_a_share():
    density = 0.3 * np.asarray(TISSUE, float)
    cavity = np.zeros(SHAPE)
    cavity[5:9, 6:9, 6:10] = 0.75
    params = MassEffectParams(GrowthParams(0.0, 0.0, InitialDensity(density), 30.0), 0.0)
    treatments = (Radiotherapy((5, 10), 2.0, 0.1, 10.0), Surgery(20, cavity))
    solution = simulate(MassEffect(), params, ANATOMY, treatments=treatments, stepper=FlowSplitting())
    survival = math.exp(-2 * 0.1 * 2 * (1 + 2 / 10))
    np.testing.assert_allclose(solution.density, survival * (1 - cavity) * density, rtol=1e-12)
    np.testing.assert_allclose(solution.anatomy.white_matter, (1 - cavity) * ANATOMY.white_matter, rtol=1e-12)
    np.testing.assert_allclose(solution.anatomy.grey_matter, (1 - cavity) * ANATOMY.grey_matter, rtol=1e-12)
    np.testing.assert_allclose(solution.anatomy.csf, (1 - cavity) * ANATOMY.csf + cavity, rtol=1e-12)


# Steps.


def test_a_strong_force_does_not_grow_unstable_with_more_steps():
    """gamma c P'(c) far above lambda + 2 mu, where a flow that does not know how it thins out cells overshoots."""
    head, _ = ball_head(3.0)
    params = MassEffectParams(GrowthParams(0.1, 0.1, np.zeros(3), 100.0), 1.5e5)
    few, many = (
        simulate(
            MassEffect(coarsening=1, force="tanh"),
            params,
            head,
            stepper=FlowSplitting(StrangRKL2(first_steps=n, exponent=1.25)),
            throw=False,
        )
        for n in (16, 160)
    )
    assert [int(s.result) for s in (few, many)] == [Result.SUCCESS] * 2
    assert difference(few.displacement, many.displacement) < 0.15
    assert difference(few.density, many.density) < 0.1


# Failures.


@pytest.mark.parametrize(
    ("gamma", "result"),
    (
        (3e6, Result.DISPLACEMENT_FOLDS),
        (1e8, Result.ELASTICITY_NOT_SOLVED),
        (np.nan, Result.NOT_FINITE),
        (-1e3, Result.NEGATIVE_PARAMETER),
    ),
)
def test_failures_are_reported(gamma, result):
    assert int(growing(at(mass_effect=gamma)).result) == result


def test_cells_of_compressed_tissue_may_exceed_the_capacity():
    """Tissue that is pushed together carries its cells; with more steps as many are in a voxel."""
    params = MassEffectParams(ScaledGrowthParams(5.0, 4.0, POINT["origin"], SPEED), 8e4)
    few, many = (
        simulate(MassEffect(), params, ANATOMY, stepper=FlowSplitting(StrangRKL2(first_steps=n, exponent=1.0)))
        for n in (16, 64)
    )
    assert min(float(s.density.max()) for s in (few, many)) > 1.01
    assert float(few.density.max()) == pytest.approx(float(many.density.max()), abs=0.02)


def test_more_cells_than_the_tissue_carries_are_a_failure():
    class Bulging(FisherKolmogorov):
        """A model whose density is too large, by its own account or not."""

        largest: float = 1.0

        def predict(self, params, anatomy):
            return Outcome(jnp.where(anatomy.tissue, 1.2, 0.0), largest=self.largest)

    results = [simulate(Bulging(largest=c), growth_of(POINT), ANATOMY, throw=False).result for c in (1.0, 1.18, 1.2)]
    assert [int(each) for each in results] == [Result.OUT_OF_RANGE, Result.OUT_OF_RANGE, Result.SUCCESS]


def test_an_equilibrium_that_was_not_found_is_reported():
    solution, _, _ = displace(3.0, 1, tolerance=1e-9, max_iterations=1)
    assert int(solution.result) == Result.ELASTICITY_NOT_SOLVED
    with pytest.raises(ValueError, match="the elasticity solve did not converge"):
        solution.check()


# Fibres.


def fibred(tensor):
    return dataclasses.replace(ANATOMY, fibres=np.broadcast_to(tensor, (*SHAPE, 6)).astype(float))


@pytest.fixture(scope="module")
def bundles():
    """Return a function of gamma, diffusion length and the tensors' contrast: the solution among parallel fibres."""
    along = np.array([0.6, 0.64, 0.48])
    outer = np.outer(along, along)[np.triu_indices(3)]
    unit = np.eye(3)[np.triu_indices(3)]

    @jax.jit
    def grown(v):
        anatomy = eqx.tree_at(
            lambda a: a.fibres, fibred(unit), unit + v["contrast"] * (3 * outer - unit) + np.zeros((*SHAPE, 1))
        )
        growth = ScaledGrowthParams(v["mu1"], 2.4, POINT["origin"], SPEED)
        return simulate(MassEffect(), MassEffectParams(growth, v["mass_effect"]), anatomy, stepper=EXACT, throw=False)

    return grown


FIBRED = {"mass_effect": np.asarray(6e4), "mu1": np.asarray(5.0), "contrast": np.asarray(0.4)}


def test_isotropic_fibres_are_none(bundles):
    isotropic = bundles({**FIBRED, "contrast": np.asarray(0.0)})
    params = MassEffectParams(ScaledGrowthParams(5.0, 2.4, POINT["origin"], SPEED), 6e4)
    scalar = simulate(MassEffect(), params, ANATOMY, stepper=EXACT)
    assert length(scalar.displacement).max() > 0.5
    np.testing.assert_allclose(isotropic.density, scalar.density, rtol=1e-9, atol=1e-12)
    assert difference(bundles(FIBRED).density, scalar.density) > 0.02


def test_fibres_keep_their_anisotropy_and_turn_with_the_tissue(bundles):
    solution = bundles(FIBRED)
    xx, xy, xz, yy, yz, zz = np.moveaxis(np.asarray(solution.anatomy.fibres), -1, 0)
    tensors = np.stack([np.stack(r, -1) for r in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))], -1)
    values = np.linalg.eigvalsh(tensors)
    np.testing.assert_allclose(values.sum(-1), 3, rtol=1e-3)
    # Neighbours that turned by unlike angles are mixed, and components limited, which changes little.
    np.testing.assert_allclose(values[TISSUE], np.tile([0.6, 0.6, 1.8], (TISSUE.sum(), 1)), atol=1e-3)
    assert np.abs(xy - xy[0, 0, 0]).max() > 0.005


def test_gradients_with_fibres(bundles):
    def value(v):
        solution = bundles(v)
        return loss_of(solution) + jnp.sum(WEIGHTS[2] * solution.anatomy.fibres[..., 1])

    start, slopes = jax.jit(jax.value_and_grad(value))(FIBRED)
    steps = 3e-4 * 0.5 ** np.arange(3)
    for name in FIBRED:
        values = [value({**FIBRED, name: FIBRED[name] * (1 + h)}) for h in steps]
        remainder = np.abs(np.asarray(values) - start - steps * FIBRED[name] * slopes[name])
        assert slope(steps, remainder) == pytest.approx(2, abs=0.1)


# The published numbers.


def test_published_numbers_convert_to_units_and_back():
    params = MassEffectParams.from_published(0.8, 10.0, 0.05, np.zeros(3))
    np.testing.assert_allclose(float(params.mass_effect), 8e4)
    diffusion, division = params.totals()
    # kappa (230.4 mm / 2 pi)^2.
    np.testing.assert_allclose((diffusion, division), (0.05 * 36.669**2, 10.0), rtol=1e-4)
    np.testing.assert_allclose(params.as_published(), (0.8, 10.0, 0.05), rtol=1e-6)
    other = MassEffectParams.from_published(0.8, 10.0, 0.05, np.zeros(3), side=100.0, duration=200.0)
    np.testing.assert_allclose(other.as_published(side=100.0), (0.8, 10.0, 0.05), rtol=1e-6)
    scaled = MassEffectParams(params.scaled(), params.mass_effect)
    np.testing.assert_allclose(scaled.as_published(), (0.8, 10.0, 0.05), rtol=1e-6)
    with pytest.raises(ValueError, match="side must be finite and positive"):
        MassEffectParams.from_published(0.8, 10.0, 0.05, np.zeros(3), side=0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    (
        (lambda: MassEffectParams(growth_of(POINT), -1.0), "mass_effect must be finite and not negative, got -1"),
        (lambda: MassEffectParams(growth_of(POINT), np.nan), "mass_effect must be finite and not negative, got nan"),
        (lambda: Mechanics(young=(1.0, 0.0, 1.0, 1.0)), "Young's modulus must be finite and positive, got 0"),
        (lambda: Mechanics(poisson=(0.4, 0.5, 0.1, 0.4)), "Poisson's ratio must lie between -1 and 1/2, got 0.5"),
        (lambda: Mechanics(poisson=(0.4, 0.4, np.nan, 0.4)), "Poisson's ratio must lie between -1 and 1/2, got nan"),
        (lambda: MassEffect(coarsening=0), "coarsening must be a whole number of at least 1, got 0"),
        (lambda: FlowSplitting(tolerance=0.0), "tolerance must be in (0, 1)"),
        (lambda: FlowSplitting(tolerance=1.0), "tolerance must be in (0, 1)"),
        (lambda: FlowSplitting(max_iterations=0), "max_iterations must be a whole number of at least 1, got 0"),
        (lambda: FlowSplitting(max_substeps=0), "max_substeps must be a whole number of at least 1, got 0"),
    ),
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
