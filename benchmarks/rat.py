"""A real rat's tumour, seen seven times: calibrated on the first days, and predicted for the last ones."""

from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import ndimage

from benchmarks.patients import DATA
from benchmarks.record import NINETY, Record
from tumorjax import (
    LBFGS,
    Anatomy,
    Calibration,
    DensityMap,
    DensityMapParams,
    ExponentialGrowth,
    FisherKolmogorov,
    GompertzGrowth,
    Grid,
    GrowthParams,
    InitialDensity,
    LogisticGrowth,
    LogNormal,
    MassEffect,
    MassEffectParams,
    Parameters,
    Prior,
    Problem,
    TumourVolume,
    TumourVolumeParams,
    Uniform,
    Visit,
    VolumeParams,
    calibrate,
    forecast,
)

FILE = DATA / "rat" / "cells.npz"
# mm; presumed, since the data do not state it.
_VOXEL = (0.25, 0.25, 1.0)
# The tumour begins as it was on the first day; maps until the fourth are seen, and later ones predicted.
_SEEN = slice(1, 4)
_LATER = slice(4, 7)
# What is farther from the tumour of the last day that is seen says nothing: voxels in each plane, and planes.
_AROUND = (6, 6, 1)
# Errors of a map are correlated over about a plane's thickness, so that so many voxels are worth one.
_CORRELATED = 16
_DRAWS = 100
# 1/day: how fast rates may fall; all are equally probable.
_FALLING = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)
_TAILS = (0.05, 0.95)
_LAWS = {"logistic": LogisticGrowth(), "gompertz": GompertzGrowth(), "exponential": ExponentialGrowth()}


def rat(pushing: bool = False) -> list[Record]:
    """All figures by plain growth and by laws of the volume, or those by growth with mass effect, which take longer.

    There are none where the data are absent.
    """
    if not FILE.exists():
        print(f"{FILE.name} is absent, so no rat is measured")
        return []
    with np.load(FILE) as file:
        cells, days = np.moveaxis(np.asarray(file["cells"], np.float32), -1, 0), np.asarray(file["days"], float)
    grid = Grid(cells.shape[1:], np.diag([*_VOXEL, 1.0]))
    anatomy = Anatomy(grid, *(np.full(grid.shape, share, np.float32) for share in (1.0, 0.0, 0.0)))
    # A voxel full of cells, as seen on the days of the calibration.
    capacity = float(np.percentile(cells[:4][cells[:4] > 0], 99.5))
    if pushing:
        return predicted("mass_effect_", [fitted(MassEffect(), cells, days, capacity, anatomy)], cells, days, capacity)
    model = FisherKolmogorov()
    records = predicted("", [fitted(model, cells, days, capacity, anatomy)], cells, days, capacity)
    # Where diffusivity and proliferation fall together, time alone runs slower and slower.
    slower = [fitted(model, cells, slowed(days, rate), capacity, anatomy) for rate in _FALLING]
    records += [*predicted("falling_rates_", slower, cells, days, capacity), _unchanged(cells)]
    return records + [totals(name, law, cells, days) for name, law in _LAWS.items()]


class Fit(NamedTuple):
    """A calibration, and what belongs to it: the days on the clock of its problem, and the log-evidence, nat."""

    problem: Problem
    found: Calibration
    days: np.ndarray
    evidence: float


def slowed(days: np.ndarray, rate: float) -> np.ndarray:
    """Return the days on a clock that falls behind at a rate, 1/day, from the first of them on."""
    return days[0] + (1 - np.exp(-rate * (days - days[0]))) / rate


def fitted(model: Any, cells: np.ndarray, days: np.ndarray, capacity: float, anatomy: Anatomy) -> Fit:
    """Calibrate a model in space to the days that are seen."""
    begun = InitialDensity(np.clip(cells[0] / capacity, 0, 1))
    growth: Any = GrowthParams(LogNormal(0.05, 1.5), LogNormal(0.5, 1.0), begun, float(days[1] - days[0]))
    if model.displaces:
        growth = MassEffectParams(growth, Uniform(0.0, 1e5))
    seen = ndimage.binary_dilation(cells[3] > 0, np.ones([2 * reach + 1 for reach in _AROUND]))
    prior = Prior(Parameters(growth, {"cells": DensityMapParams(LogNormal(capacity / 10, 0.7), 0.0, capacity)}))
    visits = [
        Visit(day, {"cells": DensityMap(each, seen, float(seen.sum()) / _CORRELATED)})
        for day, each in zip(days[_SEEN], cells[_SEEN], strict=True)
    ]
    problem = Problem(model, anatomy, visits, prior)
    found = calibrate(problem, LBFGS(starts=3, coarsening=1))
    # In the Laplace approximation; the prior is a standard normal one in the coordinates.
    value = float(jax.jit(lambda z: problem.log_posterior(z))(found.coordinates))
    return Fit(problem, found, days, value + 0.5 * float(np.linalg.slogdet(np.asarray(found.covariance, float))[1]))


