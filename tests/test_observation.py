"""Likelihoods: compared with hand calculations, their limits, and their expected curvature by brute force."""

import dataclasses
import itertools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tumorjax.grid import Grid
from tumorjax.observation import (
    AbstractObservation,
    DensityMap,
    DoubleSigmoid,
    FluidMap,
    FluidMapParams,
    OddsLink,
    Outline,
    OutlineParams,
    Pet,
    PetParams,
    independent_voxels,
)

LINKS = {"odds": (OddsLink(), 2.5), "double sigmoid": (DoubleSigmoid(), 1 / 0.065)}
SHAPE = (4, 3, 2)
RNG = np.random.default_rng(0)
DENSITY = jnp.asarray(RNG.uniform(0.02, 0.98, SHAPE))
LABELS = jnp.asarray((RNG.uniform(size=SHAPE) > 0.5).astype(float))
VALID = jnp.asarray(RNG.uniform(size=SHAPE) > 0.2)
PARAMS = OutlineParams(jnp.asarray(0.3), jnp.asarray(2.5))


@pytest.fixture(params=LINKS.values(), ids=LINKS.keys())
def link(request):
    function, sharpness = request.param
    return jax.jit(lambda c, u, factor=1.0: function(c, u, sharpness * factor))


def test_links_rise_from_zero_to_one_through_a_half(link):
    densities = jnp.linspace(0, 1, 1001)
    for threshold in (0.1, 0.3, 0.7):
        p = np.asarray(link(densities, threshold))
        assert np.all(np.diff(p) >= 0)
        assert 0 <= p[0] < 0.05
        assert 0.95 < p[-1] <= 1
        assert float(link(jnp.asarray(threshold), threshold)) == pytest.approx(0.5)
    # A higher threshold makes the outline smaller, a sharper link more certain.
    assert np.all(link(densities, 0.5) <= link(densities, 0.3))
    vague, sharp = (np.asarray(link(densities, 0.3, factor)) for factor in (1.0, 2.0))
    assert np.all(np.abs(sharp - 0.5) >= np.abs(vague - 0.5) - 1e-12)


def test_odds_link_is_logistic_in_the_log_odds():
    c, u, kappa = 0.2, 0.35, 3.0
    odds = (c / (1 - c)) / (u / (1 - u))
    assert float(OddsLink()(jnp.asarray(c), jnp.asarray(u), jnp.asarray(kappa))) == pytest.approx(
        odds**kappa / (1 + odds**kappa)
    )


def test_double_sigmoid_is_the_formula_of_the_literature():
    for c in (0.2, 0.35, 0.4):
        expected = 0.5 + 0.5 * np.sign(c - 0.35) * (1 - np.exp(-((c - 0.35) ** 2) / 0.06**2))
        got = DoubleSigmoid()(jnp.asarray(c), jnp.asarray(0.35), jnp.asarray(1 / 0.06))
        assert float(got) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("dtype", (jnp.float32, jnp.float64))
@pytest.mark.parametrize("name", LINKS)
def test_likelihood_has_a_finite_gradient_at_the_ends(name, dtype):
    function, sharpness = LINKS[name]
    outline = Outline(LABELS.astype(dtype), VALID, link=function, effective_voxels=4.0)
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), OutlineParams(0.3, sharpness))
    value = jax.jit(jax.value_and_grad(outline.log_prob, argnums=(0, 1)))
    for c in (0.0, 1.0, 1e-30, 1 - 1e-7, 0.3):
        leaves = jax.tree.leaves(value(jnp.full(SHAPE, c, dtype), params))
        assert all(np.isfinite(leaf).all() and leaf.dtype == dtype for leaf in leaves), c


