"""Affine and rigid registration by mutual information, from coarse to fine."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tumorjax.grid import Grid
from tumorjax.io import resample
from tumorjax.registration.images import Image, to_itk

# For each level: shrink factor of the working resolution, smoothing (voxels of that resolution), most iterations, and
# share of the voxels sampled. Using all of the finest voxels takes three times as long and changes the result by
# 0.4 mm.
_LEVELS = ((4, 2.0, 100, 1.0), (2, 1.0, 60, 1.0), (1, 0.0, 30, 0.3))
_SEED = 1
_HISTOGRAM_BINS = 32
_MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


class Optimiser:
    """Optimisation of affine or rigid maps between two images by SimpleITK."""

    def __init__(self, fixed: Image, moving: Image, region: np.ndarray, kind: str, is_mask: bool) -> None:
        self.fixed, self.moving, self.region, self.kind, self.is_mask = fixed, moving, region, kind, is_mask
        self.images = to_itk(fixed.data, fixed.affine), to_itk(moving.data, moving.affine)
        self.mask = to_itk(region.astype(np.uint8), fixed.affine)

    def search(self, starts: list[np.ndarray]) -> np.ndarray:
        """Return the best map found from several starts; after the first level, only the best of them continues."""
        with ThreadPoolExecutor() as pool:
            matrix = max(pool.map(lambda start: self._run(start, 0), starts), key=self.quality)
        for level in range(1, len(_LEVELS)):
            matrix = self._run(matrix, level)
        return matrix

    def starts(self) -> list[np.ndarray]:
        """Return the maps to start from: the headers' alignment, common centres, and common centres and volumes."""
        shift = np.eye(4)
        shift[:3, 3] = self.moving.centre - self.fixed.centre
        scale = (self.moving.volume / self.fixed.volume) ** (1 / 3)
        scaled = np.diag([scale, scale, scale, 1.0])
        scaled[:3, 3] = self.moving.centre - scale * self.fixed.centre
        return [np.eye(4), shift, scaled] if self.kind == "affine" else [np.eye(4), shift]

    def mirrored_quality(self, matrix: np.ndarray) -> float:
        """Return the quality that a search from this map reaches with left and right of the moving image exchanged."""
        grid = Grid(self.moving.grid.shape, _MIRROR @ self.moving.affine)
        other = Optimiser(self.fixed, self.moving._replace(grid=grid), self.region, self.kind, self.is_mask)
        about_centre = _MIRROR.copy()
        about_centre[0, 3] = 2 * self.fixed.centre[0]
        return other.quality(other.search([_MIRROR @ matrix @ about_centre]))

    def quality(self, matrix: np.ndarray) -> float:
        """Return the correlation of the images, or the Dice of the masks."""
        affine = np.linalg.inv(matrix) @ self.moving.affine
        if self.is_mask:
            other = resample(self.moving.foreground, affine, self.fixed.grid, kind="mean") >= 0.5
            return float(2 * (self.fixed.foreground & other).sum() / (self.fixed.foreground.sum() + other.sum()))
        other = resample(self.moving.data, affine, self.fixed.grid, kind="linear")
        return correlation(self.fixed.data[self.region], other[self.region])

    def _run(self, start: np.ndarray, level: int) -> np.ndarray:
        import SimpleITK as sitk

        shrink, smoothing, iterations, sampled = _LEVELS[level]
        centre = self.fixed.centre
        transform: Any = sitk.AffineTransform(3) if self.kind == "affine" else sitk.Euler3DTransform()
        transform.SetCenter(centre.tolist())
        transform.SetMatrix(start[:3, :3].ravel().tolist())
        transform.SetTranslation((start[:3, :3] @ centre + start[:3, 3] - centre).tolist())
        method = sitk.ImageRegistrationMethod()
        # One thread, because the order of sums over threads is not reproducible.
        method.SetNumberOfWorkUnits(1)
        if self.is_mask:
            method.SetMetricAsMeanSquares()
        else:
            method.SetMetricAsMattesMutualInformation(_HISTOGRAM_BINS)
        method.SetMetricFixedMask(self.mask)
        if sampled < 1:
            # Every n-th voxel is sampled at a random point inside; by default, the seed is taken from the clock.
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
            # ITK raises an error if the images do not overlap. Another start may succeed; if not, the quality is low.
            return start
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
        matrix[:3, 3] = np.asarray(transform.GetTranslation()) + centre - matrix[:3, :3] @ centre
        return matrix


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Pearson correlation of two arrays; zero if one is constant."""
    if a.size == 0 or a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
