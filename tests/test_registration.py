"""Registration recovers known maps, and reports failures."""

from dataclasses import replace

import numpy as np
import pytest

from tumorjax.atlas import load_atlas
from tumorjax.grid import Grid
from tumorjax.io import Volume, read_volume, resample
from tumorjax.registration import RegistrationWarning, Transform, register, warp
from tumorjax.registration.intensities import match_intensities


def shrunk(volume, spacing, kind="linear"):
    grid = volume.grid.with_spacing(spacing)
    return Volume(resample(volume.data, volume.affine, grid, kind=kind), np.asarray(grid.affine), name=volume.name)


@pytest.fixture(scope="module")
def t1():
    return shrunk(load_atlas("icbm152").t1, 2.5)


@pytest.fixture(scope="module")
def brain():
    mask = shrunk(load_atlas("icbm152").brain, 2.5, "mean")
    return replace(mask, data=mask.data >= 0.5)


def affine_map(angles=(0.15, -0.1, 0.2), scales=(1.1, 0.93, 1.05), shift=(12.0, -25.0, 18.0)):
    (a, b, c), matrix = angles, np.eye(4)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    matrix[:3, :3] = x @ y @ z * np.asarray(scales)
    matrix[:3, 3] = shift
    return matrix


def exact(matrix):
    return Transform(matrix)


def seen_through(moving, matrix, spacing=3.0, orientation=(1, 1, 1)):
    """The moving image of a known map, on a grid around the mapped brain."""
    corners = np.linalg.inv(matrix) @ np.array([[*moving.grid.to_world(np.array(moving.data.shape) / 2.0), 1.0]]).T
    affine = np.diag([*(spacing * np.asarray(orientation, float)), 1.0])
    shape = (90, 100, 84)
    affine[:3, 3] = corners[:3, 0] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    grid = Grid(shape, affine)
    return Volume(warp(moving, exact(matrix), grid), affine, name="patient")


def error(found, matrix, fixed):
    """Mean distance between the images of the fixed brain's points under two maps, mm."""
    points = fixed.grid.to_world(np.argwhere(fixed.data[::4, ::4, ::4] > 0.05) * 4.0)
    difference = found.matrix - matrix
    return np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1).mean()


@pytest.mark.parametrize("orientation", [(-1, -1, 1), (1, -1, 1)])
def test_recovers_an_affine_map_in_any_orientation(t1, orientation):
    matrix = affine_map()
    fixed = seen_through(t1, matrix, orientation=orientation)
    found = register(t1, fixed, resolution=3.0)
    assert found.measure == "correlation"
    assert found.before < 0.8
    assert found.after > 0.98
    assert not found.failure
    assert error(found, matrix, fixed) < 0.3


def test_recovers_a_rigid_map(t1):
    matrix = affine_map(scales=(1, 1, 1))
    fixed = seen_through(t1, matrix)
    found = register(t1, fixed, kind="rigid", resolution=4.0)
    np.testing.assert_allclose(np.linalg.svd(found.matrix[:3, :3])[1], 1, atol=1e-6)
    assert error(found, matrix, fixed) < 0.3


def test_recovers_from_a_wrong_voxel_size(t1):
    matrix = affine_map()
    fixed = seen_through(t1, matrix)
    lie = np.diag([1 / 1.4, 1 / 1.4, 1 / 1.4, 1.0])
    found = register(t1, replace(fixed, affine=lie @ fixed.affine), resolution=2.5)
    assert error(replace(found, matrix=found.matrix @ lie), matrix, fixed) < 0.6


def test_a_tumour_outside_the_mask_does_no_harm(t1):
    matrix = affine_map()
    fixed = seen_through(t1, matrix)
    distance = np.linalg.norm(np.indices(fixed.data.shape).T - np.array([54, 56, 45]), axis=-1).T
    tumour = distance < 10
    sick = replace(fixed, data=np.where(tumour, 2.0, fixed.data).astype(np.float32))
    masked = register(t1, sick, mask=~tumour, resolution=3.0)
    assert error(masked, matrix, fixed) < 0.3
    again = register(t1, sick, mask=~tumour, resolution=3.0)
    np.testing.assert_array_equal(again.matrix, masked.matrix)


@pytest.mark.parametrize("curve", [lambda x: 3 * x**2 + 5, lambda x: np.sqrt(x) / 40], ids=("square", "root"))
def test_intensities_of_another_scale_are_matched(curve):
    random = np.random.default_rng(0)
    target = random.uniform(20, 100, (24, 24, 24))
    background = random.uniform(size=target.shape) < 0.3
    image = np.where(background, 0, curve(target))
    # What lies outside the region, here another contrast, has no say, and follows the same curve.
    where = np.indices(target.shape)[0] < 16
    found = match_intensities(image, np.where(where, target, 1000 * target), where)
    np.testing.assert_array_equal(found[background], 0)
    np.testing.assert_allclose(found[~background], target[~background], rtol=0.03)
    # The order of intensities stays.
    order = np.argsort(image[~background])
    assert (np.diff(found[~background][order]) >= 0).all()


