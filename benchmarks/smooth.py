"""The fit without physics: a density that follows the outlines and falls smoothly beyond them."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit, logit

from benchmarks.suite import Case
from tumorjax.io import to_voxels
from tumorjax.observation.displacements import signed_distance

# Densities at the outlines of core and lesion: the middle of what their thresholds may be.
CORE, LESION = 0.675, 0.275


def smooth_density(
    core: Float[np.ndarray, "x y z"],
    lesion: Float[np.ndarray, "x y z"],
    tissue: Bool[np.ndarray, "x y z"],
    spacing: Float[np.ndarray, "3"],
) -> Float[np.ndarray, "x y z"]:
    """Return a density whose log-odds are linear in the signed distances to both outlines; zero outside the tissue.

    Between the outlines they are interpolated. Inside the core and beyond the lesion they go on with the slope that
    they have between them in the median, so that nothing but the outlines decides how far the tumour reaches.

    Parameters
    ----------
    core, lesion
        Shares of voxels inside the outlines.
    tissue
        Where there may be cells.
    spacing
        Edges of the voxels, mm.
    """
    inside = [signed_distance(share > 0.5, spacing) for share in (core, lesion)]
    low, high = logit(LESION), logit(CORE)
    # The core lies in the lesion, and touches its border at the most.
    room = np.maximum(inside[1] - inside[0], 1e-3)
    between = (inside[0] < 0) & (inside[1] > 0)
    gap = float(np.median(room[between])) if between.any() else float(np.mean(spacing))
    slope = (high - low) / gap
    odds = np.where(
        inside[0] >= 0,
        high + slope * inside[0],
        np.where(between, low + (high - low) * np.clip(inside[1] / room, 0, 1), low + slope * np.minimum(inside[1], 0)),
    )
    return np.where(tissue, expit(odds), 0.0)


def without_physics(case: Case) -> Float[np.ndarray, "x y z"]:
    """Return the smooth density of a patient on the patient's own voxels."""
    patient = case.patient
    grid = patient.anatomy.grid
    tissue, spacing = np.asarray(patient.anatomy.tissue), np.asarray(grid.spacing, float)
    density = smooth_density(patient.core_fraction, patient.lesion_fraction, tissue, spacing)
    return np.clip(to_voxels(density, grid, patient.reference), 0, 1)
