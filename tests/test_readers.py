"""Outlines as readers draw them."""

import numpy as np
import pytest

from tumorjax.networks.readers import CORE, LESION, outlined

SPACING = 2.0


def ball(radius=24.0, width=4.0, size=48):
    places = SPACING * (np.moveaxis(np.indices((size,) * 3), 0, -1) - (size - 1) / 2)
    distance = np.linalg.norm(places, axis=-1)
    return np.rint(255 / (1 + np.exp((distance - radius) / width))).astype(np.uint8), distance


def test_thresholds_are_those_of_the_outlines():
    density, _ = ball()
    found = outlined(density, np.random.default_rng(0))
    assert CORE[0] <= found.threshold_core <= CORE[1]
    assert LESION[0] <= found.threshold_lesion <= LESION[1]
    np.testing.assert_array_equal(found.core, density > 255 * found.threshold_core)
    np.testing.assert_array_equal(found.lesion, density > 255 * found.threshold_lesion)
    # A tumour without such densities has its own.
    faint = outlined((0.2 * density).astype(np.uint8), 3)
    assert faint.core.any() and faint.threshold_core < 0.2


@pytest.mark.parametrize("number", (False, True))
def test_errors_displace_outlines_by_as_much_as_is_asked_for(number):
    density, distance = ball()
    moved = []
    for row in range(40):
        draw = row if number else np.random.default_rng(row)
        found = outlined(density, draw, SPACING, 3.0)
        assert not (found.core & ~found.lesion).any()
        # Where the outline would be without errors, and where it is: the mean over a border of how far it lies outside.
        radius = 24 - 4 * np.log(found.threshold_lesion / (1 - found.threshold_lesion))
        near = np.abs(distance - radius) < 6
        outside = (found.lesion & (distance > radius) & near).sum() + (~found.lesion & (distance < radius) & near).sum()
        moved.append(outside * SPACING**3 / (4 * np.pi * radius**2))
    # A normal displacement of deviation s has the mean size s sqrt(2 / pi); deviations are uniform up to 3 mm, or 1.5.
    assert np.mean(moved) == pytest.approx(1.5 * np.sqrt(2 / np.pi), rel=0.15)


def test_without_errors_the_border_is_exact_and_nothing_is_drawn():
    density, _ = ball()
    random = np.random.default_rng(5)
    outlined(density, random)
    assert random.uniform() == np.random.default_rng(5).uniform(size=3)[2]
