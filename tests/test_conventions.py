"""Meaning of labels: conventions by name, recognised conventions, and requests for their names."""

import re

import numpy as np
import pytest

from tumorjax.io import InputError, Volume
from tumorjax.patient.conventions import PRESETS, meaning
from tumorjax.patient.labels import lesion_of, read_labels
from tumorjax.quality import Status, status_of

SHAPE = (40, 40, 40)
DISTANCE = np.linalg.norm(np.indices(SHAPE) - 19.5, axis=0)
NECROTIC, CORE, WHOLE = DISTANCE < 5, DISTANCE < 8, DISTANCE < 14


def segmentation(necrotic, enhancing, edema):
    """Necrosis within a rim that enhances, within oedema."""
    data = np.select([NECROTIC, CORE, WHOLE], [necrotic, enhancing, edema], 0)
    return Volume(data.astype(np.uint8), np.eye(4), name="segmentation")


def assert_lesion(found):
    np.testing.assert_array_equal(found.core, CORE)
    np.testing.assert_array_equal(found.lesion, WHOLE)


@pytest.mark.parametrize(
    ("labels", "image"),
    [
        ("brats2021", segmentation(1, 4, 2)),
        ("brats2023", segmentation(1, 3, 2)),
        ("brats2024", segmentation(1, 3, 2)),
        ("brats2013", segmentation(3, 4, 2)),
        ("decathlon", segmentation(2, 3, 1)),
        ("hd-glio", segmentation(2, 2, 1)),
        ("enhancing-first", segmentation(4, 1, 3)),
        ({"core": (7, 9), "edema": (8,)}, segmentation(7, 9, 8)),
    ],
)
def test_conventions_by_name_and_in_numbers(labels, image):
    notes = []
    found = lesion_of(image, labels, notes)
    assert_lesion(found)
    assert found.cavity is None
    assert not notes


@pytest.mark.parametrize(
    ("image", "convention"),
    [
        (segmentation(1, 4, 2), "brats2021"),
        (segmentation(1, 1, 2), "brats2021"),
        (segmentation(4, 4, 4), "brats2021"),
        (segmentation(1, 3, 2), "brats2023"),
        (segmentation(3, 3, 2), "brats2023"),
        (segmentation(3, 3, 3), "brats2023"),
    ],
)
def test_a_convention_of_brats_is_recognised(image, convention):
    notes = []
    found = lesion_of(image, None, notes)
    assert notes == [
        f"The labels are taken for those of {meaning(convention)}, which they fit; --labels names another."
    ]
    named = lesion_of(image, convention, [])
    np.testing.assert_array_equal(found.core, named.core)
    np.testing.assert_array_equal(found.lesion, named.lesion)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (segmentation(2, 2, 1), r"has the labels 1, 2, which look like those of HD-GLIO .*: give --labels hd-g"),
        (
            segmentation(2, 3, 1),
            r"has the labels 1, 2, 3, which look like .* Decathlon .* --labels core=2,3 edema=1, or",
        ),
        (
            segmentation(4, 1, 3),
            r"fit several .* --labels brats2024 for .* or enhancing-first for a convention with 1 enhancing",
        ),
        (segmentation(1, 1, 3), r"has the labels 1, 3, which fit several .* brats2023 for .* or enhancing-first for a"),
        (segmentation(5, 6, 7), r"has labels that fit no convention; present are 5 .*; give their meaning"),
        (segmentation(3, 2, 1), r"has the labels 1, 2, 3, which look like those of the Medical Segm"),
        (segmentation(1, 2, 3), r"has labels that fit no convention; present are 1 .*; give their meaning"),
        (segmentation(2, 2, 2), r"has no core label 1,4; present are 2 \(\d+ voxels\); give their meaning"),
    ],
)
def test_other_conventions_must_be_named(image, message):
    with pytest.raises(InputError, match=message) as caught:
        lesion_of(image, None, [])
    assert "\n" not in str(caught.value)


