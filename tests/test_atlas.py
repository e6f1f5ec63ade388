"""The packaged atlas, and atlases in folders."""

import socket

import nibabel as nib
import numpy as np
import pytest

from tumorjax.atlas import AtlasWarning, load_atlas
from tumorjax.io import InputError

SHAPE = (6, 7, 8)


@pytest.fixture
def folder(tmp_path):
    white = np.zeros(SHAPE, np.float32)
    white[2:4, 2:5, 2:6] = 0.7
    maps = {"t1": white * 100, "wm": white, "gm": white / 7, "csf": white / 7}
    for stem, data in maps.items():
        nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / f"{stem}.nii.gz")
    return tmp_path


def test_icbm152_needs_no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    atlas = load_atlas("icbm152")
    images = (atlas.t1, atlas.white_matter, atlas.grey_matter, atlas.csf, atlas.brain)
    assert {image.data.shape for image in images} == {(197, 233, 189)}
    assert all(np.array_equal(image.affine, atlas.t1.affine) for image in images)
    millilitres = [float(image.data.sum(dtype=float)) / 1000 for image in images[1:]]
    np.testing.assert_allclose(millilitres, [670, 1008, 220, 1887], atol=1)
    total = atlas.white_matter.data + atlas.grey_matter.data + atlas.csf.data
    assert total[atlas.brain.data > 0].min() >= 1 - 1e-5
    # All callers share one copy, which therefore must be read-only.
    assert load_atlas("icbm152") is atlas
    with pytest.raises(ValueError, match="read-only"):
        atlas.white_matter.data[0, 0, 0] = 1


def test_anatomy(folder):
    atlas = load_atlas(folder)
    own = atlas.anatomy()
    assert own.grid.shape == SHAPE and own.dtype == np.float32
    np.testing.assert_array_equal(own.white_matter, atlas.white_matter.data)
    coarse = atlas.anatomy(2.0)
    assert coarse.grid.shape == (3, 4, 4)
    np.testing.assert_allclose(coarse.grid.spacing, 2.0)
    # Means over blocks conserve the amount of tissue.
    np.testing.assert_allclose(coarse.grey_matter.sum() * 8, own.grey_matter.sum(), rtol=1e-5)
    np.testing.assert_allclose(coarse.csf[1], own.coarsen(2).csf[1], atol=1e-6)
    for wrong in (0.0, 0.4, np.nan):
        with pytest.raises(ValueError, match=r"must be 0\.5 or more"):
            atlas.anatomy(wrong)


def test_folder(folder):
    atlas = load_atlas(folder)
    assert atlas.name == str(folder)
    assert atlas.brain.data.sum() == 2 * 3 * 4
    assert atlas.t1.data.max() == pytest.approx(70)


def test_folder_refuses(folder):
    good = nib.load(folder / "gm.nii.gz").get_fdata()
    (folder / "gm.nii.gz").unlink()
    with pytest.raises(InputError, match=r"atlas gm .*gm.nii.gz: does not exist"):
        load_atlas(folder)
    nib.save(nib.Nifti1Image(good, np.diag([1, 1, 2, 1])), folder / "gm.nii.gz")
    with pytest.raises(InputError, match=r"atlas gm .*lies on other voxels"):
        load_atlas(folder)
    nib.save(nib.Nifti1Image(good * 255, np.eye(4)), folder / "gm.nii.gz")
    with pytest.raises(InputError, match=r"has values from 0 to 25.5; give probabilities"):
        load_atlas(folder)


