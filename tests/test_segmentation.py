"""Tissue from a T1 image alone: accuracy in brains with known tissue, and refused input."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from tumorjax.atlas import AtlasWarning, load_atlas, segment_tissue, ventricle_mask
from tumorjax.atlas.ventricles import ventricles_in
from tumorjax.io import InputError, Volume, resample, write_volume
from tumorjax.patient.segmented import Segmentation
from tumorjax.registration import Transform, warp
from tumorjax.registration.inverse import fading, with_inverse

SPACING = 3.0


def coarse(volume, spacing=SPACING):
    grid = volume.grid.with_spacing(spacing)
    return Volume(resample(volume.data, volume.affine, grid), np.asarray(grid.affine), name=volume.name)


def maps(atlas):
    return np.stack([atlas.white_matter.data, atlas.grey_matter.data, atlas.csf.data])


def dice(found, known, where):
    """Dice of each tissue where it is the most probable one."""
    found, known = found.argmax(axis=0)[where], known.argmax(axis=0)[where]
    return [2 * np.sum((found == k) & (known == k)) / (np.sum(found == k) + np.sum(known == k)) for k in range(3)]


def shaded(volume):
    """The image with a bias field of up to 40 % in either direction, like that of coils."""
    x, y, z = (index / SPACING for index in np.indices(volume.data.shape) * SPACING / 60)
    return replace(volume, data=(volume.data * np.exp(0.25 * np.sin(x + y) + 0.15 * np.cos(z))).astype(np.float32))


@pytest.fixture(scope="module")
def icbm152():
    atlas = load_atlas("icbm152")
    known = np.stack([coarse(image).data for image in (atlas.white_matter, atlas.grey_matter, atlas.csf)])
    return coarse(atlas.t1), known


@pytest.fixture(scope="module")
def segmented(icbm152):
    return segment_tissue(icbm152[0])


def test_finds_the_tissue_of_icbm152(icbm152, segmented):
    t1, known = icbm152
    found, inside = maps(segmented), segmented.brain.data > 0
    assert found.dtype == np.float32
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(axis=0), inside, atol=1e-5)
    assert np.all(dice(found, known, inside & (known.sum(axis=0) > 0.5)) > np.array([0.9, 0.82, 0.5]))
    # Borders share their voxels between tissues.
    assert np.mean((found > 0.1) & (found < 0.9)) > 0.01
    # Fluid that no path joins to the outside is found too.
    ventricles = resample(ventricle_mask(load_atlas("icbm152")), load_atlas("icbm152").t1.affine, t1.grid, kind="mean")
    assert segmented.csf.data[ventricles > 0.9].mean() > 0.95


def test_scores_have_the_tissue_of_intensities(icbm152, segmented):
    t1, _ = icbm152
    inside = segmented.brain.data > 0
    tissue = t1.data[inside]
    scores = replace(t1, data=np.where(inside, (t1.data - tissue.mean()) / tissue.std(), 0).astype(np.float32))
    found = segment_tissue(scores)
    assert found.brain.data.sum() == pytest.approx(inside.sum(), rel=0.03)
    assert np.all(np.array(dice(maps(found), maps(segmented), inside)) > 0.93)


def test_bias_is_removed(icbm152, segmented):
    t1, _ = icbm152
    with_correction = maps(segment_tissue(shaded(t1)))
    without = maps(segment_tissue(shaded(t1), bias_field=False))
    plain, inside = maps(segmented), segmented.brain.data > 0
    kept, lost = (np.abs(each - plain)[:, inside].mean() for each in (with_correction, without))
    assert kept < 0.6 * lost


def test_coupling_removes_noise(icbm152, segmented):
    t1, known = icbm152
    noise = np.random.default_rng(0).normal(0, 0.1, t1.data.shape) * (t1.data > 0)
    noisy = replace(t1, data=np.clip(t1.data + noise, 0, None).astype(np.float32))
    inside = known.sum(axis=0) > 0.5
    coupled = dice(maps(segment_tissue(noisy, bias_field=False)), known, inside)
    single = dice(maps(segment_tissue(noisy, bias_field=False, coupling=0)), known, inside)
    assert coupled[0] > single[0] + 0.005
    assert coupled[1] > single[1] + 0.005


def test_a_wrong_voxel_size_is_repaired(tmp_path):
    t1 = coarse(load_atlas("icbm152").t1, 4.0)
    shrunken = replace(t1, affine=np.diag([0.65, 0.65, 0.65, 1]) @ t1.affine)
    write_volume(tmp_path / "brain.nii.gz", t1.data, shrunken)
    with pytest.warns(AtlasWarning, match=r"too small for voxels of \[2.6, 2.6, 2.6\] mm; its voxels are taken as"):
        atlas = load_atlas(tmp_path / "brain.nii.gz")
    assert atlas.name == str(tmp_path / "brain.nii.gz")
    # ICBM152 has 1887 ml; an adult 1450.
    np.testing.assert_allclose(np.asarray(atlas.t1.grid.spacing), 4 * (1450 / 1887) ** (1 / 3), rtol=0.02)
    assert atlas.csf.grid.voxel_volume == atlas.t1.grid.voxel_volume
    volume = atlas.brain.data.sum() * atlas.t1.grid.voxel_volume / 1000
    assert volume == pytest.approx(1450, rel=0.05)


def test_refuses_what_is_no_brain(icbm152):
    t1, _ = icbm152
    with pytest.raises(InputError, match="shows nothing above zero; give a T1"):
        segment_tissue(replace(t1, data=np.zeros_like(t1.data)))
    with pytest.raises(InputError, match="has one value wherever it shows anything; give a T1 image, not a mask"):
        segment_tissue(replace(t1, data=(t1.data > 0.2).astype(np.uint8)))
    head = replace(t1, affine=np.diag([1.2, 1.2, 1.2, 1]) @ t1.affine)
    with pytest.raises(InputError, match=r"ml, more than a brain's 2300; remove the skull"):
        segment_tissue(head)
    with pytest.raises(InputError, match=r"cannot be aligned with icbm152 .*without the skull"):
        segment_tissue(replace(t1, data=np.where(t1.data > 0.2, 1.2 - t1.data, 0).astype(np.float32)))
    with pytest.raises(ValueError, match="coupling is not negative, got -1"):
        segment_tissue(t1, coupling=-1)


def test_sri24_against_its_labels(data):
    """The labels lie 5 mm off the T1 image at the brain's surface, which bounds every Dice."""
    atlas = load_atlas(data / "atlas_sri24")
    t1, known = coarse(atlas.t1), np.stack([coarse(v).data for v in (atlas.white_matter, atlas.grey_matter, atlas.csf)])
    found = segment_tissue(t1)
    where = (found.brain.data > 0) & (known.sum(axis=0) > 0.5)
    assert np.all(dice(maps(found), known, where) > np.array([0.65, 0.55, 0.42]))


