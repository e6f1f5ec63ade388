"""Benchmarks run and write records that a program can read."""

import datetime
import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from scipy.special import ive

from benchmarks import (
    amortized,
    bayes,
    cost,
    demo,
    inference,
    multi_atlas,
    patients,
    retrieval,
    samplers,
    simulated,
    surrogate,
)
from benchmarks.cohorts import cohort
from benchmarks.multi_atlas.published import ROWS
from benchmarks.record import Record, median_seconds, report
from benchmarks.schemes import StrangChebyshev, StrangImplicit, chebyshev_coefficients, evaluations
from tests.problems import advance, box, cosine_eigenvalue, cosine_mode
from tests.targets import Failing, Gaussian
from tumorjax.anatomy import Anatomy
from tumorjax.cli.parser import command_parser
from tumorjax.grid import Grid
from tumorjax.growth import FisherKolmogorov, GrowthParams
from tumorjax.integrate import SplitEuler, StrangRKL2
from tumorjax.io import parse_labels
from tumorjax.observation import OutlineParams

# Whatever runs on small sizes only says that it runs, not how fast.
pytestmark = pytest.mark.usefixtures("compiled_plainly")

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    env = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def assert_complete(content):
    assert {"system", "cpu", "cores", "devices"} <= set(content["machine"])
    assert {"tumorjax", "jax", "numpy", "python"} <= set(content["versions"])
    assert datetime.datetime.fromisoformat(content["date"]).tzinfo is not None
    assert content["records"]
    for record in content["records"]:
        assert {"name", "value", "unit"} <= set(record)
        assert math.isfinite(record["value"]), record["name"]


def test_personalize_small(tmp_path):
    path = tmp_path / "records.json"
    done = run("personalize", "--size", "small", "--json", path)
    assert done.returncode == 0, done.stderr
    content = json.loads(path.read_text())
    assert_complete(content)
    assert (content["benchmark"], content["size"]) == ("personalize", "small")
    values = {record["name"]: record["value"] for record in content["records"]}
    assert {"forward_seconds", "gradient_ratio", "synthetic_dice_0.1"} <= set(values)
    assert values["forward_relative_error"] < 0.1
    assert values["synthetic_dice_0.1"] > 0.8
    assert "forward_seconds" in done.stdout
    assert [each.name for each in tmp_path.iterdir()] == ["records.json"]


