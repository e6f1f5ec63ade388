"""The posterior as a sampler gives it: draws, and everything that others need to know of them."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.calibration.calibration import Calibration
from tumorjax.calibration.cost import Cost
from tumorjax.calibration.estimates import Spread, weighted_spread
from tumorjax.calibration.maps import Maps
from tumorjax.calibration.model_evidence import Evidence
from tumorjax.calibration.problem import Parameters, Problem
from tumorjax.calibration.result import CalibrationResult
from tumorjax.methods.sampling.diagnostics import Diagnostics, diagnose
from tumorjax.methods.sampling.inference_data import to_inference_data, write_inference_data
from tumorjax.methods.sampling.maps import posterior_maps
from tumorjax.methods.sampling.sample import Sample
from tumorjax.sections import Draws, Section, Table

# Where the prior is shown, in its own coordinates.
_PRIOR = np.linspace(-3.0, 3.0, 201)


class Posterior(Calibration):
    """A calibration by draws from the posterior; `params` are those of the draw of highest posterior density.

    Parameters
    ----------
    draws
        (c, d, n): d draws of c chains, in the prior's coordinates. `samples` are the same as parameters, chain after
        chain, with their `log_weights`.
    log_likelihoods
        (c, d), nat.
    log_evidence
        Logarithm of the evidence, nat; NaN from a method that does not estimate it.

    `stats` is the `SamplerStats` of the run.
    """

    draws: Float[Array, "c d n"] | None = None
    log_likelihoods: Float[Array, "c d"] | None = None
    log_evidence: Float[Array, ""] | None = None

    @cached_property
    def diagnostics(self) -> Diagnostics:
        """How well the draws stand for the posterior."""
        log_weights, evidence = np.asarray(self.log_weights, float), self.log_evidence
        evidence = np.nan if evidence is None else float(evidence)
        return diagnose(self.prior.names, np.asarray(self.draws), log_weights, evidence, self.method, self.stats)

    @property
    def description(self) -> str:
        """How the model was calibrated, to follow its title."""
        return f"posterior by {self.method}"

    @property
    def estimate(self) -> str:
        """What the values and standard deviations of the estimates are, in words."""
        return (
            "mean of draws from the posterior, with their standard deviations and 90 % credible intervals; map is the "
            "draw of highest posterior density"
        )

    @property
    def evidence(self) -> Evidence | None:
        """The evidence that the sampler estimates, with its standard error; None from one that does not."""
        if self.log_evidence is None or not np.isfinite(self.log_evidence):
            return None
        error = getattr(self.stats, "log_evidence_error", None)
        return Evidence(float(self.log_evidence), np.nan if error is None else float(error))

    @property
    def centre(self) -> Parameters:
        """The mean of the draws, by their weights."""
        return self.spread(lambda params: params).value

    def starts(self) -> list[np.ndarray]:
        """Return the draw of highest posterior density, at which a search that begins with the draws starts."""
        return [np.asarray(self.coordinates, float)]

    def spread(self, quantity: Callable[[Parameters], Any]) -> Spread:
        """Return mean, standard deviation and interval of a quantity over the draws, by their weights."""
        samples: Any = self.samples
        return weighted_spread(jax.vmap(quantity)(samples), self.log_weights, quantity(self.params))

    def maps(
        self,
        problem: Problem,
        thresholds: Sequence[float] = (),
        progress: Callable[[float], None] = lambda share: None,
    ) -> Maps:
        """Return maps over the draws; see `posterior_maps`."""
        return posterior_maps(problem, self, thresholds, progress=progress)

    def notes(self, problem: Problem, *, alone: bool = True) -> list[str]:
        """Return what is wrong with the draws, unless they are only where another method began."""
        return self.diagnostics.notes() if alone else []

    def figures(self) -> dict[str, float | int | None]:
        """Return the effective number of draws, and the logarithm of the evidence where the sampler estimates it."""
        evidence = self.evidence
        found = {} if evidence is None else {"log_evidence": round(evidence.value, 2)}
        return {"effective_draws": round(self.diagnostics.effective, 1), **found}

    def sections(self) -> list[Section]:
        """Return the section of the draws: how they spread and mix, and how well they stand for the posterior."""
        facts = [*self.diagnostics.facts(), ("result", self.result.value)]
        table = Table(("", ""), facts, title="Quality of the draws")
        return [Section(f"Draws by {self.method}", [self._block(), table])]

    def _block(self) -> Draws:
        assert self.log_likelihoods is not None
        prior, diagnostics = self.prior, self.diagnostics
        rows = {row.coordinate: row.name for row in self.estimates() if row.coordinate}
        order = [prior.names.index(coordinate) for coordinate in rows]
        weights = np.exp(np.asarray(self.log_weights, float)).reshape(self.log_likelihoods.shape)
        # Every parameter increases with its coordinate, so that a line in all of them shows each prior.
        line = jnp.asarray(np.repeat(_PRIOR[:, None], prior.size, axis=1), self.coordinates.dtype)
        known = self._columns(jax.vmap(prior.constrain)(line))[:, order]
        density = np.exp(-0.5 * _PRIOR[:, None] ** 2) / np.sqrt(2 * np.pi) / np.gradient(known, _PRIOR, axis=0)
        return Draws(
            names=list(rows.values()),
            values=self._columns(self.samples)[:, order].reshape(*weights.shape, len(order)),
            weights=weights,
            prior=known,
            prior_density=density,
            mixing={
                rows[name]: (value, diagnostics.ess[name]) for name, value in diagnostics.r_hat.items() if name in rows
            },
            ladder=diagnostics.ladder,
        )

    def tables(self) -> dict[str, Any]:
        """Return the diagnostics for the file of parameters."""
        return {"diagnostics": self.diagnostics.entry()}

    def files(self) -> dict[str, Callable[[Path], None]]:
        """Return how to write the draws as `posterior.nc`, for ArviZ and other programs."""
        return {"posterior.nc": lambda path: write_inference_data(path, to_inference_data(self))}

    def sample(self, key: Key[Array, ""], count: int) -> Parameters:
        """Draw parameters from the draws, by their weights, with a leading axis of `count`."""
        chosen = jax.random.categorical(key, jnp.asarray(self.log_weights), shape=(count,))
        return jax.tree.map(lambda leaf: leaf[chosen], self.samples)

    def mean(self, quantity: Callable[[Parameters], Any] = lambda params: params) -> Any:
        """Return the mean of a quantity over the draws, by their weights; draws are evaluated one after another."""
        return self._average(jax.lax.map(quantity, self.samples))

    def standard_deviations(self, quantity: Callable[[Parameters], Any] = lambda params: params) -> Any:
        """Return the standard deviation of every number of a quantity over the draws, by their weights.

        These are not derivatives at one draw: near a bound of the prior, a slope says nothing about the other draws.
        """
        found = jax.lax.map(quantity, self.samples)
        away = jax.tree.map(lambda leaf, mean: (leaf - mean) ** 2, found, self._average(found))
        return jax.tree.map(jnp.sqrt, self._average(away))

    def _columns(self, params: Parameters | None) -> Float[np.ndarray, "m k"]:
        """Return parameters with a leading axis as (m, n), in the order of the prior's coordinates."""
        leaves = self.prior.unknown(params).values()
        return np.concatenate([np.asarray(leaf, float).reshape(len(leaf), -1) for leaf in leaves], axis=1)

    def _average(self, values: Any) -> Any:
        weights = jnp.exp(jnp.asarray(self.log_weights))
        return jax.tree.map(lambda leaf: jnp.tensordot(weights / weights.sum(), leaf, axes=1), values)


