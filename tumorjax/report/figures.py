"""The page's figures of slices: density, fit, uncertainty, plan, PET, comparison with a known truth."""

import math
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tumorjax.calibration.maps import VISIBLY
from tumorjax.quality import Status
from tumorjax.report.charts import profile, scatter
from tumorjax.report.data import lesion_box
from tumorjax.report.panes import Pane, Picture, address, bar_of, planes, slice_image, strip
from tumorjax.report.rows import Entry, Row, draw_row, new_figure, row_height, to_png
from tumorjax.report.tiles import AXIAL, INK, SOFT, WIDTH, Scale, Tile, View, axes_at, bar_length, plain
from tumorjax.sections import Field, Marked

# Okabe and Ito's colours and neighbours: told apart under the common colour blindnesses, on grey and on warm heat, in
# which dense tumour is orange. Every figure has the same ones.
CORE, LESION = "#56b4e9", "#ffffff"
MODEL_CORE, MODEL_LESION = "#1fd0a3", "#f0e442"
PLAN, STANDARD, SHARED, RECURRENCE = "#4aa8ff", "#f0a010", "#7fe0c0", "#ff5fb0"
DASHED = (0, (3.2, 1.6))
# Borders of healthy tissue, by the least label inside.
_TISSUE = (("brain", 1, "#ff9d5c"), ("cortex and nuclei", 2, "#f0e442"), ("white matter", 3, "#1fd0a3"))
# Characters in a line of the verdict, which is bold, and of the subtitle, beside the warning.
_VERDICT, _SUBTITLE = 120, 95

OUTLINES = {"core": Entry("observed core\n(T1Gd)", CORE), "lesion": Entry("observed lesion\n(FLAIR)", LESION)}
MODEL = {"core": MODEL_CORE, "lesion": MODEL_LESION}


def outlines_of(view: View) -> tuple[Entry, ...]:
    """Return the entries of the outlines that were observed."""
    return tuple(OUTLINES[name] for name in view.data.outlines)


def density_scale(view: View) -> Scale:
    """Return the scale of densities; the fitted thresholds are lines on its bar."""
    lines = tuple((level, OUTLINES[name].colour, "-") for name, level in view.data.thresholds.items())
    return Scale("density of tumour cells\n(fraction of capacity)", "inferno", 0.0, 1.0, lines=lines)


def _observed(tile: Tile, width: float = 1.2) -> None:
    for name in reversed(tile.view.data.outlines):
        tile.outline(getattr(tile.view.data, name), OUTLINES[name].colour, width=width)


def density_row(view: View) -> Row:
    """Return the row of the estimated density under the observed outlines."""
    scale = density_scale(view)

    def paint(tile: Tile) -> None:
        tile.heat(view.data.density, scale)
        _observed(tile)

    return Row("Tumour density", paint, outlines_of(view), scale)


def fit_row(view: View) -> Row:
    """Return the row of the model's isolines at the fitted thresholds against the observed outlines."""
    data = view.data

    def paint(tile: Tile) -> None:
        _observed(tile, 1.5)
        for name, level in reversed(data.thresholds.items()):
            tile.outline(data.density, MODEL[name], level=level, style=DASHED, width=1.5)

    top = float(data.density.max())
    entries = (
        *outlines_of(view),
        *(
            Entry(f"model, {name}\n{_level(level, top)}", MODEL[name], DASHED)
            for name, level in data.thresholds.items()
        ),
    )
    return Row("Fit to the outlines", paint, entries, close_up=True)


def _level(threshold: float, top: float) -> str:
    """Return an isoline's level in words; a density that never reaches it has no isoline, which must not look lost."""
    return f"density = {threshold:.2f}" + ("" if top > threshold else ", not reached")


def uncertainty_row(view: View) -> Row | None:
    """Return the row of the density's standard deviation; None where it is unknown or zero."""
    return _spread_row(view, "Uncertainty", view.data.density_std, "standard deviation\nof the density")


def displacement_std_row(view: View) -> Row | None:
    """Return the row of the displacement's standard deviation; None where it is unknown or zero."""
    label = "standard deviation\nof the displacement (mm)"
    return _spread_row(view, "Uncertainty", view.data.displacement_std, label)


