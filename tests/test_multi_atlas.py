"""The stages of the multi-atlas inversion recover known truths on small heads."""

import dataclasses
import itertools
import math
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_checkpoint import Killed
from tests.test_stages import killed_at, same
from tumorjax import (
    Anatomy,
    FisherKolmogorov,
    GaussianBasis,
    Grid,
    LogNormal,
    MassEffect,
    MassEffectParams,
    MultiAtlas,
    Parameters,
    Prior,
    Problem,
    ScaledGrowthParams,
    Uniform,
    calibrate,
    default_prior,
    forecast,
    simulate,
)
from tumorjax.calibration import CalibrationResult
from tumorjax.calibration.differences import by_differences
from tumorjax.calibration.draws import _at_speeds, draws_of
from tumorjax.calibration.evaluation import answers, answers_together, evaluate, fields, refined_fields
from tumorjax.calibration.laplace import laplace_covariance, laplace_maps
from tumorjax.calibration.problem import Fields
from tumorjax.calibration.quasi_newton import answer, search
from tumorjax.calibration.scoring import Scored, scoring
from tumorjax.methods.checkpoint import Stages
from tumorjax.methods.multi_atlas.in_atlases import agreement, notes_on_agreement
from tumorjax.methods.multi_atlas.mixing import average, weights_of
from tumorjax.methods.multi_atlas.sparse import SparseOrigin, sparse_origins
from tumorjax.methods.multi_atlas.stages import in_atlas, in_use, scored, with_basis, without_mass_effect
from tumorjax.methods.sampling import to_inference_data
from tumorjax.observation import FluidMap, FluidMapParams, Outline, OutlineParams, Pet, PetParams
from tumorjax.patient.atlases import AlignedAtlas
from tumorjax.planning import dice
from tumorjax.quality import Status, status_of

SPACING, WIDTH = 6.0, 5.0
MODEL = MassEffect(FisherKolmogorov(math.inf, dividing="white matter"), coarsening=1, force="tanh")
TRUTH = ScaledGrowthParams(7.5, 3.0, GaussianBasis(np.array([[4.0, -3.0, 2.0]]), np.ones(1), WIDTH), 0.5)
GAMMA = 6e4


def head(ventricle=(-10.0, 8.0, 0.0)):
    """A ball of white matter in a shell of fluid, with a ventricle."""
    grid = Grid.from_spacing((16, 16, 16), SPACING)
    world = np.asarray(grid.to_world(np.moveaxis(np.indices(grid.shape).astype(float), 0, -1)))
    r = np.linalg.norm(world, axis=-1)
    hole = 1 / (1 + np.exp((np.linalg.norm(world - np.asarray(ventricle), axis=-1) - 8) / 2))
    brain, skull = (1 / (1 + np.exp((r - radius) / 2)) for radius in (36, 42))
    white = brain * (1 - hole)
    return Anatomy(grid, 0.9 * white, 0.1 * white, np.clip(skull - white, 0, 1))


HEAD = head()


def grown(gamma=GAMMA, anatomy=HEAD, growth=TRUTH):
    return simulate(MODEL, MassEffectParams(growth, gamma), anatomy)


@pytest.fixture(scope="module")
def solution():
    """The patient: the tumour, and where the tissue went."""
    return grown()


@pytest.fixture(scope="module")
def problem(solution):
    """The patient's scan, from which nothing else is known."""
    tumour = np.asarray(solution.density) > 0.4
    candidates = GaussianBasis.from_outline(tumour, HEAD.grid, width=WIDTH)
    growth = ScaledGrowthParams(LogNormal(7.0, 0.7), LogNormal(3.5, 0.35), candidates, 0.5)
    observations = {
        "pet": Pet(np.asarray(solution.density), np.asarray(HEAD.tissue), effective_voxels=1e4),
        "fluid": FluidMap(np.asarray(solution.anatomy.csf), ~tumour, effective_voxels=1e3),
    }
    prior = Prior(
        Parameters(
            MassEffectParams(growth, Uniform(0.0, 2e5)),
            {"pet": PetParams(1.0, 0.02), "fluid": FluidMapParams(LogNormal(0.1, 0.5))},
        )
    )
    return Problem(MODEL, solution.anatomy, observations, prior)


