"""The status of a result: it is determined once, shown first everywhere, and decides whether there is a plan."""

import io
import json
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import equinox as eqx
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest

import tumorjax.cli.commands as commands
import tumorjax.results.files as results
from tests.test_cli import RAS, made_up, patient, read, save
from tumorjax.calibration import Calibration, CalibrationResult
from tumorjax.calibration.estimates import Estimate
from tumorjax.calibration.method import AbstractMethod
from tumorjax.calibration.result import notes_on_search
from tumorjax.cli import main
from tumorjax.cli.console import Screen
from tumorjax.io import InputError, Volume
from tumorjax.methods.search.starts import starting_points
from tumorjax.patient import load_patient
from tumorjax.patient.prescription import Prescription
from tumorjax.patient.recurrence import at_follow_up, figures_of_recurrence, parse_recurrence_labels
from tumorjax.pipeline.fit import notes_on_fit, notes_on_numbers, notes_on_plan
from tumorjax.pipeline.personalize import personalize
from tumorjax.quality import Note, Status, reasons_of, status_of

pytestmark = pytest.mark.usefixtures("jax_as_installed")

MISTAKE = "The alignment of the atlas icbm152 with the T1 image FAILED: it lies turned."
ASTRAY = {"before": [Note(MISTAKE, Status.FAILED)]}


class Put(AbstractMethod):
    """A calibration without a search, with the tumour at the core or elsewhere."""

    shift: float = 0.0
    result: CalibrationResult = eqx.field(static=True, default=CalibrationResult.GRADIENT)

    def run(self, problem, key, progress):
        """Return the start that the outlines suggest, at thresholds of their sizes, moved by `shift` mm to the left."""
        params = problem.prior.constrain(jnp.asarray(starting_points(problem, 1)[0], jnp.float32))
        density = np.sort(np.asarray(problem.density(params)).ravel())[::-1]
        sizes = [int(np.asarray(problem.observations[name].inside).sum()) for name in ("core", "lesion")]
        thresholds = [jnp.asarray(density[size], jnp.float32) for size in sizes]
        params = eqx.tree_at(
            lambda p: [p.observations[name].threshold for name in ("core", "lesion")], params, thresholds
        )
        origin = params.growth.origin
        params = eqx.tree_at(lambda p: p.growth.origin, params, origin - jnp.array([self.shift, 0, 0], origin.dtype))
        z = problem.prior.unconstrain(params)
        covariance = 1e-4 * jnp.eye(z.size, dtype=z.dtype)
        return Calibration(params, problem.prior, z, covariance, self.result, SimpleNamespace(gradients=1))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ball")
    return {name: save(folder / f"{name}.nii.gz", data, RAS) for name, data in made_up().items()}


@pytest.fixture(scope="module")
def known(files):
    names = {"segmentation": "segmentation", "white_matter": "wm", "grey_matter": "gm", "csf": "csf"}
    return load_patient(**{role: files[name] for role, name in names.items()}, resolution=5.0)


# --- the status and the plan of a result -----------------------------------------------------------------------------


def test_a_tumour_elsewhere_has_failed_and_has_no_plan(known):
    result = personalize(known, method=Put(60.0), prescription=Prescription(5, 2.5))
    assert result.quality is Status.FAILED and result.plan is None and result.dose_plan is None
    # Who asked for a dose plan is not left without an answer.
    assert "no dose plan, because the result has failed" in result.notes[-1]
    assert "the outlined core (100%) lie outside" in " ".join(result.reasons)
    assert "Dice 0.00 (core) and 0.00 (whole lesion)" in result.reasons[0]
    # Mass effect is known to fail worse.
    assert "mass-effect" not in " ".join(result.notes)
    assert not {"plan_ml", "plan_overlap", "coverage_plan", "core_in_plan"} & set(result.metrics)
    assert (result.metrics["core_in_standard"], result.metrics["core_in_density"]) == (1, 0)
    asked = personalize(known, method=Put(60.0), plan_despite_failure=True)
    assert asked.quality is Status.FAILED and asked.plan is not None
    assert asked.plan.sum() == asked.standard_plan.sum() and not (known.core & ~asked.plan).any()
    assert asked.metrics["core_in_plan"] == 1