@pytest.fixture(scope="module")
def displaced():
    """A brain whose ventricles a tumour has pushed aside by a centimetre, as a T1 image; the tumour; and the truth."""
    atlas = load_atlas("icbm152")
    grid = atlas.t1.grid.with_spacing(SPACING)
    world = np.asarray(grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).astype(float)))
    away = world - np.array([-38.0, -20.0, 18.0])
    distance = np.linalg.norm(away, axis=-1)
    push = -away * (0.6 * np.exp(-((distance / 26) ** 2) / 2))[..., None]
    known = Transform(np.eye(4), field=with_inverse(fading(push), np.asarray(grid.affine)))
    tumour = distance < 20
    image = np.where(tumour, 0.3 * atlas.t1.data.max(), warp(atlas.t1, known, grid))
    ventricles = warp(replace(atlas.csf, data=ventricle_mask(atlas)), known, grid, kind="mean") >= 0.5
    t1 = Volume(image.astype(np.float32), np.asarray(grid.affine), name="T1")
    return t1, replace(t1, data=tumour), ventricles


def test_displaced_ventricles_are_found_without_a_deformation(displaced):
    t1, lesion, truth = displaced
    atlas, same, notes = load_atlas("icbm152"), Transform(np.eye(4)), []
    brain = replace(t1, data=t1.data > 0.1 * t1.data.max())
    *_, csf = Segmentation(t1, brain, lesion, SPACING).maps(atlas, same, notes)
    assert not notes
    mask = ventricle_mask(atlas)
    parts = mask, (atlas.csf.data >= 0.5) & ~mask
    core, rest = (warp(replace(atlas.csf, data=part), same, t1.grid, kind="mean") >= 0.5 for part in parts)
    found = ventricles_in(csf.data >= 0.5, core, rest, t1.grid)
    outside, inside = (
        np.asarray(ndimage.distance_transform_edt(part)) * SPACING for part in (~lesion.data, lesion.data)
    )

    def overlap(mask):
        # In the tumour and close to it nothing is known.
        known = outside > 6
        return 2 * (mask & truth & known).sum() / ((mask & known).sum() + (truth & known).sum())

    assert overlap(core) < 0.6
    assert overlap(found) > 0.78
    # In the tumour, whatever it looks like, the maps are those of the atlas.
    np.testing.assert_allclose(csf.data[inside > 6], warp(atlas.csf, same, t1.grid)[inside > 6], atol=1e-5)


def test_an_image_of_another_contrast_leaves_the_tissue_of_the_atlas_and_says_so(displaced):
    t1, lesion, _ = displaced
    brain = replace(t1, data=t1.data > 0.1 * t1.data.max())
    inverted = replace(t1, data=np.where(brain.data, 1.2 * t1.data.max() - t1.data, 0).astype(np.float32))
    notes = []
    atlas = load_atlas("icbm152")
    assert Segmentation(inverted, brain, lesion, SPACING).maps(atlas, Transform(np.eye(4)), notes) is None
    (note,) = notes
    assert note.startswith("The tissue of the patient is that of the atlas icbm152: ")
    assert "not a T1 image's order" in note
