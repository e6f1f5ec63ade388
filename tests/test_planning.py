"""Target volumes with known sizes."""

import numpy as np
import pytest

from tumorjax.io import read_volume
from tumorjax.planning import (
    coverage,
    credible_volume,
    dice,
    iso_volume_plan,
    millilitres,
    predictgbm_coverage,
    standard_plan,
)


def point(shape, index):
    mask = np.zeros(shape, bool)
    mask[index] = True
    return mask


def test_margin_is_a_ball_in_millimetres():
    tumour, brain = point((31, 41, 25), (15, 20, 12)), np.ones((31, 41, 25), bool)
    spacing = np.array([2.0, 1.0, 3.0])
    plan = standard_plan(tumour, brain, spacing, margin=12.0)
    offset = (np.indices(tumour.shape).T - np.array([15, 20, 12])) * spacing
    # Voxels at 12 mm exactly belong to the plan.
    np.testing.assert_array_equal(plan, ((offset**2).sum(-1) <= 144).T)


def test_margin_stays_in_the_brain_and_in_the_image():
    tumour, brain = point((10, 10, 10), (1, 5, 9)), np.zeros((10, 10, 10), bool)
    brain[:, :6] = True
    plan = standard_plan(tumour, brain, 1.0, margin=3.0)
    assert plan[1, 5, 9]
    assert not plan[:, 6:].any()
    assert standard_plan(tumour, brain, 1.0, margin=100.0).sum() == brain.sum()
    np.testing.assert_array_equal(standard_plan(tumour, brain, 1.0, margin=0.0), tumour)


