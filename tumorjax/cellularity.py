"""Cells by the diffusion of water, which they hinder: the density that an image of its coefficient shows."""

import numpy as np
from jaxtyping import Bool, Float

from tumorjax.checks import check_positive

# mm^2/s, of free water: of the rats of Hormuth et al. 2015, and at 37 degrees, as for patients.
WATER_2015, WATER = 2.5e-3, 3.0e-3


def hindrance(
    adc: Float[np.ndarray, "x y z"], inside: Bool[np.ndarray, "x y z"], *, water: float
) -> Float[np.ndarray, "x y z"]:
    """Return by how much water diffuses less than free water in a region, mm^2/s; needs concrete values.

    ADC_w - ADC = (ADC_w - ADC_min) c: it is proportional to the density c of cells, if these alone hinder the diffusion
    of water. They do not in oedema, where water is free whatever the cells, nor in necrosis.

    Parameters
    ----------
    adc
        (x, y, z), mm^2/s: the apparent diffusion coefficient.
    inside
        (x, y, z): the region, such as an outline. Elsewhere the result is zero.
    water
        ADC_w, mm^2/s: of free water.

    Raises
    ------
    ValueError
        If the region is empty or of another shape, or the ADC in it is not positive everywhere.

    References
    ----------
    Hormuth et al., "Predicting in vivo glioma growth with the reaction diffusion equation constrained by quantitative
    magnetic resonance imaging data", Physical Biology 12 (2015).
    """
    check_positive("water", water)
    adc, inside = np.asarray(adc, float), np.asarray(inside, bool)
    if adc.shape != inside.shape:
        raise ValueError(f"outline has shape {inside.shape} and the ADC map {adc.shape}; resample one")
    values = adc[inside]
    if not values.size:
        raise ValueError("the outline is empty; give the lesion's")
    wrong = np.count_nonzero(~((values > 0) & np.isfinite(values)))
    if wrong:
        raise ValueError(f"the ADC is not positive in {wrong} voxels of the outline; fill them, or leave them out")
    return np.where(inside, water - adc, 0)


def density_by_adc(
    adc: Float[np.ndarray, "x y z"], inside: Bool[np.ndarray, "x y z"], *, water: float, least: float | None = None
) -> Float[np.ndarray, "x y z"]:
    """Return the density that falls linearly with the apparent diffusion coefficient; needs concrete values.

    c = (ADC_w - ADC) / (ADC_w - ADC_min) in a region, between zero and one, and zero outside it; see `hindrance`.

    Parameters
    ----------
    adc, inside, water
        See `hindrance`.
    least
        ADC_min, mm^2/s: at the carrying capacity. By default the least value in the region, which one noisy voxel may
        set.

    Raises
    ------
    ValueError
        As of `hindrance`, or if the least is not below that of water (as in a map of other units).
    """
    found = hindrance(adc, inside, water=water)
    least = float(np.asarray(adc, float)[np.asarray(inside, bool)].min()) if least is None else least
    if not 0 < least < water:
        raise ValueError(f"the least ADC must be below that of water, {water:g} mm^2/s, got {least:g}; check units")
    return np.clip(found / (water - least), 0, 1)
