"""Calibrated numbers in words: value, unit, standard deviation, meaning."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from tumorjax.growth import quantity_of_treatment
from tumorjax.observation import OutlineParams
from tumorjax.prior import Prior
from tumorjax.quantity import Quantity

if TYPE_CHECKING:
    from tumorjax.calibration.calibration import Calibration

# Probability inside of intervals, which leave out as much below as above.
CREDIBILITY = 0.9
# Coordinates of the state at time zero, also where the growth has parameters within its own.
_ORIGIN = re.compile(r"^growth\.(.*\.)?origin\b")


@dataclass(frozen=True)
class Estimate:
    """One calibrated number.

    Parameters
    ----------
    name, symbol
        Name in files, and symbol in the papers; an underscore sets the rest as a subscript ("D_w").
    value
        The maximum a posteriori, in `unit`; for draws and for several atlases their plain mean.
    deviation
        Posterior standard deviation, in `unit`; None where it is unknown.
    unit, meaning
        Unit, empty for a pure number, and meaning in words.
    truth
        True value of a synthetic patient, in `unit`.
    coordinate
        Name of the prior's coordinate, if the number is one.
    fixed
        Whether the value was given rather than estimated.
    mode
        The maximum a posteriori, in `unit`; for draws that of highest posterior density.
    interval
        Ends of the 90 % credible interval, in `unit`; None without draws.
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

    @property
    def z(self) -> float | None:
        """Error of the estimate in standard deviations; None without a truth or a deviation."""
        if self.truth is None or self.fixed or self.deviation is None or not self.deviation > 0:
            return None
        return (self.value - self.truth) / self.deviation


class Spread(NamedTuple):
    """Value, deviation, mode and ends of the interval of a quantity, each in its own form; None where unknown."""

    value: Any
    deviation: Any
    mode: Any
    low: Any = None
    high: Any = None


def weighted_spread(samples: Any, log_weights: Any, mode: Any) -> Spread:
    """Return the spread of a quantity, (m, ...), over weighted draws, whose mode is known."""
    weights = np.exp(np.asarray(log_weights, float))
    weights /= weights.sum()
    leaves, structure = jax.tree.flatten(samples)
    columns = [np.asarray(leaf, float) for leaf in leaves]
    means = [np.tensordot(weights, column, axes=1) for column in columns]
    deviations = [
        np.sqrt(np.tensordot(weights, (column - mean) ** 2, axes=1))
        for column, mean in zip(columns, means, strict=True)
    ]
    tails = ((1 - CREDIBILITY) / 2, (1 + CREDIBILITY) / 2)
    ends = [[_quantile(column, weights, share) for column in columns] for share in tails]
    mean, deviation, low, high = (structure.unflatten(part) for part in (means, deviations, *ends))
    return Spread(mean, deviation, mode, low, high)


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


def quantities_of(params: Any, prior: Prior, growth: Sequence[Quantity] | None = None) -> list[Quantity]:
    """Return what is worth a row of a table: the numbers of growth and observations, then those that are assumed.

    Growth and observations describe their own numbers by `quantities`; an unknown that nobody describes, such as the
    parameter of a user's own model, has a row with its name in the prior.

    Parameters
    ----------
    params
        `Parameters`, concrete or only their structure.
    prior
        Names the unknown.
    growth
        The numbers of the growth, where a method knows them better than the parameters do.
    """
    own = (params.growth.quantities() if hasattr(params.growth, "quantities") else []) if growth is None else growth
    grown = [quantity.within("growth", lambda whole: whole.growth) for quantity in own]
    seen = [*quantities_seen(params.observations), *_quantities_treated(params.treatments)]
    # Observations that describe their numbers leave out nuisances, such as the sharpness of an outline. The numbers of
    # a state at time zero, such as the weights of Gaussians, are described together.
    done = tuple(f"observations.{name}." for name, each in params.observations.items() if hasattr(each, "quantities"))
    # A number that one date leaves to be assumed may be unknown where there are several.
    if any(quantity.fixed and quantity.coordinate in prior.names for quantity in grown):
        grown = [replace(each, fixed=False, meaning=each.freed or each.meaning) for each in grown]
    first = next((i for i, quantity in enumerate(grown) if quantity.fixed), len(grown))
    known = {quantity.coordinate for quantity in (*grown, *seen)}
    others = [
        _undescribed(prior, name)
        for name in prior.names
        if name not in known and not name.startswith(done) and not (grown and _ORIGIN.search(name))
    ]
    # A number for which the prior has a value is no estimate.
    given = set(prior.known)
    rows = [*grown[:first], *seen, *others, *grown[first:]]
    return [replace(each, fixed=True) if (each.coordinate or "").partition("[")[0] in given else each for each in rows]


