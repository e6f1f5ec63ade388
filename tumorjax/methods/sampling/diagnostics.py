"""How well draws stand for the posterior, in numbers and in words."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from tumorjax.methods.sampling.sample import SamplerStats
from tumorjax.quality import Note, Status

# Vehtari et al., "Rank-normalization, folding, and localization: an improved R-hat", Bayesian Analysis 16 (2021):
# chains that agree, and as many effective draws as quantiles and their own diagnostics need.
R_HAT, EFFECTIVE = 1.01, 400
# With fewer accepted proposals in a stage, particles stay copies of each other.
ACCEPTANCE = 0.05
# A larger share of failed solves is more than the far ends of a prior.
FAILING = 0.1
# With a larger share of proposals of which a screen knows nothing, the posterior reaches there.
UNSCREENED = 0.02
# With a smaller share of simulations like the patient, a network is not to be trusted.
LEAST_TYPICALITY = 0.01


@dataclass(frozen=True)
class Diagnostics:
    """How well a sampler's draws stand for the posterior.

    Parameters
    ----------
    method
        Title of the sampler.
    chains, draws
        Number of chains, and number of draws in all chains together.
    distinct
        Number of draws of which no two are the same.
    effective
        Effective number of draws: for chains the smallest over the coordinates, otherwise (sum w)² / sum w² over the
        weights of the distinct draws.
    solves, failed
        Number of solves of the growth model on any grid, and how many of them gave no likelihood.
    divergences
        Number of trajectories that were cut off; None for a sampler without trajectories.
    r_hat, ess
        Split R-hat and effective draws by the name of the coordinate; empty for a sampler without chains.
    log_evidence
        Logarithm of the evidence, nat; None for a sampler that does not estimate it.
    ladder
        Numbers of the stages by their name; empty for a sampler without stages.
    typicality
        Share of simulations that are less like the others than the patient is; None for a sampler without simulations.
    screened
        How many of the solves were those of a screen, on coarser voxels or by a network.
    unscreened
        Share of the last proposals for which the screen had no answer; None without a screen.
    """

    method: str
    chains: int
    draws: int
    distinct: int
    effective: float
    solves: int
    failed: int
    divergences: int | None = None
    r_hat: dict[str, float] = field(default_factory=dict)
    ess: dict[str, float] = field(default_factory=dict)
    log_evidence: float | None = None
    ladder: dict[str, list[float]] = field(default_factory=dict)
    typicality: float | None = None
    screened: int = 0
    unscreened: float | None = None

    def notes(self) -> list[str]:
        """Return what is wrong with the draws, in words; all but single failed solves makes the result doubtful."""
        notes: list[str] = []

        def doubt(text: str) -> None:
            notes.append(Note(text, Status.DOUBTFUL))

        # A chain that never moved has no R-hat.
        unmixed = {name: value for name, value in self.r_hat.items() if not value <= R_HAT}
        if unmixed:
            worst = max(unmixed, key=lambda name: np.nan_to_num(unmixed[name], nan=np.inf))
            doubt(
                f"The chains have not mixed: R-hat is above {R_HAT} for {len(unmixed)} of {len(self.r_hat)} "
                f"coordinates, {unmixed[worst]:.4g} for {worst}; means and intervals may be wrong. Take more draws."
            )
        if not self.effective >= EFFECTIVE:
            doubt(
                f"The {self.draws} draws are worth {self.effective:.0f} independent ones; below {EFFECTIVE} the ends "
                "of intervals are rough. Take more."
            )
        if self.divergences:
            doubt(
                f"{self.divergences} of {self.draws} trajectories diverged: a part of the posterior may have been "
                "left out."
            )
        if self.failed:
            text = f"{self.failed} of {self.solves} solves gave no likelihood; their parameters count as impossible."
            notes.append(Note(text, Status.DOUBTFUL if self.failed > FAILING * self.solves else Status.GOOD))
        if self.typicality is not None and self.typicality < LEAST_TYPICALITY:
            doubt(
                "Hardly any simulation is like this patient's images, so that the network had to extrapolate. "
                "Compare with another method."
            )
        if self.unscreened is not None and self.unscreened > UNSCREENED:
            doubt(
                f"For {100 * self.unscreened:.0f} % of the last proposals the screen had no answer, so that they were "
                "rejected: the posterior may reach where the draws do not. Take another screen, or none."
            )
        accepted = self.ladder.get("acceptance", [1.0])
        if min(accepted) < ACCEPTANCE:
            doubt(
                f"In a stage only {100 * min(accepted):.1f} % of the proposals were accepted, so that particles are "
                "copies of each other; take more steps in a stage, or more particles."
            )
        return notes

    def facts(self) -> list[tuple[str, str]]:
        """Return labels and values of the table of facts in the report."""
        chains = f"{self.chains} chains of " if self.chains > 1 else ""
        found = [
            ("draws", f"{chains}{self.draws // self.chains}"),
            ("distinct draws", str(self.distinct)),
            ("effective draws", f"{self.effective:.0f}"),
            ("solves of the growth model", str(self.solves)),
            ("failed solves", str(self.failed)),
        ]
        if self.screened:
            found.insert(4, ("of these by the screen", str(self.screened)))
        if self.divergences is not None:
            found.append(("divergences", str(self.divergences)))
        if self.log_evidence is not None:
            found.append(("logarithm of the evidence, nat", f"{self.log_evidence:.1f}"))
        return found

    def entry(self) -> dict[str, object]:
        """Return the diagnostics for a JSON file, which has no NaN."""

        def plain(value: object) -> object:
            if isinstance(value, Mapping):
                return {key: plain(each) for key, each in value.items()}
            return None if isinstance(value, float) and not np.isfinite(value) else value

        return {key: plain(value) for key, value in dataclasses.asdict(self).items()}


def diagnose(
    names: Sequence[str],
    draws: Float[np.ndarray, "c d n"],
    log_weights: Float[np.ndarray, "m"],
    log_evidence: float,
    method: str,
    stats: SamplerStats,
) -> Diagnostics:
    """Return how well draws stand for the posterior, from themselves and from the run of their sampler.

    Parameters
    ----------
    names
        Names of the coordinates.
    draws, log_weights, log_evidence
        See `Posterior`.
    method
        Title of the sampler.
    stats
        How its run went.
    """
    weights = np.exp(log_weights - log_weights.max())
    _, which = np.unique(draws.reshape(-1, draws.shape[-1])[weights > 0], axis=0, return_inverse=True)
    together = np.bincount(which.ravel(), weights[weights > 0])
    effective = float(together.sum() ** 2 / np.sum(together**2)) if stats.ess is None else float(np.min(stats.ess))
    return Diagnostics(
        method=method,
        chains=draws.shape[0],
        draws=draws.shape[0] * draws.shape[1],
        distinct=len(together),
        effective=effective,
        solves=stats.cost.solves + stats.cost.coarse_solves,
        failed=stats.failed,
        divergences=stats.divergences,
        r_hat=_named(names, stats.r_hat),
        ess=_named(names, stats.ess),
        log_evidence=log_evidence if np.isfinite(log_evidence) else None,
        ladder={name: [float(value) for value in row] for name, row in stats.ladder.items()},
        typicality=stats.typicality,
        screened=stats.cost.coarse_solves,
        unscreened=stats.unscreened,
    )


def _named(names: Sequence[str], numbers: Float[np.ndarray, "n"] | None) -> dict[str, float]:
    return {} if numbers is None else dict(zip(names, np.asarray(numbers, float).tolist(), strict=True))


def mixing(draws: Float[np.ndarray, "c d n"]) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Return split R-hat and the effective sample size of each coordinate of several chains."""
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

    draws = np.asarray(draws, float)
    return split_gelman_rubin(draws), effective_sample_size(draws)
