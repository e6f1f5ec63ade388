"""What all chains have in common: where they begin, what they return, how well they mix."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.calibration.calibrate import AbstractMethod, Progress
from tumorjax.calibration.problem import Problem
from tumorjax.calibration.sampling.checkpoint import Checkpoint, Layout
from tumorjax.calibration.sampling.moves import generator
from tumorjax.calibration.sampling.posterior import Posterior, posterior_of
from tumorjax.calibration.sampling.target import AbstractTarget, ProblemTarget

# Chains and particles begin this many of the start's standard deviations from its middle.
OVERDISPERSION = 2.0
# Chains are pulled in where the model fails.
_PULLS = 10


class Chains(NamedTuple):
    """Draws of several chains.

    Parameters
    ----------
    draws
        (c, d, n), in the prior's coordinates.
    log_likelihoods
        (c, d), nat.
    stats
        What they cost.
    """

    draws: Float[np.ndarray, "c d n"]
    log_likelihoods: Float[np.ndarray, "c d"]
    stats: Any


class AbstractChains(AbstractMethod):
    """Draws from the posterior by Markov chains, which begin around what `start` finds."""

    start: eqx.AbstractVar[AbstractMethod | None]
    checkpoint: eqx.AbstractVar[str | None]

    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: Progress) -> Posterior:
        """Draw from the problem's posterior."""
        name = type(self).__name__
        key = needed(key, name)
        numpyro_for(name)
        target = ProblemTarget(problem)
        with self._checkpoint(target, key) as checkpoint:
            stored = begun(problem, self.start, key, progress, checkpoint)
            chains = self._draw(target, key, progress, checkpoint, stored)
        return posterior_of(problem, chains.draws, chains.log_likelihoods, stats=chains.stats)

    def draw(
        self,
        target: AbstractTarget,
        key: Key[Array, ""],
        centre: Float[np.ndarray, "n"],
        covariance: Float[np.ndarray, "n n"],
        progress: Progress = lambda stage, share, objective: None,
    ) -> Chains:
        """Draw from any target, with chains that begin around a point with a covariance."""
        begin = {"centre": np.asarray(centre, float), "covariance": np.asarray(covariance, float)}
        with self._checkpoint(target, key, centre, covariance) as checkpoint:
            return self._draw(target, key, progress, checkpoint, checkpoint.load() or begin)

    def _checkpoint(self, target: AbstractTarget, *identity: Any) -> Checkpoint:
        begin, (state, most) = begin_layout(target.size), self._layout(target.size)
        settings, layouts = dataclasses.replace(self, checkpoint=None), (begin, {**begin, **state})
        return Checkpoint(self.checkpoint, settings, target, *identity, layouts=layouts, most={"transitions": most})

    @abc.abstractmethod
    def _layout(self, size: int) -> tuple[Layout, int]:
        """Return what is kept of so many coordinates, and the most `transitions`."""

    @abc.abstractmethod
    def _draw(
        self,
        target: AbstractTarget,
        key: Key[Array, ""],
        progress: Progress,
        checkpoint: Checkpoint,
        stored: dict[str, np.ndarray],
    ) -> Chains:
        """Draw from a target; `stored` is the `centre` and `covariance` to begin with, or what a checkpoint holds."""


def check_chains(chains: int, draws: int, block: int) -> None:
    """Raise a ValueError where numbers of chains, draws and steps in a block make no sense."""
    if chains < 1 or draws < 4 or block < 1:
        raise ValueError(
            "chains and block must be at least 1 and draws at least 4, "
            f"got chains={chains}, draws={draws}, block={block}"
        )


def needed(key: Key[Array, ""] | None, method: str) -> Key[Array, ""]:
    """Return the key, or raise a ValueError if there is none."""
    if key is None:
        raise ValueError(f"{method} draws random numbers; give calibrate a key, such as key=jax.random.key(0)")
    return key


def numpyro_for(method: str) -> None:
    """Raise a ValueError if numpyro, of which a method needs the kernel or the diagnostics, is not installed."""
    try:
        import numpyro  # noqa: F401
    except ImportError:
        raise ValueError(f"{method} needs numpyro, which is not installed: pip install 'tumorjax[bayes]'") from None


def begun(
    problem: Problem, start: AbstractMethod | None, key: Key[Array, ""], progress: Progress, checkpoint: Checkpoint
) -> dict[str, np.ndarray]:
    """Return what a method goes on with: what the checkpoint holds, or else the approximation that it begins with.

    That is `centre` and `covariance` of what `start` finds, or of the prior without one; the checkpoint keeps them.
    About what finds a point and no uncertainty (a match, the answer of a network) chains and particles are spread as
    widely as the prior; to a spread of less than full rank (of few matches) as much is added.

    Raises
    ------
    ValueError
        If what `start` finds is not finite; nothing is kept of it.
    """
    stored = checkpoint.load()
    if stored is None:
        centre, covariance = np.zeros(problem.prior.size), np.eye(problem.prior.size)
        if start is not None:
            found = start.run(problem, key, progress)
            centre = np.asarray(found.coordinates, float)
            covariance = _of_full_rank(found.covariance, centre.size)
        if not (np.isfinite(centre).all() and np.isfinite(covariance).all()):
            raise ValueError(
                f"what {type(start).__name__} found is not finite, so nothing can begin around it; give another start"
            )
        stored = {"centre": centre, "covariance": covariance}
        checkpoint.save(**stored)
    return stored


def begin_layout(size: int) -> Layout:
    """Return what the arrays of an approximation are, with which a method begins."""
    return {"centre": ("f", (size,)), "covariance": ("f", (size, size))}


def _of_full_rank(covariance: Any, size: int) -> Float[np.ndarray, "n n"]:
    """Return a covariance whose Cholesky factor exists: the same, or with the prior's where it has none or is None."""
    broad = np.eye(size) / OVERDISPERSION**2
    if covariance is None:
        return broad
    covariance = np.asarray(covariance, float)
    if not np.isfinite(covariance).all():
        return covariance
    variances = np.linalg.eigvalsh(covariance)
    # Single precision holds no smaller share.
    return covariance if variances[0] > 1e-7 * variances[-1] else covariance + broad


def dispersed(
    evaluate: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    centre: Float[np.ndarray, "n"],
    factor: Float[np.ndarray, "n n"],
    count: int,
    key: Key[Array, ""],
) -> tuple[Float[np.ndarray, "c n"], tuple[np.ndarray, ...], int]:
    """Return where chains begin, what is found there, and how many points failed before.

    Overdispersed normal draws; where the log-likelihood is not finite, half as far on the other side of the centre.

    Parameters
    ----------
    evaluate
        Log-likelihoods at points, and what else is wanted there.
    centre, factor
        Of the approximation: its middle, and the Cholesky factor of its covariance.
    count
        Chains.
    key
        Random key.

    Returns
    -------
    The starts w, at z = centre + factor w; what `evaluate` found; the number of failures.
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


def mixing(draws: Float[np.ndarray, "c d n"]) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Return split R-hat and the effective sample size of each coordinate of several chains."""
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

    draws = np.asarray(draws, float)
    return split_gelman_rubin(draws), effective_sample_size(draws)