def true_origin(size):
    places = np.repeat(TRUTH.origin.centres, size, axis=0)
    basis = GaussianBasis(places, np.r_[1.0, np.full(size - 1, 1e-3)], WIDTH, unit_peak=True)
    return SparseOrigin(basis, np.zeros(2), 0.0)


def quiet(*_):
    pass


# S.1


@pytest.fixture(scope="module")
def still():
    """A tumour from two Gaussians, which grew without mass effect."""
    places, weights = np.array([[-12.0, 0.0, 4.0], [14.0, 2.0, -4.0]]), np.array([1.0, 0.6])
    growth = dataclasses.replace(TRUTH, mu1=5.0, origin=GaussianBasis(places, weights, WIDTH, unit_peak=True))
    density = np.asarray(simulate(MODEL.growth, growth, HEAD).density)
    candidates = GaussianBasis.from_outline(density > 0.4, HEAD.grid, width=WIDTH)
    prior = Prior(
        Parameters(
            ScaledGrowthParams(LogNormal(7.0, 0.7), LogNormal(3.5, 0.35), candidates, 0.5),
            {"pet": PetParams(1.0, 0.02)},
        )
    )
    seen = Pet(density, np.asarray(HEAD.tissue), effective_voxels=1e4)
    return Problem(MODEL.growth, HEAD, {"pet": seen}, prior), candidates, places


def test_two_gaussians_are_found_among_all_candidates(still):
    problem, candidates, places = still
    origins, evaluations = sparse_origins(problem, candidates, 2)
    one, two = origins
    assert evaluations > 0
    assert two.value < one.value - 10
    assert all(len(o.basis.weights) == 2 for o in origins)
    assert float(one.basis.weights[1] / one.basis.weights[0]) < 0.01
    found = np.asarray(two.basis.centres)
    apart = np.linalg.norm(found[:, None] - places[None], axis=-1)
    assert sorted(apart.argmin(axis=1)) == [0, 1]
    assert apart.min(axis=1).max() < SPACING / 2


FOCI = np.array([[-18.0, -14.0, 6.0], [16.0, 14.0, -8.0]])


@pytest.fixture(scope="module")
def two_foci():
    """A patient with two small tumours far from each other, seen by their outlines."""
    growth = dataclasses.replace(TRUTH, mu1=4.0, mu2=2.2, origin=GaussianBasis(FOCI, np.array([1.0, 0.7]), WIDTH))
    solution = grown(3e4, growth=growth)
    density, tissue = np.asarray(solution.density), np.asarray(HEAD.tissue)
    core, lesion = (Outline((density > level).astype(float), tissue) for level in (0.5, 0.2))
    fluid = FluidMap(np.asarray(solution.anatomy.csf), density < 0.05)
    candidates = GaussianBasis.from_outline(density > 0.5, HEAD.grid, width=WIDTH)
    observations = {"core": core, "lesion": lesion, "fluid": fluid}
    prior = default_prior(solution.anatomy, observations, model=MODEL, candidates=candidates, speed=0.5)
    return Problem(MODEL, solution.anatomy, observations, prior), density


def in_each_focus(mask):
    """Return the parts of a mask that are nearer to the one focus and to the other."""
    world = np.asarray(HEAD.grid.to_world(np.moveaxis(np.indices(HEAD.grid.shape).astype(float), 0, -1)))
    near = np.argmin([np.linalg.norm(world - focus, axis=-1) for focus in FOCI], axis=0)
    return [mask & (near == i) for i in range(2)]


def test_each_focus_has_gaussians_in_the_end(two_foci):
    problem, density = two_foci
    # Even where so few were asked for.
    method = MultiAtlas((HEAD,), sparsity=1, coarsening=1, refine=False)
    found = calibrate(problem, method)
    origin = found.stats.origins[0]
    assert sorted(np.linalg.norm(np.asarray(origin.centres)[:, None] - FOCI, axis=-1).argmin(axis=1)) == [0, 1]
    params = jax.tree.map(lambda leaf: leaf[0], found.samples)
    estimate = np.asarray(problem.density(params))
    for level, shown in ((0.5, params.observations["core"]), (0.2, params.observations["lesion"])):
        pairs = zip(in_each_focus(estimate > float(shown.threshold)), in_each_focus(density > level), strict=True)
        assert all(dice(model, truth) > 0.6 for model, truth in pairs)
    # And each is named.
    rows = {row.name: row.value for row in found.estimates()}
    for name, focus in (("origin", FOCI[0]), ("origin_2", FOCI[1])):
        assert np.linalg.norm([rows[f"{name}_{axis}"] for axis in "xyz"] - focus) < 6


