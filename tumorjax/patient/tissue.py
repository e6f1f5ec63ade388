"""Sources of a patient's healthy tissue, and filling in tissue under a tumour."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from tumorjax.anatomy import TISSUE_THRESHOLD
from tumorjax.atlas import AtlasImages
from tumorjax.atlas.brain import LARGEST_BRAIN, largest_part, shown
from tumorjax.grid import Grid, tissue_box
from tumorjax.io import InputError, Volume, as_labels, resample, world_overlap
from tumorjax.patient.alignment import align_atlas, quality, read_atlas
from tumorjax.patient.segmented import Segmentation
from tumorjax.quality import Note, Status
from tumorjax.registration import DEFAULT_ENGINE, Transform, warp, warp_all

# Names and default labels of the tissues in a label image.
LABELS = {"wm": (3,), "gm": (2,), "csf": (1,)}

Maps = tuple[np.ndarray, np.ndarray, np.ndarray]

# A voxel is a hole in the maps if white matter, grey matter and fluid together have less than this share.
HOLE = 0.1
# A voxel with less tissue than this share is mostly fluid.
_MOSTLY = 0.5
# Accuracy of outlines, mm.
_OUTLINE_RIM = 3.0
# Least brightness of the foreground, as a share of the image's bright tissue; ringing from interpolation is weaker.
_SHOWN = 0.01
# Length scale (mm) on which the tissue filled in under a tumour varies: an average gyrus.
_FILL_SCALE = 6.0
# Largest share of the tissue that unmapped labels may have without making the results doubtful.
_LEFT_OUT = 0.01
# Least share of the lesion that a map to the atlas places in the atlas' brain.
_INSIDE = 0.5
# Largest distance in standard deviations at which a three-dimensional Gaussian is well above the smallest float64.
_LONGEST_TAIL = 20.0


class TissueSource(NamedTuple):
    """Images of white matter, grey matter and fluid, from the user or from an atlas.

    Parameters
    ----------
    white_matter, grey_matter
        Probability maps or masks.
    csf
        Probability map or mask of fluid; None if fluid is the part of the brain that the others leave.
    own
        Whether the images are the user's, which may be affected by the tumour, and not those of an atlas.
    transform
        Map from the patient's world to that of the images; None if they are the same.
    atlas
        The atlas that the images belong to; None if they are the user's.
    segmented
        White matter, grey matter and fluid that the patient's T1 image shows, in the patient's world, which take the
        place of the atlas' maps; None if there are none.
    """

    white_matter: Volume
    grey_matter: Volume
    csf: Volume | None
    own: bool
    transform: Transform | None = None
    atlas: AtlasImages | None = None
    segmented: tuple[Volume, Volume, Volume] | None = None

    @classmethod
    def of(cls, atlas: AtlasImages, transform: Transform | None = None) -> "TissueSource":
        """Return the tissue of an atlas."""
        return cls(atlas.white_matter, atlas.grey_matter, atlas.csf, own=False, transform=transform, atlas=atlas)

    def on(self, grid: Grid) -> Maps:
        """Return the three maps on a grid, float32; fluid is zero if there is no map of it."""
        if self.segmented is not None:
            white, grey, csf = (resample(each.data, each.affine, grid, kind="mean") for each in self.segmented)
            return white, grey, csf
        volumes = [volume for volume in (self.white_matter, self.grey_matter, self.csf) if volume is not None]
        kinds: list[Literal["linear", "mean"]] = [
            "mean" if volume.data.dtype.kind in "bu" else "linear" for volume in volumes
        ]
        if self.transform is None:
            found = [resample(v.data, v.affine, grid, kind=kind) for v, kind in zip(volumes, kinds, strict=True)]
        else:
            # Only an atlas has a transform, and its three images have the same kind.
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
    brain: Volume | None = None,
    has_skull: bool = False,
    resolution: float = 2.0,
    registration: str = DEFAULT_ENGINE,
    transform: Transform | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> TissueSource:
    """Choose the source of tissue: the user's maps or label image, or else an atlas aligned with the patient.

    Parameters
    ----------
    images
        The given images by role: "white matter" and "grey matter" and optionally "CSF", or
        "tissue"; "T1" and "brain mask".
    lesion
        Mask of the tumour.
    notes
        List to which notes for readers of the results are appended.
    atlas
        Name or path for `tumorjax.atlas.load_atlas`.
    labels
        Labels of csf, gm and wm in the image "tissue".
    brain
        Mask of the brain, if it is known.
    has_skull
        Whether the T1 image shows a head with its skull.
    resolution
        Voxel size (mm) on which tissue is needed.
    registration
        Engine of the deformation of the atlas, see `tumorjax.registration.register`.
    transform
        The map from the patient's world to the atlas', instead of a registration.
    progress
        Function that is called with a description of each step.

    Raises
    ------
    InputError
        If the images, or the map that is given, are unusable.
    """
    if "white matter" in images:
        return tissue_from_maps(images["white matter"], images["grey matter"], images.get("CSF"))
    if "tissue" in images:
        return _from_labels(images["tissue"], labels, notes)
    progress(f"loading the atlas {atlas}")
    healthy = read_atlas(atlas, notes)
    t1, mask = images.get("T1"), images.get("brain mask")
    segmentation = None if t1 is None else Segmentation(t1, brain, lesion, resolution)
    if transform is None and t1 is None and mask is None:
        notes.append(f"The atlas {healthy.title} is assumed to share the patient's world; give a T1 image to align it.")
        return TissueSource.of(healthy)
    if transform is not None:
        found = transform
        _check_place(transform, healthy, lesion)
        notes.append(f"The atlas {healthy.title} is aligned by a map that was given, and not registered.")
    else:
        target = "brain mask" if t1 is None else "T1 image"
        progress(f"aligning the atlas with the {target}")
        meanwhile = None if segmentation is None else segmentation.begin
        found = align_atlas(healthy, t1, mask, lesion, has_skull, notes, registration, meanwhile)
        if found.failure:
            failed = (
                f"The alignment of the atlas {healthy.title} with the {target} FAILED: {found.failure}. Check "
                f"in a viewer that the {target} shows the whole brain, upright and with correct left and right, or "
                "give maps of the patient's own tissue (--wm, --gm, --csf)."
            )
            notes.append(Note(failed, Status.FAILED))
            return TissueSource.of(healthy, found)
        notes.append(f"The atlas {healthy.title} is aligned with the {target} by {quality(found)}.")
    source = TissueSource.of(healthy, found)
    if segmentation is None:
        return source
    progress("segmenting the T1 image")
    return source._replace(segmented=segmentation.maps(healthy, found, notes))


def _check_place(transform: Transform, atlas: AtlasImages, lesion: Volume) -> None:
    """Raise an InputError if a map from the patient's world to the atlas' failed, or places the lesion elsewhere."""
    if transform.failure:
        raise InputError(f"transform: the registration that found the map failed: {transform.failure}; give another")
    brain = warp(atlas.brain, transform, lesion.grid, kind="nearest") > 0
    inside = float(brain[lesion.data > 0].mean()) if (lesion.data > 0).any() else 1.0
    if inside < _INSIDE:
        raise InputError(
            f"transform: the map places {inside:.0%} of the lesion in the brain of the atlas {atlas.title}; give that "
            "from this patient to this atlas, or none, so that it is registered"
        )


def as_t1(maps: np.ndarray | Maps) -> np.ndarray:
    """Return an image like a T1 image from tissue maps: bright white matter, grey grey matter and dark fluid."""
    return maps[0] + np.float32(0.6) * maps[1] + np.float32(0.2) * maps[2]


def tissue_from_maps(white: Volume, grey: Volume, csf: Volume | None) -> TissueSource:
    """Return the user's probability maps as a source of tissue, after checking them.

    Raises
    ------
    InputError
        If a map does not contain probabilities, or two maps do not share a world.
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
        # A user who gives labels has left out the others on purpose; the default mapping may miss the cerebellum.
        large = names is None and left > _LEFT_OUT * kept * float(labels.grid.voxel_volume) / 1000
        notes.append(
            Note(
                f"The labels {listed}{more} of the tissue image are not among "
                f"{' '.join(f'{name}={_numbers(chosen[name])}' for name in sorted(chosen))}: {left:.1f} ml are left "
                "out of the brain.",
                Status.DOUBTFUL if large else Status.GOOD,
            )
        )
    return TissueSource(*masks, own=True)


