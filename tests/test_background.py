"""T1 images of any normalisation give the same brain and the same alignment as the original image."""

from dataclasses import replace

import numpy as np
import pytest

from tumorjax.atlas import load_atlas
from tumorjax.io import InputError, Volume, above_background, fill_holes, resample
from tumorjax.patient.tissue import stripped_brain
from tumorjax.registration import register


@pytest.fixture(scope="module")
def t1():
    """The average brain, zero outside."""
    image = load_atlas("icbm152").t1
    grid = image.grid.with_spacing(4.0)
    data = resample(image.data, image.affine, grid)
    inside = fill_holes(data > 0.15 * data.max())
    return Volume(np.where(inside, data, 0).astype(np.float32), np.asarray(grid.affine), name="T1")


def inside_of(t1):
    return fill_holes(t1.data > 0)


def normalised(t1, how):
    """The image after normalisation by another program."""
    inside, data = inside_of(t1), t1.data
    tissue = data[inside]
    scores = (data - tissue.mean()) / tissue.std()
    field = np.zeros(data.shape, bool)
    field[:4] = True
    missing = None
    match how:
        case "z-scored in the mask":
            data = np.where(inside, scores, 0)
        case "z-scored with its background":
            data = (data - data.mean()) / data.std()
        case "minus one to one":
            data = np.where(inside, 2 * (data - tissue.min()) / np.ptp(tissue) - 1, -1)
        case "below its background":
            data = np.where(inside, data - 2 * tissue.max(), 0)
        case "NaN outside":
            data, missing = np.where(inside, data, 0), ~inside
        case "z-scored, NaN outside":
            data, missing = np.where(inside, scores, 0), ~inside
        case "z-scored, NaN beyond the field of view":
            data, missing = np.where(inside & ~field, scores, 0), field
    return replace(t1, data=data.astype(np.float32), missing=missing)


NORMALISATIONS = (
    "z-scored in the mask",
    "z-scored with its background",
    "minus one to one",
    "below its background",
    "NaN outside",
    "z-scored, NaN outside",
    "z-scored, NaN beyond the field of view",
)


def volume(image):
    brain = stripped_brain(image)
    assert brain is not None
    return float(brain.sum())


@pytest.mark.parametrize("how", NORMALISATIONS)
def test_the_brain_is_that_of_the_sound_image(t1, how):
    notes = []
    found = above_background(normalised(t1, how), notes)
    assert found.missing is None
    assert volume(found) == pytest.approx(volume(t1), rel=0.03)
    assert np.median(found.data[~inside_of(t1)]) == 0
    assert found.data[inside_of(t1)].min() >= 0
    # Nothing but brightness and darkest voxels has changed.
    inside = inside_of(t1) & (found.data > 0)
    assert np.corrcoef(found.data[inside], t1.data[inside])[0, 1] > 0.99
    assert bool(notes) == ((how.startswith("z-scored") and "with its" not in how) or how.startswith("below"))
    # Once is enough.
    again = above_background(found, notes)
    assert again is found


def test_a_sound_image_is_left_as_it_is(t1):
    rng = np.random.default_rng(0)
    # Interpolation leaves small negative values around a brain.
    ringing = np.where(inside_of(t1), t1.data, rng.normal(0, 1e-3, t1.data.shape)).astype(np.float32)
    few = t1.data.copy()
    few[::7, ::7, ::7][few[::7, ::7, ::7] == 0] = -0.05
    noise = np.abs(t1.data + rng.normal(0, 0.02, t1.data.shape)).astype(np.float32)
    for data in (t1.data, (t1.data * 200).astype(np.uint8), ringing, few, noise):
        image, notes = replace(t1, data=data), []
        assert above_background(image, notes) is image
        assert not notes


def test_noise_is_a_background_too(t1):
    noise = np.abs(t1.data + np.random.default_rng(0).normal(0, 0.02, t1.data.shape))
    scores = replace(t1, data=((noise - noise.mean()) / noise.std()).astype(np.float32))
    found = above_background(scores).data
    assert abs(np.median(found[~inside_of(t1)])) < 0.02 * found.max()
    assert (found[inside_of(t1)] > 0).mean() > 0.99


def test_refuses_what_shows_no_background(t1):
    inside = inside_of(t1)
    middle = tuple(slice(n // 2 - 6, n // 2 + 6) for n in t1.data.shape)
    tissue = normalised(t1, "z-scored in the mask").data[middle]
    with pytest.raises(
        InputError, match=r"no background of one value, so that the brain cannot be found; .* brain mask"
    ):
        above_background(replace(t1, data=tissue))
    told = above_background(replace(t1, data=tissue), inside=inside[middle])
    assert told.data[inside[middle]].min() > 0
    holes = np.zeros(inside.shape, bool)
    holes[middle] = True
    with pytest.raises(InputError, match=r"T1: has 1728 NaN or infinite voxels in its foreground"):
        above_background(replace(t1, data=np.where(holes, 0, t1.data), missing=holes))


def test_images_of_any_normalisation_are_aligned(t1):
    shift = np.eye(4)
    shift[:3, 3] = [8.0, -6, 5]
    fixed = replace(normalised(t1, "minus one to one"), affine=shift @ t1.affine)
    found = register(normalised(t1, "z-scored in the mask"), fixed, resolution=4.0)
    assert not found.failure
    assert found.after > 0.97
    np.testing.assert_allclose(found.matrix, np.linalg.inv(shift), atol=0.5)
