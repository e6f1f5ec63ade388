"""The animation of a result: how the tumour grew from its seed on, as a page of its own."""

from pathlib import Path

from tumorjax.patient.patient import Patient
from tumorjax.report.animation import Animation
from tumorjax.report.animation import write_animation as write_page
from tumorjax.report.wording import length, volume
from tumorjax.results.course import WORDS, spans_of
from tumorjax.results.page import figures_of
from tumorjax.results.personalization import Personalization
from tumorjax.results.slices import Growth, Slices
from tumorjax.sections import Film, Frame

FILE = "animation.html"


def write_animation(out: Path, result: Personalization) -> None:
    """Write the animation of a result into a folder; nothing where its growth was not followed."""
    growth = result.growth
    if growth is None:
        return
    seen = _seen(result, growth)
    films = [_film(plane, seen) for plane in growth.planes]
    animation = Animation(films, _labels(result, growth), _facts(growth), _paragraphs(result, growth))
    write_page(out / FILE, figures_of(result), animation)


def _seen(result: Personalization, growth: Growth) -> dict[int, Patient]:
    """Return the frames of times at which there are images, with these."""
    if growth.days is None:
        return {len(growth.shares) - 1: result.patient}
    known = [*result.patient.visits, *([] if result.kept is None else [result.kept])]
    return {int(abs(growth.days - each.day).argmin()): each for each in known}


def _film(plane: Slices, seen: dict[int, Patient]) -> Film:
    frames = []
    for number, density in enumerate(plane.density):
        outlines = seen[number].outlines if number in seen else {}
        background = None if plane.background is None else plane.background[number]
        shown = {name: outline[plane.box] for name, outline in outlines.items()}
        frames.append(Frame("", density, background=background, **shown))
    return Film(frames, plane.days.tolist())


def _labels(result: Personalization, growth: Growth) -> list[str]:
    """Return the time of each frame in words."""
    if growth.days is None:
        return [f"{100 * share:.0f} % of the time of growth" for share in growth.shares]
    spans = [(name, *span) for name, each in result.treatments.items() for span in spans_of(each)]
    labels = []
    for day in growth.days.tolist():
        done = list(dict.fromkeys(name for name, begin, end in spans if begin <= day <= end))
        later = ["forecast"] if day > result.patient.day + 0.05 else []
        labels.append(", ".join([f"Day {round(day, 1):g}", *later, *done]))
    return labels


def _facts(growth: Growth) -> list[str]:
    """Return what the model has at each time, in words."""
    found = []
    for number in range(len(growth.shares)):
        facts = [f"{WORDS.get(name, name)} {volume(each[number] / 1000)}" for name, each in growth.volumes.items()]
        if growth.largest is not None:
            facts.append(f"tissue displaced by up to {length(float(growth.largest[number]))}")
        found.append(f"Model: {', '.join(facts)}" if facts else "")
    return found


def _paragraphs(result: Personalization, growth: Growth) -> list[str]:
    if growth.days is None:
        clock = (
            "It begins with the seed of the model and ends with the images. One date does not show the speed of "
            "growth, so that the time is given as a share of the whole, whose length is unknown."
        )
    else:
        clock = (
            "It begins with the seed of the model; days are those of the visits' clock, and it stands still on days "
            "with images. Nothing but the model is known of the time before the first visit."
        )
    still = (
        "It does not change with the time, and is that of the last day with images."
        if growth.largest is None
        else "Its tissue is led back to where it was at each time by the displacement of the model, and so is a lesion "
        "that it shows."
    )
    return [
        f"How the tumour grew with the calibrated parameters ({result.model.title}): the density of tumour cells in "
        f"three slices through the core. {clock}",
        f"Solid: outlines, where there are images. Dashed: where the density is at the fitted thresholds. Background: "
        f"{result.patient.background_of}. {still}",
    ]