def field_row(view: View, field: Field) -> Row | None:
    """Return the row of a map that a method shows; None where it is the same everywhere."""
    low, high = min(0.0, float(field.values.min())), float(field.values.max())
    if not high > low:
        return None
    scale = Scale(plain(field.label, 60), "viridis", low, high)

    def paint(tile: Tile) -> None:
        tile.heat(field.values, scale)
        _observed(tile, 1.0)

    return Row(plain(field.title, 30), paint, outlines_of(view), scale)


def marked(view: View, block: Marked) -> Picture | None:
    """Return marked voxels in three planes through their largest part; None if there are none."""
    mask = block.mask > 0
    if not mask.any():
        return None

    def paint(tile: Tile) -> None:
        _observed(tile, 1.0)
        tile.fill(mask, STANDARD, 0.85)

    entries = (Entry(plain(block.label, 60), STANDARD, fill=True), *outlines_of(view))
    return planes(view.through(mask), Row("", paint, entries))


def _spread_row(view: View, title: str, std: np.ndarray | None, label: str) -> Row | None:
    if std is None or not std.max() > 0:
        return None
    scale = Scale(label, "magma", 0.0, float(std.max()))

    def paint(tile: Tile) -> None:
        tile.heat(std, scale)
        _observed(tile, 1.0)

    return Row(title, paint, outlines_of(view), scale)


def displacement_row(view: View) -> Row | None:
    """Return the row of how far tissue has moved; None where it is unknown or nothing moved."""
    moved = view.data.displacement
    if moved is None or not moved.max() > 0:
        return None
    scale = Scale("displacement\n(mm)", "viridis", 0.0, float(moved.max()), lines=((VISIBLY, LESION, DASHED),))
    entries = [*outlines_of(view)]
    if moved.max() > VISIBLY:
        entries.append(Entry(f"moved by {VISIBLY:g} mm", LESION, DASHED))

    def paint(tile: Tile) -> None:
        tile.heat(moved, scale)
        tile.outline(moved, LESION, level=VISIBLY, style=DASHED, width=0.9)
        _observed(tile, 1.0)

    return Row("Displacement", paint, tuple(entries), scale)


def tissue_row(view: View) -> Row | None:
    """Return the row of the borders of healthy tissue over the background; None where the tissue is unknown."""
    tissue = view.data.tissue
    if tissue is None or not tissue.max() > 0:
        return None

    def paint(tile: Tile) -> None:
        _borders(tile, tissue)

    entries = [Entry(words, colour) for words, _, colour in _TISSUE]
    return Row("Registration", paint, (*entries, *outlines_of(view)))


def atlas_behind(view: View) -> Callable[[Tile], None] | None:
    """Return what draws the aligned atlas with the same borders; None where there is none."""
    atlas, tissue = view.data.atlas, view.data.tissue
    if atlas is None or tissue is None or not atlas.max() > 0:
        return None
    greys = view.greys(atlas)

    def paint(tile: Tile) -> None:
        tile.image(atlas, greys)
        _borders(tile, tissue)

    return paint


def _borders(tile: Tile, tissue: np.ndarray) -> None:
    for _, least, colour in _TISSUE:
        tile.outline(tissue >= least, colour, width=0.8)
    _observed(tile, 0.9)


def plan_row(view: View) -> Row:
    """Return the row of the model's plan, if any, against the clinical margin, with the recurrence where known."""
    data = view.data
    plan = np.zeros_like(data.standard_plan) if data.plan is None else data.plan

    def paint(tile: Tile) -> None:
        tile.fill(plan & data.standard_plan, SHARED, 0.33)
        tile.fill(plan & ~data.standard_plan, PLAN, 0.7)
        # Alone it hides what it holds.
        tile.fill(data.standard_plan & ~plan, STANDARD, 0.7 if data.plan is not None else 0.4)
        tile.outline(data.lesion, LESION, width=1.0)
        if data.recurrence is not None:
            tile.outline(data.recurrence, RECURRENCE, width=1.6)

    margin = f"{data.margin:g} mm margin"
    entries = [Entry(margin, STANDARD, fill=True)]
    if data.plan is not None:
        entries = [
            Entry("both plans", SHARED, fill=True),
            Entry("model's plan only", PLAN, fill=True),
            Entry(f"{margin} only", STANDARD, fill=True),
        ]
    entries.append(Entry("observed lesion", LESION))
    if data.recurrence is not None:
        entries.append(Entry("recurrence", RECURRENCE))
    return Row("Plan and margin" if data.plan is not None else "Margin, no plan", paint, tuple(entries))


