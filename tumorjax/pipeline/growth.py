"""The growth of the calibrated tumour from its seed on, in slices of the patient's voxels."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.ndimage import map_coordinates

from tumorjax.calibration import Calibration, Problem
from tumorjax.calibration.retraced import retrace
from tumorjax.grid import Grid
from tumorjax.growth import Treatment
from tumorjax.patient import Patient
from tumorjax.pipeline.volumes import cells_on_voxels, on_voxels
from tumorjax.registration.inverse import fading, with_inverse
from tumorjax.results.slices import Growth, Slices

# Times of an animation, besides the days of visits.
_TIMES = 32
# Days closer than this share of the whole are one.
_APART = 0.1 / _TIMES


def growth_of(
    patient: Patient,
    problem: Problem,
    calibration: Calibration,
    *,
    until: float | None = None,
    treatments: Mapping[str, Treatment] | None = None,
) -> Growth:
    """Return how the tumour grew from its seed on, in three slices through the core.

    Parameters
    ----------
    patient, problem, calibration
        What was calibrated, and the outcome.
    until
        The last day, on the clock of the visits; by default that of the last visit. For several visits alone.
    treatments
        Those to come.

    Raises
    ------
    ValueError
        If the growth cannot be retraced; see `tumorjax.calibration.retrace`.
    """
    shares, days = np.arange(1, _TIMES + 1) / _TIMES, None
    if patient.earlier:
        seed = patient.visits[0].day - float(calibration.centre.growth.duration)
        end = patient.day if until is None else until
        seen = [(each.day - seed) / (end - seed) for each in patient.visits]
        apart = np.abs(shares[:, None] - seen).min(axis=1) > _APART
        shares = np.array(sorted({*shares[apart].tolist(), *seen, 1.0}))
        days = seed + shares * (end - seed)
    found = retrace(problem, calibration, shares.tolist(), until=until, treatments=treatments)
    voxel = float(problem.anatomy.grid.voxel_volume)
    unknown = calibration.centre.observations
    volumes = {
        name: voxel * (found.density > float(unknown[name].threshold)).sum(axis=(1, 2, 3)) for name in patient.outlines
    }
    times, boxes, moved = shares if days is None else days, _boxes(patient), found.displacement
    if moved is None:
        planes = [_slices(patient, problem, times, found.density, box) for box in boxes]
        return Growth(shares, days, tuple(planes), volumes)
    now = len(shares) - 1 if days is None else int(np.abs(days - patient.day).argmin())
    back = _led_back(patient, problem.anatomy.grid, moved, now)
    tissue = patient.tissue if patient.shows_fluid else None
    planes = [_moved(patient, problem, times, found.density, back, tissue, box) for box in boxes]
    return Growth(shares, days, tuple(planes), volumes, np.linalg.norm(moved, axis=-1).max(axis=(1, 2, 3)))


def _boxes(patient: Patient) -> list[tuple[slice, ...]]:
    """Return the three slices through the voxel of the core that is nearest to its centre."""
    inside = np.argwhere(patient.core)
    away = np.linalg.norm((inside - inside.mean(axis=0)) * np.asarray(patient.reference.grid.spacing), axis=1)
    middle = inside[away.argmin()]
    whole = slice(None)
    return [tuple(slice(n, n + 1) if a == axis else whole for a in range(3)) for axis, n in enumerate(middle.tolist())]


def _slices(patient: Patient, problem: Problem, days: np.ndarray, series: np.ndarray, box: tuple[slice, ...]) -> Slices:
    """Return the density in a slice, in tissue that stays where it is between two visits."""
    fine = {each.day: cells_on_voxels(each, problem, box) for each in patient.visits}
    first = min(fine)

    def of_day(day: float) -> Callable[[np.ndarray], np.ndarray]:
        return fine[max((each for each in fine if each <= day), default=first)]

    # Without a clock there is one date, and the times are shares.
    of_time = [of_day(day) if patient.earlier else fine[first] for day in days.tolist()]
    cut = [np.clip(of(density), 0, 1) for of, density in zip(of_time, series, strict=True)]
    return Slices(days, np.stack(cut), box)


def _led_back(patient: Patient, grid: Grid, moved: np.ndarray, now: int) -> list[np.ndarray]:
    """Return how far it is at each time from a place to where its tissue is in the background, (x, y, z, 3) mm.

    The patient's own images show the tissue where it is `now`, at one of the times; an atlas that before the tumour.
    """
    if not ("T1" in patient.images or patient.shows_fluid):
        return [-each for each in moved]
    # The tissue now at x came from x - u(x): the inverse says where the tissue from there is in the images.
    field = with_inverse(fading(-np.asarray(moved[now], float)), np.asarray(grid.affine, float))
    points = field.points()
    return [field.at(points - each, backward=True) - each for each in moved]


def _moved(
    patient: Patient,
    problem: Problem,
    days: np.ndarray,
    series: np.ndarray,
    back: Sequence[np.ndarray],
    tissue: np.ndarray | None,
    box: tuple[slice, ...],
) -> Slices:
    """Return the density in a slice, and the background with its tissue where it was at each time.

    Parameters
    ----------
    patient, problem, days, series, box
        What is shown, when and where.
    back
        From `_led_back`.
    tissue
        (x, y, z), bool: where cells can be in the background; None where that shows another brain.
    """
    fine, like = on_voxels(patient, problem, box), patient.reference
    lines = [np.arange(n)[part] for n, part in zip(like.data.shape, box, strict=True)]
    index = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)
    to_index = np.linalg.inv(np.asarray(like.affine, float)[:3, :3])
    backgrounds, densities = [], []
    for density, far in zip(series, back, strict=True):
        step = np.stack([fine(part) for part in np.moveaxis(far, -1, 0)], axis=-1)
        place = np.moveaxis(index + step @ to_index.T, -1, 0)
        backgrounds.append(map_coordinates(np.asarray(patient.background, np.float32), place, order=1))
        cells = np.clip(fine(density), 0, 1)
        densities.append(cells if tissue is None else np.where(map_coordinates(tissue, place, order=0), cells, 0))
    return Slices(days, np.stack(densities), box, np.stack(backgrounds))
