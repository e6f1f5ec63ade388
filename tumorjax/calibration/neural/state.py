"""Where neural posterior estimation is, and what it says of itself."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from tumorjax.calibration.learn_morph_infer import DoubtfulEstimate
from tumorjax.calibration.neural.gaussians import Gaussians
from tumorjax.calibration.neural.simulations import Kept
from tumorjax.calibration.sampling.checkpoint import Layout

# Below this share of independent draws, or of simulations like the patient, the answer is not to be trusted.
_LEAST_SHARE, LEAST_TYPICALITY = 0.05, 0.01


class NeuralPosteriorStats(NamedTuple):
    """What neural posterior estimation cost, and what it is worth.

    Parameters
    ----------
    seconds
        Of all runs that led to these draws.
    rounds
        Of simulation and training.
    simulations
        In all rounds.
    solves
        Of the growth model: simulations, and likelihoods of the correction.
    failed
        Of the solves.
    learnt
        For each round the simulations from which the network learnt.
    losses
        For each round minus the mean log-density of held-out simulations, nat; not of one proposal, so that rounds do
        not compare.
    information
        For each round the share of what the images tell that the summary keeps, in the linear-Gaussian approximation.
    typicality
        For each round the share of simulations whose summary is further from their middle than the patient's.
    corrected
        Whether the draws are weighted by posterior over network.
    repeats
        How often the network had to be led on towards the posterior for enough draws to count.
    ess
        Effective number of the weighted draws; NaN where they are not corrected.
    log_evidence_error
        Standard error of the logarithm of the evidence, nat; NaN where they are not corrected.
    """

    seconds: float
    rounds: int
    simulations: int
    solves: int
    failed: int
    learnt: tuple[int, ...]
    losses: tuple[float, ...]
    information: tuple[float, ...]
    typicality: tuple[float, ...]
    corrected: bool
    repeats: int
    ess: float
    log_evidence_error: float


class State(NamedTuple):
    """All that the next round depends on: what each round told of the patient, and the simulations."""

    mixtures: list[Gaussians]
    kept: Kept | None
    seen: Any
    history: Float[np.ndarray, "r 5"]
    seconds: float

    @staticmethod
    def layout(size: int) -> Layout:
        """Return what the arrays of a state of so many coordinates are, after one round or more."""
        n = size
        mixtures: Layout = {
            "mixture_log_weights": ("f", ("rounds", "components")),
            "mixture_means": ("f", ("rounds", "components", n)),
            "mixture_factors": ("f", ("rounds", "components", n, n)),
        }
        kept: Layout = {
            "z": ("f", ("simulations", n)),
            "extras": ("f", ("simulations", "images", "extras")),
            "bits": ("u", ("simulations", "images", "bytes")),
            "values": ("f", ("simulations", "images", "values")),
        }
        told: Layout = {"seen": ("i", ("seen",)), "history": ("f", ("rounds", 5)), "seconds": ("f", ())}
        return {**mixtures, **kept, **told}

    def fits(self, labels: int, data: int, images: int) -> bool:
        """Return whether what was kept are so many images, of data of which the first are labels."""
        if self.kept is None:
            return True
        seen, first = self.seen, int(np.searchsorted(self.seen, labels))
        if not len(seen) or seen[0] < 0 or seen[-1] >= data or (np.diff(seen) <= 0).any():
            return False
        return self.kept.bits.shape[1:] == (images, -(-first // 8)) and self.kept.values.shape[2] == len(seen) - first

    @classmethod
    def load(cls, arrays: dict[str, np.ndarray]) -> "State":
        """Return what a checkpoint kept; before the first round where that is nothing."""
        if not arrays:
            return cls([], None, None, np.zeros((0, 5)), 0.0)
        mixtures = [
            Gaussians(*each) for each in zip(*(arrays[f"mixture_{name}"] for name in Gaussians._fields), strict=True)
        ]
        kept = Kept(*(arrays[name] for name in Kept._fields))
        return cls(mixtures, kept, arrays["seen"], arrays["history"], float(arrays["seconds"]))

    def arrays(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        stacked = {
            f"mixture_{name}": np.stack([getattr(each, name) for each in self.mixtures]) for name in Gaussians._fields
        }
        kept = {} if self.kept is None else self.kept._asdict()
        return {**stacked, **kept, "seen": self.seen, "history": self.history, "seconds": self.seconds}


def warn(stats: NeuralPosteriorStats, draws: int) -> None:
    """Warn where the figures say that the draws are not to be trusted."""
    if stats.corrected and stats.ess < _LEAST_SHARE * draws:
        warnings.warn(
            f"the network's posterior is not that of the likelihood: its {draws} draws are worth {stats.ess:.0f} "
            "independent ones; take more rounds or simulations, or TMCMC",
            DoubtfulEstimate,
            stacklevel=4,
        )
    if stats.typicality[-1] < LEAST_TYPICALITY:
        warnings.warn(
            "hardly any simulation is like this patient's images, so that the network answers for what it has not "
            "seen; look at the model and the error rates of the observations",
            DoubtfulEstimate,
            stacklevel=4,
        )
