"""Tissue maps: their position after cropping and coarsening, conservation, and refused input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tests.problems import ball_brain, box
from tumorjax.anatomy import Anatomy
from tumorjax.grid import Grid

MAPS = ("white_matter", "grey_matter", "csf")


@pytest.fixture(scope="module")
def brain():
    return ball_brain()


def world(anatomy):
    """Return the world coordinates of every voxel, (x, y, z, 3)."""
    return np.asarray(anatomy.grid.to_world(np.moveaxis(np.indices(anatomy.grid.shape).astype(float), 0, -1)))


def test_tissue_is_where_white_and_grey_reach_a_tenth():
    grid = Grid.from_spacing((4, 1, 1), 1.0)
    white = np.array([0.05, 0.05, 0.1, 0.0]).reshape(4, 1, 1)
    grey = np.array([0.04, 0.06, 0.0, 0.0]).reshape(4, 1, 1)
    anatomy = Anatomy(grid, white, grey, 1 - white - grey)
    np.testing.assert_array_equal(anatomy.tissue.ravel(), [False, True, True, False])
    assert anatomy.box() == ((1, 0, 0), (2, 1, 1))


def test_crop_to_its_box_loses_no_tissue(brain):
    part = brain.crop(*brain.box())
    assert all(n < m for n, m in zip(part.grid.shape, brain.grid.shape, strict=True))
    assert int(part.tissue.sum()) == int(brain.tissue.sum())
    offset = np.asarray(brain.box()[0])
    for voxel in ((0, 0, 0), (3, 5, 2)):
        there = tuple(offset + voxel)
        np.testing.assert_allclose(part.grid.to_world(np.array(voxel)), brain.grid.to_world(np.array(there)))
        for name in MAPS:
            assert getattr(part, name)[voxel] == getattr(brain, name)[there]


def test_padding_adds_voxels_without_tissue_at_the_end(brain):
    fibres = np.broadcast_to(np.array([2.0, 0, 0, 0.5, 0, 0.5]), (*brain.grid.shape, 6))
    own = Anatomy(brain.grid, *(getattr(brain, name) for name in MAPS), fibres)
    shape = tuple(n + more for n, more in zip(brain.grid.shape, (0, 1, 3), strict=True))
    padded = own.pad(shape)
    assert padded.grid.shape == shape
    np.testing.assert_array_equal(padded.grid.affine, brain.grid.affine)
    assert int(padded.tissue.sum()) == int(brain.tissue.sum())
    again = padded.crop((0, 0, 0), brain.grid.shape)
    for name in (*MAPS, "fibres"):
        np.testing.assert_array_equal(getattr(again, name), getattr(own, name))
    with pytest.raises(ValueError, match="crop it instead"):
        own.pad((1, 1, 1))


@pytest.mark.parametrize("factor", (1, 2, 3))
def test_coarsen_keeps_volumes(brain, factor):
    coarse = brain.coarsen(factor)
    assert coarse.grid.shape == tuple(-(-n // factor) for n in brain.grid.shape)
    np.testing.assert_allclose(coarse.grid.spacing, factor * brain.grid.spacing)
    for name in MAPS:
        volumes = [float(getattr(a, name).sum() * a.grid.voxel_volume) for a in (coarse, brain)]
        np.testing.assert_allclose(volumes[0], volumes[1], rtol=1e-12)


def test_coarsen_keeps_places():
    axes = Rotation.from_euler("xyz", (10, 40, -25), degrees=True).as_matrix() * np.array([1.0, -2.0, 0.5])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, (3.0, -20.0, 7.0)
    empty = Anatomy(Grid((6, 12, 9), affine), *3 * [np.full((6, 12, 9), 1 / 3)])
    # The mean of a linear function over a block is its value at the block's centre.
    linear = 0.2 + world(empty) @ np.array([0.001, -0.0006, 0.0004])
    coarse = Anatomy(empty.grid, linear, linear, linear).coarsen(3)
    np.testing.assert_allclose(coarse.csf, 0.2 + world(coarse) @ np.array([0.001, -0.0006, 0.0004]), rtol=1e-12)


def test_astype(brain):
    single = brain.astype(jnp.float32)
    assert brain.dtype == np.float64
    assert single.dtype == np.float32
    np.testing.assert_allclose(single.white_matter, brain.white_matter, atol=1e-7)


def test_batches_pass_through_vmap(brain):
    batch = jax.tree.map(lambda *maps: jnp.stack([jnp.asarray(m) for m in maps]), brain, box(brain.grid.shape))
    volumes = jax.vmap(lambda a: a.tissue.sum())(batch)
    np.testing.assert_array_equal(volumes, [int(brain.tissue.sum()), brain.tissue.size])
    assert not brain.traced
    assert jax.jit(lambda a: jnp.asarray(a.traced))(brain)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    (
        ("csf", lambda m: m[:-1], r"csf has shape \(17, 20, 16\) on a grid of shape \(18, 20, 16\); resample"),
        ("white_matter", lambda m: 100 * m, r"white_matter must hold fractions .* to 9\d.*; rescale"),
        ("grey_matter", lambda m: m - 0.5, r"grey_matter must hold fractions .*from -0\.(5|49)"),
        ("csf", lambda m: np.where(m > 0.9, np.nan, m), "csf must hold fractions .*NaN"),
    ),
)
def test_bad_maps_are_refused(brain, name, change, message):
    maps = {key: np.asarray(getattr(brain, key)) for key in MAPS}
    maps[name] = change(maps[name])
    with pytest.raises(ValueError, match=message):
        Anatomy(brain.grid, **maps)


def test_a_brain_without_tissue_is_refused(brain):
    nothing = np.zeros(brain.grid.shape)
    with pytest.raises(ValueError, match="empty; give maps of a brain"):
        Anatomy(brain.grid, nothing, nothing, nothing)


def test_interpolation_may_overshoot_one_by_rounding(brain):
    sure = np.asarray(brain.white_matter) > 0.9
    grey, csf = (np.where(sure, 0, m) for m in (brain.grey_matter, brain.csf))
    Anatomy(brain.grid, np.where(sure, 1 + 5e-4, brain.white_matter), grey, csf)


def test_maps_that_sum_to_more_than_one_are_refused(brain):
    with pytest.raises(ValueError, match=r"sum to at most one, got 1\.\d+; are they probabilities"):
        Anatomy(brain.grid, np.asarray(brain.white_matter), np.asarray(brain.grey_matter), np.ones(brain.grid.shape))


def test_fibres_follow_crop_coarsening_and_dtype(brain):
    rng = np.random.default_rng(0)
    fibres = np.array([1.0, 0, 0, 1, 0, 1]) + 0.2 * rng.uniform(-1, 1, (*brain.grid.shape, 6))
    whole = Anatomy(brain.grid, *(getattr(brain, name) for name in MAPS), fibres)
    np.testing.assert_array_equal(whole.crop((2, 3, 4), (5, 6, 7)).fibres, fibres[2:7, 3:9, 4:11])
    np.testing.assert_allclose(whole.coarsen(2).fibres[1, 2, 3], fibres[2:4, 4:6, 6:8].mean(axis=(0, 1, 2)))
    assert whole.astype(jnp.float32).fibres.dtype == jnp.float32
    with pytest.raises(ValueError, match=r"fibres have shape .* resample them"):
        Anatomy(brain.grid, *(getattr(brain, name) for name in MAPS), fibres[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    (
        (lambda f: 1e-3 * f, r"trace three, got 0\.003 in the mean of white matter; .*tumorjax\.io\.relative_tensor"),
        (lambda f: np.where(np.arange(6) == 1, np.nan, f), r"NaN or infinite .*tumorjax\.io\.relative_tensor"),
        (lambda f: f + np.eye(6)[1] * 2, r"negative eigenvalues in \d+ voxels .*tumorjax\.io\.relative_tensor"),
        (lambda f: f * [2, 1, 1, 2, 1, -1], r"negative eigenvalues in \d+ voxels .*tumorjax\.io\.relative_tensor"),
    ),
)
@pytest.mark.parametrize("array", (np.asarray, jnp.asarray))
def test_bad_fibres_are_refused(brain, array, change, message):
    whole = np.tile([1.0, 0, 0, 1, 0, 1], (*brain.grid.shape, 1))
    maps = [getattr(brain, name) for name in MAPS]
    assert Anatomy(brain.grid, *maps, array(whole)).fibres is not None
    with pytest.raises(ValueError, match=message):
        Anatomy(brain.grid, *maps, array(change(whole)))


def test_fibres_of_one_direction_are_accepted(brain):
    # The eigenvalues of a tensor may be zero, and its determinant then is rounding.
    along = np.ones(3, np.float32) / np.sqrt(np.float32(3))
    outer = 3 * np.outer(along, along)[np.triu_indices(3)]
    maps = [np.asarray(getattr(brain, name), np.float32) for name in MAPS]
    Anatomy(brain.grid, *maps, np.tile(outer, (*brain.grid.shape, 1)).astype(np.float32))


def test_masks_are_maps():
    grid = Grid.from_spacing((3, 3, 3), 2.0)
    ones, none = np.ones(grid.shape, int), np.zeros(grid.shape, bool)
    for array in (np.asarray, jnp.asarray):
        anatomy = Anatomy(grid, array(ones), array(none), array(none))
        assert anatomy.dtype == np.float64
        assert jnp.issubdtype(anatomy.grey_matter.dtype, np.floating)


@pytest.mark.parametrize(
    ("make", "message"),
    (
        (lambda b: b.coarsen(4.0), r"factor of voxels must be a whole number of at least 1, got 4\.0"),
        (lambda b: b.coarsen(0), "factor of voxels must be a whole number of at least 1, got 0"),
        (lambda b: b.coarsen(1000), r"factor of voxels must be at most \d+ on this grid, got 1000"),
        (lambda b: b.crop((0, 0, 0), (99, 1, 1)), "does not lie in an image of shape"),
        (lambda b: b.crop((-1, 0, 0), (2, 1, 1)), "does not lie in an image of shape"),
        (lambda b: b.crop((0.0, 0, 0), (2, 1, 1)), "does not lie in an image of shape"),
        (
            lambda b: Anatomy(b.grid, b.white_matter, b.grey_matter, b.csf.astype(np.float32)),
            "several dtypes, float32, f",
        ),
        (lambda b: Anatomy(b.grid, b.white_matter, b.grey_matter, "csf"), "must be a real number or an array.*'csf'"),
        (lambda b: Anatomy(b.grid, b.white_matter, b.grey_matter, None), "must be a real number or an array.*None"),
        (lambda b: Anatomy(b.grid, b.white_matter + 0j, b.grey_matter, b.csf), "array of complex128"),
        (lambda b: Anatomy(b.grid.affine, b.white_matter, b.grey_matter, b.csf), "lies on a Grid, got ndarray"),
    ),
)
def test_bad_arguments_are_refused(brain, make, message):
    with pytest.raises(ValueError, match=message):
        make(brain)


def test_traced_anatomies_are_cropped_and_coarsened_alike(brain):
    part = brain.crop((2, 3, 4), (7, 6, 5)).coarsen(2)
    for array in (np.asarray, jnp.asarray):
        given = jax.tree.map(array, brain)
        for got in (
            jax.jit(lambda a: a.crop((2, 3, 4), (7, 6, 5)).coarsen(2))(given),
            jax.jit(lambda given=given: given.crop((2, 3, 4), (7, 6, 5)).coarsen(2))(),
        ):
            jax.tree.map(np.testing.assert_allclose, got, jax.tree.map(jnp.asarray, part))
