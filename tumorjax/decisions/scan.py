"""How much a scan on a further day is expected to say about the growth and about the future."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.calibration import Calibration, Parameters, Problem
from tumorjax.calibration.draws import draws_of
from tumorjax.calibration.forecast import continued
from tumorjax.calibration.laplace import information_of_images, linearised
from tumorjax.calibration.problem import Fields
from tumorjax.growth import Treatment
from tumorjax.observation import Outline
from tumorjax.prior import AbstractDistribution


class ScanGains(NamedTuple):
    """What a scan on each of some days is expected to say, beyond all visits so far.

    Parameters
    ----------
    days
        (d,), day: on the clock of the visits.
    speed
        (d,), nat: expected gain of information on the speed of growth: the logarithm of how many times smaller its
        standard deviation becomes; zero where the speed is assumed. None for the law of a volume, which has no speed.
    forecast
        (d,), nat: the same of the logarithm of the volume on the day that is to be forecast.
    until
        day: that day.
    """

    days: Float[np.ndarray, "d"]
    speed: Float[np.ndarray, "d"] | None
    forecast: Float[np.ndarray, "d"]
    until: float


def scan_gains(
    problem: Problem,
    calibration: Calibration,
    days: Sequence[float],
    until: float,
    *,
    key: Key[Array, ""],
    treatments: Mapping[str, Treatment] | None = None,
    speed: AbstractDistribution | None = None,
    count: int = 8,
    progress: Callable[[float], None] = lambda share: None,
) -> ScanGains:
    """Return the information that one more scan, on each of some days, is expected to bring.

    At each draw of the posterior the images are taken as linear in the coordinates and their noise as Gaussian, which
    gives the covariance with and without the scan in closed form, before anybody has taken it. The mean over the draws
    is the expected gain. The scan is as good as that of the last visit.

    Parameters
    ----------
    problem, calibration
        The problem that was calibrated, and what any method returned for it.
    days
        Candidate days, each by itself, after the last visit.
    until
        The day that is to be forecast.
    key
        Random key of the draws.
    treatments
        What is done before the last of these days besides the treatments of the problem, as of `forecast`.
    speed
        Distribution of the speed of growth where there is one date, as of `forecast`: what a second date would show.
    count
        Number of draws, each of which takes a solve with tangents.
    progress
        Receives the share that is done.

    Raises
    ------
    ValueError
        If a candidate is not after the last visit, or there is none; if the problem has no outline to forecast; if no
        draw has a solve. See `forecast` for more.

    References
    ----------
    Lindley, "On a measure of the information provided by an experiment", Ann. Math. Statist. 27 (1956); with a linear
    model, Chaloner and Verdinelli, "Bayesian experimental design: a review", Statist. Sci. 10 (1995), section 2.
    """
    candidates = np.asarray([float(day) for day in days])
    last = float(problem.visits[-1].day)
    if not candidates.size or not np.all(candidates > last):
        raise ValueError(f"candidates for a scan are days after the last visit on day {last:g}, got {list(days)}")
    drawn, name, found = draws_of(problem, calibration, key, count, speed), _outline(problem), []
    done, total = 0, sum(len(draws.params) for draws in drawn)
    for own, draws in drawn:
        # The same day twice is one visit; visits so far come first, since no candidate is before the last of them.
        together, (*scans, end) = continued(own, np.array([*candidates, float(until)]), treatments or {})
        for params in draws:
            z = jnp.asarray(own.prior.unconstrain(params))
            gains = np.asarray(_gains(together, z, len(own.visits), tuple(scans), end, name), float)
            if np.isfinite(gains).all():
                found.append(gains)
            done += 1
            progress(done / total)
    if not found:
        raise ValueError(f"none of the {total} draws could be followed to day {max(*candidates, until):g}")
    mean = np.mean(found, axis=0)
    return ScanGains(candidates, None if problem.anatomy is None else mean[0], mean[-1], float(until))


def _outline(problem: Problem) -> str | None:
    """Return the name of the outline whose volume is forecast, the largest one; None for the law of a volume."""
    if problem.anatomy is None:
        return None
    images = problem.visits[-1].observations
    outlines = {name: float(np.sum(o.inside)) for name, o in images.items() if isinstance(o, Outline)}
    if not outlines:
        raise ValueError("a forecast of the volume needs an outline at the last visit, and there is none")
    return max(outlines, key=outlines.__getitem__)


@eqx.filter_jit
def _gains(
    problem: Problem, z: Float[Array, "n"], known: int, scans: tuple[int, ...], end: int, name: str | None
) -> Float[Array, "q d"]:
    """Return the gain on speed (unless the volume has a law) and on the volume at the end, by each scan alone."""
    at, still = linearised(problem, z), jnp.zeros_like(z)
    images = information_of_images(problem, at, still)
    of_visit = [jnp.zeros((z.size, z.size), z.dtype) for _ in problem.visits]
    position = {f"{image}_{i + 1}": i for i, visit in enumerate(problem.visits) for image in visit.observations}
    for own, information in images.items():
        of_visit[position[own]] += information
    before = sum(of_visit[:known], jnp.eye(z.size, dtype=z.dtype))

    def quantities(step: Array) -> Array:
        shown, moved = at(step)
        params = problem.prior.constrain(moved)
        # With one visit more than the known ones there are several.
        field: Any = shown[end]
        volume = jnp.log(field.volume if name is None else _volume(problem, field, params, name, end))
        return volume[None] if name is None else jnp.stack([_log_speed(params), volume])

    slopes = jax.jacfwd(quantities)(still)

    def variances(information: Array) -> Array:
        return jnp.sum(slopes * jnp.linalg.solve(information, slopes.T).T, axis=1)

    now = variances(before)
    fixed = now == 0

    def gain(scan: int) -> Array:
        then = variances(before + of_visit[scan])
        # Nothing is to be gained on what is known already.
        return jnp.where(fixed, 0, 0.5 * jnp.log(jnp.where(fixed, 1, now) / jnp.where(fixed, 1, then)))

    return jnp.stack([gain(scan) for scan in scans], axis=1)


def _log_speed(params: Parameters) -> Float[Array, ""]:
    """Return the logarithm of v = 2 sqrt(D_w rho), up to a constant."""
    physical = params.growth.physical()
    return 0.5 * (jnp.log(physical.diffusivity) + jnp.log(physical.proliferation))


def _volume(problem: Problem, field: Fields, params: Parameters, name: str, visit: int) -> Float[Array, ""]:
    """Return the number of voxels that an outline without errors is expected to hold: smooth in the parameters."""
    outline: Any = problem.visits[visit].observations[name]
    seen = params.observations[name]
    return jnp.sum(jnp.where(outline.valid, outline.link(field.density, seen.threshold, seen.sharpness), 0))
