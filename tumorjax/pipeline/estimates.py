"""Calibrated parameters in words: value, unit, standard deviation, meaning."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tumorjax.calibration import Calibration, Parameters
from tumorjax.growth import GaussianBasis, GrowthParams, MassEffectParams
from tumorjax.observation import FluidMapParams, PetParams


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
        Posterior standard deviation (Laplace approximation; of a mixture over atlases, all of it), in `unit`; None
        where there is none.
    unit, meaning
        For the reader.
    truth
        The true value of a synthetic patient.
    coordinate
        Name of the prior's coordinate, if the number is one.
    fixed
        Given rather than estimated.
    """

    name: str
    symbol: str
    value: float
    deviation: float | None
    unit: str
    meaning: str
    truth: float | None = None
    coordinate: str | None = None
    fixed: bool = False


_GROWTH = (
    ("mu1", "μ_1", "mm", "infiltration length, √(D_w T)"),
    ("mu2", "μ_2", "", "number of growth, √(ρ T)"),
)
_MASS_EFFECT = ("mass_effect", "γ", "Pa", "how strongly the tumour pushes: the force is γ tanh(c) ∇c")
# A deviation (mm) of the place of Gaussians below this is rounding.
_ROUNDING = 1e-3
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
_FLUID = (("fluid_noise", "σ_CSF", "noise", "standard deviation of the share of fluid about the model"),)


def estimates(calibration: Calibration, truth: dict[str, float] | None = None) -> list[Estimate]:
    """Return the calibrated numbers of a patient with two outlines and perhaps a PET image and a map of fluid.

    Parameters
    ----------
    calibration
        Of a problem whose growth is `ScaledGrowthParams`, or `MassEffectParams` of it.
    truth
        True values by name, where they are known.
    """
    params, deviations = calibration.params, calibration.standard_deviations()
    rows = _growth_rows(calibration, params.growth, deviations.growth)
    for i, (name, symbol, meaning) in enumerate(_THRESHOLDS):
        value, deviation = (float(p.observations[i].threshold) for p in (params, deviations))
        rows.append(Estimate(name, symbol, value, deviation, "", meaning, coordinate=f"observations[{i}].threshold"))
    for i, observation in enumerate(params.observations):
        numbers, unit = (), ""
        if isinstance(observation, PetParams):
            numbers, unit = _PET, "image unit"
        elif isinstance(observation, FluidMapParams):
            numbers = _FLUID
        for name, symbol, attribute, meaning in numbers:
            value, deviation = (float(getattr(p.observations[i], attribute)) for p in (params, deviations))
            coordinate = f"observations[{i}].{attribute}"
            rows.append(Estimate(name, symbol, value, deviation, unit, meaning, coordinate=coordinate))
    speed = float(_scaled(params).speed)
    meaning = "speed of growth, assumed: one scan says nothing of it"
    rows.append(Estimate("speed", "v", speed, None, "mm/day", meaning, fixed=True))
    physical = params.growth.physical()
    physical_spread: GrowthParams = calibration.standard_deviations(_physical)
    for name, symbol, unit, meaning in _PHYSICAL:
        value, deviation = (float(getattr(p, name)) for p in (physical, physical_spread))
        rows.append(Estimate(name, symbol, value, deviation, unit, meaning))
    return [replace(row, truth=(truth or {}).get(row.name)) for row in rows]


def _growth_rows(calibration: Calibration, growth: Any, spread: Any) -> list[Estimate]:
    rows, path = [], "growth"
    if isinstance(growth, MassEffectParams):
        name, symbol, unit, meaning = _MASS_EFFECT
        value, deviation = float(growth.mass_effect), float(spread.mass_effect)
        rows.append(Estimate(name, symbol, value, deviation, unit, meaning, coordinate=f"growth.{name}"))
        growth, spread, path = growth.growth, spread.growth, "growth.growth"
    for name, symbol, unit, meaning in _GROWTH:
        value, deviation = (float(getattr(g, name)) for g in (growth, spread))
        rows.append(Estimate(name, symbol, value, deviation, unit, meaning, coordinate=f"{path}.{name}"))
    if isinstance(growth.origin, GaussianBasis):
        return rows + _sparse_origin(calibration, growth.origin)
    for i, (axis, direction) in enumerate(_AXES):
        value, deviation = (float(g.origin[i]) for g in (growth, spread))
        meaning = f"origin of the tumour, {direction} (RAS world)"
        row = Estimate(f"origin_{axis}", f"{axis}_0", value, deviation, "mm", meaning, coordinate=f"{path}.origin[{i}]")
        rows.append(row)
    return rows


def _sparse_origin(calibration: Calibration, origin: GaussianBasis) -> list[Estimate]:
    count = len(np.asarray(origin.weights))
    rows = [Estimate("gaussians", "s", count, None, "", "Gaussians of which the tumour is made at the beginning")]
    centre = _centre(calibration.params)
    deviation = calibration.standard_deviations(_centre)
    for i, (axis, direction) in enumerate(_AXES):
        # The covariance knows how places and weights differ over atlases, and not how uncertain they are in one.
        spread = float(deviation[i]) if float(deviation[i]) > _ROUNDING else None
        meaning = f"mean place of the Gaussians by weight, {direction} (RAS world)"
        rows.append(Estimate(f"origin_{axis}", f"{axis}_0", float(centre[i]), spread, "mm", meaning))
    return rows


def _centre(params: Parameters) -> Float[Array, "3"]:
    origin = _scaled(params).origin
    weights = jnp.asarray(origin.weights)
    return weights @ jnp.asarray(origin.centres, weights.dtype) / weights.sum()


def _scaled(params: Parameters) -> Any:
    return params.growth.growth if isinstance(params.growth, MassEffectParams) else params.growth


def _physical(params: Parameters) -> GrowthParams:
    return params.growth.physical()


def correlation(calibration: Calibration, rows: list[Estimate]) -> tuple[list[str], np.ndarray]:
    """Return the names of the calibrated numbers and their posterior correlation, in the order of the rows."""
    named = {row.coordinate: row.name for row in rows if row.coordinate}
    order = [calibration.prior.names.index(coordinate) for coordinate in named]
    return list(named.values()), np.asarray(jax.device_get(calibration.correlation()))[np.ix_(order, order)]