def test_foci_need_as_many_gaussians(still):
    problem, candidates, _ = still
    foci = np.arange(len(candidates.centres)) % 3
    with pytest.raises(ValueError, match="3 foci need as many Gaussians, got a sparsity of 2"):
        sparse_origins(problem, candidates, 2, foci=foci)


# S.3


@pytest.fixture(scope="module")
def seeded(problem):
    """The calibration of growth and force where the seed is known."""
    method = MultiAtlas((HEAD,), sparsity=2, coarsening=1, refine=False, value_tolerance=1e-3)
    return method.fit(problem, [true_origin(2)], 0, quiet)


def test_scoring_recovers_the_growth_where_the_seed_is_known(seeded):
    growth = jax.tree.map(lambda leaf: leaf[0], seeded.samples).growth
    assert float(growth.mass_effect) == pytest.approx(GAMMA, rel=0.02)
    assert float(growth.growth.mu1) == pytest.approx(TRUTH.mu1, rel=0.01)
    assert float(growth.growth.mu2) == pytest.approx(TRUTH.mu2, rel=0.01)
    history = seeded.stats.atlases[0].histories[0]
    assert all(after < before for before, after in itertools.pairwise(history))


def test_information_is_that_of_laplace(still):
    problem, _, places = still
    basis = GaussianBasis(places, np.array([1.0, 0.6]), WIDTH, unit_peak=True)
    prior = Prior(eqx.tree_at(lambda p: p.growth.origin, problem.prior.distributions, basis))
    fixed = eqx.tree_at(lambda p: p.prior, problem, prior)
    z = np.array([-0.3, -0.2])
    asking = scoring(fixed, z, np.ones(2, bool), iterations=0, value_tolerance=1e-3, difference=1e-4)
    scored = answer(asking, lambda point: fixed.predict(fixed.prior.constrain(jnp.asarray(point))))
    exact = np.linalg.inv(np.asarray(laplace_covariance(fixed, jnp.asarray(z))))
    np.testing.assert_allclose(scored.information, exact, rtol=2e-3)
    assert scored.solves == 3


def test_derivatives_are_taken_anew_only_where_they_fail(still):
    problem, _, places = still
    basis = GaussianBasis(places, np.array([1.0, 0.6]), WIDTH, unit_peak=True)
    prior = Prior(eqx.tree_at(lambda p: p.growth.origin, problem.prior.distributions, basis))
    fixed = eqx.tree_at(lambda p: p.prior, problem, prior)

    def search(problem, start, iterations, **settings):
        asking = scoring(
            problem, np.array(start), np.ones(2, bool), iterations=iterations, value_tolerance=1e-3, **settings
        )
        return answer(asking, lambda point: fields(problem, jnp.asarray(point)))

    grown_from = dataclasses.replace(TRUTH, mu1=5.0, origin=basis)
    truth = np.asarray(fixed.prior.unconstrain(Parameters(grown_from, {"pet": PetParams(1.0, 0.02)})))
    near, far = truth + 0.1, truth + np.array([0.6, -0.8])
    for start in (near, far):
        found = search(fixed, start, 15)
        np.testing.assert_allclose(found.point, truth, atol=2e-3)
        # Two for the derivatives and one for the step.
        assert found.solves < 1 + 3 * (len(found.history) - 1)
    coarse = search(fixed.coarsen(2), near, 0).derivatives
    helped = search(fixed, near, 15, derivatives={i: refined_fields(d, 2, HEAD.grid.shape) for i, d in coarse.items()})
    np.testing.assert_allclose(helped.point, truth, atol=2e-3)
    assert helped.solves < search(fixed, near, 15).solves


