"""The packaged atlas, and atlases in folders."""

import socket

import nibabel as nib
import numpy as np
import pytest

from tumorjax.atlas import load_atlas
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
    # One copy serves everyone, so nobody may change it.
    assert load_atlas("icbm152") is atlas
    with pytest.raises(ValueError, match="read-only"):
        atlas.white_matter.data[0, 0, 0] = 1


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


def test_unknown_name():
    with pytest.raises(InputError, match="atlas mni305: unknown; give icbm152, or a folder with t1, wm, gm and csf"):
        load_atlas("mni305")
