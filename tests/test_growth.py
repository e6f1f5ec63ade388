"""The model: its seed, its coefficients and the two forms of its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import ball_brain, box, slope
from tumorjax.growth import FisherKolmogorov, Foci, GrowthParams, MassEffectParams, ScaledGrowthParams
from tumorjax.prior import Normal, Prior

BOX = box((15, 15, 15), (1.0, 1.3, 2.2))
# All phases between voxels, far enough from the walls for the whole ball.
ORIGINS = jnp.asarray(np.random.default_rng(0).uniform(-1.5, 1.5, (40, 3)))
MODELS = (FisherKolmogorov(), FisherKolmogorov(seed_mass=3.3, seed_width=1.7))
VALUES = {"diffusivity": 0.1, "proliferation": 0.03, "origin": np.array([-4.0, 2.0, 1.0]), "duration": 90.0}


@pytest.fixture(scope="module")
def seeds():
    """The seeds of each model at every origin."""

    @jax.jit
    def initial(origins):
        at = [lambda o, model=model: model.initial(GrowthParams(0.1, 0.1, o, 1.0), BOX) for model in MODELS]
        return [jax.vmap(seed)(origins) for seed in at]

    return [np.asarray(batch) for batch in initial(ORIGINS)]


def test_mass_of_the_seed_does_not_depend_on_where_it_falls(seeds):
    for model, batch in zip(MODELS, seeds, strict=True):
        np.testing.assert_allclose(batch.sum(axis=(1, 2, 3)) * BOX.grid.voxel_volume, model.seed_mass, rtol=1e-12)
        assert 0 <= batch.min() <= batch.max() <= 1


def test_the_seed_lies_at_the_given_origin(seeds):
    index = np.indices(BOX.grid.shape).astype(float)
    centroids = np.einsum("nxyz,axyz->na", seeds[0], index) / seeds[0].sum(axis=(1, 2, 3))[:, None]
    world = np.asarray(BOX.grid.to_world(centroids))
    # Exactly where the width is a whole number of voxels, as along the first axis.
    np.testing.assert_allclose(world[:, 0], ORIGINS[:, 0], atol=1e-12)
    np.testing.assert_allclose(world, ORIGINS, atol=0.02)


def test_the_seed_is_differentiable_in_its_origin():
    weights = jnp.asarray(np.random.default_rng(1).uniform(size=BOX.grid.shape))
    direction = jnp.asarray([0.5, -0.7, 0.5])

    @jax.jit
    @jax.vmap
    def value(step):
        # The first component sits exactly on a voxel, the second halfway between two.
        origin = jnp.asarray([0.0, 0.65, 0.4]) + step * direction
        return jnp.vdot(weights, MODELS[0].initial(GrowthParams(0.1, 0.1, origin, 1.0), BOX))

    steps = jnp.asarray([0.0, 4e-3, 2e-3, 1e-3])
    values = value(steps)
    derivative = jax.jit(jax.grad(lambda step: value(step[None])[0]))(0.0)
    assert abs(float(derivative)) > 1e-3
    remainder = jnp.abs(values[1:] - values[0] - steps[1:] * derivative)
    assert slope(steps[1:], remainder) == pytest.approx(2, abs=0.05)


def test_the_part_of_a_seed_in_the_csf_moves_into_tissue():
    anatomy, model = ball_brain(), MODELS[0]
    # At the rim of the hole, where a little more than half of the ball is tissue.
    params = GrowthParams(**{**VALUES, "origin": np.array([4.4, 1.8, -8.7])})
    seed = np.asarray(model.initial(params, anatomy))
    np.testing.assert_array_equal(seed[~np.asarray(anatomy.tissue)], 0)
    np.testing.assert_allclose(seed.sum() * anatomy.grid.voxel_volume, model.seed_mass, rtol=1e-12)


def test_terms_follow_the_tissue():
    anatomy = ball_brain()
    params = GrowthParams(**VALUES)
    terms, flat = (FisherKolmogorov(ratio=r).terms(params, anatomy) for r in (4.0, 1.0))
    np.testing.assert_array_equal(terms.growth, np.asarray(anatomy.tissue, float))
    white, grey, inside = (np.asarray(m) for m in (anatomy.white_matter, anatomy.grey_matter, anatomy.tissue))
    for diffusivity, got in ((white + grey / 4, terms), (white + grey, flat)):
        # Along the last axis; faces of which one side is outside are closed.
        mean = (diffusivity[..., 1:] + diffusivity[..., :-1]) / 2 / anatomy.grid.spacing[2] ** 2
        np.testing.assert_allclose(got.conductance.edges[2], mean * inside[..., 1:] * inside[..., :-1], rtol=1e-13)
    # Over the whole time.
    assert float(terms.diffusivity) == VALUES["diffusivity"] * VALUES["duration"]
    assert float(terms.proliferation) == VALUES["proliferation"] * VALUES["duration"]


def test_scaled_parameters_are_the_formulas_of_the_literature():
    scaled = GrowthParams(**VALUES).scaled()
    np.testing.assert_allclose(scaled.mu1, np.sqrt(0.1 * 90))
    np.testing.assert_allclose(scaled.mu2, np.sqrt(0.03 * 90))
    np.testing.assert_allclose(scaled.speed, 2 * np.sqrt(0.1 * 0.03))
    back = scaled.physical()
    for name, value in VALUES.items():
        np.testing.assert_allclose(getattr(back, name), value, rtol=1e-14)
    # The default speed is 200 mm a year.
    assert ScaledGrowthParams(3.0, 2.0, np.zeros(3)).speed * 365.25 == pytest.approx(200)


@pytest.mark.parametrize(
    "params",
    (
        GrowthParams(**VALUES),
        GrowthParams(**VALUES).scaled(),
        MassEffectParams(GrowthParams(**VALUES).scaled(), 9e3),
        MassEffectParams(ScaledGrowthParams(3.0, 2.0, Foci(np.arange(6.0).reshape(2, 3), np.array([0.5]))), 9e3),
        ScaledGrowthParams(3.0, 2.0, np.arange(6.0).reshape(2, 3)),
    ),
    ids=("physical", "scaled", "mass effect", "foci", "seeds"),
)
def test_parameters_describe_themselves(params):
    """Every number of the parameters is described once, at the path under which a prior names it."""
    spread = jax.tree.map(lambda leaf: Normal(np.asarray(leaf), np.ones(np.shape(leaf))), params)
    prior, found = Prior(spread), {quantity.name: quantity for quantity in params.quantities()}
    assert len(found) == len(params.quantities())
    held = {q.coordinate: float(q.value(params)) for q in found.values() if q.coordinate}
    assert sorted(held) == sorted(prior.names)
    flat = dict(zip(prior.names, np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)]), strict=True))
    np.testing.assert_allclose([held[name] for name in held], [flat[name] for name in held])
    # What follows from them.
    growth = params.physical()
    assert float(found["duration"].value(params)) == pytest.approx(float(growth.duration))
    assert float(found["mu1"].value(params)) ** 2 == pytest.approx(float(growth.diffusivity * growth.duration))


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"diffusivity": -0.1}, r"diffusivity must be finite and not negative, got -0\.1"),
        ({"proliferation": np.nan}, "proliferation must be finite"),
        ({"duration": jnp.inf}, "duration must be finite"),
        ({"origin": np.zeros(2)}, "origin must be three finite world coordinates"),
        ({"origin": np.array([0, np.nan, 0])}, "origin must be three finite world coordinates"),
    ),
)
def test_bad_parameters_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        GrowthParams(**{**VALUES, **change})
    names = {"diffusivity": "mu1", "proliferation": "mu2", "duration": "speed"}
    scaled = {names.get(name, name): value for name, value in {**VALUES, **change}.items()}
    for name, new in names.items():
        message = message.replace(name, new)
    with pytest.raises(ValueError, match=message):
        ScaledGrowthParams(**scaled)


@pytest.mark.parametrize("name", ("ratio", "seed_mass", "seed_width"))
def test_bad_models_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be (finite and )?positive, got 0"):
        FisherKolmogorov(**{name: 0.0})
