"""The report as a reader sees it: first screen, volumes to leaf through, and the page in a browser."""

import base64
import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tumorjax.report
from tests.browser import CHROMIUM, Browser
from tests.reports import head, made_up
from tumorjax.quality import Note, Status
from tumorjax.report import write_report
from tumorjax.report.statements import statements
from tumorjax.report.tables import margin_rows, volume_rows
from tumorjax.report.tiles import View
from tumorjax.report.volumes import volumes_of

HOSTILE = "</script><script>window.harmed = true</script><img src=x onerror='window.harmed = true'>"
seen = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def data():
    return made_up()


def unpacked(found):
    about = json.loads(found.about)
    raw = np.frombuffer(gzip.decompress(base64.b64decode(found.data)), np.uint8)
    return about, raw.reshape(-1, *about["shape"])


def test_a_flair_image_is_among_the_images(data):
    assert data.flair is None
    about, volumes = unpacked(volumes_of(View(replace(data, flair=1000 * data.background))))
    names = [each["name"] for each in about["images"]]
    assert names[:2] == [data.background_of, "the patient's FLAIR image"]
    # Whatever its unit, it is as dark and as bright as the other image.
    np.testing.assert_allclose(*(volumes[each["at"]].astype(float) for each in about["images"][:2]), atol=1)


def test_volumes_of_the_page_are_those_of_the_report(data):
    view = View(data)
    about, volumes = unpacked(volumes_of(view))
    assert len(volumes) == len(about["images"]) + len(about["maps"]) + len(about["outlines"]) - 2
    inside = view.data.brain | view.data.lesion
    for each in about["maps"]:
        assert each["low"] < each["high"] and len(base64.b64decode(each["colours"])) == 4 * 256
    shown = {
        each["name"]: each["low"] + (each["high"] - each["low"]) / 255 * volumes[each["at"]] for each in about["maps"]
    }
    np.testing.assert_allclose(shown["density"][inside], view.data.density[inside], atol=0.51 / 255)
    np.testing.assert_allclose(
        shown["displacement (mm)"][inside],
        view.data.displacement[inside],
        atol=0.51 / 255 * view.data.displacement.max(),
    )
    error = (view.data.density - view.data.truth)[inside]
    off = np.abs(shown["estimate \N{MINUS SIGN} truth"][inside] - error)
    assert np.percentile(off, 99) < 0.01 and shown["estimate \N{MINUS SIGN} truth"][~inside] == pytest.approx(
        0, abs=0.01
    )
    outlines = {each["name"]: volumes[each["at"]] > each["level"] for each in about["outlines"]}
    np.testing.assert_array_equal(outlines["observed core"], view.data.core)
    np.testing.assert_array_equal(outlines["model's plan"], view.data.plan)
    assert about["focus"] == view.focus.tolist() and np.allclose(about["affine"], view.data.affine)