def test_margin_refuses():
    mask = point((5, 5, 5), (2, 2, 2))
    with pytest.raises(ValueError, match="tumour is empty"):
        standard_plan(~np.ones((5, 5, 5), bool), mask, 1.0)
    with pytest.raises(ValueError, match="got -1"):
        standard_plan(mask, mask, 1.0, margin=-1.0)
    with pytest.raises(ValueError, match=r"tumour \(5, 5, 5\), brain \(4, 5, 5\)"):
        standard_plan(mask, mask[1:], 1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_iso_volume_takes_the_highest(dtype):
    density = np.random.default_rng(0).permutation(210).reshape(5, 6, 7).astype(dtype)
    brain = density % 2 == 0
    plan = iso_volume_plan(density, brain, 20)
    assert plan.sum() == 20
    assert set(density[plan]) == set(range(170, 210, 2))


def test_ties_go_to_the_nearer_voxel_then_to_the_last():
    density, brain = np.zeros((4, 4, 4)), np.ones((4, 4, 4), bool)
    density[3, 3, 3] = 0.5
    distance = np.indices(density.shape).sum(0)
    plan = iso_volume_plan(density, brain, 5, distance=distance)
    assert plan[3, 3, 3]
    assert plan.sum() == 5
    assert distance[plan].tolist() == [0, 1, 1, 1, 9]
    last = iso_volume_plan(density, brain, 3)
    assert np.flatnonzero(last).tolist() == [61, 62, 63]


def test_what_is_included_comes_first_and_the_size_stays():
    density = np.random.default_rng(0).permutation(210).reshape(5, 6, 7) / 210
    brain, tumour = density > 0.2, (density > 0.3) & (density < 0.35)
    plan = iso_volume_plan(density, brain, 40, include=tumour)
    assert plan.sum() == 40 and not (tumour & ~plan).any()
    # The rest are the highest, as before.
    np.testing.assert_array_equal(plan & ~tumour, iso_volume_plan(density, brain, 40 - int(tumour.sum())))
    assert (tumour & ~iso_volume_plan(density, brain, 40)).any()
    np.testing.assert_array_equal(iso_volume_plan(density, brain, int(tumour.sum()), include=tumour), tumour)
    with pytest.raises(ValueError, match="cannot include 10 voxels, 0 of them outside"):
        iso_volume_plan(density, brain, 5, include=tumour)
    with pytest.raises(ValueError, match="outside the brain"):
        iso_volume_plan(density, brain, 40, include=density < 0.1)


def test_iso_volume_refuses():
    density, brain = np.zeros((3, 3, 3)), point((3, 3, 3), (1, 1, 1))
    with pytest.raises(ValueError, match="plan of 2 voxels does not fit a brain of 1"):
        iso_volume_plan(density, brain, 2)
    with pytest.raises(ValueError, match="resample"):
        iso_volume_plan(density[1:], brain, 1)
    with pytest.raises(ValueError, match="resample"):
        iso_volume_plan(density, brain, 1, distance=np.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        iso_volume_plan(density + np.nan, brain, 1)
    assert not iso_volume_plan(density, brain, 0).any()


def balls(shape, radii):
    """The share of balls about the middle in which each voxel lies, and its distance from the middle."""
    distance = np.linalg.norm(np.indices(shape).T - (np.array(shape) - 1) / 2, axis=-1).T
    return np.mean([distance < radius for radius in radii], axis=0), distance


def test_credible_volumes_of_balls_are_balls():
    # Ten draws of a tumour: balls of these radii.
    radii = np.arange(1.0, 11.0)
    probability, distance = balls((25, 25, 25), radii)
    brain = np.ones(probability.shape, bool)
    brain[:4] = False
    for dtype in (np.float64, np.float32):
        # At 90 % what one draw alone reaches stays outside, and at 50 % what five reach.
        for level, radius in ((0.9, 9), (0.5, 5), (0.95, 10)):
            found = credible_volume(probability.astype(dtype), brain, level)
            np.testing.assert_array_equal(found, (distance < radius) & brain)


def test_credible_volumes_are_nested_and_have_a_size():
    probability, distance = balls((21, 21, 21), [3.0, 5.0, 8.0])
    brain = distance < 9
    volumes = [credible_volume(probability, brain, level) for level in (0.2, 0.5, 0.9)]
    assert [int(v.sum()) for v in volumes] == [int((distance < radius).sum()) for radius in (3, 5, 8)]
    assert not (volumes[0] & ~volumes[1]).any() and not (volumes[1] & ~volumes[2]).any()
    assert millilitres(volumes[0], 2.0) == pytest.approx(volumes[0].sum() * 8 / 1000)
    assert millilitres(volumes[0], (1.0, 2.0, 3.5)) == pytest.approx(volumes[0].sum() * 7 / 1000)


def test_credible_volume_refuses():
    probability, brain = np.full((3, 3, 3), 0.5), np.ones((3, 3, 3), bool)
    for level in (0.0, 1.0, 90.0, np.nan):
        with pytest.raises(ValueError, match="between 0 and 1, got"):
            credible_volume(probability, brain, level)
    with pytest.raises(ValueError, match="resample"):
        credible_volume(probability[1:], brain, 0.9)
    for bad in (1.5, -0.1, np.nan):
        probability[1, 1, 1] = bad
        with pytest.raises(ValueError, match="must lie between 0 and 1"):
            credible_volume(probability, brain, 0.9)
    assert credible_volume(probability, brain & False, 0.9).sum() == 0


def test_the_most_probable_plan_holds_most_of_the_tumour_on_average():
    rng = np.random.default_rng(0)
    draws = rng.random((7, 6, 6, 6)) < rng.random((6, 6, 6))
    brain = rng.random((6, 6, 6)) < 0.8
    probability, density = draws.mean(axis=0), rng.random((6, 6, 6))
    plan = iso_volume_plan(probability, brain, 60, distance=-density)
    held = lambda volume: (draws & volume).sum()  # noqa: E731
    for _ in range(20):
        other = np.zeros(brain.size, bool)
        other[rng.choice(np.flatnonzero(brain), 60, replace=False)] = True
        assert held(other.reshape(brain.shape)) < held(plan)
    # At the border of the plan all are as probable, and the denser ones are in.
    border = probability == probability[plan].min()
    assert (border & brain & ~plan).any()
    assert density[border & plan].min() > density[border & brain & ~plan].max()


def test_coverage_and_dice():
    a, b = np.zeros((2, 5, 1), bool), np.zeros((2, 5, 1), bool)
    a[0], b[0, 2:], b[1, 0] = True, True, True
    assert coverage(a, b) == 0.75
    assert dice(a, b) == pytest.approx(6 / 9)
    assert dice(a, a) == 1
    assert dice(a & ~a, a & ~a) == 1
    with pytest.raises(ValueError, match="recurrence is empty"):
        coverage(a, a & ~a)


def line(*values):
    """A row of voxels of 1 mm."""
    return np.array(values, float).reshape(-1, 1, 1)


def test_predictgbm_takes_labels_as_its_code_does():
    #                     oedema is no core, the core is at 3 and 4
    segmentation = line(0, 2, 2, 1, 3, 0, 0, 0, 0, 0)
    recurrence = line(0, 2, 1, 0, 0, 3, 3, 4, 4, 0)
    density = line(0.5, 0.4, 0.9, 1, 1, 0.8, 0.1, 0.1, 0.1, 0.1)
    brain = line(1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
    found = predictgbm_coverage(density, segmentation, recurrence, brain, margin=1.0)
    # The margin holds voxels 2 to 5; the model's plan is the same four. One of two voxels of label 3 is in.
    assert found == (0.5, 0.5, 0.5, 0.5)
    density = line(0.9, 0.8, 0.7, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)
    # The model has the first three voxels, and of equal ones the last.
    assert predictgbm_coverage(density, segmentation, recurrence, brain, margin=1.0) == (0.5, 0.5, 0.0, 0.5)
    # The cavity never counts, and no recurrence is covered.
    only_cavity = np.where(recurrence == 4, 4, 0)
    assert predictgbm_coverage(density, segmentation, only_cavity, brain, margin=1.0) == (1, 1, 1, 1)


def test_predictgbm_measures_the_margin_inclusively_in_the_filled_brain():
    segmentation, recurrence = np.zeros((41, 3, 3)), np.zeros((41, 3, 3))
    segmentation[20, 1, 1], recurrence[35, 1, 1], recurrence[36, 1, 1] = 3, 3, 3
    brain = np.ones((41, 3, 3))
    # A hole within, which the evaluation fills.
    brain[35, 1, 1] = 0
    found = predictgbm_coverage(np.zeros((41, 3, 3)), segmentation, recurrence, brain)
    assert (found.standard, found.standard_all) == (0.5, 0.5)


def test_predictgbm_goes_by_the_distance_where_the_density_ends():
    segmentation = line(0, 0, 0, 0, 0, 3, 0, 0, 0, 0)
    brain = line(*[1] * 10)
    # Five voxels; the density has two, so that the nearest to them follow: 0 to 4, and not the last of those without.
    density = line(0, 0, 0.3, 0.2, 0, 0, 0, 0, 0, 0)
    for where, inside in ((0, 1.0), (1, 1.0), (4, 1.0), (5, 1.0), (6, 0.0), (9, 0.0)):
        recurrence = np.zeros((10, 1, 1))
        recurrence[where] = 3
        found = predictgbm_coverage(density, segmentation, recurrence, brain, margin=2.0)
        # At one distance 1 and 4, at the next 0 and 5: of equal ones the later.
        assert found.model == (0.0 if where == 0 else inside), where
    # A density of zeros and ones is an outline: five voxels about the seventh, by distance.
    outline, recurrence = line(0, 0, 0, 0, 0, 0, 0, 1, 0, 0), line(0, 0, 0, 0, 0, 3, 3, 0, 3, 3)
    assert predictgbm_coverage(outline, segmentation, recurrence, brain, margin=2.0).model == 1
    # NaN counts as none, and where there is nothing at all the last voxels are taken.
    nothing = line(*[np.nan] * 10)
    assert predictgbm_coverage(nothing, segmentation, line(0, 0, 0, 0, 0, 3, 3, 3, 3, 3), brain, margin=2.0).model == 1


def test_predictgbm_refuses_other_labels():
    segmentation, brain = line(0, 1, 3), line(1, 1, 1)
    with pytest.raises(ValueError, match="segmentation has the label 4"):
        predictgbm_coverage(brain, line(0, 1, 4), segmentation, brain)
    with pytest.raises(ValueError, match="recurrence has the label 5"):
        predictgbm_coverage(brain, segmentation, line(5, 0, 0), brain)
    with pytest.raises(ValueError, match="tumour is empty"):
        predictgbm_coverage(brain, line(0, 2, 2), segmentation, brain)
    with pytest.raises(ValueError, match="differ in shape"):
        predictgbm_coverage(brain, segmentation, segmentation[:2], brain)


def test_clinical_plan_is_reproduced(data):
    folder = data / "patient_fet"
    names = ("segmentation", "brain_mask", "standard_plan", "recurrence")
    images = {name: read_volume(folder / f"{name}.nii.gz", name=name) for name in names}
    tumour = np.isin(images["segmentation"].data, (1, 4))
    plan = standard_plan(tumour, images["brain_mask"].data, images["segmentation"].grid.spacing)
    assert plan.sum() == 350794
    np.testing.assert_array_equal(plan, images["standard_plan"].data > 0)
    assert coverage(plan, images["recurrence"].data) == 1
