"""Calibrated parameters in words: value, unit, standard deviation, meaning."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tumorjax.calibration import Calibration, Parameters
from tumorjax.calibration.sampling.posterior import Posterior
from tumorjax.calibration.sparse import held
from tumorjax.growth import Foci, GaussianBasis, GrowthParams, MassEffectParams
from tumorjax.observation import FluidMapParams, PetParams


@dataclass(frozen=True)
class Estimate:
    """One calibrated number.

    Parameters
    ----------
    name, symbol
        In the files, and in the papers.
    value
        The maximum a posteriori, in `unit`; of draws, and of several atlases, their plain mean.
    deviation
        Posterior standard deviation (Laplace approximation; of a mixture over atlases, all of it; of draws or matches,
        theirs), in `unit`; None where there is none.
    unit, meaning
        For the reader.
    truth
        The true value of a synthetic patient.
    coordinate
        Name of the prior's coordinate, if the number is one.
    fixed
        Given rather than estimated.
    mode
        The maximum a posteriori, in `unit`; of draws that of highest posterior density.
    interval
        Ends of the 90 % credible interval, in `unit`, between quantiles of the same probability; None without draws.
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
    mode: float | None = None
    interval: tuple[float, float] | None = None


# Of which the interval leaves out as much below as above.
CREDIBILITY = 0.9

_GROWTH = (
    ("mu1", "μ_1", "mm", "infiltration length, √(D_w T)"),
    ("mu2", "μ_2", "", "number of growth, √(ρ T)"),
)
_MASS_EFFECT = ("mass_effect", "γ", "Pa", "how strongly the tumour pushes: force γ tanh(c) ∇c, or γ ∇c if linear")
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


class _Spread(NamedTuple):
    """Value, deviation, mode and ends of the interval of a quantity, each in its own form; None where unknown."""

    value: Any
    deviation: Any
    mode: Any
    low: Any = None
    high: Any = None

    def row(self, pick: Callable[[Any], Any], name: str, symbol: str, unit: str, meaning: str, **more: Any) -> Estimate:
        """Return one number of the quantity in words."""
        value, mode = float(pick(self.value)), float(pick(self.mode))
        deviation = None if self.deviation is None else float(pick(self.deviation))
        interval = None if self.low is None else (float(pick(self.low)), float(pick(self.high)))
        return Estimate(name, symbol, value, deviation, unit, meaning, mode=mode, interval=interval, **more)


def centre(calibration: Calibration) -> Parameters:
    """Return the parameters that stand for a calibration: the mean of draws or atlases, or the maximum a posteriori."""
    return _spread(calibration).value if isinstance(calibration, Posterior) else calibration.params


def _spread(calibration: Calibration, *asked: Callable[[Parameters], Any]) -> _Spread:
    """Return what a calibration says of a quantity; without one, of the parameters themselves."""
    if not isinstance(calibration, Posterior):
        known, found = calibration.covariance is not None, calibration.mean(*asked)
        return _Spread(found, calibration.standard_deviations(*asked) if known else None, found)
    quantity = asked[0] if asked else lambda params: params
    mode = quantity(calibration.params)
    draws: Any = calibration.samples
    samples = jax.vmap(quantity)(draws)
    weights = np.exp(np.asarray(calibration.log_weights, float))
    weights /= weights.sum()
    columns = [np.asarray(leaf, float) for leaf in jax.tree.leaves(samples)]
    means = [np.tensordot(weights, column, axes=1) for column in columns]
    deviations = [
        np.sqrt(np.tensordot(weights, (column - mean) ** 2, axes=1))
        for column, mean in zip(columns, means, strict=True)
    ]
    tails = ((1 - CREDIBILITY) / 2, (1 + CREDIBILITY) / 2)
    ends = [[_quantile(column, weights, share) for column in columns] for share in tails]
    unflatten = lambda leaves: jax.tree.unflatten(jax.tree.structure(samples), leaves)  # noqa: E731
    return _Spread(unflatten(means), unflatten(deviations), mode, *map(unflatten, ends))


