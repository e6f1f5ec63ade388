"""A patient seen on several days: the table of visits, and images of later days in the geometry of the first."""

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tumorjax.io import (
    InputError,
    Volume,
    above_background,
    as_background,
    as_labels,
    as_volume,
    check_worlds,
    read_columns,
    resample,
    sha256,
)
from tumorjax.patient.alignment import LESION_RIM, grow
from tumorjax.patient.conventions import Labels
from tumorjax.patient.images import adc_on, uptake_on
from tumorjax.patient.labels import lesion_of, read_labels
from tumorjax.patient.loading import load_patient
from tumorjax.patient.patient import Patient
from tumorjax.patient.tissue import stripped_brain
from tumorjax.quality import Note, Status
from tumorjax.registration import RegistrationWarning, register, warp

# A forecast needs two visits, since one says nothing of the speed of growth, and its check a third one.
FOR_HOLD_OUT = 3
_IMAGES = {"segmentation": "segmentation", "t1": "T1", "pet": "PET", "adc": "ADC", "flair": "FLAIR"}
# Least share of a later lesion that must lie in the brain of the first day.
_INSIDE = 0.8
# Images that a registration moves by less than this share of a voxel lie in one place already.
_STILL = 0.5


def read_visits(table: str | Path) -> list[dict[str, Any]]:
    """Return the visits that a table lists: for each its "day", "segmentation", and further columns where given.

    Parameters
    ----------
    table
        A CSV file with the columns `day` and `segmentation`, and perhaps `t1`, `pet`, `adc`, `flair` and `labels` (a
        convention, or such as `core=1,4 edema=2`); a row for each visit, in the order of the days. Paths are relative
        to the table.

    Raises
    ------
    InputError
        If the table cannot be used: in which line, and why.
    """
    path = Path(table)
    rows = []
    for line, cells in read_columns(path, "visit", ("day", "segmentation"), ("t1", "pet", "adc", "flair", "labels")):
        where = f"{path}, line {line}"
        if missing := [name for name in ("day", "segmentation") if name not in cells]:
            raise InputError(f"{where}: has no {missing[0]}; each visit needs a day and a segmentation")
        row: dict[str, Any] = {"day": _number(cells["day"], where)}
        row |= {name: path.absolute().parent / cells[name] for name in _IMAGES if name in cells}
        if absent := [row[name] for name in _IMAGES if name in row and not row[name].exists()]:
            raise InputError(f"{where}: {absent[0]} does not exist; check the paths, which are relative to the table")
        if "labels" in cells:
            try:
                row["labels"] = read_labels(cells["labels"].split())
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
        rows.append(row)
        _check_next(rows, where)
    return rows


def files_of(row: Mapping[str, Any], later: bool) -> dict[str, Path]:
    """Return the files of a visit by their role: "T1" on the first day, "T1 of day 60" on a later one."""
    of = f" of day {row['day']:g}" if later else ""
    return {name + of: Path(row[key]) for key, name in _IMAGES.items() if isinstance(row.get(key), (str, Path))}


def load_visits(
    visits: str | Path | Sequence[Mapping[str, Any]],
    *,
    labels: Labels | str | None = None,
    progress: Callable[[str], None] = lambda message: None,
    **options: Any,
) -> Patient:
    """Read the images of a patient who was seen on several days.

    The first day has the geometry of all results, and the anatomy. Images of a later day are moved onto it by a rigid
    registration of the T1 images of both, from which the lesions are left out. Without these two images a later visit
    must lie in the world of the first.

    Parameters
    ----------
    visits
        A table, see `read_visits`, or its rows: `[{"day": 0, "segmentation": ..., "t1": ...}, ...]`, whose images are
        paths or `Volume`s.
    labels
        For visits that have none of their own, see `load_patient`.
    progress
        Function that is called with a description of each step.
    **options
        Everything else that `load_patient` takes, for the first day: a brain mask, tissue or an atlas, the resolution.

    Returns
    -------
    Patient
        As on the last day, with the days before as its `earlier`. One visit alone is what `load_patient` returns.

    Raises
    ------
    InputError
        If the table or an image cannot be used, days are out of order, or the images of two days cannot be aligned.
    """
    listed = isinstance(visits, (str, Path))
    rows = read_visits(visits) if listed else _checked(visits)
    first, *later = rows
    patient = load_patient(
        segmentation=first["segmentation"],
        labels=first.get("labels", labels),
        t1=first.get("t1"),
        pet=first.get("pet"),
        adc=first.get("adc"),
        flair=first.get("flair"),
        progress=progress,
        **options,
    )
    own = patient.hashes | ({"visits": sha256(visits)} if listed else {})
    patient = replace(patient, day=first["day"], hashes=own, name=_name_of(visits if listed else None, rows))
    if not later:
        return patient
    seen = [patient]
    for row in later:
        progress(f"reading the images of day {row['day']:g}")
        seen.append(_later(patient, row, labels, progress))
    last = seen[-1]
    notes = [note for each in seen for note in each.notes]
    # The images of the first day have the roles that those of one date have.
    hashes = {role: digest for each in seen for role, digest in each.hashes.items()}
    return replace(last, earlier=tuple(seen[:-1]), notes=notes, hashes=hashes)


