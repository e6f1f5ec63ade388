"""Draws from the posterior, as a report shows them."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of some parameters, their prior, and what the draws are worth.

    Parameters
    ----------
    method
        Of calibration, in words.
    names
        Of the k parameters; also those of the rows of the parameters' table, which have symbols and units.
    values
        (c, d, k): d draws of c chains, in the parameters' units.
    weights
        (c, d), not negative.
    prior, prior_density
        (g, k): rising values of each parameter, and the prior's density there; None leaves the prior out.
    facts
        What the draws are worth, as label and value in words.
    mixing
        R-hat and effective draws by the name of the parameter; empty for draws that are no chains.
    ladder
        Figures of a sampler's stages by their name: `temperature` from 0 to 1, `acceptance`, `effective draws`; empty
        for a sampler without stages.
    volumes
        Credible volumes: a label, and ml for 50 and 90 %.
    """

    method: str
    names: list[str]
    values: np.ndarray
    weights: np.ndarray
    prior: np.ndarray | None = None
    prior_density: np.ndarray | None = None
    facts: list[tuple[str, str]] = field(default_factory=list)
    mixing: dict[str, tuple[float, float]] = field(default_factory=dict)
    ladder: dict[str, list[float]] = field(default_factory=dict)
    volumes: list[tuple[str, float, float]] = field(default_factory=list)

    def check(self) -> None:
        """Raise `ValueError` where shapes do not belong together."""
        shape = np.shape(self.values)
        if len(shape) != 3 or shape[-1] != len(self.names) or np.shape(self.weights) != shape[:2]:
            raise ValueError(
                f"draws of {len(self.names)} parameters have values of shape {shape} and weights of shape "
                f"{np.shape(self.weights)}; give (chains, draws, parameters) and (chains, draws)"
            )

    @property
    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """(m, k) draws that are finite and have a weight, and their weights, which sum to one."""
        values = np.asarray(self.values, float).reshape(-1, len(self.names))
        weights = np.asarray(self.weights, float).ravel()
        kept = (weights > 0) & np.isfinite(values).all(axis=1)
        return values[kept], weights[kept] / max(weights[kept].sum(), 1e-300)

    @property
    def varying(self) -> list[int]:
        """Numbers of the parameters that differ between draws."""
        values, _ = self.flat
        return [number for number, column in enumerate(values.T) if column.size and np.ptp(column) > 0]
