"""Figures of the pages stand in the records of benchmarks, and records say what they are."""

import json
import re
import tomllib
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import compare, multi_atlas, neural_posterior, suite
from benchmarks import record as records
from benchmarks.record import Record
from tests.test_compare import case, result
from tumorjax.cli.main import _parser

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def recorded(name):
    """The records of a file, by name."""
    return {each["name"]: each for each in json.loads((RESULTS / f"{name}.json").read_text())["records"]}


def page(name):
    """The text of a page, as one line."""
    return " ".join((ROOT / name).read_text().split())


# Page, text with a format for each figure, file, and the figures: a record, or of its details what follows the colon.
SHOWN = [
    ("README.md", "Dice coefficient of {:.2f}*", "demo", ["demo_dice_density_0.01"]),
    ("docs/start.md", "{:.0f} s for this one", "demo", ["demo_seconds_first"]),
    ("docs/start.md", "and {:.0f} s from then on", "demo", ["demo_seconds_again"]),
    (
        "docs/learned.md",
        "(it learnt from 3840) | {:.3f}; {:.3f}; {:.3f} | {:.3f}; {:.3f} | {:.3f} | {:.3f}, our solver {:.3f} |",
        "learned",
        [f"surrogate_dice_{level}" for level in ("02", "04", "08")]
        + [f"surrogate_error_{tissue}" for tissue in ("white_matter", "grey_matter", "csf")]
        + ["surrogate_seconds", "solver_seconds"],
    ),
    (
        "docs/learned.md",
        "another person's brain | {:.3f}; {:.3f}; {:.3f} |",
        "learned",
        [f"surrogate_dice_{level}:sri24" for level in ("02", "04", "08")],
    ),
    (
        "docs/learned.md",
        "4864 tumours | {:.3f}; {:.3f}; {:.3f} | {:.3f} | {:.2f} |",
        "learned",
        ["lmi_dice_001", "lmi_dice_01", "lmi_dice_08", "lmi_error_white_matter", "lmi_network_seconds"],
    ),
    (
        "docs/learned.md",
        "(20 of them) | {:.3f}; {:.3f}; {:.3f} | {:.3f} | {:.0f} |",
        "learned",
        [f"lmi_refined_{what}" for what in ("dice_001", "dice_01", "dice_08", "error_white_matter", "seconds")],
    ),
    (
        "docs/bayesian.md",
        "corrected / network alone | {:.2f} / {:.2f} | {:.2f} / {:.2f} |",
        "learned",
        [f"{name}_rat_{start}_mean_error" for start in ("seed", "image") for name in ("npe", "npe_network")],
    ),
    (
        "docs/bayesian.md",
        "90 % region of highest density | {:.2f} | {:.2f} | {:.1f} | {:.1f} |",
        "neural_posterior",
        [f"npe{kind}_coverage_90" for kind in ("", "_truncated_network", "_weighted_corrected", "_weighted_network")],
    ),
    (
        "docs/bayesian.md",
        "mean over nine parameters | {:.2f} / {:.2f} |",
        "bayes",
        ["coverage_50", "coverage_90"],
    ),
    ("docs/numerics.md", "1 mm, s | {:.3f} / {:.3f} / {:.2f} |", "forward", [f"fk_{h}mm_seconds" for h in (4, 2, 1)]),
    (
        "docs/numerics.md",
        "{:.3f} | | true values inside their 95 % intervals, over seven parameters | {:.3f} |",
        "personalize",
        ["synthetic_dice_0.01", "synthetic_coverage_95"],
    ),
    (
        "docs/cohorts.md",
        "| direct, pruned | {:.4f} | - | 100 % | 100 % | 100 % | - | {:.3f} |",
        "retrieval",
        ["direct_50k_pruned_seconds", "direct_dice_sum"],
    ),
    *(
        (
            "docs/cohorts.md",
            f"| {name} | {{:.3f}} |",
            "retrieval",
            [f"{name.replace('-', '_')}_query_seconds"],
        )
        for name in ("ds64", "ds32", "ae", "vae", "bf-hash", "radiomics")
    ),
    *(
        ("docs/numerics.md", f"| {name} | {{:g}} | {{:.1f}} |", "mass_effect", [f"{key}:published", key])
        for name in "abcd"
        for key in [f"case_{name}_tanh_displacement"]
    ),
    *(
        (
            "docs/numerics.md",
            f"| {label} | {{:.3f}} | {{:.3f}} | {{:.3f}} | {{:.3f}} | {{:.3f}} |",
            "multi_atlas",
            [f"4mm_d_{kind}_{row}_error" for row in ("gamma", "rho", "kappa", "displacement", "tumour")],
        )
        for label, kind in (
            ("all stages", "unknown_anatomy"),
            ("without the map of fluid", "unknown_anatomy_without_fluid"),
            ("without S.4", "unknown_anatomy_without_refinement"),
        )
    ),
]


