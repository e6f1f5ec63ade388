"""The command with `--method retrieval`: its results, and its messages on unusable databases."""

import json
import re
import shutil
import sys
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

import tumorjax.cli.commands as commands
import tumorjax.results.files as results
from tumorjax.atlas import load_atlas
from tumorjax.cli import main
from tumorjax.ensemble import Database
from tumorjax.grid import Grid
from tumorjax.growth import FisherKolmogorov
from tumorjax.io import InputError
from tumorjax.methods import LBFGS, Retrieval
from tumorjax.methods.from_atlas.matched import Matched, RetrievalStats
from tumorjax.quality import Status, status_of
from tumorjax.registration import Transform

pytestmark = pytest.mark.usefixtures("jax_as_installed")

COUNT, FOUND = 4, 2


@pytest.fixture(scope="module")
def place(atlas, jax_as_installed, tmp_path_factory):
    """The folder of a database of four tumours in that atlas."""
    place = tmp_path_factory.mktemp("databases") / "four"
    options = ["--count", str(COUNT), "--resolution", "8", "--box", "surrogate", "--quiet", "--atlas", str(atlas)]
    assert main(["database", "build", str(place), *options]) == 0
    return place


@pytest.fixture(scope="module")
def segmentation(place, tmp_path_factory):
    """The outlines of one of them."""
    database, path = Database.open(place), tmp_path_factory.mktemp("patient") / "segmentation.nii.gz"
    density = database.densities(slice(FOUND, FOUND + 1))[0]
    labels = np.select([density > 153, density > 51], [1, 2]).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, database.grid.affine), path)
    return path


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache folder for the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def command(atlas, place, segmentation):
    return [
        "personalize", f"--segmentation={segmentation}", f"--atlas={atlas}", "--resolution=8",
        "--method=retrieval", f"--database={place}",
    ]  # fmt: skip


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_match_alone(command, place, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*command, "--no-refine", "--matches=3", f"--out={out}", "--json"]) == 0
    printed = capsys.readouterr()
    metrics = json.loads(printed.out)
    assert metrics == read(out / "metrics.json")
    assert (metrics["match"], metrics["match_dice_core"], metrics["match_dice_lesion"]) == (FOUND, 1, 1)
    assert metrics["match_dice_sum"] == 2 and metrics["dice_sum"] > 1.2
    assert metrics["forward_solves"] == 3 and "gradients" not in metrics
    assert metrics["seconds_query"] > 0
    assert f"note: Of {COUNT} simulated tumours number {FOUND} resembles the patient's most: Dice 1.00" in printed.err
    assert "those among the 3 nearest simulated tumours, not of a posterior" in printed.err
    content, truth = read(out / "parameters.json"), Database.open(place).parameters(FOUND)
    assert content["estimate"].startswith("those of the simulated tumour")
    rows = content["parameters"]
    if "be next to impossible" not in printed.err:
        assert rows["mu1"]["value"] == pytest.approx(float(np.sqrt(truth.diffusivity * truth.duration)), rel=1e-4)
        assert rows["mu2"]["value"] == pytest.approx(float(np.sqrt(truth.proliferation * truth.duration)), rel=1e-4)
    assert rows["mu1"]["standard_deviation"] > 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"Fisher-Kolmogorov model, the most similar of {COUNT} simulated tumours on voxels" in page
    assert "over the 3 simulated tumours that resemble" in page and "is no posterior" in page
    assert nib.load(out / "density_std.nii.gz").get_fdata().max() > 0


