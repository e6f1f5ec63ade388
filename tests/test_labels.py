"""Label images: values close to whole numbers are labels, others are refused."""

import numpy as np
import pytest

from tumorjax.io import InputError, Volume, as_labels

LABELS = np.array([0, 1, 2, 4, 84])


def image(values, dtype=np.float32, name="segmentation"):
    return Volume(np.tile(np.asarray(values, dtype), (2, 3, 1)), np.eye(4), name=name)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.float32, np.float64])
def test_whole_numbers_are_labels(dtype):
    notes = []
    found = as_labels(image(LABELS, dtype), notes)
    assert found.data.dtype.kind in "iu"
    np.testing.assert_array_equal(found.data[0, 0], LABELS)
    assert not notes


def test_values_near_whole_numbers_are_rounded_with_a_note():
    notes = []
    found = as_labels(image(LABELS * 1.00001), notes)
    np.testing.assert_array_equal(found.data[0, 0], LABELS)
    (note,) = notes
    assert note == "The values of the segmentation differ from whole numbers by up to 0.0008; they are rounded."
    # Large labels need more than eight bits, and a value below zero by rounding alone is zero.
    np.testing.assert_array_equal(as_labels(image([-1e-5, 1000]), []).data[0, 0], [0, 1000])
    assert as_labels(image([False, True], bool), []).data.sum() == 6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 1, 1.5], r"tissue: has values such as 1.5 in 6 voxels that are no labels; give .* nearest neighbours"),
        ([0, 1, 1.002], r"has values such as 1.002 in 6 voxels"),
        ([0, 1, -1], "has values such as -1 that are no labels"),
        ([0, 1, np.nan], "has NaN or infinite values that are no labels"),
        ([0, 1, 1e9], r"has values such as 1e\+09 that are no labels"),
    ],
)
def test_other_values_are_refused(values, message):
    with pytest.raises(InputError, match=message) as caught:
        as_labels(image(values, name="tissue"), [])
    assert "\n" not in str(caught.value)
