"""Linear registration of two brains, and the warp that follows from it."""

import time
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import ndimage

from tumorjax.grid import Grid, tissue_box
from tumorjax.io import Volume, resample

# Shrink factors of the working resolution, smoothing (voxels of it), most iterations, part of the voxels sampled.
# All of the finest voxels would take three times as long and move the result by 0.4 mm.
_LEVELS = ((4, 2.0, 100, 1.0), (2, 1.0, 60, 1.0), (1, 0.0, 30, 0.3))
_SEED = 1
_HISTOGRAM_BINS = 32
# The metric looks this far (mm) beyond the foreground: the outline informs it, an empty background does not.
_RIM = 8.0
# Further than this (mm) from a mask's surface its distance says nothing more.
_DISTANCE = 20.0
# Aligned with the atlas, healthy brains and patients reach a correlation of 0.85 to 0.95 and a Dice of 0.95 to 0.98;
# turned upside down or on their side, they stop at 0.66 and 0.88.
_FLOORS = {"correlation": 0.7, "Dice": 0.9}
# A head is not scaled by more than this, even where a header has the wrong voxel size,
_MAX_SCALE = 3.0
# and no two directions differ by more: heads that fit reach 1.15, the ones on their side 1.4 and more.
_MAX_ANISOTROPY = 1.35


class RegistrationWarning(UserWarning):
    """A registration that cannot be trusted."""


@dataclass(frozen=True, eq=False)
class Transform:
    """An affine map between two worlds.

    Parameters
    ----------
    matrix
        (4, 4), RAS mm. Maps points of the fixed image to points of the moving one.
    measure
        What was compared: "correlation" of intensities or "Dice" of masks.
    before, after
        The measure with the headers' alignment, and with the matrix.
    seconds
        Time taken.
    failure
        Why the map should not be used; empty if nothing speaks against it.
    """

    matrix: np.ndarray
    measure: Literal["correlation", "Dice"]
    before: float
    after: float
    seconds: float
    failure: str = ""


class _Image(NamedTuple):
    # An image at working resolution: what the metric sees, and where it shows anything.
    data: np.ndarray
    foreground: np.ndarray
    grid: Grid

    @property
    def centre(self) -> np.ndarray:
        return np.asarray(self.grid.to_world(np.argwhere(self.foreground).mean(axis=0)))

    @property
    def volume(self) -> float:
        return float(self.foreground.sum() * self.grid.voxel_volume)


