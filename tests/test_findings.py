"""Masks that are wrong at the door: each fault is found by itself, and sound masks have none."""

from dataclasses import replace

import numpy as np
import pytest

from tumorjax.io import Volume, read_volume
from tumorjax.patient.findings import findings_of
from tumorjax.quality import Status

SPACING = 3.0
SHAPE = (64, 72, 60)
X, Y, Z = (SPACING * (index - (n - 1) / 2) for index, n in zip(np.indices(SHAPE), SHAPE, strict=True))
REFERENCE = Volume(np.zeros(SHAPE, np.uint8), np.diag([SPACING] * 3 + [1.0]), name="segmentation")


def ball(radius, x=0.0, y=0.0, z=0.0):
    return (X - x) ** 2 + (Y - y) ** 2 + (Z - z) ** 2 <= radius**2


BRAIN, LESION = ball(66), ball(18, x=30)
# White matter of 1, grey matter of 0.7 at the surface, and noise.
T1 = np.where(BRAIN, np.where(ball(60), 1.0, 0.7), 0) * np.random.default_rng(0).normal(1, 0.05, SHAPE)
SKULL = ball(76) & ~BRAIN

FAULTS = {
    "Holes in the brain around the tumour": (LESION, BRAIN & ~ball(6, x=3), ball(6, x=3)),
    "Lesion outside the brain": (ball(18, x=52), BRAIN & ~ball(14, x=60), None),
    "Pieces apart from the brain": (LESION, BRAIN | ball(11, y=90), ball(11, y=90)),
    "Voxels without a label inside the lesion": (LESION & ~ball(7, x=30), BRAIN, ball(7, x=30)),
    "Skull left in": (LESION, BRAIN | SKULL, None),
}


def test_sound_masks_have_no_fault():
    assert findings_of(REFERENCE, LESION, BRAIN, "brain mask", T1) == []
    assert findings_of(REFERENCE, LESION, BRAIN, "brain mask") == []
    assert findings_of(REFERENCE, LESION, None, "") == []


@pytest.mark.parametrize("title", FAULTS)
def test_each_fault_by_itself(title):
    lesion, brain, where = FAULTS[title]
    t1 = np.where(brain & ~BRAIN, 1.8, T1) if title == "Skull left in" else None
    (finding,) = findings_of(REFERENCE, lesion, brain, "brain mask", t1)
    assert finding.title == title
    assert finding.note.status is Status.DOUBTFUL
    assert "\n" not in finding.note and finding.note.endswith(".")
    assert finding.mask.any() and finding.mask.shape == SHAPE
    if where is not None:
        np.testing.assert_array_equal(finding.mask, where)


def test_a_brain_of_more_than_two_litres_is_none():
    large = replace(REFERENCE, affine=np.diag([4.0, 4.0, 4.0, 1.0]))
    (finding,) = findings_of(large, LESION, BRAIN, "T1 image")
    assert finding.title == "Skull left in"
    assert finding.note.startswith("The brain in the T1 image has 28")


def test_what_does_not_matter_is_no_fault():
    # Far from the lesion, few voxels, and a lesion that just touches the border of the mask.
    assert findings_of(REFERENCE, LESION, BRAIN & ~ball(6, x=-40), "brain mask") == []
    assert findings_of(REFERENCE, LESION, BRAIN & ~ball(1, x=3), "brain mask") == []
    (finding,) = findings_of(REFERENCE, LESION, BRAIN & ~ball(3, x=44), "brain mask")
    assert finding.note.status is Status.GOOD and "they are added to it." in finding.note


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("patient_fet", ("segmentation", "brain_mask", None)),
        ("patient_mri", ("segmentation", None, "t1")),
        ("patient_large", ("segmentation", None, "t1")),
    ],
)
def test_the_masks_of_real_patients_are_sound(data, folder, names):
    images = [None if name is None else read_volume(data / folder / f"{name}.nii.gz", name=name) for name in names]
    segmentation, mask, t1 = images
    values = None if t1 is None else np.clip(t1.data, 0, None)
    brain = mask.data > 0.5 if mask is not None else values > 0
    found = findings_of(segmentation, segmentation.data > 0, brain, "brain", values)
    assert [str(each.note) for each in found if each.note.status is not Status.GOOD] == []
