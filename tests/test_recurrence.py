"""Figures of a recurrence: PredictGBM's metric where the labels are those of BraTS."""

from types import SimpleNamespace

import numpy as np
import pytest

from tumorjax.io import Volume
from tumorjax.patient.recurrence import FollowUp, figures_of_recurrence
from tumorjax.planning import predictgbm_coverage

SHAPE = (41, 5, 5)
X = np.indices(SHAPE)[0]
CORE, LESION = np.abs(X - 12) <= 2, np.abs(X - 12) <= 5
RECURRENCE = np.select([np.abs(X - 28) <= 1, np.abs(X - 28) <= 4, np.abs(X - 28) <= 8], [4, 3, 2], 0)
DENSITY = np.exp(-np.abs(X - 16.3) / 9 - 0.01 * np.indices(SHAPE)[1]).astype(np.float32)


def patient(core, edema, mask=None):
    given = np.select([CORE, LESION], [core, edema], 0).astype(np.uint8)
    brain = np.ones(SHAPE, bool)
    images = {} if mask is None else {"brain mask": Volume(mask.astype(np.uint8), np.eye(4), name="brain mask")}
    reference = Volume(given, np.eye(4), name="segmentation")
    return SimpleNamespace(reference=reference, core=CORE, lesion=LESION, brain=brain, images=images)


def figures(patient, recurrence=RECURRENCE):
    standard = (np.abs(X - 12) <= 17) & patient.brain
    return figures_of_recurrence(FollowUp(recurrence > 0, recurrence), patient, DENSITY, None, standard)


@pytest.mark.parametrize(("core", "edema"), [(3, 2), (1, 2), (4, 2)])
def test_both_variants_whatever_the_convention_of_brats(core, edema):
    found = figures(patient(core, edema))
    expected = predictgbm_coverage(DENSITY, np.select([CORE, LESION], [3, 2], 0), RECURRENCE, np.ones(SHAPE))
    assert {name: found[f"predictgbm_{name}"] for name in expected._fields} == expected._asdict()
    assert len(set(expected)) > 2


@pytest.mark.parametrize(
    ("core", "edema", "recurrence"),
    [
        # Another convention, labels of BraTS to 2022 at follow-up, and labels that BraTS does not know.
        (1, 3, RECURRENCE),
        (2, 1, RECURRENCE),
        (4, 2, np.where(RECURRENCE == 3, 4, RECURRENCE)),
        (3, 2, np.where(RECURRENCE == 2, 7, RECURRENCE)),
    ],
)
def test_no_figures_of_other_labels(core, edema, recurrence):
    assert not any(name.startswith("predictgbm") for name in figures(patient(core, edema), recurrence))


def test_counts_in_the_mask_as_it_was_given():
    mask = X < 25
    found = figures(patient(3, 2, mask))
    expected = predictgbm_coverage(DENSITY, np.select([CORE, LESION], [3, 2], 0), RECURRENCE, mask)
    assert found["predictgbm_standard_all"] == expected.standard_all
    assert found["predictgbm_standard_all"] != figures(patient(3, 2))["predictgbm_standard_all"]
