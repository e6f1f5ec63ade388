"""Initial states: several seeds, sums of Gaussians, densities of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import ball_brain, box, slope
from tumorjax.cellularity import InverseAdcLaw, LinearAdcLaw
from tumorjax.growth import FisherKolmogorov, GaussianBasis, GrowthParams, InitialDensity, crop_origin

MODEL = FisherKolmogorov()
BOX = box((15, 17, 15), (1.0, 1.3, 2.2))
BRAIN = ball_brain()
RANDOM = np.random.default_rng(0)
SEEDS = np.array([[-4.1, -6.2, -8.3], [3.3, 5.4, 7.5], [-3.6, 5.2, 7.1]])
CENTRES = RANDOM.uniform(-6, 6, (7, 3))
WEIGHTS = RANDOM.uniform(0.02, 0.2, 7)


def initial(origin, anatomy=BOX, model=MODEL):
    """The density at time zero as an array, and whether it is seeded."""
    params = GrowthParams(0.1, 0.1, origin, 1.0)
    density, seeded = jax.jit(lambda p: (model.initial(p, anatomy), model.seeded(p, anatomy)))(params)
    return np.asarray(density), bool(seeded)


def formula(centres, weights, width, grid):
    """phi^T p, Gaussian by Gaussian at the world coordinates of the voxels."""
    world = np.asarray(grid.to_world(np.moveaxis(np.indices(grid.shape).astype(float), 0, -1)))
    distances = [np.linalg.norm(world - centre, axis=-1) for centre in centres]
    return sum(p * np.exp(-(d**2) / (2 * width**2)) for p, d in zip(weights, distances, strict=True))


def taylor(value):
    """The slope of the remainder of a function of one number after its tangent at zero."""
    steps = jnp.asarray([0.0, 4e-3, 2e-3, 1e-3])
    values = jax.jit(jax.vmap(value))(steps)
    derivative = jax.jit(jax.grad(value))(0.0)
    assert abs(float(derivative)) > 1e-3
    return slope(steps[1:], jnp.abs(values[1:] - values[0] - steps[1:] * derivative))


def test_seeds_add_up():
    density, seeded = initial(SEEDS)
    assert seeded
    np.testing.assert_allclose(density, sum(initial(seed)[0] for seed in SEEDS), rtol=1e-12, atol=1e-15)
    # Whole balls: each has its mass.
    np.testing.assert_allclose(density.sum() * BOX.grid.voxel_volume, 3 * MODEL.seed_mass, rtol=1e-12)
    np.testing.assert_array_equal(initial(SEEDS[:1])[0], initial(SEEDS[0])[0])


def test_seeds_that_overlap_stay_below_the_capacity():
    model = FisherKolmogorov(seed_mass=20.0)
    one, _ = initial(SEEDS[0], model=model)
    density, seeded = initial(np.repeat(SEEDS[:1], 3, axis=0), model=model)
    assert seeded
    assert one.max() < 1 < 3 * one.max()
    np.testing.assert_allclose(density, np.minimum(3 * one, 1), rtol=1e-12)


def test_gradient_in_several_seeds():
    weights = jnp.asarray(RANDOM.uniform(size=BRAIN.grid.shape))
    direction = jnp.asarray(RANDOM.normal(size=(3, 3)))
    seeds = jnp.asarray(SEEDS / 3 + 1)

    def value(step):
        params = GrowthParams(0.1, 0.1, seeds + step * direction, 1.0)
        return jnp.vdot(weights, MODEL.initial(params, BRAIN))

    assert taylor(value) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("anatomy", (BOX, BRAIN), ids=("box", "brain"))
def test_gaussians_are_the_formula(anatomy):
    density, seeded = initial(GaussianBasis(CENTRES, WEIGHTS, 1.7), anatomy)
    assert seeded
    expected = formula(CENTRES, WEIGHTS, 1.7, anatomy.grid)
    assert expected.max() < 1
    np.testing.assert_allclose(density, np.where(anatomy.tissue, expected, 0), rtol=1e-12, atol=1e-16)


def test_gaussians_follow_flipped_and_oblique_axes():
    turn = np.linalg.qr(RANDOM.normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.0, -1.3, 2.2])
    affine[:3, 3] = [-3.0, 1.0, 5.0]
    grid = type(BOX.grid)((9, 8, 7), affine)
    got = GaussianBasis(CENTRES, WEIGHTS, 3.1).sum(grid, float)
    np.testing.assert_allclose(got, formula(CENTRES, WEIGHTS, 3.1, grid), rtol=1e-11)


def test_gaussians_are_bounded():
    weights = np.array([3.0, -2.0])
    centres = np.array([[-3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    density, _ = initial(GaussianBasis(centres, weights, 2.0))
    expected = formula(centres, weights, 2.0, BOX.grid)
    assert expected.min() < -0.5
    assert expected.max() > 1.5
    np.testing.assert_allclose(density, np.clip(expected, 0, 1), rtol=1e-12, atol=1e-16)


def test_gradient_in_weights_centres_and_width():
    weights = jnp.asarray(RANDOM.uniform(size=BRAIN.grid.shape))
    basis = GaussianBasis(jnp.asarray(CENTRES), jnp.asarray(WEIGHTS), jnp.asarray(2.3))
    directions = GaussianBasis(jnp.asarray(RANDOM.normal(size=(7, 3))), jnp.asarray(WEIGHTS[::-1]), 0.9)
    for name in ("centres", "weights", "width"):

        def value(step, name=name):
            moved = {n: getattr(basis, n) for n in ("centres", "weights", "width")}
            moved[name] = moved[name] + step * getattr(directions, name)
            # The weights enter linearly, so that something curved is needed around them.
            return jnp.vdot(weights, MODEL.initial(GrowthParams(0.1, 0.1, GaussianBasis(**moved), 1.0), BRAIN) ** 2)

        assert taylor(value) == pytest.approx(2, abs=0.05), name


def test_the_derivative_at_the_bounds_is_whole():
    def total(weights):
        return GaussianBasis(CENTRES, weights, 1.7).initial(BOX).sum()

    middle = jax.grad(total)(jnp.asarray(WEIGHTS))
    np.testing.assert_allclose(jax.grad(total)(jnp.zeros(7)), middle, rtol=1e-12)

    # A centre on a voxel, where the density is one exactly.
    def peak(weight):
        return GaussianBasis(np.zeros((1, 3)), weight[None], 1.7).initial(BOX)[7, 8, 7]

    assert float(jax.grad(peak)(1.0)) == 1.0
    assert float(jax.grad(peak)(1.1)) == 0.0


def test_normalised_gaussians_reach_one_in_the_tissue():
    # The largest sum of all lies in the hole, where there is no tissue.
    centres = np.vstack([CENTRES, [3.0, 1.2, -1.8]])
    basis = GaussianBasis(centres, np.append(WEIGHTS, 5.0), 2.0)
    raw = formula(basis.centres, basis.weights, 2.0, BRAIN.grid)
    assert raw.max() > raw[np.asarray(BRAIN.tissue)].max()
    scaled = jax.jit(lambda b: b.normalised(BRAIN))(basis)
    np.testing.assert_allclose(scaled.weights, basis.weights / raw[np.asarray(BRAIN.tissue)].max(), rtol=1e-12)
    density, _ = initial(scaled, BRAIN)
    assert density.max() == pytest.approx(1, rel=1e-14)
    with pytest.raises(ValueError, match=r"nowhere positive in tissue \(at most 0\)"):
        GaussianBasis(centres, np.zeros(8), 2.0).normalised(BRAIN)


def test_gaussians_of_an_outline():
    outline = np.zeros(BOX.grid.shape, bool)
    outline[3:12, 4:12, 6:9] = True
    outline[12, 4, 6] = True
    every = GaussianBasis.from_outline(outline, BOX.grid)
    np.testing.assert_array_equal(every.centres, BOX.grid.to_world(np.argwhere(outline).astype(float)))
    np.testing.assert_array_equal(every.weights, 1)
    assert every.width == pytest.approx((1.0 * 1.3 * 2.2) ** (1 / 3))

    # Boxes of 3 x 2 x 1 voxels: their middles along x, their first halves along y; and one of a single voxel.
    some = GaussianBasis.from_outline(outline, BOX.grid, spacing=3.0, width=2.5)
    expected = [(x, y, z) for x in (4, 7, 10) for y in (4, 6, 8, 10) for z in (6, 7, 8)] + [(12, 4, 6)]
    np.testing.assert_allclose(some.centres, BOX.grid.to_world(np.asarray(expected, float)), atol=1e-12)
    assert some.width == 2.5
    # However coarse, nothing of the outline is lost.
    assert GaussianBasis.from_outline(outline, BOX.grid, spacing=100.0).centres.shape == (1, 3)


def test_a_density_begins_in_the_tissue_alone():
    image = RANDOM.uniform(size=BRAIN.grid.shape) * np.asarray(BRAIN.white_matter)
    density, seeded = initial(InitialDensity(image), BRAIN)
    assert seeded
    np.testing.assert_array_equal(density, np.where(BRAIN.tissue, image, 0))
    assert image[~np.asarray(BRAIN.tissue)].max() > 0

    weights = jnp.asarray(RANDOM.uniform(size=image.shape))
    gradient = jax.grad(lambda c: jnp.vdot(weights, InitialDensity(c).initial(BRAIN)))(jnp.asarray(image))
    np.testing.assert_array_equal(gradient, np.where(BRAIN.tissue, weights, 0))


def test_adc_is_the_published_formula():
    adc = np.full(BOX.grid.shape, 1e-3)
    adc[4, 5, 6:10] = (0.5e-3, 1.5e-3, 2.5e-3, 3.0e-3)
    outline = np.zeros(adc.shape, bool)
    outline[4, 5, 6:11] = True
    density = np.asarray(InitialDensity.from_adc(adc, outline).density)
    np.testing.assert_allclose(density[4, 5, 6:11], (1, 0.5, 0, 0, 0.75), atol=1e-14)
    assert np.count_nonzero(density) == 3
    # Above the least value given, the density is one.
    density = np.asarray(InitialDensity.from_adc(adc, outline, law=LinearAdcLaw(3e-3), least=1e-3).density)
    np.testing.assert_allclose(density[4, 5, 6:11], (1, 0.75, 0.25, 0, 1), atol=1e-14)
    # In proportion to the inverse.
    density = np.asarray(InitialDensity.from_adc(adc, outline, law=InverseAdcLaw()).density)
    np.testing.assert_allclose(density[4, 5, 6:11], (1, 1 / 3, 1 / 5, 1 / 6, 1 / 2), atol=1e-14)
    assert np.count_nonzero(density) == 5


ORIGINS = {
    "seed": SEEDS[0] / 3 + 1,
    "seeds": SEEDS / 3 + 1,
    "gaussians": GaussianBasis(CENTRES, WEIGHTS, 1.7),
    "density": InitialDensity(RANDOM.uniform(size=BRAIN.grid.shape)),
}


@pytest.mark.parametrize("origin", ORIGINS.values(), ids=ORIGINS.keys())
def test_a_crop_to_the_tissue_changes_nothing(origin):
    start, shape = BRAIN.box()
    assert shape != BRAIN.grid.shape
    density, seeded = initial(origin, BRAIN)
    part, part_seeded = initial(crop_origin(origin, start, shape), BRAIN.crop(start, shape))
    inside = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
    np.testing.assert_allclose(part, density[inside], rtol=1e-12, atol=1e-16)
    assert part.sum() == pytest.approx(density.sum(), rel=1e-13)
    # The random image lies outside the tissue too, unlike the others.
    assert seeded == (not isinstance(origin, InitialDensity))
    assert part_seeded or not seeded


@pytest.mark.parametrize("origin", ORIGINS.values(), ids=ORIGINS.keys())
def test_single_precision_stays(origin):
    brain = BRAIN.astype(np.float32)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, np.float32), GrowthParams(0.1, 0.1, origin, 1.0))
    density = MODEL.initial(params, brain)
    assert density.dtype == np.float32
    np.testing.assert_allclose(density, initial(origin, BRAIN)[0], rtol=2e-5, atol=1e-6)
    assert MODEL.seeded(params, brain).dtype == bool


def image(**voxels):
    """A density of one in the tissue's or the outside's first voxels, so many of each."""
    density = np.zeros(BRAIN.grid.shape)
    for name, count in voxels.items():
        where = np.argwhere(np.asarray(BRAIN.tissue) == (name == "inside"))[:count]
        density[tuple(where.T)] = 1
    return InitialDensity(density)


HOLE = np.array([3.2, 1.3, -1.9])
AWAY = np.array([100.0, 0.0, 0.0])
CASES = {
    "a seed in CSF": (HOLE, False),
    "one of two seeds in CSF": (np.stack([SEEDS[0] / 3 + 1, HOLE]), False),
    "two seeds in tissue": (SEEDS[:2] / 3 + 1, True),
    "one of two seeds off the grid": (np.stack([SEEDS[0] / 3 + 1, AWAY]), False),
    "gaussians in CSF": (GaussianBasis(HOLE[None], np.ones(1), 0.7), False),
    "gaussians off the grid": (GaussianBasis(AWAY[None], np.ones(1), 2.0), False),
    "gaussians without weight": (GaussianBasis(CENTRES, np.zeros(7), 2.0), False),
    "few weights": (GaussianBasis(CENTRES, np.eye(7)[0], 1.0), True),
    "most weight in CSF": (GaussianBasis(np.stack([CENTRES[0], HOLE]), np.array([0.3, 0.7]), 0.7), False),
    "little weight in CSF": (GaussianBasis(np.stack([CENTRES[0], HOLE]), np.array([0.7, 0.3]), 0.7), True),
    "an empty image": (image(), False),
    "more of an image outside": (image(inside=4, outside=5), False),
    "more of an image inside": (image(inside=5, outside=4), True),
}


@pytest.mark.parametrize(("origin", "expected"), CASES.values(), ids=CASES.keys())
def test_a_beginning_outside_the_tissue_is_reported(origin, expected):
    assert initial(origin, BRAIN)[1] is expected


def test_a_batch_is_each_of_its_members():
    weights = jnp.asarray(RANDOM.uniform(size=(3, 7)))
    batch = jax.vmap(lambda w: GaussianBasis(CENTRES, w, 1.7).initial(BOX))(weights)
    seeds = jnp.asarray(SEEDS + RANDOM.normal(size=(3, 1, 3)) / 9)
    several = jax.vmap(lambda s: MODEL.initial(GrowthParams(0.1, 0.1, s, 1.0), BOX))(seeds)
    for i in range(3):
        np.testing.assert_allclose(batch[i], initial(GaussianBasis(CENTRES, weights[i], 1.7))[0], rtol=1e-12)
        np.testing.assert_allclose(several[i], initial(seeds[i])[0], rtol=1e-12)


FULL = np.ones(BOX.grid.shape, bool)
ADC = np.full(BOX.grid.shape, 1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    (
        (lambda: GrowthParams(0.1, 0.1, np.zeros((0, 3)), 1.0), "three finite world coordinates in mm, or a row"),
        (lambda: GrowthParams(0.1, 0.1, np.zeros((4, 2)), 1.0), "three finite world coordinates in mm, or a row"),
        (lambda: GaussianBasis(CENTRES, WEIGHTS, 0.0), r"width must be finite and positive, got 0\.0"),
        (lambda: GaussianBasis(CENTRES, WEIGHTS[:3], 1.0), "give one weight a centre, got 3 and 7"),
        (lambda: GaussianBasis(CENTRES[0], WEIGHTS, 1.0), r"centres must be finite .* got shape \(3,\)"),
        (lambda: GaussianBasis(CENTRES, WEIGHTS * np.nan, 1.0), "weights must be finite"),
        (lambda: GaussianBasis.from_outline(~FULL, BOX.grid), "the mask is empty"),
        (lambda: GaussianBasis.from_outline(FULL[1:], BOX.grid), "outline has shape .* resample it"),
        (lambda: GaussianBasis.from_outline(FULL, BOX.grid, spacing=-1.0), "spacing must be finite and positive"),
        (lambda: InitialDensity(np.full((2, 2, 2), 1.2)), r"fractions in \[0, 1\] without NaN, got values from 1\.2"),
        (lambda: InitialDensity(np.full((2, 2, 2), np.nan)), r"fractions in \[0, 1\] without NaN"),
        (lambda: InitialDensity(np.zeros((2, 2))), r"density must be an image \(x, y, z\), got shape \(2, 2\)"),
        (lambda: InitialDensity(ADC[1:]).initial(BOX), "density has shape .* on a grid of shape"),
        (lambda: InitialDensity.from_adc(ADC, FULL[1:]), "resample one"),
        (lambda: InitialDensity.from_adc(ADC, ~FULL), "the outline is empty"),
        (lambda: InitialDensity.from_adc(ADC * (np.arange(15) > 0), FULL), "not positive in 255 voxels"),
        (lambda: InitialDensity.from_adc(ADC * 1e6, FULL), r"water, 0\.0025 mm\^2/s, got 1000; check units"),
    ),
)
def test_bad_origins_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_with_a_unit_peak_weights_are_relative():
    grid = BOX.grid
    basis = GaussianBasis(CENTRES, WEIGHTS, 2.0, unit_peak=True)
    plain = GaussianBasis(CENTRES, WEIGHTS, 2.0)
    at_centres = np.array([sum(w * np.exp(-np.sum((c - x) ** 2) / 8) for c, w in zip(CENTRES, WEIGHTS, strict=True))
                           for x in CENTRES])  # fmt: skip
    np.testing.assert_allclose(basis.sum(grid, float) * at_centres.max(), plain.sum(grid, float), rtol=1e-12)
    scaled = GaussianBasis(CENTRES, 7.3 * WEIGHTS, 2.0, unit_peak=True)
    np.testing.assert_allclose(scaled.sum(grid, float), basis.sum(grid, float), rtol=1e-12)
    alone = GaussianBasis(CENTRES[:1], WEIGHTS[:1], 2.0, unit_peak=True)
    np.testing.assert_allclose(alone.heights(float), 1.0, rtol=1e-15)
