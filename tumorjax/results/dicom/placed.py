"""The images of a result on the voxels of a DICOM series, after checking that both show one head."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tumorjax.grid import Grid
from tumorjax.io import InputError, Volume, fill_holes, resample
from tumorjax.io.dicom import Series, open_series
from tumorjax.io.dicom_pixels import series_pixels
from tumorjax.io.geometry import check_geometry
from tumorjax.results.dicom.kept import KeptResult
from tumorjax.storage import text_digest

# At least this share of the plan lies in the images of the series, and this one in what they show of the head.
_COVERED, _IN_HEAD = 0.999, 0.5
# Intensities above this share of the bright ones are those of a head, and not of the air around.
_BRIGHT, _HEAD = 98.0, 0.1


@dataclass(frozen=True, eq=False)
class PlacedResult:
    """The images of a result on the voxels of a series.

    Parameters
    ----------
    series
        The series.
    plan
        (columns, rows, slices), boolean: voxels of which at least half lies in the target volume.
    density
        (columns, rows, slices), float32, 0 to 1.
    dose
        (columns, rows, slices), float32, Gy; None if there is none.
    kept
        The result.
    """

    series: Series
    plan: np.ndarray
    density: np.ndarray
    dose: np.ndarray | None
    kept: KeptResult

    @property
    def grid(self) -> Grid:
        """The voxels of the series."""
        return Grid(self.series.shape, self.series.affine)


def place(kept: KeptResult, reference: Path) -> PlacedResult:
    """Return the images of a result on the voxels of a DICOM series.

    Raises
    ------
    InputError
        If the series cannot be used or states no frame of reference, or the result does not lie in it: its plan lies
        outside the images, or outside of the head in them, or its images were DICOM of another frame of reference.
    """
    series = open_series(reference, "reference")
    if series.frame is None or not series.headers[0].get("StudyInstanceUID"):
        series.fail("states no frame of reference or no study, so that nothing can refer to it; give another series")
    if kept.frames and text_digest(series.frame) not in kept.frames:
        series.fail(
            "is in another frame of reference than the images of the result, by its header; give a series of the same "
            "one, such as these images"
        )
    check_geometry(series.shape, np.dtype(np.int16), series.affine, series.path, "reference")
    grid = Grid(series.shape, series.affine)
    _check_covered(kept.plan, series, grid)
    plan = resample(kept.plan.data > 0, kept.plan.affine, grid, kind="mean") >= 0.5
    if not plan.any():
        series.fail("has voxels that are larger than the plan; give a series with smaller ones")
    _check_head(series, plan)
    density = np.clip(resample(kept.density.data, kept.density.affine, grid), 0, 1)
    dose = None if kept.dose is None else np.maximum(resample(kept.dose.data, kept.dose.affine, grid), 0)
    return PlacedResult(series, plan, density, dose, kept)


def _check_covered(plan: Volume, series: Series, grid: Grid) -> None:
    index = np.asarray(grid.to_index(plan.grid.to_world(np.argwhere(plan.data > 0).astype(float))))
    covered = float(((index > -0.5 - 1e-3) & (index < np.asarray(grid.shape) - 0.5 + 1e-3)).all(axis=1).mean())
    if covered == 0:
        raise InputError(
            f"reference {series.path}: lies elsewhere than the plan; give a series of the patient in whose frame of "
            "reference the result is, such as the one that its images were converted from"
        )
    if covered < _COVERED:
        series.fail(
            f"covers {covered:.0%} of the plan; give a series of the whole head in the frame of reference of the result"
        )


def _check_head(series: Series, plan: np.ndarray) -> None:
    """Raise an InputError where most of the plan lies in the air: another patient's series, or another frame."""
    data = np.asarray(series_pixels(series))
    dark = float(data.min())
    head = fill_holes(data - np.float32(dark) > _HEAD * (np.percentile(data, _BRIGHT) - dark))
    inside = float(head[plan].mean())
    if inside < _IN_HEAD:
        series.fail(
            f"shows a head in {inside:.0%} of the plan; give a series of the patient in whose frame of reference the "
            "result is, such as the one that its images were converted from"
        )