def slices(view: View, count: int = 7) -> Picture:
    """Return axial slices evenly through the lesion, top of the head last."""
    start, stop = lesion_box(view.data, margin=0.0)
    # The outermost slices hold hardly any lesion: the middles of equal slabs.
    slabs = start[2] + (np.arange(count) + 0.5) / count * (stop[2] - start[2])
    levels = np.unique(np.floor(slabs).astype(int))
    # As many columns as were asked for also where the lesion has fewer slices: the panes keep their size.
    wide = WIDTH / count
    high = wide / view.size[0] * view.size[1]
    heat = density_scale(view)

    def paint(tile: Tile) -> None:
        tile.heat(view.data.density, heat)
        _observed(tile, 0.9)

    images = []
    for number, index in enumerate(map(int, levels)):
        bar, place = bar_length(view.size[0]) if number == 0 else None, view.position(AXIAL, index)
        image = slice_image(view, AXIAL, paint, wide=wide, high=high, bar=bar, title=place, index=index)
        images.append((f"Axial slice, {place}", image))
    return strip(images, wide)


def _comparison(
    view: View, panels: Sequence[tuple[str, np.ndarray, Scale]], draw: Callable[[Axes], None], *, line: bool
) -> Picture:
    """Return three axial slices with colour bars under them, and a chart beside them."""
    chart = 3.1
    wide = (WIDTH - chart) / 3
    high = wide / view.size[0] * view.size[1]
    panes = []
    for number, (title, volume, colours) in enumerate(panels):

        def paint(tile: Tile, volume: np.ndarray = volume, colours: Scale = colours) -> None:
            tile.heat(volume, colours)
            tile.outline(view.data.lesion, LESION, width=0.9)
            if line:
                height = (view.focus[1] + 0.5) * view.spacing[1]
                tile.axes.axhline(height, color="white", linewidth=0.8, linestyle=(0, (1, 2)))

        bar = bar_length(view.size[0]) if number == 0 else None
        image = slice_image(view, AXIAL, paint, wide=wide, high=high, bar=bar, title=title)
        panes.append(Pane(address(image), wide, title.capitalize(), bar=bar_of(colours)))
    figure = new_figure(chart, high)
    draw(axes_at(figure, (0.62, 0.45, chart - 0.72, high - 0.55)))
    panes.append(Pane(address(to_png(figure), "png"), chart, "Profile" if line else "Scatter plot"))
    return Picture(panes, (OUTLINES["lesion"],))


def truth(view: View) -> Picture | None:
    """Return truth, estimate, their difference and a profile; None without a truth."""
    data = view.data
    if data.truth is None:
        return None
    scale = Scale("density", "inferno", 0.0, 1.0)
    error = data.density - data.truth
    seen = np.maximum(data.density, data.truth) > 0.05
    panels = [
        ("truth", data.truth, scale),
        ("estimate", data.density, scale),
        ("estimate \N{MINUS SIGN} truth", error, difference(error[seen], "difference of densities")),
    ]
    return _comparison(view, panels, lambda axes: profile(axes, view), line=True)


def pet(view: View) -> Picture | None:
    """Return measured and modelled PET, their difference and a scatter plot; None without PET or its model."""
    data = view.data
    if data.pet is None or data.pet_predicted is None:
        return None
    return comparison(view, data.pet, data.pet_predicted, data.pet > 0, "uptake")


def comparison(view: View, measured: np.ndarray, modelled: np.ndarray, seen: np.ndarray, label: str) -> Picture | None:
    """Return an image as it was measured and as it is modelled where it is seen, difference and scatter plot."""
    if not seen.any():
        return None
    top = float(np.percentile(measured[seen], 99.5))
    power = math.floor(math.log10(top))
    # In an extreme unit the colours of scales, whose least range is that of ordinary numbers, would not tell apart.
    power = 0 if -3 <= power < 5 else power
    label = plain(f"{label} (1e{power})" if power else label, 40)
    measured, modelled = (np.asarray(each, float) / 10.0**power for each in (measured, modelled))
    top /= 10.0**power
    # Outside the region with a measurement the prediction says nothing about the fit.
    error = np.where(seen, modelled - measured, 0.0)
    scale = Scale(label, "inferno", 0.0, top)
    panels = [
        ("measured", measured, scale),
        ("model", modelled, scale),
        ("model \N{MINUS SIGN} measured", error, difference(error[seen], f"difference of {label}")),
    ]
    return _comparison(view, panels, lambda axes: scatter(axes, measured[seen], modelled[seen], label), line=False)