def test_a_single_match_has_no_uncertainty_and_a_search_from_it_has(command, tmp_path, monkeypatch, capsys):
    one, refined, pages = tmp_path / "one", tmp_path / "refined", []
    # Drawing takes most of the time.
    monkeypatch.setattr(results, "write_report", lambda folder, page: pages.append(page))
    assert main([*command, "--no-refine", f"--out={one}"]) == 0
    assert "A single match has no uncertainty" in capsys.readouterr().err
    assert all(row["standard_deviation"] is None for row in read(one / "parameters.json")["parameters"].values())
    assert not nib.load(one / "density_std.nii.gz").get_fdata().any()
    assert main([*command, f"--out={refined}", "--json", "--quiet"]) == 0
    metrics, before = json.loads(capsys.readouterr().out), read(one / "metrics.json")
    assert metrics["match"] == FOUND and metrics["gradients"] > 0
    assert metrics["brier"] < before["brier"]
    assert read(refined / "parameters.json")["parameters"]["mu1"]["standard_deviation"] > 0
    assert nib.load(refined / "density_std.nii.gz").get_fdata().max() > 0
    first, second = pages
    assert (first.correlation, first.sections) == (None, [])
    begins = f"calibrated by adjoint L-BFGS from the most similar of {COUNT} simulated tumours"
    assert begins in second.subtitle
    assert second.correlation is not None and [section.title for section in second.sections] == ["Convergence"]


