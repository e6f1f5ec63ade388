"""Code that all Markov chains share: starting points, and measures of how well they mix."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.calibration.problem import Problem
from tumorjax.checks import check_counts
from tumorjax.methods.sampling.moves import generator
from tumorjax.methods.sampling.sampler import OVERDISPERSION, AbstractTargetSampler
from tumorjax.option import Option

CHAINS = Option("chains", "number of chains (default: 4)", int, "N")
# Chains are pulled in where the model fails.
_PULLS = 10


class AbstractChains(AbstractTargetSampler):
    """A sampler by Markov chains, which begin around what `start` finds."""

    # Kernels or diagnostics of chains are those of numpyro.
    libraries: ClassVar[tuple[str, ...]] = ("numpyro", "arviz", "h5netcdf")

    chains: eqx.AbstractVar[int]
    draws: eqx.AbstractVar[int]
    block: eqx.AbstractVar[int]

    def __check_init__(self) -> None:
        check_counts(self, chains=1, draws=4, block=1)

    def refuses(self, problem: Problem) -> str | None:
        """Return in one line why the chains cannot be run; None if they can."""
        try:
            import numpyro  # noqa: F401
        except ImportError:
            return f"{type(self).__name__} needs numpyro, which is not installed: pip install 'tumorjax[bayes]'"
        return super().refuses(problem)


def dispersed(
    evaluate: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    centre: Float[np.ndarray, "n"],
    factor: Float[np.ndarray, "n n"],
    count: int,
    key: Key[Array, ""],
) -> tuple[Float[np.ndarray, "c n"], tuple[np.ndarray, ...], int]:
    """Return the starting points of chains, the values there, and how many points failed before.

    The points are overdispersed normal draws; one where the log-likelihood is not finite is replaced by one half as far
    on the other side of the centre.

    Parameters
    ----------
    evaluate
        Returns log-likelihoods at points, and perhaps further values there.
    centre, factor
        Middle of the approximation, and the Cholesky factor of its covariance.
    count
        Number of chains.
    key
        Random key.

    Returns
    -------
    The starts w, at z = centre + factor w; the values from `evaluate`; the number of failures.
    """
    away = OVERDISPERSION * generator(key, 0).normal(size=(count, len(centre)))
    failed = 0
    for _ in range(_PULLS):
        found = evaluate(centre + away @ factor.T)
        bad = ~np.isfinite(found[0])
        if not bad.any():
            return away, found, failed
        failed += int(bad.sum())
        away[bad] /= -2
    raise ValueError(
        "the likelihood is zero or fails even close to the start: the prior excludes the data, or give another start"
    )
