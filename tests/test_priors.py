"""Priors of patients: the published model of 11 parameters, contradictions with the data, and the box of the lesion."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.problems import ball_brain
from tumorjax.calibration import Parameters, Problem, default_prior, published_observations, published_prior
from tumorjax.growth import FisherKolmogorov, GrowthParams, MassEffect, MassEffectParams, ScaledGrowthParams
from tumorjax.integrate import simulate
from tumorjax.observation import Outline, OutlineParams, Pet, PetParams
from tumorjax.prior import Normal, Prior, Uniform

GROWTH = GrowthParams(0.03, 0.03, np.array([-9.0, -6.0, 5.0]), 330.0)
NAMES = [
    "growth.diffusivity",
    "growth.proliferation",
    "growth.origin[0]",
    "growth.origin[1]",
    "growth.origin[2]",
    "growth.duration",
    "observations.core.threshold",
    "observations.core.sharpness",
    "observations.lesion.threshold",
    "observations.pet.scale",
    "observations.pet.noise",
]


@pytest.fixture(scope="module")
def anatomy():
    return ball_brain((40, 40, 40), 2.5)


@pytest.fixture(scope="module")
def density(anatomy):
    return np.asarray(simulate(FisherKolmogorov(), GROWTH, anatomy).density)


@pytest.fixture(scope="module")
def images(anatomy, density):
    tissue = np.asarray(anatomy.tissue)
    noise = np.random.default_rng(0).normal(size=density.shape)
    core, lesion = (Outline((density > threshold).astype(float), tissue) for threshold in (0.7, 0.3))
    return {"core": core, "lesion": lesion, "pet": Pet(4e3 * density + 300 * noise, tissue)}


@pytest.fixture(scope="module")
def problem(anatomy, images):
    published = published_observations(images)
    return Problem(FisherKolmogorov(), anatomy, published, published_prior(anatomy, published))


def ends(prior):
    """Return the parameters at the lower and at the upper end of uniform distributions."""
    return [prior.constrain(jnp.full(prior.size, z)) for z in (-30.0, 30.0)]


def test_the_published_model_has_eleven_parameters(problem):
    assert problem.prior.names == NAMES
    low, high = ends(problem.prior)
    for name, expected in {"diffusivity": (0.02, 1.3), "proliferation": (0.0027, 0.19), "duration": (30, 1000)}.items():
        np.testing.assert_allclose([getattr(p.growth, name) for p in (low, high)], expected)
    np.testing.assert_allclose([p.observations["core"].threshold for p in (low, high)], (0.6, 0.8))
    np.testing.assert_allclose([p.observations["lesion"].threshold for p in (low, high)], (0.05, 0.6))
    # The sharpness rises with its coordinate, so sigma_alpha falls; both outlines have the same.
    for outline in ("core", "lesion"):
        np.testing.assert_allclose([1 / p.observations[outline].sharpness for p in (low, high)], (0.08, 0.05))
    top = float(np.max(problem.observations["pet"].signal, where=problem.observations["pet"].valid, initial=0))
    np.testing.assert_allclose([p.observations["pet"].scale / top for p in (low, high)], (0.6, 1.02))
    np.testing.assert_allclose([p.observations["pet"].noise / top for p in (low, high)], (0.01, 0.25))


def test_the_seed_is_in_a_cube_about_the_core(problem, anatomy, images):
    low, high = (np.asarray(p.growth.origin) for p in ends(problem.prior))
    core = np.asarray(images["core"].inside) > 0
    np.testing.assert_allclose((low + high) / 2, anatomy.grid.to_world(np.argwhere(core).mean(axis=0)), atol=1e-9)
    radius = (3 * core.sum() * 2.5**3 / (4 * np.pi)) ** (1 / 3)
    np.testing.assert_allclose(high - low, 2.2 * radius)
    assert np.all((low < GROWTH.origin) & (high > GROWTH.origin))


def test_draws_are_uniform_in_what_the_papers_are(problem):
    draws = jax.vmap(problem.prior.sample)(jax.random.split(jax.random.key(0), 3000))
    width = 1 / np.asarray(draws.observations["core"].sharpness)
    assert stats.kstest(width, stats.uniform(0.05, 0.03).cdf).pvalue > 1e-3
    assert stats.kstest(np.asarray(draws.growth.diffusivity), stats.uniform(0.02, 1.28).cdf).pvalue > 1e-3
    np.testing.assert_array_equal(draws.observations["core"].sharpness, draws.observations["lesion"].sharpness)
    z = problem.prior.unconstrain(jax.tree.map(lambda leaf: leaf[7], draws))
    assert np.isfinite(z).all()
    assert z.shape == (11,)


def test_the_paper_and_the_code_have_other_boxes(anatomy, images):
    published = published_observations(images)
    paper, code = (published_prior(anatomy, published, box=box) for box in ("paper", "code"))
    low, high = ends(paper)
    np.testing.assert_allclose([p.growth.diffusivity for p in (low, high)], (0.01, 0.08))
    np.testing.assert_allclose([p.growth.proliferation for p in (low, high)], (0.0001, 0.03))
    # The first patient of the paper's table II is outside of its box.
    estimate = dataclasses.replace(ends(code)[0].growth, diffusivity=0.08994, proliferation=0.0155, duration=572.6)
    inside = [
        bool(np.isfinite(prior.unconstrain(Parameters(estimate, ends(prior)[0].observations))[0]))
        for prior in (paper, code)
    ]
    assert inside == [False, True]


def test_ten_parameters_are_identifiable(anatomy, images):
    published = published_observations(images)
    prior = published_prior(anatomy, published, identifiable=True, speed=0.4)
    assert prior.names == ["growth.mu1", "growth.mu2", *NAMES[2:5], *NAMES[6:]]
    low, high = ends(prior)
    np.testing.assert_allclose([p.growth.mu1 for p in (low, high)], np.sqrt([0.02 * 30, 1.3 * 1000]))
    np.testing.assert_allclose([p.growth.mu2 for p in (low, high)], np.sqrt([0.0027 * 30, 0.19 * 1000]))
    assert float(low.growth.speed) == 0.4
    # No number can be changed without changing the tumour: unlike D_w, rho and T together.
    scaled = GROWTH.scaled()
    assert isinstance(low.growth, ScaledGrowthParams)
    unknown = prior.unconstrain(Parameters(scaled, high.observations))[:2]
    assert np.isfinite(unknown).all()


def test_the_likelihood_is_that_of_the_papers(problem, density):
    params = Parameters(
        GROWTH,
        {
            "core": OutlineParams(jnp.asarray(0.65), jnp.asarray(1 / 0.06)),
            "lesion": OutlineParams(jnp.asarray(0.25), jnp.asarray(1 / 0.06)),
            "pet": PetParams(jnp.asarray(3.9e3), jnp.asarray(320.0)),
        },
    )
    tissue, expected = np.asarray(problem.anatomy.tissue), 0.0
    for name, threshold in (("core", 0.65), ("lesion", 0.25)):
        image = problem.observations[name]
        away = density - threshold
        alpha = 0.5 + 0.5 * np.sign(away) * (1 - np.exp(-(away**2) / 0.06**2))
        label = np.asarray(image.inside) > 0
        chance = np.maximum(np.where(label, alpha, 1 - alpha), 2.0**-23)
        expected += np.log(np.minimum(chance, 1 - 2.0**-23))[tissue].sum()
    expected += stats.norm(3.9e3 * density, 320).logpdf(np.asarray(problem.observations["pet"].signal))[tissue].sum()
    fields = problem.predict(params)
    assert float(problem.log_likelihood(fields, params)) == pytest.approx(expected, rel=1e-9)


def test_the_posterior_has_a_gradient_at_draws(problem):
    coarse = problem.coarsen(2)
    value = eqx.filter_jit(lambda p, z: jax.value_and_grad(p.log_posterior)(z))
    for seed in range(2):
        found, slope = value(coarse, jax.random.normal(jax.random.key(seed), (11,)))
        assert np.isfinite(found)
        assert np.isfinite(slope).all()
        assert np.all(slope != 0)


def test_what_the_published_prior_is_not_for(anatomy, images):
    published = published_observations(images)
    core, lesion, pet = (published[name] for name in ("core", "lesion", "pet"))
    with pytest.raises(ValueError, match=r"one PET image, got Outline, Outline; give that image \(`Pet`\), or use def"):
        published_prior(anatomy, {"core": core, "lesion": lesion})
    with pytest.raises(ValueError, match="two outlines, named core and lesion, got core, pet"):
        published_prior(anatomy, {"core": core, "pet": pet})
    with pytest.raises(ValueError, match=r"link=DoubleSigmoid\(\); give it and the problem published_observations"):
        published_prior(anatomy, images)
    with pytest.raises(ValueError, match=r"box must be one of \['code', 'paper'\], got 'wide'"):
        published_prior(anatomy, published, box="wide")  # pyright: ignore[reportArgumentType]
    negative = dataclasses.replace(pet, signal=-(np.asarray(pet.signal) ** 2) - 1.0)
    with pytest.raises(ValueError, match=r"PET signal must be positive in the tumour, its 100th percentile is -1"):
        published_prior(anatomy, published | {"pet": negative})


@pytest.mark.parametrize("prior", (default_prior, published_prior))
def test_swapped_outlines_are_refused(prior, anatomy, images):
    published = published_observations(images)
    swapped = published | {"core": published["lesion"], "lesion": published["core"]}
    with pytest.raises(ValueError, match=r"prior excludes a core that is larger than the whole lesion: they have \d+"):
        prior(anatomy, swapped)


def test_a_prior_of_other_observations_is_refused(problem):
    two = {name: problem.observations[name] for name in ("core", "lesion")}
    with pytest.raises(ValueError, match="the prior has the observation 'pet', which the problem lacks; both need"):
        dataclasses.replace(problem, observations=two)


@pytest.mark.parametrize(
    "origin",
    (
        Uniform(np.array([200.0, 0.0, 0.0]), np.array([220.0, 10.0, 10.0])),
        Normal(np.array([0.0, -150.0, 0.0]), 8.0 * np.ones(3)),
        # On the grid, but outside the brain.
        Uniform(np.array([40.0, 40.0, 40.0]), np.array([44.0, 43.0, 42.0])),
    ),
)
def test_an_origin_without_tissue_is_refused(problem, origin):
    growth = dataclasses.replace(problem.prior.distributions.growth, origin=origin)
    prior = Prior(dataclasses.replace(problem.prior.distributions, growth=growth))
    with pytest.raises(
        ValueError, match=r"prior of the origin is from \[.*\] to \[.*\], where there is no tissue; give"
    ):
        dataclasses.replace(problem, prior=prior)
    # A seed near tissue may be moved into it.
    near = Uniform(origin.transport(jnp.zeros(3)) - 250.0, origin.transport(jnp.zeros(3)) + 250.0)
    prior = Prior(dataclasses.replace(problem.prior.distributions, growth=dataclasses.replace(growth, origin=near)))
    assert dataclasses.replace(problem, prior=prior).prior.size == 11


def test_the_box_of_the_lesion_is_as_good_as_the_brain(problem, density):
    box = problem.around(14.0)
    shape, grid = box.anatomy.grid.shape, problem.anatomy.grid
    assert np.prod(shape) < 0.4 * density.size
    start = np.round(grid.to_index(box.anatomy.grid.to_world(np.zeros(3)))).astype(int)
    part = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
    inside = density[part]
    walls = np.ones(shape, bool)
    walls[1:-1, 1:-1, 1:-1] = False
    assert 1e-5 < inside[walls].max() < 1e-3
    assert density.sum() - inside.sum() < 1e-3 * density.sum()
    there = np.asarray(simulate(box.model, GROWTH, box.anatomy).density)
    assert np.abs(there - inside).max() < 1e-3
    # Walls within the tumour are another matter.
    tight = problem.around(0.0, multiple=1)
    start = np.round(grid.to_index(tight.anatomy.grid.to_world(np.zeros(3)))).astype(int)
    part = tuple(slice(a, a + n) for a, n in zip(start, tight.anatomy.grid.shape, strict=True))
    assert np.abs(np.asarray(simulate(tight.model, GROWTH, tight.anatomy).density) - density[part]).max() > 1e-2


def test_outlines_tell_the_same_in_the_box_of_the_lesion(problem):
    seen, unknown = (
        {name: o for name, o in each.observations.items() if name != "pet"}
        for each in (problem, problem.prior.distributions)
    )
    outlines = dataclasses.replace(problem.prior.distributions, observations=unknown)
    whole = Problem(problem.model, problem.anatomy, seen, Prior(outlines))
    box = whole.around(14.0)
    two = [
        Parameters(growth, {"core": OutlineParams(0.7, 15.0), "lesion": OutlineParams(0.3, 15.0)})
        for growth in (GROWTH, dataclasses.replace(GROWTH, diffusivity=0.025))
    ]
    ratios = [np.subtract(*(float(p.log_likelihood(p.predict(each), each)) for each in two)) for p in (whole, box)]
    assert abs(ratios[0]) > 10
    assert ratios[1] == pytest.approx(ratios[0], abs=0.02 * abs(ratios[0]))


def test_the_box_of_the_lesion_coarsens_as_the_brain_does(problem):
    box = problem.around(14.0, multiple=4)
    assert all(n % 4 == 0 for n in box.anatomy.grid.shape)
    for factor in (2, 4):
        coarse, whole = box.coarsen(factor), problem.coarsen(factor)
        start = whole.anatomy.grid.to_index(coarse.anatomy.grid.to_world(np.zeros(3)))
        np.testing.assert_allclose(start, np.round(start), atol=1e-9)
        part = tuple(slice(int(a), int(a) + n) for a, n in zip(np.round(start), coarse.anatomy.grid.shape, strict=True))
        np.testing.assert_allclose(coarse.anatomy.white_matter, np.asarray(whole.anatomy.white_matter)[part])
        np.testing.assert_allclose(
            coarse.observations["lesion"].inside, np.asarray(whole.observations["lesion"].inside)[part]
        )
    # The grid ends before the margin does.
    assert problem.around(500.0).anatomy.grid.shape == problem.anatomy.grid.shape


def test_where_there_is_no_box_of_the_lesion(problem):
    with pytest.raises(ValueError, match=r"margin must be at least 0 mm and multiple at least 1, got -1\.0 and 4"):
        problem.around(-1.0)
    unknown = problem.prior.distributions
    alone = Prior(dataclasses.replace(unknown, observations={"pet": unknown.observations["pet"]}))
    with pytest.raises(ValueError, match="needs an outline of it"):
        Problem(problem.model, problem.anatomy, {"pet": problem.observations["pet"]}, alone).around(5.0)
    moving = Prior(dataclasses.replace(unknown, growth=MassEffectParams(unknown.growth, Uniform(0.0, 2e5))))
    with pytest.raises(ValueError, match="moves tissue far beyond the lesion, and needs the whole brain"):
        dataclasses.replace(problem, model=MassEffect(FisherKolmogorov()), prior=moving).around(5.0)
