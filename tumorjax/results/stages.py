"""How long the stages of the work took."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_log = logging.getLogger(__name__)


class Stopwatch:
    """Times the stages of the work, one after the other.

    Parameters
    ----------
    stages
        Name and seconds of the stages that are done already.
    """

    def __init__(self, stages: Sequence[tuple[str, float]] = ()) -> None:
        self.stages: list[tuple[str, float]] = list(stages)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a stage."""
        begun = time.perf_counter()
        yield
        self.stages.append((name, time.perf_counter() - begun))
        _log.info("%s: %.1f s", *self.stages[-1])

    def seconds(self, name: str | None = None) -> float:
        """Return the time of one stage, or of all."""
        return sum(seconds for stage, seconds in self.stages if name in (None, stage))

    def figures(self) -> dict[str, float]:
        """Return the seconds of the calibration, and of all stages so far."""
        return {
            "seconds_calibration": round(self.seconds("calibration"), 3),
            "seconds_total": round(self.seconds(), 3),
        }