def test_outline_by_hand():
    outline = Outline(LABELS, VALID, false_positive=0.07, false_negative=0.2, effective_voxels=4.0)
    g = np.asarray(OddsLink()(DENSITY, PARAMS.threshold, PARAMS.sharpness))
    p, y = 0.07 + 0.73 * g, np.asarray(LABELS)
    each = np.where(VALID, y * np.log(p) + (1 - y) * np.log(1 - p), 0)
    inside = float((y * np.asarray(VALID)).sum())
    assert inside > 4
    assert float(outline.weight) == pytest.approx(4 / inside)
    np.testing.assert_allclose(outline.probability(DENSITY, PARAMS), p)
    assert float(outline.log_prob(DENSITY, PARAMS)) == pytest.approx(4 / inside * each.sum())
    mean, precision = outline.expected(DENSITY, PARAMS)[0]
    np.testing.assert_allclose(mean, p)
    np.testing.assert_allclose(precision, np.where(VALID, 4 / inside / (p * (1 - p)), 0))
    # Never more than every voxel for one.
    assert float(Outline(LABELS, VALID, effective_voxels=1e9).weight) == 1
    for image in (Outline(LABELS, VALID, effective_voxels=np.inf), Pet(DENSITY, VALID, effective_voxels=np.inf)):
        assert float(image.weight) == 1


def test_an_impossible_label_costs_the_same_in_any_precision():
    def cost(dtype):
        outline = Outline(jnp.ones(SHAPE, dtype), jnp.ones(SHAPE, bool), DoubleSigmoid(), 0.0, 0.0, np.inf)
        return outline.log_prob(jnp.zeros(SHAPE, dtype), OutlineParams(jnp.asarray(0.7, dtype), jnp.asarray(20, dtype)))

    assert float(cost(jnp.float64)) == pytest.approx(float(cost(jnp.float32)), rel=1e-6)
    assert float(cost(jnp.float64)) == pytest.approx(24 * np.log(2.0**-23))


def test_pet_by_hand():
    signal = np.asarray(DENSITY) * 3e4 + RNG.normal(size=SHAPE) * 2e3
    pet = Pet(jnp.asarray(signal), VALID, effective_voxels=5.0)
    params = PetParams(jnp.asarray(2.8e4), jnp.asarray(2.5e3))
    misfit = (signal - 2.8e4 * np.asarray(DENSITY)) / 2.5e3
    each = -0.5 * misfit**2 - np.log(2.5e3 * np.sqrt(2 * np.pi))
    expected = 5 / int(VALID.sum()) * each[np.asarray(VALID)].sum()
    assert float(pet.log_prob(DENSITY, params)) == pytest.approx(expected)


@pytest.mark.parametrize("kind", (Pet, FluidMap, DensityMap.from_adc))
def test_what_an_image_is_worth_follows_from_its_length(kind):
    grid = Grid((20, 20, 20), np.diag([5.0, 5.0, 5.0, 1.0]))
    everywhere, signal = np.ones(grid.shape, bool), np.linspace(1e-4, 1e-3, 8000).reshape(grid.shape)
    image = kind(signal, everywhere)

    def placed(**settings):
        return dataclasses.replace(image, **settings).placed(grid)

    assert float(placed(length=8.0).effective_voxels) == pytest.approx(1e6 / ((2 * np.pi) ** 1.5 * 8**3))
    assert float(placed(length=100.0).effective_voxels) == 1
    assert float(placed(length=1.0).weight) == 1
    assert placed(effective_voxels=7.0).effective_voxels == 7.0
    with pytest.raises(ValueError, match="length"):
        placed(length=0.0)


def test_pet_may_be_anything_where_it_was_not_measured():
    signal = np.asarray(DENSITY) * 3e4
    unmeasured = Pet(jnp.asarray(np.where(VALID, signal, np.nan)), VALID, effective_voxels=5.0)
    params = PetParams(jnp.asarray(2.8e4), jnp.asarray(2.5e3))
    value, slope = jax.value_and_grad(unmeasured.log_prob, argnums=1)(DENSITY, params)
    assert float(value) == pytest.approx(
        float(Pet(jnp.asarray(signal), VALID, effective_voxels=5.0).log_prob(DENSITY, params))
    )
    assert np.isfinite([slope.scale, slope.noise]).all()
    assert np.isfinite(unmeasured.coarsen(2).signal).all()


def fisher(observation, prediction, theta):
    """Return the sum of J^T P J over the expected values of an observation, with J by forward mode."""
    information = 0
    jacobians = jax.jit(jax.jacfwd(lambda t: [m for m, _ in observation.expected(*prediction(t))]))(theta)
    for jacobian, (_, precision) in zip(jacobians, observation.expected(*prediction(theta)), strict=True):
        rows = jacobian.reshape(-1, theta.size)
        weights = jnp.broadcast_to(precision, jacobian.shape[:-1]).reshape(-1, 1)
        information = information + rows.T @ (weights * rows)
    return information


