"""The report: complete, self-contained, escaped, and the same in every orientation."""

import base64
import io
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from tests.reports import chains, made_up, particles, sections
from tumorjax.calibration.estimates import Estimate
from tumorjax.quality import Note, Status
from tumorjax.report import Stage, write_report
from tumorjax.report.blocks import shown_sections
from tumorjax.report.data import centre
from tumorjax.report.figures import marked, pet, plan_row
from tumorjax.report.film import reel_of
from tumorjax.report.panes import planes
from tumorjax.report.tables import metrics, plan_rows
from tumorjax.report.tiles import View
from tumorjax.report.wording import duration, number, percent, volume, with_std
from tumorjax.sections import Comparison, Curves, Field, Film, Frame, Frames, Marked, Section, Table, Text

HOSTILE = "<script>alert('x')</script> & \"$\\frac{1}$\" \N{SNOWMAN} \x1b[2J\x9b M\udcfcller 腫瘍\n{{ 7 * 7 }}"
SECTIONS = [
    "density", "viewer", "fit", "registration", "displacement", "uncertainty", "probability", "parameters", "plan",
    "volumes", "pet", "truth",
    "method-1-spread-over-atlases", "method-2-draws-by-a-made-up-sampler", "method-3-convergence", "time", "notes",
    "methods", "provenance",
]  # fmt: skip
KEPT = ["density", "viewer", "fit", "parameters", "plan", "volumes", "provenance"]


@pytest.fixture(scope="module")
def data():
    return made_up()


