"""What a PET image says before any tumour is grown: its signal in the lesion, and that of healthy tissue."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt

from tumorjax.grid import Grid
from tumorjax.observation import AbstractObservation, Outline, Pet

# Farther (mm) from the outline of the lesion hardly any cells are left.
_AWAY = 20.0
# Fewer voxels say nothing of healthy tissue.
_ENOUGH = 100
# Uptake below this share of the lesion's counts as none, and so does what is less than so many standard errors.
_NEAR_ZERO, _SURE = 0.05, 5.0
UPPER = 95
"""The percentile of the lesion's signal that stands for tissue full of cells."""


def healthy_uptake(
    signal: Float[np.ndarray, "x y z"], valid: Bool[np.ndarray, "x y z"], lesion: Bool[np.ndarray, "x y z"], grid: Grid
) -> float | None:
    """Return the median PET signal of tissue far from the lesion, image units; needs concrete values.

    None where too little of such tissue was measured; zero where the median is next to nothing against the signal of
    the lesion, or not known to be anything else.

    Parameters
    ----------
    signal
        (x, y, z), image units.
    valid
        (x, y, z): where the tracer was measured, and in tissue.
    lesion
        (x, y, z): the whole lesion; healthy is what lies more than 20 mm away.
    grid
        Of all of them.
    """
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
    pet: Pet, observations: tuple[AbstractObservation, ...], grid: Grid, percentile: float = UPPER
) -> float:
    """Return a percentile of the PET signal in the lesion, above that of healthy tissue, image units.

    Parameters
    ----------
    pet
        The image.
    observations
        Among which outlines show the lesion; without one, all that was measured counts.
    grid
        Of all of them.
    percentile
        By default that of the default prior. The largest signal of all, 100, is the whole image's: the papers divide
        by that.

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


def lesion_of(observations: tuple[AbstractObservation, ...], shape: tuple[int, ...]) -> Bool[np.ndarray, "x y z"]:
    """Return where any outline shows the lesion."""
    inside = [np.asarray(o.inside) >= 0.5 for o in observations if isinstance(o, Outline)]
    return np.any(inside, axis=0) if inside else np.zeros(shape, bool)
