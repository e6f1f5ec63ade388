"""The animation of a tumour that grows: one page that needs no other file and no network."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from tumorjax.report.course import legend_of
from tumorjax.report.data import ReportData, check
from tumorjax.report.figures import density_scale
from tumorjax.report.film import plane_of, reel_of
from tumorjax.report.page import drawing, rendered
from tumorjax.report.panes import Picture, bar_of
from tumorjax.report.tiles import PLANES, View
from tumorjax.sections import Film, Section
from tumorjax.storage import new_file
from tumorjax.text import printable


@dataclass(frozen=True, eq=False)
class Animation:
    """What the page of an animation shows.

    Parameters
    ----------
    films
        One for each plane, with the same times. Their frames have no titles.
    labels
        The time of each frame in words.
    facts
        Of each frame, what the model has at that time, in words.
    paragraphs
        What is shown, and what it does not say.
    """

    films: Sequence[Film]
    labels: Sequence[str]
    facts: Sequence[str]
    paragraphs: Sequence[str]


def write_animation(path: Path, data: ReportData, animation: Animation) -> None:
    """Write the page of an animation; it appears whole.

    Parameters
    ----------
    path
        The file.
    data
        What the report shows; its sections are not looked at.
    animation
        What moves.

    Raises
    ------
    ValueError
        If arrays differ in shape, the affine is not invertible, or there are less than two frames.
    """
    data = replace(data, sections=[Section("Growth", list(animation.films))])
    check(data)
    with drawing():
        view = View(data)
        films = [each for each in view.data.sections[0].blocks if isinstance(each, Film)]
        planes = [plane_of(view, film) for film in films]
        found = {plane: reel for plane, film in zip(planes, films, strict=True) if (reel := reel_of(view, film))}
        outlined = {name for film in films for frame in film.frames for name in frame.outlined}
        legend = Picture([], legend_of(view, outlined), bar_of(density_scale(view)))
    if not found:
        raise ValueError("an animation needs two frames or more")
    # Side by side as in the report.
    reels = [(plane.name, found[plane]) for plane in PLANES if plane in found]
    first = reels[0][1]
    moments = [
        {
            # Per cent of each picture, which all have the frames in the same places.
            "across": round(moment.across, 4),
            "down": round(moment.down, 4),
            "begin": round(moment.begin / 100 * first.seconds, 3),
            "label": printable(label),
            "facts": printable(said),
        }
        for moment, label, said in zip(first.moments, animation.labels, animation.facts, strict=True)
    ]
    script = files("tumorjax.report").joinpath("animation.js").read_text("utf-8")
    page = rendered(
        "animation.html.j2",
        data=data,
        reels=reels,
        legend=legend,
        last=len(moments) - 1,
        label=animation.labels[-1],
        facts=animation.facts[-1],
        paragraphs=animation.paragraphs,
        # "</script>" in a label would end the element that holds it.
        times=json.dumps({"moments": moments, "seconds": round(first.seconds, 3)}).replace("<", "\\u003c"),
        script=script,
        allowed=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )
    with new_file(path) as partial:
        partial.write_text(page, encoding="utf-8")
