"""How well draws stand for the posterior, in numbers and in words."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tumorjax.calibration.neural.state import LEAST_TYPICALITY
from tumorjax.calibration.sampling.posterior import Posterior
from tumorjax.quality import Note, Status

# Vehtari et al., "Rank-normalization, folding, and localization: an improved R-hat", Bayesian Analysis 16 (2021):
# chains that agree, and as many effective draws as quantiles and their own diagnostics need.
R_HAT, EFFECTIVE = 1.01, 400
# With fewer accepted proposals in a stage, particles stay copies of each other.
ACCEPTANCE = 0.05
# A larger share of failed solves is more than the far ends of a prior.
FAILING = 0.1


@dataclass(frozen=True)
class Diagnostics:
    """What a sampler's draws are worth.

    Parameters
    ----------
    method
        Its name.
    chains, draws
        Chains, and draws of all together.
    distinct
        Draws of which no two are the same.
    effective
        Effective number of draws: of chains the smallest over the coordinates, otherwise (sum w)² / sum w² of the
        distinct draws' weights.
    solves, failed
        Solves of the growth model on any grid, and how many of them gave no likelihood.
    divergences
        Trajectories that were cut off; None of a method without trajectories.
    r_hat, ess
        By the name of the coordinate: split R-hat and effective draws; empty of a method without chains.
    log_evidence
        nat; None of a method that does not estimate it.
    ladder
        Figures of the stages by their name; empty of a method without stages.
    typicality
        Share of simulations that are less like the others than the patient is; None of a method without.
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
                f"coordinates, {unmixed[worst]:.3g} for {worst}; means and intervals may be wrong. Take more draws."
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
                "Hardly any simulation is like this patient's images: the network answered for what it has not seen. "
                "Compare with another method."
            )
        accepted = self.ladder.get("acceptance", [1.0])
        if min(accepted) < ACCEPTANCE:
            doubt(
                f"In a stage only {100 * min(accepted):.1f} % of the proposals were accepted, so that particles are "
                "copies of each other; take more steps in a stage, or more particles."
            )
        return notes


def diagnose(posterior: Posterior) -> Diagnostics:
    """Return what a posterior's draws are worth, from themselves and from what their method kept of its run."""
    stats, names = posterior.stats, posterior.prior.names
    draws, log_weights = np.asarray(posterior.draws), np.asarray(posterior.log_weights, float)
    weights = np.exp(log_weights - log_weights.max())
    _, which = np.unique(draws.reshape(-1, draws.shape[-1])[weights > 0], axis=0, return_inverse=True)
    together = np.bincount(which.ravel(), weights[weights > 0])
    effective = float(together.sum() ** 2 / np.sum(together**2))
    r_hat, ess = {}, {}
    if hasattr(stats, "r_hat"):
        r_hat = dict(zip(names, np.asarray(stats.r_hat, float).tolist(), strict=True))
        ess = dict(zip(names, np.asarray(stats.ess, float).tolist(), strict=True))
        effective = float(np.min(stats.ess))
    ladder = {}
    if hasattr(stats, "temperatures"):
        rows = {"temperature": stats.temperatures, "acceptance": stats.acceptance, "effective draws": stats.ess}
        ladder = {name: [float(value) for value in row] for name, row in rows.items()}
    typicality = None
    if hasattr(stats, "typicality"):
        typicality = float(stats.typicality[-1])
    evidence = None if posterior.log_evidence is None else float(posterior.log_evidence)
    return Diagnostics(
        method=type(stats).__name__.removesuffix("Stats"),
        chains=draws.shape[0],
        draws=draws.shape[0] * draws.shape[1],
        distinct=len(together),
        effective=effective,
        solves=solves_of(stats),
        failed=int(getattr(stats, "failed", 0)) + int(getattr(stats, "coarse_failed", 0)),
        divergences=getattr(stats, "divergences", None),
        r_hat=r_hat,
        ess=ess,
        log_evidence=evidence if evidence is not None and np.isfinite(evidence) else None,
        ladder=ladder,
        typicality=typicality,
    )


def solves_of(stats: Any) -> int:
    """Return the solves on any grid that a method's figures tell of, those before it began among them.

    A gradient holds one.
    """
    own = sum(
        max(int(getattr(stats, f"{grid}solves", 0)), int(getattr(stats, f"{grid}gradients", 0)))
        for grid in ("", "coarse_")
    )
    begun = getattr(stats, "init", None)
    return own if begun is None else own + solves_of(begun)
