"""What a release holds: files that state the same, contents of wheel and sdist, and the cut of a version."""

import functools
import importlib.util
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CODEMETA = json.loads((ROOT / "codemeta.json").read_text(encoding="utf-8"))
STATING = ("pyproject.toml", "CITATION.cff", "codemeta.json", "CHANGELOG.md")


def script(name):
    """A script of `release/`, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "release" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cited(name, text):
    """What `CITATION.cff` says under a name: a word, or the words of a list."""
    value = re.search(rf"^{name}:(.*(?:\n  - .*)*)", text, re.MULTILINE).group(1)
    words = [line.strip().removeprefix("- ").removeprefix("name: ") for line in value.split("\n")]
    return words[1:] or words[0]


def test_the_files_that_describe_the_software_agree():
    citation = functools.partial(cited, text=(ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["name"] == CODEMETA["name"] == (ROOT / "tumorjax").name
    assert PROJECT["version"] == CODEMETA["version"] == citation("version")
    assert PROJECT["description"] == CODEMETA["description"] == citation("abstract")
    assert PROJECT["license"] == citation("license") == CODEMETA["license"].rpartition("/")[2]
    assert PROJECT["keywords"] == CODEMETA["keywords"] == citation("keywords")
    names = [each["name"] for each in PROJECT["authors"]]
    assert names == [each["name"] for each in CODEMETA["author"]] == citation("authors")
    assert CODEMETA["softwareRequirements"] == PROJECT["dependencies"]
    assert CODEMETA["runtimePlatform"] == f"Python {PROJECT['requires-python']}"


def test_classifiers_are_those_of_the_registries():
    known = pytest.importorskip("trove_classifiers").classifiers
    assert set(PROJECT["classifiers"]) <= known
    minors = [int(each.rpartition(".")[2]) for each in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", each)]
    assert minors == list(range(int(PROJECT["requires-python"].rpartition(".")[2]), max(minors) + 1))
    # What the pages promise.
    for page in ("README.md", "docs/index.md", "docs/start.md"):
        assert f"Python 3.{minors[0]} to 3.{minors[-1]}" in (ROOT / page).read_text(encoding="utf-8"), page


@pytest.fixture(scope="module")
def contents():
    """The places in wheel and sdist of the files that would be packed, with those files."""
    pytest.importorskip("hatchling")
    from hatchling.builders.sdist import SdistBuilder
    from hatchling.builders.wheel import WheelBuilder

    found = {}
    for name, builder in (("wheel", WheelBuilder(str(ROOT))), ("sdist", SdistBuilder(str(ROOT)))):
        with builder.config.set_build_data({"artifacts": [], "force_include": {}}):
            found[name] = {each.distribution_path: Path(each.path) for each in builder.recurse_included_files()}
    return found


def package_files():
    """Files of the package in this checkout."""
    files = (path for path in (ROOT / "tumorjax").rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}


def test_the_wheel_is_the_package_and_nothing_else(contents):
    assert set(contents["wheel"]) == package_files()


def test_weights_are_few_and_small(contents):
    weights = {place: path.stat().st_size for place, path in contents["wheel"].items() if path.suffix == ".safetensors"}
    assert sorted(Path(place).stem for place in weights) == [
        "ae", "bf-hash", "inverse", "mass_effect", "posterior", "surrogate", "vae",
    ]  # fmt: skip
    assert max(weights.values()) < 10e6
    others = [path for path in contents["wheel"].values() if path.suffix != ".safetensors"]
    assert sum(path.stat().st_size for path in others) < 4e6
    assert max(path.stat().st_size for path in others) < 1e5


def test_the_sdist_can_be_tested_and_built(contents):
    sdist = set(contents["sdist"])
    assert package_files() <= sdist
    for folder in ("tests", "benchmarks", "docs", "examples", "release"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        missing = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".ipynb"} - sdist
        assert not missing, missing
    alone = {path.name for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".")}
    assert alone - sdist <= {"LICENSE", "README.md", "pyproject.toml"}  # which the standard puts there


def test_a_cut_changes_all_files_in_one_step(tmp_path):
    for name in STATING:
        shutil.copy(ROOT / name, tmp_path)
    # A change that is not released, whether there are others or none.
    changelog = tmp_path / "CHANGELOG.md"
    before = changelog.read_text(encoding="utf-8").replace("## [Unreleased]\n", "## [Unreleased]\n\n### Fixed\n", 1)
    changelog.write_text(before, encoding="utf-8")
    cut = script("cut").cut
    cut("9.1.0", "2031-02-03", tmp_path)
    texts = {name: (tmp_path / name).read_text(encoding="utf-8") for name in STATING}
    assert tomllib.loads(texts["pyproject.toml"])["project"]["version"] == "9.1.0"
    assert cited("version", texts["CITATION.cff"]) == "9.1.0"
    assert cited("date-released", texts["CITATION.cff"]) == "2031-02-03"
    described = json.loads(texts["codemeta.json"])
    assert (described["version"], described["dateModified"]) == ("9.1.0", "2031-02-03")
    assert texts["CHANGELOG.md"] == before.replace(
        "## [Unreleased]\n", "## [Unreleased]\n\n## [9.1.0] - 2031-02-03\n", 1
    )
    # There is nothing to release yet, and the version is not newer: nothing is written.
    for version, reason in (
        ("9.2.0", "no unreleased changes"),
        ("9.1.0", "newer than 9.1.0"),
        ("9.2", "three numbers"),
    ):
        with pytest.raises(ValueError, match=reason):
            cut(version, "2031-02-04", tmp_path)
    assert texts == {name: (tmp_path / name).read_text(encoding="utf-8") for name in STATING}


def test_the_trial_of_a_wheel_knows_what_examples_need(capsys, monkeypatch):
    trial = script("try_wheel")
    extras = set(PROJECT["optional-dependencies"])
    examples = sorted((ROOT / "examples").glob("*.py"))
    found = {path.name[:2]: trial.needs(path) for path in examples}
    assert found["06"] == {"ensemble"} and found["07"] == {"networks"} and not found["01"]
    assert set().union(*found.values()) <= extras
    for path in examples:
        assert re.search(r'^# %% tags=\["skip-execution"\]\n#.*\n# %pip install ', path.read_text(), re.MULTILINE)
    monkeypatch.setattr(sys, "argv", ["try_wheel.py", "no.whl", "--python", "python3"])
    assert trial.main() == 2
    assert "no file no.whl" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["try_wheel.py", str(Path(__file__)), "--python", "python2.99"])
    assert trial.main() == 2
    assert "python2.99 does not run; install it" in capsys.readouterr().err
