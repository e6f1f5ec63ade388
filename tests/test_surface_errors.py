"""Displaced outlines: what they are worth, and how they are estimated from several readers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, ndimage

from tests.problems import patient
from tumorjax import (
    LBFGS,
    Grid,
    MultiAtlas,
    Outline,
    OutlineParams,
    SurfaceErrors,
    WeakConstraint,
    errors_of_model,
    errors_of_readers,
)
from tumorjax.observation import READERS
from tumorjax.pipeline.problems import errors_of_outlines

GRID = Grid((48, 48, 24), np.eye(4))
ENDLESS = 1e15


def test_the_integral_is_the_largest_eigenvalue_on_a_sphere():
    errors, radius = SurfaceErrors(1.2, 8.0, 2.5, 20.0), 45.0

    def ring(cosine):
        square = 2 * radius**2 * (1 - cosine)
        covariance = 1.2**2 * np.exp(-square / (2 * 8.0**2)) + 2.5**2 * np.exp(-square / (2 * 20.0**2))
        return 2 * np.pi * radius**2 * covariance

    expected = integrate.quad(ring, -1, 1)[0]
    volume = 4 / 3 * np.pi * radius**3
    assert float(errors.integral(volume)) == pytest.approx(expected, rel=1e-5)
    area = 4 * np.pi * radius**2
    assert float(errors.patches(volume)) == pytest.approx(area * (1.2**2 + 2.5**2) / expected, rel=1e-5)
    # One patch where all of a small surface moves together.
    assert float(SurfaceErrors(length=1e3).patches(volume)) == pytest.approx(1, rel=0.03)


def test_the_model_errs_by_less_on_a_small_tumour():
    errors = SurfaceErrors(0.0, 8.0, 5.0, 11.0)

    def ball(radius):
        return 4 / 3 * np.pi * radius**3

    # A quarter of the radius over half of it has the same patches on every small ball, 2 / (1/2)^2.
    for radius in (3.0, 10.0, 19.9):
        assert float(errors.variance(ball(radius))) == pytest.approx((radius / 4) ** 2)
        assert float(errors.patches(ball(radius))) == pytest.approx(8, rel=1e-3)
    assert float(errors.variance(ball(25.0))) == pytest.approx(25.0)
    assert float(errors.patches(ball(25.0))) == pytest.approx(2 * 25**2 / 11**2, rel=1e-3)


def plane(rates):
    """An outline whose border is the plane between the layers, and the log-odds a mm of the nearest probabilities."""
    labels = np.zeros(GRID.shape)
    labels[..., :12] = 1
    return Outline(labels, np.ones(GRID.shape, bool), false_positive=rates[0], false_negative=rates[1])


def density(steepness, shift=0.0):
    away = np.arange(24) - 11.5
    return jnp.broadcast_to(jax.nn.sigmoid(steepness * (shift - away)), GRID.shape)


def test_a_patch_that_is_displaced_by_a_standard_deviation_costs_half_a_nat():
    """In single errors' absence, the logistic function has the width of displacements and voxels together."""
    errors = SurfaceErrors(2.0, 4.0)
    outline, width = plane((0.0, 0.0)), np.sqrt(2.0**2 + 1 / 12)
    worth = float(errors.independent_voxels(ENDLESS, GRID)) / ENDLESS * float(outline.size)
    outline = dataclasses.replace(outline, effective_voxels=worth)
    steepness, params = np.pi / np.sqrt(3) / width, OutlineParams(0.5, 1.0)
    costs = [
        -float(outline.log_prob(density(steepness, shift), OutlineParams(jnp.asarray(0.5), jnp.asarray(1.0))))
        for shift in (0.0, 2.0)
    ]
    patch = 2 * np.pi * 4.0**2
    assert (costs[1] - costs[0]) * patch / 48**2 == pytest.approx(0.5, rel=0.05), params


