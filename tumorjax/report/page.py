"""One self-contained HTML page and one summary image from a report's data."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tumorjax.quality import status_of
from tumorjax.report import tables
from tumorjax.report.blocks import Part, Shown, shown_sections
from tumorjax.report.data import ReportData, check, remarks
from tumorjax.report.statements import statements
from tumorjax.report.wording import volume
from tumorjax.storage import new_file
from tumorjax.text import printable

if TYPE_CHECKING:
    from tumorjax.report.tiles import View
    from tumorjax.report.volumes import Volumes

# The section with the time of each stage, which the page draws itself.
_TIME = Shown("time", "Time", [[Part(narrow=True)]])
# The few settings that decide how the figures look, against a reader's own matplotlibrc.
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "mathtext.fontset": "dejavusans",
    "axes.unicode_minus": True,
    "text.usetex": False,
    "savefig.bbox": None,
    "savefig.facecolor": "auto",
    "path.simplify": True,
}


def write_report(folder: Path, data: ReportData) -> None:
    """Write `report.html` and `report.png` into a folder.

    Both are rendered before either is written, and each is moved into place whole, so that a reader
    never sees half a file.

    Parameters
    ----------
    folder
        Where to write; made if it is not there.
    data
        What to show, in any orientation.

    Raises
    ------
    ValueError
        If arrays differ in shape or the affine is not invertible.
    """
    check(data)
    with drawing():
        html, summary = _render(data)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("report.png", summary), ("report.html", html.encode("utf-8"))):
        with new_file(folder / name) as partial:
            partial.write_bytes(content)


def report_page(data: ReportData) -> str:
    """Return the page of a report as text.

    Raises
    ------
    ValueError
        If arrays differ in shape or the affine is not invertible.
    """
    check(data)
    with drawing():
        return _render(data)[0]


def glance(data: ReportData, table: str) -> str:
    """Return a report at a glance, for a notebook: the quality, a table, and the density in three planes.

    Parameters
    ----------
    data
        The report's data; its sections are not looked at.
    table
        HTML of the table.
    """
    from tumorjax.report.figures import density_row
    from tumorjax.report.panes import planes
    from tumorjax.report.tiles import View

    check(data)
    with drawing():
        view = View(replace(data, sections=[]))
        picture = planes(view, density_row(view))
    return rendered("glance.html.j2", data=data, table=table, picture=picture)


def drawing() -> AbstractContextManager[None]:
    """Return the context in which figures are drawn: in the report's style, whatever a reader's own settings are."""
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def _render(data: ReportData) -> tuple[str, bytes]:
    from tumorjax.report.tiles import View
    from tumorjax.report.volumes import volumes_of

    view = View(data)
    with ThreadPoolExecutor(1) as pool:
        # Compressing the volumes leaves a core to the figures, which are drawn meanwhile.
        return _drawn(data, view, pool.submit(volumes_of, view).result)


def _drawn(data: ReportData, view: "View", volumes: Callable[[], "Volumes"]) -> tuple[str, bytes]:
    from tumorjax.report import charts, figures, posterior
    from tumorjax.report.panes import encoded, planes

    slices = {
        "density": planes(view, figures.density_row(view)),
        "levels": figures.slices(view),
        "fit": planes(view, figures.fit_row(view)),
        "registration": planes(view, figures.tissue_row(view), figures.atlas_behind(view)),
        "displacement": planes(view, figures.displacement_row(view)),
        "uncertainty": planes(view, figures.uncertainty_row(view)),
        "spread": planes(view, figures.displacement_std_row(view)),
        "probability": planes(view, posterior.probability_row(view)),
        "plan": planes(view, figures.plan_row(view)),
        "pet": figures.pet(view),
        "truth": figures.truth(view),
    }
    pictures = {
        "parameters": charts.parameters_png(data.parameters),
        "correlation": charts.correlation_png(*data.correlation, data.parameters) if data.correlation else None,
    }
    cards = tables.cards(data)
    facts = [("Quality", str(data.quality)), *((card["label"], card["value"]) for card in cards)]
    summary = figures.summary_png(view, facts)
    further = shown_sections(view, view.data.sections, data.parameters)
    script = files("tumorjax.report").joinpath("viewer.js").read_text("utf-8")
    html = rendered(
        "page.html.j2",
        data=data,
        notes=[(note, status_of([note])) for note in [*data.notes, *remarks(data)]],
        statements=statements(data),
        cards=cards,
        metrics=tables.metrics(data.metrics),
        parameters=tables.parameter_rows(data.parameters),
        early=[section for section in further if section.early],
        sections=_beside([*(each for each in further if not each.early), *([_TIME] if data.stages else [])]),
        credible=[(label, *map(volume, sizes)) for label, *sizes in data.credible_volumes],
        sizes=tables.volume_rows(view.data),
        margins=tables.margin_rows(view.data),
        plan=tables.plan_rows(data),
        displacement=tables.displacement_rows(data),
        truth=tables.truth_rows(data),
        stages=tables.stage_rows(data),
        slices={name: picture for name, picture in slices.items() if picture},
        pictures={name: encoded(png) for name, png in pictures.items() if png},
        volumes=volumes(),
        script=script,
        # The one script that a browser runs in this page, whatever else a text of a file may smuggle in.
        allowed=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )
    return html, summary


def _beside(sections: Sequence[Shown]) -> list[list[Shown]]:
    """Return sections in rows: two narrow ones that follow each other stand side by side."""
    rows: list[list[Shown]] = []
    for section in sections:
        if section.narrow and rows and rows[-1][0].narrow and len(rows[-1]) < 2:
            rows[-1].append(section)
        else:
            rows.append([section])
    return rows


def rendered(template: str, **content: object) -> str:
    """Return a page from a template of this room, with everything that comes from files escaped."""
    import jinja2

    def read(name: str) -> str:
        return files("tumorjax.report").joinpath(name).read_text("utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read),
        autoescape=True,
        # What Jinja has made, of the template itself, is no text of a file.
        finalize=lambda value: printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)
