"""From a patient's images to growth with mass effect, calibrated in several atlases."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import equinox as eqx
import jax
import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.calibration import AtlasMixture, MultiAtlas, Problem, calibrate
from tumorjax.calibration.sparse import held
from tumorjax.grid import Grid
from tumorjax.growth import MassEffect, MassEffectParams
from tumorjax.integrate import Result, Solution, simulate
from tumorjax.io import Volume, resample, to_voxels
from tumorjax.observation import FluidMap, Pet
from tumorjax.pipeline.assessment import assessed, check_margin
from tumorjax.pipeline.atlases import AlignedAtlas
from tumorjax.pipeline.patient import Patient
from tumorjax.pipeline.personalize import Personalization, Progress, Stopwatch
from tumorjax.pipeline.problems import notes_on_foci, notes_on_pet, problem_with_mass_effect
from tumorjax.pipeline.recurrence import at_follow_up
from tumorjax.quality import Note, Status
from tumorjax.registration import Transform

# Further (mm) than this tissue is visibly displaced.
VISIBLY = 2.0
# On voxels from here on (mm) nothing is left to gain from coarser ones.
_COARSE = 3.5


@dataclass(frozen=True)
class AtlasEstimate:
    """What the calibration in one atlas says.

    Parameters
    ----------
    atlas
        Its name.
    weight
        Posterior probability among the atlases.
    objective
        Minus the log-posterior, nat.
    mass_effect
        gamma, Pa.
    mu1, mu2
        √(D_w T), mm; √(rho T).
    diffusivity, proliferation
        D_w, mm²/day; rho, 1/day; at the assumed speed.
    max_displacement
        Largest |u|, mm.
    displaced
        Volume in which |u| exceeds 2 mm, ml.
    ventricles
        Volume of the atlas' lateral ventricles, aligned with the patient, ml.
    gaussians
        Of how many Gaussians the tumour is made at the beginning.
    grows
        Whether a tumour grows there; if not, the atlas counts in no mean.
    """

    atlas: str
    weight: float
    objective: float
    mass_effect: float
    mu1: float
    mu2: float
    diffusivity: float
    proliferation: float
    max_displacement: float
    displaced: float
    ventricles: float
    gaussians: int
    grows: bool = True


@dataclass(frozen=True, eq=False, kw_only=True)
class MultiAtlasPersonalization(Personalization):
    """A patient's tumour as growth with mass effect sees it.

    Means and standard deviations over the atlases count every atlas the same in which the tumour can grow;
    `density_std` holds what is uncertain within each, too. Posterior weights rest on a model that is not exact, and
    soon leave all to one atlas, which need not be nearest to the truth: in synthetic patients the plain mean of density
    and displacement was nearer.

    Parameters
    ----------
    displacement
        (x, y, z, 3), mm in RAS world, mean over the atlases: by how much the tissue at a voxel has moved.
    displacement_std
        (x, y, z), mm: its standard deviation over the atlases, the root mean square distance to the mean: displacements
        that are as long but point elsewhere do not agree.
    jacobian
        (x, y, z): det(I + grad u), by how much the tissue is enlarged; one where nothing moved.
    atlases
        One for each, in the order of the calibration.
    transforms
        Maps of the patient's world to that of each atlas; None where they are the same.
    """

    displacement: np.ndarray
    displacement_std: np.ndarray
    jacobian: np.ndarray
    atlases: list[AtlasEstimate]
    transforms: list[Transform | None]

    @property
    def displacement_norm(self) -> np.ndarray:
        """(x, y, z), mm: length of the mean displacement."""
        return np.linalg.norm(self.displacement, axis=-1)


def personalize_with_atlases(
    patient: Patient,
    atlases: Sequence[AlignedAtlas],
    *,
    model: MassEffect | None = None,
    sparsity: int = 5,
    refine: bool = True,
    budget: int = 20,
    recurrence: Volume | None = None,
    recurrence_labels: Sequence[int] | None = None,
    margin: float = 15.0,
    plan_despite_failure: bool = False,
    stopwatch: Stopwatch | None = None,
    progress: Progress = lambda stage, share: None,
) -> MultiAtlasPersonalization:
    """Calibrate growth with mass effect in each atlas, and derive what the scans do not show.

    Parameters
    ----------
    patient
        From `load_patient`.
    atlases
        From `tumorjax.pipeline.atlases.align_atlases`.
    model
        As of `problem_with_mass_effect`.
    sparsity, refine, budget
        As of `MultiAtlas`, whose own budget is larger.
    recurrence, recurrence_labels, margin, plan_despite_failure, stopwatch, progress
        As of `personalize`.

    Raises
    ------
    InputError
        If the images cannot be calibrated to, in one of the atlases.
    """
    watch = stopwatch or Stopwatch()
    notes: list[str] = []
    check_margin(margin)
    again = None if recurrence is None else at_follow_up(recurrence, patient, recurrence_labels, notes)
    with watch("calibration"):
        problem = problem_with_mass_effect(patient, model=model)
        method = MultiAtlas(
            tuple(atlas.anatomy for atlas in atlases),
            carry=tuple(atlas.carry for atlas in atlases),
            sparsity=sparsity,
            refine=refine,
            budget=budget,
            coarsening=1 if float(np.min(problem.anatomy.grid.spacing)) > _COARSE else 2,
        )
        found = calibrate(problem, method, progress=lambda stage, share, _: progress(stage, share))
        calibration = cast(AtlasMixture, found)
    with watch("maps"):
        progress("density and displacement", None)
        weights = np.exp(np.asarray(calibration.log_weights, float))
        weights /= weights.sum()
        densities, displacements, rows, lost = _grow_in(problem, calibration, atlases, weights)
        counted = np.array([row.grows for row in rows])
        within = _refined(calibration.stats.deviations**2, problem.anatomy, method.coarsening)
        densities, displacements, within = (each[counted] for each in (densities, displacements, within))
        density, displacement = densities.mean(axis=0), displacements.mean(axis=0)
        deviation = np.sqrt(np.var(densities, axis=0) + np.mean(within, axis=0))
        spread = deviation_of(displacements)
        grid, like = problem.anatomy.grid, patient.reference
        fine = np.stack([to_voxels(part, grid, like) for part in np.moveaxis(displacement, -1, 0)], axis=-1)
        jacobian = 1 + to_voxels(jacobian_determinant(displacement, grid) - 1, grid, like)
        spread = np.maximum(to_voxels(spread, grid, like), 0)
    stats = calibration.stats
    table = averages(rows)
    cost: dict[str, float | int | None] = {
        "atlases": len(rows),
        "max_displacement_mm": table["max_displacement"]["mean"],
        "max_displacement_std_mm": table["max_displacement"]["standard_deviation"],
        "volume_above_2mm_ml": table["displaced"]["mean"],
        # Each gradient holds one, and so do the maps of each atlas.
        "forward_solves": stats.origin_gradients
        + sum(each.solves + each.gradients + each.fine_solves for each in stats.atlases)
        + len(rows),
        "gradients" if method.coarsening == 1 else "coarse_gradients": sum(each.gradients for each in stats.atlases),
        "origin_gradients": stats.origin_gradients,
    }
    with watch("plan"):
        progress("target volume", None)
        fields = assessed(
            patient,
            problem,
            calibration,
            density,
            deviation,
            again,
            margin=margin,
            notes=[*lost, *notes_on(problem, rows), *notes_on_foci(problem), *notes_on_pet(patient), *notes],
            despite_failure=plan_despite_failure,
            displaces=True,
            # The refinement in each atlas, whose budget is small for what a gradient costs.
            searches=[each.histories[1] for each in stats.atlases],
        )
    fields["metrics"] |= cost | watch.figures()
    if patient.pet is not None:
        scales = np.array([float(m.params.observations[2].scale) for m in calibration.members])[counted]
        healthy = next(float(o.background) for o in problem.observations if isinstance(o, Pet))
        fields["pet_predicted"] = healthy + np.maximum(to_voxels(mean_uptake(scales, densities), grid, like), 0)
    return MultiAtlasPersonalization(
        **fields,
        stages=watch.stages,
        displacement=fine,
        displacement_std=spread,
        jacobian=jacobian,
        atlases=rows,
        transforms=[atlas.transform for atlas in atlases],
    )


def _refined(coarse: np.ndarray, anatomy: Anatomy, factor: int) -> np.ndarray:
    """Return images on the voxels of the coarsened anatomy on those of the anatomy."""
    affine = np.asarray(anatomy.coarsen(factor).grid.affine)
    return np.stack([resample(each, affine, anatomy.grid) for each in coarse])


def _grow_in(
    problem: Problem, calibration: AtlasMixture, atlases: Sequence[AlignedAtlas], weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[AtlasEstimate], list[str]]:
    """Return densities, displacements and estimates, the atlases first, and notes on those whose solve failed."""
    voxel_ml = float(problem.anatomy.grid.voxel_volume) / 1000
    densities, displacements, rows, notes = [], [], [], []
    counts = [held(np.asarray(m.params.growth.growth.origin.weights)).sum() for m in calibration.members]
    for i, (atlas, stats) in enumerate(zip(atlases, calibration.stats.atlases, strict=True)):
        params = jax.tree.map(lambda leaf, i=i: leaf[i], calibration.samples).growth
        solution = _grown(problem.model, params, atlas.anatomy)
        density, displacement = (np.asarray(each, float) for each in (solution.density, solution.displacement))
        result, grows = Result(int(solution.result)), bool(calibration.shares[i] > 0)
        # A tumour that begins in a ventricle of the atlas does not grow there.
        if result not in (Result.SUCCESS, Result.SEED_OUTSIDE_TISSUE):
            why = result.message.partition(";")[0]
            notes.append(Note(f"The solve in the atlas {atlas.name} failed: {why}; it is left out.", Status.DOUBTFUL))
            density, displacement, grows = np.zeros_like(density), np.zeros_like(displacement), False
        densities.append(density)
        displacements.append(displacement)
        length = np.linalg.norm(displacements[-1], axis=-1)
        physical = params.physical()
        rows.append(
            AtlasEstimate(
                atlas=atlas.name,
                weight=float(weights[i]),
                objective=float(stats.final),
                mass_effect=float(params.mass_effect),
                mu1=float(params.growth.mu1),
                mu2=float(params.growth.mu2),
                diffusivity=float(physical.diffusivity),
                proliferation=float(physical.proliferation),
                max_displacement=float(length.max()),
                displaced=float((length > VISIBLY).sum()) * voxel_ml,
                ventricles=atlas.ventricles,
                gaussians=int(counts[i]),
                grows=grows,
            )
        )
    if not any(row.grows for row in rows):
        # Nothing is left to be averaged but nothing.
        rows = [dataclasses.replace(row, grows=True) for row in rows]
    return np.stack(densities), np.stack(displacements), rows, notes


@eqx.filter_jit
def _grown(model: Any, params: MassEffectParams, anatomy: Anatomy) -> Solution:
    # One program for all atlases: outside `jit` each would be cropped to a box of its own.
    return simulate(model, params, anatomy, throw=False)


def averages(rows: Sequence[AtlasEstimate]) -> dict[str, dict[str, float]]:
    """Return the mean and standard deviation of every number over the atlases in which a tumour grows.

    Weighted by posterior weights, and plain.

    References
    ----------
    Subramanian et al., MICCAI 2020, table S3, which has the plain ones.
    """
    rows = [row for row in rows if row.grows]
    weights = np.array([row.weight for row in rows])
    # All of it may be that of an atlas in which there is no tumour.
    weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(rows), 1 / len(rows))
    result = {}
    for each in dataclasses.fields(AtlasEstimate):
        if each.name in ("atlas", "weight", "grows"):
            continue
        values = np.array([getattr(row, each.name) for row in rows])
        mean = weights @ values
        result[each.name] = {
            "weighted_mean": float(mean),
            "weighted_standard_deviation": float(np.sqrt(weights @ (values - mean) ** 2)),
            "mean": float(values.mean()),
            "standard_deviation": float(values.std()),
        }
    return result


def deviation_of(displacements: np.ndarray) -> np.ndarray:
    """Return the standard deviation of displacements (m, x, y, z, 3): the root mean square distance to their mean."""
    return np.sqrt(np.var(displacements, axis=0).sum(axis=-1))


def mean_uptake(scales: np.ndarray, densities: np.ndarray) -> np.ndarray:
    """Return the mean over atlases of the PET signal b c, whose scale is larger where an atlas has fewer cells."""
    return np.tensordot(scales, densities, axes=1) / len(scales)


def jacobian_determinant(displacement: np.ndarray, grid: Grid) -> np.ndarray:
    """Return det(I + grad u) on a grid, (x, y, z), of a displacement (x, y, z, 3) in mm along the world's axes."""
    along_indices = np.stack([np.gradient(displacement, axis=axis) for axis in range(3)], axis=-1)
    slopes = along_indices @ np.linalg.inv(np.asarray(grid.affine, float)[:3, :3])
    return np.linalg.det(np.eye(3) + slopes)


def notes_on(problem: Problem, rows: Sequence[AtlasEstimate]) -> list[str]:
    """Return what limits a calibration in these atlases."""
    notes: list[str] = []
    if barren := [row.atlas for row in rows if not row.grows]:
        notes.append(
            Note(
                f"No tumour grows in {', '.join(barren)}, where the seed lies in no tissue; means and standard "
                "deviations leave this out. Give another atlas in its place.",
                Status.DOUBTFUL,
            )
        )
    if len(rows) == 1:
        notes.append(
            "With a single atlas there is no spread over atlases: that of the displacement is zero, and that of the "
            "density too small; give several, for none is the patient's brain before the tumour."
        )
    if not any(isinstance(o, FluidMap) for o in problem.observations):
        notes.append(
            "No image shows the patient's own ventricles, so only the tumour's outlines tell how strongly it pushes; "
            "a T1 image or tissue maps would tell more."
        )
    return notes