def without_last(patient: Patient) -> Patient:
    """Return the patient as known on the visit before the last.

    Raises
    ------
    InputError
        If fewer than two visits would be left, which say nothing of the speed of growth.
    """
    check_hold_out(len(patient.visits))
    *before, last = patient.earlier
    notes = [note for each in patient.earlier for note in each.notes]
    hashes = {role: digest for each in patient.earlier for role, digest in each.hashes.items()}
    return replace(last, earlier=tuple(before), notes=notes, hashes=hashes)


def check_hold_out(visits: int) -> None:
    """Raise an `InputError` where a patient has too few visits for the last one to be kept back."""
    if visits < FOR_HOLD_OUT:
        raise InputError(
            f"hold-out: got {visits} visits; a scan can be kept back from {FOR_HOLD_OUT} or more, since a forecast "
            "needs two"
        )


def _name_of(table: str | Path | None, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the patient's name, as far as files tell it: that of the table or of the folder; empty for one date."""
    if len(rows) < 2:
        return ""
    if table is not None:
        path = Path(table).resolve()
        return path.parent.name if path.stem == "visits" else path.stem
    given = [row["segmentation"] for row in rows]
    folders = {Path(each).resolve().parent for each in given if isinstance(each, (str, Path))}
    return os.path.basename(os.path.commonpath(folders)) if folders else ""


def _checked(visits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a table that was given as such."""
    rows: list[dict[str, Any]] = []
    for number, given in enumerate(visits, start=1):
        where = f"visit {number}"
        if unknown := sorted(given.keys() - {"day", "labels", *_IMAGES}):
            raise InputError(f"{where}: got {unknown[0]!r}; known are day, {', '.join(_IMAGES)}, labels")
        if missing := [name for name in ("day", "segmentation") if given.get(name) is None]:
            raise InputError(f"{where}: has no {missing[0]}; each visit needs a day and a segmentation")
        rows.append({name: each for name, each in given.items() if each is not None})
        rows[-1]["day"] = _number(given["day"], where)
        _check_next(rows, where)
    if not rows:
        raise InputError("visits: got none; give at least one day with a segmentation")
    return rows


def _number(given: Any, where: str) -> float:
    try:
        day = float(given)
    except (TypeError, ValueError):
        day = math.nan
    if not math.isfinite(day):
        raise InputError(f"{where}: got the day {given!r}; give a number, such as 60")
    return day


def _check_next(rows: Sequence[Mapping[str, Any]], where: str) -> None:
    """Raise an InputError where the last of the visits so far does not follow those before it."""
    if len(rows) < 2:
        return
    (before, day), paths = (row["day"] for row in rows[-2:]), [row["segmentation"] for row in rows]
    if day == before:
        raise InputError(f"{where}: day {day:g} is there twice; give one row for each day")
    if day < before:
        raise InputError(f"{where}: day {day:g} comes after day {before:g}; list visits in the order of their days")
    if isinstance(paths[-1], (str, Path)) and paths[-1] in paths[:-1]:
        raise InputError(f"{where}: the segmentation {paths[-1]} is that of another day, too; give each day its own")


def _later(
    first: Patient, row: Mapping[str, Any], labels: Labels | str | None, progress: Callable[[str], None]
) -> Patient:
    """Return the patient on a later day, in the geometry of the first."""
    day, notes = f"day {row['day']:g}", list[str]()
    images = {
        name: as_volume(row[key], name=f"{name} of {day}", background_nan=True)
        for key, name in _IMAGES.items()
        if key in row
    }
    images["segmentation"] = as_background(images["segmentation"])
    # What it says of images without a position is among the notes on the first day already.
    check_worlds({"segmentation": first.reference, **{f"later {name}": image for name, image in images.items()}})
    notes += [note for image in images.values() for note in image.notes]
    outlined = images["segmentation"] = as_labels(images["segmentation"], notes)
    core, lesion, cavity = lesion_of(outlined, row.get("labels", labels), notes)
    affected = lesion if cavity is None else lesion | cavity
    moved = np.eye(4)
    if "T1" in images:
        images["T1"] = above_background(images["T1"], notes)
        if "T1" in first.images:
            progress(f"aligning {day} with day {first.day:g}")
            moved = _to_first(first, images["T1"], replace(outlined, data=affected), day, notes)
    if "T1" not in images or "T1" not in first.images:
        notes.append(f"It is assumed to lie in the world of day {first.day:g}; T1 images of both would align it.")
    images = {name: replace(image, affine=moved @ image.affine, header=None) for name, image in images.items()}
    grid, place = first.reference.grid, images["segmentation"].affine

    def placed(mask: np.ndarray) -> np.ndarray:
        return resample(mask, place, grid, kind="mean") >= 0.5

    lesions, cores = placed(lesion), placed(core)
    _check_place(first, images["segmentation"], lesion, lesions)
    if not cores.any():
        outlined.fail(f"has a core that vanishes on the voxels of day {first.day:g}; give a segmentation of that size")
    if not (lesions & first.lesion).any():
        text = f"The lesion shares no voxel with that of day {first.day:g}: it is another one, or the images are not "
        notes.append(Note(f"{text}aligned.", Status.DOUBTFUL))
    cavities = None if cavity is None else placed(cavity)
    computed = first.anatomy.grid
    shares = [np.clip(resample(mask, first.reference.affine, computed, kind="mean"), 0, 1) for mask in (cores, lesions)]
    uptake, measured = uptake_on(images["PET"], computed, shares[1], notes) if "PET" in images else (None, None)
    water, cells = adc_on(images["ADC"], computed, shares[0], notes) if "ADC" in images else (None, None)
    t1 = images.get("T1")
    # That of another day is not shown.
    kept = {name: image for name, image in first.images.items() if name != "FLAIR"}
    return replace(
        first,
        images=kept | {name: image for name, image in images.items() if name == "FLAIR"},
        core=cores,
        lesion=lesions,
        cavity=cavities,
        brain=first.brain | lesions if cavities is None else first.brain | lesions | cavities,
        background=first.background if t1 is None else resample(t1.data, t1.affine, grid),
        core_fraction=shares[0],
        lesion_fraction=shares[1],
        pet=uptake,
        pet_mask=measured,
        adc=water,
        adc_mask=cells,
        notes=[Note(f"On {day}: {note}", getattr(note, "status", Status.GOOD)) for note in notes],
        hashes={role: sha256(path) for role, path in files_of(row, later=True).items()},
        day=row["day"],
        # Those of the first day: the mask of the brain is not looked at again.
        findings=(),
    )


def _to_first(first: Patient, t1: Volume, affected: Volume, day: str, notes: list[str]) -> np.ndarray:
    """Return the matrix that moves the images of a later day to the first one, by their T1 images."""
    fixed = first.images["T1"]
    grid = fixed.grid
    lesion = resample(first.affected.data, first.reference.affine, grid, kind="mean") > 0
    healthy = ~grow(lesion, grid, LESION_RIM)
    if first.has_skull is not (stripped_brain(t1) is None):
        # A skull in one of them only is nothing to compare.
        healthy &= resample(first.brain, first.reference.affine, grid, kind="mean") >= 0.5
    with warnings.catch_warnings():
        # The reason is raised below.
        warnings.simplefilter("ignore", RegistrationWarning)
        found = register(t1, fixed, kind="rigid", mask=healthy)
        if not found.failure:
            # Now it is known where the later lesion lies, whose surroundings have changed.
            later = warp(replace(affected, data=affected.data.astype(np.uint8)), found, grid, kind="mean") > 0
            found = register(t1, fixed, kind="rigid", mask=healthy & ~grow(later, grid, LESION_RIM), initial=found)
    if found.failure:
        t1.fail(f"cannot be aligned with that of day {first.day:g}: {found.failure}; give T1 images of one patient")
    points = np.asarray(first.reference.grid.to_world(np.argwhere(first.lesion).astype(float)))
    apart = float(np.linalg.norm(found.apply(points) - points, axis=1).max())
    if apart < _STILL * float(np.min(np.asarray(first.reference.grid.spacing))):
        notes.append(f"It lies where day {first.day:g} does (within {apart:.1f} mm), and is not moved.")
        return np.eye(4)
    notes.append(
        f"It is moved onto day {first.day:g} by a rigid map, by {apart:.1f} mm at most in the lesion, correlation "
        f"{found.after:.2f}."
    )
    return np.linalg.inv(found.matrix)


def _check_place(first: Patient, outlined: Volume, lesion: np.ndarray, placed: np.ndarray) -> None:
    """Raise an InputError where a later lesion does not lie in the brain of the first day."""
    whole = float(lesion.sum() * outlined.grid.voxel_volume)
    inside = float((placed & first.brain).sum() * first.reference.grid.voxel_volume) / whole
    if inside < _INSIDE:
        outlined.fail(
            f"has a lesion of which {inside:.0%} lies in the brain of day {first.day:g}; give images of one patient, "
            "in one world space or with a T1 image for both days"
        )
