"""From images of several days to files and report: tables, alignment of days, treatments, forecast, bad input."""

import csv
import json
import re
from dataclasses import fields, replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from tests.problems import ball_brain
from tumorjax.atlas import load_atlas
from tumorjax.calibration import UNKNOWN_SPEED, Forecast
from tumorjax.cli import main
from tumorjax.cli.options import method_of
from tumorjax.cli.parser import command_parser
from tumorjax.grid import Grid
from tumorjax.growth import Chemotherapy, FisherKolmogorov, GrowthParams, Radiotherapy, Surgery
from tumorjax.integrate import Calendar, simulate
from tumorjax.io import InputError, Volume, resample
from tumorjax.methods import LBFGS, MultiAtlas
from tumorjax.patient import load_patient, load_visits
from tumorjax.patient.prescription import Prescription
from tumorjax.patient.visits import without_last
from tumorjax.pipeline import decisions, load_treatments
from tumorjax.pipeline.course import check_forecast, check_of_forecast, fit_of_visits, notes_on_forecast
from tumorjax.pipeline.decisions import dose_plan_of, scan_gains_of
from tumorjax.pipeline.problems import problem_of
from tumorjax.pipeline.treatments import course_of, done_and_to_come
from tumorjax.planning import dice
from tumorjax.prior import LogNormal, SameAs
from tumorjax.quality import Status, status_of
from tumorjax.report.course import bands_png
from tumorjax.results.course import course_section
from tumorjax.results.provenance import finished
from tumorjax.sections import Band, Bands

pytestmark = pytest.mark.usefixtures("jax_as_installed")

SPACING = 8.0
TRUTH = GrowthParams(0.3, 0.05, np.array([-25.0, -10.0, 15.0]), 170.0)
# Radiation of unknown effect between the first two visits, and again after the second.
RADIATION, ALPHA = (10.0, 11.0, 12.0, 70.0, 71.0), 0.04
DAYS, LATER = (0.0, 60.0), 110.0
THRESHOLDS = {"core": 0.6, "lesion": 0.2}
# An image of the diffusion of water on the second day: its noise as a density, and its unit, mm^2/s.
NOISE, WATER, DENSE, UNIT = 0.05, 3.0e-3, 0.8e-3, 1e-6


@pytest.fixture(scope="module")
def truth(atlas):
    """The density on each day, by day, and the grid."""
    anatomy = ball_brain((22, 22, 22), SPACING)
    treatments = (Radiotherapy(RADIATION, 4.0, ALPHA),)
    series = simulate(
        FisherKolmogorov(), TRUTH, anatomy, treatments=treatments, calendar=Calendar.of((*DAYS, LATER), treatments)
    ).series
    return dict(zip((*DAYS, LATER), np.asarray(series), strict=True)), anatomy.grid


def labels(density):
    return np.select([density > u for u in THRESHOLDS.values()], [1, 2], 0).astype(np.uint8)


def volume(data, grid, name="image"):
    return Volume(np.asarray(data), np.asarray(grid.affine), name=name)


@pytest.fixture(scope="module")
def folder(truth, atlas, tmp_path_factory):
    """A folder with the tables and the images of two visits."""
    place, (densities, grid) = tmp_path_factory.mktemp("visits"), truth
    for day in DAYS:
        nib.save(nib.Nifti1Image(labels(densities[day]), grid.affine), place / f"seg_{day:g}.nii.gz")
    cells = densities[60.0] + NOISE * np.random.default_rng(0).normal(size=grid.shape)
    # Oedema is as wet as necrosis, which would read as no cells at all.
    wet = np.where(densities[60.0] > THRESHOLDS["core"], WATER - (WATER - DENSE) * cells, WATER) / UNIT
    nib.save(nib.Nifti1Image(wet.astype(np.float32), grid.affine), place / "adc_60.nii.gz")
    (place / "visits.csv").write_text("day,segmentation,adc\n0,seg_0.nii.gz,\n60,seg_60.nii.gz,adc_60.nii.gz\n")
    rows = "".join(f"{day:g},radiation,4\n" for day in RADIATION)
    (place / "treatments.csv").write_text(f"day,kind,dose\n{rows}")
    return place


def command(folder, atlas, *options, visits="visits.csv", out="out"):
    tissue = [f"--{name}={atlas / name}.nii.gz" for name in ("wm", "gm", "csf")]
    return [
        "personalize",
        f"--visits={folder / visits}",
        *tissue,
        f"--resolution={SPACING:g}",
        *options,
        f"--out={out}",
    ]