def register(
    moving: Volume,
    fixed: Volume,
    *,
    kind: Literal["rigid", "affine"] = "affine",
    mask: np.ndarray | None = None,
    fixed_is_mask: bool = False,
    initial: Transform | None = None,
    resolution: float = 2.0,
) -> Transform:
    """Find the affine or rigid map that aligns one brain with another.

    Intensities are compared by Mattes' mutual information [1]_, masks by the mean squared difference
    of their signed distances. The optimisation starts at three voxel sizes from coarse to fine; at
    the coarsest from the headers' alignment, from common centres of mass, and from common centres
    and volumes (which repairs a wrong voxel size in a header), of which the best one goes on.

    Parameters
    ----------
    moving, fixed
        The images; without the skull, both T1-weighted or both masks.
    kind
        "affine" has twelve degrees of freedom, "rigid" six.
    mask
        (x, y, z) of `fixed`, boolean: where the metric may look. Take a tumour out.
    fixed_is_mask
        Both images are brain masks.
    initial
        Start from this map alone.
    resolution
        Voxel size of the finest level, mm; not finer than the fixed image's own.

    Returns
    -------
    Transform
        Bitwise reproducible: the sampling has a fixed seed, and sums run in one thread.

    Warns
    -----
    RegistrationWarning
        If the result is not plausible; its `failure` says the same.

    References
    ----------
    .. [1] D. Mattes et al., "PET-CT image registration in the chest using free-form deformations",
       IEEE Trans. Med. Imaging 22 (2003). doi:10.1109/TMI.2003.809072
    """
    if kind not in ("rigid", "affine"):
        raise ValueError(f"kind is 'rigid' or 'affine', got {kind!r}")
    if mask is not None and mask.shape != fixed.data.shape:
        raise ValueError(f"the mask has shape {mask.shape}, the fixed image {fixed.data.shape}; resample it")
    began = time.perf_counter()
    resolution = max(resolution, float(np.min(fixed.grid.spacing)))
    still = _working_image(fixed, fixed_is_mask, resolution)
    shifted = _working_image(moving, fixed_is_mask, resolution)
    region = np.asarray(ndimage.distance_transform_edt(~still.foreground, sampling=resolution)) <= _RIM
    if mask is not None:
        region &= resample(mask, fixed.affine, still.grid, kind="mean") > 0.99
    if not region.any():
        raise ValueError("the mask leaves nothing to compare; it is True where the metric may look")
    optimiser = _Optimiser(still, shifted, region, kind, fixed_is_mask)
    starts = [initial.matrix] if initial is not None else optimiser.starts()
    matrices = [optimiser.run(start, 0) for start in starts]
    matrix = max(matrices, key=optimiser.quality)
    for level in range(1, len(_LEVELS)):
        matrix = optimiser.run(matrix, level)
    transform = Transform(
        matrix,
        "Dice" if fixed_is_mask else "correlation",
        optimiser.quality(np.eye(4)),
        optimiser.quality(matrix),
        time.perf_counter() - began,
    )
    transform = replace(transform, failure=_failure(transform))
    if transform.failure:
        warnings.warn(
            f"registration of {moving.name} to {fixed.name}: {transform.failure}; check orientation and contrast, "
            "or give a brain mask",
            RegistrationWarning,
            stacklevel=2,
        )
    return transform


def warp(
    volume: Volume, transform: Transform, grid: Grid, *, kind: Literal["linear", "nearest", "mean"] = "linear"
) -> np.ndarray:
    """Resample a moving image onto a grid in the fixed image's world; see `tumorjax.io.resample`."""
    return resample(volume.data, np.linalg.inv(transform.matrix) @ volume.affine, grid, kind=kind)


def _failure(transform: Transform) -> str:
    axes = transform.matrix[:3, :3]
    stretch = np.linalg.svd(axes)[1]
    if np.linalg.det(axes) <= 0:
        return "the map mirrors the brain"
    extreme = stretch.max() > _MAX_SCALE or stretch.min() < 1 / _MAX_SCALE
    if extreme or stretch.max() > _MAX_ANISOTROPY * stretch.min():
        return f"the map stretches the brain {', '.join(f'{s:.2f}' for s in stretch)}-fold"
    floor = _FLOORS[transform.measure]
    # A NaN must not pass.
    if not transform.after >= floor:
        return f"{transform.measure} is {transform.after:.2f} after registration, below {floor}"
    return ""


def _working_image(volume: Volume, is_mask: bool, resolution: float) -> _Image:
    data = np.asarray(volume.data) != 0 if is_mask else np.maximum(volume.data, 0)
    if not data.any():
        raise ValueError(f"{volume.name} shows nothing above zero, so it cannot be registered")
    grid = volume.grid.with_spacing(resolution)
    coarse = resample(data, volume.affine, grid, kind="mean" if is_mask else "linear")
    # Noise in an empty background is weaker than a twentieth of the brain's bright tissue.
    foreground = coarse >= 0.5 if is_mask else coarse > 0.05 * np.percentile(coarse[coarse > 0], 98)
    if not foreground.any():
        raise ValueError(f"{volume.name} shows less than a voxel of {resolution} mm, so it cannot be registered")
    start, shape = tissue_box(foreground)
    # The rim may lie outside the image, where there is nothing.
    margin = int(np.ceil(2 * _RIM / resolution))
    box = tuple(slice(first, first + count) for first, count in zip(start, shape, strict=True))
    coarse, foreground = np.pad(coarse[box], margin), np.pad(foreground[box], margin)
    grid = grid.crop(tuple(n - margin for n in start), coarse.shape)
    if is_mask:
        inwards = ndimage.distance_transform_edt(foreground)
        outwards = ndimage.distance_transform_edt(~foreground)
        distance = resolution * (np.asarray(inwards) - np.asarray(outwards))
        coarse = np.clip(distance, -_DISTANCE, _DISTANCE).astype(np.float32)
    return _Image(coarse, foreground, grid)


