"""The grid: the world and the index agree in every orientation, and bad headers are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tumorjax.grid import Grid, tissue_box

SHAPE = (9, 11, 7)


def affine(axes, corner=(-31.0, 12.5, 80.0)):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axes, corner
    return matrix


OBLIQUE = Rotation.from_euler("xyz", (20, -35, 70), degrees=True).as_matrix() * np.array([0.9, 1.7, 3.1])
AFFINES = {
    "aligned": affine(np.diag([1.0, 1.0, 1.0])),
    "flipped": affine(np.diag([-1.0, -1.2, 2.5])),
    "permuted": affine(np.array([[0.0, 0.0, -3.0], [1.5, 0.0, 0.0], [0.0, 2.0, 0.0]])),
    "oblique": affine(OBLIQUE),
    "oblique and flipped": affine(OBLIQUE * np.array([1, -1, 1])),
}


@pytest.fixture(params=AFFINES.values(), ids=AFFINES.keys())
def grid(request):
    return Grid(SHAPE, request.param)


@pytest.fixture
def index():
    return np.random.default_rng(0).uniform(-5, 15, (20, 3))


def test_index_to_world_is_the_affine(grid, index):
    homogeneous = np.concatenate([index, np.ones((20, 1))], axis=1)
    np.testing.assert_allclose(grid.to_world(index), (homogeneous @ grid.affine.T)[:, :3], rtol=1e-14)


def test_world_to_index_is_the_inverse(grid, index):
    np.testing.assert_allclose(grid.to_index(grid.to_world(index)), index, atol=1e-12)
    world = 40 * index
    inverse = np.linalg.inv(grid.affine)
    np.testing.assert_allclose(grid.to_index(world), world @ inverse[:3, :3].T + inverse[:3, 3], atol=1e-11)


def test_traced_affine_gives_the_same(grid, index):
    world = grid.to_world(index)
    traced = jax.jit(lambda a: (Grid(SHAPE, a).to_world(index), Grid(SHAPE, a).to_index(world), Grid(SHAPE, a).spacing))
    for got, expected in zip(traced(grid.affine), (world, index, grid.spacing), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-11)


def test_spacing_and_volume(grid):
    np.testing.assert_allclose(grid.voxel_volume, abs(np.linalg.det(grid.affine[:3, :3])), rtol=1e-13)
    step = np.asarray(grid.to_world(np.eye(3))) - np.asarray(grid.to_world(np.zeros(3)))
    np.testing.assert_allclose(grid.spacing, np.linalg.norm(step, axis=1), rtol=1e-13)


def test_from_spacing_is_centred_on_the_origin():
    grid = Grid.from_spacing(SHAPE, (1.0, 2.0, 3.0))
    corners = np.asarray(grid.to_world(np.array([[0, 0, 0], np.asarray(SHAPE) - 1])))
    np.testing.assert_allclose(corners[0], -corners[1])
    np.testing.assert_allclose(grid.spacing, (1, 2, 3))


def test_a_grid_may_be_cut_beyond_itself():
    grid = Grid.from_spacing((4, 5, 6), 2.0)
    wide = grid.crop((-3, 1, -2), (9, 7, 12))
    np.testing.assert_allclose(wide.to_world(np.array([3.0, 0.0, 2.0])), grid.to_world(np.array([0.0, 1.0, 0.0])))
    with pytest.raises(ValueError, match="three numbers each"):
        grid.crop((0, 0), (1, 1, 1))


def test_crop_keeps_voxels_in_place(grid, index):
    start = (2, 0, 3)
    part = grid.crop(start, (4, 5, 2))
    assert part.shape == (4, 5, 2)
    np.testing.assert_allclose(part.to_world(index), grid.to_world(index + np.asarray(start)), atol=1e-12)
    traced = jax.jit(lambda a: Grid(SHAPE, a).crop(start, (4, 5, 2)).affine)(grid.affine)
    np.testing.assert_allclose(traced, part.affine, atol=1e-12)


@pytest.mark.parametrize("factor", (2, 3))
def test_with_spacing_makes_whole_blocks(factor):
    grid = Grid(SHAPE, affine(OBLIQUE / np.linalg.norm(OBLIQUE, axis=0) * 1.1))
    coarse = grid.with_spacing(1.1 * factor)
    assert coarse.shape == tuple(-(-n // factor) for n in SHAPE)
    np.testing.assert_allclose(coarse.spacing, 1.1 * factor)
    block = np.moveaxis(np.indices((factor, factor, factor)), 0, -1).reshape(-1, 3)
    for voxel in ((0, 0, 0), (2, 1, 2)):
        centres = np.asarray(grid.to_world(np.asarray(voxel) * factor + block))
        np.testing.assert_allclose(coarse.to_world(np.asarray(voxel, float)), centres.mean(axis=0), atol=1e-12)


def test_with_spacing_covers_the_box_and_ignores_a_header_rounding(grid):
    coarse = grid.with_spacing(2.0)
    np.testing.assert_allclose(coarse.spacing, 2.0)
    # The first corner is shared; the last lies less than a voxel outside.
    np.testing.assert_allclose(grid.to_world(np.full(3, -0.5)), coarse.to_world(np.full(3, -0.5)), atol=1e-12)
    length, covered = np.asarray(grid.shape) * grid.spacing, np.asarray(coarse.shape) * 2.0
    assert np.all(covered >= length - 1e-9)
    assert np.all(covered < length + 2)
    header = Grid((100, 90, 80), np.diag([1.000001, 1.000001, 1.000001, 1.0]))
    assert header.with_spacing(1.0).shape == (100, 90, 80)
    assert Grid((4, 4, 4), np.diag([1.0, 1, 1, 1])).with_spacing(50.0).shape == (1, 1, 1)


def test_a_tolerated_shear_misplaces_no_voxel():
    for cosine in np.geomspace(1e-6, 1e-1, 30):
        axes = np.eye(3)
        axes[:2, 1] = cosine, np.sqrt(1 - cosine**2)
        try:
            grid = Grid((256, 256, 256), affine(axes))
        except ValueError:
            break
        far = np.array([255.0, 255.0, 255.0])
        assert np.abs(grid.to_index(grid.to_world(far)) - far).max() < 0.5, f"cosine {cosine:.1e} between axes"
    else:
        pytest.fail("every shear was tolerated")


@pytest.mark.parametrize(
    ("shape", "matrix", "message"),
    (
        ((4, 5), np.eye(4), r"three positive dimensions, got shape \(4, 5\)"),
        ((4, 0, 5), np.eye(4), "three positive dimensions"),
        (SHAPE, np.eye(3), r"finite \(4, 4\) matrix"),
        (SHAPE, np.diag([1, np.nan, 1, 1]), r"finite \(4, 4\) matrix"),
        (SHAPE, np.diag([1.0, 0.0, 1.0, 1.0]), "not invertible"),
        (SHAPE, affine(np.array([[1.0, 1.0, 0], [0, 1e-3, 0], [0, 0, 1]])), "not invertible"),
        (SHAPE, affine(np.array([[1.0, 0.3, 0], [0, 1.0, 0], [0, 0, 1]])), r"sheared .*0\.287.*resample"),
    ),
)
def test_bad_grids_are_refused(shape, matrix, message):
    with pytest.raises(ValueError, match=message):
        Grid(shape, matrix)


def test_tissue_box():
    mask = np.zeros((6, 7, 8), bool)
    mask[2:4, 1, 5:8] = True
    assert tissue_box(mask) == ((2, 1, 5), (2, 1, 3))
    assert tissue_box(mask, margin=2) == ((0, 0, 3), (6, 4, 5))
    with pytest.raises(ValueError, match="empty"):
        tissue_box(np.zeros((3, 3, 3), bool))


def test_is_a_tree_of_one_array(grid):
    assert [leaf.shape for leaf in jax.tree.leaves(grid)] == [(4, 4)]
    doubled = jax.vmap(lambda g: g.spacing)(jax.tree.map(lambda a: jnp.stack([jnp.asarray(a), 2 * a]), grid))
    np.testing.assert_allclose(doubled, np.stack([grid.spacing, 2 * grid.spacing]))
