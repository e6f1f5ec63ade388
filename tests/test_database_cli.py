"""The command `tumorjax database`: the databases that it builds, its output, and messages on unusable input."""

import json
import re

import numpy as np
import pytest

import tumorjax.ensemble
from tumorjax.cli import main
from tumorjax.ensemble import Database
from tumorjax.growth import MassEffect
from tumorjax.storage import exclusive

pytestmark = pytest.mark.usefixtures("jax_as_installed")


def build(place, atlas, *more, quiet=True):
    options = ["--count", "3", "--resolution", "8", "--box", "surrogate", "--atlas", str(atlas)]
    return main(["database", "build", str(place), *options, *(["--quiet"] if quiet else []), *more])


@pytest.fixture(scope="module")
def built(atlas, jax_as_installed, tmp_path_factory):
    """The folder of a database of three tumours."""
    place = tmp_path_factory.mktemp("databases") / "three"
    assert build(place, atlas) == 0
    return place


def error_of(capsys):
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert text.startswith("tumorjax database: error: ")
    return text


def test_a_database_is_built_and_described(built, capsys):
    assert main(["database", "info", str(built), "--json", "--quiet"]) == 0
    figures = json.loads(capsys.readouterr().out)
    database = Database.open(built)
    assert figures["tumours"] == len(database) == 3
    assert figures["voxel_mm"] == "8 x 8 x 8"
    assert figures["model"] == "FisherKolmogorov"
    assert figures["settings"].startswith("ratio = 10, dividing = tissue, ")
    assert figures["fingerprint"] == database.fingerprint
    assert figures["rejected_outside_tissue"] == database.rejected["outside tissue"] > 0
    assert (np.count_nonzero(database.densities() > 51, axis=(1, 2, 3)) * 0.512 >= 5).all()


def test_the_same_command_reports_that_all_is_done(built, atlas, capsys):
    before = (built / "density" / "c" / "0" / "0" / "0" / "0").stat().st_mtime_ns
    assert build(built, atlas, "--json", quiet=False) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["tumours_per_second"] == 0
    assert f"{built} has 3 of 3 tumours already; this run goes on from there." in shown.err
    assert (built / "density" / "c" / "0" / "0" / "0" / "0").stat().st_mtime_ns == before


def test_a_deformed_brain_is_another(built, atlas, monkeypatch, capsys):
    # The voxels of this atlas are too large for the usual deformation.
    assert build(built, atlas, "--deformed", "3") == 2
    assert "smoothness is at least two voxels, 16 mm; got 15.0" in error_of(capsys)
    usual = tumorjax.atlas.deformed_atlas
    monkeypatch.setattr("tumorjax.atlas.deformed_atlas", lambda *given: usual(*given, smoothness=20.0))
    assert build(built, atlas, "--deformed", "3") == 2
    assert "contains another database (it differs in prior, anatomy" in error_of(capsys)
    assert build(built, atlas, "--deformed", "-3") == 2
    assert "deformed: a seed is 0 or more, got -3" in error_of(capsys)


def test_damage_is_found_and_repaired(built, atlas, capsys):
    path = built / "density" / "c" / "0" / "0" / "0" / "0"
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert main(["database", "verify", str(built)]) == 2
    assert "1 of 1 shards are damaged: 0; build with the same settings and --repair" in error_of(capsys)
    assert build(built, atlas, "--repair") == 0
    assert path.read_bytes() == content
    assert main(["database", "verify", str(built), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    (
        (["--seed", "1"], "contains another database (it differs in seed;"),
        (["--seed", "-1"], "seed must be a whole number from 0, got -1"),
        (["--count", "0"], "count must be a whole number from 1, got 0"),
        (["--resolution", "0.1"], "resolution: got 0.1 mm; give 0.5 to 8"),
        (["--atlas", "nowhere"], "atlas nowhere: unknown"),
        (["--workers", "0"], "workers must be at least 1"),
    ),
)
def test_bad_input_is_one_line_and_changes_nothing(built, atlas, capsys, more, message):
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    assert build(built, atlas, *more) == 2
    assert message in error_of(capsys)
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before


def test_a_second_build_is_one_line(built, atlas, capsys):
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    with exclusive(built):
        assert build(built, atlas, "--repair", "--overwrite") == 2
    assert "three: another command is at work there (process " in error_of(capsys)
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before


def test_flipped_bits_are_one_line_or_harmless(built, capsys):
    random, refused, files = np.random.default_rng(0), 0, [path for path in sorted(built.rglob("*")) if path.is_file()]
    for path in files:
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[random.integers(len(content))] ^= 1 << random.integers(8)
        path.write_bytes(flipped)
        code = main(["database", "verify", str(built), "--quiet"])
        path.write_bytes(content)
        assert code in (0, 2)
        refused += code == 2
        if code:
            assert re.search(r"three.*; (build|replace)|; build with the same settings", error_of(capsys))
    assert refused >= len(files) - 1


def test_an_interruption_reports_how_to_continue(tmp_path, atlas, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(tumorjax.ensemble, "build_database", interrupted)
    with pytest.raises(SystemExit) as stopped:
        build(tmp_path / "new", atlas)
    assert stopped.value.code == 130
    assert "keeps the shards that are finished, and the same command goes on from there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "model", "size"),
    (
        ([], MassEffect(), 7),
        (["--mass-effect", "30000"], MassEffect(), 6),
        (["--growth-in", "white-matter"], MassEffect.published(), 7),
    ),
)
def test_tumours_may_push(tmp_path, atlas, monkeypatch, more, model, size):
    asked = []

    def interrupted(model, prior, *args, **kwargs):
        asked.append((model, prior))
        raise KeyboardInterrupt

    monkeypatch.setattr(tumorjax.ensemble, "build_database", interrupted)
    with pytest.raises(SystemExit):
        build(tmp_path / "new", atlas, "--model", "mass-effect", *more)
    ((grows, prior),) = asked
    assert grows == model
    assert prior.size == size
    unknown = prior.distributions
    assert unknown.growth.diffusivity.high == pytest.approx(0.08)
    assert unknown.mass_effect == 30000 if size == 6 else unknown.mass_effect.high == 2e5


def test_a_force_is_for_tumours_that_push(tmp_path, atlas, capsys):
    assert build(tmp_path / "new", atlas, "--mass-effect", "30000") == 2
    assert "mass-effect: is not for fisher-kolmogorov; leave it out or add --model mass-effect" in error_of(capsys)
    assert build(tmp_path / "new", atlas, "--model", "mass-effect", "--mass-effect", "-3") == 2
    assert "mass_effect must be finite and not negative, got -3" in error_of(capsys)
    assert not (tmp_path / "new").exists()


def test_a_place_without_a_database_is_refused(tmp_path, capsys):
    for action in ("info", "verify"):
        assert main(["database", action, str(tmp_path)]) == 2
        assert "is not a database of tumours" in error_of(capsys)


@pytest.mark.parametrize("arguments", ([], ["build", "x"], ["build", "x", "--count", "many"], ["burn", "x"]))
def test_wrong_arguments_end_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["database", *arguments])
    assert stopped.value.code == 2
    assert "tumorjax database" in capsys.readouterr().err


def test_help_says_that_it_is_not_for_clinical_use(capsys):
    for action in ([], ["build"], ["info"], ["verify"]):
        with pytest.raises(SystemExit):
            main(["database", *action, "--help"])
        assert "not for clinical use" in " ".join(capsys.readouterr().out.split())
