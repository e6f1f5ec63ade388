"""Resampling through a transform."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from tumorjax.grid import Grid
from tumorjax.io import Volume, resample
from tumorjax.registration.images import to_itk
from tumorjax.registration.transform import Transform

# An image with more values than this is not a label image; parcellations have fewer.
_MAX_LABELS = 1000

Kind = Literal["linear", "nearest", "mean", "label"]


def warp(volume: Volume, transform: Transform, grid: Grid, *, kind: Kind = "linear") -> np.ndarray:
    """Resample a moving image onto a grid in the fixed image's world.

    Parameters
    ----------
    volume
        The moving image.
    transform
        Maps the fixed image's world to that of `volume`.
    grid
        The grid of the result.
    kind
        "linear", "nearest" and "mean" as in `tumorjax.io.resample`; "label" interpolates the mask of each
        label and chooses the label with the largest value. That creates no new labels and no ragged borders,
        and a voxel that two thin layers fill together is not assigned to the background.

    Returns
    -------
    ndarray
        (x, y, z), the image on `grid`: float32, or for "nearest" and "label" the dtype of `volume`. Zero outside
        the image.
    """
    if kind == "label":
        return _warp_labels(volume, transform, grid)
    (result,) = warp_all([volume], transform, grid, kind=kind)
    return result


def warp_all(volumes: Sequence[Volume], transform: Transform, grid: Grid, *, kind: Kind = "linear") -> list[np.ndarray]:
    """Resample several moving images with the same geometry, for which a field is resampled only once; see `warp`.

    Raises
    ------
    ValueError
        If their geometries differ, or the kind is unknown; labels are warped one image at a time.
    """
    if kind not in ("linear", "nearest", "mean"):
        raise ValueError(f"kind is 'linear', 'nearest', 'mean' or 'label', got {kind!r}")
    affine = np.asarray(volumes[0].affine, float)
    if any(not np.array_equal(volume.affine, affine) for volume in volumes):
        raise ValueError("images that are warped together lie on the same voxels; warp them one by one")
    return list(_warped((volume.data for volume in volumes), affine, transform, grid, kind))


def _warp_labels(volume: Volume, transform: Transform, grid: Grid) -> np.ndarray:
    labels = np.unique(volume.data)
    if len(labels) > _MAX_LABELS or (labels != np.round(labels)).any():
        raise ValueError(
            f"{volume.name} has {len(labels)} values from {labels[0]:g} to {labels[-1]:g}, which are no labels"
        )
    result = np.zeros(grid.shape, volume.data.dtype)
    best, total = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    some = labels[labels != 0]
    masks = ((volume.data == label).astype(np.float32) for label in some)
    for label, share in zip(some, _warped(masks, volume.affine, transform, grid, "linear"), strict=True):
        result[share > best] = label
        np.maximum(best, share, out=best)
        total += share
    # The tolerance keeps rounding from deciding where a border lies exactly between two voxels.
    result[total < 0.5 - 1e-5] = 0
    return result


def _warped(
    images: Iterable[np.ndarray],
    affine: np.ndarray,
    transform: Transform,
    grid: Grid,
    kind: Literal["linear", "nearest", "mean"],
) -> Iterator[np.ndarray]:
    """Yield images with the same geometry, warped to a grid."""
    # The affine part changes the affine of the image; the field displaces the sampling points.
    affine = np.linalg.inv(transform.matrix) @ np.asarray(affine, float)
    if transform.field is None:
        yield from (resample(data, affine, grid, kind=kind) for data in images)
        return
    import SimpleITK as sitk

    # A new voxel is the mean over sub-voxels that are about as large as the old ones.
    steps = np.linalg.norm((np.linalg.inv(affine) @ np.asarray(grid.affine, float))[:3, :3], axis=0)
    fine = np.ones(3, int) if kind == "nearest" else np.maximum(1, np.rint(steps)).astype(int)
    sub = np.diag([*(1 / fine), 1.0])
    sub[:3, 3] = (1 / fine - 1) / 2
    lattice = np.asarray(grid.affine, float) @ sub
    spacing = np.linalg.norm(lattice[:3, :3], axis=0)
    field = to_itk(np.asarray(transform.field.forward, float), transform.field.affine, vector=True)
    filter_ = sitk.ResampleImageFilter()
    filter_.SetSize([int(n) for n in np.asarray(grid.shape) * fine])
    filter_.SetOutputOrigin(lattice[:3, 3].tolist())
    filter_.SetOutputSpacing(spacing.tolist())
    filter_.SetOutputDirection((lattice[:3, :3] / spacing).ravel().tolist())
    filter_.SetTransform(sitk.DisplacementFieldTransform(field))
    filter_.SetInterpolator(sitk.sitkNearestNeighbor if kind == "nearest" else sitk.sitkLinear)
    for data in images:
        dtype = np.dtype(np.float32) if kind != "nearest" else data.dtype
        source = to_itk(data.astype(np.uint8 if dtype.kind == "b" else dtype), affine)
        result = sitk.GetArrayFromImage(filter_.Execute(source)).T
        if fine.max() > 1:
            blocks = result.reshape([n for pair in zip(grid.shape, fine, strict=True) for n in pair])
            result = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
        yield np.ascontiguousarray(result.astype(dtype, copy=False))