def test_masks(brain):
    matrix = affine_map(angles=(0.1, 0.0, 0.05))
    fixed = seen_through(brain, matrix)
    fixed = replace(fixed, data=fixed.data >= 0.5)
    found = register(brain, fixed, fixed_is_mask=True, resolution=3.0)
    assert found.measure == "Dice"
    assert found.after > 0.98
    assert error(found, matrix, fixed) < 0.6


def test_warp_follows_the_matrix(t1):
    shift = np.eye(4)
    shift[:3, 3] = 5.0
    grid = Grid(t1.data.shape, np.asarray(t1.affine) - np.array([[0, 0, 0, 5]] * 3 + [[0, 0, 0, 0]]))
    np.testing.assert_allclose(warp(t1, exact(shift), grid), t1.data, atol=1e-5)


def test_warns_where_brains_do_not_match(t1):
    # On its side: no affine map without a turn by a right angle, for which no optimiser looks, aligns it.
    turned = replace(t1, affine=np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]) @ t1.affine)
    with pytest.warns(RegistrationWarning, match="check orientation and contrast"):
        found = register(t1, turned, resolution=4.0)
    assert found.failure
    noise = np.random.default_rng(0).random((40, 44, 36)).astype(np.float32)
    with pytest.warns(RegistrationWarning, match="correlation is .* below 0.7"):
        register(t1, Volume(noise, np.diag([4.0, 4, 4, 1])), resolution=4.0)


def test_refuses(t1):
    with pytest.raises(ValueError, match="got 'elastic'"):
        register(t1, t1, kind="elastic")
    with pytest.raises(ValueError, match="got 'elastix'"):
        register(t1, t1, engine="elastix")
    with pytest.raises(ValueError, match="resolution is a voxel size in mm, got -1"):
        register(t1, t1, resolution=-1.0)
    with pytest.raises(ValueError, match=r"mask has shape \(3, 3, 3\)"):
        register(t1, t1, mask=np.ones((3, 3, 3), bool))
    with pytest.raises(ValueError, match="leaves nothing"):
        register(t1, t1, mask=np.zeros(t1.data.shape, bool))
    with pytest.raises(ValueError, match="shows nothing"):
        register(t1, replace(t1, data=0 * t1.data))
    with pytest.raises(ValueError, match=r"is 1 wherever it is not zero; give an image, or fixed_is_mask"):
        register(t1, replace(t1, data=(t1.data > 0).astype(np.float32)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        register(replace(t1, data=np.where(t1.data > 0.5, np.nan, t1.data)), t1)
    outside = t1.data <= 0
    with pytest.raises(ValueError, match=r"leaves nothing to compare \(\d% of the brain\)"):
        register(t1, t1, mask=outside)
    for matrix in (np.diag([1.0, 1, 0, 1]), np.full((4, 4), np.nan), np.eye(3)):
        with pytest.raises(ValueError, match="the matrix is"):
            Transform(matrix)


def test_brains_far_apart_are_brought_together(t1):
    far = np.eye(4)
    far[:3, 3] = [900.0, -700.0, 400.0]
    fixed = replace(t1, affine=far @ t1.affine)
    found = register(t1, fixed, resolution=4.0)
    assert found.before == pytest.approx(0, abs=0.05)
    assert error(found, np.linalg.inv(far), fixed) < 0.3


def test_detects_a_mirrored_image_of_one_person(data):
    t1 = shrunk(read_volume(data / "patient_mri" / "t1.nii.gz", name="T1"), 3.0)
    t1c = shrunk(read_volume(data / "patient_mri" / "t1c.nii.gz", name="T1c"), 3.0)
    assert not register(t1, t1c, resolution=3.0).failure
    mirrored = replace(t1, affine=np.diag([-1.0, 1, 1, 1]) @ t1.affine)
    with pytest.warns(RegistrationWarning, match="seems mirrored left-right"):
        assert register(mirrored, t1c, resolution=3.0).failure


def test_individual_brain_with_a_wrong_header(data):
    fixed = read_volume(data / "brains_nirep" / "brain01.nii.gz", name="brain")
    found = register(load_atlas("icbm152").t1, fixed)
    assert found.after > 0.94
    # The header says 1 mm, the brain is life-sized at about 1.4 mm, and ICBM is larger than most.
    scale = np.linalg.det(found.matrix[:3, :3]) ** (1 / 3)
    assert 1.4 < scale < 1.6