@pytest.mark.parametrize(("where", "text", "file", "names"), SHOWN)
def test_pages_show_what_was_recorded(where, text, file, names):
    found, values = recorded(file), []
    for name in names:
        which, _, detail = name.partition(":")
        values.append(found[which]["details"][detail] if detail else found[which]["value"])
    assert text.format(*values) in page(where)


def test_the_page_shows_the_inversions_with_a_known_anatomy():
    found = recorded("multi_atlas")
    rows = re.findall(r"^\| ([abcd]), (\d) mm \| (true|inverted) \| (.*) \|$", text := page_lines(), re.MULTILINE)
    assert len(rows) == 8, text
    for name, spacing, seed, cells in rows:
        for row, cell in zip(multi_atlas.ROWS, cells.split(" | "), strict=True):
            value = found[f"{spacing}mm_{name}_{seed}_seed_{row}_error"]["value"]
            assert cell.split(" ")[0] == f"{value:.3f}", (name, seed, row)


def page_lines():
    return (ROOT / "docs" / "numerics.md").read_text()


def test_the_page_shows_how_many_solves_were_needed():
    found, text = recorded("learned"), page("docs/bayesian.md")
    for label, name in (
        ("`NeuralPosterior`, corrected", "npe"),
        ("the network alone", "npe_network"),
        ("`TMCMC`", "tmcmc"),
    ):
        cells = []
        for level in (0.2, 0.1):
            each = found[f"{name}_solves_for_{level}"]
            bound, value = each["details"]["bound"], each["value"]
            cells.append(f"{bound} {value:,.0f}".strip() if value >= 1000 or bound else f"{value:.0f}")
        assert f"| {label} | {cells[0]} | {cells[1]} |" in text


def test_recorded_solves_follow_from_their_runs():
    found = [each for name, each in recorded("learned").items() if "_solves_for_" in name]
    details = dict(found[0]["details"])
    curves = details.pop("solves, error in standard deviations, seconds")
    again = neural_posterior.needed(
        curves, {"effective draws of the reference": details.pop("effective draws of the reference")}
    )
    assert [asdict(each) for each in again] == found


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
        Record(f"4mm_{case}_inverted_seed_{row}_error", value, "1")
        for case, value in zip("abd", (0.1, 0.2, 0.6), strict=True)
        for row in ("rho", "displacement")
    ]
    found.append(Record("2mm_c_unknown_anatomy_tumour_error", 0.3, "1"))
    means = {each.name: each.value for each in multi_atlas.summary(found)}
    # In case a nothing is displaced; one case alone has no mean, and voxels are not mixed.
    assert means == {
        "4mm_inverted_seed_rho_error_averaged_over_abd": pytest.approx(0.3),
        "4mm_inverted_seed_displacement_error_averaged_over_bd": pytest.approx(0.4),
    }


def test_recorded_means_follow_from_their_cases():
    found = [Record(**each) for each in recorded("multi_atlas").values()]
    means = [each for each in found if "averaged_over" in each.name]
    assert means == multi_atlas.summary(found) != []


