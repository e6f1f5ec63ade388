"""What images show on one day."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from tumorjax.checks import check_finite
from tumorjax.observation import AbstractObservation


def named(form: str, what: str = "observations") -> Callable[[Any], dict[str, Any]]:
    """Return a converter that copies a mapping from names, and raises a ValueError that shows its form otherwise."""

    def copied(given: Any) -> dict[str, Any]:
        if not isinstance(given, Mapping):
            raise ValueError(f"{what} have names, as in {form}; got {type(given).__name__}")
        # Names of the prior's coordinates hold them between dots.
        if unfit := [name for name in given if not (isinstance(name, str) and name.isidentifier())]:
            raise ValueError(f"names of {what} are words such as core or t1_gd, got {unfit[0]!r}")
        # JAX has the values of a dictionary in this order too.
        return {name: given[name] for name in sorted(given)}

    return copied


OBSERVATIONS = named('{"core": Outline(...), "lesion": Outline(...)}')


def _day(day: Any) -> Any:
    """Return a day as an array, so that it is no part of a compiled program."""
    check_finite("day", day)
    return np.asarray(day, float) if isinstance(day, (int, float, np.integer, np.floating)) else day


class Visit(eqx.Module):
    """A day on which a patient was seen, and what images show of it.

    Parameters
    ----------
    day
        day, on a clock of the patient's that all visits and treatments share; it may begin anywhere.
    observations
        The images on the anatomy's grid, by name. Images of the same name on several days have the same unknowns, such
        as the threshold of an outline: give another name to one that has its own.

    Raises
    ------
    ValueError
        If the day is not a finite number, or there is no observation, or one without a name.
    """

    day: Float[Any, ""] = eqx.field(converter=_day)
    observations: dict[str, AbstractObservation] = eqx.field(converter=OBSERVATIONS)

    def __check_init__(self) -> None:
        if not self.observations:
            raise ValueError("a visit needs at least one observation")
