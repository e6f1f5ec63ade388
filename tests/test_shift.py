"""What a T1 image shows of the displacement, and the brain that a displacement leads back to."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from tumorjax import Anatomy, Grid
from tumorjax.observation import ShiftMap, ShiftParams
from tumorjax.observation import shift as shift_module
from tumorjax.patient.shift import brain_behind, carried_back

GRID = Grid.from_spacing((24, 22, 20), 4.0)
WORLD = np.asarray(GRID.to_world(np.moveaxis(np.indices(GRID.shape).astype(float), 0, -1)))


def push(size=6.0, reach=12.0):
    """Tissue pushed away from a tumour at the middle, mm."""
    r = np.linalg.norm(WORLD, axis=-1, keepdims=True)
    return size * WORLD / reach * np.exp(0.5 - 0.5 * (r / reach) ** 2)


def points(count, seed=0):
    random = np.random.default_rng(seed)
    places = random.uniform(-30, 30, (count, 3))
    normal = random.standard_normal((count, 3))
    return places, normal / np.linalg.norm(normal, axis=1, keepdims=True)


def along(field, places, normal):
    """The normal times a field on the grid, at points."""
    return np.sum(normal * (places - carried_back(field, GRID, places)), axis=1)


def test_the_likelihood_is_that_of_the_whole_covariance():
    places, normal = points(60)
    y = np.random.default_rng(1).standard_normal(60) * 0.3
    u, params = push(), ShiftParams(0.07, 1.4)
    with jax.enable_x64():
        seen = ShiftMap.of(GRID, places, normal, y, model_error=0.3, effective_voxels=np.inf)
        factor = np.asarray(seen.modes, float) * np.sqrt(np.asarray(seen.variances, float))
        noise = np.hypot(0.07, 0.3)
        whole = noise**2 * np.eye(60) + 1.4**2 * factor @ factor.T
        away = y + along(u, places, normal)
        logdet = np.linalg.slogdet(2 * np.pi * whole)[1]
        expected = -0.5 * (away @ np.linalg.solve(whole, away) + logdet)
        assert float(seen.log_prob(jnp.asarray(u), params)) == pytest.approx(expected, rel=1e-4)
        # The information on the size of the push, too.
        (slope,) = jax.jvp(lambda a: seen.expected(a * u, params)[0][0], (1.0,), (1.0,))[1:]
        own = along(u, places, normal)
        assert float(jnp.sum(slope**2)) == pytest.approx(own @ np.linalg.solve(whole, own), rel=1e-4)
        # And that on the noise and the spread, from the trace of the covariance's derivatives.
        inverse = np.linalg.inv(whole)
        for (_, precision), part in zip(seen.expected(u, params)[1:], (noise**2 * np.eye(60), None), strict=True):
            by = 2 * (whole - noise**2 * np.eye(60) if part is None else part)
            assert float(precision) == pytest.approx(0.5 * np.trace(inverse @ by @ inverse @ by), rel=1e-3)


def test_modes_have_the_covariance_of_smooth_deformations():
    places, normal = points(40, seed=3)
    modes, variances = shift_module._modes(places, normal)
    np.testing.assert_allclose(modes.T @ modes, np.eye(modes.shape[1]), atol=1e-9)
    near = np.exp(-0.5 * np.sum((places[:, None] - places[None]) ** 2, -1) / shift_module._SCALE**2)
    own = (places - places.mean(0)) / shift_module._ARM
    whole = (normal @ normal.T) * (shift_module._SPREAD**2 * near + shift_module._AFFINE**2 * (1 + own @ own.T))
    found = (modes * variances) @ modes.T
    assert np.linalg.norm(found - whole) < 0.05 * np.linalg.norm(whole)


def people(places, random):
    """A smooth displacement as large as the push, such as anatomy differs by between two people, at points."""
    waves = random.standard_normal((8, 3)) / 30
    weights = random.standard_normal((8, 3)) * 1.2
    return np.sin(places @ waves.T + random.uniform(0, 6, 8)) @ weights


def with_shift(seen, y):
    return dataclasses.replace(seen, shift=y.astype(np.float32))


@eqx.filter_jit
def likelihood(seen, field, params):
    return seen.log_prob(field, params)


def size_of(seen, field, params):
    """The multiple of a displacement that is most likely; minus the log-likelihood is quadratic in it."""
    at = [float(likelihood(seen, a * jnp.asarray(field, jnp.float32), params)) for a in (0.0, 1.0, 2.0)]
    return 1 - (at[2] - at[0]) / 2 / (at[0] - 2 * at[1] + at[2])


def test_the_push_is_found_beside_the_difference_between_people():
    # The difference is as large as the push, and the displacement of a registration that smooths would have lost half.
    places, normal = points(1000, seed=4)
    u, random = push(), np.random.default_rng(5)
    pushed, seen = -along(u, places, normal), ShiftMap.of(GRID, places, normal, np.zeros(len(places)))
    sizes = []
    for _ in range(6):
        y = pushed + np.sum(normal * people(places, random), axis=1) + 0.5 * random.standard_normal(len(places))
        sizes.append(size_of(with_shift(seen, y), u, ShiftParams(0.05, 1.0)))
    assert np.mean(sizes) == pytest.approx(1.0, abs=0.1)
    assert np.std(sizes) < 0.25


def test_an_error_of_the_model_does_not_make_the_push_smaller():
    # Of the modelled push a tenth is wrong, in its fine structure alone, as coarse voxels make it.
    places, normal = points(1000, seed=4)
    u, random = push(), np.random.default_rng(6)
    rough = ndimage.gaussian_filter(random.standard_normal(u.shape), (1.0, 1.0, 1.0, 0))
    rough *= np.linalg.norm(u, axis=-1, keepdims=True)
    rough *= 0.1 * np.linalg.norm(u) / np.linalg.norm(rough)
    pushed, seen = -along(u, places, normal), ShiftMap.of(GRID, places, normal, np.zeros(len(places)))
    shifts = [pushed + np.sum(normal * people(places, random), axis=1) for _ in range(4)]

    def mean_size(seen):
        return np.mean([size_of(with_shift(seen, y), u + rough, ShiftParams(0.05, 1.0)) for y in shifts])

    assert mean_size(seen) == pytest.approx(1.0, abs=0.1)
    assert mean_size(dataclasses.replace(seen, model_error=0.0)) < 0.85


def test_points_stay_where_they_are_on_coarser_voxels_and_in_a_box():
    places, normal = points(50)
    linear = WORLD @ np.array([[0.1, 0.02, 0], [0, -0.05, 0], [0.03, 0, 0.04]])
    seen = ShiftMap.of(GRID, places, normal, np.zeros(50))
    wanted = np.asarray(seen._along(jnp.asarray(linear)))
    coarse = seen.coarsen(2)
    means = linear.reshape(12, 2, 11, 2, 10, 2, 3).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(coarse._along(jnp.asarray(means)), wanted, atol=1e-5)
    assert coarse.valid.shape == (12, 11, 10)
    box = seen.crop((1, 0, 1), (22, 22, 18))
    np.testing.assert_allclose(box._along(jnp.asarray(linear[1:23, :, 1:19])), wanted, atol=1e-5)


def test_refuses():
    places, normal = points(5)
    with pytest.raises(ValueError, match="shape"):
        ShiftMap.of(GRID, places, normal[:4], np.zeros(5))
    with pytest.raises(ValueError, match="finite"):
        ShiftMap.of(GRID, places, normal, np.full(5, np.nan))
    with pytest.raises(ValueError, match="none of the points"):
        ShiftMap.of(GRID, places + 500, normal, np.zeros(5))


def tissue(places):
    """Shares of white matter, grey matter and fluid at places: a ventricle to the left, a gyrus to the right."""
    hole = 1 / (1 + np.exp((np.linalg.norm(places - [-14, 4, 0], axis=-1) - 8) / 2))
    grey = (1 - hole) / (1 + np.exp((20 - places[..., 0]) / 3))
    return 1 - hole - grey, grey, hole


def test_the_brain_behind_a_push_is_the_one_that_was_pushed():
    u = push()
    now = Anatomy(GRID, *(each.astype(np.float32) for each in tissue(WORLD - u)))
    before = brain_behind(now, u)
    for name, wanted in zip(("white_matter", "grey_matter", "csf"), tissue(WORLD), strict=True):
        found, moved = np.asarray(getattr(before, name)), np.asarray(getattr(now, name))
        # Interpolation makes up the difference.
        assert np.linalg.norm(found - wanted) < 0.2 * np.linalg.norm(moved - wanted)
    places = np.array([[10.0, 4.0, -2.0]])
    went = carried_back(u, GRID, places)
    assert 2 < np.linalg.norm(went - places) < 7
    assert np.linalg.norm(went) < np.linalg.norm(places)


def test_a_push_that_folds_leads_nowhere_back():
    now = Anatomy(GRID, *(each.astype(np.float32) for each in tissue(WORLD)))
    assert brain_behind(now, push(size=40.0)) is None
