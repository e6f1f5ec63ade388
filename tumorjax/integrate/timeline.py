"""When a simulation is cut: for treatments, and for the days on which the density is kept."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

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
    days: Float[Any, "n"]
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


class Kept(eqx.Module):
    """The days on which the density is kept.

    Parameters
    ----------
    days
        (n - 1,), day: those before the end.
    positions
        Static: positions of all n, the end among them, where the initial state and then the ends of all intervals are
        counted.
    """

    days: Float[Any, "n"]
    positions: tuple[int, ...] = eqx.field(static=True)


def kept_days(timeline: list[Phase], saved: np.ndarray) -> Kept:
    """Return the days on which the density is kept: that of the seed, and those that are saved."""
    days = _ends(timeline)
    positions = np.flatnonzero(np.isin(days, [0.0, *saved]))
    return Kept(days[positions[:-1]], tuple(positions.tolist()))


class Calendar(eqx.Module):
    """When a patient was seen and treated: an order, which is static, of days, which are not compiled in.

    Days are those of the patient's own clock, which may begin anywhere. The seed is not on it: its age at the first
    visit is a parameter of the growth. `Calendar.of` makes one.

    Parameters
    ----------
    visits
        (n,), day: of the visits.
    treated
        day: of the first treatment; infinite without any.
    phases
        The time between surgeries, from the seed to the last visit. The very first day is that of the seed, whatever
        stands there.
    positions
        Static: positions of the visits, as of `Kept`.
    treatments
        For each treatment its days, (k,): of surgery or of the fractions, or those on which a drug starts and stops.
    """

    visits: Float[np.ndarray, "n"]
    treated: Float[np.ndarray, ""]
    phases: tuple[Phase, ...]
    treatments: tuple[Float[np.ndarray, "k"], ...]
    positions: tuple[int, ...] = eqx.field(static=True)

    @classmethod
    def of(cls, visits: Sequence[float], treatments: Sequence[Treatment] = ()) -> "Calendar":
        """Return the calendar of visits and treatments, all on one clock. What is seen comes before what is done.

        Raises
        ------
        ValueError
            If there is no visit, days are not finite or not in order, two visits are on one day, or a treatment begins
            on the day of the last visit or later.
        """
        days = np.asarray([float(day) for day in visits])
        if not days.size or not np.isfinite(days).all():
            raise ValueError(f"visits need days that are finite numbers, got {days.tolist()}")
        if wrong := [pair for pair in itertools.pairwise(days) if not pair[0] < pair[1]]:
            (before, after) = wrong[0]
            got = f"two on day {after:g}" if before == after else f"day {after:g} after day {before:g}"
            raise ValueError(f"visits are given in the order of their days, each on a day of its own; got {got}")
        begins = [day for treatment in treatments for day in treatment.begins]
        if begins and max(begins) >= days[-1]:
            raise ValueError(
                f"a treatment takes place on day {max(begins):g}, but the last visit is on day {days[-1]:g} and shows "
                "nothing of it; leave the treatment out"
            )
        # On a clock on which something happens on the first day after that of the seed.
        shift = 1 - min([*days, *begins])
        saved = days + shift
        timeline = phases(saved[-1], tuple(treatment.delayed(shift) for treatment in treatments), saved)
        ends = _ends(timeline)
        # Days that differ by rounding alone are one.
        positions = [int(np.argmin(np.abs(ends - day))) for day in saved]
        moved = [Phase(each.surgeries, each.days - shift, each.fractions, each.drugs) for each in timeline]
        given = tuple(np.asarray(treatment.when) for treatment in treatments)
        return cls(days, np.asarray(min(begins, default=math.inf)), tuple(moved), given, tuple(positions))

    @property
    def span(self) -> Float[Any, ""]:
        """Time from the first visit to the last, day."""
        return self.visits[-1] - self.visits[0]

    def since_seed(self, age: Float[Array, ""]) -> list[Phase]:
        """Return the phases in days since the seed, whose age at the first visit may be traced."""
        begin = jnp.asarray(self.visits[0], age.dtype) - age
        moved = []
        for number, phase in enumerate(self.phases):
            days = jnp.maximum(jnp.asarray(phase.days, age.dtype) - begin, 0)
            days = days.at[0].set(0) if number == 0 else days
            moved.append(Phase(phase.surgeries, days, phase.fractions, phase.drugs))
        return moved

    def kept(self, age: Float[Array, ""]) -> Kept:
        """Return the days of the visits, in days since the seed."""
        before = jnp.asarray(self.visits[:-1] - self.visits[0], age.dtype)
        return Kept(age + before, self.positions)

    def possible(self, age: Float[Array, ""]) -> Bool[Array, ""]:
        """Return whether no treatment comes before the seed."""
        return age >= jnp.asarray(self.visits[0] - self.treated, age.dtype)


def _ends(timeline: Sequence[Phase]) -> np.ndarray:
    """Return the day of the seed, and the ends of all intervals."""
    return np.concatenate([[0.0], *(phase.days[1:] for phase in timeline)])
