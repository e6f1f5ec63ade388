"""Maps of a calibrated tumour, brought from the computing grid to the patient's own voxels."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import distance_transform_edt

from tumorjax.calibration import Calibration, Maps, Problem
from tumorjax.calibration.maps import VISIBLY
from tumorjax.grid import Grid
from tumorjax.io import to_voxels
from tumorjax.observation import AbstractObservation
from tumorjax.patient import Patient
from tumorjax.planning import coverage, credible_volume, millilitres
from tumorjax.sections import Comparison

# Densities above which the probability is mapped: infiltration, visible oedema, half of the capacity. Credible volumes
# are those of infiltration.
THRESHOLDS = (0.01, 0.1, 0.5)
LEVELS = (0.5, 0.9)


@dataclass(frozen=True, eq=False)
class Volumes:
    """Images in the patient's geometry; see `Personalization` for each.

    Parameters
    ----------
    density, density_std
        (x, y, z).
    probabilities, credible
        (x, y, z), by threshold and by credibility; empty for a method without draws.
    predicted
        (x, y, z), by the name of the observation.
    compared
        By the name of the observation, what was measured beside what is predicted.
    displacement, displacement_std, jacobian
        (x, y, z, 3), mm; (x, y, z), mm; (x, y, z). None where tissue stays.
    """

    density: np.ndarray
    density_std: np.ndarray
    probabilities: dict[float, np.ndarray]
    credible: dict[float, np.ndarray]
    predicted: dict[str, np.ndarray]
    compared: dict[str, Comparison]
    displacement: np.ndarray | None
    displacement_std: np.ndarray | None
    jacobian: np.ndarray | None

    def figures(self, patient: Patient, recurrence: np.ndarray | None) -> dict[str, float | int | None]:
        """Return sizes of the credible volumes, and the share of a recurrence in them where there is one."""
        figures: dict[str, float | int | None] = {}
        for level, volume in self.credible.items():
            name = f"credible_{100 * level:.0f}"
            figures[f"{name}_ml"] = millilitres(volume, np.asarray(patient.reference.grid.spacing))
            if recurrence is not None:
                figures[f"coverage_{name}"] = coverage(volume, recurrence)
        return figures


def volumes_of(patient: Patient, problem: Problem, calibration: Calibration, maps: Maps) -> Volumes:
    """Return maps at the patient's voxels; values that are not finite count as zero.

    What is said of cells is zero where the patient has no tissue, as far as that is known on these voxels; see
    `in_tissue`.
    """
    grid = problem.anatomy.grid
    fine = on_voxels(patient, problem)
    of_cells = cells_on_voxels(patient, problem)
    density = np.clip(of_cells(maps.density), 0, 1)
    probabilities = {threshold: np.clip(of_cells(each), 0, 1) for threshold, each in maps.probabilities.items()}
    infiltrated = probabilities[min(probabilities)] if probabilities else None
    displaced: tuple[np.ndarray, ...] | tuple[None, None, None] = (None, None, None)
    if maps.displacement is not None and maps.displacement_deviation is not None:
        displaced = (
            np.stack([fine(part) for part in np.moveaxis(maps.displacement, -1, 0)], axis=-1),
            np.maximum(fine(maps.displacement_deviation), 0),
            1 + fine(jacobian_determinant(maps.displacement, grid) - 1),
        )
    predicted = _predicted(problem, calibration, density) | {name: fine(each) for name, each in maps.predicted.items()}
    return Volumes(
        density,
        np.maximum(of_cells(maps.deviation), 0),
        probabilities,
        {} if infiltrated is None else {level: credible_volume(infiltrated, patient.brain, level) for level in LEVELS},
        predicted,
        {
            name: _compared(problem.observations[name], image, patient, fine)
            for name, image in predicted.items()
            if problem.observations[name].is_image
        },
        *displaced,
    )


def on_voxels(
    patient: Patient, problem: Problem, box: tuple[slice, ...] = (slice(None),) * 3
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that interpolates an image on the computing grid to the patient's voxels in a box."""
    grid, like = problem.anatomy.grid, patient.reference
    if any(each != slice(None) for each in box):
        data = like.data[box]
        start = tuple(each.indices(n)[0] for each, n in zip(box, like.data.shape, strict=True))
        like = replace(like, data=data, affine=np.asarray(like.grid.crop(start, data.shape).affine))
    return lambda values: to_voxels(np.nan_to_num(values, posinf=0.0, neginf=0.0), grid, like)


