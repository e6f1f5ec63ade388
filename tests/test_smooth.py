"""The fit without physics, with which the growth models are compared."""

import numpy as np
import pytest

from benchmarks.smooth import CORE, LESION, smooth_density
from tumorjax.planning import dice


def test_the_smooth_density_follows_both_outlines_and_goes_on_with_their_slope():
    places = np.indices((40, 40, 40)) - 19.5
    away = 2.0 * np.linalg.norm(places, axis=0)
    core, lesion, tissue = away < 16, away < 28, np.ones(away.shape, bool)
    tissue[:4] = False
    density = smooth_density(core.astype(float), lesion.astype(float), tissue, np.full(3, 2.0))
    assert dice(density >= CORE, core & tissue) > 0.99 and dice(density >= LESION, lesion & tissue) > 0.99
    assert np.all(density[:4] == 0)
    # Along an axis the log-odds fall steadily, by as much beyond the lesion as between core and lesion.
    row = density[20:, 20, 20]
    odds = np.log(row / (1 - row))
    assert np.all(np.diff(odds) < 0)
    between = (odds[9] - odds[13]) / 8
    assert (odds[15] - odds[19]) / 8 == pytest.approx(between, rel=0.1)
    assert between == pytest.approx((np.log(CORE / (1 - CORE)) - np.log(LESION / (1 - LESION))) / 12, rel=0.2)