def stripped_brain(t1: Volume) -> np.ndarray | None:
    """Return the brain mask of a T1 image without the skull; None if the image shows a head with its skull.

    The background must be zero; see `tumorjax.io.above_background`.

    Notes
    -----
    A head is recognised by its volume, which is larger than 2.3 l; that of a brain is smaller.
    """
    mask = shown(t1, _SHOWN)
    return None if float(mask.sum() * t1.grid.voxel_volume) / 1000 > LARGEST_BRAIN else largest_part(mask)


def fill_lesion(maps: Maps, lesion: np.ndarray, spacing: float) -> tuple[Maps, float]:
    """Fill in plausible healthy tissue under a tumour where maps show fluid or nothing.

    Parameters
    ----------
    maps
        Maps of white matter, grey matter and fluid, (x, y, z) each.
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
    Tumour cells are visible there, so there was tissue: if a ventricle of the atlas extends into the lesion, the
    tumour has displaced it, or the alignment has misplaced it. Voxels are filled where the maps are empty, and
    more than 3 mm inside the lesion where less than half of a voxel is tissue. There, white and grey matter are
    raised to the lesion's share of the voxel, in the proportion of the surrounding healthy tissue weighted by a
    Gaussian of 6 mm (normalized convolution [1]_), which deep inside selects the nearest tissue; fluid gets the
    rest. This is a heuristic: deep in a large tumour, it depends only on the tissue around the tumour.

    References
    ----------
    .. [1] H. Knutsson and C.-F. Westin, "Normalized and differential convolution", CVPR 1993.
       doi:10.1109/CVPR.1993.341081
    """
    white, grey, csf = (np.array(tissue) for tissue in maps)
    filled = _to_fill(maps, lesion, spacing)
    missing = np.where(filled, np.clip(lesion - white - grey, 0, None), 0)
    if not filled.any():
        return (white, grey, csf), 0.0
    healthy = (lesion == 0) & (white + grey >= 0.5)
    if not healthy.any():
        raise InputError("tissue: no white or grey matter outside the lesion; check maps and segmentation")
    box, around = sums_around((white, white + grey), healthy, filled, spacing)
    share = np.zeros_like(white)
    share[box] = np.divide(around[0], around[1], out=np.zeros(around[0].shape), where=filled[box])
    white += missing * share
    grey += missing * (1 - share)
    csf = np.where(filled, np.clip(np.minimum(csf, 1 - white - grey), 0, 1), csf)
    return (white, grey, csf), float(missing.sum() / lesion.sum())