def test_what_failed_before_the_calibration_counts_too(known):
    spoilt = replace(known, notes=[*known.notes, Note(MISTAKE, Status.FAILED)])
    result = personalize(spoilt, method=Put())
    assert result.quality is Status.FAILED and result.plan is None
    assert result.reasons[0] == MISTAKE
    sound = personalize(known, method=Put())
    assert sound.quality is not Status.FAILED and sound.plan is not None


def test_the_core_is_in_the_plan_at_the_same_size(known):
    for margin in (0.0, 5.0, 15.0):
        # Beside the core, so that the highest densities miss a part of it.
        result = personalize(known, method=Put(15.0), margin=margin, plan_despite_failure=True)
        assert result.plan.sum() == result.standard_plan.sum()
        assert not (known.core & ~result.plan).any()
        assert result.metrics["core_in_density"] < 1
    assert result.metrics["lesion_in_plan"] == pytest.approx((result.plan & known.lesion).sum() / known.lesion.sum())
    assert result.margin == 15
    np.testing.assert_array_equal(personalize(known, method=Put(), margin=0.0).plan, known.core)
    for margin in (-1.0, 51.0, np.nan):
        with pytest.raises(InputError, match=r"margin: got .* give 0 to 50"):
            personalize(known, method=Put(), margin=margin)


def test_a_search_that_did_not_converge_is_doubted(known):
    result = personalize(known, method=Put(result=CalibrationResult.BUDGET))
    assert any(
        re.match("The search did not converge: the budget .* used up", note) and status_of([note]) is Status.DOUBTFUL
        for note in result.notes
    )
    for ended in (CalibrationResult.GRADIENT, CalibrationResult.VALUE, CalibrationResult.COMPLETE):
        assert not notes_on_search(ended)


@pytest.mark.parametrize(
    ("histories", "status"),
    [
        ([(90.0, 40.0, 31.0, 30.0, 29.0)], Status.GOOD),
        ([(30.3, 30.2, 29.8)], Status.GOOD),
        ([(90.0, 40.0, 31.0, 30.0, 29.0), (90.0, 80.0, 70.0, 60.0)], Status.DOUBTFUL),
        ([(90.0, 40.0)], Status.DOUBTFUL),
        ([], Status.DOUBTFUL),
    ],
)
def test_a_refinement_that_ends_with_its_budget_is_doubted_where_it_was_not_near_its_end(histories, status):
    (note,) = notes_on_search(CalibrationResult.BUDGET, histories)
    assert status_of([note]) is status


# --- notes on the fit ------------------------------------------------------------------------------------------------


def ball(middle, radius, shape=(30, 30, 30)):
    distance = np.linalg.norm(np.indices(shape).T - np.array(middle), axis=-1).T
    return distance <= radius


def outlined(core, lesion=None, labels=None):
    """A stub patient with outlines only, on voxels of 2 mm."""
    lesion = core if lesion is None else lesion
    data = np.where(core, 1, np.where(lesion, 2, 0)) if labels is None else labels
    reference = Volume(data.astype(np.uint8), np.diag([2.0, 2, 2, 1]), name="segmentation")
    brain = np.ones(core.shape, bool)
    return SimpleNamespace(reference=reference, core=core, lesion=lesion, brain=brain, images={}, notes=[])


def fit(core, lesion, *, displaces=False, fitted=True, frees=False, foci=1, ml=30.0, before=()):
    parts = ball((8, 8, 8), 4) | (ball((22, 22, 22), 4) if foci > 1 else False)
    metrics = {"dice_core": core, "dice_lesion": lesion, "tumour_ml": ml}
    known = SimpleNamespace(**{**vars(outlined(parts)), "notes": before})
    return notes_on_fit(metrics, known, SimpleNamespace(fitted=fitted, frees_density=frees), displaces=displaces)