@pytest.mark.parametrize(("rates", "steepness"), (((0.0, 0.0), 1.814), ((0.1, 0.3), 3.746)))
def test_the_slope_of_the_likelihood_varies_as_much_as_its_information(rates, steepness):
    """Over many readers: what makes the posterior as wide as the errors of its mode."""
    errors, width = SurfaceErrors(1.5, 3.0), np.sqrt(1.5**2 + 1 / 12)
    outline = plane(rates)
    worth = float(errors.independent_voxels(ENDLESS, GRID, *rates)) / ENDLESS * float(outline.size)
    random, places = np.random.default_rng(0), np.arange(24) - 11.5
    noise = ndimage.gaussian_filter(random.normal(size=(300, 48, 48)), (0, *[3.0 / np.sqrt(2)] * 2), mode="wrap")
    moved = 1.5 * noise / noise.std()
    # With these rates the nearest probability is shifted, as the threshold may be.
    shift = 0.29 * width if rates[0] else 0.0
    shares = np.clip(moved[..., None] - places + 0.5, 0, 1)
    params = OutlineParams(jnp.asarray(0.5), jnp.asarray(1.0))

    @jax.jit
    @jax.vmap
    def slope(inside):
        seen = dataclasses.replace(outline, inside=inside, effective_voxels=worth)
        at = lambda x: seen.log_prob(density(steepness / width, x), params) * seen.size / outline.size  # noqa: E731
        return jax.grad(at)(shift), -jax.grad(jax.grad(at))(shift)

    first, second = (np.asarray(part) for part in slope(jnp.asarray(shares)))
    assert first.mean() == pytest.approx(0, abs=0.25 * first.std())
    assert first.var() / second.mean() == pytest.approx(1, abs=0.25)


def ball(random, deviation, length, radius=16.0, size=48):
    """A ball whose surface a reader has displaced."""
    away = np.linalg.norm(np.indices((size,) * 3) - (size - 1) / 2, axis=0)
    noise = ndimage.gaussian_filter(random.normal(size=(size,) * 3), length / np.sqrt(2), mode="wrap")
    return away < radius + deviation * noise / noise.std()


def test_errors_of_readers_are_found():
    random, grid = np.random.default_rng(1), Grid((48, 48, 48), np.eye(4))
    found = errors_of_readers([ball(random, 1.2, 5.0) for _ in range(5)], grid)
    assert found.errors.deviation == pytest.approx(1.2, rel=0.2)
    assert found.errors.length == pytest.approx(5.0, rel=0.2)
    assert 0 < found.roughness < 0.6 and found.offset < 0.8
    assert found.errors.model_deviation == 0
    # What is the same everywhere is no error of the surface.
    bigger = errors_of_readers([ball(random, 1.2, 5.0, radius) for radius in (14.0, 16.0, 18.0)], grid)
    assert bigger.errors.deviation == pytest.approx(1.2, rel=0.25) and bigger.offset > 1


def test_readers_that_do_not_fit_are_refused():
    grid, mask = Grid((6, 6, 6), np.eye(4)), np.zeros((6, 6, 6), bool)
    mask[1:5, 1:5, 1:5] = True
    for outlines, told in (
        ([mask], "at least two of them, got 1"),
        ([mask, mask[1:]], r"outline 2 has shape \(5, 6, 6\) on a grid of shape \(6, 6, 6\); resample it"),
        ([mask, ~mask & False], "outline 2 is empty"),
        ([mask, mask | True], "outline 2 fills the whole grid"),
        ([mask, mask], "agree in all voxels"),
    ):
        with pytest.raises(ValueError, match=told):
            errors_of_readers(outlines, grid)
    for change, told in (
        ({"deviation": -1.0}, "deviation must be finite and not negative, got -1"),
        ({"model_length": 0.0}, "model_length must be finite and positive, got 0"),
        ({"length": np.nan}, "length must be finite and positive"),
        ({"length": 1e20}, "length of a reader must be at most 1000 mm"),
        ({"deviation": 1e20}, "deviation of a reader must be at most 1000 mm"),
    ):
        with pytest.raises(ValueError, match=told):
            SurfaceErrors(**change)
    with pytest.raises(ValueError, match=r"errors must be SurfaceErrors\(\.\.\.\), got float"):
        Outline(mask, mask, errors=1.0)


