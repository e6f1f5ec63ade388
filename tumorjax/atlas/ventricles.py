"""The lateral ventricles of an atlas, and the choice of atlases by their volume."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from scipy import ndimage

from tumorjax.atlas.icbm152 import icbm152
from tumorjax.atlas.images import AtlasImages, AtlasWarning
from tumorjax.grid import Grid, tissue_box
from tumorjax.io import Volume
from tumorjax.registration import register, warp

# A voxel is fluid where fluid fills half of it.
_FLUID = 0.5
# A point (RAS mm) in ICBM152's left lateral ventricle. In the mask of voxels that are mostly fluid, both lateral
# ventricles are connected with each other, but neither with the third ventricle nor with the cisterns.
_INSIDE = (-21.0, -38.0, 17.0)
# Voxel size (mm) of the alignment with ICBM152; it can be coarse, because ventricles lie centimetres from sulci.
_RESOLUTION = 4.0
# Fluid further than this (mm) from ICBM152's ventricles is not part of the ventricles, even in a brain whose ventricles
# are several times as large.
_FURTHEST = 20.0
# Healthy adults have ventricles of 5 ml or more; below this volume (ml) the ventricles were not found.
LEAST_VENTRICLES = 0.5
# Atlases with ventricles from the patient's volume to this multiple of it are suitable.
LARGEST_RATIO = 1.5


def ventricle_mask(atlas: AtlasImages) -> np.ndarray:
    """Return the mask of the lateral ventricles: the fluid deep in the brain, without that in sulci and cisterns.

    Returns
    -------
    ndarray
        (x, y, z), boolean, on the atlas' voxels.

    Warns
    -----
    RegistrationWarning
        If the atlas' T1 image cannot be aligned with ICBM152.

    Notes
    -----
    The T1 image is aligned with ICBM152 by an affine map. Candidates are the voxels that are mostly fluid and are
    nearer to ICBM152's lateral ventricles than to its other fluid; those of their connected parts are kept
    that reach into ICBM152's ventricles. Ventricles that are displaced or enlarged by a centimetre are thus
    found completely, but only little of the temporal horns and the third ventricle. The rule is a heuristic
    of this package.
    """
    fluid = atlas.csf.data >= _FLUID
    grid = atlas.t1.grid
    template = icbm152()
    if not fluid.any():
        return fluid
    ventricles, other = _template_parts()
    if atlas.t1 is template.t1 and atlas.csf is template.csf:
        return ventricles.data.copy()
    transform = register(template.t1, atlas.t1, resolution=_RESOLUTION)
    core, rest = (warp(part, transform, grid, kind="mean") >= _FLUID for part in (ventricles, other))
    return ventricles_in(fluid, core, rest, grid)


def ventricles_in(fluid: np.ndarray, core: np.ndarray, rest: np.ndarray, grid: Grid) -> np.ndarray:
    """Return the part of a mask of fluid that belongs to the lateral ventricles, by the rule of `ventricle_mask`.

    Parameters
    ----------
    fluid
        (x, y, z), boolean.
    core, rest
        (x, y, z), boolean: the lateral ventricles and the other fluid of an aligned atlas.
    grid
        The voxels of all three.
    """
    if not core.any():
        return np.zeros_like(fluid)
    spacing = np.asarray(grid.spacing)
    start, shape = tissue_box(core, margin=math.ceil(_FURTHEST / spacing.min()))
    box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
    near, far = (np.asarray(ndimage.distance_transform_edt(~part[box], spacing)) for part in (core, rest))
    candidates = fluid[box] & (near < far) & (near <= _FURTHEST)
    parts = np.zeros(shape, np.int32)
    ndimage.label(candidates, output=parts)
    mask = np.zeros_like(fluid)
    mask[box] = candidates & np.isin(parts, np.unique(parts[core[box] & candidates]))
    return mask


def ventricle_volume(atlas: AtlasImages) -> float:
    """Return the volume of the lateral ventricles, ml; see `ventricle_mask`."""
    return float(ventricle_mask(atlas).sum() * atlas.t1.grid.voxel_volume) / 1000


def are_suitable(ratio: float) -> bool:
    """Return whether an atlas whose ventricles have this ratio to the patient's is suitable; see `choose_atlases`."""
    return 1 <= ratio < LARGEST_RATIO


def choose_atlases(
    patient_volume: float,
    atlases: Sequence[AtlasImages],
    count: int,
    *,
    volumes: Sequence[float] | None = None,
) -> list[AtlasImages]:
    """Choose the atlases whose ventricles are suitable for a patient.

    Suitable ventricles have at least the volume of the patient's, because a tumour only presses fluid out of
    them, and less than 1.5 times that volume [1]_. Of the suitable atlases, those nearest in volume are
    chosen; if there are too few, the nearest of the others, by the ratio of volumes, follow.

    Parameters
    ----------
    patient_volume
        Volume of the patient's lateral ventricles, ml.
    atlases
        Atlases to choose from.
    count
        Number of atlases to choose.
    volumes
        `ventricle_volume` of each atlas, ml, if known.

    Returns
    -------
    list of AtlasImages
        Suitable ones first, each group from near to far.

    Raises
    ------
    ValueError
        If the volume is not positive, there are fewer atlases than `count`, or an atlas has no ventricles.

    Warns
    -----
    AtlasWarning
        If fewer than `count` atlases are suitable.

    References
    ----------
    .. [1] S. Subramanian et al., "Multiatlas calibration of biophysical brain tumor growth models with mass effect",
       MICCAI 2020. doi:10.1007/978-3-030-59713-9_53
    """
    if not patient_volume > 0:
        raise ValueError(
            f"the patient's ventricles have a positive volume, got {patient_volume} ml; segment them first"
        )
    if not 1 <= count <= len(atlases):
        raise ValueError(f"count is from 1 to the number of atlases, {len(atlases)}; got {count}")
    if volumes is None:
        volumes = [ventricle_volume(atlas) for atlas in atlases]
    if len(volumes) != len(atlases):
        raise ValueError(f"got {len(volumes)} volumes for {len(atlases)} atlases; give one each")
    for atlas, volume in zip(atlases, volumes, strict=True):
        if not volume >= LEAST_VENTRICLES:
            raise ValueError(f"atlas {atlas.name}: has ventricles of {volume:.1f} ml; check its fluid map and T1 image")
    ratios = np.asarray(volumes, float) / patient_volume
    suitable = np.array([are_suitable(ratio) for ratio in ratios])
    if suitable.sum() < count:
        warnings.warn(
            f"{suitable.sum()} of {len(atlases)} atlases have ventricles from the patient's {patient_volume:.1f} ml to "
            f"{LARGEST_RATIO} times that; the nearest others follow; all: {min(volumes):.1f} to {max(volumes):.1f} ml",
            AtlasWarning,
            stacklevel=2,
        )
    order = np.lexsort((np.abs(np.log(ratios)), ~suitable))
    return [atlases[i] for i in order[:count]]


@cache
def _template_parts() -> tuple[Volume, Volume]:
    # ICBM152's lateral ventricles, and its other fluid.
    template = icbm152()
    fluid = template.csf.data >= _FLUID
    parts = np.zeros(fluid.shape, np.int32)
    ndimage.label(fluid, output=parts)
    inside = tuple(np.rint(template.csf.grid.to_index(np.array(_INSIDE))).astype(int))
    ventricles = fluid & (parts == parts[inside])
    rest = fluid & ~ventricles
    for part in (ventricles, rest):
        part.flags.writeable = False
    return replace(template.csf, data=ventricles), replace(template.csf, data=rest)
