"""Atlases by name, from folders, and from a T1 image alone."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tumorjax.atlas.icbm152 import icbm152
from tumorjax.atlas.images import AtlasImages, AtlasWarning, from_maps
from tumorjax.atlas.segmentation import segment_tissue
from tumorjax.io import (
    InputError,
    Volume,
    above_background,
    as_background,
    as_labels,
    check_worlds,
    read_volume,
    resample,
    world_overlap,
)

KNOWN = ("icbm152",)

# Names of the maps of white matter, grey matter and fluid, and their values in a label image.
_MAPS = ("wm", "gm", "csf")
_LABELS = (3, 2, 1)
# Smallest share of the labels' bounding box inside that of the T1 image; two skull strippings of one brain reach 0.9.
_LEAST_OVERLAP = 0.5
_SUFFIXES = (".nii.gz", ".nii")


def load_atlas(name: str | Path) -> AtlasImages:
    """Return a healthy atlas, from an installed package or from files; nothing is downloaded.

    Parameters
    ----------
    name
        "icbm152", the ICBM 2009a symmetric average [1]_ that nilearn ships, 1 mm; or a folder with
        `t1` and one of the following, each as `.nii.gz` or `.nii`:

        - `wm`, `gm` and `csf`, probabilities on the voxels of `t1`;
        - `tissue_labels`, 1 fluid, 2 grey and 3 white matter, in the world of `t1`; it may have
          other voxels, on which the atlas is then returned;
        - nothing else: the tissue is then segmented by `segment_tissue`;

        or the path of a T1 image without the skull, whose tissue is segmented too.

    Raises
    ------
    InputError
        If the name is not one of these, or an image is missing or not usable.

    Warns
    -----
    AtlasWarning
        If the voxel size of a T1 image without tissue maps was repaired (see `segment_tissue`), or an image's header is
        doubtful.

    Notes
    -----
    nilearn's templates have no map of cerebrospinal fluid. It is taken as the part of the brain in the T1 image that
    white and grey matter leave, about 220 ml.

    References
    ----------
    .. [1] V. Fonov et al., "Unbiased average age-appropriate atlases for pediatric studies",
       NeuroImage 54 (2011). doi:10.1016/j.neuroimage.2010.07.033
    """
    if str(name) in KNOWN:
        return icbm152()
    # An empty word, such as an empty variable of a shell, would be the current folder.
    path = Path(name) if str(name) else None
    if path is not None and path.is_file():
        return replace(
            segment_tissue(_warned([read_volume(path, name="atlas t1", background_nan=True)])[0]), name=str(name)
        )
    if path is None or not path.is_dir():
        raise InputError(
            f"atlas {name or repr(name)}: unknown; give {' or '.join(KNOWN)}, or a folder with t1, wm, gm and csf as "
            ".nii.gz"
        )
    if _file(path, "tissue_labels").is_file():
        return _from_labels(str(name), *_warned([_read(path, stem) for stem in ("t1", "tissue_labels")]))
    if any(_file(path, stem).is_file() for stem in _MAPS):
        t1, *tissues = _warned([_read(path, stem) for stem in ("t1", *_MAPS)])
        return _from_maps(str(name), t1, tissues)
    (t1,) = _warned([_read(path, "t1")])
    return replace(segment_tissue(t1), name=str(name))


def _warned(images: Sequence[Volume]) -> Sequence[Volume]:
    """Return images that belong together, after turning their notes into warnings."""
    _warn([*check_worlds({image.name: image for image in images}), *(note for each in images for note in each.notes)])
    return images


def _warn(notes: Sequence[str]) -> None:
    for note in notes:
        warnings.warn(note.removesuffix("."), AtlasWarning, stacklevel=4)


def _from_maps(name: str, t1: Volume, tissues: list[Volume]) -> AtlasImages:
    for tissue in tissues:
        if tissue.data.shape != t1.data.shape or not np.allclose(tissue.affine, t1.affine, atol=1e-3):
            tissue.fail(f"lies on other voxels than {t1.path}; resample the atlas to one grid")
        low, high = float(tissue.data.min()), float(tissue.data.max())
        if low < -1e-6 or high > 1 + 1e-3 or high <= 0:
            tissue.fail(f"has values from {low:g} to {high:g}; give probabilities in [0, 1]")
    notes: list[str] = []
    t1 = above_background(t1, notes)
    _warn(notes)
    return from_maps(name, t1, np.clip([tissue.data for tissue in tissues], 0, 1))


def _from_labels(name: str, t1: Volume, labels: Volume) -> AtlasImages:
    notes: list[str] = []
    t1, labels = above_background(t1, notes), as_labels(labels, notes)
    _warn(notes)
    present = set(np.unique(labels.data).tolist())
    if present != {0, *_LABELS}:
        shown = ", ".join(f"{value:g}" for value in sorted(present)[:20])
        labels.fail(f"has the labels {shown}; give 0 outside, 1 fluid, 2 grey matter, 3 white matter")
    if (overlap := world_overlap(labels, t1)) < _LEAST_OVERLAP:
        labels.fail(f"overlaps {t1.path} to {overlap:.0%}; give both in one world space")
    t1 = replace(t1, data=resample(t1.data, t1.affine, labels.grid), affine=labels.affine, header=labels.header)
    return from_maps(name, t1, np.stack([labels.data == label for label in _LABELS]))


def _file(folder: Path, stem: str) -> Path:
    # If neither file exists, the error message names the compressed one.
    compressed, plain = (folder / f"{stem}{suffix}" for suffix in _SUFFIXES)
    return plain if plain.is_file() and not compressed.is_file() else compressed


def _read(folder: Path, stem: str) -> Volume:
    image = read_volume(_file(folder, stem), name=f"atlas {stem}", background_nan=True)
    return image if stem == "t1" else as_background(image)
