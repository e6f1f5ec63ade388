"""When a simulation is cut: for treatments, and for the days on which the density is kept."""

import math
from typing import Any

import equinox as eqx
import numpy as np
from jax.core import Tracer

from tumorjax.checks import check_real
from tumorjax.growth import Chemotherapy, Radiotherapy, Surgery, Treatment

_SAME_DAY = 1e-6
"""Share of a simulation below which two days are one: single precision cannot separate them."""


class Phase(eqx.Module):
    """The time between two surgeries, cut into intervals.

    Parameters
    ----------
    surgeries
        Static: positions among the surgeries of those that are done at its beginning.
    days
        (n + 1,), day: ends of its n intervals. The very last is the end of the simulation, whatever stands there.
    fractions
        (n, r): of each radiotherapy, how many fractions at the beginning of an interval.
    drugs
        (n, m): of each chemotherapy, one during the intervals in which it is given.
    """

    surgeries: tuple[int, ...] = eqx.field(static=True)
    days: np.ndarray
    fractions: np.ndarray
    drugs: np.ndarray


def saved_days(duration: Any, save_every: float | None) -> np.ndarray | None:
    """Return the days after day zero on which the density is kept, the last of which is the end; or None.

    Raises
    ------
    ValueError
        If `save_every` is not positive, or the duration is zero or traced.
    """
    if save_every is None:
        return None
    if isinstance(duration, Tracer):
        raise ValueError("save_every needs a concrete duration, got a traced one; close over it, or save nothing")
    check_real("save_every", save_every)
    if not 0 < save_every < math.inf:
        raise ValueError(f"save_every must be positive (days), got {save_every}")
    end = float(duration)
    if not end > 0:
        raise ValueError(f"save_every needs a duration above zero, got {end:g} days")
    count = math.ceil(end / save_every - 1e-6)
    return np.append(save_every * np.arange(1, count), end)


def phases(duration: Any, treatments: tuple[Treatment, ...], saved: np.ndarray | None) -> list[Phase]:
    """Return the phases of a simulation. Days that differ by rounding alone are one.

    Raises
    ------
    ValueError
        If a treatment begins on the last day or later.
    """
    end = math.inf if isinstance(duration, Tracer) else float(duration)
    begins = [day for treatment in treatments for day in treatment.begins]
    days = [0.0, end, *([] if saved is None else saved.tolist())]
    resolution = _SAME_DAY * max(day for day in (*days, *begins) if day < math.inf)

    def snapped(day: float) -> float:
        """Return the day itself, or the one known already from which it differs by rounding alone."""
        nearest = min(days, key=lambda known: abs(known - day))
        if abs(nearest - day) > resolution:
            days.append(day)
            nearest = day
        return nearest

    if begins and snapped(max(begins)) >= end:
        raise ValueError(
            f"a treatment takes place on day {max(begins):g}, but the simulation ends on day {end:g}; "
            "move it or lengthen the duration"
        )
    surgeries = [snapped(t.day) for t in treatments if isinstance(t, Surgery)]
    radiation = [[snapped(day) for day in t.days] for t in treatments if isinstance(t, Radiotherapy)]
    drugs = [(snapped(t.start), snapped(min(t.stop, end))) for t in treatments if isinstance(t, Chemotherapy)]
    cuts, starts = np.unique(days), np.unique([0.0, *surgeries])
    result = []
    for start, stop in zip(starts, [*starts[1:], end], strict=True):
        begin = cuts[(cuts >= start) & (cuts < stop)] if stop > 0 else np.zeros(1)
        result.append(
            Phase(
                tuple(i for i, day in enumerate(surgeries) if day == start),
                np.append(begin, stop),
                np.array([[fractions.count(day) for fractions in radiation] for day in begin], float),
                np.array([[first <= day < last for first, last in drugs] for day in begin], float),
            )
        )
    return result


def kept_days(timeline: list[Phase], saved: np.ndarray) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return the days before the end on which the density is kept, and the positions of all of them.

    Positions count the initial state and then the ends of all intervals.
    """
    days = np.concatenate([[0.0], *(phase.days[1:] for phase in timeline)])
    positions = np.flatnonzero(np.isin(days, [0.0, *saved]))
    return tuple(days[positions[:-1]].tolist()), tuple(positions.tolist())
