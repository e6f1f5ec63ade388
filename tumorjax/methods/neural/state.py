"""The state of neural posterior estimation between rounds, and warnings about its result."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from tumorjax.methods.checkpoint import Layout
from tumorjax.methods.from_atlas.learn_morph_infer import DoubtfulEstimate
from tumorjax.methods.neural.gaussians import Gaussians
from tumorjax.methods.neural.simulations import Kept
from tumorjax.methods.sampling.diagnostics import LEAST_TYPICALITY

# Below this share of independent draws the answer is not to be trusted.
_LEAST_SHARE = 0.05


class State(NamedTuple):
    """Everything on which the next round depends: the answer of each round, and the simulations.

    Parameters
    ----------
    mixtures
        The posterior of the patient after each round.
    kept
        The simulations from which the next network may learn; None before the first round.
    seen
        Numbers of the data that are kept.
    history
        See `Learnt`.
    seconds
        Time of all runs.
    network
        Weights of the last network in one row, where the next one begins with them; None otherwise.
    """

    mixtures: list[Gaussians]
    kept: Kept | None
    seen: Any
    history: Float[np.ndarray, "r 5"]
    seconds: float
    network: Float[np.ndarray, "w"] | None = None

    @staticmethod
    def layout(size: int, *, warm: bool) -> Layout:
        """Return the kinds and shapes of the arrays of a state with so many coordinates, after at least one round."""
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
        more: Layout = {"seen": ("i", ("seen",)), "history": ("f", ("rounds", 5)), "seconds": ("f", ())}
        network: Layout = {"network": ("f", ("weights",))} if warm else {}
        return {**mixtures, **kept, **more, **network}

    def fits(self, labels: int, data: int, images: int) -> bool:
        """Return whether the state keeps so many images of each simulation, of data of which the first are labels."""
        if self.kept is None:
            return True
        seen, first = self.seen, int(np.searchsorted(self.seen, labels))
        if not len(seen) or seen[0] < 0 or seen[-1] >= data or (np.diff(seen) <= 0).any():
            return False
        return self.kept.bits.shape[1:] == (images, -(-first // 8)) and self.kept.values.shape[2] == len(seen) - first

    @classmethod
    def load(cls, arrays: dict[str, np.ndarray]) -> "State":
        """Return the state that a checkpoint keeps; the one before the first round where it keeps nothing."""
        if not arrays:
            return cls([], None, None, np.zeros((0, 5)), 0.0)
        mixtures = [
            Gaussians(*each) for each in zip(*(arrays[f"mixture_{name}"] for name in Gaussians._fields), strict=True)
        ]
        kept = Kept(*(arrays[name] for name in Kept._fields))
        return cls(mixtures, kept, arrays["seen"], arrays["history"], float(arrays["seconds"]), arrays.get("network"))

    def arrays(self) -> dict[str, Any]:
        """Return the state as arrays for a checkpoint."""
        stacked = {
            f"mixture_{name}": np.stack([getattr(each, name) for each in self.mixtures]) for name in Gaussians._fields
        }
        kept = {} if self.kept is None else self.kept._asdict()
        network = {} if self.network is None else {"network": self.network}
        return {**stacked, **kept, **network, "seen": self.seen, "history": self.history, "seconds": self.seconds}


def warn(effective: float | None, draws: int, typicality: float) -> None:
    """Warn where the effective number of draws, or the typicality of the patient, says that they are not to be trusted.

    Parameters
    ----------
    effective
        Effective number of the draws; None for draws that are not corrected.
    draws
        Number of draws.
    typicality
        See `SamplerStats`.
    """
    if effective is not None and effective < _LEAST_SHARE * draws:
        warnings.warn(
            f"the network's posterior is not that of the likelihood: its {draws} draws are worth {effective:.0f} "
            "independent ones; take more rounds or simulations, or TMCMC",
            DoubtfulEstimate,
            stacklevel=4,
        )
    if typicality < LEAST_TYPICALITY:
        warnings.warn(
            "hardly any simulation is like this patient's images, so that the network has to extrapolate; look at the "
            "model and the error rates of the observations",
            DoubtfulEstimate,
            stacklevel=4,
        )
