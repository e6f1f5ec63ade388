"""Indirect inference: answers that a network corrects by what it says of their own tumours."""

import numpy as np
import pytest

from tumorjax.methods.from_atlas.indirect import corrected

PLACES = np.moveaxis(np.indices((24, 24, 24)), 0, -1)
TRUTH = {"mu1": 6.0, "x": 12.5, "threshold_core": 0.7, "threshold_lesion": 0.2}


def grow(said):
    """A ball around (x, 11, 11) whose density falls linearly to zero at mu1 voxels."""
    away = np.linalg.norm(PLACES - [said["x"], 11.0, 11.0], axis=-1)
    return np.clip(1 - away / said["mu1"], 0, 1)


def outlines(said):
    density = grow(said)
    return density > said["threshold_core"], density > said["threshold_lesion"]


def biased(core, lesion, thresholds=True):
    """What a network says that has learnt means: halfway between what the outlines show and what is usual.

    mu1 follows from the radii of core and lesion, r = mu1 (1 - u).
    """
    small, large = (np.cbrt(3 / (4 * np.pi) * mask.sum()) for mask in (core, lesion))
    mu1 = np.sqrt(8.0 * max(large / 0.8, 0.1))
    said = {"mu1": float(mu1), "x": float(0.5 * np.argwhere(lesion)[:, 0].mean() + 0.5 * 11.0)}
    if thresholds:
        said |= {"threshold_core": float(np.clip(1 - small / mu1, 0.5, 0.85)), "threshold_lesion": 0.2}
    return said


def test_a_bias_is_removed():
    core, lesion = outlines(TRUTH)
    first = biased(core, lesion)
    assert abs(first["mu1"] - 6) > 0.8 and abs(first["x"] - 12.5) > 0.6
    found, solves = corrected(biased, grow, core, lesion, 12)
    assert solves == 13
    assert found["mu1"] == pytest.approx(6, rel=0.05)
    assert found["x"] == pytest.approx(12.5, abs=0.2)


def test_without_corrections_the_answer_is_the_networks():
    core, lesion = outlines(TRUTH)
    assert corrected(biased, grow, core, lesion, 0) == (biased(core, lesion), 0)


def test_the_answer_with_the_best_outlines_is_kept():
    """A network that pushes away from the truth makes each correction worse than the first answer."""
    core, lesion = outlines(TRUTH)
    worse = iter([2.0, 1.0, 0.5])

    def say(core, lesion):
        return TRUTH | {"x": TRUTH["x"] if first else TRUTH["x"] - next(worse)}

    first = True
    start = say(core, lesion)
    first = False
    found, solves = corrected(say, grow, core, lesion, 3, first=start)
    assert solves == 4 and found == pytest.approx(TRUTH)


def test_outlines_have_the_volumes_of_the_patients_where_no_density_is_told():
    core, lesion = outlines(TRUTH)
    seen = []

    def say(core, lesion):
        seen.append((core.sum(), lesion.sum()))
        return {"mu1": 6.0, "x": 12.5}

    corrected(say, grow, core, lesion, 1)
    np.testing.assert_allclose(seen[1], seen[0], rtol=0.02)
    # Of a tumour that is three times as wide, the core would be outlined above the published densities.
    corrected(lambda core, lesion: say(core, lesion) | {"mu1": 18.0}, grow, core, lesion, 1)
    assert seen[3][0] > 1.5 * seen[2][0]


def test_corrections_stay_within_bounds():
    core, lesion = outlines(TRUTH)
    found, _ = corrected(biased, grow, core, lesion, 12, bounds={"mu1": (6.3, 9.0)})
    assert found["mu1"] >= 6.3 * (1 - 1e-9)


@pytest.mark.parametrize("solved", [True, False])
def test_where_nothing_grows_the_first_answer_stays(solved):
    core, lesion = outlines(TRUTH)
    first = TRUTH | {"mu1": 5.0}

    def say(core, lesion):
        raise ValueError("no tumour")

    nothing = np.zeros(core.shape)
    found, solves = corrected(say, (lambda said: nothing) if not solved else grow, core, lesion, 3, first=first)
    assert (found, solves) == (pytest.approx(first), 1)
