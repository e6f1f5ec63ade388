"""Preparation of images for registration: working resolution, foreground and region of comparison."""

from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from tumorjax.grid import Grid, tissue_box
from tumorjax.io import Volume, above_background, resample

# Width (mm) of the rim around the foreground that the metric uses: it contains the outline, which is informative,
# while the rest of the background is not.
RIM = 8.0
# Signed distances from a mask's surface are cut off at this value (mm).
_DISTANCE = 20.0
# Smallest share of the brain that is enough for an alignment.
_LEAST_SEEN = 0.05


class Image(NamedTuple):
    """An image at working resolution: the values that the metric uses, and the mask of the foreground."""

    data: np.ndarray
    foreground: np.ndarray
    grid: Grid

    @property
    def centre(self) -> np.ndarray:
        """World coordinates of the foreground's centre."""
        return np.asarray(self.grid.to_world(np.argwhere(self.foreground).mean(axis=0)))

    @property
    def volume(self) -> float:
        """Volume of the foreground, mm^3."""
        return float(self.foreground.sum() * self.grid.voxel_volume)

    @property
    def affine(self) -> np.ndarray:
        """The grid's affine."""
        return np.asarray(self.grid.affine, float)


def working_image(volume: Volume, is_mask: bool, resolution: float) -> Image:
    """Return the bounding box of an image's foreground, with a rim, at working resolution.

    Raises
    ------
    ValueError
        If the image is empty, constant or not finite.
    """
    if not np.isfinite(volume.data).all():
        raise ValueError(f"{volume.name} has NaN or infinite voxels, so it cannot be registered; repair it")
    # Noise and ringing around the brain may lie below its background.
    data = np.asarray(volume.data) != 0 if is_mask else np.maximum(above_background(volume).data, 0)
    if not data.any():
        raise ValueError(f"{volume.name} shows nothing above zero, so it cannot be registered")
    if not is_mask and np.ptp(data[data > 0]) == 0:
        raise ValueError(
            f"{volume.name} is {data.max():g} wherever it is not zero; give an image, or fixed_is_mask=True"
        )
    grid = volume.grid.with_spacing(resolution)
    coarse = resample(data, volume.affine, grid, kind="mean" if is_mask else "linear")
    # Noise in an empty background is weaker than a twentieth of the brain's bright tissue.
    foreground = coarse >= 0.5 if is_mask else coarse > 0.05 * np.percentile(coarse[coarse > 0], 98)
    if not foreground.any():
        raise ValueError(f"{volume.name} shows less than a voxel of {resolution} mm, so it cannot be registered")
    start, shape = tissue_box(foreground)
    # The rim may extend beyond the image, where it is filled with zeros.
    margin = int(np.ceil(2 * RIM / resolution))
    box = tuple(slice(first, first + count) for first, count in zip(start, shape, strict=True))
    coarse, foreground = np.pad(coarse[box], margin), np.pad(foreground[box], margin)
    grid = grid.crop(tuple(n - margin for n in start), coarse.shape)
    if is_mask:
        inwards = ndimage.distance_transform_edt(foreground)
        outwards = ndimage.distance_transform_edt(~foreground)
        distance = resolution * (np.asarray(inwards) - np.asarray(outwards))
        coarse = np.clip(distance, -_DISTANCE, _DISTANCE).astype(np.float32)
    return Image(coarse, foreground, grid)


def seen_region(image: Image, mask: np.ndarray | None, fixed: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Return two masks: the voxels that the metric uses, and the voxels that `mask` permits (all if it is None).

    Raises
    ------
    ValueError
        If the mask has another shape, or excludes almost all of the brain.
    """
    near = np.asarray(ndimage.distance_transform_edt(~image.foreground, sampling=np.asarray(image.grid.spacing))) <= RIM
    if mask is None:
        return near, np.ones_like(near)
    if mask.shape != fixed.data.shape:
        raise ValueError(f"the mask has shape {mask.shape}, the fixed image {fixed.data.shape}; resample it")
    # The rim of the working image may extend beyond the fixed image; there the mask excludes nothing.
    open_ = resample(mask == 0, fixed.affine, image.grid, kind="mean") < 0.01
    seen = float(open_[image.foreground].mean())
    if seen < _LEAST_SEEN:
        raise ValueError(
            f"the mask leaves nothing to compare ({seen:.0%} of the brain); it must be True where images are compared"
        )
    return near & open_, open_


def to_itk(data: np.ndarray, affine: np.ndarray, *, vector: bool = False) -> Any:
    """Return a SimpleITK image whose physical space is RAS mm, so that no conversion from ITK's LPS is needed."""
    import SimpleITK as sitk

    order = (2, 1, 0, 3) if vector else (2, 1, 0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(order)), isVector=vector)
    affine = np.asarray(affine, float)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image