def test_the_published_search_finds_the_same_growth_with_more_solves(still):
    problem, _, places = still
    basis = GaussianBasis(places, np.array([1.0, 0.6]), WIDTH, unit_peak=True)
    prior = Prior(eqx.tree_at(lambda p: p.growth.origin, problem.prior.distributions, basis))
    fixed = eqx.tree_at(lambda p: p.prior, problem, prior)
    truth = np.asarray(
        prior.unconstrain(Parameters(dataclasses.replace(TRUTH, mu1=5.0, origin=basis), {"pet": PetParams(1.0, 0.02)}))
    )
    settings = {"value_tolerance": 1e-3, "together": False, "stage": "", "progress": quiet, "kept": Stages()}
    found = {
        by: scored([fixed], [truth + np.array([0.6, -0.8])], [np.ones(2, bool)], 15, by=by, **settings)[0]
        for by in ("scoring", "differences")
    }
    # It ends where an iteration gains a thousandth, and one-sided differences are not exact.
    gained = found["differences"].history[0] - found["differences"].value
    assert 0 < found["differences"].value - found["scoring"].value < 0.01 * gained
    assert found["differences"].solves > 2 * found["scoring"].solves
    history = found["differences"].history
    assert all(after < before for before, after in itertools.pairwise(history))
    assert history[-1] == found["differences"].value
    exact = by_differences(
        fixed, truth + 0.1, np.ones(2, bool), gradient_tolerance=1e-7, change_tolerance=1e-12, difference=1e-4
    )
    end = answer(exact, lambda point: fields(fixed, jnp.asarray(point)))
    np.testing.assert_allclose(end.point, truth, atol=2e-3)
    method = MultiAtlas.published((HEAD,), sparsity=3)
    assert (method.growth_search, method.refine, method.coarsening, method.sparsity) == ("differences", False, 1, 3)


def test_uncertainty_is_that_of_growth_and_seed_together(problem, seeded, one_test_compiled_plainly):
    (one,) = seeded.members
    covariance, z = np.asarray(one.covariance), np.asarray(one.coordinates)
    # Of a Gaussian that holds next to nothing the weight and the place are as uncertain as before.
    used = in_use(one.prior, z)
    assert np.sum(~used) == 4
    np.testing.assert_array_equal(covariance[~used], np.eye(z.size)[~used])
    exact = np.asarray(laplace_covariance(in_atlas(problem, HEAD, one.prior), jnp.asarray(z)))
    np.testing.assert_allclose(np.diag(covariance)[used], np.diag(exact)[used], rtol=0.2)
    deviation = laplace_maps(in_atlas(problem, HEAD, one.prior), jnp.asarray(z), covariance).deviation
    told = seeded.stats.deviations[0]
    assert np.linalg.norm(told - deviation) < 0.1 * np.linalg.norm(deviation)


# All stages.


def test_atlases_share_the_weight_by_how_well_they_explain_the_scan(problem):
    atlases = (HEAD, head(ventricle=(-10.0, 8.0, 12.0)))
    shift = np.array([1.0, 0.0, 0.0])
    method = MultiAtlas(
        atlases, carry=(lambda x: x, lambda x: x + shift), sparsity=2, coarsening=1, refine=False, value_tolerance=500.0
    )
    apart = method.fit(problem, [true_origin(2)], 0, quiet)
    weights = np.exp(np.asarray(apart.log_weights))
    assert weights.sum() == pytest.approx(1)
    assert weights[0] > 0.99
    # The weights are reported, but the mean weighs all atlases equally.
    found = [float(mu1) for mu1 in apart.samples.growth.growth.mu1]
    assert float(apart.params.growth.growth.mu1) == pytest.approx(np.mean(found), rel=1e-6)
    centres = apart.samples.growth.growth.origin.centres
    np.testing.assert_allclose(centres[1] - centres[0], np.broadcast_to(shift, centres[0].shape), atol=1e-9)
    together = dataclasses.replace(method, together=True).fit(problem, [true_origin(2)], 0, quiet)
    for one, other in zip(jax.tree.leaves(apart.samples), jax.tree.leaves(together.samples), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)


def test_several_atlases_go_on_to_the_same_result(tmp_path, problem):
    atlases = (HEAD, head(ventricle=(-10.0, 8.0, 12.0)))
    method = MultiAtlas(atlases, sparsity=2, coarsening=1, refine=False, value_tolerance=500.0)
    whole, path = calibrate(problem, method), tmp_path / "kept"
    kept = dataclasses.replace(method, checkpoint=str(path))
    for stage in ("growth in the atlases, state 1 of 1", "uncertainty in the atlases"):
        with pytest.raises(Killed):
            calibrate(problem, kept, progress=killed_at(stage))
    told = []
    found = calibrate(problem, kept, progress=lambda stage, *news: told.append(stage))
    assert set(told) == {"uncertainty in the atlases"}
    same(found, whole)
    np.testing.assert_array_equal(found.stats.deviations, whole.stats.deviations)
    with pytest.raises(ValueError, match="kept is of another calibration"):
        calibrate(problem, dataclasses.replace(kept, atlases=atlases[::-1]))


