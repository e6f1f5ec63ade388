"""Resampling between voxel grids, in world space and with antialiasing."""

from typing import Any, Literal

import numpy as np
from scipy import sparse

from tumorjax.grid import Grid
from tumorjax.io.volume import Volume

# Axes count as aligned if they deviate by less than this part of a voxel over the whole grid.
_DRIFT = 1e-2

Kind = Literal["linear", "nearest", "mean"]


def resample(data: np.ndarray, affine: np.ndarray, grid: Grid, *, kind: Kind = "linear") -> np.ndarray:
    """Resample an image onto a grid by their world coordinates.

    Parameters
    ----------
    data
        (x, y, z), on its own voxels.
    affine
        (4, 4), mm. Maps the indices of `data` to RAS world coordinates.
    grid
        The grid of the result.
    kind
        "linear" interpolates, and averages along axes on which the new voxels are larger;
        "mean" treats the image as constant in each voxel and averages it over each new voxel, so
        that a mask becomes the covered fraction and its volume is conserved; "nearest" takes the
        value of the voxel that contains the new centre, for labels.

    Returns
    -------
    ndarray
        (x, y, z), the image on `grid`: float32, or for "nearest" the dtype of `data`. Zero outside the image.

    Notes
    -----
    Where both sets of axes are parallel the averages are exact (block means, where the new voxels
    are whole blocks). Otherwise they are means over about one sample per old voxel, which
    conserve the volume of a mask to better than a percent.
    """
    data = np.asarray(data)
    if kind not in ("linear", "nearest", "mean"):
        raise ValueError(f"kind is 'linear', 'nearest' or 'mean', got {kind!r}")
    if data.ndim != 3:
        raise ValueError(f"an image has three dimensions, got shape {data.shape}")
    mapping = np.linalg.inv(np.asarray(affine, float)) @ np.asarray(grid.affine, float)
    source = np.abs(mapping[:3, :3]).argmax(axis=0)
    rest = np.abs(mapping[:3, :3])
    rest[source, range(3)] = 0
    aligned = len(set(source)) == 3 and (rest.sum(axis=0) * grid.shape).max() < _DRIFT
    if aligned:
        # Row `source[a]` of the mapping is the old index along the new axis `a`.
        lines = [(float(mapping[i, a]), float(mapping[i, 3])) for a, i in enumerate(source)]
        return _resample_axes(data.transpose(source), lines, grid.shape, kind)
    return _resample_oblique(data, mapping, grid.shape, kind)


def to_voxels(density: np.ndarray, grid: Grid, like: Volume) -> np.ndarray:
    """Interpolate a field on a computing grid to the voxels of an image; float32, zero outside the grid."""
    return resample(np.asarray(density), np.asarray(grid.affine), like.grid, kind="linear")


def world_overlap(a: Volume, b: Volume) -> float:
    """Return the share of `a`'s bounding box in the world that lies in the bounding box of `b`.

    The boxes are parallel to the world's axes and enclose the voxels that are not zero.

    Raises
    ------
    InputError
        If an image is zero everywhere.
    """
    low_a, high_a = _world_box(a)
    low_b, high_b = _world_box(b)
    common = np.clip(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0, None)
    return float(np.prod(common / (high_a - low_a)))


def _world_box(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    inside = np.asarray(volume.data) != 0
    if not inside.any():
        volume.fail("is zero everywhere; give an image that shows something")
    ends = []
    for axis in range(3):
        occupied = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        ends.append((occupied[0] - 0.5, occupied[-1] + 0.5))
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    world = volume.grid.to_world(corners)
    return world.min(axis=0), world.max(axis=0)


def _resample_axes(
    data: np.ndarray, lines: list[tuple[float, float]], shape: tuple[int, int, int], kind: Kind
) -> np.ndarray:
    # For parallel axes, the resampling separates into products with three small sparse matrices.
    if kind == "nearest":
        for axis, (line, count) in enumerate(zip(lines, shape, strict=True)):
            # With the offset, centres on a face between two voxels go to the same side whatever the rounding.
            nearest = np.ceil(line[0] * np.arange(count) + line[1] - 0.5 - 1e-6).astype(int)
            inside = (nearest >= 0) & (nearest < data.shape[axis])
            data = data.take(np.where(inside, nearest, 0), axis)
            data = data * inside.reshape([-1 if a == axis else 1 for a in range(3)]).astype(data.dtype)
        return data
    data = data.astype(np.float32, copy=False)
    for (step, first), count in zip(lines, shape, strict=True):
        # Each product moves the leading axis to the end, so that three of them restore the order.
        weights = _weights(data.shape[0], count, step, first, kind)
        rest = data.shape[1:]
        product = weights @ np.ascontiguousarray(data).reshape(data.shape[0], -1)
        data = np.asarray(product).reshape(count, *rest).transpose(1, 2, 0)
    return np.ascontiguousarray(data)


def _weights(old: int, new: int, step: float, first: float, kind: Kind) -> Any:
    # (new, old) matrix of the weights of old voxels in new ones whose centres are at first + step * n.
    centre = (first + step * np.arange(new))[:, None]
    index = np.arange(old)[None, :]
    width = abs(step)
    if kind == "mean" or width > 1 + 1e-6:
        low, high = centre - width / 2, centre + width / 2
        weights = np.clip(np.minimum(high, index + 0.5) - np.maximum(low, index - 0.5), 0, None) / width
    else:
        # The image keeps its last value up to half a voxel beyond the outermost centres.
        inside = (centre > -0.5 - 1e-6) & (centre < old - 0.5 + 1e-6)
        weights = inside * np.clip(1 - np.abs(np.clip(centre, 0, old - 1) - index), 0, None)
    # Weights that are only rounding errors are removed, which makes block means exact.
    return sparse.csr_array(np.where(weights > 1e-7, weights, 0).astype(np.float32))


def _resample_oblique(data: np.ndarray, mapping: np.ndarray, shape: tuple[int, int, int], kind: Kind) -> np.ndarray:
    # SimpleITK interpolates ten times as fast as scipy here.
    import SimpleITK as sitk

    dtype = data.dtype
    fine = np.ones(3, int)
    if kind != "nearest":
        dtype = np.dtype(np.float32)
        fine = np.maximum(1, np.rint(np.linalg.norm(mapping[:3, :3], axis=0))).astype(int)
    # From the indices of sub-voxels to those of voxels, then to those of the image.
    sub = np.diag([*(1 / fine), 1.0])
    sub[:3, 3] = (1 / fine - 1) / 2
    mapping = mapping @ sub
    # Both images live in the index space of the old one, so no convention for world axes enters.
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(mapping[:3, :3].ravel().tolist())
    transform.SetTranslation(mapping[:3, 3].tolist())
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.astype(np.uint8 if dtype.kind == "b" else dtype).T))
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in np.asarray(shape) * fine])
    resampler.SetTransform(transform)
    resampler.SetInterpolator(sitk.sitkNearestNeighbor if kind == "nearest" else sitk.sitkLinear)
    resampled = sitk.GetArrayFromImage(resampler.Execute(image)).T
    if fine.max() > 1:
        blocks = resampled.reshape([n for pair in zip(shape, fine, strict=True) for n in pair])
        resampled = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
    return np.ascontiguousarray(resampled.astype(dtype, copy=False))
