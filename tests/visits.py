"""Small problems of several visits, with known answers."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from tests.problems import OUTLINES, small_brain
from tumorjax.calibration import Parameters, Problem, Visit
from tumorjax.growth import Chemotherapy, ExponentialGrowth, FisherKolmogorov, GrowthParams, Radiotherapy, VolumeParams
from tumorjax.integrate import simulate
from tumorjax.observation import Outline, OutlineParams, TumourVolume, TumourVolumeParams
from tumorjax.prior import LogNormal, Normal, Prior, Uniform

# At the first visit.
TRUTH = GrowthParams(0.3, 0.1, np.array([-12.0, -6.0, 5.0]), 80.0)
DAYS = (100.0, 130.0, 175.0)


def radiation(alpha, days=(105.0, 106.0, 107.0)) -> Radiotherapy:
    """Return a few large fractions between the first visit and the second."""
    return Radiotherapy(days, 6.0, alpha)


def outlines(density, tissue, settings) -> dict:
    """Return outlines whose labels are the probabilities themselves, so that the likelihood is largest at the truth."""
    found = {}
    for name, params in OUTLINES.items():
        any_ = Outline(jnp.asarray(tissue, density.dtype), tissue, **settings)
        found[name] = dataclasses.replace(any_, inside=any_.probability(density, params))
    return found


def patient_of_visits(
    days=DAYS, *, dtype=float, treated=True, alpha=0.03, model=None, growth=None, anatomy=None
) -> Problem:
    """Return a patient seen on several days whose tumour is that of `TRUTH`, with radiation between the first two."""
    anatomy = small_brain(dtype) if anatomy is None else anatomy
    model = FisherKolmogorov() if model is None else model
    settings = {"false_positive": 0.01, "false_negative": 0.02, "effective_voxels": 300.0}
    truth, treatments = TRUTH if growth is None else growth, {"radiation": radiation(alpha)} if treated else {}
    unseen = [Visit(day, outlines(jnp.ones(anatomy.grid.shape, dtype), anatomy.tissue, settings)) for day in days]
    growth = GrowthParams(
        LogNormal(0.2, 1.0), LogNormal(0.05, 0.7), Normal(np.array([-9.0, -8.0, 3.0]), 8.0), LogNormal(100.0, 0.7)
    )
    if truth is not TRUTH:
        growth = dataclasses.replace(truth, growth=growth)
    unknown = {
        name: OutlineParams(Uniform(*box), 4.0) for name, box in (("core", (0.5, 0.85)), ("lesion", (0.05, 0.5)))
    }
    prior = Prior(Parameters(growth, unknown, {"radiation": {"alpha": LogNormal(0.05, 0.7)}} if treated else {}))
    problem = Problem(model, anatomy, unseen, prior, treatments=treatments)
    solution = simulate(model, truth, anatomy, treatments=list(problem.treatments.values()), calendar=problem.calendar)
    seen = [
        Visit(day, outlines(jnp.asarray(density), anatomy.tissue, settings))
        for day, density in zip(days, solution.series, strict=True)
    ]
    return Problem(model, anatomy, seen, prior, treatments=treatments)


RATE, FIRST, NOISE = 0.02, 2000.0, 0.05
MEDIAN, SPREAD, MEAN, DEVIATION = 1500.0, 1.0, 0.01, 0.02


def volumes_of_visits(days, seed=0) -> tuple[Problem, np.ndarray, np.ndarray]:
    """Return a tumour that grows exponentially, seen as volumes, with mean and covariance of its posterior.

    The logarithm of the volume is linear in the coordinates, and its noise is Gaussian, so that the posterior is, too.
    """
    elapsed = np.asarray(days) - days[0]
    noise = NOISE * np.random.default_rng(seed).normal(size=len(elapsed))
    logs = np.log(FIRST) + RATE * elapsed + noise
    growth = VolumeParams(LogNormal(MEDIAN, SPREAD), Normal(MEAN, DEVIATION), 0.0)
    prior = Prior(Parameters(growth, {"volume": TumourVolumeParams(NOISE)}))
    visits = [Visit(day, {"volume": TumourVolume(float(np.exp(v)))}) for day, v in zip(days, logs, strict=True)]
    slopes = np.stack([np.full(len(elapsed), SPREAD), DEVIATION * elapsed], axis=1) / NOISE
    covariance = np.linalg.inv(np.eye(2) + slopes.T @ slopes)
    mean = covariance @ slopes.T @ ((logs - np.log(MEDIAN) - MEAN * elapsed) / NOISE)
    return Problem(ExponentialGrowth(), None, visits, prior), mean, covariance


DOSES, DOSE, RATIO, DRUG = (20.0, 21.0, 22.0, 23.0), 2.0, 10.0, (60.0, 75.0)


def volumes_of_treated_visits(days=(0.0, 18.0, 30.0, 55.0, 80.0, 100.0)) -> tuple[Problem, np.ndarray, np.ndarray]:
    """Return the same under radiation and then a drug, whose effects are unknown, too: the posterior is Gaussian."""
    elapsed, random = np.asarray(days), np.random.default_rng(3)
    # By how much alpha and the rate of the drug lower the logarithm of the volume on each day.
    dosed = DOSE * (1 + DOSE / RATIO) * np.array([sum(day > dose for dose in DOSES) for day in elapsed])
    drugged = np.clip(elapsed, *DRUG) - DRUG[0]
    slopes = np.stack([np.full(len(elapsed), SPREAD), DEVIATION * elapsed, -0.02 * dosed, -0.01 * drugged], axis=1)
    middle = np.log(MEDIAN) + MEAN * elapsed - 0.05 * dosed - 0.03 * drugged
    truth = np.array([0.3, 0.5, 0.8, -0.7])
    logs = middle + slopes @ truth + NOISE * random.normal(size=len(elapsed))
    growth = VolumeParams(LogNormal(MEDIAN, SPREAD), Normal(MEAN, DEVIATION), 0.0)
    unknown = {"drug": {"rate": Normal(0.03, 0.01)}, "radiation": {"alpha": Normal(0.05, 0.02)}}
    prior = Prior(Parameters(growth, {"volume": TumourVolumeParams(NOISE)}, unknown))
    treatments = {
        "radiation": Radiotherapy(DOSES, DOSE, Normal(0.05, 0.02), RATIO),
        "drug": Chemotherapy(*DRUG, Normal(0.03, 0.01)),
    }
    visits = [Visit(day, {"volume": TumourVolume(float(np.exp(v)))}) for day, v in zip(days, logs, strict=True)]
    # The coordinates are in the order of the names: the drug comes before the radiation.
    slopes = slopes[:, [0, 1, 3, 2]] / NOISE
    covariance = np.linalg.inv(np.eye(4) + slopes.T @ slopes)
    mean = covariance @ slopes.T @ ((logs - middle) / NOISE)
    return Problem(ExponentialGrowth(), None, visits, prior, treatments=treatments), mean, covariance