def test_outlines_that_are_not_fitted_are_reported_in_every_path():
    assert fit(0.71, 0.8) == []
    (note,) = fit(0.5, 0.8)
    assert status_of([note]) is Status.DOUBTFUL and "--model mass-effect" in note and "weak-constraint" in note
    assert "weak-constraint" not in fit(0.5, 0.8, frees=True)[0]
    for path in ({"displaces": True}, {"foci": 2}, {"ml": 1.0}, {"fitted": False}, ASTRAY):
        (note,) = fit(0.5, 0.8, **path)
        assert status_of([note]) is Status.DOUBTFUL and "Dice 0.50 (core)" in note
        # Notes must not recommend what was done already or is worse.
        assert "mass-effect" not in note
    assert "2 separate foci" in fit(0.5, 0.8, foci=2)[0]
    assert "Mend what failed before first" in fit(0.5, 0.8, **ASTRAY)[0]
    assert "leave out --no-refine" in fit(0.5, 0.8, fitted=False)[0]
    for core, lesion in ((0.0, 0.9), (0.9, 0.05), (0.0, 0.0)):
        (note,) = fit(core, lesion)
        assert status_of([note]) is Status.FAILED and "mass-effect" not in note


def test_known_core_outside_the_highest_densities_is_reported():
    core = ball((10, 15, 15), 5)
    known, standard = outlined(core), ball((10, 15, 15), 9)
    assert notes_on_plan(known, standard, standard, standard) == []
    for shift, status in ((5, Status.DOUBTFUL), (12, Status.FAILED)):
        dense = ball((10 + shift, 15, 15), 9)
        (note, *_) = notes_on_plan(known, dense, dense | core, standard)
        assert status_of([note]) is status
        assert f"{(core & ~dense).sum() * 0.008:.1f} ml of the outlined core" in note


def test_a_focus_that_is_missed_is_reported():
    foci = ball((8, 15, 15), 5), ball((24, 15, 15), 3.5)
    core = foci[0] | foci[1]
    dense = ball((8, 15, 15), 8)
    (note, *_) = notes_on_plan(outlined(core), dense, dense | core, dense)
    assert status_of([note]) is Status.DOUBTFUL and "most of 1 of its 2 foci" in note


def test_a_plan_that_covers_less_of_the_lesion_than_the_margin_is_doubted():
    core, lesion = ball((10, 15, 15), 4), ball((10, 15, 15), 9)
    plan = core | ball((18, 15, 15), 8)
    notes = notes_on_plan(outlined(core, lesion), core | plan, plan, ball((10, 15, 15), 8))
    assert "of the outlined lesion" in notes[-1] and status_of(notes[-1:]) is Status.DOUBTFUL


def test_a_density_that_is_not_finite_has_failed():
    density, row = np.ones((3, 3, 3)), Estimate("mu1", "μ_1", 1.0, 0.1, "mm", "length")
    assert notes_on_numbers(density, density, [row]) == []
    (note,) = notes_on_numbers(density, density, [replace(row, deviation=np.nan)])
    assert status_of([note]) is Status.DOUBTFUL and "of mu1" in note
    density[1, 1, 1] = np.nan
    (note,) = notes_on_numbers(density, np.ones((3, 3, 3)), [row])
    assert status_of([note]) is Status.FAILED and "1 voxels" in note


def test_reasons_are_the_worst_first_and_each_once():
    doubt, failure = Note("b", Status.DOUBTFUL), Note("c", Status.FAILED)
    assert reasons_of(["a", doubt, failure, doubt, Note("d")]) == [failure, doubt]
    assert reasons_of(["a", Note("d")]) == []


# --- the recurrence --------------------------------------------------------------------------------------------------


def follow_up(data, *, labels=None):
    known, notes = outlined(ball((10, 15, 15), 5)), []
    affine = np.asarray(known.reference.affine)
    found = at_follow_up(Volume(np.asarray(data), affine, name="recurrence"), known, labels, notes)
    return found, notes