def in_an_atlas(problem, basis, mu1, *, tumour=True):
    """The result of a calibration in an atlas: a state, mu1, and variances of 0.04 for all coordinates in use."""
    prior = with_basis(problem.prior, basis, 3.0, np.float64)
    unknown = prior.constrain(jnp.zeros(prior.size))
    point = np.asarray(prior.unconstrain(eqx.tree_at(lambda p: p.growth.growth.mu1, unknown, jnp.asarray(mu1))))
    moved = np.flatnonzero(in_use(prior, point))
    density = np.full((2, 2, 2), 0.5 if tumour else 0.0)
    return Scored(point, 0.0, Fields(density, None), moved, np.eye(len(moved)) / 0.04), prior


def state(*places):
    """A state of five Gaussians, of which those at the given places along x hold something."""
    x = np.r_[places, np.full(5 - len(places), places[0])]
    return GaussianBasis(
        np.stack([x, 0 * x, 0 * x], axis=1), np.r_[np.ones(len(places)), np.full(5 - len(places), 1e-3)], WIDTH
    )


@pytest.fixture(scope="module")
def mixed():
    """Atlases that chose different states, at x = 10 and at -30 and -20; in a third no tumour grows."""
    cube = Anatomy(Grid.from_spacing((4, 4, 4), SPACING), *(share * np.ones((4, 4, 4)) for share in (0.5, 0.0, 0.5)))
    outline = Outline(np.full((4, 4, 4), 0.5), np.ones((4, 4, 4), bool))
    growth = ScaledGrowthParams(LogNormal(7.0, 0.7), LogNormal(3.5, 0.35), state(0.0), 0.5)
    threshold = OutlineParams(Uniform(0.1, 0.9), 10.0)
    prior = Prior(Parameters(MassEffectParams(growth, Uniform(0.0, 2e5)), {"core": threshold, "lesion": threshold}))
    problem = Problem(MODEL, cube, {"core": outline, "lesion": outline}, prior)
    bases = [state(10.0), state(-30.0, -20.0), state(90.0)]
    ends, priors = zip(
        *(in_an_atlas(problem, b, mu1, tumour=mu1 < 20) for b, mu1 in zip(bases, (4.0, 8.0, 30.0), strict=True)),
        strict=True,
    )
    # Nothing is known where nothing grows.
    ends[2].information[:] = np.nan
    problems = [in_atlas(problem, cube, prior) for prior in priors]
    return average(problem, bases, 3.0, problems, list(ends), list(ends), CalibrationResult.VALUE)


def test_atlases_of_different_states_have_no_mean_of_gaussians(mixed):
    assert not any("origin" in name for name in mixed.prior.names)
    np.testing.assert_allclose(mixed.shares, [0.5, 0.5, 0])
    # Of the parameters the plain mean, and of the states their centre of mass.
    growth = mixed.params.growth.growth
    assert float(growth.mu1) == pytest.approx(6.0)
    np.testing.assert_allclose(growth.origin.centre_of_mass, [(10 - 25) / 2, 0, 0], atol=1e-5)
    assert len(growth.origin.weights) == 3
    np.testing.assert_allclose(mixed.prior.constrain(mixed.coordinates).growth.growth.mu1, 6.0)
    mean, spread = mixed.mean().growth.growth, mixed.standard_deviations().growth.growth
    np.testing.assert_allclose(mean.origin, [-7.5, 0, 0], atol=1e-2)
    # 17.5 mm between them; within the first, whose coordinates have 0.2, 0.6 mm, and less where two Gaussians differ.
    assert float(spread.origin[0]) == pytest.approx(17.5, abs=0.2)
    assert float(spread.origin[1]) == pytest.approx(np.sqrt((0.6**2 + 0.6**2 / 2) / 2), rel=0.05)
    # 0.2 of the logarithm's 0.7.
    assert float(spread.mu1) == pytest.approx(np.sqrt(4 + (0.14**2) * (16 + 64) / 2), rel=1e-3)
    index = mixed.prior.names.index("growth.growth.mu1")
    apart = np.log(2) / 0.7 / 2
    assert float(mixed.covariance[index, index]) == pytest.approx(apart**2 + 0.04, rel=1e-4)
    np.testing.assert_allclose(np.diag(mixed.correlation()), 1, rtol=1e-5)


