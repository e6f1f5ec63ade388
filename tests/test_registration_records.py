"""The benchmark of registration goes on where it was interrupted, and its page shows what it measured."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import registration
from benchmarks.record import Record
from tumorjax.registration import Transform

ROOT = Path(__file__).resolve().parent.parent


def test_registration_goes_on_where_it_was_interrupted_and_sums_over_pairs(tmp_path, monkeypatch):
    called = []

    def register(moving, fixed, *, engine=None, **_):
        called.append((moving, fixed, engine))
        if len(called) == 5:
            raise KeyboardInterrupt
        after = {None: 0.8, "greedy": 0.95, "demons": 0.9}[engine]
        weak = fixed == "patient_large" and engine == "demons"
        return Transform(np.eye(4), after=after, seconds=3.0, folds=2 * weak, weakened=4.0 * weak, failure="no" * weak)

    monkeypatch.setenv("TUMORJAX_COHORTS", str(tmp_path))
    monkeypatch.setattr(registration, "available", lambda what: True)
    monkeypatch.setattr(registration, "register", register)
    monkeypatch.setattr(registration, "t1_of", lambda brain: brain)
    monkeypatch.setattr(registration, "_healthy", lambda patient: None)
    monkeypatch.setattr(registration, "_HEALTHY", ())
    with pytest.raises(KeyboardInterrupt):
        registration.run("full", engines=["greedy", "demons"])
    found = registration.run("full", engines=["greedy", "demons"])
    # Eight pairs, each by an affine map and two engines; the interrupted one is repeated, and no other.
    assert len(called) == 8 * 3 + 1
    values = {each.name: each.value for each in found}
    assert len(values) == len(found)
    assert (values["folds"], values["failures"]) == (0, 0)
    assert values["demons_weakened_or_failed"] == 4
    assert values["greedy_mean_correlation"] == pytest.approx(0.95)
    assert "least_correlation_above_ants" not in values
    assert values["nirep2_to_patient_large_demons_folds"] == 2
    shown = registration.table(found)
    assert "| nirep2 to `patient_large` | 0.800 | 0.950, " in shown and "failed |" in shown


def test_the_page_shows_what_was_measured_of_registration():
    kept = json.loads((ROOT / "benchmarks" / "results" / "registration.json").read_text())
    found = [Record(**each) for each in kept["records"]]
    page = (ROOT / "docs" / "results" / "registration.md").read_text()
    assert registration.table(found) in page
    values = {each.name: each.value for each in found}
    assert values["folds"] == values["failures"] == 0
    assert f"`greedy` reaches {values['greedy_mean_correlation']:.3f} on average" in " ".join(page.split())
