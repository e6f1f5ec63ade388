"""Quality of results: notes with a status, and the status of a whole result."""

import enum
from collections.abc import Iterable

# Dice coefficient with each outline below which a model is said not to explain the images. Heuristic.
FAIR = 0.7


class Status(enum.StrEnum):
    """Whether a result can be used as it is."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    FAILED = "failed"


class Note(str):
    """A note on an input or a result: one or more sentences, with the status that they imply.

    A plain string among notes leaves the status good.

    Parameters
    ----------
    text
        The sentences, for readers of the results.
    status
        `Status.DOUBTFUL` if the results need a closer look, `Status.FAILED` if they must not be used.
    """

    status: Status

    def __new__(cls, text: str, status: Status = Status.GOOD) -> "Note":
        """Return a note with its status."""
        note = super().__new__(cls, text)
        note.status = status
        return note

    def __getnewargs__(self) -> tuple[str, Status]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the constructor's arguments, so that copies keep the status."""
        return str(self), self.status


def status_of(notes: Iterable[str]) -> Status:
    """Return the worst status that notes imply; good if there are none."""
    order = list(Status)
    return max((getattr(note, "status", Status.GOOD) for note in notes), key=order.index, default=Status.GOOD)


def reasons_of(notes: Iterable[str]) -> list[str]:
    """Return the notes whose status is not good, the worst first, without repetitions."""
    order = list(Status)
    found = dict.fromkeys(note for note in notes if status_of([note]) is not Status.GOOD)
    return sorted(found, key=lambda note: -order.index(status_of([note])))
