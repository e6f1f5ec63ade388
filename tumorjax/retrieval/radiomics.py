"""The query by six features of shape, the fastest and the least accurate variant."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from tumorjax.grid import tissue_box
from tumorjax.retrieval.direct import first
from tumorjax.retrieval.folders import Rows, seal, unseal, usable
from tumorjax.retrieval.masks import cutoffs

FEATURES = ("volume", "surface_area", "sphericity", "major_axis", "elongation", "flatness")
# Shapes are compared among this number of tumours with the nearest centres of mass.
NEAREST = 1000
_KIND = "shape features, version 1"


def shape_features(mask: Bool[np.ndarray, "x y z"], spacing: Float[np.ndarray, "3"]) -> Float[np.ndarray, "9"]:
    """Return the centre of mass of an outline and its six features of shape; zeros if it is empty.

    They are defined as in pyradiomics, where the axes are four standard deviations long: elongation is the second axis
    over the first, flatness the third over the first. The surface area is ITK's estimate from counts of crossings with
    lines, while pyradiomics measures a mesh.

    Returns
    -------
    ndarray
        Centre, mm from the centre of the first voxel; volume, mm^3; surface area, mm^2; sphericity; length of the major
        axis, mm; elongation; flatness.
    """
    import SimpleITK as sitk

    if not mask.any():
        return np.zeros(9)
    start, shape = tissue_box(mask)
    box = tuple(slice(begin, begin + size) for begin, size in zip(start, shape, strict=True))
    image = sitk.GetImageFromArray(np.ascontiguousarray(mask[box].T, np.uint8))
    image.SetSpacing([float(h) for h in spacing])
    measured = sitk.LabelShapeStatisticsImageFilter()
    # The boxes are so small that threads would cost more than they save.
    measured.SetNumberOfThreads(1)
    measured.Execute(image)
    # If the voxels lie in a plane or a row, the smaller moments are zero up to rounding. A single voxel is round.
    least, minor, major = 4 * np.sqrt(np.maximum(measured.GetPrincipalMoments(1), 0))
    elongation, flatness = (minor / major, least / major) if major > 0 else (1.0, 1.0)
    centre = np.asarray(measured.GetCentroid(1)) + np.asarray(start) * spacing
    size, surface, sphericity = measured.GetPhysicalSize(1), measured.GetPerimeter(1), measured.GetRoundness(1)
    return np.array([*centre, size, surface, sphericity, major, elongation, flatness])


@dataclass(frozen=True)
class Radiomics:
    """The variant that compares features of shape among the tumours whose lesions are nearest.

    Parameters
    ----------
    standardised
        Whether each feature is divided by its standard deviation over the tumours, so that none dominates; in the paper
        each has its own unit.
    """

    standardised: bool = False

    def writer(
        self, folder: Path, brain: Bool[np.ndarray, "x y z"], spacing: np.ndarray, thresholds: tuple[float, float]
    ) -> "_Writer":
        """Return a writer of features into a folder."""
        return _Writer(folder, brain, spacing, thresholds)

    def open(self, folder: Path, verify: bool = True) -> "ShapeFeatures":
        """Open the features in a folder."""
        facts, arrays = unseal(folder, _KIND, verify)
        with usable(folder):
            features, spacing = arrays["features"], np.array(facts["spacing"], float)
            if features.shape[1:] != (2, 9) or features.dtype != np.float64 or spacing.shape != (3,):
                raise ValueError("it holds no features of shape")
            deviation = features[..., 3:].std(axis=0) if self.standardised else np.ones((2, len(FEATURES)))
            # A feature that all tumours share distinguishes none of them.
            return ShapeFeatures(features, spacing, np.where(deviation > 0, deviation, 1.0))


class _Writer:
    def __init__(
        self, folder: Path, brain: Bool[np.ndarray, "x y z"], spacing: np.ndarray, thresholds: tuple[float, float]
    ) -> None:
        self.folder, self.brain, self.spacing, self.thresholds = folder, brain, spacing, thresholds
        self._features = Rows(folder / "features.npy", (2, 9), np.float64)

    def append(self, densities: Shaped[np.ndarray, "b x y z"]) -> None:
        cuts = cutoffs(self.thresholds, densities.dtype)
        for density in densities:
            self._features.append(
                np.array([[shape_features((density > cut) & self.brain, self.spacing) for cut in cuts]])
            )

    def close(self) -> None:
        self._features.close()
        seal(self.folder, _KIND, spacing=self.spacing.tolist())


@dataclass(frozen=True, eq=False)
class ShapeFeatures:
    """Features of the cores and lesions of n tumours.

    Parameters
    ----------
    features
        (n, 2, 9), the `shape_features` of each outline.
    spacing
        Spacing of the grid, mm.
    units
        (2, 6), by which the features of cores and lesions are divided before they are compared.
    """

    features: Float[np.ndarray, "n 2 9"]
    spacing: Float[np.ndarray, "3"]
    units: Float[np.ndarray, "2 6"]

    def __len__(self) -> int:
        """Return the number of tumours."""
        return len(self.features)

    def search(
        self, core: Bool[np.ndarray, "x y z"], lesion: Bool[np.ndarray, "x y z"], k: int
    ) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k"]]:
        """Return the k tumours with the most similar features, nearest first, and minus their distances.

        Only the 1000 tumours whose lesions' centres are nearest to the patient's are compared. The distance is the sum
        over both outlines and the six features of the absolute difference, each in one of `units`. In the paper these
        are one, and volumes dominate the distance, because their numbers are the largest.
        """
        patient = np.array([shape_features(mask, self.spacing) for mask in (core, lesion)])
        away = np.linalg.norm(self.features[:, 1, :3] - patient[1, :3], axis=1)
        near = first(max(NEAREST, k), away, np.arange(len(self)))
        distance = (np.abs(self.features[near, :, 3:] - patient[:, 3:]) / self.units).sum(axis=(1, 2))
        best = first(k, distance, near)
        return near[best], -distance[best]
