"""Conventions for the labels of a segmentation, and how the one that a segmentation follows is recognised."""

from collections.abc import Collection, Mapping

import numpy as np

from tumorjax.grid import tissue_box
from tumorjax.io import Volume

Labels = Mapping[str, tuple[int, ...]]

# The core consists of the enhancing tumour, the necrosis in it and tumour that does not enhance.
PRESETS: dict[str, Labels] = {
    "brats2021": {"core": (1, 4), "edema": (2,)},
    "brats2023": {"core": (1, 3), "edema": (2,)},
    "brats2024": {"core": (1, 3), "edema": (2,), "cavity": (4,)},
    "brats2013": {"core": (1, 3, 4), "edema": (2,)},
    "hd-glio": {"core": (2,), "edema": (1,)},
    "decathlon": {"core": (2, 3), "edema": (1,)},
    "enhancing-first": {"core": (1, 4), "edema": (3,)},
}
"""Conventions by name: labels of core, edema and cavity."""

_MEANINGS = {
    "brats2021": "BraTS 2017 to 2022 (1 necrotic, 2 oedema, 4 enhancing)",
    "brats2023": "BraTS 2023 (1 necrotic, 2 oedema, 3 enhancing)",
    "brats2024": "BraTS 2024 (1 necrotic, 2 oedema, 3 enhancing, 4 resection cavity)",
    "brats2013": "BraTS to 2016 (1 necrotic, 2 oedema, 3 not enhancing, 4 enhancing)",
    "hd-glio": "HD-GLIO (1 oedema, 2 enhancing)",
    "decathlon": "the Medical Segmentation Decathlon (1 oedema, 2 not enhancing, 3 enhancing)",
    "enhancing-first": "a convention with 1 enhancing, 3 oedema, 4 necrotic",
}
_BRATS = ("brats2021", "brats2023", "brats2024", "brats2013")
_NECROTIC = 1
# In segmentations by readers and algorithms, at least half of the surface of necrosis touches enhancing tumour; if the
# other label is a cavity, about a fifth does.
_RIM = 1 / 3


def meaning(name: str) -> str:
    """Return a convention in words."""
    return _MEANINGS[name]


def recognised(segmentation: Volume, present: Collection[int]) -> str | None:
    """Return the name of the convention of BraTS whose labels a segmentation has; None if none fits.

    A convention fits if it knows all labels, and its oedema is the outer part of the lesion. Label 4 is not a resection
    cavity if it surrounds the necrosis, and not the enhancing tumour if label 3 surrounds the necrosis instead.
    Conventions under which the same voxels are core, oedema and cavity need not be told apart. Those of other origin
    must be named, because exchanged labels cannot be told from correct ones by their numbers.

    Parameters
    ----------
    segmentation
        Whole numbers.
    present
        Its labels.

    Raises
    ------
    InputError
        If the labels fit several conventions of different meaning, or only one of other origin than BraTS.
    """
    data, labels = segmentation.data, frozenset(present)
    known = [
        name for name, preset in PRESETS.items() if labels <= {label for each in preset.values() for label in each}
    ]
    found = {name: _masks(data, labels, PRESETS[name]) for name in known}
    rims = {label: _rim(data, labels, label) for label in (3, 4)}
    fitting = [name for name in _BRATS if name in found and _fits(found[name], rims, PRESETS[name], labels)]
    others = [name for name in found if name not in _BRATS and _shown(found[name])]
    # The first name of each meaning.
    offered: dict[frozenset[tuple[str, int]], str] = {}
    for name in (*fitting, *others):
        offered.setdefault(_meant(labels, PRESETS[name]), name)
    names = list(offered.values())
    if len(names) > 1:
        which = " or ".join(f"{name} for {meaning(name)}" for name in names)
        segmentation.fail(f"has the labels {_listed(labels)}, which fit several conventions; give --labels {which}")
    if fitting:
        return names[0]
    if names:
        mapping = " ".join(f"{role}={','.join(map(str, numbers))}" for role, numbers in PRESETS[names[0]].items())
        segmentation.fail(
            f"has the labels {_listed(labels)}, which look like those of {meaning(names[0])}: give --labels "
            f"{names[0]}, which is --labels {mapping}, or the name of another convention"
        )
    return None


def outer_share(part: np.ndarray, other: np.ndarray) -> float:
    """Return the share of a part's surface that does not touch another part; one if either is empty."""
    if not part.any() or not other.any():
        return 1.0
    beside = _faces(part, other)
    around = _faces(part, ~part)
    return 1 - beside / around if around else 1.0


def _masks(data: np.ndarray, labels: Collection[int], preset: Labels) -> dict[str, np.ndarray]:
    return {role: np.isin(data, [each for each in numbers if each in labels]) for role, numbers in preset.items()}


def _meant(labels: Collection[int], preset: Labels) -> frozenset[tuple[str, int]]:
    return frozenset((role, each) for role, numbers in preset.items() for each in numbers if each in labels)


def _fits(masks: Mapping[str, np.ndarray], rims: Mapping[int, float], preset: Labels, labels: Collection[int]) -> bool:
    core, edema = masks["core"], masks["edema"]
    if not core.any() and not edema.any():
        return False
    if outer_share(edema, core) < outer_share(core, edema):
        return False
    if 4 not in labels:
        return True
    if "cavity" in preset:
        return rims[4] < _RIM
    return rims[3] < _RIM or rims[4] >= _RIM


def _shown(masks: Mapping[str, np.ndarray]) -> bool:
    """Return whether there are core and oedema, and the oedema is the outer part."""
    core, edema = masks["core"], masks["edema"]
    return bool(core.any() and edema.any()) and outer_share(edema, core) > outer_share(core, edema)


def _rim(data: np.ndarray, labels: Collection[int], label: int) -> float:
    """Return the share of the surface of the necrosis that touches a label."""
    if not {_NECROTIC, label} <= set(labels):
        return 0.0
    return 1 - outer_share(data == _NECROTIC, data == label)


def _listed(labels: Collection[int]) -> str:
    return ", ".join(map(str, sorted(labels)))


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
