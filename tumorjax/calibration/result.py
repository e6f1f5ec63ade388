"""How a calibration ended."""

import enum
from collections.abc import Sequence

from tumorjax.quality import Note, Status


class CalibrationResult(enum.Enum):
    """Why a calibration stopped; the value says it in words."""

    GRADIENT = "converged: the gradient is small"
    VALUE = "converged: the objective no longer improves"
    BUDGET = "stopped: the budget of gradient evaluations is used up"
    LINE_SEARCH = "stopped: no step along the search direction improves the objective"
    NOT_FINITE = "failed: the objective is not finite where the search begins"
    COMPLETE = "complete: all of the work was done"


# A search whose last two steps gain less than this share of its whole gain, or than this many nat, is near its end.
_LATE, _LITTLE = 0.1, 1.0


def notes_on_search(result: CalibrationResult, searches: Sequence[Sequence[float]] = ()) -> list[str]:
    """Return a note where a search ended before it converged.

    Parameters
    ----------
    result
        How the search ended.
    searches
        Objective after each step of searches that usually end with their budget: the result is doubtful only where
        their last steps still gained much.
    """
    if result not in (CalibrationResult.BUDGET, CalibrationResult.LINE_SEARCH):
        return []
    words = result.value.partition(": ")[2]
    if searches and not any(_gains_late(history) for history in searches):
        return [f"The search ended where its last steps gained little: {words}."]
    return [Note(f"The search did not converge: {words}. Better parameters may exist.", Status.DOUBTFUL)]


def _gains_late(history: Sequence[float]) -> bool:
    """Return whether the last two steps of a search made a good part of its gain."""
    return len(history) < 3 or history[-3] - history[-1] > max(_LITTLE, _LATE * (history[0] - history[-1]))
