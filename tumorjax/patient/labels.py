"""The parts of a lesion, from the labels of a segmentation."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from tumorjax.io import InputError, Volume, parse_labels
from tumorjax.patient.conventions import PRESETS, Labels, meaning, outer_share, recognised
from tumorjax.quality import Note, Status

ROLES = ("core", "edema", "cavity")
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
        _preset(items[0])
        return items[0]
    return parse_labels(items, allowed=ROLES)


def lesion_of(segmentation: Volume, labels: Labels | str | None, notes: list[str]) -> Lesion:
    """Return the masks of core, lesion and cavity from a segmentation's labels.

    Parameters
    ----------
    segmentation
        The segmentation, with whole numbers as from `tumorjax.io.as_labels`.
    labels
        Labels of core, edema and cavity, or the name of a convention. By default the convention of BraTS that the
        labels fit, see `recognised`.
    notes
        List to which notes on recognised, ignored or possibly exchanged labels are appended.

    Raises
    ------
    InputError
        If the segmentation is empty, lacks the labels, or may follow more than one convention.
    """
    present = _present(segmentation)
    named = labels
    if named is None:
        named = recognised(segmentation, present)
        if named is None:
            segmentation.fail(f"has labels that fit no convention; {_remedy(present)}")
        notes.append(f"The labels are taken for those of {meaning(named)}, which they fit; --labels names another.")
    chosen = _preset(named) if isinstance(named, str) else named
    if "core" not in chosen or not set(chosen) <= set(ROLES):
        raise InputError(f"labels: got {', '.join(chosen) or 'none'}; give core and edema, as core=1,4 edema=2")
    masks = {name: np.isin(segmentation.data, chosen.get(name, ())) for name in ROLES}
    # A named convention may have labels for parts that this patient lacks.
    needed = ["core"] if isinstance(named, str) else [name for name in chosen if name != "cavity"]
    for name in needed:
        if not masks[name].any():
            wanted = ",".join(map(str, chosen[name]))
            segmentation.fail(f"has no {name} label {wanted}; {_remedy(present)}")
    mapped = {number for numbers in chosen.values() for number in numbers}
    core, edema, cavity = (masks[name] for name in ROLES)
    rest = {label: count for label, count in present.items() if label not in mapped}
    _note_rest(rest, _enclosed(segmentation.data, rest, core | edema | cavity), notes)
    outer = outer_share(edema, core)
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


def _preset(name: str) -> Labels:
    if name not in PRESETS:
        known = ", ".join(PRESETS)
        raise InputError(f"labels: got {name!r}; give core=N,N edema=N, perhaps cavity=N, or one of {known}")
    return PRESETS[name]


def _present(segmentation: Volume) -> dict[int, int]:
    values, counts = np.unique(segmentation.data, return_counts=True)
    present = {int(v): int(n) for v, n in zip(values, counts, strict=True) if v != 0}
    if not present:
        segmentation.fail("is empty; give a segmentation of the tumour")
    return present


def _remedy(present: dict[int, int]) -> str:
    return (
        f"present are {_listed(present)}; give their meaning with --labels core=N,N edema=N, or one of "
        f"{', '.join(PRESETS)}"
    )


def _listed(present: dict[int, int]) -> str:
    shown = [f"{label} ({count} voxels)" for label, count in present.items()]
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
    return [label for label in near[:_LISTED] if outer_share(data == label, lesion) < _OUTER]


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
