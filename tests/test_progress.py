"""Progress where there is no terminal: few lines, and none of short work."""

import time

import pytest

import tumorjax.cli.console as console
from tumorjax.cli.console import Screen


class Clock:
    """A clock that the test sets."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def show(clock, moments, **settings):
    with Screen(quiet=settings.get("quiet", False), as_json=False) as screen:
        for now, *news in moments:
            clock.now = now
            screen.progress(*news)


def test_a_line_is_a_stage_or_a_minute(clock, capsys):
    steps = [(t, "search", t / 400) for t in range(12, 400)]
    show(clock, [(1.0, "reading"), (4.0, "aligning"), *steps, (400.0, "maps", None, "maps of 3 draws")])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "0:12 search, 3%"
    assert lines[1:3] == ["1:12 search, 18%", "2:12 search, 33%"]
    assert lines[-1] == "6:40 maps of 3 draws"
    assert len(lines) == 8


def test_a_stage_that_reports_nothing_is_said_all_the_same(clock, capsys, monkeypatch):
    monkeypatch.setattr(console, "_BRIEF", 0.01)
    text = ""
    with Screen(quiet=False, as_json=False) as screen:
        screen.progress("aligning", 0.25)
        for minute in (1, 2):
            clock.now, before = 60.0 * minute, len(text)
            for _ in range(500):
                text += capsys.readouterr().err
                if len(text) > before:
                    break
                time.sleep(0.01)
    assert text.splitlines() == ["1:00 aligning, 25%", "2:00 aligning, 25%"]


def test_short_work_and_quiet_work_say_nothing(clock, capsys):
    show(clock, [(t / 10, f"stage {t}", 0.5) for t in range(90)])
    show(clock, [(t, f"stage {t}", 0.5) for t in range(900)], quiet=True)
    assert capsys.readouterr().err == ""


def test_stages_that_follow_each_other_quickly_are_no_flood(clock, capsys):
    show(clock, [(t / 10, f"stage {t}", 0.5) for t in range(1000)])
    assert len(capsys.readouterr().err.splitlines()) <= 10