def difference(error: np.ndarray, label: str) -> Scale:
    """Return a scale symmetric about zero, transparent there, that holds nearly all of these errors."""
    top = float(np.percentile(np.abs(error), 99.5)) if error.size else 0.0
    # A perfect fit still needs a range.
    top = max(top, 1e-3)
    return Scale(label, "RdBu_r", -top, top, diverging=True)


def summary_png(view: View, facts: Sequence[tuple[str, str]]) -> bytes:
    """Return the page-one figure: title, facts (label, value), and the rows of density, fit, uncertainty, plan."""
    rows = [density_row(view), fit_row(view), displacement_row(view), uncertainty_row(view), plan_row(view)]
    shown = [row for row in rows if row is not None]
    height, gap, edge = row_height(view), 0.14, 0.25
    reason = _reason(view)
    verdict = 0.22 + 0.18 * len(reason) if reason else 0.0
    head = 1.55 + verdict
    tall = head + len(shown) * (height + gap) + 0.18
    figure = new_figure(WIDTH + 2 * edge, tall + edge)
    _heading(figure, view, facts, (edge, tall + edge - head, WIDTH, head - 0.2 - verdict))
    if verdict:
        _verdict(figure, view.data.quality, reason, (edge, tall + edge - verdict - 0.05, WIDTH, verdict - 0.08))
    for number, row in enumerate(shown):
        draw_row(figure, view, row, tall + edge - head - (number + 1) * height - number * gap, left=edge)
    foot = axes_at(figure, (edge, 0.12, WIDTH, 0.3))
    foot.set_axis_off()
    words = "Radiological convention: the patient's right (R) is on the image's left. Planes cut the lesion's centre."
    foot.text(0, 0.5, words, fontsize=8.5, va="center", color=SOFT)
    return to_png(figure, dpi=130)


def _reason(view: View) -> list[str]:
    """Return that the result is doubtful or has failed, and the first reason, in lines; nothing where it is good."""
    quality, reasons = view.data.quality, view.data.reasons
    if quality is Status.GOOD:
        return []
    return textwrap.wrap(plain(": ".join([str(quality).upper(), *reasons[:1]]), 3 * _VERDICT), _VERDICT)


def _verdict(figure: Figure, quality: Status, lines: Sequence[str], box: Sequence[float]) -> None:
    """Draw a strip with the lines of `_reason`."""
    axes = axes_at(figure, box)
    axes.set_axis_off()
    ground, ink = ("#b3121d", "white") if quality is Status.FAILED else ("#fbe3ab", "#4d3300")
    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, facecolor=ground, edgecolor="none"))
    words = "\n".join(lines)
    axes.text(
        0.01, 0.5, words, linespacing=1.3, fontsize=9.5, fontweight="bold", va="center", color=ink, parse_math=False
    )


def _heading(figure: Figure, view: View, facts: Sequence[tuple[str, str]], box: Sequence[float]) -> None:
    axes = axes_at(figure, box)
    axes.set_axis_off()
    axes.set(xlim=(0, box[2]), ylim=(0, box[3]))
    top = box[3]
    axes.text(0, top, plain(view.data.title, 50), fontsize=17, fontweight="bold", va="top", color=INK, parse_math=False)
    subtitle = textwrap.fill(plain(view.data.subtitle, 2 * _SUBTITLE), _SUBTITLE)
    axes.text(0, top - 0.36, subtitle, fontsize=10, va="top", color=SOFT, parse_math=False)
    axes.text(
        box[2] - 0.08,
        top - 0.06,
        "RESEARCH USE ONLY\nnot for clinical use",
        fontsize=9.5,
        fontweight="bold",
        va="top",
        ha="right",
        color="white",
        linespacing=1.35,
        bbox={"facecolor": "#8f2d0b", "edgecolor": "none", "boxstyle": "round,pad=0.5"},
    )
    step = box[2] / max(len(facts), 6)
    for number, (label, value) in enumerate(facts):
        axes.text(number * step, 0.28, value, fontsize=14, fontweight="bold", va="bottom", color=INK, parse_math=False)
        axes.text(number * step, 0.24, label, fontsize=8.5, va="top", color=SOFT, parse_math=False)
