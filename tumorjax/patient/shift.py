"""What a patient's T1 image shows of the displacement beside a tumour, and the brain that a displacement leads back to.

The host-side half of coupling registration and growth: arrays in, arrays out; `tumorjax.observation.ShiftMap` has the
likelihood.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from tumorjax.anatomy import Anatomy
from tumorjax.atlas import AtlasImages
from tumorjax.grid import Grid, tissue_box
from tumorjax.io import Volume, resample
from tumorjax.patient.fibres import fibres_before
from tumorjax.patient.optical_flow import equally_sharp, flow
from tumorjax.patient.patient import Patient
from tumorjax.registration import Transform, invert, warp, warp_all
from tumorjax.registration.intensities import match_intensities
from tumorjax.registration.inverse import with_inverse
from tumorjax.registration.transform import Field, count_folds

# Voxels (mm) on which the images are compared, and the Gaussian (mm) that makes their gradients smooth.
_VOXEL, _BLUR = 2.0, 1.4
# Steps of the optical flow, after which next to nothing changes.
_STEPS = 3
# Distance (mm) of the points from the lesion: an outline is not exact, and far away there is next to no push.
_NEAR, _FAR = 4.0, 50.0
# Images are compared so far (mm) beyond that.
_MARGIN = 12.0
# Distance (mm) from the border of the brain, which depends on how the skull was removed.
_INSIDE = 3.0
# One point in each cube of this edge (mm): differences of brightness nearby are one. Of the cubes, the share whose
# steepest point is the least steep says nothing.
_CUBE, _FLAT = 6.0, 0.3
# What would mean that the registration has missed a border by more than this (mm) is something else.
_MISSED = 12.0


class Shift(NamedTuple):
    """What a T1 image shows of the displacement: see `tumorjax.observation.ShiftMap`.

    Parameters
    ----------
    points
        (n, 3), mm; the steepest borders first.
    normal
        (n, 3), of unit length: the direction in which the brightness changes.
    shift
        (n,), mm: normal times the displacement between patient and atlas, of which an affine map is no part.
    """

    points: np.ndarray
    normal: np.ndarray
    shift: np.ndarray

    def steepest(self, count: int) -> "Shift":
        """Return so many points at the steepest borders."""
        return Shift(*(each[:count] for each in self))


def shift_of(patient: Patient, atlas: AtlasImages, transform: Transform | None) -> Shift | None:
    """Return what a patient's T1 image shows of the displacement beside an atlas that is aligned with it.

    The map of the registration is where the image is linearised first, and no more: what it has left of the differences
    of brightness is part of the answer. The optical flow of these leads to a better map, and so on. None if there is no
    T1 image, or no deformation between the two.
    """
    t1 = patient.images.get("T1")
    if t1 is None or transform is None or transform.field is None or transform.failure:
        return None
    grid = t1.grid if float(np.min(t1.grid.spacing)) >= _VOXEL else t1.grid.with_spacing(_VOXEL)
    spacing = np.asarray(grid.spacing, float)
    lesion = resample(patient.affected.data, patient.affected.affine, grid, kind="mean") > 0
    start, shape = tissue_box(lesion, margin=int(np.ceil((_FAR + _MARGIN) / spacing.min())))
    grid, lesion = grid.crop(start, shape), lesion[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))]
    brain = resample(patient.brain, patient.reference.affine, grid, kind="mean") >= 0.5
    own = resample(t1.data, t1.affine, grid, kind="mean")
    known, other = warp_all([atlas.brain, atlas.t1], transform, grid, kind="mean")
    brain &= known >= 0.5
    away = np.asarray(ndimage.distance_transform_edt(~lesion, spacing))
    deep = np.asarray(ndimage.distance_transform_edt(brain, spacing)) > _INSIDE
    healthy = brain & (away > _NEAR) & (own > 0) & (other > 0)
    if not healthy.any():
        return None
    world = np.asarray(grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).astype(float)))
    displacement = transform.field.at(world)
    pair = _Pair.of(own, other, grid, brain, healthy)
    for _ in range(_STEPS):
        displacement = displacement + flow(pair.gradient, pair.left, deep & (away > _NEAR), spacing)
        other = warp(atlas.t1, _moved(transform, grid, displacement), grid, kind="mean")
        pair = _Pair.of(own, other, grid, brain, healthy)
    allowed = deep & (away > _NEAR) & (away < _FAR)
    steepness = np.where(allowed, np.linalg.norm(pair.gradient, axis=-1), -1.0)
    chosen = _steepest(steepness, np.maximum(1, np.round(_CUBE / spacing)).astype(int))
    if not len(chosen):
        return None
    place = tuple(chosen.T)
    steep = steepness[place]
    normal = pair.gradient[place] / steep[:, None]
    left = np.clip(pair.left[place] / steep, -_MISSED, _MISSED)
    shift = np.sum(normal * displacement[place], axis=1) + left
    order = np.argsort(-steep, kind="stable")
    return Shift(world[place][order], normal[order], shift[order])


class _Pair(NamedTuple):
    """The mean gradient, (x, y, z, 3) 1/mm, of the images of patient and atlas, and their difference, (x, y, z)."""

    gradient: np.ndarray
    left: np.ndarray

    @classmethod
    def of(
        cls,
        own: np.ndarray,
        other: np.ndarray,
        grid: Grid,
        brain: np.ndarray,
        healthy: np.ndarray,
    ) -> "_Pair":
        """Compare the patient's image with that of an atlas, warped to it."""
        spacing = np.asarray(grid.spacing, float)
        where = healthy & (other > 0)
        own, other = equally_sharp(own, match_intensities(other, own, where), where, spacing)
        # Outside the brain the skull may be, or nothing.
        own, other = (
            ndimage.gaussian_filter(np.where(brain, image, 0), _BLUR / spacing) / max(float(own[healthy].std()), 1e-30)
            for image in (own, other)
        )
        # The mean of the two is exact to second order in what is left between them.
        steep = np.stack([(np.gradient(own, axis=a) + np.gradient(other, axis=a)) / 2 for a in range(3)], axis=-1)
        return cls(steep @ np.linalg.inv(np.asarray(grid.affine, float)[:3, :3]), own - other)