def _quantile(values: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """Return the quantile of weighted values along the first axis: linear between the middles of their weights."""
    # What has no weight is no value between which to interpolate.
    values, weights = values[weights > 0], weights[weights > 0]
    found = []
    for column in values.reshape(len(values), -1).T:
        order = np.argsort(column)
        heavy = weights[order]
        found.append(np.interp(share, np.cumsum(heavy) - heavy / 2, column[order]))
    return np.reshape(found, values.shape[1:])


def estimates(calibration: Calibration, truth: dict[str, float] | None = None) -> list[Estimate]:
    """Return the calibrated numbers of a patient with two outlines and perhaps a PET image and a map of fluid.

    Parameters
    ----------
    calibration
        Of a problem whose growth is `ScaledGrowthParams`, or `MassEffectParams` of it.
    truth
        True values by name, where they are known.
    """
    spread, params = _spread(calibration), calibration.params
    rows = _growth_rows(calibration, spread)
    for i, (name, symbol, meaning) in enumerate(_THRESHOLDS):
        pick = lambda tree, i=i: tree.observations[i].threshold  # noqa: E731
        rows.append(spread.row(pick, name, symbol, "", meaning, coordinate=f"observations[{i}].threshold"))
    for i, observation in enumerate(params.observations):
        numbers, unit = (), ""
        if isinstance(observation, PetParams):
            numbers, unit = _PET, "image unit"
        elif isinstance(observation, FluidMapParams):
            numbers = _FLUID
        for name, symbol, attribute, meaning in numbers:
            pick = lambda tree, i=i, attribute=attribute: getattr(tree.observations[i], attribute)  # noqa: E731
            rows.append(spread.row(pick, name, symbol, unit, meaning, coordinate=f"observations[{i}].{attribute}"))
    speed = float(_scaled(params).speed)
    meaning = "speed of growth, assumed: one scan says nothing of it"
    rows.append(Estimate("speed", "v", speed, None, "mm/day", meaning, fixed=True))
    physical = _spread(calibration, _physical)
    for name, symbol, unit, meaning in _PHYSICAL:
        rows.append(physical.row(lambda tree, name=name: getattr(tree, name), name, symbol, unit, meaning))
    return [replace(row, truth=(truth or {}).get(row.name)) for row in rows]


def _growth_rows(calibration: Calibration, spread: _Spread) -> list[Estimate]:
    rows, path = [], "growth"
    if isinstance(calibration.params.growth, MassEffectParams):
        name, *words = _MASS_EFFECT
        rows.append(spread.row(lambda tree: tree.growth.mass_effect, name, *words, coordinate=f"growth.{name}"))
        path = "growth.growth"
    for name, *words in _GROWTH:
        pick = lambda tree, name=name: getattr(_scaled(tree), name)  # noqa: E731
        rows.append(spread.row(pick, name, *words, coordinate=f"{path}.{name}"))
    origin = _scaled(calibration.params).origin
    if isinstance(origin, GaussianBasis):
        return rows + _sparse_origin(calibration)
    if isinstance(origin, Foci):
        return rows + _foci(spread, origin, f"{path}.origin")
    for i, (axis, direction) in enumerate(_AXES):
        pick = lambda tree, i=i: _scaled(tree).origin[i]  # noqa: E731
        meaning = f"origin of the tumour, {direction} (RAS world)"
        coordinate = f"{path}.origin[{i}]"
        rows.append(spread.row(pick, f"origin_{axis}", f"{axis}_0", "mm", meaning, coordinate=coordinate))
    return rows


def _foci(spread: _Spread, origin: Foci, path: str) -> list[Estimate]:
    """Return the places of several seeds, `origin`, `origin_2` and so on, and how small the further ones were."""
    rows = []
    for k in range(len(np.asarray(origin.points))):
        which, below = _named(k)
        for i, (axis, direction) in enumerate(_AXES):
            pick = lambda tree, k=k, i=i: _scaled(tree).origin.points[k, i]  # noqa: E731
            meaning = f"origin of focus {k + 1}, {direction} (RAS world)"
            coordinate = f"{path}.points[{3 * k + i}]"
            row = spread.row(pick, f"origin{which}_{axis}", f"{axis}_{below}", "mm", meaning, coordinate=coordinate)
            rows.append(row)
        if k > 0:
            pick = lambda tree, k=k: _scaled(tree).origin.shares[k - 1]  # noqa: E731
            meaning = f"cells that focus {k + 1} began with, of those of the first: the fewer, the later it appeared"
            coordinate = f"{path}.shares[{k - 1}]"
            rows.append(spread.row(pick, f"share{which}", f"m_{k + 1}", "", meaning, coordinate=coordinate))
    return rows


def _sparse_origin(calibration: Calibration) -> list[Estimate]:
    meaning = "Gaussians of which the tumour is made at the beginning"
    count = _spread(calibration, _count).row(lambda number: number, "gaussians", "s", "", meaning)
    # It varies over atlases alone.
    rows = [replace(count, deviation=count.deviation or None)]
    foci = getattr(calibration.stats, "foci", ())
    spread = _spread(calibration, lambda params: _centres(params, foci))
    for k in range(max(len(foci), 1)):
        which, below = _named(k)
        near = f" near focus {k + 1}" if len(foci) else ""
        for i, (axis, direction) in enumerate(_AXES):
            pick = lambda places, k=k, i=i: places[k, i]  # noqa: E731
            meaning = f"mean place of the Gaussians{near} by weight, {direction} (RAS world)"
            rows.append(spread.row(pick, f"origin{which}_{axis}", f"{axis}_{below}", "mm", meaning))
    return rows


def _count(params: Parameters) -> Float[Array, ""]:
    return jnp.sum(held(jnp.asarray(_scaled(params).origin.weights)), dtype=float)


def _centres(params: Parameters, foci: Any) -> Float[Array, "f 3"]:
    """Return the mean place of the Gaussians by weight, or for several foci of those that are nearest to each."""
    origin = _scaled(params).origin
    if not len(foci):
        return origin.centre_of_mass[None]
    centres, weights = jnp.asarray(origin.centres), jnp.asarray(origin.weights)
    middles = jnp.asarray(foci, centres.dtype)
    near = jnp.linalg.norm(centres[:, None] - middles, axis=-1).argmin(axis=1)
    return jnp.stack(
        [replace(origin, weights=jnp.where(near == k, weights, 0)).centre_of_mass for k in range(len(foci))]
    )


def _named(k: int) -> tuple[str, str]:
    """Return what is added to the name of a number of focus k, from 0, and what stands below its symbol."""
    return ("", "0") if k == 0 else (f"_{k + 1}", f"0,{k + 1}")


def _scaled(params: Parameters) -> Any:
    return params.growth.growth if isinstance(params.growth, MassEffectParams) else params.growth


def _physical(params: Parameters) -> GrowthParams:
    return params.growth.physical()


def correlation(calibration: Calibration, rows: list[Estimate]) -> tuple[list[str], np.ndarray]:
    """Return the names of the calibrated numbers and their posterior correlation, in the order of the rows."""
    named = {row.coordinate: row.name for row in rows if row.coordinate}
    order = [calibration.prior.names.index(coordinate) for coordinate in named]
    return list(named.values()), np.asarray(jax.device_get(calibration.correlation()))[np.ix_(order, order)]