def four_voxels(theta):
    """Return densities of four voxels that three numbers move."""
    base = jnp.asarray([0.1, 0.3, 0.6, 0.9]).reshape(4, 1, 1)
    return jax.nn.sigmoid(jnp.log(base / (1 - base)) + theta[0] * base + theta[1])


def test_expected_information_of_an_outline_is_the_mean_curvature():
    valid = jnp.asarray([True, True, True, False]).reshape(4, 1, 1)
    theta = jnp.asarray([0.3, -0.2, 0.4, 2.2])

    def prediction(t):
        return four_voxels(t), OutlineParams(t[2], t[3])

    def make(labels):
        # So many that every voxel counts for one, whatever the labels.
        return Outline(labels, valid, effective_voxels=1e6)

    @jax.jit
    @jax.vmap
    def curvature(labels):
        hessian = jax.hessian(lambda t: make(labels).log_prob(*prediction(t)))(theta)
        p = make(labels).probability(*prediction(theta))
        return -hessian * jnp.prod(jnp.where(labels > 0, p, 1 - p))

    labels = jnp.asarray(list(itertools.product((0.0, 1.0), repeat=4))).reshape(-1, 4, 1, 1)
    mean = curvature(labels).sum(axis=0)
    assert np.linalg.eigvalsh(mean).max() > 0.1
    np.testing.assert_allclose(fisher(make(labels[-1]), prediction, theta), mean, rtol=1e-10, atol=1e-12)


def test_expected_information_of_pet_is_the_mean_curvature():
    valid = jnp.asarray([True, True, True, False]).reshape(4, 1, 1)
    theta = jnp.asarray([0.3, -0.2, 3.0, 0.7])

    def prediction(t):
        return four_voxels(t), PetParams(t[2], t[3])

    @jax.jit
    @jax.vmap
    def curvature(node):
        # Gauss-Hermite nodes: the log-likelihood is a sum of quadratics of one voxel's noise each.
        density, params = prediction(theta)
        pet = Pet(params.scale * density + params.noise * node, valid, effective_voxels=1.5)
        return -jax.hessian(lambda t: pet.log_prob(*prediction(t)))(theta)

    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    mean = np.einsum("n,nij->ij", weights / weights.sum(), curvature(jnp.asarray(nodes)))
    signal = prediction(theta)[0]
    np.testing.assert_allclose(
        fisher(Pet(signal, valid, effective_voxels=1.5), prediction, theta), mean, rtol=1e-10, atol=1e-10
    )


def test_coarse_outlines_keep_shares_and_worth():
    labels = (np.indices((8, 9, 10)).sum(axis=0) < 12).astype(float)
    outline = Outline(jnp.asarray(labels), jnp.ones((8, 9, 10), bool), effective_voxels=20.0)
    coarse = outline.coarsen(2)
    assert coarse.inside.shape == coarse.valid.shape == (4, 5, 5)
    np.testing.assert_allclose(coarse.inside.sum() * 8, labels.sum())
    assert float(coarse.inside[0, 0, 0]) == 1
    # What an outline is worth does not depend on the voxels that it is drawn on.
    for o in (outline, coarse):
        np.testing.assert_allclose(o.weight * o.inside.sum(), 20)


def test_coarse_pet_is_the_mean_of_what_was_measured():
    signal, valid = RNG.normal(size=(4, 4, 2)), RNG.uniform(size=(4, 4, 2)) > 0.4
    valid[:2, :2] = True
    valid[2:, 2:] = False
    coarse = Pet(jnp.asarray(signal), jnp.asarray(valid)).coarsen(2)
    np.testing.assert_allclose(coarse.signal[0, 0, 0], signal[:2, :2].mean())
    block, measured = signal[:2, 2:], valid[:2, 2:]
    np.testing.assert_allclose(coarse.signal[0, 1, 0], block[measured].mean())
    assert bool(coarse.valid[0, 0, 0])
    assert not bool(coarse.valid[1, 1, 0])
    assert float(coarse.signal[1, 1, 0]) == 0