@pytest.fixture(scope="module")
def page(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    write_report(folder, data)
    return folder


@pytest.fixture
def coarse(monkeypatch):
    """Draw the page's figures with few pixels, for tests of its text."""
    import tumorjax.report.rows

    monkeypatch.setattr(tumorjax.report.rows, "DPI", 30)


class Links(HTMLParser):
    """A parser that collects the resources, elements and anchors of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.ids, self.jumps, self.open = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            elif key == "href" and tag == "a":
                self.jumps.append(value)
            elif key in ("src", "href", "srcset", "data", "action") or key.startswith("on"):
                self.loads.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def sections_of(links: Links) -> list[str]:
    """The anchors of sections, without the controls of figures and the blocks of data."""
    return [name for name in links.ids if not re.match("turns-|viewer-|part-", name)]


def read(folder: Path) -> str:
    return (folder / "report.html").read_text("utf-8")


def test_both_files_appear_and_nothing_else(page):
    assert sorted(p.name for p in page.iterdir()) == ["report.html", "report.png"]


def test_page_is_self_contained_and_well_formed(page):
    text = read(page)
    links = Links(text)
    assert links.open == []
    # Two blocks of data, and the page's own script, whose text alone the policy of the page lets run.
    assert links.tags.count("script") == 3 and "iframe" not in links.tags
    assert links.loads and all(link.startswith("data:") for link in links.loads)
    assert "url(" not in text and "@import" not in text and "http://" not in text and "https://" not in text
    assert sorted(links.jumps) == sorted(f"#{name}" for name in sections_of(links))
    assert len(text) < 6e6


def test_page_contains_all_statements(page):
    text = read(page)
    for words in (
        "Research use only",
        "Not for clinical use",
        "the patient's right (R) is on the image's left",
        "Estimated density of tumour cells over the patient&#39;s T1 image",
        "0.870",
        "61.2\N{NO-BREAK SPACE}ml",
        "93.0\N{NO-BREAK SPACE}%",
        "2\N{NO-BREAK SPACE}min 23\N{NO-BREAK SPACE}s",
        "μ<sub>1</sub>",
        "+1.0",
        "fixed",
        "density &gt; 0.01",
        "tumorjax calibrate",
        "A note.",
        "8.7 ± 1.2\N{NO-BREAK SPACE}mm",
        "71.4\N{NO-BREAK SPACE}ml",
        "Each atlas stands for a brain.",
        ">75.0 %<",
        ">60000<",
        "A caption.",
        "Standard deviation of the density, given the data. It includes errors of the model only as far",
        # The effective number of draws; the chain that has not mixed is visible.
        "9.12 to 10.46",
        "Draws by a made-up sampler",
        ">321<",
        ">346<",
        'number far">1.034<',
        "density &gt; 0.01",
        "61.2\N{NO-BREAK SPACE}ml",
        "98.8\N{NO-BREAK SPACE}ml",
        "the data say nothing about the parameter",
    ):
        assert words in text, words
    assert re.search(r'class="number far">\N{MINUS SIGN}4\.0', text), "a z beyond 2 stands out"
    assert "observed core (T1Gd)</li>" in text and "((T1Gd" not in text
    assert sections_of(Links(text)) == SECTIONS


def film(data, title="day {}"):
    """Return a tumour that grows in the slice through its centre, with outlines on two of six days."""
    place = int(centre(data)[2])
    at = slice(place, place + 1)
    outlines = (data.core[:, :, at], data.lesion[:, :, at])
    frames = [
        Frame(title.replace("{}", str(day)), 0.2 * day * data.density[:, :, at], *(outlines if day in (0, 3) else ()))
        for day in range(6)
    ]
    return Film(frames, list(range(6)), title, title)


def test_a_film_shows_its_days_one_after_the_other(data, tmp_path):
    view = View(replace(data, sections=[Section("Course", [film(data)])]))
    (block,) = view.data.sections[0].blocks
    reel = reel_of(view, block)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(reel.picture))).convert("RGB"), float)
    assert sheet.shape == (2 * reel.high, 3 * reel.wide, 3)
    # Orange is dense tumour: it grows from day to day, each in the place that the page shows.
    orange = []
    for moment in reel.moments:
        row, column = round(moment.down * sheet.shape[0] / 100), round(moment.across * sheet.shape[1] / 100)
        frame = sheet[row : row + reel.high, column : column + reel.wide]
        orange.append(np.maximum(frame[..., 0] - frame[..., 2], 0).sum())
    growing = [orange[day] for day in (1, 2, 4, 5)]
    assert growing == sorted(growing) and growing[-1] > 2 * growing[0]
    # Days pass evenly, and those of images and the last one stand still.
    lengths = np.diff([moment.begin for moment in reel.moments] + [100]) * reel.seconds / 100
    assert lengths == pytest.approx([2, 1, 1, 2, 1, 1])
    assert [moment.seen for moment in reel.moments] == [True, False, False, True, False, False]
    assert reel_of(view, Film(block.frames[:1], [0])) is None
    with pytest.raises(ValueError, match="which is no slice of"):
        write_report(tmp_path, replace(data, sections=[Section("Course", [Film([Frame("day 0", data.density)], [0])])]))


def test_days_stand_side_by_side_with_one_legend(data, coarse):
    days = [Frame(f"day {day}", 0.5 * day * data.density, data.core, data.lesion) for day in range(3)]
    view = View(replace(data, sections=[Section("Course", [Frames(days, "Days", "What they show.")])]))
    (section,) = shown_sections(view, view.data.sections, [])
    ((part,),) = section.groups
    assert (part.title, part.caption) == ("Days", "What they show.")
    assert [pane.alt for pane in part.slices.panes] == ["day 0", "day 1", "day 2"]
    words = ["outlined core", "outlined lesion", "model, core", "model, lesion"]
    assert [entry.label for entry in part.slices.entries] == words and "density" in part.slices.bar.label
    # Dense tumour is orange.
    pixels = [pixels_of(held(pane)) for pane in part.slices.panes]
    orange = [np.maximum(each[..., 0] - each[..., 2], 0).sum() for each in pixels]
    assert orange[0] < orange[1] < orange[2]


def test_missing_pieces_leave_their_section_out(data, tmp_path, coarse):
    unknown = [replace(p, deviation=None, truth=None, interval=None) for p in data.parameters]
    write_report(
        tmp_path,
        replace(
            data, density_std=None, pet=None, pet_predicted=None, recurrence=None, truth=None, parameters=unknown,
            tissue=None, atlas=None, methods=[], references=[],
            metrics={}, correlation=None, stages=[], provenance={}, notes=[], sections=[],
            displacement=None, displacement_std=None, jacobian=None, probability=None,
        ),
    )  # fmt: skip
    text = read(tmp_path)
    assert "90 % interval" not in text
    assert sections_of(Links(text)) == KEPT
    assert "Recurrence" not in text and ">z<" not in text and '<dl class="cards' not in text


@pytest.mark.parametrize("status", list(Status))
def test_the_quality_stands_first(data, tmp_path, coarse, status):
    reasons = [Note("It does not fit.", Status.FAILED), Note("Look at it.", Status.DOUBTFUL)][
        2 - list(Status).index(status) :
    ]
    notes = ["A remark.", *reasons]
    planless = {"plan": None} if status is Status.FAILED else {}
    # The other sections are drawn elsewhere.
    data = replace(
        data, sections=[], probability=None, pet=None, truth=None, displacement=None, jacobian=None,
        displacement_std=None, density_std=None, correlation=None, tissue=None,
    )  # fmt: skip
    write_report(tmp_path, replace(data, quality=status, reasons=reasons, notes=notes, margin=7.5, **planless))
    text = read(tmp_path)
    links = Links(text)
    assert links.open == [] and sorted(links.jumps) == sorted(f"#{name}" for name in sections_of(links))
    said = {Status.GOOD: "Quality: good.", Status.DOUBTFUL: "needs a closer look", Status.FAILED: "must not be used"}
    for each, words in said.items():
        assert (words in text) == (each is status)
    # Before the title, with all reasons; the cards and the notes have its colour.
    head = text[text.index('class="verdict') : text.index("<h1>")]
    assert all(reason in head for reason in reasons)
    assert f'<dl class="cards {status}">' in text
    for reason in reasons:
        assert f'<li class="{reason.status}">{reason}</li>' in text
    assert ("There is no plan." in head) == (status is Status.FAILED)
    rows = [row[0] for row in plan_rows(replace(data, margin=7.5, **planless))]
    assert rows == (["7.5 mm margin"] if planless else ["model's plan", "7.5 mm margin", "in both", *rows[3:]])
    # The strip of the summary: red, amber or none.
    pixels = np.asarray(Image.open(tmp_path / "report.png").convert("RGB"), int)[:200]
    for each, colour in ((Status.FAILED, "#b3121d"), (Status.DOUBTFUL, "#fbe3ab")):
        assert (share_of(pixels, colour) > 0.05) == (each is status)


def test_what_plans_hold_is_counted(data):
    core, lesion, again = (np.asarray(each, bool) for each in (data.core, data.lesion, data.recurrence))
    (name, _, *shares) = plan_rows(data)[0]
    assert name == "model's plan"
    expected = [(tumour & data.plan).sum() / tumour.sum() for tumour in (core, lesion, again)]
    assert shares == [percent(share) for share in expected]


def test_hostile_strings_are_escaped_and_do_not_stop_the_figures(data, tmp_path, coarse):
    hostile = [
        Estimate(HOSTILE, s, 1.0, 0.1, HOSTILE, HOSTILE, truth=2.0) for s in (HOSTILE, "$x_$", "a_b}", "", "x_0")
    ]
    write_report(
        tmp_path,
        replace(
            data,
            title=HOSTILE,
            subtitle=HOSTILE * 9,
            density_std=None,
            pet=None,
            truth=None,
            parameters=hostile,
            metrics={HOSTILE: 1.0},
            correlation=([HOSTILE, "b"], np.eye(2)),
            stages=[Stage(HOSTILE, 1.0)],
            provenance={HOSTILE: HOSTILE},
            notes=[HOSTILE],
            quality=Status.DOUBTFUL,
            reasons=[HOSTILE],
            uncertainty=HOSTILE,
            background_of=HOSTILE,
            tissue_of=HOSTILE,
            atlas_title=HOSTILE,
            methods=[HOSTILE],
            references=[HOSTILE],
            credible_volumes=[(HOSTILE, 1.0, 2.0)],
            sections=[
                Section(HOSTILE, [Text(HOSTILE), Table([HOSTILE], [[HOSTILE]], [[HOSTILE]], HOSTILE, HOSTILE)]),
                Section("map", [Field(data.density, HOSTILE, title=HOSTILE, caption=HOSTILE)]),
                Section("curves", [Curves(HOSTILE, HOSTILE, [[1.0, 2.0]])]),
                Section("film", [film(data, HOSTILE)]),
                *sections(
                    replace(
                        particles(),
                        names=[HOSTILE, "$x_$"],
                        mixing={HOSTILE: (1.0, 2.0)},
                        ladder={HOSTILE: [0.5, 1.0]},
                    ),
                    title=HOSTILE,
                ),
            ],
        ),
    )
    text = read(tmp_path)
    # Control characters, and a byte of a file name that is not UTF-8.
    assert not set("\x1b\x9b\udcfc") & set(text) and r"\x1b[2J" in text and r"M\xfcller" in text
    links = Links(text)
    assert "<script>alert" not in text and links.tags.count("script") == 3
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in text
    # The film has a radio button for each day, besides those that run and pause it, and stands still on request.
    assert text.count('name="part-4-1"') == 6 + 2 and len(links.ids) == len(set(links.ids)) and links.open == []
    assert "animation-play-state: paused" in text and "prefers-reduced-motion: reduce" in text
    assert "腫瘍\n{{ 7 * 7 }}" in text and "腫瘍\n49" not in text


def test_summary_image_decodes_and_is_not_blank(page):
    image = Image.open(page / "report.png")
    pixels = np.asarray(image.convert("RGB"), float)
    assert 1200 < image.width < 2000 and 1200 < image.height < 3000
    assert pixels.std() > 40
    colour = np.ptp(pixels, axis=-1) > 60
    assert 0.005 < colour.mean() < 0.5, "heat map and outlines are coloured, most of the figure is not"


def turned(data, axes):
    """Return the data as another scanner would have stored it."""
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt(nib.aff2axcodes(data.affine)), nib.orientations.axcodes2ornt(axes)
    )
    changed = {name: nib.orientations.apply_orientation(volume, turn) for name, volume in data.volumes()}
    affine = data.affine @ nib.orientations.inv_ornt_aff(turn, data.density.shape)
    assert "".join(nib.aff2axcodes(affine)) == axes
    return replace(data, affine=affine, **changed)


def test_orientation_on_disk_does_not_change_the_figure(data):
    from tumorjax.report.figures import summary_png
    from tumorjax.report.tiles import View

    assert summary_png(View(turned(data, "SLP")), []) == summary_png(View(data), [])


def test_the_first_reason_and_the_subtitle_are_drawn_whole(data):
    from tumorjax.report import figures

    reason = f"The atlas {'of some name ' * 12}is not aligned."
    doubtful = View(replace(data, quality=Status.DOUBTFUL, reasons=[reason]))
    lines = figures._reason(doubtful)
    assert " ".join(lines) == f"DOUBTFUL: {reason}" and 1 < len(lines) <= 3
    assert figures._reason(View(replace(data, quality=Status.GOOD))) == []
    long = "Growth with mass effect, calibrated by adjoint L-BFGS from the most similar of 100000 simulated tumours on"
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "plain", lambda text, most=100: drawn.append((text, most)) or text)
        figures.summary_png(View(replace(data, subtitle=f"{long} voxels of 2 x 2 x 2 mm")), [])
    assert all(len(text) <= most for text, most in drawn)


def test_a_map_of_a_method_is_turned_with_the_images(data):
    from tumorjax.report.data import canonical

    def blocks(data):
        return [Field(data.density, ""), Comparison(data.density, data.density_std, data.core, "")]

    shown = [replace(each, sections=[Section("", blocks(each))]) for each in (data, turned(data, "PSR"))]
    for each in map(canonical, shown):
        field, compared = each.sections[0].blocks
        assert isinstance(field, Field) and isinstance(compared, Comparison)
        np.testing.assert_array_equal(field.values, each.density)
        np.testing.assert_array_equal(compared.measured, each.density)
        np.testing.assert_array_equal(compared.modelled, each.density_std)
        np.testing.assert_array_equal(compared.inside > 0, each.core)


def test_marked_voxels_are_shown_where_they_are(data):
    mask = np.zeros(data.density.shape, bool)
    mask[20:24, 40:44, 8:12] = True
    mask[30, 30, 20] = True
    section = Section("Check of the masks", [Marked(mask, "what is wrong", title="Holes", caption="Fill them.")])
    view = View(replace(data, sections=[section]))
    (shown,) = shown_sections(view, view.data.sections, data.parameters)
    ((part,),) = shown.groups
    assert (part.title, part.caption) == ("Holes", "Fill them.") and len(part.slices.panes) == 3
    (block,) = view.data.sections[0].blocks
    assert block.mask.sum() == mask.sum()
    # Through the larger part, and not through the lesion.
    focus = view.through(block.mask > 0).focus
    assert ndimage.label(block.mask)[0][tuple(focus)] == ndimage.label(block.mask)[0][tuple(np.argwhere(block.mask)[0])]
    assert (focus != view.focus).any()
    assert marked(view, Marked(mask & ~mask, "nothing")) is None


def test_a_measured_image_is_shown_beside_what_is_predicted(data):
    image = Comparison(1.5 * data.core, 1.2 * data.core, data.core, "ADC, 1e-3 mm²/s", caption="How it was measured.")
    view = View(replace(data, sections=[Section("Fit to ADC", [image])]))
    (section,) = shown_sections(view, view.data.sections, [])
    ((part,),) = section.groups
    assert part.caption == "How it was measured." and len(part.slices.panes) == 4
    assert all(pixels_of(held(pane)).std() > 10 for pane in part.slices.panes[:2])
    nowhere = View(replace(data, sections=[Section("", [replace(image, inside=0 * data.core)])]))
    assert shown_sections(nowhere, nowhere.data.sections, []) == []


def test_words_stand_at_the_left_and_numbers_at_the_right(data, tmp_path):
    head = ["Day", "Outline", "Median", "Gain"]
    rows = [["0", "core", 1.0, "0.12 nat, × 0.9"], ["60", "lesion", None, "\N{MINUS SIGN}0.1 nat"]]
    view = View(replace(data, sections=[Section("Volumes", [Table(head, rows)])]))
    ((part,),) = shown_sections(view, view.data.sections, [])[0].groups
    assert part.numbers == [True, False, True, True]
    write_report(tmp_path, view.data)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<th>Outline</th>" in text and '<th class="number">Median</th>' in text
    assert '<td class="">core</td>' in text and '<td class="number">1.00</td>' in text


@pytest.mark.parametrize("axes", ["LAS", "RPS", "RAI", "PSR"])
def test_every_orientation_is_shown_alike(data, axes):
    from tumorjax.report.data import canonical

    one, other = canonical(data), canonical(turned(data, axes))
    for (name, expected), (_, got) in zip(one.volumes(), other.volumes(), strict=True):
        np.testing.assert_array_equal(got, expected, err_msg=name)
    np.testing.assert_allclose(other.affine, one.affine, atol=1e-9)


def test_patients_right_is_on_the_images_left(data):
    from tumorjax.report.tiles import AXIAL

    view = View(replace(data, recurrence=None))
    assert view.data.affine[0, 0] > 0, "the first axis runs to the patient's right"
    assert (view.data.affine[:3, :3] @ view.focus + view.data.affine[:3, 3])[0] > 20, "the tumour is on the right"
    # The axial pane comes first; both plans share a green tint.
    tile = pixels_of(held(planes(view, plan_row(view)).panes[0]))
    green = (tile[..., 1] - tile[..., 0] > 20) & (tile[..., 1] > tile[..., 2])
    assert green.any()
    assert np.argwhere(green)[:, 1].mean() < tile.shape[1] / 2
    assert (AXIAL.left, AXIAL.right) == ("R", "L")


def test_degenerate_volumes_are_drawn(data, tmp_path, coarse):
    nothing = np.zeros(data.density.shape, bool)
    broken = data.density.copy()
    broken[0, 0, 0] = np.nan
    write_report(
        tmp_path,
        replace(
            data, brain=nothing, core=nothing, lesion=nothing, plan=nothing, standard_plan=nothing, recurrence=nothing,
            density=broken, density_std=0 * data.density, background=0 * data.background, pet=0 * data.density,
            truth=None, parameters=[], correlation=None,
            displacement=0 * data.density, displacement_std=0 * data.density, probability=0 * data.density,
            sections=[
                *sections(replace(chains(), values=np.ones((2, 200, 2))))[1:2],
                Section("Nothing", [Curves("iteration", "objective", [[]]), Field(0 * data.density, "zero")]),
            ],
        ),
    )  # fmt: skip
    text = read(tmp_path)
    assert "density: 1 voxels are not finite" in text
    assert "uncertainty" not in Links(text).ids and "pet" not in Links(text).ids
    assert "No tissue is displaced." in text and ">Nothing<" not in text
    assert "probability" not in Links(text).ids and "Marginals on" not in text and ">Traces<" not in text


def test_wrong_shapes_are_refused_before_anything_is_written(data, tmp_path):
    with pytest.raises(ValueError, match=r"plan has shape \(2, 2, 2\)"):
        write_report(tmp_path / "a", replace(data, plan=np.zeros((2, 2, 2), bool)))
    with pytest.raises(ValueError, match="invertible"):
        write_report(tmp_path / "a", replace(data, affine=np.zeros((4, 4))))
    with pytest.raises(ValueError, match="correlation"):
        write_report(tmp_path / "a", replace(data, correlation=(["one"], np.eye(2))))
    with pytest.raises(ValueError, match=r"draws of 2 parameters have values of shape \(2, 200, 1\)"):
        write_report(tmp_path / "a", replace(data, sections=sections(replace(chains(), values=np.zeros((2, 200, 1))))))
    wrong = [Comparison(np.zeros((2, 2, 2)), data.density, data.core, "an image")]
    with pytest.raises(ValueError, match=r"an image has shape \(2, 2, 2\)"):
        write_report(tmp_path / "a", replace(data, sections=[Section("", wrong)]))
    with pytest.raises(ValueError, match=r"a map has shape \(2, 2, 2\)"):
        write_report(tmp_path / "a", replace(data, sections=[Section("", [Field(np.zeros((2, 2, 2)), "a map")])]))
    assert not (tmp_path / "a").exists()


def test_a_failed_write_leaves_the_old_report(data, page, tmp_path, monkeypatch):
    import tumorjax.report.page as module

    (tmp_path / "report.html").write_text("old")
    monkeypatch.setattr(module, "_render", lambda _: ("new", b"new"))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, data)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def held(pane):
    """The image in the address of a pane."""
    return base64.b64decode(pane.image.partition(",")[2])


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), float)


def share_of(pixels, colour):
    """The share of pixels that are close to a colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return float((np.abs(pixels - wanted).max(axis=-1) < 12).mean())


def test_corner_shows_draws_prior_and_truth(data):
    from tumorjax.report.charts import GREY, VERMILLION
    from tumorjax.report.posterior import corner_png

    whole = pixels_of(corner_png(chains(), data.parameters))
    assert share_of(whole, "#7fb5da") > 0.003, "the inner contour is filled"
    assert share_of(whole, "#c9e0f0") > 0.003, "and the outer one"
    known = share_of(whole, VERMILLION)
    unknown = [replace(p, truth=None) for p in data.parameters]
    assert known > 2 * share_of(pixels_of(corner_png(chains(), unknown)), VERMILLION)
    without = pixels_of(corner_png(replace(chains(), prior=None, prior_density=None), data.parameters))
    assert share_of(whole, GREY) > share_of(without, GREY)


def test_corner_leans_as_the_draws_do(data):
    from tumorjax.report.posterior import corner_png

    rising = replace(chains(), values=chains().values * [1, -1])
    for draws, sign in ((chains(), -1), (rising, 1)):
        pixels = pixels_of(corner_png(draws, []))
        filled = np.argwhere(np.abs(pixels - [0x7F, 0xB5, 0xDA]).max(axis=-1) < 12)
        # Rows of an image run down.
        assert np.sign(-np.corrcoef(filled[:, 0], filled[:, 1])[0, 1]) == sign


def test_contours_hold_what_they_say(monkeypatch):
    from matplotlib.axes import Axes

    from tumorjax.report.posterior import _pair
    from tumorjax.report.rows import new_figure

    drawn = []
    monkeypatch.setattr(Axes, "contour", lambda self, x, y, z, levels, **style: drawn.append((z, levels)))
    axes = new_figure(2, 2).add_axes((0, 0, 1, 1))
    axes.set(xlim=(-4, 4), ylim=(-4, 4))
    x, y = np.random.default_rng(0).normal(size=(2, 20000))
    _pair(axes, x, y, np.full(20000, 1 / 20000))
    ((smooth, levels),) = drawn
    cell = lambda values: ((values + 4) / 8 * len(smooth)).astype(int).clip(0, len(smooth) - 1)  # noqa: E731
    at = smooth[cell(y), cell(x)]
    assert [(at >= level).mean() for level in levels] == pytest.approx([0.9, 0.5], abs=0.03)


def test_weights_count_in_the_corner(data, coarse):
    from tumorjax.report.posterior import corner_png

    draws = chains()
    heavy = np.where(draws.values[..., 0] > 9.8, 1.0, 0.0)
    upper = corner_png(replace(draws, weights=heavy), [])
    assert upper == corner_png(
        replace(
            draws,
            values=draws.values[draws.values[..., 0] > 9.8][None],
            weights=np.ones((1, int(heavy.sum()))),
        ),
        [],
    )
    assert upper != corner_png(draws, [])


def test_chains_have_traces_and_particles_a_ladder(data):
    from tumorjax.report.posterior import ladder_png, trace_png

    traces = pixels_of(trace_png(chains(), []))
    redness = traces[..., 0] - traces[..., 2]
    assert (redness < -60).mean() > 0.005 and (redness > 60).mean() > 0.005, "one chain is blue, the other orange"
    assert ladder_png(chains()) is None
    assert trace_png(particles(), []) is None
    assert share_of(pixels_of(ladder_png(particles())), "#0072b2") > 1e-3


def test_few_draws_are_points(data, coarse):
    from tumorjax.report.posterior import corner_png

    assert corner_png(chains(3), data.parameters) is not None
    assert corner_png(replace(chains(), names=["growth"], values=chains().values[..., :1]), []) is None


def test_figures_leave_no_global_state(page):
    import sys

    import matplotlib

    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    assert matplotlib.rcParams["svg.hashsalt"] is None


def test_numbers_in_words():
    assert [number(x) for x in (0.8714, 0.9996, 123.4, -0.5, 0.0, 84, None, float("nan"))] == [
        "0.871", "1.00", "123", "\N{MINUS SIGN}0.500", "0.00", "84", "\N{EM DASH}", "\N{EM DASH}",
    ]  # fmt: skip
    assert number(1.234e-5) == "1.23 \N{MULTIPLICATION SIGN} 10⁻⁵"
    assert [with_std(*x) for x in ((120.0, 0.05), (0.123456, 0.0012), (-0.01, 1.1), (153.2, 40.0), (0.1, None))] == [
        "120.000", "0.1235", "0.0", "153", "0.100",
    ]  # fmt: skip
    gap = "\N{NO-BREAK SPACE}"
    assert [duration(s) for s in (0.123, 12.34, 59.99, 143.2, 3599.7, 7260)] == [
        f"0.12{gap}s", f"12.3{gap}s", f"1{gap}min 00{gap}s",
        f"2{gap}min 23{gap}s", f"1{gap}h 00{gap}min", f"2{gap}h 01{gap}min",
    ]  # fmt: skip
    assert (percent(0.824), volume(61.24), volume(350.8)) == (f"82.4{gap}%", f"61.2{gap}ml", f"351{gap}ml")


def test_pet_in_an_extreme_unit_looks_the_same(data):
    plain = pet(View(data))
    for unit in (1e-34, 1e26):
        other = pet(View(replace(data, pet=data.pet * unit, pet_predicted=data.pet_predicted * unit)))
        # The slices, without the chart.
        for before, after in zip(plain.panes[:3], other.panes[:3], strict=True):
            one, two = (pixels_of(held(each)) for each in (before, after))
            assert one.std() > 10 and np.abs(one - two).max() <= 8


def test_figures_of_an_earlier_day_have_words():
    found = metrics({"dice_core_day_0": 0.5, "dice_lesion_day_2.5": 0.5, "speed_mm_per_day_5": 0.5, "mine_day_1": 0.5})
    assert [label for label, _ in found] == [
        "Dice, core (T1Gd), day 0",
        "Dice, whole lesion (FLAIR), day 2.5",
        "Speed of the front, 5 %, mm/day",
        "mine_day_1",
    ]


def test_only_the_page_has_a_time_without_its_own():
    (before,), (_, after) = metrics({"seconds_total": 3.0}), metrics({"seconds_files": 1.0, "seconds_total": 4.0})
    assert before[0] == "Total time, without this report" and after[0] == "Total time"