def sums_around(
    maps: Sequence[np.ndarray], healthy: np.ndarray, wanted: np.ndarray, spacing: float
) -> tuple[tuple[slice, ...], np.ndarray]:
    """Return the sums of maps over healthy tissue, weighted by a Gaussian of 6 mm, in a box that holds what is wanted.

    Parameters
    ----------
    maps
        (x, y, z) each.
    healthy
        (x, y, z), boolean: the voxels to be summed; there are some.
    wanted
        (x, y, z), boolean: the voxels whose sums are wanted; there are some.
    spacing
        Voxel size, mm.

    Returns
    -------
    box, sums
        The box, and the sums in it, (n, u, v, w): positive where the map is, for the Gaussian is wide enough to reach
        healthy tissue from everywhere.
    """
    # In float64 a Gaussian is positive up to 37 deviations.
    depth = np.asarray(ndimage.distance_transform_edt(~healthy))[wanted].max()
    width = max(_FILL_SCALE / spacing, depth / _LONGEST_TAIL)
    reach = int(np.ceil(depth + 3 * width))
    start, shape = tissue_box(wanted, margin=reach)
    box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
    sums = np.zeros((len(maps), *shape))
    for each, out in zip(maps, sums, strict=True):
        ndimage.gaussian_filter(
            np.where(healthy[box], each[box], 0.0), width, output=out, mode="constant", radius=reach
        )
    return box, sums


def tissue_mask(maps: Maps, lesion: np.ndarray, spacing: float) -> np.ndarray:
    """Return the voxels in which cells can be: those with tissue in the maps, and those that `fill_lesion` fills.

    Parameters
    ----------
    maps, lesion, spacing
        See `fill_lesion`.
    """
    white, grey, _ = maps
    return (white + grey >= TISSUE_THRESHOLD) | _to_fill(maps, lesion, spacing)


def _to_fill(maps: Maps, lesion: np.ndarray, spacing: float) -> np.ndarray:
    """Return the voxels of a lesion whose maps cannot be right."""
    white, grey, csf = maps
    # Voxels that are mostly tissue keep their maps, including fluid between gyri. In the rim of the lesion the maps are
    # kept, too, because the outline is not accurate enough.
    inside = lesion >= 0.5
    deep = np.zeros(inside.shape, bool)
    if inside.any():
        # What is nearest outside lies in the rim of a voxel, or there is no outside there.
        start, shape = tissue_box(inside, margin=1)
        box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
        deep[box] = np.asarray(ndimage.distance_transform_edt(inside[box])) * spacing > _OUTLINE_RIM
    nothing = white + grey + csf < HOLE
    return (lesion > 0) & (nothing | (deep & (white + grey < _MOSTLY)))


def _numbers(values: tuple[int, ...]) -> str:
    return ",".join(str(value) for value in values)
