"""Progress of long work: the callbacks that hear of it, and the log, which keeps what they hear."""

import logging
import math
from collections.abc import Callable

Progress = Callable[[str, float | None], None]
"""Receives the stage of the work, and the share of it that is done, where that is known."""

SearchProgress = Callable[[str, float, float], None]
"""Receives the stage of a calibration, the share of it that is done, and the best objective so far or NaN."""


def silent(stage: str, share: float | None, objective: float = math.nan) -> None:
    """Show no progress."""


def logged(progress: Callable[..., None], log: logging.Logger) -> Callable[..., None]:
    """Return a callback that logs what it hears, and passes it on.

    A stage is logged when it begins, and each share of it as a detail for debugging.

    Parameters
    ----------
    progress
        The callback to which all is passed on.
    log
        Where to log.
    """
    current: str | None = None

    def hear(stage: str, share: float | None, *objective: float) -> None:
        nonlocal current
        if stage != current:
            current = stage
            log.info("%s", stage)
        if share is not None:
            known = [value for value in objective if math.isfinite(value)]
            log.debug("%s: %.0f %%%s", stage, 100 * share, "".join(f", objective {value:.6g}" for value in known))
        progress(stage, share, *objective)

    return hear