def predicted(name: str, fits: list[Fit], cells: np.ndarray, days: np.ndarray, capacity: float) -> list[Record]:
    """Return errors of the later days by the fit with the most evidence, and the evidence for the mean of all."""
    evidences = np.array([fit.evidence for fit in fits])
    problem, found, clock, _ = fits[int(evidences.argmax())]
    evidence = float(np.logaddexp.reduce(evidences) - np.log(len(fits)))
    told = forecast(problem, found, clock[_LATER], key=jax.random.key(0), count=_DRAWS)
    truth, mean = cells[_LATER], capacity * told.density
    sums = capacity * told.volumes["cells"] / float(problem.anatomy.grid.voxel_volume)
    total = truth.sum(axis=(1, 2, 3), dtype=float)
    low, high = np.quantile(sums, _TAILS, axis=0)
    noise = float(found.params.observations["cells"].noise)
    deviation = np.sqrt((capacity * told.deviation) ** 2 + noise**2)
    # Where neither the rat nor the model has a tumour, a band is right for nothing.
    there = (truth > 0) | (mean > 0.1 * capacity)
    inside = np.abs(truth - mean) < NINETY * deviation
    errors = np.abs(sums.mean(axis=0) / total - 1)
    concordances = [_concordance(*pair) for pair in zip(truth, mean, strict=True)]
    details = {
        "days": days[_LATER].tolist(),
        "each": errors.tolist(),
        "cells": total.tolist(),
        "predicted": sums.mean(axis=0).tolist(),
        "ends of 90 %": [low.tolist(), high.tolist()],
        "parameters": {each.name: [each.value, each.deviation] for each in found.estimates()},
        "log evidence of each fit, nat": evidences.tolist(),
        "result": found.result.name,
    }
    within = float(np.mean((low <= total) & (total <= high)))
    return [
        Record(f"rat_{name}error_cells", float(errors.mean()), "1", "", details),
        Record(f"rat_{name}concordance", float(np.mean(concordances)), "1", "", {"each": concordances}),
        Record(f"rat_{name}coverage_90", float(inside[there].mean()), "1", "", {"voxels": int(there.sum())}),
        Record(f"rat_{name}total_coverage_90", within, "1"),
        Record(f"rat_{name}log_evidence", evidence, "nat"),
    ]


def totals(name: str, law: Any, cells: np.ndarray, days: np.ndarray) -> Record:
    """Return the error of the total on the later days by the law of a volume, from the same days and the first one."""
    total = cells.sum(axis=(1, 2, 3), dtype=float)
    # Any unit serves; in this one a tumour of a million cells has a volume of one.
    seen = total[:4] / 1e6
    limited = {} if name == "exponential" else {"capacity": LogNormal(3 * seen[-1], 1.0)}
    growth = VolumeParams(LogNormal(seen[0], 0.5), LogNormal(0.2, 1.0), 0.0, **limited)
    prior = Prior(Parameters(growth, {"volume": TumourVolumeParams(LogNormal(0.1, 0.5))}))
    visits = [Visit(day, {"volume": TumourVolume(float(each))}) for day, each in zip(days, seen, strict=False)]
    problem = Problem(law, None, visits, prior)
    told = forecast(problem, calibrate(problem, LBFGS()), days[_LATER], key=jax.random.key(0), count=400)
    spread, truth = told.volume("volume"), total[_LATER] / 1e6
    errors = np.abs(spread.mode / truth - 1)
    details = {
        "each": errors.tolist(),
        "predicted": (1e6 * spread.mode).tolist(),
        "ends of 90 %": [(1e6 * end).tolist() for end in (spread.low, spread.high)],
    }
    return Record(f"{name}_error_cells", float(errors.mean()), "1", "", details)


def _unchanged(cells: np.ndarray) -> Record:
    """Return the error of the total and the concordance where the last day that is seen stands for all later ones."""
    later, last = cells[_LATER], cells[_SEEN][-1]
    errors = [abs(float(last.sum(dtype=float) / each.sum(dtype=float)) - 1) for each in later]
    details = {"each": errors, "concordance": float(np.mean([_concordance(each, last) for each in later]))}
    return Record("no_change_error_cells", float(np.mean(errors)), "1", "", details)


def _concordance(a: np.ndarray, b: np.ndarray) -> float:
    """Return Lin's concordance correlation coefficient (1989) of two maps over all of the image."""
    x, y = np.ravel(a).astype(float), np.ravel(b).astype(float)
    return float(2 * np.cov(x, y, bias=True)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))
