"""Times at which a simulation is divided for treatments and for saving the density."""

import math

import jax
import numpy as np
import pytest

from tumorjax.growth import Chemotherapy, Radiotherapy, Surgery
from tumorjax.integrate.timeline import phases, saved_days

NOWHERE = np.zeros((2, 2, 2))


def test_without_treatments_there_is_one_phase_of_one_interval():
    for duration in (0.0, 90.0):
        (phase,) = phases(duration, (), None)
        assert phase.surgeries == ()
        np.testing.assert_array_equal(phase.days, [0, duration])
        assert phase.fractions.shape == phase.drugs.shape == (1, 0)


def test_surgeries_separate_phases_and_the_rest_cuts_intervals():
    treatments = (
        Surgery(20, NOWHERE),
        Radiotherapy((30, 10, 30), 2.0, 0.1),
        Chemotherapy(25, 60, 0.1),
        Surgery(0, NOWHERE),
        Chemotherapy(30, 40, 0.1),
        Radiotherapy((20,), 2.0, 0.1),
        Surgery(20, NOWHERE),
    )
    first, second = phases(50.0, treatments, np.asarray([35.0, 50.0]))
    assert (first.surgeries, second.surgeries) == ((1,), (0, 2))
    np.testing.assert_array_equal(first.days, [0, 10, 20])
    np.testing.assert_array_equal(first.fractions, [[0, 0], [1, 0]])
    np.testing.assert_array_equal(first.drugs, [[0, 0], [0, 0]])
    np.testing.assert_array_equal(second.days, [20, 25, 30, 35, 40, 50])
    np.testing.assert_array_equal(second.fractions, [[0, 1], [0, 0], [2, 0], [0, 0], [0, 0]])
    # The first drug is still given on the last day.
    np.testing.assert_array_equal(second.drugs, [[0, 0], [1, 0], [1, 1], [1, 1], [1, 0]])


def test_days_that_differ_by_rounding_only_are_one():
    assert 3 * 0.1 != 0.3
    treatments = (
        Radiotherapy((0.3, 0.6), 2.0, 0.1),
        Surgery(3 * 0.1, NOWHERE),
        Chemotherapy(6 * 0.1, 0.9 - 1e-9, 0.1),
    )
    first, second = phases(0.9, treatments, saved_days(0.9, 0.1))
    np.testing.assert_array_equal(np.append(first.days[:-1], second.days), [0, *saved_days(0.9, 0.1)])
    assert second.surgeries == (0,)
    np.testing.assert_array_equal(second.fractions[:, 0], [1, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(second.drugs[:, 0], [0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize(
    "treatment",
    (Surgery(90.0, NOWHERE), Radiotherapy((10, 90 - 1e-7), 2.0, 0.1), Chemotherapy(95, 99, 0.1)),
    ids=lambda t: type(t).__name__,
)
def test_a_treatment_that_begins_on_the_last_day_or_later_is_refused(treatment):
    with pytest.raises(
        ValueError, match=r"a treatment takes place on day 9\d, but the simulation ends on day 90; move"
    ):
        phases(90.0, (treatment,), None)
    # The end of a traced duration is not known yet.
    jax.make_jaxpr(lambda duration: phases(duration, (treatment,), None)[0].days)(90.0)


def test_the_end_is_open_where_the_duration_is_traced():
    seen = []
    jax.make_jaxpr(lambda duration: seen.extend(phases(duration, (Chemotherapy(10, 40, 0.1),), None)))(90.0)
    np.testing.assert_array_equal(seen[0].days, [0, 10, 40, math.inf])
    np.testing.assert_array_equal(seen[0].drugs, [[0], [1], [0]])


@pytest.mark.parametrize(
    ("duration", "every", "expected"),
    ((90.0, 25.0, [25, 50, 75, 90]), (90.0, 30.0, [30, 60, 90]), (90.0, 200.0, [90]), (0.3, 0.1, [0.1, 0.2, 0.3])),
)
def test_saved_days_end_with_the_duration(duration, every, expected):
    np.testing.assert_allclose(saved_days(duration, every), expected, rtol=1e-15)
    assert saved_days(duration, every)[-1] == duration
    assert saved_days(duration, None) is None
