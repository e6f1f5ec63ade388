"""Ventricles, the choice of atlases by them, and random brains whose deformation is known."""

from dataclasses import replace

import numpy as np
import pytest

from tumorjax.atlas import (
    AtlasImages,
    AtlasWarning,
    atlas_family,
    choose_atlases,
    deformed_atlas,
    load_atlas,
    ventricle_mask,
    ventricle_volume,
)
from tumorjax.io import Volume, resample
from tumorjax.registration import jacobian_determinant, warp

PARTS = ("t1", "white_matter", "grey_matter", "csf", "brain")
SPACING = 3.0


def moved(atlas, matrix):
    """The atlas in another place of the world, or of another size."""
    images = {part: getattr(atlas, part) for part in PARTS}
    return replace(atlas, **{part: replace(image, affine=matrix @ image.affine) for part, image in images.items()})


def coarse(whole):
    """The atlas on voxels that cost less."""
    grid = whole.t1.grid.with_spacing(SPACING)

    def part(name):
        image = getattr(whole, name)
        data = resample(image.data, image.affine, grid)
        return Volume((data >= 0.5).astype(np.uint8) if name == "brain" else data, np.asarray(grid.affine), name=name)

    return AtlasImages("coarse", *map(part, PARTS))


@pytest.fixture(scope="module")
def atlas():
    return coarse(load_atlas("icbm152"))


@pytest.fixture(scope="module")
def member(atlas):
    return deformed_atlas(atlas, 3, magnitude=5, smoothness=16)


def test_ventricles_of_icbm152():
    whole = load_atlas("icbm152")
    mask = ventricle_mask(whole)
    assert ventricle_volume(whole) == pytest.approx(17.8, abs=0.1)
    # On either side of the symmetric average equally much, and none at the surface.
    world = whole.t1.grid.to_world(np.argwhere(mask).astype(float))
    np.testing.assert_allclose(world[:, 0].mean(), 0, atol=0.1)
    assert np.all(world.min(axis=0) > [-45, -70, -30])
    assert np.all(world.max(axis=0) < [45, 40, 40])
    # The cache keeps its own.
    mask[:] = False
    assert ventricle_volume(whole) > 17


def test_ventricles_scale_with_the_brain(atlas):
    matrix = np.diag([1.1, 1.05, 0.95, 1])
    matrix[:3, 3] = 12, -7, 20
    volume = ventricle_volume(atlas)
    # A coarse voxel at the wall is half fluid less often: ICBM152 has 17.8 ml at 1 mm.
    assert volume == pytest.approx(16.5, abs=1.5)
    assert ventricle_volume(moved(atlas, matrix)) == pytest.approx(volume * 1.1 * 1.05 * 0.95, rel=0.03)


def test_ventricles_follow_a_deformation(atlas, member):
    deformed, truth = member
    there = warp(replace(atlas.csf, data=ventricle_mask(atlas)), truth, deformed.t1.grid, kind="mean") >= 0.5
    found = ventricle_mask(deformed)
    assert 2 * (there & found).sum() / (there.sum() + found.sum()) > 0.85


def test_a_brain_without_ventricles_has_none(atlas):
    dry = replace(atlas, name="dry", csf=replace(atlas.csf, data=np.zeros_like(atlas.csf.data)))
    assert ventricle_volume(dry) == 0
    with pytest.raises(ValueError, match=r"atlas dry: has ventricles of 0.0 ml; check its fluid map"):
        choose_atlases(10, [dry], 1)


