"""Random relatives of an atlas, for who has one only."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tumorjax.atlas import AtlasImages
from tumorjax.io import InputError, Volume
from tumorjax.methods import MultiAtlas
from tumorjax.patient import relatives
from tumorjax.patient.atlases import load_atlases
from tumorjax.patient.relatives import family_size, is_family, with_relatives

VOLUMES = [10.0, 30.0, 22.0, 50.0, 21.0, 26.0]


def test_names_of_families():
    assert is_family("family:3") and family_size("family:3") == 3
    assert not is_family("icbm152") and not is_family(Path("family:3"))
    for wrong in ("family:", "family:0", "family:21", "family:2.5", "family:two", "family:-1"):
        with pytest.raises(InputError, match="family:N"):
            is_family(wrong)
    assert load_atlases(["family:2"]) == ["family:2"]
    assert MultiAtlas.from_options({"atlases": ["family:2"]}).atlases == ("family:2",)
    with pytest.raises(InputError, match="given twice"):
        load_atlases(["family:2", "family:2"])
    with pytest.raises(InputError, match="1 to 20"):
        MultiAtlas.from_options({"atlases": ["family:99"]})


@pytest.fixture
def drawn(monkeypatch):
    """Relatives whose ventricles have known volumes."""
    made = [SimpleNamespace(name=f"relative {i}", volume=volume) for i, volume in enumerate(VOLUMES)]
    monkeypatch.setattr(relatives, "atlas_family", lambda base, seed, count: ((each, None) for each in made[:count]))
    monkeypatch.setattr(relatives, "ventricle_volume", lambda atlas: atlas.volume)
    return made


def patient(*, shows_fluid=True):
    return SimpleNamespace(
        source=SimpleNamespace(atlas=SimpleNamespace(name="own", title="own")), shows_fluid=shows_fluid
    )


def test_relatives_are_chosen_by_their_ventricles(drawn):
    notes, told = [], []
    found = with_relatives(patient(), ["family:2"], lambda _: 20.0, notes, told.append)
    assert [each.volume for each in found] == [21.0, 22.0]
    assert len(told) == 6
    assert "2 of 6 random relatives of the atlas own" in notes[-1]
    assert "20 ml" in notes[-1]
    # Where too few are suitable, a note says so.
    found = with_relatives(patient(), ["family:2"], lambda _: 45.0, notes, told.append)
    assert found[0].volume == 50.0
    assert any("1 of 6 atlases" in note for note in notes)


def test_atlases_at_hand_stay_in_their_places(drawn):
    brain = AtlasImages("own", *[Volume(np.zeros((2, 2, 2)), np.eye(4))] * 5)
    found = with_relatives(patient(), [brain, "family:1", brain], lambda _: 20.0, [], lambda _: None)
    assert found[0] is found[2] is brain and found[1] in drawn


def test_without_ventricles_the_first_ones_are_taken(drawn):
    for each, volume in ((patient(shows_fluid=False), np.nan), (patient(), 0.0)):
        notes = []
        found = with_relatives(each, ["family:2"], lambda _, v=volume: v, notes, lambda _: None)
        assert found == drawn[:2]
        assert "not known" in notes[-1]
