"""One self-contained HTML page and one summary image from a report's data."""

import base64
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from tumorjax.quality import status_of
from tumorjax.report import tables
from tumorjax.report.data import ReportData, check, remarks
from tumorjax.report.wording import volume
from tumorjax.text import printable

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
    import matplotlib

    check(data)
    with matplotlib.rc_context(_STYLE):
        html, summary = _render(data)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "report.png", summary)
    _replace(folder / "report.html", html.encode("utf-8"))


def _render(data: ReportData) -> tuple[str, bytes]:
    from tumorjax.report import charts, figures, posterior
    from tumorjax.report.tiles import View

    view, draws = View(data), data.draws
    pictures = {
        "density": figures.planes_png(view, figures.density_row(view)),
        "slices": figures.slices_png(view),
        "fit": figures.planes_png(view, figures.fit_row(view)),
        "displacement": figures.planes_png(view, figures.displacement_row(view)),
        "uncertainty": figures.planes_png(view, figures.uncertainty_row(view)),
        "spread": figures.planes_png(view, figures.displacement_std_row(view)),
        "probability": figures.planes_png(view, posterior.probability_row(view)),
        "plan": figures.planes_png(view, figures.plan_row(view)),
        "pet": figures.pet_png(view),
        "truth": figures.truth_png(view),
        "parameters": charts.parameters_png(data.parameters),
        "correlation": charts.correlation_png(*data.correlation, data.parameters) if data.correlation else None,
        "convergence": charts.convergence_png(data.convergence),
    }
    if draws is not None:
        pictures |= {
            "corner": posterior.corner_png(draws, data.parameters),
            "traces": posterior.trace_png(draws, data.parameters),
            "ladder": posterior.ladder_png(draws),
        }
    cards = tables.cards(data)
    facts = [("Quality", str(data.quality)), *((card["label"], card["value"]) for card in cards)]
    summary = figures.summary_png(view, facts)
    html = _template(
        data=data,
        notes=[(note, status_of([note])) for note in [*data.notes, *remarks(data)]],
        cards=cards,
        metrics=tables.metrics(data.metrics),
        parameters=tables.parameter_rows(data.parameters),
        mixing=tables.mixing_rows(draws, data.parameters) if draws is not None else [],
        volumes=[(label, *map(volume, sizes)) for label, *sizes in draws.volumes] if draws is not None else [],
        plan=tables.plan_rows(data),
        displacement=tables.displacement_rows(data),
        atlases=tables.atlas_table(data.atlases),
        truth=tables.truth_rows(data),
        stages=tables.stage_rows(data),
        pictures={name: base64.b64encode(png).decode("ascii") for name, png in pictures.items() if png},
    )
    return html, summary


def _template(**content: object) -> str:
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
    return environment.get_template("page.html.j2").render(**content)


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    # Beside the target: a move is atomic only within a file system.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