def test_a_problem_knows_what_its_outlines_are_worth():
    problem = patient(dtype=np.float32)
    core = dataclasses.replace(problem.observations["core"], effective_voxels=None)
    with pytest.raises(ValueError, match=r"follows from its grid: take `placed\(grid\)` of it"):
        core.weight  # noqa: B018
    assert core.crop((0, 0, 0), core.valid.shape).effective_voxels is None
    wrong = dataclasses.replace(core, errors=SurfaceErrors(model_deviation=3.0))
    known = dataclasses.replace(core, effective_voxels=12.0)

    def worth(outline):
        placed = dataclasses.replace(problem, observations={**problem.observations, "core": outline})
        return placed.observations["core"].effective_voxels

    grid = problem.anatomy.grid
    expected = core.errors.independent_voxels(core.size, grid, core.false_positive, core.false_negative)
    assert worth(core) == expected and worth(known) == 12.0
    assert worth(wrong) < 0.5 * worth(core)
    # Without any error every voxel counts.
    exact = dataclasses.replace(core, errors=SurfaceErrors(0.0)).placed(grid)
    assert float(exact.weight) == 1
    rate = jax.jit(lambda inside: dataclasses.replace(core, inside=inside).placed(grid).weight)(core.inside)
    assert float(rate) == pytest.approx(float(core.placed(grid).weight), rel=1e-5)


def test_real_patients_are_allowed_an_error_of_the_model():
    for method in (None, LBFGS(), MultiAtlas()):
        assert {each.model_deviation for each in errors_of_outlines(method).values()} == {5.0}
    # A density that leaves the model has its own.
    assert errors_of_outlines(WeakConstraint()) == dict.fromkeys(READERS, SurfaceErrors())
    assert errors_of_outlines(LBFGS(), 2.0)["core"].model_deviation == 2.0
    with pytest.raises(ValueError, match="model_deviation must be finite and not negative, got -1"):
        errors_of_outlines(None, -1.0)


def test_an_isoline_that_misses_the_outline_shows_the_error_of_the_model():
    problem = patient(dtype=np.float32)
    outline, grid = problem.observations["lesion"], problem.anatomy.grid
    places = np.moveaxis(np.indices(grid.shape), 0, -1) * np.asarray(grid.spacing)
    away = np.linalg.norm(places - places.reshape(-1, 3).mean(axis=0), axis=-1)
    radius, odds = 0.3 * float(np.ptp(places[..., 0])), lambda r: 1 / (1 + np.exp((away - r) / 2.0))
    tissue = np.ones(grid.shape, bool)
    # The model has a ball where the outline is one with lobes.
    angle = np.arctan2(*(np.moveaxis(places, -1, 0)[i] - places[..., i].mean() for i in (0, 1)))
    outline = Outline(np.clip((radius + 3.0 * np.sin(3 * angle) - away) / 4 + 0.5, 0, 1), tissue)
    found = errors_of_model(odds(radius), OutlineParams(0.5, 2.0), outline, grid)
    assert found.errors.deviation == outline.errors.deviation
    assert 1.0 < found.errors.model_deviation < 2.5 and 2 < found.errors.model_length < radius
    with pytest.raises(ValueError, match="no isoline in the tissue at its threshold"):
        errors_of_model(np.zeros(grid.shape), OutlineParams(0.5, 2.0), outline, grid)
    with pytest.raises(ValueError, match="must have the same shape"):
        errors_of_model(np.zeros((3, 3, 3)), OutlineParams(0.5, 2.0), outline, grid)