def test_an_interpolated_recurrence_counts_from_one_half():
    mask = ball((15, 15, 15), 6)
    soft = np.clip(1 / (1 + np.exp(np.linalg.norm(np.indices(mask.shape).T - 15.0, axis=-1).T - 6.5)), 0, 1)
    soft = (1.2 * soft - 0.1).astype(np.float32)
    found, notes = follow_up(soft)
    # Any value above zero would count half the image.
    assert (soft != 0).mean() > 0.5
    np.testing.assert_array_equal(found.tumour, soft >= 0.5)
    assert "thresholded at 0.5" in notes[0] and found.labels is None
    with pytest.raises(InputError, match="no labels"):
        follow_up(3 * soft)
    with pytest.raises(InputError, match="no labels"):
        follow_up(soft, labels=(1,))
    with pytest.raises(InputError, match="shows nothing"):
        follow_up(0.4 * soft)


def test_the_cavity_is_no_recurrence_unless_chosen():
    cavity, tumour = ball((12, 15, 15), 4), ball((20, 15, 15), 3)
    data = np.where(tumour, 3, np.where(cavity, 4, 0)).astype(np.uint8)
    found, notes = follow_up(data)
    np.testing.assert_array_equal(found.tumour, tumour)
    assert re.search(r"count as recurrence: 3 \(1\.0 ml\); not 4 \(2\.1 ml\), the resection cavity", notes[0])
    found, notes = follow_up(data, labels=(4, 9))
    np.testing.assert_array_equal(found.tumour, data == 4)
    assert "count as recurrence: 4" in notes[0] and "not 3" in notes[0]
    with pytest.raises(InputError, match=r"has no label 7; present are 3 \(1\.0 ml\), 4"):
        follow_up(data, labels=(7,))
    # Without label 3 it may be the enhancing tumour of BraTS to 2022.
    for other in (4 * cavity, 4 * cavity + 2 * tumour):
        with pytest.raises(InputError, match="give --recurrence-labels"):
            follow_up(other.astype(np.uint8))
        assert follow_up(other.astype(np.uint8), labels=(4,))[0].tumour.sum() == cavity.sum()
    # One label needs no note; values off by rounding are labels.
    found, notes = follow_up(1.00001 * tumour.astype(np.float32))
    np.testing.assert_array_equal(found.tumour, tumour)
    assert not any("count as recurrence" in note for note in notes)


def test_predictgbm_is_measured_where_its_labels_are_there():
    core, lesion = ball((10, 15, 15), 4), ball((10, 15, 15), 6)
    labels = np.where(core, 3, np.where(lesion, 2, 0))
    known = outlined(core, lesion, labels)
    again = np.where(ball((21, 15, 15), 3), 3, np.where(ball((4, 15, 15), 2), 1, 0))
    density = np.exp(-np.linalg.norm(np.indices(core.shape).T - np.array([14, 15, 15]), axis=-1).T)
    found = at_follow_up(Volume(again, np.diag([2.0, 2, 2, 1])), known, None, [])
    figures = figures_of_recurrence(found, known, density, core, core)
    assert figures["predictgbm_model"] == 1
    assert 0 < figures["predictgbm_standard"] < 1
    assert figures["coverage_plan"] == figures["coverage_standard"] == (core & (again > 0)).sum() / (again > 0).sum()
    # In other conventions 3 is oedema, or 1 the whole recurrence.
    other = outlined(core, lesion, np.where(core, 1, np.where(lesion, 3, 0)))
    plain = at_follow_up(Volume((again > 0).astype(np.uint8), np.diag([2.0, 2, 2, 1])), known, None, [])
    for one, two in ((found, other), (plain, known)):
        assert set(figures_of_recurrence(one, two, density, None, core)) == {"coverage_standard"}


def test_what_lies_outside_of_the_brain_or_is_most_of_it_is_no_recurrence():
    brain = ball((15, 15, 15), 9)
    known = outlined(ball((10, 15, 15), 5))
    known.brain = brain
    for soft in (1.0, np.float32(0.9)):
        for data, words in (
            (~brain, "ml, of which 0% lie in the brain"),
            (brain, "ml, which is 100% of the brain"),
        ):
            image = Volume(soft * data, np.asarray(known.reference.affine), name="recurrence")
            with pytest.raises(InputError, match=words):
                at_follow_up(image, known, None, [])


