"""How far results can be trusted: remarks with a status, and the status of a whole result."""

import enum
from collections.abc import Iterable


class Status(enum.StrEnum):
    """Whether a result can be used as it is."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    FAILED = "failed"


class Note(str):
    """A remark on an input or a result: one or more sentences, with the status that they imply.

    A plain string among notes is a remark that leaves the status good.

    Parameters
    ----------
    text
        What a reader of the results should know.
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
        """Return what copying and pickling need, so that the status is kept."""
        return str(self), self.status


def status_of(notes: Iterable[str]) -> Status:
    """Return the worst status that notes imply; good where there are none."""
    order = list(Status)
    return max((getattr(note, "status", Status.GOOD) for note in notes), key=order.index, default=Status.GOOD)


def reasons_of(notes: Iterable[str]) -> list[str]:
    """Return the notes that leave a status less than good, those of the worst status first, each once."""
    order = list(Status)
    found = dict.fromkeys(note for note in notes if status_of([note]) is not Status.GOOD)
    return sorted(found, key=lambda note: -order.index(status_of([note])))