def test_a_mixture_goes_on_in_arviz(mixed):
    pytest.importorskip("arviz")
    data = to_inference_data(mixed, count=50)
    assert {"growth.growth.mu1", "growth.mass_effect"} <= set(data.posterior.data_vars)
    assert data.posterior["growth.growth.mu1"].shape == (1, 50)


def test_draws_come_from_one_atlas_each(mixed):
    drawn = mixed.sample(jax.random.key(0), 400).growth.growth
    x = np.asarray(jax.vmap(lambda origin: origin.centre_of_mass)(drawn.origin))[:, 0]
    assert np.all((np.abs(x - 10) < 4) | (np.abs(x + 25) < 4))
    assert np.mean(x > 0) == pytest.approx(0.5, abs=0.1)
    # The numbers of a draw belong together.
    assert np.mean((np.asarray(drawn.mu1) > np.sqrt(32)) == (x < 0)) > 0.97


def test_draws_one_by_one_are_of_the_problem_in_their_atlas(mixed):
    problem = mixed.problems[0]
    groups = mixed.drawn(problem, jax.random.key(0), 20)
    assert [own is there for own, there in zip((g.problem for g in groups), mixed.problems, strict=False)] == [True] * 2
    counts = [len(group.params) for group in groups]
    assert sum(counts) == 20 and min(counts) > 4
    for group, x in zip(groups, (10.0, -25.0), strict=True):
        centres = [float(p.growth.growth.origin.centre_of_mass[0]) for p in group.params]
        assert np.mean(centres) == pytest.approx(x, abs=2)
    # What one date does not show: the same tumours at other speeds, in a prior that has the speed.
    fast, _ = draws_of(problem, mixed, jax.random.key(0), 20, LogNormal(0.5, 0.8))
    assert "growth.growth.speed" in fast.problem.prior.names and "growth.growth.speed" not in problem.prior.names
    for one, same_one in zip(fast.params, groups[0].params, strict=True):
        growth, known = one.growth.growth, same_one.growth.growth
        assert float(growth.mu1) == float(known.mu1) and float(known.speed) == 0.5
    logs = np.log([float(one.growth.growth.speed) / 0.5 for one in fast.params])
    assert abs(np.mean(logs)) < 0.8 and 0.4 < np.std(logs) < 1.4
    with pytest.raises(ValueError, match="a distribution of the speed is for a problem of one date"):
        _at_speeds(fast, LogNormal(0.5, 0.8), jax.random.key(0))
    with pytest.raises(ValueError, match=r"in atlases on a grid of shape \(4, 4, 4\); give the problem that was"):
        mixed.drawn(in_atlas(problem, HEAD, problem.prior), jax.random.key(0), 1)


def carried(mixed, *errors):
    """The mixture in atlases from which places are carried with these errors, mm."""
    named = zip("abc", mixed.problems, errors, strict=True)
    atlases = tuple(AlignedAtlas(name, own.anatomy, place_error=error) for name, own, error in named)
    return dataclasses.replace(mixed, atlases=atlases)


def test_the_error_of_carrying_a_place_is_added_to_the_variance_of_the_origin(mixed):
    # No tumour grows in the third.
    widened = carried(mixed, 1.5, 2.5, 99.0)
    before, after = (each.standard_deviations().growth.growth for each in (mixed, widened))
    added = np.asarray(after.origin) ** 2 - np.asarray(before.origin) ** 2
    np.testing.assert_allclose(added, (1.5**2 + 2.5**2) / 2, rtol=1e-6)
    np.testing.assert_array_equal(after.mu1, before.mu1)
    np.testing.assert_array_equal(widened.mean().growth.growth.origin, mixed.mean().growth.growth.origin)
    # It moves the Gaussians of an atlas together, and turns none into more of the tumour.
    first, second = (origins_of(each.sample(jax.random.key(1), 4000)) for each in (mixed, widened))
    for variance, growth in ((1.5**2, lambda x: x > -7.5), (2.5**2, lambda x: x < -7.5)):
        spreads = [np.var(each[growth(each[:, 0])], axis=0) for each in (first, second)]
        np.testing.assert_allclose(spreads[1] - spreads[0], variance, rtol=0.15)
    rows = {row.name: row.deviation for row in widened.estimates()}
    assert rows["origin_y"] == pytest.approx(float(after.origin[1]), rel=1e-6)
    assert widened.estimate.endswith("with the error of carrying a place from an atlas, 1.5 or 2.5 or 99.0 mm")
    assert "carrying" not in mixed.estimate


