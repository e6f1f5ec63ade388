"""The PET signal of lesion and healthy tissue, read off an image before any tumour is simulated."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from tumorjax.grid import Grid
from tumorjax.observation.observation import AbstractObservation
from tumorjax.observation.outline import Outline

if TYPE_CHECKING:
    from tumorjax.observation.pet import Pet

# At this distance (mm) from the outline of the lesion there are hardly any tumour cells.
_AWAY = 20.0
# With fewer voxels the signal of healthy tissue is unknown.
_ENOUGH = 100
# Uptake below this share of that of the lesion counts as zero, and so does uptake below so many standard errors.
_NEAR_ZERO, _SURE = 0.05, 5.0
UPPER = 95
"""The percentile of the lesion's signal that stands for tissue full of cells."""


def healthy_uptake(
    signal: Float[np.ndarray, "x y z"], valid: Bool[np.ndarray, "x y z"], lesion: Bool[np.ndarray, "x y z"], grid: Grid
) -> float | None:
    """Return the median PET signal of tissue far from the lesion, image units; needs concrete values.

    The answer is None where too little of such tissue was measured, and zero where the median is below 5 % of the
    signal of the lesion or below five of its standard errors.

    Parameters
    ----------
    signal
        (x, y, z), image units.
    valid
        (x, y, z): where the tracer was measured, and in tissue.
    lesion
        (x, y, z): the whole lesion; tissue more than 20 mm away counts as healthy.
    grid
        The grid of the images.
    """
    from scipy.ndimage import distance_transform_edt

    lesion, valid = np.asarray(lesion, bool), np.asarray(valid, bool)
    away = np.asarray(distance_transform_edt(~lesion, sampling=np.asarray(grid.spacing, float))) > _AWAY
    healthy = np.asarray(signal, float)[valid & away]
    within = np.asarray(signal, float)[valid & lesion]
    if healthy.size < _ENOUGH or not within.size:
        return None
    median = float(np.median(healthy))
    # The standard error of a median, by a deviation that a few hot voxels do not move.
    deviation = 1.4826 * float(np.median(np.abs(healthy - median)))
    error = np.sqrt(np.pi / 2) * deviation / np.sqrt(healthy.size)
    high = float(np.percentile(within, UPPER)) - median
    return 0.0 if abs(median) < max(_NEAR_ZERO * abs(high), _SURE * error) else median


def upper_uptake(
    pet: "Pet", observations: Mapping[str, AbstractObservation], grid: Grid, percentile: float = UPPER
) -> float:
    """Return a percentile of the PET signal in the lesion, above that of healthy tissue, image units.

    Parameters
    ----------
    pet
        The image.
    observations
        The observations of the patient by name. Outlines among them show the lesion; without one, all measured voxels
        count.
    grid
        The grid of the images.
    percentile
        The default is that of the default prior. 100 is the largest signal of the whole image, not of the lesion only,
        by which the papers divide.

    Raises
    ------
    ValueError
        If nothing was measured in the lesion, the signal there is not above the background, or healthy tissue has
        another signal than the background.
    """
    signal, valid = np.asarray(pet.signal, float), np.asarray(pet.valid, bool)
    lesion = lesion_of(observations, valid.shape)
    region = valid & lesion if lesion.any() and percentile < 100 else valid
    if not region.any():
        raise ValueError("the PET image shows nothing in the lesion; give the image of this patient, or leave it out")
    top = float(np.percentile(signal[region], percentile)) - float(pet.background)
    if not top > 0:
        above = " above its background" if pet.background else ""
        raise ValueError(
            f"the PET signal must be positive in the tumour, its {percentile}th percentile is {top:g}{above}; "
            "give the image of this patient, or leave it out"
        )
    rest = healthy_uptake(signal - float(pet.background), valid, lesion, grid) if lesion.any() else None
    if rest:
        raise ValueError(
            f"the PET signal of healthy tissue, far from the lesion, is {rest + float(pet.background):g}, but its "
            f"background is given as {float(pet.background):g}; give Pet(..., background=...) what healthy_uptake says"
        )
    return top


def lesion_of(observations: Mapping[str, AbstractObservation], shape: tuple[int, ...]) -> Bool[np.ndarray, "x y z"]:
    """Return the voxels inside of any outline."""
    inside = [np.asarray(o.inside) >= 0.5 for o in observations.values() if isinstance(o, Outline)]
    return np.any(inside, axis=0) if inside else np.zeros(shape, bool)
