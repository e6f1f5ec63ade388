"""The animation of a growth: a tumour followed from its seed, and the page that shows it."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.browser import CHROMIUM, Browser
from tests.reports import made_up
from tests.test_cli import RAS, save
from tests.test_cli import made_up as made_up_images
from tests.test_quality_of_results import Put
from tests.visits import DAYS, TRUTH, patient_of_visits, radiation
from tumorjax.calibration import Calibration, retrace
from tumorjax.calibration.result import CalibrationResult
from tumorjax.grid import Grid
from tumorjax.growth import AbstractGrowth, FisherKolmogorov
from tumorjax.integrate import Calendar, simulate
from tumorjax.methods.from_atlas.matched import Matched
from tumorjax.patient import load_patient
from tumorjax.pipeline.growth import _led_back
from tumorjax.pipeline.personalize import personalize
from tumorjax.report.animation import Animation, write_animation
from tumorjax.report.data import centre
from tumorjax.sections import Film, Frame

HOSTILE = "</script><script>window.harmed = true</script>"
TIMES = 5


# --- a tumour at many times ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def visits():
    """A patient of several visits, calibrated to the truth."""
    problem = patient_of_visits(treated=False)
    params = problem.prior.completed(
        {
            **{f"growth.{name}": value for name, value in vars(TRUTH).items()},
            "observations.core.threshold": 0.6,
            "observations.lesion.threshold": 0.2,
        },
        float,
    )
    z = problem.prior.unconstrain(params)
    return problem, Calibration(params, problem.prior, z, None, CalibrationResult.GRADIENT)


def test_times_before_the_first_visit_and_after_the_last(visits):
    problem, calibration = visits
    seed, last = DAYS[0] - TRUTH.duration, DAYS[-1] + 25.0
    # One of them is the day of a visit, and radiation is to come.
    days = np.array([60.0, *DAYS, last])
    drug = {"radiation": radiation(0.03, (180.0, 181.0))}
    found = retrace(problem, calibration, (days - seed) / (last - seed), until=last, treatments=drug)
    given = tuple(drug.values())
    known = simulate(
        FisherKolmogorov(),
        dataclasses.replace(TRUTH, duration=60.0 - seed),
        problem.anatomy,
        treatments=given,
        calendar=Calendar.of(days, given),
    )
    np.testing.assert_allclose(found.density, known.series, atol=1e-12)
    assert found.displacement is None
    # At the visits it is what the problem itself says.
    np.testing.assert_allclose(found.density[1:4], problem.solve(calibration.params).series, atol=2e-3)


@pytest.mark.parametrize(
    ("shares", "more", "message"),
    [
        ((1.0,), {}, "give two times or more"),
        ((0.0, 1.0), {}, "rising from above zero to one at most"),
        ((0.5, 1.1), {}, "rising from above zero to one at most"),
        ((0.5, 1.0), {"until": -500.0}, "the last day must be after that of the seed, 20, got -500"),
    ],
)
def test_times_that_cannot_be(visits, shares, more, message):
    with pytest.raises(ValueError, match=message):
        retrace(*visits, shares, **more)


def test_what_did_not_grow_in_the_patient_is_not_retraced(visits):
    problem, calibration = visits
    fields = {each.name: getattr(calibration, each.name) for each in dataclasses.fields(calibration)}
    carried = Matched(**{**fields, "morphed": SimpleNamespace()})
    with pytest.raises(ValueError, match="did not grow in this patient, but was carried over from an atlas"):
        retrace(problem, carried, (0.5, 1.0))
    assert Matched(**fields).tumours(problem)

    class EndAlone(FisherKolmogorov):
        title = "End alone"
        predict = lambda self, params, anatomy: None  # noqa: E731

    with pytest.raises(ValueError, match="the End alone gives the end of the growth alone"):
        retrace(dataclasses.replace(problem, model=EndAlone()), calibration, (0.5, 1.0))
    assert EndAlone.predict is not AbstractGrowth.predict


# --- results and their page ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ball")
    files = {name: save(folder / f"{name}.nii.gz", data, RAS) for name, data in made_up_images().items()}
    names = {"segmentation": "segmentation", "white_matter": "wm", "grey_matter": "gm", "csf": "csf"}
    return load_patient(**{role: files[name] for role, name in names.items()}, resolution=5.0)


@pytest.fixture(scope="module")
def result(known):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tumorjax.pipeline.growth._TIMES", TIMES)
        with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
            return personalize(known, method=Put(), animate=True)


def test_the_growth_of_one_date_ends_with_the_density_of_the_result(result, tmp_path):
    growth = result.growth
    assert growth.days is None and growth.largest is None
    np.testing.assert_allclose(growth.shares, [0.2, 0.4, 0.6, 0.8, 1])
    for axis, plane in enumerate(growth.planes):
        assert plane.density.shape[1 + axis] == 1 and plane.background is None
        np.testing.assert_allclose(plane.density[-1], result.density[plane.box], atol=2e-3)
        cells = plane.density.sum(axis=(1, 2, 3))
        assert (np.diff(cells) > 0).all()
    assert (np.diff(growth.volumes["lesion"]) >= 0).all() and growth.volumes["lesion"][-1] > 0
    result.save(tmp_path / "out")
    page = (tmp_path / "out" / "animation.html").read_text("utf-8")
    assert "20 % of the time of growth" in page and "One date does not show the speed of growth" in page
    assert len(page) < 1e6 and not re.search(r"https?://", page)


def test_without_being_asked_there_is_none(known, tmp_path):
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        result = personalize(known, method=Put())
    assert result.growth is None


def test_tissue_is_led_back_to_where_it_was():
    """A stretch along x, of which a half has happened at the first time."""
    grid = Grid((24, 12, 12), np.diag([4.0, 4.0, 4.0, 1.0]))
    x = np.asarray(grid.to_world(np.moveaxis(np.indices(grid.shape).astype(float), 0, -1)))[..., 0]
    bump = 6.0 * np.exp(-(((x - 46) / 16) ** 2))
    inside = np.zeros(grid.shape)
    inside[4:-4, 4:-4, 4:-4] = 1
    moved = np.stack([np.stack([share * bump * inside, 0 * x, 0 * x], -1) for share in (0.5, 1.0)])
    seen = SimpleNamespace(images={"T1": None}, shows_fluid=True)
    half, whole = _led_back(seen, grid, moved, now=1)
    assert np.abs(whole).max() < 0.3
    # x - u/2 = y - u(y), where y = x + step: to first order the step is what is still to come.
    middle = half[8:16, 6, 6, 0]
    assert (middle > 0).all() and np.abs(middle - 0.5 * bump[8:16, 6, 6]).max() < 1.5
    place = np.interp(x[8:16, 6, 6] + middle, x[:, 6, 6], moved[1][:, 6, 6, 0])
    np.testing.assert_allclose(x[8:16, 6, 6] + middle - place, x[8:16, 6, 6] - moved[0][8:16, 6, 6, 0], atol=0.3)
    # The images of an atlas show the tissue before the tumour.
    alone = _led_back(SimpleNamespace(images={}, shows_fluid=False), grid, moved, now=1)
    np.testing.assert_array_equal(alone, -moved)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """An animation of made-up data in three planes, whose background moves."""
    data, path = made_up(), tmp_path_factory.mktemp("animation") / "animation.html"
    middle, films = centre(data), []
    for axis, n in enumerate(middle.tolist()):
        box = tuple(slice(n, n + 1) if each == axis else slice(None) for each in range(3))
        outlines = {"core": data.core[box], "lesion": data.lesion[box]}
        films.append(
            Film(
                [
                    Frame(
                        "",
                        number / TIMES * data.density[box],
                        background=np.roll(data.background[box], number - TIMES, axis=(axis + 1) % 3),
                        **(outlines if number == TIMES else {}),
                    )
                    for number in range(1, TIMES + 1)
                ],
                list(range(TIMES)),
            )
        )
    labels = [f"{20 * number} %" for number in range(1, TIMES)] + [HOSTILE]
    write_animation(path, data, Animation(films, labels, [f"{n} ml" for n in range(TIMES)], [HOSTILE]))
    return path


def test_the_page_needs_nothing_else(page):
    text = page.read_text("utf-8")
    assert len(re.findall("data:image/webp", text)) == 3
    assert "http:" not in text and "https:" not in text
    # A text of a file is no element, neither in the page nor in the script's table.
    assert HOSTILE not in text and text.count("</script>") == 2
    data = made_up()
    whole = Film([Frame("", data.density)] * 2, [0, 1])
    with pytest.raises(ValueError, match="which is no slice of"):
        write_animation(page.with_name("other.html"), data, Animation([whole], ["a", "b"], ["", ""], []))
    alone = Film([Frame("", data.density[:1])], [0])
    with pytest.raises(ValueError, match="an animation needs two frames or more"):
        write_animation(page.with_name("other.html"), data, Animation([alone], ["a"], [""], []))
    assert not page.with_name("other.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_reader_plays_it_and_steps_through_it(page, tmp_path):
    browser = Browser(tmp_path)
    label, button = "document.querySelector('[data-part=label]').textContent", "document.querySelector('button')"
    second = "(bar => { bar.value = 1; bar.dispatchEvent(new Event('input')); })(document.querySelector('input'))"

    def motion(wanted):
        browser("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": wanted}])

    try:
        for width in (1280, 390):
            motion("no-preference")
            browser.open(page, width)
            assert browser.ask(f"{button}.textContent") == "Pause"
            # Which of them is seen depends on how busy the machine is.
            browser.wait(f"{label} !== '20 %'")
            assert browser.ask("document.documentElement.scrollWidth") <= width
            # Who wants less motion sees the end until asking for the rest.
            motion("reduce")
            browser.open(page, width)
            assert browser.ask(f"{button}.textContent") == "Play" and browser.ask(label) == HOSTILE
            browser.ask(second)
            assert browser.ask(label) == "40 %" and browser.ask(f"{button}.textContent") == "Play"
            browser.ask(f"{button}.click()")
            browser.wait(f"{label} !== '40 %'")
            assert browser.ask(f"document.querySelector('input').getAttribute('aria-valuetext') === {label}")
        assert browser.requested == [page.resolve().as_uri()] and browser.complaints == []
        assert browser.ask("window.harmed") is None
    finally:
        browser.close()
