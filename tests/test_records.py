"""Long benchmarks resume with the same code only, and their figures have the right names and values."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import compare, follow_up, multi_atlas, neural_posterior
from benchmarks import record as records
from benchmarks.multi_atlas import ATLASES, SEEN, SETTINGS, unknown
from benchmarks.multi_atlas.errors import field_errors
from benchmarks.multi_atlas.setting import Setting
from benchmarks.record import Record
from tests.test_compare import case, result


def test_solves_to_an_error_are_interpolated_and_never_extrapolated():
    # Errors fall as one over the root of the solves: 0.1 takes 100.
    rows = [(n, n**-0.5, 1.0) for n in (400, 25, 64)]
    to = neural_posterior._solves_to
    assert to(rows, 0.1) == (pytest.approx(100), "")
    assert to(rows, 0.3) == (25, "at most")
    assert to(rows, 0.04) == (400, "more than")
    # What rises again is not below the level for good.
    assert to([*rows, (900, 0.2, 1.0)], 0.1) == (900, "more than")


def test_names_of_means_say_which_cases_they_are_over():
    found = [
        Record(f"4mm_inverted_seed_{case}_{row}_error", value, "1")
        for case, value in zip("abd", (0.1, 0.2, 0.6), strict=True)
        for row in ("rho", "displacement")
    ]
    found.append(Record("unknown_anatomy_c_tumour_error", 0.3, "1"))
    found.append(Record("unknown_anatomy_d_tumour_error_from_outlines", 0.4, "1"))
    means = {each.name: each.value for each in multi_atlas.summary(found)}
    # In case a nothing is displaced; one case alone has no mean, and what was measured otherwise is not mixed.
    assert means == {
        "4mm_inverted_seed_rho_error_averaged_over_abd": pytest.approx(0.3),
        "4mm_inverted_seed_displacement_error_averaged_over_bd": pytest.approx(0.4),
    }


def test_the_error_of_a_field_is_not_that_of_its_norm():
    shape = (3, 4, 5)
    truth = SimpleNamespace(density=np.ones(shape), displacement=np.broadcast_to([2.0, 0.0, 0.0], (*shape, 3)))
    turned = np.broadcast_to([0.0, 2.0, 0.0], (*shape, 3))
    errors = field_errors(truth, truth.density, turned)
    assert errors == pytest.approx({"displacement": 0, "displacement_field": np.sqrt(2), "tumour": 0}, abs=1e-12)
    # Where nothing moves, it is the root mean square, in voxels.
    still = SimpleNamespace(density=np.ones(shape), displacement=np.zeros((*shape, 3)))
    errors = field_errors(still, 1.5 * still.density, turned)
    assert errors == pytest.approx({"displacement": 2 / 0.9, "displacement_field": 2 / 0.9, "tumour": 0.5})


def test_a_follow_up_says_whether_its_volume_lies_in_the_band():
    row = {
        "speed": 0.1,
        "ends of 90 % of the speed": [0.05, 0.2],
        "outlined ml": [14.0, 37.0],
        "ends of 90 % of the volume": [15.0, 36.0],
        "rank of the volume": 0.96,
    } | {f"dice of {what}": 0.5 for what in ("the prediction", "the margin", "no change")}
    found = {each.name: each.value for each in follow_up._records("a", row)}
    assert found["follow_up_a_volume_in_90"] == 0 and found["follow_up_a_volume_rank"] == 0.96
    row["ends of 90 % of the volume"] = [15.0, 38.0]
    assert {each.name: each.value for each in follow_up._records("a", row)}["follow_up_a_volume_in_90"] == 1


def test_names_say_what_differs_from_the_table():
    assert Setting().name("unknown_anatomy", "c_displacement_field_error") == (
        "unknown_anatomy_c_displacement_field_error"
    )
    assert Setting(4, "outlines", "real", "published").name("unknown_anatomy", "d_seconds") == (
        "4mm_unknown_anatomy_d_seconds_from_outlines_in_real_atlases_by_published_settings"
    )


def test_the_tables_are_measured_in_full():
    tables = [Setting(2, *chosen) for chosen in itertools.product(*map(sorted, (SEEN, ATLASES, SETTINGS)))]
    names = {part: [name for name, _ in multi_atlas.pieces(part, "abcd", tables)] for part in ("known", "unknown")}
    assert [len(set(each)) for each in names.values()] == [4 * 4, 4 * 8]
    assert {"known_anatomy_a", "known_anatomy_d_from_outlines_by_published_settings"} < set(names["known"])
    assert {"unknown_anatomy_b", "unknown_anatomy_c_from_outlines_in_real_atlases"} < set(names["unknown"])


def test_one_command_measures_all_atlases_and_goes_on(tmp_path, monkeypatch):
    called = []

    def once(case, setting):
        called.append((case, setting))
        if len(called) == 3:
            raise KeyboardInterrupt
        return [Record(setting.name("unknown_anatomy", f"{case}_tumour_error"), float(len(called)), "1")]

    def measured(**chosen):
        one = {"seen": ["density"], "atlases": ["random"], "settings": ["ours"]}
        return {each.name: each.value for each in multi_atlas.run("full", resolution=4, **one, **chosen)}

    monkeypatch.setenv("TUMORJAX_COHORTS", str(tmp_path))
    monkeypatch.setattr(multi_atlas, "unknown_anatomy", once)
    with pytest.raises(KeyboardInterrupt):
        measured(parts=["unknown", "ablation"])
    values = measured(parts=["unknown", "ablation"])
    assert [case for case, _ in called] == ["a", "b", "c", "c", "d", "d", "d", "d"]
    # The case that both parts have is measured once.
    affine = Setting(4, coupled=False)
    others = [Setting(4, refine=False), affine, dataclasses.replace(affine, fluid=False)]
    assert [setting for _, setting in called[4:]] == [Setting(4), *others]
    published = Setting(settings="published")
    assert [each.healthy for each in (Setting(4), affine, published)] == ["coupled", "affine", "affine"]
    assert values["4mm_unknown_anatomy_tumour_error_averaged_over_abcd"] == pytest.approx((1 + 2 + 4 + 5) / 4)
    # Results of other versions of the code are measured again.
    monkeypatch.setattr(multi_atlas, "code", lambda *_: "other")
    measured(parts=["unknown"], cases=["b"])
    assert len(called) == 9


def test_a_comparison_measures_anew_what_other_code_did_and_says_what_changed(tmp_path, monkeypatch, capsys):
    called, shift = [], {"voxels": 0}

    def method(one):
        called.append(one.name)
        return result(shift["voxels"])

    monkeypatch.setenv("TUMORJAX_COHORTS", str(tmp_path))
    monkeypatch.setattr(compare, "METHODS", {"some": method})
    monkeypatch.setattr(compare, "cases", lambda names, resolution: (case(name) for name in names))
    names = ["synthetic_00", "synthetic_01"]
    file = tmp_path / "before.json"
    records.report("compare", "full", compare.run("full", patients=names), file)
    # Another code, which sees every cell five voxels off.
    shift["voxels"] = 5
    monkeypatch.setattr(compare, "code", lambda *_, **__: "other")
    capsys.readouterr()
    compare.run("full", patients=names[:1], beside=file)
    assert called == [*names, "synthetic_00"]
    assert "synthetic_00: some_dice_0.1 0.7500, recorded 1.0000, -0.2500" in capsys.readouterr().out.splitlines()


def test_the_digest_is_of_what_decides_figures(monkeypatch, tmp_path):
    package = tmp_path / "tumorjax"
    for name in ("__init__.py", "growth.py", "cli/main.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("")
    monkeypatch.setattr(records.tumorjax, "__file__", str(package / "__init__.py"))
    digest = records.code.__wrapped__
    first = digest("suite")
    # A benchmark may be a folder.
    assert len({digest("multi_atlas"), digest("displaced"), digest(), first}) == 4
    (package / "cli" / "main.py").write_text("shown = True\n")
    assert digest("suite") == first != digest("methods")
    (package / "growth.py").write_text("rate = 2\n")
    assert digest("suite") != first


def test_the_digest_of_a_result_is_that_of_its_method(monkeypatch, tmp_path):
    package = tmp_path / "tumorjax"
    sources = {
        "grid.py": "",
        "methods/search/lbfgs.py": "from tumorjax.methods.search import starts\n",
        "methods/search/starts.py": "",
        "methods/nuts.py": "from tumorjax.methods.search.lbfgs import LBFGS\n",
        "methods/query.py": "",
    }
    for name, text in sources.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.setattr(records.tumorjax, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(records.inspect, "getfile", lambda name: str(package / "methods" / f"{name}.py"))

    def digests():
        return [records.code.__wrapped__("suite", methods=used) for used in (("nuts",), ("query",), None)]

    nuts, query, everything = digests()
    (package / "methods" / "query.py").write_text("neighbours = 2\n")
    assert digests()[0] == nuts and digests()[1] != query and digests()[2] != everything
    query = digests()[1]
    (package / "methods" / "search" / "starts.py").write_text("coarse = 2\n")
    assert digests()[0] != nuts and digests()[1] == query
    (package / "grid.py").write_text("axes = 3\n")
    assert query not in digests()


def test_the_mean_over_atlases_is_measured_as_a_field(monkeypatch):
    shape = (3, 3, 3)
    to_the_right, ahead = (np.broadcast_to(each, (*shape, 3)) for each in ([2.0, 0, 0], [0, 2.0, 0]))
    truth = SimpleNamespace(density=np.ones(shape), displacement=to_the_right, patient=None, model=None)
    # Two atlases in which tissue moves to the right or ahead, each as far as in truth.
    grown = [SimpleNamespace(density=np.full(shape, c), displacement=u) for c, u in ((0.5, to_the_right), (1.0, ahead))]

    def errors(one, growth, solution):
        return field_errors(one, solution.density, solution.displacement), {
            "largest": 2.0,
            "T rho, T kappa, gamma": [10.0, 60.0, 0.8],
        }

    # An atlas that cannot be aligned is left out.
    atlases = [SimpleNamespace(name=name, anatomy=None) for name in ("one", "two", "away")]
    found = SimpleNamespace(samples=None, log_weights=np.log([0.5, 0.5]), stats=None, atlases=atlases[:2])

    def prepare(patient, model, *, healthy, notes, progress):
        assert healthy == "coupled"
        notes.append("away is left out")

    monkeypatch.setattr(unknown, "displaced", lambda case, spacing: truth)
    monkeypatch.setattr(unknown, "atlases_of", lambda kind: dict(zip(("one", "two", "away"), atlases, strict=True)))
    monkeypatch.setattr(Setting, "method", lambda self, atlases: SimpleNamespace(prepare=prepare))
    monkeypatch.setattr(unknown, "problem_of", lambda *_, **__: None)
    monkeypatch.setattr(unknown, "calibrate", lambda *_: found)
    monkeypatch.setattr(unknown, "grown", lambda one, samples, index, atlas: (None, grown[index]))
    monkeypatch.setattr(unknown, "errors", errors)
    monkeypatch.setattr(unknown, "plain", lambda stats: None)
    records = unknown.unknown_anatomy("c", Setting(4))
    values = {each.name: each.value for each in records}
    # In each atlas the norm is right; the mean field is shorter, and half of it points elsewhere.
    assert values["4mm_unknown_anatomy_c_displacement_error"] == pytest.approx(0)
    assert values["4mm_unknown_anatomy_c_displacement_field_error"] == pytest.approx(np.sqrt(2) / 2)
    assert values["4mm_unknown_anatomy_c_displacement_field_error_of_the_mean"] == pytest.approx(np.sqrt(0.5))
    assert values["4mm_unknown_anatomy_c_tumour_error_of_the_mean"] == pytest.approx(0.25)
    assert "4mm_unknown_anatomy_c_displacement_error_of_the_mean" not in values
    (told,) = (each.details for each in records if each.name == "4mm_unknown_anatomy_c_tumour_error")
    assert told["notes"] == ["away is left out"]
    assert told["atlases"] == pytest.approx({"one": 0.5, "two": 0})
