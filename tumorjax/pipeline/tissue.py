"""Where a patient's healthy tissue comes from, and what stands in for it under a tumour."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from tumorjax.atlas import AtlasImages
from tumorjax.atlas.brain import LARGEST_BRAIN, largest_part, shown
from tumorjax.grid import Grid, tissue_box
from tumorjax.io import InputError, Volume, as_labels, resample, world_overlap
from tumorjax.pipeline.alignment import align_atlas, quality, read_atlas
from tumorjax.quality import Note, Status
from tumorjax.registration import Transform, warp_all

# The names and the usual numbers of the tissues in a label map.
LABELS = {"wm": (3,), "gm": (2,), "csf": (1,)}

Maps = tuple[np.ndarray, np.ndarray, np.ndarray]

# Less than this share of white matter, grey matter and fluid together is a hole in the maps.
HOLE = 0.1
# A voxel with less tissue is mostly fluid; outlines are this exact (mm).
_MOSTLY = 0.5
_OUTLINE_RIM = 3.0
# Brightness of what is shown, of the image's bright tissue; interpolation rings weaker than that around a brain.
_SHOWN = 0.01
# Scale (mm) over which the tissue that is put under a tumour varies: an average gyrus.
_FILL_SCALE = 6.0
# Less tissue (share) than this may lie under labels that nobody mapped.
_LEFT_OUT = 0.01
# In standard deviations of a Gaussian along three axes, well above the smallest float64.
_LONGEST_TAIL = 20.0


class TissueSource(NamedTuple):
    """Three images whose averages over a voxel are its shares of white matter, grey matter and fluid.

    Parameters
    ----------
    white_matter, grey_matter
        Probabilities or masks.
    csf
        The same; None if it is what the others leave of the brain.
    own
        The images are the user's and may be disturbed by the tumour; an atlas is not.
    transform
        Maps the patient's world to that of the images; None if they are the same.
    atlas
        Whose images they are; None if they are the user's.
    """

    white_matter: Volume
    grey_matter: Volume
    csf: Volume | None
    own: bool
    transform: Transform | None = None
    atlas: AtlasImages | None = None

    @classmethod
    def of(cls, atlas: AtlasImages, transform: Transform | None = None) -> "TissueSource":
        """Return an atlas' tissue."""
        return cls(atlas.white_matter, atlas.grey_matter, atlas.csf, own=False, transform=transform, atlas=atlas)

    def on(self, grid: Grid) -> Maps:
        """Return the three maps on a grid, float32; fluid is zero where it is not known."""
        volumes = [volume for volume in (self.white_matter, self.grey_matter, self.csf) if volume is not None]
        kinds: list[Literal["linear", "mean"]] = [
            "mean" if volume.data.dtype.kind in "bu" else "linear" for volume in volumes
        ]
        if self.transform is None:
            found = [resample(v.data, v.affine, grid, kind=kind) for v, kind in zip(volumes, kinds, strict=True)]
        else:
            # Those of an atlas, which are alike.
            found = warp_all(volumes, self.transform, grid, kind=kinds[0])
        white, grey, *csf = (np.clip(each, 0, 1) for each in found)
        return white, grey, csf[0] if csf else np.zeros_like(white)