def origins_of(params):
    """The centre of mass of each state at time zero, (n, 3) mm."""
    return np.asarray(jax.vmap(lambda origin: origin.centre_of_mass)(params.growth.growth.origin))


def test_tumours_that_grow_from_draws_were_not_carried(mixed):
    pairs = zip(
        *(each.drawn(mixed.problems[0], jax.random.key(0), 9) for each in (mixed, carried(mixed, 9.0, 9.0, 9.0))),
        strict=True,
    )
    for one, other in pairs:
        for a, b in zip(one.params, other.params, strict=True):
            np.testing.assert_array_equal(a.growth.growth.origin.centres, b.growth.growth.origin.centres)


def test_intervals_contain_a_place_that_was_carried_as_often_as_they_say(mixed):
    error = 2.0
    widened = carried(mixed, error, error, error)
    random = np.random.default_rng(0)
    # The first atlas alone: one Gaussian, at y = 0.
    for mixture, low, high in ((mixed, 0.3, 0.45), (widened, 0.89, 0.91)):
        alone = dataclasses.replace(mixture, shares=np.array([1.0, 0.0, 0.0]))
        scan = float(mixed.members[0].standard_deviations(lambda p: p.growth.growth.origin.centre_of_mass)[1])
        off = random.normal(0, error, 20000) + random.normal(0, scan, 20000)
        inside = np.abs(off) < 1.6449 * float(alone.standard_deviations().growth.growth.origin[1])
        assert low < np.mean(inside) < high


@pytest.mark.usefixtures("one_test_compiled_plainly")
def test_a_forecast_of_a_mixture_grows_in_the_atlases(problem, seeded, solution):
    (member,) = seeded.members
    sure = dataclasses.replace(member, covariance=0 * member.covariance)
    found = forecast(problem, dataclasses.replace(seeded, members=(sure,)), (0.0,), key=jax.random.key(0), count=1)
    # On the day of the scan it is the tumour that was found, which is the patient's.
    np.testing.assert_allclose(found.density[0], solution.density, atol=0.03)


def test_gaussians_that_fill_places_are_not_counted(mixed):
    rows = {row.name: row for row in mixed.estimates()}
    assert (rows["gaussians"].value, rows["gaussians"].deviation) == (1.5, 0.5)
    assert rows["origin_x"].value == pytest.approx(-7.5, abs=1e-2)
    assert rows["origin_x"].deviation == pytest.approx(17.5, abs=0.2)
    assert rows["mu1"].value == pytest.approx(6.0)


def test_refinement_finds_the_seed_that_the_scan_does_not_show(problem):
    found = calibrate(problem, MultiAtlas((HEAD,), sparsity=2, coarsening=1))
    atlas = found.stats.atlases[0]
    assert atlas.refined < atlas.seeded
    growth = jax.tree.map(lambda leaf: leaf[0], found.samples).growth
    moved = grown(float(growth.mass_effect), growth=growth.growth)
    truth = grown()
    assert np.linalg.norm(moved.density - truth.density) < 0.05 * np.linalg.norm(truth.density)
    assert np.linalg.norm(moved.displacement - truth.displacement) < 0.1 * np.linalg.norm(truth.displacement)
    assert np.all(np.diag(found.covariance) >= 0)


# What it is made of.


class Bowl(eqx.Module):
    """A function of two variables in place of a problem, small as that of a law of a volume."""

    middle: jax.Array
    model: Any = eqx.field(static=True, default=MODEL.growth)
    anatomy: None = None
    dtype: Any = eqx.field(static=True, default=jnp.float64)


def in_bowl(bowl, z):
    away = z - bowl.middle
    return jnp.sum(away**4 + away**2), 4 * away**3 + 2 * away