def test_large_volumes_keep_fewer_voxels(data, monkeypatch):
    monkeypatch.setattr("tumorjax.report.volumes._MOST", data.density.size // 9)
    view = View(data)
    found = volumes_of(view)
    about, volumes = unpacked(found)
    assert found.every == 2 and volumes[0].size <= -(-view.data.density.size // 7)
    corner = np.array(about["affine"]) @ [1, 1, 1, 1]
    np.testing.assert_allclose(corner, view.data.affine @ [2, 2, 2, 1])


@pytest.mark.parametrize(
    ("overlap", "words"), [(0.9, "agree well"), (0.75, "agree fairly well"), (0.5, "agree poorly")]
)
def test_first_screen_says_how_well_the_model_fits(data, overlap, words):
    figures = {**data.metrics, "dice_core": overlap, "dice_lesion": 0.95}
    found, fit, doubts, meaning = (each.answer for each in statements(replace(data, metrics=figures)))
    assert f"{words} with the observed ones: the Dice overlap is {overlap:.2f} for the core and 0.95" in fit[0]
    lesion = np.count_nonzero(data.lesion) * data.voxel_ml
    assert f"has {lesion:.1f}\N{NO-BREAK SPACE}ml" in found[0]
    assert "displaced tissue by up to 8.7 mm" in found[2]
    assert "Assumed, and not seen in the images: ratio." in doubts
    assert "as large as the clinical margin of 15 mm" in meaning[1]


def test_first_screen_begins_its_doubts_with_the_reasons(data):
    reasons = [Note("It does not fit.", Status.FAILED)]
    failed = replace(data, quality=Status.FAILED, reasons=reasons, plan=None, metrics={}, density_std=None)
    _, fit, doubts, meaning = (each.answer for each in statements(failed))
    assert doubts[0] == "It does not fit." and "no automatic check" not in " ".join(doubts).lower()
    assert fit == ["How well the model meets the outlines was not measured."]
    assert "no plan" in meaning[1]


def test_margins_are_distances_from_the_core(data):
    _, affine, _ = head()
    core = np.zeros(data.density.shape, bool)
    core[28, 32, 18] = True
    away = np.sqrt((((np.argwhere(~core | core) - [28, 32, 18]) * data.spacing) ** 2).sum(axis=1)).reshape(core.shape)
    rows = margin_rows(replace(data, core=core, plan=away <= 30, standard_plan=away <= 15))
    assert [row[0] for row in rows] == ["model's plan", "15 mm margin"]
    for row, wide in zip(rows, (30, 15), strict=True):
        least, median, largest = (float(cell.split()[0]) for cell in row[1:])
        # A voxel is up to 4.1 mm wide.
        assert wide - 5.9 < least <= median <= largest <= wide
    sizes = dict(volume_rows(data))
    assert sizes["15 mm margin"] == f"{data.standard_plan.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000:.0f}" + (
        "\N{NO-BREAK SPACE}ml"
    )
    assert margin_rows(replace(data, core=core & False)) == []


def test_scripts_of_the_package_stay_small():
    scripts = list(Path(tumorjax.report.__file__).parent.parent.rglob("*.js"))
    assert {each.name for each in scripts} == {"animation.js", "viewer.js"}
    # Of every report and of the wheel.
    for each in scripts:
        assert each.stat().st_size < 20_000 and "http" not in each.read_text("utf-8")


@pytest.fixture(scope="module")
def page(data, tmp_path_factory):
    """A report that is drawn with few pixels, whose texts would harm a page that let them."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tumorjax.report.rows.DPI", 60)
        hostile = replace(
            data, title=HOSTILE, background_of=HOSTILE, atlas_title=HOSTILE, tissue_of=HOSTILE, sections=[]
        )
        write_report(folder, replace(hostile, methods=[HOSTILE], references=[HOSTILE], notes=[HOSTILE]))
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


def shown(part):
    return f"document.querySelector('[data-part={part}]')"


def opened(browser):
    browser.ask(f"{shown('open')}.click()")
    browser.wait("document.getElementById('viewer').dataset.state")
    assert browser.ask("document.getElementById('viewer').dataset.state") == "open"


def pictures_of(browser):
    """What each canvas shows."""
    return browser.ask("Promise.all([...document.querySelectorAll('canvas')].map(each => each.toDataURL()))")


def settled(browser, before):
    """Wait until the canvases show something else."""
    browser.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")
    after = pictures_of(browser)
    return [one != two for one, two in zip(before, after, strict=True)]


@seen
@pytest.mark.parametrize("width", [1280, 390])
def test_a_reader_leafs_through_the_slices(browser, page, width):
    browser.open(page, width)
    # Nothing is wider than the window, nothing comes from elsewhere, and no text of a file runs.
    assert browser.ask("document.documentElement.scrollWidth") <= width
    opened(browser)
    where = browser.ask(f"{shown('where')}.textContent")
    assert "density" in where
    before = pictures_of(browser)
    assert len(set(before)) == 3
    # The patient's left and front are at the right and the top of the axial slice.
    browser.ask(
        "((axial, box) => axial.dispatchEvent(new MouseEvent('click', {clientX: box.left + 0.75 * box.width,"
        " clientY: box.top + 0.25 * box.height})))(document.querySelector('canvas'),"
        " document.querySelector('canvas').getBoundingClientRect())"
    )
    assert settled(browser, before) == [True, True, True]
    x, y = (
        float(browser.ask(f"{shown('where')}.textContent").replace("\N{MINUS SIGN}", "-").split()[i].strip(","))
        for i in (1, 3)
    )
    assert x < 0 < y
    # Outlines, maps and keys change what is shown.
    for change in (
        "document.querySelector('[data-part=outlines] input').click()",
        f"{shown('opacity')}.value = 20; {shown('opacity')}.dispatchEvent(new Event('input'))",
        f"{shown('zoom')}.value = 3; {shown('zoom')}.dispatchEvent(new Event('input'))",
        f"{shown('back')}.click()",
    ):
        before = pictures_of(browser)
        browser.ask(change)
        assert any(settled(browser, before)), change
    browser.ask("document.querySelector('canvas').dispatchEvent(new KeyboardEvent('keydown', {key: 'PageUp'}))")
    settled(browser, before)
    assert browser.ask(f"{shown('where')}.textContent") != where
    browser.ask(f"{shown('map')}.selectedIndex = 0; {shown('map')}.dispatchEvent(new Event('change'))")
    settled(browser, before)
    assert "density" not in browser.ask(f"{shown('where')}.textContent")
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.requested == [page.resolve().as_uri()] and browser.complaints == []
    assert browser.ask("window.harmed === undefined && document.title.includes('</script>')")


@seen
def test_a_phone_shows_one_plane_at_a_time_and_words_that_can_be_read(browser, page):
    browser.open(page, 390)
    wide = browser.ask(
        "[...document.querySelectorAll('#density .pane img')].map(each => each.getBoundingClientRect().width)"
    )
    assert all(width > 300 for width in wide[:3])
    sizes = browser.ask(
        "[...document.querySelectorAll('.legend, .legend *, p, td, th, dd, dt')]"
        ".map(each => parseFloat(getComputedStyle(each).fontSize))"
    )
    assert min(sizes) >= 12
    browser.open(page, 1280)
    wide = browser.ask(
        "[...document.querySelectorAll('#density .pane img')].slice(0, 3)"
        ".map(each => each.getBoundingClientRect().toJSON())"
    )
    assert len({round(each["top"]) for each in wide}) == 1 and wide[2]["right"] <= 1280


@seen
def test_image_and_atlas_take_turns_unless_motion_is_unwanted(browser, page):
    browser.open(page)
    style = "getComputedStyle(document.querySelector('#registration .other'))"
    assert browser.ask(f"{style}.opacity") == "0"
    browser.ask("document.getElementById('turns-both').click()")
    assert browser.ask(f"{style}.animationName") == "turns"
    browser("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    assert browser.ask(f"{style}.animationName") == "none"
    browser.ask("document.getElementById('turns-atlas').click()")
    assert browser.ask(f"{style}.opacity") == "1"
    browser("Emulation.setEmulatedMedia", features=[])


@seen
def test_pictures_remain_where_the_slices_cannot_be_shown(browser, page):
    hidden = "getComputedStyle(document.querySelector('[data-part=door]')).display === 'none'"
    looked = "[...document.querySelectorAll('#density img')].every(each => each.naturalWidth > 50)"
    script = browser("Page.addScriptToEvaluateOnNewDocument", source="delete window.DecompressionStream")["identifier"]
    browser.open(page)
    browser.ask(f"{shown('open')}.click()")
    browser.wait("document.getElementById('viewer').dataset.state === 'failed'")
    assert browser.ask(f"{shown('failed')}.checkVisibility()") and browser.ask(looked)
    browser("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
    browser("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(page)
    assert browser.ask(hidden) and browser.ask(looked)
    assert browser.ask("document.querySelector('#viewer noscript p').checkVisibility()")
    browser("Emulation.setScriptExecutionDisabled", value=False)