def test_the_error_of_a_field_is_not_that_of_its_norm():
    shape = (3, 4, 5)
    truth = SimpleNamespace(density=np.ones(shape), displacement=np.broadcast_to([2.0, 0.0, 0.0], (*shape, 3)))
    turned = np.broadcast_to([0.0, 2.0, 0.0], (*shape, 3))
    errors = multi_atlas.field_errors(truth, truth.density, turned)
    assert errors == pytest.approx({"displacement": 0, "displacement_field": np.sqrt(2), "tumour": 0}, abs=1e-12)
    # Where nothing moves, it is the root mean square, in voxels.
    still = SimpleNamespace(density=np.ones(shape), displacement=np.zeros((*shape, 3)))
    errors = multi_atlas.field_errors(still, 1.5 * still.density, turned)
    assert errors == pytest.approx({"displacement": 2 / 0.9, "displacement_field": 2 / 0.9, "tumour": 0.5})


def test_one_command_measures_all_atlases_and_goes_on(tmp_path, monkeypatch):
    called = []

    def unknown(name, spacing, **settings):
        called.append((name, spacing, settings))
        if len(called) == 3:
            raise KeyboardInterrupt
        kind = "_".join(["unknown_anatomy", *settings])
        return [Record(f"{spacing}mm_{name}_{kind}_tumour_error", float(len(called)), "1")]

    monkeypatch.setenv("TUMORJAX_COHORTS", str(tmp_path))
    monkeypatch.setattr(multi_atlas, "unknown_anatomy", unknown)
    with pytest.raises(KeyboardInterrupt):
        multi_atlas.run("full", resolution=4, parts=["unknown", "ablation"])
    values = {each.name: each.value for each in multi_atlas.run("full", resolution=4, parts=["unknown", "ablation"])}
    assert [name for name, _, _ in called] == ["a", "b", "c", "c", "d", "d", "d"]
    # The case that both parts have is measured once.
    assert [settings for *_, settings in called[4:]] == [{}, {"refine": False}, {"fluid": False}]
    assert values["4mm_unknown_anatomy_tumour_error_averaged_over_abcd"] == pytest.approx((1 + 2 + 4 + 5) / 4)
    # What other code measured is measured anew.
    monkeypatch.setattr(multi_atlas, "code", lambda *_: "other")
    multi_atlas.run("full", resolution=4, parts=["unknown"], cases=["b"])
    assert len(called) == 8


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
    monkeypatch.setattr(compare, "code", lambda *_: "other")
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
    (package / "cli" / "main.py").write_text("shown = True\n")
    assert digest("suite") == first != digest("methods")
    (package / "growth.py").write_text("rate = 2\n")
    assert digest("suite") != first


def test_the_pages_say_how_far_mass_effect_is_underestimated():
    errors = recorded("compare")["MultiAtlas_displaced_error_mass_effect"]["details"]["each"]
    relative = {name: error / suite.mass_effect(suite.SYNTHETIC.index(name)) for name, error in errors.items()}
    assert (len(errors), sum(error < 0 for error in errors.values())) == (10, 9)
    size, signed = (100 * np.median(each) for each in (np.abs(list(relative.values())), list(relative.values())))
    assert f"median size of the error is {size:.0f} % of the truth" in page("docs/models.md")
    for name in ("docs/models.md", "docs/methods.md"):
        assert f"{size:.0f} % of the truth" in page(name)
        assert f"with its sign is −{-signed:.0f} %" in page(name)


def test_what_readme_calls_a_method_of_the_command_is_one():
    (line,) = re.findall(r"`tumorjax personalize --method` with (.*?);", page("README.md"))
    for name in re.findall(r"`([a-z]+)`", line):
        assert _parser().parse_args(["personalize", "--segmentation", "s.nii", "--method", name, "--out", "o"])
    assert "no `--method`: it is reached by `--model mass-effect --atlases`" in page("README.md")


def test_the_home_page_lists_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    assert sorted(name for line in listed for name in re.findall(r"`(\w+)`", line)) == sorted(extras)


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_a_file_that_no_command_wrote_says_so(file):
    content = json.loads(file.read_text())
    if content["size"] not in ("small", "full"):
        assert content["notes"]
