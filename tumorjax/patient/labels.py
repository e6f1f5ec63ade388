"""The meaning of the labels in a segmentation: named conventions, and detection of another convention than expected."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from tumorjax.grid import tissue_box
from tumorjax.io import InputError, Volume, parse_labels
from tumorjax.quality import Note, Status

Labels = Mapping[str, tuple[int, ...]]

ROLES = ("core", "edema", "cavity")
# Conventions by name. The core consists of the enhancing tumour and the necrosis in it.
PRESETS: dict[str, Labels] = {
    "brats2021": {"core": (1, 4), "edema": (2,)},
    "brats2023": {"core": (1, 3), "edema": (2,)},
    "brats2024": {"core": (1, 3), "edema": (2,), "cavity": (4,)},
    "hd-glio": {"core": (2,), "edema": (1,)},
    "enhancing-first": {"core": (1, 4), "edema": (3,)},
}
DEFAULT = "brats2021"
_MEANINGS = {
    "brats2021": "BraTS to 2022 (1 necrotic, 2 oedema, 4 enhancing)",
    "brats2023": "BraTS 2023 (1 necrotic, 2 oedema, 3 enhancing)",
    "brats2024": "BraTS 2024 (1 necrotic, 2 oedema, 3 enhancing, 4 resection cavity)",
    "hd-glio": "HD-GLIO (1 oedema, 2 enhancing)",
    "enhancing-first": "a convention with 1 enhancing, 3 oedema, 4 necrotic",
}
# In segmentations by readers and algorithms, at least half of the surface of necrosis touches enhancing tumour; if the
# other label is a cavity, about a fifth does.
_RIM = 1 / 3
# If less than this share of the oedema's surface is outside, the oedema lies within the core.
_OUTER = 0.5
# Largest number of labels in a message.
_LISTED = 20
# A label with less than this share of the lesion's voxels can be left out without effect on the results.
_NEGLIGIBLE = 0.01


class Lesion(NamedTuple):
    """Masks of a lesion, (x, y, z), boolean: the core, core with oedema, and the resection cavity (None if none)."""

    core: np.ndarray
    lesion: np.ndarray
    cavity: np.ndarray | None


def read_labels(items: Sequence[str]) -> Labels | str:
    """Parse the option `--labels`: the name of a convention, or a mapping such as core=1,4 edema=2."""
    if len(items) == 1 and "=" not in items[0]:
        return items[0]
    return parse_labels(items, allowed=ROLES)


def lesion_of(segmentation: Volume, labels: Labels | str | None, notes: list[str]) -> Lesion:
    """Return the masks of core, lesion and cavity from a segmentation's labels.

    Parameters
    ----------
    segmentation
        The segmentation, with whole numbers as from `tumorjax.io.as_labels`.
    labels
        Labels of core, edema and cavity, or the name of a convention. The default is "brats2021", if the labels agree
        with it and with no other convention.
    notes
        List to which notes on ignored or possibly exchanged labels are appended.

    Raises
    ------
    InputError
        If the segmentation is empty, lacks the labels, or may follow more than one convention.
    """
    present = _present(segmentation)
    named = DEFAULT if labels is None else labels
    if isinstance(named, str):
        if named not in PRESETS:
            known = ", ".join(PRESETS)
            raise InputError(f"labels: got {named!r}; give core=N,N edema=N, perhaps cavity=N, or one of {known}")
        chosen = PRESETS[named]
    else:
        chosen = named
    if "core" not in chosen or not set(chosen) <= set(ROLES):
        raise InputError(f"labels: got {', '.join(chosen) or 'none'}; give core and edema, as core=1,4 edema=2")
    if labels is None:
        _check_convention(segmentation, present)
    masks = {name: np.isin(segmentation.data, chosen.get(name, ())) for name in ROLES}
    # A named convention may have labels for parts that this patient lacks.
    needed = ["core"] if isinstance(labels, str) else [name for name in chosen if name != "cavity"]
    for name in needed:
        if not masks[name].any():
            wanted = ",".join(map(str, chosen[name]))
            segmentation.fail(f"has no {name} label {wanted}; {_remedy(present)}")
    mapped = {number for numbers in chosen.values() for number in numbers}
    core, edema, cavity = (masks[name] for name in ROLES)
    rest = {label: count for label, count in present.items() if label not in mapped}
    _note_rest(rest, _enclosed(segmentation.data, rest, core | edema | cavity), notes)
    outer = _outer_share(edema, core)
    if outer < _OUTER:
        notes.append(
            Note(
                f"The core surrounds the oedema ({1 - outer:.0%} of the oedema's surface touches the core); check that "
                "the labels are not exchanged.",
                Status.DOUBTFUL,
            )
        )
    if not cavity.any():
        return Lesion(core, core | edema, None)
    millilitres = float(cavity.sum() * segmentation.grid.voxel_volume) / 1000
    notes.append(f"The resection cavity ({millilitres:.1f} ml) contains no cells and is treated as fluid.")
    return Lesion(core, core | edema, cavity)


def _present(segmentation: Volume) -> dict[int, int]:
    values, counts = np.unique(segmentation.data, return_counts=True)
    present = {int(v): int(n) for v, n in zip(values, counts, strict=True) if v != 0}
    if not present:
        segmentation.fail("is empty; give a segmentation of the tumour")
    return present


def _check_convention(segmentation: Volume, present: dict[int, int]) -> None:
    """Raise an InputError if labels without a given meaning may follow another convention than BraTS to 2022."""
    named = {label for numbers in PRESETS[DEFAULT].values() for label in numbers}
    if not present.keys() <= named:
        guess = _guess(segmentation, present)
        if guess is None:
            segmentation.fail(f"has labels beyond those of {_MEANINGS[DEFAULT]}; {_remedy(present)}")
        segmentation.fail(f"has the labels {_listed(present)}, which looks like {_offer(guess)}")
    if 2 not in present or len(present) == 1:
        return
    two = segmentation.data == 2
    core = (segmentation.data != 0) & ~two
    if _outer_share(two, core) < _outer_share(core, two):
        segmentation.fail(f"has a label 2 inside {_listed(present, without=2)}, which looks like {_offer('hd-glio')}")
    if 4 in present:
        four, one = segmentation.data == 4, segmentation.data == 1
        touched = 1 - _outer_share(one, four)
        if touched < _RIM:
            segmentation.fail(
                f"has the labels {_listed(present)}, and 4 does not surround a necrosis 1: give --labels brats2024 if "
                "4 is a resection cavity, or --labels brats2021 if it is enhancing tumour"
            )


def _guess(segmentation: Volume, present: dict[int, int]) -> str | None:
    labels = set(present)
    if not labels <= {1, 2, 3, 4} or 3 not in labels or not labels & {2, 4}:
        return None
    # Oedema is the outermost part of a lesion.
    outside = segmentation.data == 0
    exposed = {label: _faces(segmentation.data == label, outside) for label in labels & {2, 3}}
    if 4 in labels and max(exposed, key=lambda label: exposed[label]) == 3:
        return "enhancing-first"
    return "brats2024" if 4 in labels else "brats2023"


def _offer(name: str) -> str:
    mapping = " ".join(f"{role}={','.join(map(str, numbers))}" for role, numbers in PRESETS[name].items())
    other = f"; give --labels {DEFAULT} if not" if name == "hd-glio" else ""
    return f"{_MEANINGS[name]}: give --labels {name}, which is --labels {mapping}{other}"


def _remedy(present: dict[int, int]) -> str:
    return (
        f"present are {_listed(present)}; give their meaning with --labels core=N,N edema=N, or one of "
        f"{', '.join(PRESETS)}"
    )


def _listed(present: dict[int, int], without: int | None = None) -> str:
    shown = [f"{label} ({count} voxels)" for label, count in present.items() if label != without]
    more = f" and {len(shown) - _LISTED} others" if len(shown) > _LISTED else ""
    return ", ".join(shown[:_LISTED]) + more


def _enclosed(data: np.ndarray, rest: Mapping[int, int], lesion: np.ndarray) -> list[int]:
    """Return the unmapped labels most of whose surface touches the lesion.

    A label with more voxels than the lesion lies around it, not inside, and a few voxels do not change the results, so
    these are omitted.
    """
    beside = np.asarray(ndimage.binary_dilation(lesion)) & ~lesion
    shares = {int(label): rest.get(int(label), 0) / lesion.sum() for label in np.unique(data[beside])}
    near = [label for label, share in shares.items() if _NEGLIGIBLE < share < 1]
    return [label for label in near[:_LISTED] if _outer_share(data == label, lesion) < _OUTER]


def _note_rest(rest: Mapping[int, int], enclosed: Sequence[int], notes: list[str]) -> None:
    if not rest:
        return
    which, verb = ("Label", "is") if len(rest) == 1 else ("Labels", "are")
    text = (
        f"{which} {_names(list(rest))} of the segmentation ({sum(rest.values())} voxels) {verb} neither core nor "
        f"oedema and {verb} left out"
    )
    if not enclosed:
        notes.append(f"{text}.")
        return
    lies, counts = ("lies", "counts") if len(enclosed) == 1 else ("lie", "count")
    where = "it" if len(rest) == 1 else _names(enclosed)
    notes.append(
        Note(
            f"{text}; {where} {lies} in the lesion and {counts} as healthy tissue: use --labels if that is core, edema "
            "or cavity.",
            Status.DOUBTFUL,
        )
    )


def _names(labels: Sequence[int]) -> str:
    more = f" and {len(labels) - _LISTED} others" if len(labels) > _LISTED else ""
    return ", ".join(str(label) for label in labels[:_LISTED]) + more


def _outer_share(part: np.ndarray, other: np.ndarray) -> float:
    """Return the share of a part's surface that does not touch another part; one if either is empty."""
    if not part.any() or not other.any():
        return 1.0
    beside = _faces(part, other)
    around = _faces(part, ~part)
    return 1 - beside / around if around else 1.0


def _faces(a: np.ndarray, b: np.ndarray) -> int:
    """Return the number of faces that voxels of one mask share with voxels of another, disjoint mask."""
    start, shape = tissue_box(a, margin=1)
    box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
    # The border of the image does not count as surface.
    a, b = a[box], b[box]
    count = 0
    for axis in range(3):
        first, second = ([slice(None)] * 3 for _ in range(2))
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        low, high = tuple(first), tuple(second)
        count += int((a[low] & b[high]).sum() + (b[low] & a[high]).sum())
    return count
