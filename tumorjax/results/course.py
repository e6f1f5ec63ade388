"""What a personalization of several visits leaves of the time: a table, densities by day, a section of the report."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tumorjax.growth import Radiotherapy, Surgery, Treatment
from tumorjax.io import write_volume
from tumorjax.patient.patient import Patient
from tumorjax.results.personalization import Personalization
from tumorjax.sections import Band, Bands, Block, Film, Frame, Frames, Section, Table
from tumorjax.storage import new_file

_TABLE = "forecast.csv"
_HEAD = ("day", "kind", "outline", "volume_ml_5", "volume_ml_50", "volume_ml_95", "outlined_ml")
# Names of the outlines for readers.
WORDS = {"core": "core", "lesion": "whole lesion"}
# Days of radiation that are this far apart are two courses.
_PAUSE = 10.0


def write_course(out: Path, result: Personalization) -> None:
    """Write the volumes by day, and the density on each day with its standard deviation; nothing for one date."""
    found = result.forecast
    if found is None:
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_HEAD)
    writer.writerows(_rows(result))
    with new_file(out / _TABLE) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8", newline="")
    if found.density is None or found.deviation is None:
        return
    like = result.patient.reference
    for day, density, deviation in zip(found.mapped, found.density, found.deviation, strict=True):
        write_volume(out / f"density_day_{day:g}.nii.gz", density, like=like)
        write_volume(out / f"density_std_day_{day:g}.nii.gz", deviation, like=like)


def course_section(result: Personalization) -> Iterator[Section]:
    """Yield the section of the report on the course of the tumour, where there are several visits."""
    found, patient = result.forecast, result.patient
    if found is None:
        return
    bands = []
    for name in found.volumes:
        seen = [(each.day, each.outlines) for each in patient.visits]
        measured = [(day, _ml(patient, outlines[name])) for day, outlines in seen if name in outlines]
        low, middle, high = _percentiles(result, name)
        held = {} if result.kept is None else result.kept.outlines
        kept = [(result.kept.day, _ml(patient, held[name]))] if result.kept and name in held else []
        bands.append(Band(WORDS.get(name, name), found.days, low, middle, high, measured, kept))
    spans = [(name, *span) for name, each in result.treatments.items() for span in spans_of(each)]
    blocks: list[Block] = [
        Bands(
            "volume, ml",
            bands,
            spans,
            patient.day,
            "Volumes over time",
            "Volume of the tissue whose density is above the threshold of an outline. Bands hold 90 % of the draws "
            "from the posterior: they contain the uncertainty of the parameters, not that of outlines, nor the error "
            "of the model itself.",
        )
    ]
    blocks += [*_film(result), *_frames(result)]
    rows = [
        [row[0], WORDS.get(str(row[2]), row[2]), *(None if isinstance(cell, str) else cell for cell in row[3:])]
        for row in _rows(result)
    ]
    head = ["Day", "Outline", "Model, 5 %", "Median", "95 %", "Outlined"]
    blocks.append(Table(head, [[str(row[0]), *row[1:]] for row in rows], title="Volumes, ml"))
    if result.kept is not None:
        head = ["Outline", "Dice, forecast", "Dice, unchanged", "Covered", "Rank of the volume"]
        keys = ("dice_{}", "dice_{}_unchanged", "covered_{}", "rank_{}")
        checks = [
            [word, *(result.metrics[f"held_out_{k.format(name)}"] for k in keys)]
            for name, word in WORDS.items()
            if f"held_out_dice_{name}" in result.metrics
        ]
        blocks.append(
            Table(
                head,
                checks,
                title=f"The scan of day {result.kept.day:g}, which was kept back",
                caption="Dice of the voxels that lie inside the outline with a probability of one half or more, and of "
                "the outline of the day before it; share of the outline in voxels that lie inside with more than 5 %; "
                "share of the draws with a smaller volume than was outlined, 0.05 to 0.95 inside the band.",
            )
        )
    yield Section("Course over time", blocks, early=True)


def _frames(result: Personalization) -> Iterator[Frames]:
    """Yield the densities of the days that have maps."""
    found, frames, outlined = result.forecast, [], _outlined(result)
    assert found is not None
    if found.density is None:
        return
    for day, density in zip(found.mapped.tolist(), found.density, strict=True):
        kind, each = outlined.get(day, ("forecast", None))
        title = f"day {day:g}" if kind == "visit" else f"day {day:g}, {kind}"
        shown = {} if each is None else {**each.outlines, "background": each.background}
        frames.append(Frame(title, density, **shown))
    yield Frames(
        frames,
        "Densities by day",
        "Mean density over the draws, in the axial plane through the centre of the lesion on the last day, with "
        "the outlines of each day. Dashed: where this density is at the fitted thresholds.",
    )


def _film(result: Personalization) -> Iterator[Film]:
    """Yield the film of the growth, where it was followed."""
    slices, patient = result.slices, result.patient
    if slices is None:
        return
    seen, box, frames = _outlined(result), slices.box, []
    spans = [(name, *span) for name, each in result.treatments.items() for span in spans_of(each)]
    for day, density in zip(slices.days.tolist(), slices.density, strict=True):
        each = seen.get(day, (None, None))[1]
        later = ["forecast"] if day > patient.day else []
        later += list(dict.fromkeys(name for name, begin, end in spans if begin <= day <= end))
        shown = {} if each is None else {name: outline[box] for name, outline in each.outlines.items()}
        title = ", ".join([f"day {round(day, 1):g}", *later])
        frames.append(Frame(title, density, **shown))
    yield Film(
        frames,
        slices.days.tolist(),
        "Growth",
        "Density for the calibrated parameters in the axial plane through the centre of the lesion, from the first "
        "visit to the last day; it stands still on days with images, whose outlines are solid. Dashed: where the "
        "density is at the fitted thresholds. Choose Pause, or a day.",
    )


def _rows(result: Personalization) -> Iterator[list[str | float]]:
    """Yield the rows of the table of volumes, by day and outline."""
    found, patient = result.forecast, result.patient
    assert found is not None
    seen = _outlined(result)
    bands = {name: _percentiles(result, name) for name in found.volumes}
    for day in found.mapped.tolist():
        place = found.days.tolist().index(day)
        for name, band in bands.items():
            kind, shown = seen.get(day, ("forecast", None))
            outlines = {} if shown is None else shown.outlines
            outlined = _ml(patient, outlines[name]) if name in outlines else ""
            values = [round(float(each[place]), 3) for each in band]
            yield [f"{day:g}", kind, name, *values, outlined if outlined == "" else round(outlined, 3)]


def _outlined(result: Personalization) -> dict[float, tuple[str, Patient]]:
    """Return the days on which the tumour was outlined: whether the model saw that, and the patient."""
    found = {each.day: ("visit", each) for each in result.patient.visits}
    return found if result.kept is None else {**found, result.kept.day: ("kept back", result.kept)}


def _percentiles(result: Personalization, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the 5th, 50th and 95th percentile of a volume on each day, ml."""
    assert result.forecast is not None
    spread = result.forecast.volume(name)
    return tuple(np.asarray(each) / 1000 for each in (spread.low, spread.mode, spread.high))  # pyright: ignore


def _ml(patient: Patient, mask: np.ndarray) -> float:
    return float(mask.sum()) * float(patient.reference.grid.voxel_volume) / 1000


def spans_of(treatment: Treatment) -> Iterator[tuple[float, float]]:
    """Yield first and last day of each time in which a treatment was given."""
    if isinstance(treatment, Surgery):
        yield treatment.day, treatment.day
    elif isinstance(treatment, Radiotherapy):
        days = np.unique(treatment.days)
        for part in np.split(days, np.flatnonzero(np.diff(days) > _PAUSE) + 1):
            yield float(part[0]), float(part[-1])
    else:
        yield treatment.start, treatment.stop