def test_recurrence_labels_are_numbers():
    assert parse_recurrence_labels("1, 3") == (1, 3)
    for text in ("", "1,", "a", "0", "-1", "1.5"):
        with pytest.raises(InputError, match="recurrence-labels: got"):
            parse_recurrence_labels(text)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def put(monkeypatch):
    def use(shift):
        monkeypatch.setattr(commands, "method_of", lambda options: Put(shift))

    return use


def test_a_failed_result_has_a_code_of_its_own_and_no_plan(files, put, tmp_path, monkeypatch, capsys):
    put(60.0)
    command = [*patient(files, "recurrence"), "--recurrence-labels=1", "--margin=10"]
    assert main([*command, f"--out={tmp_path / 'out'}"]) == 3
    printed, out = capsys.readouterr(), tmp_path / "out"
    assert printed.out.startswith("quality: failed\n  The model's outlines have Dice 0.00")
    assert "error" not in printed.err and "has failed, and it has no plan: the reasons are above" in printed.err
    metrics = read(out / "metrics.json")
    assert list(metrics)[:2] == ["quality", "quality_reasons"]
    assert metrics["quality"] == "failed" and "Dice 0.00" in metrics["quality_reasons"][0]
    assert "coverage_plan" not in metrics and metrics["coverage_standard"] > 0.5
    assert (out / "density.nii.gz").is_file() and not (out / "plan.nii.gz").exists()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'class="verdict failed"' in page and 'class="cards failed"' in page
    assert page.index("this result must not be used") < page.index(metrics["quality_reasons"][0].split("'")[0])
    assert page.index("this result must not be used") < page.index("<h1>")
    assert "10 mm margin" in page and "15 mm" not in page
    # The plan is written only on request, and the exit code stays the same.
    monkeypatch.setattr(results, "write_report", lambda folder, data: None)
    assert main([*command, "--plan-despite-failure", "--quiet", f"--out={tmp_path / 'asked'}"]) == 3
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and "its plan must not be used" in printed.err
    plan = nib.load(tmp_path / "asked" / "plan.nii.gz").get_fdata() > 0
    core = nib.load(files["segmentation"]).get_fdata() == 1
    assert not (core & ~plan).any()


def test_refuses_margins_and_labels(files, tmp_path, capsys):
    for option, told in (("--margin=-3", "margin: got -3"), ("--recurrence-labels=x", "recurrence-labels: got 'x'")):
        assert main([*patient(files), option, f"--out={tmp_path / 'out'}"]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_long_value_is_shown_whole(capsys):
    digest = "0123456789abcdef" * 10
    Screen(quiet=False, as_json=False).results({"fingerprint": digest}, "out")
    assert digest in capsys.readouterr().out.replace("\n", "").replace(" ", "")


def test_the_screen_colours_what_cannot_be_used(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for status, code in ((Status.GOOD, None), (Status.DOUBTFUL, "33"), (Status.FAILED, "31")):
        said, told = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", said)
        monkeypatch.setattr(sys, "stderr", told)
        screen = Screen(quiet=False, as_json=False)
        screen.note(Note("A remark.", status))
        screen.results({"quality": str(status), "quality_reasons": ["Why."], "dice_core": 0.5}, "out")
        first = said.getvalue().splitlines()[0]
        assert f"quality: {status}" in first
        coloured = [re.search(rf"\x1b\[(\d+;)*{code}m", text) is not None for text in (first, told.getvalue())]
        assert coloured == [code is not None] * 2


def test_json_holds_the_quality(capsys):
    screen = Screen(quiet=False, as_json=True)
    metrics = {"quality": "doubtful", "quality_reasons": ["Why."], "dice_core": 0.5}
    screen.results(metrics, "out")
    assert json.loads(capsys.readouterr().out) == metrics
