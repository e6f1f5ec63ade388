"""What is wrong with a segmentation and a brain mask as they are given: traces of brain extraction gone wrong."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tumorjax.grid import tissue_box
from tumorjax.io import Volume, fill_holes
from tumorjax.quality import Note, Status

# All bounds are heuristic. ml: what is smaller changes neither volumes nor plans.
_SMALL = 0.5
# mm: the margin of the guidelines; what is wrong farther from the lesion does not reach the plan.
_AROUND = 15.0
# Share of the lesion that may lie outside a brain mask, as at the border of two masks of different voxels.
_OUTSIDE = 0.02
# ml: the largest brains; templates that average many heads have nearly as much.
_LARGEST = 2000.0
# ml: what lies apart from the brain, such as eyes.
_APART = 2.0
# Fat of the scalp is brighter in a T1 image than white matter by this factor. It counts where it makes up this share of
# the mask's outer rim (mm); tissue deeper than the fourth number (mm) is brain. They are sought on voxels of this edge.
_BRIGHTER, _RIM_SHARE, _RIM, _DEEP = 1.3, 0.1, 4.0, 15.0
_STRIDE = 2.0
# Share of the lesion that unlabelled voxels inside it may have.
_UNLABELLED = 0.01


@dataclass(frozen=True, eq=False)
class Finding:
    """Something wrong with a mask.

    Parameters
    ----------
    title
        What it is, in a few words.
    note
        What was found and what to do, with a status.
    mask
        (x, y, z), boolean: where, on the voxels of the patient's results.
    """

    title: str
    note: Note
    mask: np.ndarray


def findings_of(
    reference: Volume, lesion: np.ndarray, brain: np.ndarray | None, image: str, t1: np.ndarray | None = None
) -> list[Finding]:
    """Return what is wrong with the masks of lesion and brain.

    Parameters
    ----------
    reference
        The segmentation, which has the grid.
    lesion
        (x, y, z), boolean: core, oedema and cavity.
    brain
        (x, y, z), boolean: as an image shows it, without the lesion that is added later; None if no image does.
    image
        Name of that image.
    t1
        (x, y, z): the T1 image, zero outside of what it shows; None without one.
    """
    ml = float(reference.grid.voxel_volume) / 1000
    spacing = np.asarray(reference.grid.spacing, float)
    found = [_unlabelled(lesion, ml)]
    if brain is not None:
        found += [
            _outside(lesion, brain, image, ml),
            _hole(lesion, brain, image, ml, spacing),
            _apart(lesion, brain, image, ml),
            _skull(lesion, brain, image, t1, ml, spacing),
        ]
    return [finding for finding in found if finding is not None]


def _unlabelled(lesion: np.ndarray, ml: float) -> Finding | None:
    start, shape = tissue_box(lesion, margin=1)
    box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
    hole = np.zeros(lesion.shape, bool)
    hole[box] = fill_holes(lesion[box]) & ~lesion[box]
    size = hole.sum() * ml
    if size < _SMALL or hole.sum() < _UNLABELLED * lesion.sum():
        return None
    text = (
        f"The lesion encloses {size:.1f} ml without a label, which count as healthy tissue; if that is necrosis, label "
        "it as core, and a resection cavity as cavity."
    )
    return Finding("Voxels without a label inside the lesion", Note(text, Status.DOUBTFUL), hole)


def _outside(lesion: np.ndarray, brain: np.ndarray, image: str, ml: float) -> Finding | None:
    lost = lesion & ~brain
    count = int(lost.sum())
    if not count:
        return None
    text = f"{count} voxels of the lesion ({count * ml:.2g} ml) lie outside the brain; they are added to it."
    status = Status.GOOD
    if count * ml >= _SMALL and count >= _OUTSIDE * lesion.sum():
        status = Status.DOUBTFUL
        text += f" The {image} seems to cut off the tumour: look at its outline there, or extract the brain anew."
    return Finding("Lesion outside the brain", Note(text, status), lost)


def _hole(lesion: np.ndarray, brain: np.ndarray, image: str, ml: float, spacing: np.ndarray) -> Finding | None:
    whole = brain | lesion
    hole = fill_holes(whole) & ~whole
    if not hole.any():
        return None
    # No voxel outside this box is as near to the lesion.
    start, shape = tissue_box(lesion, margin=int(np.ceil(_AROUND / spacing.min())))
    box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
    near = np.zeros(lesion.shape, bool)
    near[box] = np.asarray(ndimage.distance_transform_edt(~lesion[box], sampling=spacing)) <= _AROUND
    hole &= near
    if (size := hole.sum() * ml) < _SMALL:
        return None
    text = (
        f"The {image} has holes of {size:.1f} ml within {_AROUND:g} mm of the lesion, where no cells can be and no "
        "plan reaches; fill them, unless that is a ventricle or a cavity."
    )
    return Finding("Holes in the brain around the tumour", Note(text, Status.DOUBTFUL), hole)


def _apart(lesion: np.ndarray, brain: np.ndarray, image: str, ml: float) -> Finding | None:
    parts = np.zeros(brain.shape, np.int32)
    ndimage.label(brain | lesion, output=parts)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    kept = {int(sizes.argmax()), *np.unique(parts[lesion]).tolist()}
    apart = (parts > 0) & ~np.isin(parts, list(kept))
    if (size := apart.sum() * ml) < _APART:
        return None
    text = (
        f"The {image} has {size:.1f} ml apart from the brain, as eyes, skull or neck that brain extraction has left; "
        "keep its largest part alone."
    )
    return Finding("Pieces apart from the brain", Note(text, Status.DOUBTFUL), apart)


def _skull(
    lesion: np.ndarray, brain: np.ndarray, image: str, t1: np.ndarray | None, ml: float, spacing: np.ndarray
) -> Finding | None:
    if t1 is not None:
        # Each second voxel or so will do, and the distance transform is the expensive step.
        steps = np.maximum(_STRIDE // spacing, 1).astype(int)
        few = tuple(slice(None, None, int(step)) for step in steps)
        depth = np.asarray(ndimage.distance_transform_edt(np.pad(brain[few], 1), sampling=spacing * steps))
        depth = depth[1:-1, 1:-1, 1:-1]
        rim, deep = (depth > 0) & (depth <= _RIM), (depth > _DEEP) & ~lesion[few]
        level = _BRIGHTER * float(np.percentile(t1[few][deep], 98)) if deep.any() else np.inf
        bright = rim & (t1[few] > level)
        if bright.sum() > _RIM_SHARE * rim.sum():
            text = (
                f"{bright.sum() / rim.sum():.0%} of the rim of the brain in the {image} are brighter than any tissue "
                "inside, as fat of the scalp is: skull seems to be left in; extract the brain anew."
            )
            return Finding("Skull left in", Note(text, Status.DOUBTFUL), brain & (t1 > level))
    if (size := brain.sum() * ml) > _LARGEST:
        text = (
            f"The brain in the {image} has {size:.0f} ml, more than a brain's 1200 to 1700: skull seems to be left in, "
            "or the voxels are smaller than the header says; extract the brain anew, or check the header."
        )
        inner = np.asarray(ndimage.binary_erosion(brain), bool)
        return Finding("Skull left in", Note(text, Status.DOUBTFUL), brain & ~inner)
    return None
