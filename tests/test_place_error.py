"""How exactly a registration carries a place: what circles of three brains leave, and what the package makes of it."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import carrying
from benchmarks.carrying import Places
from tumorjax.patient import atlases
from tumorjax.registration import Transform

ROOT = Path(__file__).resolve().parent.parent


def test_what_three_maps_leave_together_gives_the_error_of_each_kind():
    random = np.random.default_rng(0)
    errors = {"affine": 3.0, "deformable": 1.5, "deformable_seen": 0.8}

    def left(kind):
        # A map of this kind, and two that see the places.
        others = random.normal(0, errors["deformable_seen"], (2, 5000, 3))
        return random.normal(0, errors[kind], (5000, 3)) + others.sum(axis=0)

    circles = {each: Places(*(left(kind) for kind in Places._fields)) for each in itertools.permutations("abc")}
    records = {each.name: each for each in carrying.summary(circles)}
    for kind, error in errors.items():
        record = records[f"{kind}_place_error"]
        assert record.value == pytest.approx(error, rel=0.02) and record.unit == "mm"
        assert record.details["inside 90 % of a normal distribution"] == pytest.approx(0.9, abs=0.01)
        assert len(record.details["each"]) == 6


def test_a_circle_through_three_brains_ends_where_its_maps_are_wrong(monkeypatch):
    def moved(x, y, z):
        matrix = np.eye(4)
        matrix[:3, 3] = x, y, z
        return Transform(matrix)

    # What is found between the brains; without an error the way from c by b to a is (5, 0, 0).
    maps = {("a", "b"): moved(2, 0, 0), ("b", "c"): moved(3, 0, 0), ("a", "c"): moved(5, 1, 0)}

    def deformable(moving, fixed, resolution, hidden):
        return moved(5, 0, 2) if hidden else maps[moving, fixed]

    monkeypatch.setattr(carrying, "_affine", lambda moving, fixed, resolution: moved(9, 0, 0))
    monkeypatch.setattr(carrying, "_deformable", deformable)
    carrying._carried.cache_clear()
    found = carrying.circle("a", "b", "c", 2.0)
    carrying._carried.cache_clear()
    for places, off in zip(found, ((4, 0, 0), (0, 0, 2), (0, 1, 0)), strict=True):
        assert places.shape == (108, 3)
        np.testing.assert_allclose(places - off, 0, atol=1e-9)


def test_the_package_and_its_page_have_what_was_measured():
    kept = json.loads((ROOT / "benchmarks" / "results" / "carrying.json").read_text())
    values = {each["name"]: each["value"] for each in kept["records"]}
    page = " ".join((ROOT / "docs" / "results" / "registration.md").read_text().split())
    for kind, error in atlases._PLACE_ERRORS.items():
        assert error == pytest.approx(values[f"{kind}_place_error"], abs=0.05)
        assert f"{error:.1f} mm" in page
    assert f"{values['deformable_seen_place_error']:.1f} mm" in page


def test_the_page_says_how_many_intervals_contain_the_truth():
    kept = json.loads((ROOT / "benchmarks" / "results" / "compare.json").read_text())
    covered = next(each for each in kept["records"] if each["name"] == "pushing_coverage_90")
    page = " ".join((ROOT / "docs" / "results" / "mass_effect.md").read_text().split())
    assert f"of all {covered['details']['of']} intervals {100 * covered['value']:.0f} % contain the truth" in page