def test_voxels_of_a_cropped_image_count_as_before():
    labels = jnp.zeros((8, 9, 10)).at[2:5, 3:6, 4:7].set(1.0)
    valid = jnp.asarray(RNG.uniform(size=labels.shape) > 0.2)
    signal = jnp.asarray(RNG.uniform(size=labels.shape))
    for worth in (7.0, np.inf):
        for image in (Outline(labels, valid, effective_voxels=worth), Pet(signal, valid, effective_voxels=worth)):
            cropped = image.crop((1, 2, 3), (5, 5, 6))
            assert cropped.valid.shape == (5, 5, 6)
            np.testing.assert_array_equal(cropped.valid, valid[1:6, 2:7, 3:9])
            np.testing.assert_allclose(cropped.weight, image.weight)
    # The sum over the box, and the rest.
    params, rest = PetParams(jnp.asarray(1.0), jnp.asarray(0.5)), valid.at[1:6, 2:7, 3:9].set(False)
    pet = Pet(signal, valid, effective_voxels=60.0)
    outside = Pet(signal, rest, effective_voxels=float(60 * rest.sum() / valid.sum()))
    inside = pet.crop((1, 2, 3), (5, 5, 6)).log_prob(signal[1:6, 2:7, 3:9], params)
    np.testing.assert_allclose(inside + outside.log_prob(signal, params), pet.log_prob(signal, params))


def test_independent_voxels_in_their_limits():
    grid = Grid.from_spacing((40, 30, 20), (1.0, 1.5, 2.5))
    everywhere = np.ones(grid.shape, bool)
    # Finer than voxels: each for itself. Far coarser than the region: one.
    assert independent_voxels(everywhere, grid, 0.05) == pytest.approx(40 * 30 * 20)
    assert independent_voxels(everywhere, grid, 1e4) == pytest.approx(1, rel=1e-4)
    # In between the volume over that of the correlation, and somewhat more for its rim, which has fewer neighbours.
    cubes = [Grid.from_spacing((n, n, n), 1.0) for n in (20, 40, 80)]
    ratios = [independent_voxels(np.ones(g.shape), g, 2.0) / (g.shape[0] ** 3 / (2 * np.pi) ** 1.5 / 8) for g in cubes]
    assert ratios[0] > ratios[1] > ratios[2] > 1
    # 1 / (1 - sqrt(2 / pi) l / L) an axis, to first order in l / L.
    assert ratios[2] == pytest.approx((1 - np.sqrt(2 / np.pi) * 2 / 80) ** -3, rel=2e-3)


def test_independent_voxels_by_the_sum_over_pairs():
    grid = Grid.from_spacing(SHAPE, (1.0, 2.0, 1.5))
    share = RNG.uniform(size=SHAPE) * np.asarray(VALID)
    world = np.asarray(grid.to_world(np.argwhere(np.ones(SHAPE)).astype(float)))
    apart = np.linalg.norm(world[:, None] - world, axis=-1)
    pairs = share.ravel() @ np.exp(-(apart**2) / (2 * 1.7**2)) @ share.ravel()
    assert independent_voxels(share, grid, 1.7) == pytest.approx(share.sum() ** 2 / pairs)