def quantities_seen(observations: Mapping[str, Any]) -> list[Quantity]:
    """Return the numbers of `Parameters` that observations describe, those of outlines first."""
    ordered = sorted(observations.items(), key=lambda item: not isinstance(item[1], OutlineParams))
    found: list[Quantity] = []
    for name, each in ordered:
        taken = {quantity.name for quantity in found}
        for quantity in each.quantities(name) if hasattr(each, "quantities") else ():
            # Two images of one kind may call their numbers the same.
            own = replace(quantity, name=f"{quantity.name}_{name}") if quantity.name in taken else quantity
            found.append(own.within(f"observations.{name}", lambda whole, name=name: whole.observations[name]))
    return found


def _quantities_treated(treatments: Mapping[str, Mapping[str, Any]]) -> list[Quantity]:
    """Return the numbers of `Parameters` that treatments leave unknown."""
    return [
        quantity_of_treatment(name, field).within(f"treatments.{name}", lambda whole, name=name: whole.treatments[name])
        for name, numbers in treatments.items()
        for field in numbers
    ]


def _undescribed(prior: Prior, coordinate: str) -> Quantity:
    """Return an unknown by its path in the prior."""
    path, bracket, index = coordinate.partition("[")

    def value(params: Any) -> Any:
        found = prior.unknown(params)[path]
        return jax.numpy.ravel(found)[int(index.removesuffix("]"))] if bracket else found

    name = path.removeprefix("growth.").removeprefix("observations.").replace(".", "_")
    name += f"_{index.removesuffix(']')}" if bracket else ""
    return Quantity(name, name, "", "parameter of the model", value, coordinate)


def estimates_of(calibration: "Calibration", truth: Mapping[str, float] | None = None) -> list[Estimate]:
    """Return the calibrated numbers of a calibration; see `Calibration.estimates`."""
    found, names = calibration.quantities(), calibration.prior.names
    spread = calibration.spread(lambda params: [quantity.value(params) for quantity in found])
    rows = [_row(quantity, spread, i, names) for i, quantity in enumerate(found)]
    return [replace(row, truth=(truth or {}).get(row.name)) for row in rows]


def _row(quantity: Quantity, spread: Spread, i: int, names: Sequence[str]) -> Estimate:
    """Return number i of a list of numbers, whose spread is known, in words."""
    words: dict[str, Any] = {each: getattr(quantity, each) for each in ("name", "symbol", "unit", "meaning")}
    if quantity.fixed:
        return Estimate(value=float(spread.value[i]), deviation=None, fixed=True, **words)
    deviation = None if spread.deviation is None else float(spread.deviation[i])
    coordinate = quantity.coordinate if quantity.coordinate in names else None
    return Estimate(
        value=float(spread.value[i]),
        # A number that follows from others, such as a count, may be the same all over the posterior.
        deviation=deviation if coordinate else deviation or None,
        coordinate=coordinate,
        mode=float(spread.mode[i]),
        interval=None if spread.low is None else (float(spread.low[i]), float(spread.high[i])),
        **words,
    )


def correlation_of(calibration: "Calibration", rows: Sequence[Estimate]) -> tuple[list[str], np.ndarray] | None:
    """Return the names of the calibrated numbers among rows and their posterior correlation; None where unknown."""
    if calibration.covariance is None:
        return None
    named = {row.coordinate: row.name for row in rows if row.coordinate}
    order = [calibration.prior.names.index(coordinate) for coordinate in named]
    return list(named.values()), np.asarray(jax.device_get(calibration.correlation()))[np.ix_(order, order)]


def frame_of(estimates: Sequence[Estimate]) -> Any:
    """Return estimates as a `pandas.DataFrame`; see `Calibration.to_dataframe`."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("this needs pandas; install it with: pip install pandas") from error
    rows = {
        each.name: {
            "value": each.value,
            "standard_deviation": each.deviation,
            "low": None if each.interval is None else each.interval[0],
            "high": None if each.interval is None else each.interval[1],
            "unit": each.unit,
            "fixed": each.fixed,
            "symbol": each.symbol,
            "meaning": each.meaning,
        }
        for each in estimates
    }
    numbers = ["value", "standard_deviation", "low", "high"]
    frame = pandas.DataFrame.from_dict(rows, orient="index").rename_axis("name")
    return frame.astype(dict.fromkeys(numbers, float))
