"""Cells by the diffusion of water, which they hinder: the density that an image of its coefficient shows."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Bool, Float

from tumorjax.checks import check_positive

# mm^2/s, of free water: of the rats of Hormuth et al. 2015, and at 37 degrees, as for patients.
WATER_2015, WATER = 2.5e-3, 3.0e-3

Numbers = Float[np.ndarray, "..."] | Float[Array, "..."] | float


class AbstractAdcLaw:
    """A law by which the density of cells follows from the apparent diffusion coefficient (ADC) of water.

    The signal of a coefficient is what is proportional to the density, if cells alone hinder the diffusion of water.
    They do not in oedema, where water is free whatever the cells, nor in necrosis.

    Attributes
    ----------
    name
        Its name in the command.
    unit
        Unit of the signal.
    words
        How the density follows from the ADC, for sentences.
    """

    name: ClassVar[str]
    unit: ClassVar[str]

    @property
    @abstractmethod
    def words(self) -> str:
        """How the density follows from the ADC, after "the density is read off the ADC: "."""

    @property
    @abstractmethod
    def empty(self) -> float:
        """The coefficient without cells, mm^2/s."""

    @abstractmethod
    def signal(self, adc: Numbers) -> Numbers:
        """Return the signal of coefficients, mm^2/s, in the `unit`."""

    @abstractmethod
    def coefficient(self, signal: Numbers) -> Numbers:
        """Return the coefficient of signals, mm^2/s."""


@dataclass(frozen=True)
class LinearAdcLaw(AbstractAdcLaw):
    """The coefficient falls linearly with the density: ADC_w - ADC = (ADC_w - ADC_min) c.

    Parameters
    ----------
    water
        ADC_w, mm^2/s: of free water, by default at 37 degrees.

    References
    ----------
    Hormuth et al., "Predicting in vivo glioma growth with the reaction diffusion equation constrained by quantitative
    magnetic resonance imaging data", Physical Biology 12 (2015).
    """

    name: ClassVar[str] = "linear"
    unit: ClassVar[str] = "1e-6 mm²/s"

    water: float = WATER

    def __post_init__(self) -> None:
        check_positive("water", self.water)

    @property
    def words(self) -> str:
        """No cells at the coefficient of free water, and linear from there."""
        return f"none at {1e3 * self.water:g}e-3 mm^2/s, which is free water, and linear to the capacity"

    @property
    def empty(self) -> float:
        """ADC_w, mm^2/s."""
        return self.water

    def signal(self, adc: Numbers) -> Numbers:
        """Return ADC_w - ADC, 1e-6 mm^2/s."""
        return 1e6 * (self.water - adc)

    def coefficient(self, signal: Numbers) -> Numbers:
        """Return the ADC, mm^2/s."""
        return self.water - 1e-6 * signal


@dataclass(frozen=True)
class InverseAdcLaw(AbstractAdcLaw):
    """The density is proportional to the inverse of the coefficient: c = ADC_min / ADC.

    It needs no coefficient of free water, but has cells even there: 27 % of the capacity, where tissue full of them has
    0.8e-3 mm^2/s. So it says less about few cells than the linear law.

    References
    ----------
    Ezhov, dissertation, Technical University of Munich, chapter 6, which takes the inverse ADC in the T2 outline for
    the density of cells.
    """

    name: ClassVar[str] = "inverse"
    unit: ClassVar[str] = "1e3 s/mm²"

    @property
    def words(self) -> str:
        """Proportional to the inverse."""
        return "proportional to its inverse, up to the capacity"

    @property
    def empty(self) -> float:
        """Infinity."""
        return np.inf

    def signal(self, adc: Numbers) -> Numbers:
        """Return 1 / ADC, 1e3 s/mm^2."""
        return 1e-3 / adc

    def coefficient(self, signal: Numbers) -> Numbers:
        """Return the ADC, mm^2/s; that of free water for smaller signals, which no tissue has."""
        return 1e-3 / np.maximum(np.asarray(signal), 1e-3 / WATER)


ADC_LAWS: Mapping[str, AbstractAdcLaw] = {law.name: law for law in (LinearAdcLaw(), InverseAdcLaw())}
"""The laws by name, with the numbers for patients."""


def signal_in(
    adc: Float[np.ndarray, "x y z"], inside: Bool[np.ndarray, "x y z"], law: AbstractAdcLaw
) -> Float[np.ndarray, "x y z"]:
    """Return the signal of cells in a region, in the law's unit; needs concrete values.

    Parameters
    ----------
    adc
        (x, y, z), mm^2/s: the apparent diffusion coefficient.
    inside
        (x, y, z): the region, such as an outline. Elsewhere the result is zero.
    law
        How the density follows from the coefficient.

    Raises
    ------
    ValueError
        If the region is empty or of another shape, or the ADC in it is not positive everywhere.
    """
    adc, inside = np.asarray(adc, float), np.asarray(inside, bool)
    if adc.shape != inside.shape:
        raise ValueError(f"outline has shape {inside.shape} and the ADC map {adc.shape}; resample one")
    values = adc[inside]
    if not values.size:
        raise ValueError("the outline is empty; give the lesion's")
    wrong = np.count_nonzero(~((values > 0) & np.isfinite(values)))
    if wrong:
        raise ValueError(f"the ADC is not positive in {wrong} voxels of the outline; fill them, or leave them out")
    found = np.zeros(adc.shape)
    found[inside] = law.signal(values)
    return found


def density_by_adc(
    adc: Float[np.ndarray, "x y z"],
    inside: Bool[np.ndarray, "x y z"],
    law: AbstractAdcLaw,
    *,
    least: float | None = None,
) -> Float[np.ndarray, "x y z"]:
    """Return the density by the apparent diffusion coefficient in a region, zero outside it; needs concrete values.

    Parameters
    ----------
    adc, inside, law
        See `signal_in`.
    least
        ADC_min, mm^2/s: at the carrying capacity. By default the least value in the region, which one noisy voxel may
        set.

    Raises
    ------
    ValueError
        As of `signal_in`, or if the least is not between zero and the coefficient without cells (as in a map of other
        units).
    """
    found = signal_in(adc, inside, law)
    least = float(np.asarray(adc, float)[np.asarray(inside, bool)].min()) if least is None else least
    if not 0 < least < law.empty:
        raise ValueError(
            f"the least ADC must be positive and below that of free water, {law.empty:g} mm^2/s, got {least:g}; "
            "check units"
        )
    return np.clip(found / law.signal(least), 0, 1)