def posterior_of(problem: Problem, sample: Sample, *, method: str = "", cost: Cost | None = None) -> Posterior:
    """Return the calibration that draws make.

    Parameters
    ----------
    problem
        The problem that was sampled.
    sample
        Draws from its posterior.
    method
        Title of the sampler.
    cost
        What the draws took, with the search around which they began; by default that of the sample.
    """
    dtype = problem.dtype
    draws, log_likelihoods = sample.draws, sample.log_likelihoods
    flat = draws.reshape(-1, draws.shape[-1])
    shares = np.zeros(len(flat)) if sample.log_weights is None else sample.log_weights.reshape(-1)
    shares = shares - np.logaddexp.reduce(shares)
    weights = np.exp(shares)
    from_mean = flat - weights @ flat
    best = int(np.argmax(log_likelihoods.reshape(-1) - 0.5 * np.sum(flat**2, axis=1)))
    coordinates = jnp.asarray(flat[best], dtype)
    return Posterior(
        params=problem.prior.constrain(coordinates),
        prior=problem.prior,
        coordinates=coordinates,
        covariance=jnp.asarray(from_mean.T @ (weights[:, None] * from_mean), dtype),
        result=CalibrationResult.COMPLETE,
        stats=sample.stats,
        samples=jax.vmap(problem.prior.constrain)(jnp.asarray(flat, dtype)),
        log_weights=jnp.asarray(shares, dtype),
        draws=jnp.asarray(draws, dtype),
        log_likelihoods=jnp.asarray(log_likelihoods, dtype),
        log_evidence=jnp.asarray(sample.log_evidence, dtype),
        method=method,
        cost=sample.stats.cost if cost is None else cost,
    )
