"""`tumorjax view`: the page of results in a browser, results side by side, or a line that says what is missing."""

import json
import webbrowser

import pytest
from PIL import Image

from tumorjax.cli.main import main


class Opened(webbrowser.BaseBrowser):
    """A browser that keeps what it was asked for."""

    def __init__(self):
        super().__init__("made up")
        self.pages = []

    def open(self, url, new=0, autoraise=True):
        self.pages.append(url)
        return True


@pytest.fixture
def browser(monkeypatch):
    opened = Opened()
    monkeypatch.setattr(webbrowser, "get", lambda: opened)
    monkeypatch.setattr(webbrowser, "open", opened.open)
    return opened


@pytest.mark.parametrize("name", ["report.html", "index.html"])
def test_opens_the_page_of_a_result_and_of_a_cohort(tmp_path, browser, capsys, name):
    folder = tmp_path / "a result"
    folder.mkdir()
    (folder / name).write_text("<p>")
    assert main(["view", str(folder)]) == 0
    assert browser.pages == [(folder / name).as_uri()] and "%20" in browser.pages[0]
    assert capsys.readouterr().out == f"Opened {folder / name}.\n"


@pytest.mark.parametrize("found", [None, webbrowser.GenericBrowser("lynx")])
def test_says_which_page_to_open_where_there_is_no_window(tmp_path, monkeypatch, capsys, found):
    def get():
        if found is None:
            raise webbrowser.Error("could not locate runnable browser")
        return found

    monkeypatch.delenv("BROWSER", raising=False)
    monkeypatch.setattr(webbrowser, "get", get)
    monkeypatch.setattr(webbrowser, "open", lambda url: pytest.fail("no browser has a window"))
    (tmp_path / "report.html").write_text("<p>")
    assert main(["view", str(tmp_path)]) == 0
    assert str(tmp_path / "report.html") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "words"), [("nothing", "is not there"), ("empty", "has no report.html"), ("file", "is a file")]
)
def test_says_what_is_missing(tmp_path, browser, capsys, name, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert main(["view", str(tmp_path / name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and browser.pages == []


def kept(folder, value, deviation, quality="good", **more):
    """Made-up results."""
    folder.mkdir()
    row = {"value": value, "standard_deviation": deviation, "unit": "mm", "fixed": False}
    assumed = {"value": 0.5, "standard_deviation": None, "unit": "mm/day", "fixed": True}
    written = {"parameters": {"mu1": row, "speed": assumed, **more}, "provenance": {"command": "tumorjax <b>"}}
    (folder / "parameters.json").write_text(json.dumps(written))
    reasons = [] if quality == "good" else ["It does <i>not</i> fit."]
    metrics = {"quality": quality, "quality_reasons": reasons, "dice_core": 0.87, "plan_ml": 10 * value}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    Image.new("RGB", (40, 30), "green").save(folder / "report.png")
    return str(folder)


def forge(folder, **change):
    """Change the first parameter of a result."""
    said = json.loads((folder / "parameters.json").read_text())
    next(iter(said["parameters"].values())).update(change)
    (folder / "parameters.json").write_text(json.dumps(said))


def test_two_results_stand_side_by_side(tmp_path, browser):
    gamma = {"value": 4e4, "standard_deviation": 1e3, "unit": "Pa", "fixed": False}
    plain = kept(tmp_path / "plain", 10.0, 3.0)
    pushed = kept(tmp_path / "<script>pushed", 15.0, 4.0, quality="doubtful", gamma=gamma)
    page = tmp_path / "both.html"
    assert main(["view", plain, pushed, "--out", str(page)]) == 0
    assert browser.pages == [page.as_uri()]
    text = page.read_text(encoding="utf-8")
    # The difference of 5 mm is one standard deviation of sqrt(9 + 16) mm.
    for words in (
        "10.0 ± 3.0", "15.0 ± 4.0", ">1.0<", "40000 ± 1000", "0.500 (assumed)", "&lt;script&gt;pushed",
        "It does &lt;i&gt;not&lt;/i&gt; fit.", "tumorjax &lt;b&gt;", "0.870", "Quality: doubtful.",
    ):  # fmt: skip
        assert words in text, words
    assert text.count("data:image/png;base64,") == 2 and "<script" not in text and "://" not in text
    assert main(["view", plain, pushed, "--out", str(page)]) == 2
    assert main(["view", plain, pushed, plain, "--out", str(page), "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda folder: (folder / "metrics.json").write_text("{}"), ["--out", "page.html"], "holds no whole results"),
        (lambda folder: (folder / "report.png").write_bytes(b"GIF"), ["--out", "page.html"], "holds no whole results"),
        (lambda folder: (folder / "parameters.json").unlink(), ["--out", "page.html"], "holds no whole results"),
        (lambda folder: forge(folder, standard_deviation=[1]), ["--out", "page.html"], "holds no whole results"),
        (lambda folder: forge(folder, standard_deviation="x"), ["--out", "page.html"], "holds no whole results"),
        (lambda folder: forge(folder, value=10**400), ["--out", "page.html"], "holds no whole results"),
        (lambda folder: None, [], "give --out FILE.html"),
        (lambda folder: None, ["--out", "two/metrics.json", "--overwrite"], "give a page FILE.html that is in none"),
        (lambda folder: None, ["--out", "two/report.html", "--overwrite"], "give a page FILE.html that is in none"),
        (lambda folder: None, ["--out", "two/metrics.json/page.html"], "metrics.json: cannot be used (File exists)"),
        (lambda folder: None, ["--out", "."], "is there already"),
    ],
)
def test_results_that_cannot_be_compared_are_refused(tmp_path, monkeypatch, browser, capsys, change, options, words):
    monkeypatch.chdir(tmp_path)
    one, two = (kept(tmp_path / name, 1.0, 0.1) for name in ("one", "two"))
    change(tmp_path / "two")
    assert main(["view", one, two, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and not (tmp_path / "page.html").exists() and browser.pages == []