def test_choice_of_atlases(atlas):
    atlases = [replace(atlas, name=str(n)) for n in range(5)]
    volumes = [9.9, 14.9, 15.0, 10.0, 12.0]

    def chosen(count, patient=10.0):
        return [each.name for each in choose_atlases(patient, atlases, count, volumes=volumes)]

    assert chosen(3) == ["3", "4", "1"]
    # The smaller one is nearer than the one of 1.5 times the volume, which is excluded itself.
    with pytest.warns(
        AtlasWarning, match=r"3 of 5 atlases have ventricles from the patient's 10.0 ml .*9.9 to 15.0 ml"
    ):
        assert chosen(5) == ["3", "4", "1", "0", "2"]
    with pytest.warns(AtlasWarning, match="0 of 5"):
        assert chosen(1, patient=40.0) == ["2"]
    for bad in (0.0, np.nan):
        with pytest.raises(ValueError, match="positive volume"):
            chosen(1, patient=bad)
    with pytest.raises(ValueError, match="from 1 to the number of atlases, 5; got 6"):
        chosen(6)
    with pytest.raises(ValueError, match="got 1 volumes for 5 atlases"):
        choose_atlases(10, atlases, 1, volumes=[10.0])


def test_choice_measures_ventricles(atlas):
    large = replace(moved(atlas, np.diag([1.1, 1.1, 1.1, 1])), name="large")
    # They have 16.5 and 22 ml.
    assert choose_atlases(18, [atlas, large], 1) == [large]


def test_the_deformation_is_the_one_reported(atlas, member):
    deformed, truth = member
    for part in ("t1", "white_matter", "grey_matter", "csf"):
        image = getattr(deformed, part)
        assert image.data.dtype == np.float32
        np.testing.assert_array_equal(image.data, warp(getattr(atlas, part), truth, image.grid))
        np.testing.assert_array_equal(image.affine, atlas.t1.affine)
    # The root mean square of the displacement in the brain is what was asked for.
    points = atlas.t1.grid.to_world(np.argwhere(atlas.brain.data).astype(float))
    length = np.linalg.norm(truth.apply(points) - points, axis=-1)
    assert np.sqrt(np.mean(length**2)) == pytest.approx(5, rel=0.03)
    assert jacobian_determinant(truth, atlas.t1.grid).min() > 0.05
    back = np.linalg.norm(truth.inverse().apply(truth.apply(points)) - points, axis=-1)
    assert np.median(back) < 0.2
    assert truth.inverse_error[0] < 0.2
    # Nothing leaves the image.
    assert deformed.brain.data.sum() == pytest.approx(atlas.brain.data.sum(), rel=0.1)
    assert not deformed.brain.data[[0, -1]].any()


def test_local_volumes_change_as_promised(atlas, member):
    _, truth = member
    inside = jacobian_determinant(truth, atlas.t1.grid)[atlas.brain.data > 0]
    assert np.log(inside).std() == pytest.approx(5 / (np.sqrt(2) * 16), rel=0.35)


def test_families_are_reproducible(atlas):
    first = list(atlas_family(atlas, 1, 2, smoothness=20))
    again, same = deformed_atlas(atlas, (1, 1), smoothness=20)
    assert again.name == first[1][0].name == "coarse deformed by (1, 1)"
    np.testing.assert_array_equal(first[1][1].field.forward, same.field.forward)
    np.testing.assert_array_equal(first[1][0].csf.data, again.csf.data)
    displacement = [truth.field.forward for _, truth in first]
    assert abs(np.corrcoef(displacement[0].ravel(), displacement[1].ravel())[0, 1]) < 0.5
    assert list(atlas_family(atlas, 1, 0)) == []


def test_deformations_refuse(atlas):
    with pytest.raises(ValueError, match="magnitude is a positive length in mm, got 0"):
        deformed_atlas(atlas, 1, magnitude=0)
    with pytest.raises(ValueError, match="at least two voxels, 6 mm; got 4"):
        deformed_atlas(atlas, 1, smoothness=4)
    with pytest.raises(ValueError, match=r"folds \(least Jacobian .*; lower its magnitude"):
        deformed_atlas(atlas, 1, magnitude=40, smoothness=30)
    with pytest.raises(ValueError, match="count is not negative"):
        next(atlas_family(atlas, 1, -1))


def test_ventricles_of_sri24(data):
    assert ventricle_volume(coarse(load_atlas(data / "atlas_sri24"))) == pytest.approx(19.9, abs=2)
