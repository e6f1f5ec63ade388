"""What calibrations in several atlases say together: a mixture in which each counts the same."""

from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax

from tumorjax.calibration.calibration import Calibration, CalibrationResult
from tumorjax.calibration.problem import Fields, Problem
from tumorjax.calibration.scoring import Scored, scoring
from tumorjax.calibration.stages import in_use
from tumorjax.prior import Prior


def information_at(problem: Problem, point: np.ndarray) -> Generator[np.ndarray, Fields, Scored]:
    """Ask for the information of growth and seed together, as `scoring` does.

    Of Gaussians that hold next to nothing nothing is asked: the scan does not see them.
    """
    return scoring(problem, point, in_use(problem.prior, point), iterations=0, value_tolerance=0.0)


def covariance_of(scored: Scored) -> Float[np.ndarray, "n n"]:
    """Return the covariance of all coordinates; that of those that did not move is the prior's, one."""
    covariance = np.eye(scored.point.size)
    covariance[np.ix_(scored.moved, scored.moved)] = np.linalg.inv(scored.information)
    return covariance


def deviations(uncertain: list[Scored]) -> Float[np.ndarray, "m x y z"]:
    """Return the standard deviation of the density in each atlas.

    It is that of the linear model, but no larger than a quantity between zero and one of this mean can have.
    """
    found = []
    for one in uncertain:
        columns = np.stack([np.asarray(each.density, float) for each in one.derivatives.values()])
        moved = list(one.derivatives)
        spread = covariance_of(one)[np.ix_(moved, moved)]
        variance = np.einsum("i...,ij,j...->...", columns, spread, columns, optimize=True)
        density = np.clip(np.asarray(one.fields.density, float), 0, 1)
        found.append(np.sqrt(np.minimum(variance, density * (1 - density))))
    return np.stack(found)


def average(
    prior: Prior,
    problems: list[Problem],
    final: list[Scored],
    uncertain: list[Scored],
    result: CalibrationResult,
    stats: Any,
) -> Calibration:
    """Return the calibration that all atlases give together.

    Parameters
    ----------
    prior
        In the patient.
    problems, final
        In each atlas, and where its calibration ended.
    uncertain
        The information of all coordinates there.
    result, stats
        Of the calibration.
    """
    dtype, count = problems[0].anatomy.dtype, len(final)
    log_weights = log_softmax([-s.value for s in final])
    points = np.stack([s.point for s in final])
    mean = points.mean(axis=0)
    within = np.mean([covariance_of(one) for one in uncertain], axis=0)
    covariance = (points - mean).T @ (points - mean) / count + within
    samples = [p.prior.constrain(jnp.asarray(z, dtype)) for p, z in zip(problems, points, strict=True)]
    z = jnp.asarray(mean, dtype)
    return Calibration(
        params=prior.constrain(z),
        prior=prior,
        coordinates=z,
        covariance=jnp.asarray(covariance, dtype),
        result=result,
        stats=stats,
        samples=jax.tree.map(lambda *leaves: jnp.stack(leaves), *samples),
        log_weights=jnp.asarray(log_weights, dtype),
    )
