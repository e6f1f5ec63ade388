"""Label images: converting their values to whole numbers, and parsing the user's names of labels."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from tumorjax.io.errors import InputError
from tumorjax.io.volume import Volume

# Labels saved as scaled or real numbers are this close to whole numbers; interpolated ones are not.
_ROUNDING = 1e-3
# Single precision holds every whole number up to here.
_LARGEST_LABEL = 2**24


def as_labels(volume: Volume, notes: list[str]) -> Volume:
    """Return a label image with whole numbers as values; every label image is read through this function.

    Parameters
    ----------
    volume
        The image, with integers or real numbers as values.
    notes
        List to which a note is appended if values had to be rounded.

    Raises
    ------
    InputError
        If a value is further than 0.001 from a whole number, negative, too large for a label, NaN or infinite.
    """
    data = np.asarray(volume.data)
    if data.dtype.kind == "b":
        return replace(volume, data=data.astype(np.uint8))
    if data.dtype.kind == "f":
        data = _rounded(volume, data, notes)
    if (low := data.min()) < 0:
        volume.fail(f"has values such as {low:g} that are no labels; give a label image, zero outside what it labels")
    return replace(volume, data=data)


def _rounded(volume: Volume, data: np.ndarray, notes: list[str]) -> np.ndarray:
    if not np.isfinite(data).all():
        volume.fail("has NaN or infinite values that are no labels; give a label image")
    whole = np.rint(data)
    error = np.abs(data - whole)
    largest = float(error.max())
    if largest > _ROUNDING:
        far = error > _ROUNDING
        volume.fail(
            f"has values such as {data[far].flat[0]:g} in {int(far.sum())} voxels that are no labels; give the label "
            "image before it was interpolated, or resample it again by nearest neighbours"
        )
    if (high := float(whole.max())) > _LARGEST_LABEL:
        volume.fail(f"has values such as {high:g} that are no labels; give a label image")
    if largest > 0:
        notes.append(
            f"The values of the {volume.name} differ from whole numbers by up to {largest:.1g}; they are rounded."
        )
    return whole.astype(np.int32 if whole.max() > np.iinfo(np.uint8).max or whole.min() < 0 else np.uint8)


def parse_labels(items: Sequence[str], *, allowed: Collection[str] = ()) -> dict[str, tuple[int, ...]]:
    """Turn `["core=1,4", "edema=2"]` into `{"core": (1, 4), "edema": (2,)}`.

    Parameters
    ----------
    items
        Texts `NAME=LABEL[,LABEL...]`, where labels are positive integers (0 is background).
    allowed
        Names that may occur; any name if empty.

    Raises
    ------
    InputError
        If an item has another form, or a name or a label occurs twice.
    """
    labels: dict[str, tuple[int, ...]] = {}
    for item in items:
        name, equals, numbers = (part.strip() for part in item.partition("="))
        parts = [part.strip() for part in numbers.split(",")]
        if not (name and equals and all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts)):
            raise InputError(f"labels: got {item!r}; write NAME=LABEL[,LABEL...] with positive integers, as core=1,4")
        if allowed and name not in allowed:
            raise InputError(f"labels: got the name {name!r}; known are {', '.join(allowed)}")
        values = tuple(int(part) for part in parts)
        taken = [value for other in labels.values() for value in other]
        if name in labels or len({*taken, *values}) < len(taken) + len(values):
            raise InputError(f"labels: {item!r} repeats a name or a label; give each once")
        labels[name] = values
    return labels