def test_independent_voxels_restore_coverage():
    # Noise that is smooth over voxels, and a density that is smooth over the noise; only its scale is unknown.
    n, length, scale, sigma, sets = 16, 1.6, 2.0, 0.4, 400
    grid = Grid.from_spacing((n, n, n), 1.0)
    place = np.arange(n) - (n - 1) / 2
    wave = np.exp(-0.5 * (place / 12) ** 2)
    density = jnp.asarray(wave[:, None, None] * wave[:, None] * wave)
    axis = np.linalg.cholesky(np.exp(-0.5 * ((place[:, None] - place) / length) ** 2) + 1e-9 * np.eye(n))
    noise = np.random.default_rng(0).normal(size=(sets, n, n, n))
    noise = jnp.asarray(np.einsum("ai,bj,ck,sijk->sabc", axis, axis, axis, noise, optimize=True))
    valid = jnp.ones(density.shape, bool)
    scales = jnp.linspace(1.0, 3.0, 2001)

    @jax.jit
    def rank(worth):
        def one(errors):
            pet = Pet(scale * density + sigma * errors, valid, effective_voxels=worth)
            # A parabola in the scale is determined by three values.
            some = jnp.asarray([1.0, 2.0, 3.0])
            log = jax.vmap(lambda b: pet.log_prob(density, PetParams(b, jnp.asarray(sigma))))(some)
            curve = jnp.polyval(jnp.polyfit(some, log, 2), scales)
            weights = jax.nn.softmax(curve)
            return jnp.sum(jnp.where(scales < scale, weights, 0))

        return jax.lax.map(one, noise)

    def covered(worth):
        return np.mean(np.abs(2 * np.asarray(rank(jnp.asarray(worth))) - 1) < 0.9)

    assert covered(np.inf) < 0.3
    worth = independent_voxels(valid, grid, length)
    assert 50 < worth < 200
    assert covered(worth) == pytest.approx(0.9, abs=0.04)


def test_brier_counts_the_lesion_and_what_is_taken_for_it():
    labels = jnp.zeros(SHAPE).at[0].set(1.0)
    outline = Outline(labels, jnp.ones(SHAPE, bool))
    sharp = OutlineParams(jnp.asarray(0.3), jnp.asarray(50.0))
    assert float(outline.brier(labels, sharp)) < 1e-12
    # Half of what is predicted is right: the other half is an error of one.
    twice = labels.at[1].set(1.0)
    assert float(outline.brier(twice, sharp)) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"valid": jnp.ones((4, 3, 3), bool)}, r"shape \(4, 3, 2\), its valid voxels \(4, 3, 3\)"),
        ({"inside": LABELS * 255}, r"shares in \[0, 1\], got values from 0 to 255"),
        ({"inside": LABELS.at[0, 0, 0].set(jnp.nan)}, r"shares in \[0, 1\]"),
        ({"inside": LABELS * 0}, "empty in the valid voxels"),
        ({"valid": VALID & (LABELS == 0)}, "empty in the valid voxels"),
        ({"false_positive": 0.5}, r"false_positive must be in \[0, 0\.5\), got 0\.5"),
        ({"false_negative": -0.1}, r"false_negative must be in \[0, 0\.5\), got -0\.1"),
        ({"effective_voxels": 0.0}, "effective_voxels must be positive, got 0"),
        ({"effective_voxels": np.nan}, "effective_voxels must be positive, got nan"),
    ),
)
def test_bad_outlines_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Outline(**{"inside": LABELS, "valid": VALID, **change})


@pytest.mark.parametrize(
    ("signal", "message"),
    (
        (jnp.zeros((4, 3, 3)), r"shape \(4, 3, 3\), its valid voxels \(4, 3, 2\)"),
        (jnp.zeros(SHAPE), "finite and vary over its .* valid voxels"),
        (jnp.full(SHAPE, 3.0), "finite and vary over its .* valid voxels"),
        (DENSITY.at[0].set(jnp.inf), "finite and vary over its .* valid voxels"),
    ),
)
def test_bad_pet_is_refused(signal, message):
    with pytest.raises(ValueError, match=message):
        Pet(signal, VALID.at[0].set(True))


def test_bad_regions_have_no_independent_voxels():
    grid = Grid.from_spacing(SHAPE, 1.0)
    with pytest.raises(ValueError, match=r"shape \(4, 3\) on a grid of shape \(4, 3, 2\)"):
        independent_voxels(np.ones((4, 3)), grid, 1.0)
    with pytest.raises(ValueError, match="correlation_length must be finite and positive, got 0"):
        independent_voxels(np.ones(SHAPE), grid, 0.0)
    with pytest.raises(ValueError, match="the region is empty"):
        independent_voxels(np.zeros(SHAPE), grid, 1.0)