def test_work_precision_small(tmp_path):
    path = tmp_path / "records.json"
    done = run("work_precision", "--size", "small", "--json", path, "--figures", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    content = json.loads(path.read_text())
    assert_complete(content)
    (points,) = (record["details"]["points"] for record in content["records"] if "points" in record["details"])
    errors = {(point["scheme"], point["step"]): point["error"] for point in points}
    assert {scheme for scheme, _ in errors} == {"StrangRKL2", "Strang, Chebyshev", "Strang, CG", "SplitEuler"}
    # Half the step of a scheme of second order, and three tenths of that of one of first.
    for scheme in ("StrangRKL2", "Strang, Chebyshev"):
        assert 2.5 < errors[scheme, 2] / errors[scheme, 1] < 5
    assert 2.5 < errors["SplitEuler", 1.0] / errors["SplitEuler", 0.3] < 4.5
    assert max(error for (scheme, step), error in errors.items() if scheme != "SplitEuler" and step == 1) < 1e-3
    (figure,) = (tmp_path / "figures").iterdir()
    assert figure.name == "work_precision.png"
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_multi_atlas_small(one_test_as_installed):
    values = {record.name: record.value for record in multi_atlas.run("small")}
    assert set(values) == {f"8mm_true_seed_c_{row}_error_from_outlines" for row in ROWS}
    # Outlines on voxels of 8 mm that blur those of 4 mm on which the patient was grown.
    assert max(values[f"8mm_true_seed_c_{row}_error_from_outlines"] for row in ROWS) < 0.35


def test_bayes_small():
    values = {record.name: record.value for record in bayes.run("small")}
    targets = ("gaussian", "banana", "two_modes", "two_modes_unequal")
    assert set(values) == {"evidence_error_nats"} | {
        f"{name}_{what}" for name in targets for what in ("evidence_error_nats", "worst_moment")
    }
    errors = [values[f"{name}_evidence_error_nats"] for name in targets]
    assert 0 < max(errors) == values["evidence_error_nats"] < 1


def test_samplers_compile_before_they_are_timed():
    start = bayes.LBFGS(starts=1, coarsening=1)
    for method, short in bayes.samplers(start).values():
        assert type(method) is type(short) and method != short
        assert getattr(method, "start", None) == getattr(short, "start", None)


def test_kernels_of_others_see_the_posterior_in_the_approximation():
    target = Gaussian(2)
    factor = np.linalg.cholesky(target.covariance)
    density = samplers.Whitened(Failing(target, target.mean[0]), target.mean, factor).log_density
    points = jnp.array([[-1.0, 0.5], [-0.2, -2.0], [1.0, 0.0]])
    values, slopes = jax.vmap(jax.value_and_grad(density))(points)
    # The posterior is the approximation itself; to the right of its mean the solve fails.
    np.testing.assert_allclose(np.diff(values[:2]), np.diff(-0.5 * np.sum(points[:2] ** 2, axis=1)), rtol=1e-10)
    np.testing.assert_allclose(slopes[:2], -points[:2], rtol=1e-10)
    assert values[2] < -1e29 and not slopes[2].any()


def test_samplers_of_others_are_left_out_where_they_are_not_installed(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert samplers.run("small") == []
    assert "blackjax: it is not installed" in capsys.readouterr().out


def test_parts_of_bayes_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TUMORJAX_COHORTS", str(tmp_path))
    measured = []

    def part(name):
        measured.append(name)
        return [Record(name, len(measured), "1")]

    monkeypatch.setattr(bayes, "PARTS", {name: functools.partial(part, name) for name in ("one", "two")})
    assert [record.value for record in bayes.run("full", ["two"])] == [1]
    assert [(record.name, record.value) for record in bayes.run("full")] == [("one", 2), ("two", 1)]
    assert measured == ["two", "one"]


def test_outlines_of_simulated_patients_err_as_their_kind_says():
    anatomy = Anatomy(Grid.from_spacing((24, 24, 24), (4.0, 4.0, 4.0)), *(np.full((24, 24, 24), s) for s in (1, 0, 0)))
    away = 4 * np.linalg.norm(np.indices((24, 24, 24)) - 11.5, axis=0)
    density, params = 1 / (1 + np.exp((away - 25) / 2)), OutlineParams(0.5, 3.0)
    outlines = {
        kind: simulated._labels(kind, density, params, anatomy, np.random.default_rng(0))
        for kind in ("own", "correlated", "threshold")
    }
    # Labels that err alone are scattered, as those of a reader are not, whom the wrong model misses by more.
    pieces = {kind: ndimage.label(outline)[1] for kind, outline in outlines.items()}
    assert pieces["correlated"] == pieces["threshold"] == 1 < pieces["own"]
    wrong = {kind: np.sum(outline != (density > 0.5)) for kind, outline in outlines.items()}
    assert 0 < wrong["correlated"] < wrong["threshold"]


def test_coverage_is_that_of_the_kept_draws():
    names, truth = simulated.prior().names, np.linspace(-1, 1, 9)
    draws = truth + np.linspace(-1, 1, 40)[:, None] + 0.01
    kept = {"truth": truth.tolist(), "draws": draws.tolist(), "log_weights": [0.0] * 40}
    fewer = kept | {"draws": draws[:30].tolist(), "log_weights": [0.0] * 30}
    ranks = bayes._ranks([kept, fewer])
    np.testing.assert_allclose(ranks[0], 0.5, atol=0.03)
    np.testing.assert_allclose(ranks[1], 2 / 3, atol=0.04)
    covered = bayes._covered(ranks, names, 0.5, "_correlated", "", {})
    assert covered.value == 1 and not any("sharpness" in name for name in covered.details["parameters"])


def test_learned_methods_small(tmp_path, monkeypatch, one_test_as_installed):
    monkeypatch.setenv("TUMORJAX_COHORTS", str(tmp_path))
    values = {record.name: record.value for record in inference.run("small") + surrogate.run("small")}
    assert {"lmi_dice_001", "lmi_dice_01", "lmi_dice_08", "lmi_refined_dice_01"} <= set(values)
    assert all(0 <= value <= 1 for name, value in values.items() if "dice" in name or "error" in name)
    # Beside tumours of clinical size, all that were drawn, as in the paper.
    for name in ("dice_02", "error_csf"):
        assert {f"surrogate_clinical_{name}", f"surrogate_published_{name}"} <= set(values)
    all_draws = cohort(20, seed=1, resolution=8.0, filtered=False)
    lesions = [float((all_draws.density(row) > 0.2).sum()) * 0.512 for row in range(len(all_draws))]
    assert min(lesions) < 5 and max(lesions) > 300
    # The search starts from the prediction of a barely trained network, and still fits the patient.
    assert values["lmi_refined_dice_01"] > 0.8
    assert values["surrogate_seconds_over_solver"] > 0


def test_cost_small(tmp_path, monkeypatch):
    monkeypatch.setenv("TUMORJAX_COHORTS", str(tmp_path))
    records = cost.run("small", ["growth", "members"])
    values = {record.name: record.value for record in records}
    assert set(values) == {
        f"{name}_{unit}" for name in ("growth_8mm", "members_2") for unit in ("seconds", "gigabytes")
    }
    assert all(value > 0 for value in values.values())
    cost.figures(records, tmp_path)
    assert (tmp_path / "cost.png").stat().st_size > 10_000
    # What is kept is not measured again.
    monkeypatch.setattr(cost, "measured", None)
    assert [record.value for record in cost.run("small", ["growth"])] == list(values.values())[:2]


def test_amortized_posteriors_small(tmp_path, monkeypatch, one_test_as_installed):
    monkeypatch.setenv("TUMORJAX_COHORTS", str(tmp_path))
    values = {record.name: record.value for record in amortized.run("small")}
    for name in ("amortized_coverage_90", "amortized_uncorrected_coverage_90"):
        assert 0 <= values[name] <= 1
    assert 1 <= values["amortized_effective_draws"] <= 20
    assert values["amortized_seconds"] > values["amortized_uncorrected_seconds"] > 0
    assert values["amortized_mean_error"] > 0 and values["amortized_deviation_error"] > 0


def test_retrieval_small(tmp_path, monkeypatch, one_test_as_installed):
    monkeypatch.setenv("TUMORJAX_COHORTS", str(tmp_path))
    values = {record.name: record.value for record in retrieval.run("small")}
    assert values["direct_top1"] == values["direct_top1_agreement"] == 1
    assert values["ds64_mean_dice_sum"] <= values["direct_mean_dice_sum"] == values["direct_dice_sum"] <= 2
    assert values["radiomics_mean_dice_sum"] < values["direct_dice_sum"]
    assert values["direct_200_pruned_seconds"] > 0
    # Built once, and found again.
    assert len(cohort(200, resolution=8.0)) == 200


def test_the_demonstration_runs_twice_and_leaves_its_picture(tmp_path, monkeypatch):
    asked = []

    def demonstrated(compiled, resolution):
        asked.append((compiled, resolution))
        (tmp_path / "demo").mkdir(exist_ok=True)
        (tmp_path / "demo" / "report.png").write_bytes(b"picture")
        return dict.fromkeys(demo.DICES, 0.9)

    monkeypatch.setenv("TUMORJAX_COHORTS", str(tmp_path))
    monkeypatch.setattr(demo, "_demonstration", demonstrated)
    records = demo.run("full")
    assert {"demo_seconds_first", "demo_seconds_again", "demo_dice_density_0.1"} <= {each.name for each in records}
    # The second run finds what the first one compiled.
    assert len(asked) == 2 and asked[0] == asked[1]
    demo.figures(records, tmp_path / "figures")
    assert (tmp_path / "figures" / "demo.png").read_bytes() == b"picture"


def test_options_of_a_real_patient_are_its_images():
    given = patients.images("patient_fet") | patients.sri24()
    asked = command_parser().parse_args(["personalize", *patients.options(given), "--out", "x"])
    assert asked.segmentation == given["segmentation"]
    assert asked.brain_mask == given["brain_mask"]
    assert parse_labels(asked.labels) == given["labels"]
    assert asked.tissue == [str(given["tissue"]), "csf=1", "gm=2", "wm=3"]


def diffusion(anatomy, diffusivity):
    """Return the terms of diffusion alone, over unit time."""
    params = GrowthParams(jnp.asarray(diffusivity), jnp.asarray(0.0), jnp.zeros(3), 1.0)
    return FisherKolmogorov().terms(params, anatomy)


@pytest.mark.parametrize("diffusivity", (0.0, 1.0, 100.0))
def test_chebyshev_shrinks_modes_as_the_heat_equation_says(diffusivity):
    shape, spacing, orders = (10, 9, 8), np.array([1.5, 2.0, 1.8]), (2, 0, 1)
    mode = cosine_mode(shape, orders)
    stepper = StrangChebyshev(first_steps=3, tolerance=1e-12)
    final, _ = advance(stepper, diffusion(box(shape, spacing), diffusivity), jnp.asarray(0.5 + 0.4 * mode))
    decay = np.exp(-diffusivity * cosine_eigenvalue(shape, orders, spacing))
    np.testing.assert_allclose(final, 0.5 + 0.4 * decay * mode, atol=1e-10)


def test_the_implicit_scheme_shrinks_modes_by_its_stability_function():
    shape, orders, gamma = (10, 9, 8), (2, 0, 1), 1 - 1 / np.sqrt(2)
    stepper = StrangImplicit(first_steps=3, tolerance=1e-13)
    mode = cosine_mode(shape, orders)
    final, steps = advance(stepper, diffusion(box(shape), 9.0), jnp.asarray(0.5 + 0.4 * mode))
    assert int(steps) == 3
    x = -9 * cosine_eigenvalue(shape, orders, 1.0) * np.diff((np.arange(4) / 3) ** 1.75)
    factor = np.prod((1 + (1 - 2 * gamma) * x) / (1 - gamma * x) ** 2)
    np.testing.assert_allclose(final, 0.5 + 0.4 * factor * mode, atol=1e-11)


@pytest.mark.parametrize("z", (0.0, 0.3, 20.0, 1000.0))
def test_chebyshev_coefficients_are_bessel_functions(z):
    coefficients = chebyshev_coefficients(jnp.asarray(z))
    expected = 2 * ive(np.arange(len(coefficients)), z)
    expected[0] /= 2
    np.testing.assert_allclose(coefficients, expected, atol=1e-14)


@pytest.mark.parametrize("stepper", (SplitEuler(), StrangRKL2(first_steps=4), StrangChebyshev(first_steps=4)))
def test_every_evaluation_reaches_one_voxel_further(stepper):
    anatomy = box((400, 1, 1))
    state = jnp.zeros((400, 1, 1)).at[0].set(1.0)
    terms = diffusion(anatomy, 10.0)
    final, _ = advance(stepper, terms, state)
    assert 10 < evaluations(stepper, terms) == np.flatnonzero(final)[-1] < 399


def test_schemes_for_comparison_run_forward_only():
    with pytest.raises(NotImplementedError, match="StrangRKL2"):
        StrangChebyshev().transport_pullback()


def test_a_benchmark_without_figures():
    done = run("personalize", "--figures", "somewhere")
    assert done.returncode == 2
    assert "personalize draws no figures" in done.stderr


def test_an_unknown_benchmark():
    done = run("unheard-of")
    assert done.returncode == 2
    assert "invalid choice: 'unheard-of'" in done.stderr


def test_records_are_written_whole(tmp_path, capsys):
    path = tmp_path / "records.json"
    report("some", "small", [Record("one", 1.5, "s", "<= 2", {"shape": [1, 2]})], path)
    content = json.loads(path.read_text())
    assert_complete(content)
    assert content["records"] == [
        {"name": "one", "value": 1.5, "unit": "s", "target": "<= 2", "details": {"shape": [1, 2]}}
    ]
    assert "one" in capsys.readouterr().out
    report("some", "small", [], None)
    assert [each.name for each in tmp_path.iterdir()] == ["records.json"]


def test_the_median_is_of_calls_after_the_first():
    calls = []
    assert median_seconds(lambda: calls.append(None), 5) >= 0
    assert len(calls) == 6


@pytest.mark.parametrize("option", ["--size=huge", "--speed"])
def test_unknown_options(option):
    assert run("personalize", option).returncode == 2
