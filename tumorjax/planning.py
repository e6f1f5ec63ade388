"""Radiotherapy target volumes, and their coverage of a recurrence."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from tumorjax.grid import tissue_box


def standard_plan(
    tumour: np.ndarray,
    brain: np.ndarray,
    spacing: float | tuple[float, float, float] | np.ndarray,
    margin: float = 15.0,
) -> np.ndarray:
    """Return the target volume of clinical guidelines: all brain within a margin of the tumour.

    Parameters
    ----------
    tumour
        (x, y, z), boolean. The caller chooses what belongs to it: the core alone (the guidelines'
        gross tumour volume), or core and oedema.
    brain
        (x, y, z), boolean. The plan stays inside the brain.
    spacing
        Distance between voxel centres along each axis, mm.
    margin
        Largest distance from a tumour voxel's centre, inclusive, mm.

    Returns
    -------
    ndarray
        (x, y, z), boolean.

    Raises
    ------
    ValueError
        If the tumour is empty, the margin negative, or the shapes differ.
    """
    tumour, brain = _masks(tumour=tumour, brain=brain)
    steps = np.broadcast_to(np.asarray(spacing, float), (3,))
    if not tumour.any():
        raise ValueError("the tumour is empty, so there is nothing to plan for")
    if not margin >= 0 or not (steps > 0).all():
        raise ValueError(f"margin and spacing are distances in mm, got {margin} and {steps.tolist()}")
    # No voxel outside this box is within the margin, and the distance transform is the expensive step.
    start, shape = tissue_box(tumour, margin=int(np.ceil(margin / steps.min())))
    box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
    distance = np.asarray(ndimage.distance_transform_edt(~tumour[box], sampling=steps))
    plan = np.zeros(brain.shape, bool)
    # The tolerance allows for rounded headers: a voxel exactly at the margin belongs to the plan.
    plan[box] = (distance <= margin + 1e-6) & brain[box]
    return plan


def iso_volume_plan(
    density: np.ndarray,
    brain: np.ndarray,
    voxels: int,
    *,
    distance: np.ndarray | None = None,
    include: np.ndarray | None = None,
) -> np.ndarray:
    """Return the given number of brain voxels with the highest predicted density, for a plan of equal volume.

    With the probability of tumour instead of the density, the result is the volume of this size that contains the
    largest expected part of the tumour over the posterior.

    Parameters
    ----------
    density
        (x, y, z), predicted density of tumour cells, or the probability that a voxel belongs to the tumour.
    brain
        (x, y, z), boolean. The plan stays inside.
    voxels
        Number of voxels in the plan.
    distance
        (x, y, z), breaks ties: among voxels of equal density, the one with the smaller distance comes first (far
        from a tumour, predictions vanish over much of the brain); then the one that is later in the array, as in
        PredictGBM's metric. For probabilities, pass minus the mean density to put the denser of equally probable
        voxels first.
    include
        (x, y, z), boolean. Voxels that the plan contains whatever their density, such as the gross tumour volume; the
        rest of the plan goes to the highest densities.

    Returns
    -------
    ndarray
        (x, y, z), boolean, with exactly `voxels` voxels.

    Raises
    ------
    ValueError
        If the brain has fewer voxels, the density has NaN, the shapes differ, or the voxels to include are more than
        the plan has or lie outside the brain.
    """
    brain, included = _masks(brain=brain, include=np.zeros(np.shape(brain), bool) if include is None else include)
    density = np.asarray(density)
    if density.shape != brain.shape or (distance is not None and np.shape(distance) != brain.shape):
        other = density.shape if distance is None else (density.shape, np.shape(distance))
        raise ValueError(f"the brain has shape {brain.shape}, density and distance {other}; resample them")
    inside = np.flatnonzero(brain)
    if not 0 <= voxels <= inside.size:
        raise ValueError(f"a plan of {voxels} voxels does not fit a brain of {inside.size}")
    values = density.ravel()[inside].astype(np.result_type(density, np.float32), copy=False)
    if np.isnan(values).any():
        raise ValueError("the density is NaN inside the brain; look at the solution's result")
    outside, wanted = np.count_nonzero(included & ~brain), np.count_nonzero(included)
    if outside or wanted > voxels:
        raise ValueError(
            f"a plan of {voxels} voxels cannot include {wanted} voxels, {outside} of them outside the brain; give a "
            "part of the brain that fits"
        )
    nearness = np.zeros_like(values) if distance is None else np.asarray(distance).ravel()[inside]
    # `lexsort` sorts by its last key first.
    order = np.lexsort((-np.arange(inside.size), nearness, -values, ~included.ravel()[inside]))
    plan = np.zeros(brain.size, bool)
    plan[inside[order[:voxels]]] = True
    return plan.reshape(brain.shape)


def credible_volume(probability: np.ndarray, brain: np.ndarray, level: float) -> np.ndarray:
    """Return the smallest part of the brain outside which each voxel is free of tumour with a given credibility.

    It consists of the voxels whose probability of tumour exceeds 1 - level; a volume of a higher level contains those
    of lower levels. The level applies to each voxel by itself: the probability that the whole tumour lies inside is
    smaller.

    Parameters
    ----------
    probability
        (x, y, z), probability that a voxel belongs to the tumour, such as one of `posterior_maps`.
    brain
        (x, y, z), boolean. The volume stays inside the brain.
    level
        The credibility, between 0 and 1: 0.9 leaves out voxels whose probability of tumour is at most a tenth.

    Returns
    -------
    ndarray
        (x, y, z), boolean.

    Raises
    ------
    ValueError
        If the level or the probabilities are outside [0, 1], or the shapes differ.
    """
    if not 0 < level < 1:
        raise ValueError(f"the level is a probability between 0 and 1, got {level}")
    probability, (brain,) = np.asarray(probability), _masks(brain=brain)
    if probability.shape != brain.shape:
        raise ValueError(f"the brain has shape {brain.shape}, the probability {probability.shape}; resample them")
    inside = probability[brain]
    if not ((inside >= 0) & (inside <= 1)).all():
        raise ValueError("probabilities in the brain must lie between 0 and 1, and none may be NaN")
    # The tolerance allows for float32, so that one draw in ten still counts as a probability of 0.1.
    return brain & (probability > 1 - level + 1e-6)


def millilitres(mask: np.ndarray, spacing: float | tuple[float, float, float] | np.ndarray) -> float:
    """Return the volume of a mask whose voxel centres are `spacing` (mm) apart, ml."""
    return float(np.count_nonzero(mask) * np.prod(np.broadcast_to(np.asarray(spacing, float), (3,))) / 1000)


def coverage(plan: np.ndarray, recurrence: np.ndarray) -> float:
    """Return the share of the recurrence's voxels that lie in the plan.

    Raises
    ------
    ValueError
        If the recurrence is empty, or the shapes differ.
    """
    plan, recurrence = _masks(plan=plan, recurrence=recurrence)
    if not recurrence.any():
        raise ValueError("the recurrence is empty, so its coverage is undefined; check the segmentation's labels")
    return float((plan & recurrence).sum() / recurrence.sum())


class PredictGBMCoverage(NamedTuple):
    """Shares of a recurrence inside the two plans of PredictGBM's metric.

    Parameters
    ----------
    standard, model
        Share of the enhancing recurrence (label 3) in the plan with the clinical margin, and in the model's plan.
    standard_all, model_all
        Share of necrosis, oedema and enhancing tumour together (labels 1, 2 and 3).
    """

    standard: float
    standard_all: float
    model: float
    model_all: float


def predictgbm_coverage(
    density: np.ndarray,
    segmentation: np.ndarray,
    recurrence: np.ndarray,
    brain: np.ndarray,
    spacing: float | tuple[float, float, float] | np.ndarray = 1.0,
    margin: float = 15.0,
) -> PredictGBMCoverage:
    """Return the share of a recurrence that two plans of equal size cover, as PredictGBM's evaluation measures it.

    The standard plan is all of the brain (with its holes filled) within the margin of the core, which is labels 1 and
    3 without oedema. The model's plan has as many voxels: those of highest density in the brain, the later in the array
    among equals. If the plan would include voxels of zero density, voxels are ranked by their distance to the density's
    support instead; so are they from the start if the density consists of zeros and ones alone. The gross tumour volume
    is not added to the model's plan. Where there is no recurrence, its coverage is one.

    Parameters
    ----------
    density
        (x, y, z), predicted density of tumour cells; NaN counts as zero.
    segmentation
        (x, y, z), labels before treatment, as in BraTS from 2023: 1 necrosis, 2 oedema, 3 enhancing tumour.
    recurrence
        (x, y, z), labels at follow-up: the same, and 4 for the resection cavity, which is ignored.
    brain
        (x, y, z), boolean.
    spacing
        Distance between voxel centres along each axis, mm. The published evaluation uses voxels of 1 mm and measures
        distances to a density's support in voxels; here they are in mm.
    margin
        Margin of the standard plan, inclusive, mm.

    Raises
    ------
    ValueError
        If there is no core, labels follow another convention, or the shapes differ.

    References
    ----------
    PredictGBM, `predict_gbm/evaluation/evaluate.py`, https://github.com/BrainLesion/PredictGBM. Release 0.1.0 of its
    package chooses the model's plan by a threshold instead, to within a hundredth of the volume, and does not fill the
    brain.
    """
    density, segmentation, recurrence = (np.asarray(each) for each in (density, segmentation, recurrence))
    _masks(density=density, segmentation=segmentation, recurrence=recurrence, brain=brain)
    for name, labels, known in (("segmentation", segmentation, 3), ("recurrence", recurrence, 4)):
        if odd := sorted(set(np.unique(labels).tolist()) - set(range(known + 1))):
            raise ValueError(f"the {name} has the label {odd[0]:g}; PredictGBM's metric knows 0 to {known}")
    brain = np.asarray(ndimage.binary_fill_holes(np.asarray(brain) != 0))
    standard = standard_plan(np.isin(segmentation, (1, 3)), brain, spacing, margin)
    steps, voxels = np.broadcast_to(np.asarray(spacing, float), (3,)), int(standard.sum())
    scores = np.clip(np.nan_to_num(density.astype(np.float32, copy=False), nan=0.0), 0, 1)
    if np.isin(density, (0, 1)).all():
        scores = _fade(density > 0, steps)
    plan = iso_volume_plan(scores, brain, voxels)
    if not (scores[plan] > 0).all():
        plan = iso_volume_plan(_fade((scores > 0) & brain, steps), brain, voxels)
    found = []
    for volume in (standard, plan):
        for labels in ((3,), (1, 2, 3)):
            again = np.isin(recurrence, labels)
            found.append(coverage(volume, again) if again.any() else 1.0)
    return PredictGBMCoverage(*found)


def _fade(support: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return a score that is one inside a mask and falls with the distance from it, to zero at the farthest voxel."""
    if not support.any():
        return np.zeros(support.shape, np.float32)
    distance = np.asarray(ndimage.distance_transform_edt(~support, sampling=steps))
    return (1 - distance / max(float(distance.max()), 1e-30)).astype(np.float32)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Dice coefficient of two masks; one if both are empty."""
    a, b = _masks(a=a, b=b)
    total = int(a.sum()) + int(b.sum())
    return float(2 * (a & b).sum() / total) if total else 1.0


def _masks(**masks: np.ndarray) -> list[np.ndarray]:
    arrays = {name: np.asarray(mask) for name, mask in masks.items()}
    if len({array.shape for array in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"masks differ in shape: {shapes}; resample them to one grid")
    return [array != 0 for array in arrays.values()]
