"""Draws of a sampler from a target, and the numbers of its run."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from tumorjax.calibration.cost import Cost


class SamplerStats(NamedTuple):
    """The numbers of a sampler's run; one that a sampler does not have is None or empty.

    Parameters
    ----------
    cost
        Solves and gradients, and the seconds of all runs that led to these draws, without the search that began them.
    failed
        Number of solves, on any grid, that gave no likelihood.
    acceptance
        Share of accepted proposals, for each chain or for each stage.
    divergences
        Number of trajectories that were cut off, because the energy was lost or a solve failed.
    r_hat, ess
        (n,): split R-hat and effective number of draws of each coordinate, over all chains.
    effective
        Effective number of weighted draws, (sum w)^2 / sum w^2.
    log_evidence_error
        Standard error of the logarithm of the evidence, nat.
    typicality
        Share of the simulations that are less like the others than the patient is.
    unscreened
        Share of the last proposals for which the screen had no answer, so that none of them was accepted; None without
        a screen.
    ladder
        Numbers of each stage by their name: `temperature` from 0 to 1, `acceptance`, `effective draws`.
    details
        Further numbers of the sampler by their name.
    """

    cost: Cost = Cost()
    failed: int = 0
    acceptance: tuple[float, ...] = ()
    divergences: int | None = None
    r_hat: Float[np.ndarray, "n"] | None = None
    ess: Float[np.ndarray, "n"] | None = None
    effective: float | None = None
    log_evidence_error: float | None = None
    typicality: float | None = None
    unscreened: float | None = None
    ladder: dict[str, tuple[float, ...]] = {}  # noqa: RUF012
    details: dict[str, Any] = {}  # noqa: RUF012

    def numbers(self) -> dict[str, Any]:
        """Return everything that the sampler has by name, without levels."""
        own = {name: value for name, value in self._asdict().items() if name not in ("cost", "ladder", "details")}
        stages = {name.replace(" ", "_"): row for name, row in self.ladder.items()}
        found = {**vars(self.cost), **own, **stages, **self.details}
        return {name: value for name, value in found.items() if value is not None}


class Sample(NamedTuple):
    """Draws from a target, in coordinates in which the prior is standard normal.

    Parameters
    ----------
    draws
        (c, d, n): d draws of c chains; one chain for a sampler without chains.
    log_likelihoods
        (c, d), nat.
    log_weights
        (c, d): logarithms of weights, up to a constant; None where all draws weigh the same.
    log_evidence
        Logarithm of the evidence, nat; NaN from a sampler that does not estimate it.
    stats
        Numbers of the run.
    """

    draws: Float[np.ndarray, "c d n"]
    log_likelihoods: Float[np.ndarray, "c d"]
    log_weights: Float[np.ndarray, "c d"] | None = None
    log_evidence: float = np.nan
    stats: SamplerStats = SamplerStats()


def effective_number(log_weights: Float[np.ndarray, "m"]) -> float:
    """Return the effective number of weighted draws, (sum w)^2 / sum w^2."""
    weights = np.exp(log_weights - log_weights.max())
    return float(weights.sum() ** 2 / np.sum(weights**2))


def evidence_error(effective: float, count: int) -> float:
    """Return the standard error of the logarithm of the evidence, from the effective number of `count` draws.

    By the delta method: the variance of the mean weight over its square.
    """
    return float(np.sqrt(max(1 / effective - 1 / count, 0)))


def log_mean(logs: Float[np.ndarray, "m"]) -> float:
    """Return the logarithm of the mean of numbers whose logarithms are given."""
    return float(np.logaddexp.reduce(logs) - np.log(len(logs)))


def log_prior(points: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m"]:
    """Return the log-density of the prior, which is standard normal."""
    return -0.5 * np.sum(points**2, axis=1) - 0.5 * points.shape[1] * np.log(2 * np.pi)