def options_of(place, atlas, **more):
    return {"database": str(place), "atlas": str(atlas), **more}


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], {"k": 1, "variant": "direct"}),
        (
            ["--matches=4", "--variant=ds32", "--no-refine", "--wm=wm", "--gm=gm", "--csf=csf"],
            {"k": 4, "variant": "ds32"},
        ),
        (
            ["--optimise-thresholds", "--variant=radiomics-standard", "--no-refine"],
            {"optimise_thresholds": True, "variant": "radiomics-standard", "weighted": False},
        ),
        (["--weighted", "--no-refine"], {"weighted": True, "region": "lesion"}),
    ],
    ids=["plain", "all", "thresholds", "weighted"],
)
def test_retrieval_gets_its_options(command, atlas, place, tmp_path, monkeypatch, capsys, options, settings):
    seen = {}

    def capture(patient, *, method, **given):
        seen.update(patient=patient, method=method)
        raise ValueError("the end")

    monkeypatch.setattr(commands, "personalize", capture)
    # The patient's own maps beside the database's atlas.
    options = [re.sub(r"=(wm|gm|csf)$", rf"={atlas}/\1.nii.gz", option) for option in options]
    assert main([*command, *options, f"--out={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err.endswith("error: the end\n")
    assert isinstance(seen["method"], Retrieval if "--no-refine" in options else LBFGS)
    query = seen["method"] if "--no-refine" in options else seen["method"].init
    assert {name: getattr(query, name) for name in settings} == settings
    assert query.database.url == str(place) and query.atlas.name == str(atlas)
    assert seen["patient"].source.own == (len(options) > 3)


def test_a_posterior_from_the_database(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "write_report", lambda folder, page: None)
    out = tmp_path / "out"
    # Draws of four tumours need not look like the patient's.
    assert main([*command, "--weighted", f"--out={out}", "--json"]) in (0, 3)
    printed = capsys.readouterr()
    metrics = json.loads(printed.out)
    assert metrics["match"] == FOUND and metrics["effective_draws"] >= 1 and metrics["log_evidence"] < 0
    assert 0 < metrics["likelihood_exponent"] <= 1 and metrics["quality"] != "good"
    assert f"doubtful: By the likelihood of the outlines the {COUNT} simulated tumours are worth" in printed.err
    assert "The prior is the database's" in printed.err
    assert (out / "posterior.nc").is_file()
    assert read(out / "parameters.json")["parameters"]["mu1"]["standard_deviation"] > 0


def test_the_carry_is_from_the_atlas_to_the_patient(atlas, place):
    query = Retrieval.from_options(options_of(place, atlas, matches=2, no_refine=True))
    refined = Retrieval.from_options(options_of(place, atlas))
    turn = np.array([[0, -1.1, 0, 5], [1, 0, 0, -8], [0, 0, 0.9, 2], [0, 0, 0, 1.0]])
    source = SimpleNamespace(atlas=load_atlas(atlas), transform=Transform(turn))
    patient = SimpleNamespace(source=source, anatomy=SimpleNamespace(fibres=None))
    notes, settings = [], {"progress": lambda stage, share: None}
    method = query.prepare(patient, FisherKolmogorov(), notes=notes, **settings)
    assert (method.k, method.index.source) == (2, query.database.fingerprint)
    points = np.array([[1.0, 2.0, 3.0], [-40.0, 30.0, 0.0]])
    np.testing.assert_allclose(method.carry(patient.source.transform.apply(points)), points, atol=1e-9)
    # A search prepares the method with which it begins.
    begins = refined.prepare(patient, FisherKolmogorov(), notes=notes, **settings).init
    assert begins.k == 1 and begins.index is not None
    patient.source.transform = None
    assert query.prepare(patient, FisherKolmogorov(), notes=notes, **settings).carry is None
    patient.source.transform = Transform(turn, failure="they differ")
    with pytest.raises(InputError, match="cannot be aligned with the patient: they differ"):
        query.prepare(patient, FisherKolmogorov(), notes=notes, **settings)
    assert notes == []


def test_other_voxels_than_the_databases_are_noted(atlas, place):
    database = Database.open(place)
    found = SimpleNamespace(indices=[FOUND], dice_core=[1.0], dice_lesion=[1.0])
    matched = object.__new__(Matched)
    object.__setattr__(matched, "stats", RetrievalStats(found, COUNT, "direct", (), 8.0))
    same, coarse = (
        SimpleNamespace(anatomy=SimpleNamespace(grid=each, fibres=None), observations={"core": None, "lesion": None})
        for each in (database.grid, Grid.from_spacing((8, 8, 8), 16.0))
    )
    assert not any("on voxels of" in note for note in [*matched.notes(same), *matched.notes(coarse, alone=False)])
    assert sum("on voxels of 8.0 mm, this patient's on 16.0 mm" in note for note in matched.notes(coarse)) == 1
    # So are fibres along which the tumours of the database did not grow.
    same.anatomy.fibres = np.zeros(6)
    for alone, status in ((True, Status.DOUBTFUL), (False, Status.GOOD)):
        (note,) = [note for note in matched.notes(same, alone=alone) if "fibres" in note]
        assert "grew without fibres, while the patient's grows along them" in note and status_of([note]) is status


def refused(command, capsys, out, pattern):
    try:
        code = main([*command, f"--out={out}"])
    except SystemExit as leaving:
        code = leaving.code
    printed = capsys.readouterr()
    assert (code, printed.out, len(printed.err.splitlines())) == (2, "", 1), printed.err
    assert printed.err.startswith("tumorjax personalize: error: ")
    assert re.search(pattern, printed.err), printed.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("drop", "options", "pattern"),
    [
        ("--database", [], "database: is missing; give --database with the folder or URL"),
        ("--method", [], "database: is not for lbfgs; leave it out or add --method retrieval"),
        ("", ["--matches=0"], "matches: got 0; give 1 or more"),
        ("", ["--matches=5"], "the database has 4 tumours, so k is between 1 and that, got 5"),
        (
            "",
            ["--weighted", "--matches=2"],
            "weights are of all tumours, by their likelihood; leave out weighted, or k",
        ),
        ("", ["--variant=hash"], "variant: got hash; give one of direct, ds64"),
        ("", ["--particles=9"], "particles: is not for retrieval"),
        ("", ["--model=mass-effect"], "method: this database is for growth without mass effect, got MassEffect"),
        ("", ["--database=nowhere"], "nowhere is not a database of tumours"),
        ("", ["--database=odd://place"], "odd://place cannot be reached"),
        ("--atlas", [], "was made in another atlas than icbm152; name it with --atlas"),
    ],
)
def test_refuses(command, tmp_path, capsys, drop, options, pattern):
    kept = [each for each in command if not drop or not each.startswith(drop)]
    refused([*kept, *options], capsys, tmp_path / "out", pattern)


def test_refuses_half_a_database(command, place, tmp_path, capsys):
    half = tmp_path / "half"
    shutil.copytree(place, half)
    (half / "manifest.json").unlink()
    refused([*command, f"--database={half}"], capsys, tmp_path / "out", "half is not finished .0 of 1 shards.")
    shutil.copy(place / "manifest.json", half)
    (half / "parameters" / "c" / "0" / "0").unlink()
    refused([*command, f"--database={half}"], capsys, tmp_path / "out", "missing or cut short: 0; build it again")


def test_missing_libraries_are_named(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "zarr", None)
    refused(command, capsys, tmp_path / "out", r"databases need zarr, .*pip install 'tumorjax\[ensemble\]'$")
