"""Alignments that were found once are found again in the cache, and only for the very same images."""

import warnings
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from tumorjax.atlas import load_atlas
from tumorjax.io import InputError, Volume, resample
from tumorjax.patient import alignment
from tumorjax.patient import segmented as segmentation
from tumorjax.patient.alignment import align_atlas
from tumorjax.patient.kept import Kind, kept
from tumorjax.patient.kept_alignment import kept_alignment
from tumorjax.registration import RegistrationWarning, Transform, register
from tumorjax.registration.transform import Field


def images(atlas, spacing):
    """Return T1 image and brain of an atlas on coarse voxels, and a lesion of no voxel."""
    grid = atlas.t1.grid.with_spacing(spacing)
    t1 = Volume(resample(atlas.t1.data, atlas.t1.affine, grid), np.asarray(grid.affine), name="T1")
    brain = replace(t1, data=resample(atlas.brain.data, atlas.brain.affine, grid))
    return t1, brain, replace(t1, data=np.zeros(grid.shape, bool))


@pytest.mark.parametrize("kind", (np.asarray, jnp.asarray))
def test_every_voxel_counts_for_what_is_kept(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("TUMORJAX_ALIGNMENTS", str(tmp_path))
    plain = Kind("number", 1, "", lambda number: ({"number": number}, {}), lambda header, arrays: header["number"])
    data = np.zeros((40, 40, 40), np.float32)

    def found(number, data):
        return kept(plain, lambda: number, Volume(kind(data), np.eye(4), name="T1"), "text")

    assert found(1, data) == found(2, data) == 1
    data[3, 20, 30] = 1
    assert found(3, data) == 3
    # The order in memory decides nothing but the order in which it is read.
    assert found(4, data.transpose(2, 1, 0)) == 4


def test_the_same_images_are_registered_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runs = []

    def undeformed(moving, fixed, *, mask, engine):
        runs.append(engine)
        affine = register(moving, fixed, mask=mask)
        return affine, replace(affine, failure="told")

    monkeypatch.setattr(alignment, "register_in_steps", undeformed)
    atlas = load_atlas("icbm152")
    t1, brain, lesion = images(atlas, 4.0)
    lesion.data[10:14, 20:24, 20:24] = True

    def aligned(**changed):
        notes = []
        given = {"t1": t1, "brain": brain, "lesion": lesion} | changed
        found = align_atlas(atlas, given["t1"], given["brain"], given["lesion"], False, notes)
        return found, notes

    first, notes = aligned()
    assert len(runs) == 1 and len(notes) == 1 and "told; its affine map is kept" in notes[0]
    again, others = aligned()
    assert len(runs) == 1 and others == notes
    for name in ("matrix", "measure", "after", "seconds", "inverse_error"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    # One voxel of another lesion is another registration.
    other = np.array(lesion.data)
    other[0, 0, 0] ^= True
    aligned(lesion=replace(lesion, data=other))
    assert len(runs) == 2
    # A file that is damaged is made anew.
    files = sorted((tmp_path / "tumorjax" / "alignments").iterdir())
    assert len(files) == 2
    for file in files:
        kept = bytearray(file.read_bytes())
        kept[-3] ^= 1
        file.write_bytes(kept)
    again, _ = aligned()
    assert len(runs) == 3
    np.testing.assert_array_equal(again.matrix, first.matrix)


def test_a_kept_deformation_is_the_one_that_was_found(tmp_path, monkeypatch):
    monkeypatch.setenv("TUMORJAX_ALIGNMENTS", str(tmp_path))
    random = np.random.default_rng(0)
    field = Field(np.diag([2.0, 2, 2, 1]), *(random.normal(size=(4, 5, 6, 3)) for _ in range(2)))
    found = Transform(np.eye(4), after=0.9, field=field, weakened=1.5)
    for number in range(25):
        kept_alignment(lambda: (found, ["a note"]), number)
    transform, notes = kept_alignment(lambda: pytest.fail("registers again"), 24)
    assert notes == ["a note"] and transform.weakened == 1.5 and np.isnan(transform.before)
    for name in ("affine", "forward", "backward"):
        np.testing.assert_array_equal(getattr(transform.field, name), getattr(found.field, name))
    assert len(list(tmp_path.iterdir())) == 20
    failed = replace(found, failure="too far")
    kept_alignment(lambda: (failed, []), "fails")
    assert kept_alignment(lambda: (found, []), "fails")[0] is found

    def doubtful():
        warnings.warn("a low correlation", RegistrationWarning, stacklevel=1)
        return found, []

    for _ in range(2):
        with pytest.warns(RegistrationWarning, match="low"):
            kept_alignment(doubtful, "doubtful")


def test_the_same_images_are_segmented_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TUMORJAX_ALIGNMENTS", str(tmp_path))
    atlas = load_atlas("icbm152")
    t1, brain, lesion = images(atlas, 8.0)
    lesion.data[5:8, 10:13, 10:13] = True
    runs = []

    def maps(image, inside, *_, **__):
        runs.append(1)
        if len(runs) == 3:
            raise InputError("tissues cannot be told apart")
        return np.stack([share * inside for share in (0.5, 0.25, 0.25)]).astype(np.float32)

    monkeypatch.setattr(segmentation, "tissue_maps", maps)

    def found(shift, notes):
        to_atlas = np.eye(4) + shift * np.eye(4, k=3)
        return segmentation.Segmentation(t1, brain, lesion, 8.0).maps(atlas, Transform(to_atlas), notes)

    notes = []
    first, again = found(0.0, notes), found(0.0, notes)
    assert len(runs) == 1 and not notes
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.data, other.data)
        assert (one.name, one.data.dtype) == (other.name, other.data.dtype)
    # Another map to the atlas is another segmentation; what failed is tried again, and says why each time.
    found(1.0, notes)
    assert len(runs) == 2 and found(2.0, notes) is None and len(notes) == 1
    found(2.0, notes)
    assert len(runs) == 4
    assert len(list((tmp_path / "tissue").iterdir())) == 3


def test_a_bias_that_is_sought_while_images_are_registered_is_the_same(monkeypatch):
    monkeypatch.setenv("TUMORJAX_ALIGNMENTS", "")
    atlas, begun, seen = load_atlas("icbm152"), [], []
    t1, brain, lesion = images(atlas, 4.0)
    corrected = segmentation.without_bias
    monkeypatch.setattr(segmentation, "without_bias", lambda *given: seen.append(1) or corrected(*given))

    def maps():
        return segmented.maps(atlas, Transform(np.eye(4)), [])

    segmented = segmentation.Segmentation(t1, brain, lesion, 4.0)
    expected = maps()
    align_atlas(atlas, None, brain, lesion, False, [], meanwhile=lambda: begun.append(segmented.begin()))
    assert begun
    for one, other in zip(maps(), expected, strict=True):
        np.testing.assert_array_equal(one.data, other.data)
    assert seen == [1]


def test_nothing_is_kept_where_the_folder_has_no_name(monkeypatch, tmp_path):
    monkeypatch.setenv("TUMORJAX_ALIGNMENTS", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = Transform(np.eye(4)), []
    assert kept_alignment(lambda: found, 1) is found
    assert not any(tmp_path.iterdir())