def tissue_source(
    images: Mapping[str, Volume],
    lesion: Volume,
    notes: list[str],
    *,
    atlas: str | Path,
    labels: Mapping[str, tuple[int, ...]] | None = None,
    has_skull: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> TissueSource:
    """Choose where tissue comes from: the user's maps or label map, else an atlas aligned with the patient.

    Parameters
    ----------
    images
        By role, those that there are: "white matter" and "grey matter" and perhaps "CSF", or
        "tissue"; "T1" and "brain mask".
    lesion
        Mask of the tumour.
    notes
        Gets what a reader should know.
    atlas
        For `tumorjax.atlas.load_atlas`.
    labels
        Labels of csf, gm and wm in "tissue".
    has_skull
        The T1 image shows a head.
    progress
        Told what is done.
    """
    if "white matter" in images:
        return tissue_from_maps(images["white matter"], images["grey matter"], images.get("CSF"))
    if "tissue" in images:
        return _from_labels(images["tissue"], labels, notes)
    progress(f"loading the atlas {atlas}")
    healthy = read_atlas(atlas, notes)
    t1, mask = images.get("T1"), images.get("brain mask")
    if t1 is None and mask is None:
        notes.append(f"The atlas {healthy.name} is taken to lie in the patient's world; a T1 image would align it.")
        return TissueSource.of(healthy)
    target = "brain mask" if t1 is None else "T1 image"
    progress(f"aligning the atlas with the {target}")
    transform = align_atlas(healthy, t1, mask, lesion, has_skull, notes)
    if transform.failure:
        failed = (
            f"The alignment of the atlas {healthy.name} with the {target} FAILED: {transform.failure}. Check "
            f"in a viewer that the {target} shows the whole brain, upright, with left, front and top where they are in "
            "the patient; or give maps of the patient's own tissue (--wm, --gm, --csf)."
        )
        notes.append(Note(failed, Status.FAILED))
    else:
        notes.append(f"The atlas {healthy.name} is aligned with the {target} by {quality(transform)}.")
    return TissueSource.of(healthy, transform)


def as_t1(maps: np.ndarray | Maps) -> np.ndarray:
    """Return white matter, grey matter and fluid as a T1 image shows them: bright, grey and dark."""
    return maps[0] + np.float32(0.6) * maps[1] + np.float32(0.2) * maps[2]


def tissue_from_maps(white: Volume, grey: Volume, csf: Volume | None) -> TissueSource:
    """Return the user's probability maps, checked.

    Raises
    ------
    InputError
        If a map does not hold probabilities, or two do not share a world.
    """
    for volume in (white, grey, csf):
        if volume is not None:
            low, high = float(volume.data.min()), float(volume.data.max())
            if low < -1e-3 or high > 1 + 1e-3 or high <= 0:
                volume.fail(f"has values from {low:g} to {high:g}; give probabilities in [0, 1]")
            if world_overlap(volume, white) == 0:
                volume.fail(f"does not overlap {white.path or white.name}; give maps in one world space")
    return TissueSource(white, grey, csf, own=True)


def _from_labels(image: Volume, names: Mapping[str, tuple[int, ...]] | None, notes: list[str]) -> TissueSource:
    chosen = names or LABELS
    if set(chosen) != set(LABELS):
        raise InputError(
            f"tissue labels: got {', '.join(chosen) or 'none'}; give all of csf, gm and wm, as csf=1 gm=2 wm=3"
        )
    labels = as_labels(image, notes)
    values, counts = np.unique(labels.data, return_counts=True)
    masks = []
    for name in LABELS:
        mask = np.isin(labels.data, chosen[name])
        if not mask.any():
            present = ", ".join(str(value) for value in values[:20])
            labels.fail(f"has no voxel with the {name} label {_numbers(chosen[name])}; present are {present}")
        masks.append(replace(labels, data=mask, name=f"{labels.name} ({name})"))
    mapped = {0, *(number for numbers in chosen.values() for number in numbers)}
    millilitres = {
        int(value): float(count * labels.grid.voxel_volume) / 1000
        for value, count in zip(values, counts, strict=True)
        if int(value) not in mapped
    }
    if millilitres:
        listed = ", ".join(f"{value} ({volume:.1f} ml)" for value, volume in list(millilitres.items())[:20])
        more = f" and {len(millilitres) - 20} others" if len(millilitres) > 20 else ""
        left, kept = sum(millilitres.values()), sum(float(mask.data.sum()) for mask in masks)
        # Whoever names labels has seen the others; a mapping by default may miss the cerebellum.
        large = names is None and left > _LEFT_OUT * kept * float(labels.grid.voxel_volume) / 1000
        notes.append(
            Note(
                f"The labels {listed}{more} of the tissue image are none of "
                f"{' '.join(f'{name}={_numbers(chosen[name])}' for name in sorted(chosen))}: {left:.1f} ml are left "
                "out of the brain.",
                Status.DOUBTFUL if large else Status.GOOD,
            )
        )
    return TissueSource(*masks, own=True)


def stripped_brain(t1: Volume) -> np.ndarray | None:
    """Return the brain of a T1 image without its skull, boolean; None if the image shows a head.

    Its background is zero, see `tumorjax.io.above_background`.

    Notes
    -----
    A head is told by its volume: nothing but a brain shows less than 2.3 l.
    """
    mask = shown(t1, _SHOWN)
    return None if float(mask.sum() * t1.grid.voxel_volume) / 1000 > LARGEST_BRAIN else largest_part(mask)


def fill_lesion(maps: Maps, lesion: np.ndarray, spacing: float) -> tuple[Maps, float]:
    """Put plausible healthy tissue under a tumour, where maps show fluid or nothing.

    Parameters
    ----------
    maps
        White matter, grey matter and fluid, (x, y, z) each.
    lesion
        (x, y, z), share of each voxel in the tumour.
    spacing
        Voxel size, mm.

    Returns
    -------
    maps, filled
        The repaired maps, and the share of the lesion that changed.

    Notes
    -----
    Tumour cells are seen there, so there was tissue: a ventricle of the atlas that reaches into the lesion is
    one that the tumour has displaced, or that alignment misplaced. Where the maps are empty, and where less than
    half of a voxel more than 3 mm inside the lesion is tissue, white and grey matter are raised until they
    hold the lesion's share of the voxel, in the proportion of the healthy tissue around, weighted by a Gaussian
    of 6 mm (normalized convolution [1]_), so that deep inside the nearest counts; fluid keeps what they leave.
    This is a heuristic: deep in a large tumour it says little more than what surrounds it.

    References
    ----------
    .. [1] H. Knutsson and C.-F. Westin, "Normalized and differential convolution", CVPR 1993.
       doi:10.1109/CVPR.1993.341081
    """
    white, grey, csf = (np.array(tissue) for tissue in maps)
    # Voxels that are mostly tissue keep what the maps say, also their share of fluid between gyri; and an outline is
    # not so exact that its rim could overrule them.
    deep = np.asarray(ndimage.distance_transform_edt(lesion >= 0.5)) * spacing > _OUTLINE_RIM
    nothing = white + grey + csf < HOLE
    filled = (lesion > 0) & (nothing | (deep & (white + grey < _MOSTLY)))
    missing = np.where(filled, np.clip(lesion - white - grey, 0, None), 0)
    if not filled.any():
        return (white, grey, csf), 0.0
    healthy = (lesion == 0) & (white + grey >= 0.5)
    if not healthy.any():
        raise InputError("tissue: no white or grey matter outside the lesion; check maps and segmentation")
    # Far enough to reach healthy tissue from everywhere; float64 holds a Gaussian's tail for 37 deviations.
    depth = np.asarray(ndimage.distance_transform_edt(~healthy))[filled].max()
    width = max(_FILL_SCALE / spacing, depth / _LONGEST_TAIL)
    reach = int(np.ceil(depth + 3 * width))
    start, shape = tissue_box(filled, margin=reach)
    box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
    around = np.zeros((2, *shape))
    for tissue, out in zip((white, white + grey), around, strict=True):
        ndimage.gaussian_filter(
            np.where(healthy[box], tissue[box], 0.0), width, output=out, mode="constant", radius=reach
        )
    share = np.zeros_like(white)
    share[box] = np.divide(around[0], around[1], out=np.zeros(shape), where=filled[box])
    white += missing * share
    grey += missing * (1 - share)
    csf = np.where(filled, np.clip(np.minimum(csf, 1 - white - grey), 0, 1), csf)
    return (white, grey, csf), float(missing.sum() / lesion.sum())


def _numbers(values: tuple[int, ...]) -> str:
    return ",".join(str(value) for value in values)