def with_cavity(core=1, other=0):
    """A core in oedema with a hole beside it, as after resection."""
    image = segmentation(core, core, 2)
    hole = np.linalg.norm(np.indices(SHAPE) - [[[[10.0]]], [[[19.5]]], [[[19.5]]]], axis=0) < 6
    image.data[hole] = 4
    if other:
        image.data[NECROTIC & ~hole] = other
    return image, hole


def test_a_cavity_is_no_core():
    image, hole = with_cavity()
    with pytest.raises(InputError, match=r"--labels brats2021 for .* 4 enhancing.* or brats2024 for .* 4 resection"):
        lesion_of(image, None, [])
    only, _ = with_cavity(core=2)
    with pytest.raises(InputError, match=r"--labels brats2021 for .* 4 enhancing.* or brats2024 for .* 4 resection"):
        lesion_of(only, None, [])
    # A rim of 3 about the necrosis can only be what enhances, and then 4 is something else.
    full = segmentation(1, 3, 2)
    full.data[hole] = 4
    notes = []
    np.testing.assert_array_equal(lesion_of(full, None, notes).cavity, hole)
    assert "4 resection cavity" in notes[0]
    without = segmentation(3, 3, 2)
    without.data[hole] = 4
    with pytest.raises(InputError, match=r"--labels brats2024 for .* or brats2013 for .* 4 enhancing"):
        lesion_of(without, None, [])
    for labels in ("brats2024", {"core": (1,), "edema": (2,), "cavity": (4,)}):
        notes = []
        found = lesion_of(image, labels, notes)
        np.testing.assert_array_equal(found.cavity, hole)
        assert not (found.lesion & hole).any()
        np.testing.assert_array_equal(found.core, CORE & ~hole)
        assert notes == [
            f"The resection cavity ({hole.sum() / 1000:.1f} ml) contains no cells and is treated as fluid."
        ]
    assert lesion_of(image, "brats2021", []).core[hole].all()


def test_exchanged_labels_make_the_result_doubtful():
    notes = []
    lesion_of(segmentation(2, 2, 1), {"core": (1,), "edema": (2,)}, notes)
    assert notes[0].startswith("The core surrounds the oedema (100% of the oedema's surface touches the core)")
    assert status_of(notes) is Status.DOUBTFUL


def test_many_labels_are_one_note():
    image = segmentation(1, 4, 2)
    # Far from the lesion.
    image.data[0, :3].flat[:84] = np.arange(100, 184)
    notes = []
    assert_lesion(lesion_of(image, {"core": (1, 4), "edema": (2,)}, notes))
    (note,) = notes
    assert note.startswith("Labels 100, 101,")
    assert "and 64 others of the segmentation (84 voxels) are neither core nor oedema" in note


def test_options_name_conventions():
    assert read_labels(["brats2024"]) == "brats2024"
    assert read_labels(["core=1,3", "edema=2", "cavity=4"]) == PRESETS["brats2024"]
    with pytest.raises(InputError, match="got the name 'necrosis'; known are core, edema, cavity"):
        read_labels(["core=1", "necrosis=2"])


def test_labels_left_out_within_the_lesion_are_doubtful():
    beside = np.linalg.norm(np.indices(SHAPE) - np.array([19.5, 19.5, 28])[:, None, None, None], axis=0) < 5
    image = segmentation(1, 1, 2)
    within, apart = image.data.copy(), image.data.copy()
    within[beside] = 4
    apart[~WHOLE] = 9
    both = np.where(within == 0, 9, within)
    few = image.data.copy()
    few[tuple(np.argwhere(few == 2)[0])] = 4
    mapped = {"core": (1,), "edema": (2,)}
    for data, status, words in (
        (within, Status.DOUBTFUL, "Label 4 .*; it lies in the lesion"),
        (both, Status.DOUBTFUL, "Labels 4, 9 .*; 4 lies in the lesion"),
        (few, Status.GOOD, r"Label 4 .* is left out\.$"),
        (apart, Status.GOOD, r"Label 9 .* is left out\.$"),
    ):
        notes = []
        lesion_of(Volume(data, np.eye(4), name="segmentation"), mapped, notes)
        assert status_of(notes) is status
        assert len(notes) == 1
        assert re.match(words, notes[0])
