"""Draws from the posterior, for the files and the report of a personalization."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tumorjax.calibration.sampling.inference_data import to_inference_data, write_inference_data
from tumorjax.calibration.sampling.posterior import Posterior
from tumorjax.pipeline.diagnostics import Diagnostics
from tumorjax.pipeline.personalize import LEVELS, Personalization
from tumorjax.planning import credible_volume, millilitres
from tumorjax.report import Draws

# What the samplers are called.
METHODS = {
    "TMCMC": "transitional Markov chain Monte Carlo (TMCMC)",
    "NUTS": "the No-U-Turn sampler (NUTS)",
    "NeuralPosterior": "neural posterior estimation (NPE)",
}
# Where a prior is drawn, in its own coordinates.
_PRIOR = np.linspace(-3.0, 3.0, 201)


def write_draws(out: Path, posterior: Posterior) -> None:
    """Write the draws as `posterior.nc`, for ArviZ and other programs."""
    write_inference_data(out / "posterior.nc", to_inference_data(posterior))


def diagnostics_entry(diagnostics: Diagnostics) -> dict[str, object]:
    """Return diagnostics for a JSON file, which has no NaN."""

    def plain(value: object) -> object:
        if isinstance(value, Mapping):
            return {key: plain(each) for key, each in value.items()}
        return None if isinstance(value, float) and not np.isfinite(value) else value

    return {key: plain(value) for key, value in dataclasses.asdict(diagnostics).items()}


def draws_of(result: Personalization, brain: np.ndarray, spacing: np.ndarray) -> Draws | None:
    """Return what the report shows of the draws; None without draws.

    Parameters
    ----------
    result
        Of the personalization.
    brain
        (x, y, z), bool, in the patient's geometry, of which `spacing` (mm) is that of the voxels.
    """
    posterior, diagnostics = result.calibration, result.diagnostics
    if not isinstance(posterior, Posterior) or diagnostics is None or posterior.log_likelihoods is None:
        return None
    prior = posterior.prior
    rows = {row.coordinate: row.name for row in result.estimates if row.coordinate}
    order = [prior.names.index(coordinate) for coordinate in rows]
    weights = np.exp(np.asarray(posterior.log_weights, float)).reshape(posterior.log_likelihoods.shape)
    # Every parameter increases with its coordinate, so that a line in all of them shows each prior.
    line = jnp.asarray(np.repeat(_PRIOR[:, None], prior.size, axis=1), posterior.coordinates.dtype)
    known = _columns(posterior, jax.vmap(prior.constrain)(line))[:, order]
    density = np.exp(-0.5 * _PRIOR[:, None] ** 2) / np.sqrt(2 * np.pi) / np.gradient(known, _PRIOR, axis=0)
    values = _columns(posterior, posterior.samples)[:, order]
    return Draws(
        method=f"Draws by {METHODS.get(diagnostics.method, diagnostics.method)}",
        names=list(rows.values()),
        values=values.reshape(*weights.shape, len(order)),
        weights=weights,
        prior=known,
        prior_density=density,
        facts=_facts(diagnostics, posterior.result.value),
        mixing={
            rows[name]: (value, diagnostics.ess[name]) for name, value in diagnostics.r_hat.items() if name in rows
        },
        ladder=diagnostics.ladder,
        volumes=[
            (
                f"density > {threshold:g}",
                _volume(each, brain, LEVELS[0], spacing),
                _volume(each, brain, LEVELS[1], spacing),
            )
            for threshold, each in result.probabilities.items()
        ],
    )


def _columns(posterior: Posterior, params: object) -> np.ndarray:
    """Return parameters with a leading axis as (m, n), in the order of the prior's coordinates."""
    return np.concatenate(
        [np.asarray(leaf, float).reshape(len(leaf), -1) for leaf in posterior.prior.unknown(params).values()],
        axis=1,
    )


def _volume(probability: np.ndarray, brain: np.ndarray, level: float, spacing: np.ndarray) -> float:
    return millilitres(credible_volume(probability, brain, level), spacing)


def _facts(diagnostics: Diagnostics, result: str) -> list[tuple[str, str]]:
    chains = f"{diagnostics.chains} chains of " if diagnostics.chains > 1 else ""
    found = [
        ("draws", f"{chains}{diagnostics.draws // diagnostics.chains}"),
        ("of which no two are the same", str(diagnostics.distinct)),
        ("effective draws", f"{diagnostics.effective:.0f}"),
        ("solves of the growth model", str(diagnostics.solves)),
        ("of which failed", str(diagnostics.failed)),
    ]
    if diagnostics.divergences is not None:
        found.append(("divergences", str(diagnostics.divergences)))
    if diagnostics.log_evidence is not None:
        found.append(("logarithm of the evidence, nat", f"{diagnostics.log_evidence:.1f}"))
    return [*found, ("result", result)]