def _moved(transform: Transform, grid: Grid, displacement: np.ndarray) -> Transform:
    """Return a map with the same matrix and another displacement, of which only the forward direction is used."""
    return Transform(transform.matrix, field=Field(np.asarray(grid.affine, float), displacement, -displacement))


def brain_behind(anatomy: Anatomy, displacement: np.ndarray) -> Anatomy | None:
    """Return the tissue before it was displaced: at X what is now at x = X + U(X), where x - u(x) = X.

    Fibres are turned back by the rotation of that map; see `tumorjax.patient.fibres.fibres_before`.

    Parameters
    ----------
    anatomy
        The tissue as it is now.
    displacement
        u on the voxels of the anatomy, (x, y, z, 3), mm along the world's axes: what is at x came from x - u(x).

    Returns
    -------
    Anatomy or None
        On the same voxels; None if the displacement folds, so that no tissue can have been there.
    """
    grid = anatomy.grid.in_double()
    affine = np.asarray(grid.affine, float)
    field = with_inverse(-np.asarray(displacement, float), affine)
    if count_folds(field):
        return None
    back = invert(Transform(np.eye(4), field=field))
    maps = [np.asarray(each, np.float32) for each in (anatomy.white_matter, anatomy.grey_matter, anatomy.csf)]
    tensors = None if anatomy.fibres is None else np.asarray(anatomy.fibres, np.float32)
    parts = [] if tensors is None else list(np.moveaxis(tensors, -1, 0))
    moved = warp_all([Volume(each, affine) for each in (*maps, *parts)], back, grid)
    # At the border of the image nothing moves, but rounding may take a voxel out of it.
    still = np.linalg.norm(np.asarray(field.backward), axis=-1) < 1e-3
    fibres = None
    if tensors is not None:
        # What stays in its place may be turned all the same.
        now = np.where(still[..., None], tensors, np.stack(moved[len(maps) :], axis=-1))
        fibres = fibres_before(now, field.backward, affine)
    tissue = (np.where(still, a, np.clip(b, 0, 1)) for a, b in zip(maps, moved[: len(maps)], strict=True))
    return Anatomy(anatomy.grid, *tissue, fibres=fibres)


def carried_back(displacement: np.ndarray, grid: Grid, points: np.ndarray) -> np.ndarray:
    """Return where points, (n, 3) mm, were before the displacement u on a grid: x - u(x)."""
    places = np.moveaxis(np.asarray(grid.in_double().to_index(np.asarray(points, float))), -1, 0)
    parts = np.moveaxis(np.asarray(displacement, float), -1, 0)
    moved = [ndimage.map_coordinates(part, places, order=1, mode="nearest") for part in parts]
    return np.asarray(points, float) - np.stack(moved, axis=-1)


def _steepest(steep: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Return the index of the steepest point of each block, (n, 3), without the least steep ones and negative ones."""
    shape = np.array(steep.shape) // block * block
    steep = steep[tuple(slice(0, n) for n in shape)]
    counts = shape // block
    split = steep.reshape([n for pair in zip(counts, block, strict=True) for n in pair])
    split = split.transpose(0, 2, 4, 1, 3, 5).reshape(int(np.prod(counts)), -1)
    if not split.size:
        return np.zeros((0, 3), int)
    best, where = split.max(axis=1), split.argmax(axis=1)
    found = np.stack(np.unravel_index(np.arange(len(split)), counts), axis=-1) * block
    found += np.stack(np.unravel_index(where, block), axis=-1)
    seen = best > 0
    return found[seen & (best >= np.quantile(best[seen], _FLAT))] if seen.any() else np.zeros((0, 3), int)
