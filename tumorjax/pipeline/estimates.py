"""Calibrated parameters in words: value, unit, standard deviation, meaning."""

from dataclasses import dataclass, replace

import jax
import numpy as np

from tumorjax.calibration import Calibration, Parameters
from tumorjax.growth import GrowthParams
from tumorjax.observation import PetParams


@dataclass(frozen=True)
class Estimate:
    """One calibrated number.

    Parameters
    ----------
    name, symbol
        In the files, and in the papers.
    value
        The maximum a posteriori, in `unit`.
    deviation
        Posterior standard deviation (Laplace approximation), in `unit`; None for what was fixed.
    unit, meaning
        For the reader.
    truth
        The true value of a synthetic patient.
    coordinate
        Name of the prior's coordinate, if the number is one.
    """

    name: str
    symbol: str
    value: float
    deviation: float | None
    unit: str
    meaning: str
    truth: float | None = None
    coordinate: str | None = None


_GROWTH = (
    ("mu1", "μ_1", "mm", "infiltration length, √(D_w T)"),
    ("mu2", "μ_2", "", "number of growth, √(ρ T)"),
)
_AXES = (("x", "left to right"), ("y", "back to front"), ("z", "bottom to top"))
_PHYSICAL = (
    ("diffusivity", "D_w", "mm²/day", "diffusivity in white matter, at the assumed speed"),
    ("proliferation", "ρ", "1/day", "proliferation rate, at the assumed speed"),
    ("duration", "T", "day", "time since the seed, at the assumed speed"),
)
_THRESHOLDS = (
    ("threshold_core", "u_T1Gd", "cell density at the outline of the core (T1Gd)"),
    ("threshold_flair", "u_FLAIR", "cell density at the outline of the lesion (FLAIR)"),
)
_PET = (
    ("pet_scale", "b", "scale", "PET signal of tissue full of tumour cells"),
    ("pet_noise", "σ", "noise", "standard deviation of the PET signal about the model"),
)


def estimates(calibration: Calibration, truth: dict[str, float] | None = None) -> list[Estimate]:
    """Return the calibrated numbers of a patient with two outlines and perhaps a PET image.

    Parameters
    ----------
    calibration
        Of a problem whose growth is `ScaledGrowthParams`.
    truth
        True values by name, where they are known.
    """
    params, deviations = calibration.params, calibration.standard_deviations()
    growth, spread = params.growth, deviations.growth
    rows = [
        Estimate(
            name,
            symbol,
            float(getattr(growth, name)),
            float(getattr(spread, name)),
            unit,
            meaning,
            coordinate=f"growth.{name}",
        )
        for name, symbol, unit, meaning in _GROWTH
    ]
    for i, (axis, direction) in enumerate(_AXES):
        rows.append(
            Estimate(
                f"origin_{axis}",
                f"{axis}_0",
                float(growth.origin[i]),
                float(spread.origin[i]),
                "mm",
                f"origin of the tumour, {direction} (RAS world)",
                coordinate=f"growth.origin[{i}]",
            )
        )
    for i, (name, symbol, meaning) in enumerate(_THRESHOLDS):
        value, deviation = (float(p.observations[i].threshold) for p in (params, deviations))
        rows.append(Estimate(name, symbol, value, deviation, "", meaning, coordinate=f"observations[{i}].threshold"))
    for i, observation in enumerate(params.observations):
        if isinstance(observation, PetParams):
            for name, symbol, attribute, meaning in _PET:
                value, deviation = (float(getattr(p.observations[i], attribute)) for p in (params, deviations))
                rows.append(
                    Estimate(
                        name,
                        symbol,
                        value,
                        deviation,
                        "image unit",
                        meaning,
                        coordinate=f"observations[{i}].{attribute}",
                    )
                )
    rows.append(
        Estimate(
            "speed", "v", float(growth.speed), None, "mm/day", "speed of growth, assumed: one scan says nothing of it"
        )
    )
    physical = growth.physical()
    physical_spread: GrowthParams = calibration.standard_deviations(_physical)
    for name, symbol, unit, meaning in _PHYSICAL:
        rows.append(
            Estimate(name, symbol, float(getattr(physical, name)), float(getattr(physical_spread, name)), unit, meaning)
        )
    return [replace(row, truth=(truth or {}).get(row.name)) for row in rows]


def _physical(params: Parameters) -> GrowthParams:
    return params.growth.physical()


def correlation(calibration: Calibration, rows: list[Estimate]) -> tuple[list[str], np.ndarray]:
    """Return the names of the calibrated numbers and their posterior correlation, in the order of the rows."""
    named = {row.coordinate: row.name for row in rows if row.coordinate}
    order = [calibration.prior.names.index(coordinate) for coordinate in named]
    return list(named.values()), np.asarray(jax.device_get(calibration.correlation()))[np.ix_(order, order)]