@pytest.fixture(scope="module")
def organ(truth, folder):
    """The path of a mask on finer voxels, of a part of the lesion: its half to the right, beyond a plane."""
    densities, grid = truth
    inside = densities[DAYS[-1]] > THRESHOLDS["lesion"]
    inside[: int(np.argwhere(inside)[:, 0].mean()) + 1] = False
    fine = grid.with_spacing(SPACING / 2)
    mask = resample(inside.astype(np.uint8), np.asarray(grid.affine), fine, kind="nearest")
    nib.save(nib.Nifti1Image(mask, np.asarray(fine.affine)), folder / "organ.nii.gz")
    return folder / "organ.nii.gz"


@pytest.fixture(scope="module")
def results(folder, organ, atlas, plainly, tmp_path_factory):
    """The results of the command."""
    out = tmp_path_factory.mktemp("results") / "out"
    options = [f"--treatments={folder / 'treatments.csv'}", f"--forecast={LATER:g}", "--quiet"]
    options += ["--plan-dose=5x2.5", "--plan-start=75", "--maximum-dose=20", f"--spare=organ={organ}:10"]
    options += ["--next-scan=65,100", "--animate"]
    # Most of the time is compilation.
    with plainly(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("tumorjax.cli.commands.method_of", lambda options: LBFGS(starts=1, coarsening=1))
        patch.setattr("tumorjax.pipeline.course._SOLVES", 40)
        patch.setattr("tumorjax.pipeline.growth._TIMES", 8)
        patch.setattr("tumorjax.pipeline.decisions._DRAWS", {"dose": 2, "scan": 2})
        assert main(command(folder, atlas, *options, out=out)) == 0
    return out


def test_rates_and_the_day_of_the_seed_are_found(results):
    rows = json.loads((results / "parameters.json").read_text())["parameters"]
    known = {
        "diffusivity": TRUTH.diffusivity,
        "proliferation": TRUTH.proliferation,
        "speed": 2 * np.sqrt(TRUTH.diffusivity * TRUTH.proliferation),
        "seed_day": -TRUTH.duration,
        "radiation_alpha": ALPHA,
    }
    for name, value in known.items():
        low, high = rows[name]["interval_90"]
        assert low < rows[name]["value"] < high and not rows[name]["fixed"]
        # Labels of voxels of 8 mm are all there is.
        room = 0.5 * (high - low)
        assert low - room < value < high + room, name
    assert rows["seed_day"]["value"] == pytest.approx(-rows["duration"]["value"], rel=1e-4)
    assert rows["seed_day"]["unit"] == "day"


def test_the_diffusion_of_water_shows_the_density_in_the_core(results):
    record = json.loads((results / "parameters.json").read_text())
    rows, range_of_adc = record["parameters"], (WATER - DENSE) / UNIT
    assert rows["adc_capacity"]["value"] == pytest.approx(range_of_adc, rel=0.1)
    assert rows["adc_noise"]["value"] == pytest.approx(NOISE * range_of_adc, rel=0.6)
    assert rows["adc_capacity"]["unit"] == rows["adc_noise"]["unit"] == "1e-6 mm²/s"
    # That no noise is in proportion to the value is no finding.
    known = rows["adc_relative"]
    assert known["fixed"] and known["value"] == 0 and known["standard_deviation"] is None
    assert not rows["adc_noise"]["fixed"]
    assert "sha256 of ADC of day 60" in record["provenance"]
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "On day 60: The ADC image is taken to be in 1e-6 mm^2/s" in page
    assert "none at 3e-3 mm^2/s" in page and "Fit to ADC</h2>" in page


def test_the_table_of_volumes_has_visits_and_forecast(results, truth):
    with open(results / "forecast.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["day"], row["kind"], row["outline"]) for row in rows] == [
        (day, kind, name)
        for day, kind in (("0", "visit"), ("60", "visit"), ("110", "forecast"))
        for name in ("core", "lesion")
    ]
    voxel = SPACING**3 / 1000
    for row in rows:
        low, middle, high = (float(row[f"volume_ml_{share}"]) for share in (5, 50, 95))
        assert low <= middle <= high
        true = (truth[0][float(row["day"])] > THRESHOLDS[row["outline"]]).sum() * voxel
        if row["kind"] == "visit":
            assert float(row["outlined_ml"]) == pytest.approx(true, abs=1e-3)
        else:
            assert row["outlined_ml"] == ""
        # A few voxels beside the band.
        assert low - 8 * voxel <= true <= high + 8 * voxel


def test_maps_of_each_day_and_the_report(results, truth, folder):
    names = {path.name for path in results.iterdir()}
    assert {f"density{kind}_day_{day}.nii.gz" for kind in ("", "_std") for day in (0, 60, 110)} <= names
    for day in (*DAYS, LATER):
        density = nib.load(results / f"density_day_{day:g}.nii.gz")
        np.testing.assert_allclose(density.affine, nib.load(folder / "seg_0.nii.gz").affine)
        assert dice(density.get_fdata() > 0.2, truth[0][day] > 0.2) > 0.8
    page = (results / "report.html").read_text(encoding="utf-8")
    assert page.index("Course over time") < page.index('id="fit"')
    assert f"<h1>{folder.name}, days 0 and 60</h1>" in page
    provenance = json.loads((results / "parameters.json").read_text())["provenance"]
    assert {"sha256 of segmentation", "sha256 of segmentation of day 60"} <= provenance.keys()


def test_a_cohort_knows_whether_results_are_those_of_the_images(results, folder):
    command = json.loads((results / "parameters.json").read_text())["provenance"]["command"]
    image = folder / "seg_60.nii.gz"
    kept = image.read_bytes()
    metrics = finished(results, command)
    speed = json.loads((results / "parameters.json").read_text())["parameters"]["speed"]
    assert metrics["speed_mm_per_day"] == speed["value"]
    assert [metrics[f"speed_mm_per_day_{share}"] for share in (5, 95)] == speed["interval_90"]
    try:
        image.write_bytes(kept + b" ")
        with pytest.raises(InputError, match=r"has results of other settings \(other visits\)"):
            finished(results, command)
    finally:
        image.write_bytes(kept)


def test_a_planned_dose_leaves_fewer_cells_and_spares_the_organ(results, organ):
    written = json.loads((results / "parameters.json").read_text())["dose_plan"]
    # On five days a week, from day 75 on.
    assert (written["first_day"], written["last_day"], written["counted_on_day"]) == (75, 79, 80)
    planned, uniform = written["planned"], written["uniform"]
    assert 0 < planned["cells_ml"] < uniform["cells_ml"]
    assert planned["integral_dose_gy_l"] <= 1.02 * uniform["integral_dose_gy_l"]
    assert uniform["highest_gy"] == pytest.approx(12.5) and planned["highest_gy"] <= 20.001
    assert uniform["spared"]["organ"]["highest_gy"] > 10 >= planned["spared"]["organ"]["highest_gy"] - 1e-6
    dose = nib.load(results / "dose.nii.gz")
    like = nib.load(results / "density.nii.gz")
    np.testing.assert_allclose(dose.affine, like.affine)
    mask = resample(nib.load(organ).get_fdata(), nib.load(organ).affine, Grid(like.shape, like.affine), kind="mean") > 0
    assert dose.get_fdata()[mask].max() <= 10.01 and dose.get_fdata().max() > 12.5
    assert written["objective"] == "cells" and 0 < written["cells_over_uniform"] < 1
    metrics = json.loads((results / "metrics.json").read_text())
    assert metrics["cells_left_ml"] == planned["cells_ml"]
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "Dose plan</h2>" in page and "One visit shows no speed" not in page


def test_the_next_scan_says_more_the_later_it_is(results):
    with open(results / "next_scan.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["day"], row["volume_day"]) for row in rows] == [("65", "110"), ("100", "110")]
    speed, volume = ([float(row[name]) for row in rows] for name in ("speed_nat", "volume_nat"))
    assert 0 < volume[0] < volume[1] and min(speed) > 0
    assert "Next scan</h2>" in (results / "report.html").read_text(encoding="utf-8")


def test_the_animation_follows_the_days(results):
    page = (results / "animation.html").read_text(encoding="utf-8")
    times = json.loads(re.search(r'id="times">(.*?)</script>', page)[1])["moments"]
    labels = [each["label"] for each in times]
    days = [float(label.split(",")[0].removeprefix("Day ")) for label in labels]
    # From the seed, about 170 days before the first visit, over visits and treatments to the last day.
    assert days == sorted(days) and days[0] < -50 and {0.0, 60.0} < set(days) and days[-1] == LATER
    assert "Day 0" in labels and labels[-1] == "Day 110, forecast"
    assert "forecast" not in " ".join(label for label, day in zip(labels, days, strict=True) if day <= 60)
    assert "days are those of the visits&#39; clock" in page


# One visit, and images in memory.


def test_a_plan_from_one_visit_is_on_its_clock_at_unknown_speed(folder, atlas, monkeypatch):
    given = []
    monkeypatch.setattr(decisions, "plan_dose", lambda *words, **more: given.append((words, more)) or 1 / 0)
    monkeypatch.setattr(decisions, "scan_gains", lambda *words, **more: given.append((words, more)) or 1 / 0)
    patient = load_visits([{"day": 7, "segmentation": folder / "seg_0.nii.gz"}], **maps(atlas), resolution=8)
    problem = problem_of(patient, FisherKolmogorov())
    prescription, notes = Prescription(10, 2.0), []
    course = course_of(prescription, patient.day, {}, notes)
    assert course.days == (7, 8, 9, 10, 11, 14, 15, 16, 17, 18) and float(course.alpha) == pytest.approx(0.035)
    assert "No visit shows the effect of the planned dose: alpha is assumed to be 0.035" in notes[0]
    quiet = {"key": None, "progress": print}
    drug = {"drug": Chemotherapy(9, 90, 0.1)}
    with pytest.raises(ZeroDivisionError):
        dose_plan_of(patient, problem, None, patient.lesion, prescription, course, treatments=drug, **quiet)
    with pytest.raises(ZeroDivisionError):
        scan_gains_of(patient, problem, None, [37.0, 67.0], 97.0, treatments={}, **quiet)
    ((_, _, planned, day), more), ((_, _, days, until), further) = given
    # A problem of one date has no day but zero.
    assert planned.days == (0, 1, 2, 3, 4, 7, 8, 9, 10, 11) and day == 12 and more["treatments"]["drug"].start == 2
    # The fastest of the prior's speeds alone would decide where the fewest cells survive.
    assert more["objective"] == "log-kill"
    assert more["speed"] is further["speed"] is UNKNOWN_SPEED and (days, until) == ([30.0, 60.0], 90.0)
    inside = np.asarray(planned.dose) > 0
    assert np.unique(planned.dose).tolist() == [0, 2]
    assert inside.sum() == pytest.approx(patient.lesion.sum(), rel=0.05)


def maps(atlas):
    return {name: atlas / f"{short}.nii.gz" for name, short in (("white_matter", "wm"), ("grey_matter", "gm"))}


def test_one_visit_is_the_patient_of_one_date(folder, atlas):
    given = {"segmentation": folder / "seg_0.nii.gz"}
    one, plain = (
        load_visits([{"day": 7, **given}], **maps(atlas), resolution=8),
        load_patient(**given, **maps(atlas), resolution=8),
    )
    assert (one.day, one.earlier, one.visits) == (7, (), (one,))
    for field in fields(plain):
        a, b = getattr(one, field.name), getattr(plain, field.name)
        if isinstance(b, np.ndarray):
            np.testing.assert_array_equal(a, b)
        elif field.name in ("notes", "hashes", "has_skull"):
            assert a == b


@pytest.fixture(scope="module")
def head():
    """A brain in voxels of 5 mm, and outlines of three days in it."""
    atlas = load_atlas("icbm152")
    grid = atlas.t1.grid.with_spacing(5.0)
    t1 = resample(atlas.t1.data, atlas.t1.affine, grid, kind="mean")
    points = np.asarray(grid.to_world(np.moveaxis(np.indices(grid.shape).astype(float), 0, -1)))
    distance = np.linalg.norm(points - [-30.0, -5.0, 35.0], axis=-1)
    outlines = [np.select([distance < r, distance < r + 8], [1, 2], 0).astype(np.uint8) for r in (11.0, 17.0, 22.0)]
    tissue = {"white_matter": atlas.white_matter, "grey_matter": atlas.grey_matter, "csf": atlas.csf}
    return grid, t1, outlines, tissue


def test_a_later_day_is_moved_onto_the_first(head):
    grid, t1, (first, second, _), tissue = head
    angle, moved = np.deg2rad(8.0), np.eye(4)
    moved[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    moved[:3, 3] = [6.0, -9.0, 12.0]
    turned = Grid(grid.shape, moved @ np.asarray(grid.affine))
    flair = volume(0.5 * t1, turned)
    later = {"day": 30, "segmentation": volume(second, turned), "t1": volume(1.3 * t1, turned), "flair": flair}
    rows = [{"day": 0, "segmentation": volume(first, grid), "t1": volume(t1, grid), "flair": volume(t1, grid)}, later]
    patient = load_visits(rows, **tissue, resolution=8)
    assert [each.day for each in patient.visits] == [0, 30]
    assert dice(patient.lesion, second > 0) > 0.93 and dice(patient.earlier[0].lesion, first > 0) == 1
    assert any(note.startswith("On day 30: It is moved onto day 0 by a rigid map") for note in patient.notes)
    assert float(patient.lesion_fraction.sum()) > 1.5 * float(patient.earlier[0].lesion_fraction.sum())
    # Of each day the report shows its own FLAIR image, where the lesion of that day is.
    shown = patient.images["FLAIR"]
    np.testing.assert_array_equal(shown.data, flair.data)
    np.testing.assert_allclose(shown.affine, np.asarray(grid.affine), atol=1.0)
    np.testing.assert_array_equal(patient.earlier[0].images["FLAIR"].data, t1)
    # What lies there already is not resampled.
    still = [rows[0], {"day": 30, "segmentation": volume(second, grid), "t1": volume(1.3 * t1, grid)}]
    again = load_visits(still, **tissue, resolution=8)
    np.testing.assert_array_equal(again.lesion, second > 0)
    # That of the first day is none of the second.
    assert "FLAIR" not in again.images


def test_another_geometry_is_refused(head):
    grid, _, (first, second, _), tissue = head
    away = np.eye(4)
    away[0, 3] = -60.0
    rows = [{"day": 0, "segmentation": volume(first, grid)}, {"day": 30, "segmentation": volume(second, grid)}]
    rows[1]["segmentation"] = volume(second, Grid(grid.shape, away @ np.asarray(grid.affine)))
    with pytest.raises(
        InputError, match=r"segmentation of day 30: has a lesion of which \d+% lies in the brain of day"
    ):
        load_visits(rows, **tissue, resolution=8)
    apart = np.roll(second, 14, axis=0)
    found = load_visits([rows[0], {"day": 30, "segmentation": volume(apart, grid)}], **tissue, resolution=8)
    assert any("shares no voxel" in note for note in found.notes) and status_of(found.notes) is Status.DOUBTFUL


def test_a_forecast_is_checked_against_a_scan_that_was_kept_back(head):
    grid, _, (first, second, third), tissue = head
    outlines = [(0, first), (30, second), (60, third)]
    rows = [{"day": day, "segmentation": volume(each, grid)} for day, each in outlines]
    kept = load_visits(rows, **tissue, resolution=8)
    known = without_last(kept)
    assert [each.day for each in known.visits] == [0, 30] and known.lesion is kept.earlier[1].lesion
    assert not any(note.startswith("On day 60") for note in known.notes)
    with pytest.raises(InputError, match="got 2 visits; a scan can be kept back from 3 or more"):
        without_last(known)
    # Half of the draws have the outline of the last day, and half that of the day before.
    inside = {"core": (kept.core + 0.6 * known.core) / 1.6, "lesion": 1.0 * kept.lesion}
    sizes = {"core": [known.core.sum(), kept.core.sum() + 1], "lesion": [kept.lesion.sum() + 1, kept.lesion.sum() - 1]}
    volumes = {name: np.repeat(np.array(each, float)[:, None] * 5.0**3, 2, axis=1) for name, each in sizes.items()}
    days, probable = np.array([30.0, 60.0]), {name: np.stack([0 * p, p]) for name, p in inside.items()}
    found = Forecast(days, days, volumes, inside=probable)
    checked = check_of_forecast(found, known, kept)
    assert checked["held_out_dice_core"] == checked["held_out_dice_lesion"] == checked["held_out_covered_core"] == 1
    assert checked["held_out_dice_core_unchanged"] == dice(known.core, kept.core) < 0.8
    assert checked["held_out_rank_core"] == checked["held_out_rank_lesion"] == 0.5
    # A volume outside of the band is a reason for doubt.
    assert notes_on_forecast(found, kept, checked) == []
    ml = kept.core.sum() * float(kept.reference.grid.voxel_volume) / 1000
    (note,) = notes_on_forecast(found, kept, {**checked, "held_out_rank_core": 0.96})
    assert f"which was kept back, the core has {ml:.1f} ml, above the forecast's 90 % band of " in note
    assert status_of([note]) is Status.DOUBTFUL
    (note,) = notes_on_forecast(found, kept, {**checked, "held_out_rank_lesion": 0.04})
    assert "the whole lesion has" in note and "below the forecast's 90 % band" in note
    # A report shows volumes and check of a forecast without maps.
    shown = {"patient": known, "kept": kept, "treatments": {}, "slices": None, "metrics": checked}
    (section,) = course_section(SimpleNamespace(forecast=found, **shown))
    assert [type(block).__name__ for block in section.blocks] == ["Bands", "Table", "Table"]
    assert [row[:2] for row in section.blocks[1].rows] == [
        [day, name] for day in ("30", "60") for name in ("core", "whole lesion")
    ]
    # Draws whose solve failed are counted.
    some = Forecast(np.zeros(1), np.zeros(1), {"core": np.ones((2, 1))}, density=1.0 * (first > 0)[None], failed=3)
    unknown = {name: SimpleNamespace(threshold=0.5) for name in inside}
    calibration = SimpleNamespace(centre=SimpleNamespace(observations=unknown))
    figures, notes = fit_of_visits(known, calibration, some)  # pyright: ignore
    assert figures["dice_lesion_day_0"] == 1
    assert notes[0] == "3 of the 5 solves of the forecast gave no density and are left out of it."


# Treatments.


def test_a_table_of_treatments(tmp_path):
    table = tmp_path / "treatments.csv"
    table.write_text(
        "day,kind,dose,fractions,until\n70,radiation,4,,\n20,radiation,2,6,\n70,drug,,,80\n10,drug,,,15\n5,surgery,,,\n"
    )
    found = load_treatments(table)
    assert found["radiation"].days == (20, 21, 22, 23, 24, 27) and float(found["radiation"].dose) == 2
    assert found["radiation_2"].days == (70,) and found["radiation_2"].alpha == SameAs("treatments.radiation.alpha")
    assert found["drug"].when == (10, 15) and found["drug_2"].rate == SameAs("treatments.drug.rate")
    assert isinstance(found["radiation"].alpha, LogNormal) and isinstance(found["drug"].rate, LogNormal)
    assert found["surgery"].day == 5 and float(found["surgery"].cavity) == 1


def test_treatments_are_divided_at_the_last_visit(head):
    grid, _, (first, second, _), tissue = head
    hollow = np.where(first == 1, 4, second).astype(np.uint8)
    rows = [
        {"day": 0, "segmentation": volume(first, grid)},
        {"day": 30, "segmentation": volume(hollow, grid), "labels": {"core": (1,), "edema": (2,), "cavity": (4,)}},
    ]
    patient = load_visits(rows, **tissue, resolution=8)
    alpha, notes = LogNormal(0.035, 0.5), []
    given = {
        "radiation": Radiotherapy((10, 29, 30, 40), 2.0, alpha),
        "boost": Radiotherapy((45,), 6.0, SameAs("treatments.radiation.alpha")),
        "drug": Chemotherapy(35, 45, LogNormal(0.02, 1.0)),
        "surgery": Surgery(5, 0.75),
    }
    done, later = done_and_to_come(given, patient, [60.0], notes)
    assert done["radiation"].days == (10, 29) and done["radiation"].alpha is alpha
    assert later["radiation_to_come"].days == (30, 40)
    assert {later[f"{name}_to_come"].alpha for name in ("radiation", "boost")} == {SameAs("treatments.radiation.alpha")}
    assert float(later["drug_to_come"].rate) == pytest.approx(0.02, rel=1e-5)
    assert len(notes) == 1 and "rate is assumed to be 0.02" in notes[0]
    cavity = done["surgery"].cavity
    assert cavity.shape == patient.anatomy.grid.shape
    removed = float(cavity.sum()) * 8.0**3
    assert removed == pytest.approx(0.75 * patient.cavity.sum() * 5.0**3, rel=0.02)
    with pytest.raises(InputError, match=r"radiation on day 40 acts on no visit \(the last is on day 30\)"):
        done_and_to_come({"radiation": given["radiation"]}, patient, [], [])
    with pytest.raises(InputError, match="surgery on day 40 comes after the last visit"):
        done_and_to_come({"surgery": Surgery(40, 1.0)}, patient, [60.0], [])
    with pytest.raises(InputError, match="segmentation of day 30 shows no cavity"):
        done_and_to_come({"surgery": given["surgery"]}, replace(patient, cavity=None), [], [])


# Bad input: one line, exit code 2, nothing written.

VISITS = {
    "day,segmentation\n60,seg_60.nii.gz\n0,seg_0.nii.gz\n": "line 3: day 0 comes after day 60",
    "day,segmentation\n0,seg_0.nii.gz\n0,seg_60.nii.gz\n": "line 3: day 0 is there twice",
    "day,segmentation\n0,seg_0.nii.gz\n60,seg_0.nii.gz\n": "is that of another day, too",
    "day,segmentation\n0,seg_0.nii.gz\n60\n": "line 3: has 1 cells, the header 2",
    "day,segmentation\n0,seg_0.nii.gz\n60,seg_6": "seg_6 does not exist; check the paths, which are relative",
    "day,segmentation,t2\n0,seg_0.nii.gz,\n": "unknown column 't2'; known are day, segmentation, t1, pet, adc, flair",
    "segmentation\nseg_0.nii.gz\n": "has no column 'day'; found segmentation",
    "day,segmentation\nmonday,seg_0.nii.gz\n": "line 2: got the day 'monday'; give a number",
    "day,segmentation\n,seg_0.nii.gz\n": "line 2: has no day",
    "day,segmentation,adc\n0,seg_0.nii.gz,adc.nii.gz\n": "adc.nii.gz does not exist; check the paths",
    "day,segmentation,labels\n0,seg_0.nii.gz,core=0\n": "line 2: labels: got 'core=0'",
    "day,segmentation\n": "lists no visit",
}
TREATMENTS = {
    "day,kind,dose\n10,radiation,-2\n": "line 2: got dose '-2'; give a number that is not negative",
    "day,kind,dose\n10,radiation,0\n": "line 2: got a dose of 0 Gy",
    "day,kind,dose\n10,radiation,\n": "line 2: has no dose; a row of radiation needs one",
    "day,kind,dose\n10,rays,2\n": "line 2: got the kind 'rays'; give radiation, drug, surgery",
    "day,kind,until\n10,drug,5\n": "line 2: a drug from day 10 until day 5",
    "day,kind,dose\n10,surgery,2\n": "line 2: dose is not for surgery",
    "day,kind,dose,fractions\n10,radiation,2,2.5\n": "line 2: got '2.5' fractions",
    "day,kind,dose\n-3,radiation,2\n": "line 2: got day '-3'; give a number that is not negative",
    "day,dose\n10,2\n": "has no column 'kind'",
    "day,kind,dose\n60,radiation,2\n": "radiation on day 60 acts on no visit (the last is on day 60)",
}


def assert_refused(words, message, out, capsys):
    try:
        code = main(words)
    except SystemExit as leaving:
        code = leaving.code
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2 and message in line, line
    assert not out.exists() and not list(out.parent.iterdir())


@pytest.mark.parametrize("text", VISITS)
def test_tables_of_visits_that_are_refused(folder, atlas, text, tmp_path, capsys):
    (folder / "bad.csv").write_text(text)
    out = tmp_path / "out"
    assert_refused(command(folder, atlas, "--quiet", visits="bad.csv", out=out), VISITS[text], out, capsys)


@pytest.mark.parametrize("text", TREATMENTS)
def test_tables_of_treatments_that_are_refused(folder, atlas, text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tumorjax.cli.commands.load_visits", lambda *given, **more: pytest.fail("images are read"))
    (folder / "bad.csv").write_text(text)
    out = tmp_path / "out"
    words = command(folder, atlas, f"--treatments={folder / 'bad.csv'}", "--quiet", out=out)
    assert_refused(words, TREATMENTS[text], out, capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--forecast=30"], "forecast: got day 30, but the last visit is on day 60; give later days"),
        (["--forecast=soon"], "forecast: got 'soon'; write days with commas between"),
        (["--forecast=nan"], "forecast: got the days nan; give finite numbers"),
        (
            ["--model=mass-effect", "--method=multi-atlas"],
            "method: multi-atlas is for images of one date without treatment, and 2 visits are given; give --method "
            "with one of lbfgs, weak-constraint, tmcmc, nuts, npe, ",
        ),
        (["--hold-out"], "hold-out: got 2 visits; a scan can be kept back from 3 or more"),
        (["--t1=t1.nii.gz"], "t1: of several visits it is a column of the table; leave out --t1"),
        (["--segmentation=s.nii.gz"], "not allowed with argument --visits"),
    ],
)
def test_options_that_do_not_go_with_visits(folder, atlas, options, message, tmp_path, capsys):
    out = tmp_path / "out"
    assert_refused(command(folder, atlas, *options, "--quiet", out=out), message, out, capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plan-dose=0x2"], "plan-dose: got 0 fractions; give a whole number from 1 to 1000"),
        (["--plan-dose=30"], "plan-dose: got '30'; give fractions and Gy a fraction, such as 30x2"),
        (["--plan-dose=30x-2"], "plan-dose: got -2 Gy a fraction; give a dose above zero"),
        (["--plan-dose=30x2", "--maximum-dose=50"], "maximum-dose: got 50 Gy, less than the 60 Gy of the course"),
        (["--plan-dose=30x2", "--plan-start=59"], "plan-start: got day 59, but the last visit is on day 60"),
        (["--plan-objective=cells"], "plan-objective: is for a dose plan; give --plan-dose, or leave it out"),
        (["--plan-start=70"], "plan-start: is for a dose plan; give --plan-dose, or leave it out"),
        (["--plan-dose=30x2", "--spare=eye"], "spare: got 'eye'; give a name, a mask and Gy of the whole course"),
        (["--plan-dose=30x2", "--spare=eye={organ}:-1"], "spare eye: got -1 Gy; give the highest dose"),
        (["--plan-dose=30x2", "--spare=eye={organ}:1", "--spare=eye={organ}:1"], "spare: got eye twice"),
        (["--plan-dose=30x2", "--spare=eye={empty}:1"], "is empty; give a mask that is 1 in the organ"),
        (["--plan-dose=30x2", "--spare=eye={labels}:1"], "has values from 0 to 2; give a mask that is 1 in the organ"),
        (["--plan-dose=30x2", "--spare=eye={away}:1"], "shows nothing in the patient's image; give a mask in the same"),
        (["--next-scan=60,90"], "next-scan: got day 60, but the last visit is on day 60; give later days"),
        (["--next-scan=soon"], "next-scan: got 'soon'; write days with commas between"),
    ],
)
def test_plans_and_scans_that_are_refused(folder, organ, atlas, options, message, tmp_path, capsys):
    paths = {"organ": organ, "labels": folder / "seg_0.nii.gz"}
    for name, value, affine in (("empty", 0, np.eye(4)), ("away", 1, np.eye(4) + 1e4 * np.eye(4, k=3))):
        paths[name] = folder / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(np.full((2, 2, 2), value, np.uint8), affine), paths[name])
    out, given = tmp_path / "out", [option.format(**paths) for option in options]
    assert_refused(command(folder, atlas, *given, "--quiet", out=out), message, out, capsys)


def test_options_that_need_visits(tmp_path, capsys):
    out = tmp_path / "out"
    for option in ("--treatments=t.csv", "--forecast=3", "--hold-out"):
        words = ["personalize", "--segmentation=s.nii.gz", option, "--quiet", f"--out={out}"]
        assert_refused(words, "is for several visits; give --visits, or leave it out", out, capsys)
    with pytest.raises(InputError, match="one date says nothing of the speed of growth"):
        check_forecast([90.0], [0.0])
    words = ["personalize", "--segmentation=s.nii.gz", "--next-scan=0", "--quiet", f"--out={out}"]
    assert_refused(words, "got day 0, but the scan itself is day 0; give how many days later", out, capsys)


def test_several_visits_have_a_default_method_that_takes_them():
    words = ["personalize", "--model=mass-effect", "--visits=v.csv", "--out=o"]
    assert isinstance(method_of(command_parser().parse_args(words)), LBFGS)
    assert isinstance(
        method_of(command_parser().parse_args([*words[:2], "--segmentation=s.nii", "--out=o"])), MultiAtlas
    )


def test_a_patient_is_named_by_table_or_folder(folder, atlas):
    options = {**maps(atlas), "resolution": 8}
    assert load_visits(folder / "visits.csv", **options).name == folder.name
    rows = [{"day": day, "segmentation": folder / f"seg_{day}.nii.gz"} for day in (0, 60)]
    assert load_visits(rows, **options).name == folder.name
    assert load_visits(rows[:1], **options).name == ""
    (folder / "anna.csv").write_text((folder / "visits.csv").read_text())
    assert load_visits(folder / "anna.csv", **options).name == "anna"


def test_a_segmentation_without_a_tumour_is_named_with_its_day(folder, truth, atlas):
    _, grid = truth
    rows = [
        {"day": 0, "segmentation": folder / "seg_0.nii.gz"},
        {"day": 9, "segmentation": volume(0 * labels(np.ones(grid.shape)), grid)},
    ]
    with pytest.raises(InputError, match="segmentation of day 9: is empty"):
        load_visits(rows, **maps(atlas), resolution=8)


def test_names_in_the_chart_are_only_text():
    hostile = "$\\frac{1}{$ <script>\x1b"
    days = np.array([0.0, 10.0])
    band = Band(hostile, days, days, days + 1, days + 2, [(0.0, 1.0)])
    picture = bands_png(Bands(hostile, [band], [(hostile, 2.0, 5.0), (hostile, 7.0, 7.0), ("early", -9.0, -5.0)], 5.0))
    assert picture is not None and picture.startswith(b"\x89PNG")
    assert bands_png(Bands("empty", [])) is None