def test_a_map_of_fluid_is_gaussian():
    fluid = RNG.uniform(0, 1, SHAPE)
    observation, params = FluidMap(fluid, np.asarray(VALID), effective_voxels=5.0), FluidMapParams(jnp.asarray(0.3))
    misfit = ((fluid - DENSITY) / 0.3)[np.asarray(VALID)]
    each = -0.5 * misfit**2 - np.log(0.3) - 0.5 * np.log(2 * np.pi)
    weight = 5 / misfit.size
    assert float(observation.log_prob(DENSITY, params)) == pytest.approx(weight * each.sum())
    (mean, precision), (noise, counted) = observation.expected(DENSITY, params)
    np.testing.assert_array_equal(mean, DENSITY)
    np.testing.assert_allclose(precision, np.where(VALID, weight / 0.09, 0))
    assert (float(noise), float(counted)) == pytest.approx((np.log(0.3), 10.0))


def test_a_coarse_map_of_fluid_holds_means():
    fluid = RNG.uniform(0, 1, (4, 4, 2))
    coarse = FluidMap(fluid, np.ones((4, 4, 2), bool)).coarsen(2)
    np.testing.assert_allclose(coarse.fluid, fluid.reshape(2, 2, 2, 2, 1, 2).mean(axis=(1, 3, 5)))
    assert np.all(coarse.valid)


def test_a_map_without_fluid_is_refused():
    with pytest.raises(ValueError, match="some fluid, got values from 0 to 0"):
        FluidMap(np.zeros(SHAPE), np.ones(SHAPE, bool))
    with pytest.raises(ValueError, match=r"got values from .* to 3"):
        FluidMap(np.full(SHAPE, 3.0), np.ones(SHAPE, bool))
    with pytest.raises(ValueError, match=r"has shape \(4, 3, 2\), its valid voxels \(4, 3, 3\)"):
        FluidMap(np.ones(SHAPE), np.ones((4, 3, 3), bool))


class Counts(AbstractObservation):
    """The least that an observation needs: counts of a Poisson law."""

    counted: Any
    valid: Any
    effective_voxels: float = float("inf")

    def log_prob(self, field, params):
        """Return the log-likelihood."""
        rate = params.slope * field
        return jnp.sum(jnp.where(self.valid, self.counted * jnp.log(rate) - rate, 0))

    def expected(self, field, params):
        """Return mean and precision."""
        rate = params.slope * field
        return [(rate, jnp.where(self.valid, 1 / rate, 0))]


def test_an_observation_needs_only_its_likelihood():
    shape = (4, 4, 4)
    counted = jnp.arange(64.0).reshape(shape)
    valid = jnp.ones(shape, bool).at[:2, :2, 0].set(False).at[:2, 2:, :2].set(False)
    seen, params = Counts(counted, valid), SimpleNamespace(slope=3.0)
    np.testing.assert_array_equal(seen.image, counted)
    assert float(seen.size) == float(valid.sum())
    coarse = seen.coarsen(2)
    # Half a block is not enough, and does count in the mean.
    assert not coarse.valid[0, 0, 0] and not coarse.valid[0, 1, 0] and coarse.valid[1, 1, 1]
    assert float(coarse.counted[0, 0, 0]) == float(counted[:2, :2, 1].mean())
    assert float(coarse.counted[1, 1, 1]) == float(counted[2:, 2:, 2:].mean())
    np.testing.assert_allclose(seen.predicted(0.1 * counted, params), 0.3 * counted, rtol=1e-12)
    assert seen.predicted(jnp.ones((8, 8, 8)), params) is None
    with pytest.raises(ValueError, match="how Counts draws images is unknown, since SimpleNamespace has no `noise`"):
        seen.drawn(counted, params, 0.5 * jnp.ones(shape))
    with pytest.raises(ValueError, match="Counts has no default prior for 'spect'; define `default_prior`, or write"):
        seen.default_prior("spect", None, {"spect": seen})


def test_thresholds_of_other_outlines_have_a_prior_and_words_of_their_own():
    outline = Outline(LABELS, VALID)
    wide = outline.default_prior("necrosis", None, {})
    low, high = (float(wide.threshold.transport(jnp.asarray(z))) for z in (-30.0, 30.0))
    assert (low, high) == pytest.approx((0.05, 0.85))
    (row,) = PARAMS.quantities("necrosis")
    assert (row.name, row.symbol, row.coordinate) == ("threshold_necrosis", "u_necrosis", "threshold")
    assert float(row.value(PARAMS)) == pytest.approx(0.3)