def cells_on_voxels(
    patient: Patient, problem: Problem, box: tuple[slice, ...] = (slice(None),) * 3
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that brings what is said of cells on the computing grid to the patient's voxels in a box."""
    fine, displaces = on_voxels(patient, problem, box), problem.model.displaces
    # Where tissue moves, it is the patient's only if an image shows it.
    if displaces and not patient.shows_fluid:
        return fine
    return in_tissue(fine, np.asarray((patient if displaces else problem).anatomy.tissue), patient.tissue[box])


def in_tissue(
    fine: Callable[[np.ndarray], np.ndarray], domain: np.ndarray, tissue: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that interpolates what is said of cells within the tissue.

    A computing grid is too coarse for the fluid between gyri and for the walls of ventricles: a mere interpolation of
    cells would reach into fluid, and fade towards walls across which nothing flows.

    Parameters
    ----------
    fine
        Interpolates an image on the computing grid to the patient's voxels.
    domain
        (u, v, w), bool: where there are values on the computing grid; beyond it, the nearest one continues them.
    tissue
        (x, y, z), bool: the patient's voxels in which cells can be.
    """
    nearest = tuple(np.asarray(distance_transform_edt(~domain, return_distances=False, return_indices=True)))
    return lambda values: np.where(tissue, fine(values[nearest]), 0)


def _predicted(problem: Problem, calibration: Calibration, density: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the observations of the density are predicted to be, by name."""
    found, unknown = {}, calibration.centre.observations
    for name, observation in problem.observations.items():
        if observation.shows == "density":
            image = observation.predicted(jnp.asarray(density), jax.tree.map(jnp.asarray, unknown[name]))
            if image is not None:
                found[name] = np.asarray(image)
    return found


def _compared(
    observation: AbstractObservation, predicted: np.ndarray, patient: Patient, fine: Callable[[np.ndarray], np.ndarray]
) -> Comparison:
    """Return an image as it was measured, brought to the patient's voxels, beside what is predicted of it there."""
    valid = np.asarray(observation.valid, bool)
    inside = (fine(valid.astype(np.float32)) >= 0.5) & patient.brain
    title, unit = observation.scale
    measured = in_tissue(fine, valid, inside)(np.asarray(observation.reading(np.asarray(observation.image)), float))
    modelled = np.where(inside, observation.reading(np.asarray(predicted, float)), 0)
    return Comparison(measured, modelled, inside, f"{title}, {unit}" if unit else title, title)


def jacobian_determinant(displacement: np.ndarray, grid: Grid) -> np.ndarray:
    """Return det(I + grad u) on a grid, (x, y, z), for a displacement (x, y, z, 3) in mm along the world's axes."""
    along_indices = np.stack([np.gradient(displacement, axis=axis) for axis in range(3)], axis=-1)
    slopes = along_indices @ np.linalg.inv(np.asarray(grid.affine, float)[:3, :3])
    return np.linalg.det(np.eye(3) + slopes)


def figures_of_displacement(
    displacement: np.ndarray | None, grid: Grid, deviation: np.ndarray | None = None
) -> dict[str, float | int | None]:
    """Return the largest displacement, and the volume that is visibly displaced; nothing where tissue stays.

    With a deviation that of both is added: of the former where it is, of the latter half of the difference between the
    volumes of one deviation more and one less.

    Parameters
    ----------
    displacement
        (x, y, z, 3), mm; None where tissue stays.
    grid
        Its grid.
    deviation
        (x, y, z), mm: root mean square distance of the displacement from its mean.
    """
    if displacement is None:
        return {}
    length = np.linalg.norm(displacement, axis=-1)

    def visible(far: np.ndarray) -> float:
        return float((far > VISIBLY).sum()) * float(grid.voxel_volume) / 1000

    found: dict[str, float | int | None] = {
        "max_displacement_mm": float(length.max()),
        "volume_above_2mm_ml": visible(length),
    }
    if deviation is not None:
        found["max_displacement_std_mm"] = float(deviation.ravel()[length.argmax()])
        found["volume_above_2mm_std_ml"] = (visible(length + deviation) - visible(length - deviation)) / 2
    return found