@pytest.mark.parametrize("run", (answers, answers_together))
def test_searches_side_by_side_are_the_searches_alone(run):
    bowls = [Bowl(jnp.array(middle)) for middle in ([1.0, -2.0], [0.1, 0.2], [3.0, 1.0])]
    settings = dict(budget=40, gradient_tolerance=1e-6, value_tolerance=1e-14)
    alone = [answer(search(np.zeros(2), **settings), partial(evaluate, in_bowl, one)) for one in bowls]
    for a, b in zip(alone, run([search(np.zeros(2), **settings) for _ in bowls], bowls, in_bowl), strict=True):
        np.testing.assert_allclose(a.point, b.point, rtol=0, atol=0 if run is answers else 1e-12)
        assert a.evaluations == b.evaluations
    np.testing.assert_allclose(alone[0].point, [1, -2], atol=1e-5)


def test_without_mass_effect_only_the_density_is_seen(problem):
    still = without_mass_effect(problem)
    assert isinstance(still.model, FisherKolmogorov)
    assert {name: o.shows for name, o in still.observations.items()} == {"pet": "density"}
    assert still.prior.names == ["growth.mu1", "growth.mu2"]


def test_refuses(problem):
    with pytest.raises(ValueError, match="at least one atlas"):
        MultiAtlas(())
    with pytest.raises(ValueError, match="one carry an atlas, got 2 for 1"):
        MultiAtlas((HEAD,), carry=(lambda x: x, lambda x: x))
    with pytest.raises(ValueError, match="must be at least 1, got 0, None and 4"):
        MultiAtlas((HEAD,), sparsity=0)
    with pytest.raises(ValueError, match='growth_search must be "scoring" or "differences", got \'newton\''):
        MultiAtlas((HEAD,), growth_search="newton")
    with pytest.raises(ValueError, match="is for MassEffect, got FisherKolmogorov"):
        calibrate(without_mass_effect(problem), MultiAtlas((HEAD,)))
    dry = Anatomy(HEAD.grid, HEAD.white_matter, HEAD.grey_matter, 0 * HEAD.csf)
    with pytest.raises(ValueError, match="atlas 2 has no voxel of CSF"):
        calibrate(problem, MultiAtlas((HEAD, dry)))
    with pytest.raises(ValueError, match=r"atlas 1 has shape \(8, 8, 8\)"):
        calibrate(problem, MultiAtlas((HEAD.coarsen(2),)))
    away = dataclasses.replace(HEAD, grid=Grid(HEAD.grid.shape, HEAD.grid.affine + SPACING * np.eye(4, k=3)))
    with pytest.raises(ValueError, match="atlas 1 has the affine"):
        calibrate(problem, MultiAtlas((away,)))
    with pytest.raises(ValueError, match="an image shows the csf, which FisherKolmogorov leaves as it is"):
        Problem(MODEL.growth, HEAD, problem.observations, problem.prior)


def test_tempered_weights_lie_between_the_mean_and_the_posterior():
    values = [100.0, 110.0, 140.0]
    mean, tempered, posterior = (weights_of(values, how) for how in ("mean", "tempered", "posterior"))
    np.testing.assert_allclose(mean, 1 / 3)
    assert posterior[0] > 0.999
    assert 0.4 < tempered[0] < 0.9 and np.all(np.diff(tempered) < 0) and np.all(tempered > 0.05)
    # Where atlases differ by less than a nat, there is no error to be measured.
    np.testing.assert_allclose(weights_of([3.0, 3.2], "tempered"), weights_of([3.0, 3.2], "posterior"))
    for each in (mean, tempered, posterior):
        assert each.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="mean, tempered, posterior"):
        MultiAtlas((HEAD,), weights="best")


def test_densities_that_disagree_are_named():
    x = np.arange(20.0)[:, None, None] * np.ones((20, 4, 4))
    one, near, far = (np.exp(-((x - middle) ** 2) / 20) for middle in (6.0, 7.0, 15.0))
    assert notes_on_agreement(["a", "b"], [one, near]) == []
    (note,) = notes_on_agreement(["a", "places/b", "c"], [one, near, far])
    expected = dice(one > 0.1, far > 0.1)
    assert f"c and a ({expected:.2f})" in note and "c and b" in note and "b and a" not in note
    assert status_of([note]) is Status.DOUBTFUL
    assert agreement([one, near, far])[2][0] == pytest.approx(expected)
