"""`tumorjax view`: the page of results in a browser, or a line that says what is missing."""

import webbrowser

import pytest

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