def test_folder_with_labels(folder):
    """The labels define the voxels; the T1 image may have another orientation."""
    for stem in ("wm", "gm", "csf"):
        (folder / f"{stem}.nii.gz").unlink()
    labels = np.zeros(SHAPE, np.float32)
    labels[1:5, 1:6, 1:7] = np.arange(1, 4).repeat(2)
    nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / "tissue_labels.nii.gz")
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = SHAPE[0] - 1
    nib.save(nib.Nifti1Image((labels * 100)[::-1, ..., None], flipped), folder / "t1.nii.gz")
    atlas = load_atlas(folder)
    np.testing.assert_array_equal(atlas.t1.data, labels * 100)
    np.testing.assert_array_equal(atlas.t1.affine, np.eye(4))
    for label, image in enumerate((atlas.csf, atlas.grey_matter, atlas.white_matter), start=1):
        assert image.data.dtype == np.float32
        np.testing.assert_array_equal(image.data, labels == label)
    np.testing.assert_array_equal(atlas.brain.data, labels > 0)


def test_a_folder_of_scores_and_resaved_labels(folder):
    sound = load_atlas(folder)
    white = sound.white_matter.data
    values = np.where(white > 0, np.linspace(-2, 2, white.size).reshape(SHAPE), 0).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), folder / "t1.nii.gz")
    with pytest.warns(AtlasWarning, match="atlas t1 image has tissue below its background"):
        scores = load_atlas(folder)
    np.testing.assert_array_equal(scores.t1.data > 0, sound.t1.data > 0)
    for stem in ("wm", "gm", "csf"):
        (folder / f"{stem}.nii.gz").unlink()
    labels = np.zeros(SHAPE, np.float32)
    labels[1:5, 1:6, 1:7] = np.arange(1, 4).repeat(2) * 1.00001
    for stem in ("t1", "tissue_labels"):
        nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / f"{stem}.nii.gz")
    with pytest.warns(AtlasWarning, match="differ from whole numbers"):
        atlas = load_atlas(folder)
    np.testing.assert_array_equal(atlas.brain.data, labels > 0)


def test_folder_with_labels_refuses(folder):
    labels = np.zeros(SHAPE, np.float32)
    labels[1:5, 1:6, 1:7] = 1
    nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / "tissue_labels.nii.gz")
    with pytest.raises(InputError, match="has the labels 0, 1; give 0 outside, 1 fluid, 2 grey matter, 3 white"):
        load_atlas(folder)
    labels[1:5, 1:6, 1:7] = np.arange(1, 4).repeat(2)
    away = np.eye(4)
    away[0, 3] = 100
    nib.save(nib.Nifti1Image(labels, away), folder / "tissue_labels.nii.gz")
    with pytest.raises(InputError, match=r"tissue_labels.nii.gz: overlaps .*t1.nii.gz to 0%; give both in one world"):
        load_atlas(folder)


def test_a_t1_image_alone_is_segmented(folder):
    """The segmentation refuses an unsuitable image, whether it is a file or the only image of a folder."""
    for stem in ("wm", "gm", "csf"):
        (folder / f"{stem}.nii.gz").unlink()
    for name in (folder, folder / "t1.nii.gz"):
        with pytest.raises(InputError, match=r"atlas t1 .*t1.nii.gz: has one value wherever it shows anything"):
            load_atlas(name)


def test_unknown_name():
    with pytest.raises(InputError, match="atlas mni305: unknown; give icbm152, or a folder with t1, wm, gm and csf"):
        load_atlas("mni305")


def test_an_empty_name_is_not_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert load_atlas(".").name == "."
    with pytest.raises(InputError, match="atlas '': unknown; give icbm152"):
        load_atlas("")


def test_the_built_in_atlas_is_what_nilearn_returns():
    from nilearn import datasets

    atlas = load_atlas("icbm152")
    for name, load in (
        ("t1", datasets.load_mni152_template),
        ("grey_matter", datasets.load_mni152_gm_template),
        ("white_matter", datasets.load_mni152_wm_template),
    ):
        image, own = load(resolution=1), getattr(atlas, name)
        np.testing.assert_array_equal(own.data, image.get_fdata(dtype=np.float32))
        np.testing.assert_array_equal(own.affine, image.affine)
