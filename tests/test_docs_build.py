"""What is drawn and made for the pages: equations, curves of the records, pictures of the examples, notebooks."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import curves

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.fixture
def hooks(monkeypatch):
    for library in ("latex2mathml", "jupytext"):
        pytest.importorskip(library)
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("hooks")


def test_equations_are_mathml(hooks):
    fences = [
        fence
        for page in PAGES
        for fence in re.findall(r"^```math\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ]
    assert len(fences) > 10
    for fence in fences:
        made = hooks.equation(fence, "math", "equation", {}, None)
        # What the converter does not know stays as it was written.
        assert made.count("<math") == len(fence.strip().splitlines()) and "\\" not in made, fence


def test_an_example_is_a_notebook_that_installs_what_it_needs(hooks, tmp_path):
    (tmp_path / "examples").mkdir()
    site = type("Site", (), {"docs_dir": str(DOCS), "site_dir": str(tmp_path)})
    hooks.on_post_build(site)
    made = sorted(path.stem for path in (tmp_path / "examples").glob("*.ipynb"))
    assert made == [path.stem for path in sorted((ROOT / "examples").glob("*.py"))]
    notebook = hooks.jupytext.read(tmp_path / "examples" / "06_retrieval.ipynb")
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert '\n%pip install -q -c ../constraints.txt "..[ensemble]"' in first.source
    # The build of the pages, which has all of that, leaves this cell out.
    assert first.metadata["tags"] == ["skip-execution"]


def test_examples_load_nothing_from_other_sites(hooks):
    page = type("Page", (), {"file": type("File", (), {"src_uri": "examples/01_simulate.py"})})
    html = '<p>a</p><script type="module">\nimport x from "https://other.site/x.mjs";\n</script><p>b</p>'
    made = hooks.on_page_content(html, page, None, None)
    assert "other.site" not in made and made.endswith("<p>a</p><p>b</p>")
    assert 'href="01_simulate.ipynb"' in made
    page.file.src_uri = "index.md"
    assert hooks.on_page_content(html, page, None, None) == html


def test_no_page_is_configured_to_load_from_other_sites():
    assert not re.search(r"https?://", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert not re.search(r"https?://|@import", (DOCS / "style.css").read_text(encoding="utf-8"))


def test_the_curves_are_those_of_the_records(tmp_path):
    page = (DOCS / "results" / "curves.md").read_text(encoding="utf-8")
    for path in curves.draw(tmp_path):
        assert f"../figures/curves/{path.name}" in page
        kept = (DOCS / "figures" / "curves" / path.name).read_text(encoding="utf-8")
        # Lines as they are drawn, to a pixel, whatever version draws them.
        drawn, shown = (
            [np.array(re.findall(r"-?\d+\.?\d*", d), float) for d in re.findall(r' d="(M[^"]+)"', text)]
            for text in (path.read_text(encoding="utf-8"), kept)
        )
        assert len(drawn) == len(shown)
        for here, there in zip(drawn, shown, strict=True):
            assert here.shape == there.shape, path.name
            np.testing.assert_allclose(here, there, atol=1.5, err_msg="draw them: python -m benchmarks.curves")


def test_curves_of_known_numbers():
    scores, share = curves.at_least(np.array([0.9, 0.5, 0.7]))
    np.testing.assert_allclose(scores, [0.5, 0.7, 0.9])
    np.testing.assert_allclose(share, [1, 2 / 3, 1 / 3])
    nominal, inside = curves.within(np.array([0.25, 0.75]))
    assert inside[nominal < 0.25].max() == 0 and inside[30] == 0.5 and inside[-1] == 1


def test_the_gallery_shows_examples():
    home = (DOCS / "index.md").read_text(encoding="utf-8")
    pictures = sorted((DOCS / "figures" / "gallery").glob("*.png"))
    assert len(pictures) > 5
    for picture in pictures:
        assert f"](figures/gallery/{picture.name})" in home and f"](examples/{picture.stem}.py)" in home
        assert picture.stat().st_size < 2e5