class _Optimiser:
    # SimpleITK's registration from one map to a better one. Its images carry RAS millimetres as their
    # physical space, so that ITK's own convention for world axes (LPS) enters nowhere.
    def __init__(self, fixed: _Image, moving: _Image, region: np.ndarray, kind: str, is_mask: bool) -> None:
        self.fixed, self.moving, self.region, self.kind, self.is_mask = fixed, moving, region, kind, is_mask
        self.images = _to_itk(fixed.data, fixed.grid), _to_itk(moving.data, moving.grid)
        self.mask = _to_itk(region.astype(np.uint8), fixed.grid)

    def starts(self) -> list[np.ndarray]:
        shift = np.eye(4)
        shift[:3, 3] = self.moving.centre - self.fixed.centre
        scale = (self.moving.volume / self.fixed.volume) ** (1 / 3)
        scaled = np.diag([scale, scale, scale, 1.0])
        scaled[:3, 3] = self.moving.centre - scale * self.fixed.centre
        return [np.eye(4), shift, scaled] if self.kind == "affine" else [np.eye(4), shift]

    def run(self, start: np.ndarray, level: int) -> np.ndarray:
        import SimpleITK as sitk

        shrink, smoothing, iterations, sampled = _LEVELS[level]
        centre = self.fixed.centre
        transform: Any = sitk.AffineTransform(3) if self.kind == "affine" else sitk.Euler3DTransform()
        transform.SetCenter(centre.tolist())
        transform.SetMatrix(start[:3, :3].ravel().tolist())
        transform.SetTranslation((start[:3, :3] @ centre + start[:3, 3] - centre).tolist())
        method = sitk.ImageRegistrationMethod()
        # The order of sums over threads is not fixed.
        method.SetNumberOfWorkUnits(1)
        if self.is_mask:
            method.SetMetricAsMeanSquares()
        else:
            method.SetMetricAsMattesMutualInformation(_HISTOGRAM_BINS)
        method.SetMetricFixedMask(self.mask)
        if sampled < 1:
            # Every n-th voxel, shifted within it at random; the seed's default is the clock.
            method.SetMetricSamplingStrategy(method.REGULAR)
            method.SetMetricSamplingPercentage(sampled, _SEED)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=1.0 * shrink,
            minStep=0.01 * shrink,
            numberOfIterations=iterations,
            relaxationFactor=0.6,
            gradientMagnitudeTolerance=1e-6,
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetShrinkFactorsPerLevel([shrink])
        method.SetSmoothingSigmasPerLevel([smoothing])
        method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(False)
        method.SetInitialTransform(transform, inPlace=True)
        try:
            method.Execute(*self.images)
        except RuntimeError:
            # ITK stops where the images do not overlap; another start, or the quality, decides.
            return start
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
        matrix[:3, 3] = np.asarray(transform.GetTranslation()) + centre - matrix[:3, :3] @ centre
        return matrix

    def quality(self, matrix: np.ndarray) -> float:
        affine = np.linalg.inv(matrix) @ np.asarray(self.moving.grid.affine)
        if self.is_mask:
            other = resample(self.moving.foreground, affine, self.fixed.grid, kind="mean") >= 0.5
            return float(2 * (self.fixed.foreground & other).sum() / (self.fixed.foreground.sum() + other.sum()))
        other = resample(self.moving.data, affine, self.fixed.grid, kind="linear")[self.region]
        own = self.fixed.data[self.region]
        if own.std() == 0 or other.std() == 0:
            return 0.0
        return float(np.corrcoef(own, other)[0, 1])


def _to_itk(data: np.ndarray, grid: Grid) -> Any:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    affine, spacing = np.asarray(grid.affine), np.asarray(grid.spacing)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image
