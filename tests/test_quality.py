"""Notes keep their status, and the worst of them is the status of the result."""

import copy
import itertools

from tumorjax.quality import Note, Status, status_of


def test_a_note_is_its_text_and_keeps_its_status_when_copied():
    note = Note("The atlas is not aligned.", Status.FAILED)
    assert note == "The atlas is not aligned." and note.status is Status.FAILED
    assert copy.deepcopy([note])[0].status is Status.FAILED
    assert Note("A remark.").status is Status.GOOD


def test_the_worst_note_decides_in_any_order():
    notes = ["plain", Note("look", Status.DOUBTFUL), Note("stop", Status.FAILED)]
    assert status_of([]) is Status.GOOD and status_of(notes[:1]) is Status.GOOD
    assert status_of(notes[:2]) is Status.DOUBTFUL
    assert {status_of(order) for order in itertools.permutations(notes)} == {Status.FAILED}
