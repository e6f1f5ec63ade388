"""Code that all samplers share: options, the random key, the start, the checkpoint, and the posterior."""

import dataclasses
import os
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.calibration.cost import Cost
from tumorjax.calibration.method import AbstractMethod
from tumorjax.calibration.problem import Problem
from tumorjax.io import InputError
from tumorjax.methods.checkpoint import Checkpoint, Layout, checkpoint_of
from tumorjax.methods.sampling.marginal import MarginalTarget, completed
from tumorjax.methods.sampling.posterior import Posterior, posterior_of
from tumorjax.methods.sampling.sample import Sample
from tumorjax.methods.sampling.target import AbstractTarget, goals_of
from tumorjax.option import Option
from tumorjax.progress import SearchProgress, silent

# Chains and particles begin this many of the start's standard deviations from its middle.
OVERDISPERSION = 2.0

SEED = Option("seed", "seed of the random numbers (default: 0)", int, "N")


def draws_option(help: str) -> Option:
    """Return the option `--draws` of a sampler."""
    return Option("draws", help, int, "N")


class AbstractSampler(AbstractMethod):
    """A method whose answer is draws from the posterior.

    Attributes
    ----------
    checkpoint
        A file that keeps what is done, with a checksum. The same run, started again, goes on from there to the same
        draws; None keeps nothing.
    """

    checkpoint: eqx.AbstractVar[str | None]

    extra: ClassVar[str | None] = "bayes"
    # Libraries with which draws are written.
    libraries: ClassVar[tuple[str, ...]] = ("arviz", "h5netcdf")
    needs_key: ClassVar[bool] = True
    several_visits: ClassVar[bool] = True

    def __check_init__(self) -> None:
        if not isinstance(self.checkpoint, str | os.PathLike | None):
            raise ValueError(f"checkpoint must be the path of a file or None, got {self.checkpoint!r}")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> AbstractMethod:
        """Return the sampler that the options of a command describe.

        Parameters
        ----------
        options
            See `AbstractMethod.from_options`; the command adds `out`, the folder of its results. The seed is checked
            here and becomes a random key elsewhere.
        """
        if (seed := options.get("seed")) is not None and seed < 0:
            raise InputError(f"seed: got {seed}; give 0 or more")
        settings = {name: value for name, value in options.items() if name != "seed"}
        if (path := checkpoint_of(options)) is not None:
            settings["checkpoint"] = path
        return super().from_options(settings)

    @property
    def region(self) -> Literal["brain", "lesion"]:
        """The neighbourhood of the lesion, since draws take many solves."""
        return "lesion"

    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: SearchProgress) -> Posterior:
        """Draw from the problem's posterior."""
        sample, begun = self._sample(problem, self._key(key), progress)
        return posterior_of(problem, sample, method=self.title, cost=begun + sample.stats.cost)

    @abstractmethod
    def _sample(self, problem: Problem, key: Key[Array, ""], progress: SearchProgress) -> tuple[Sample, Cost]:
        """Return draws from the problem's posterior, and the cost of the search around which they began."""

    def _key(self, key: Key[Array, ""] | None) -> Key[Array, ""]:
        """Return the random key, or raise a ValueError if there is none."""
        if key is None:
            name = type(self).__name__
            raise ValueError(f"{name} draws random numbers; give calibrate a key, such as key=jax.random.key(0)")
        return key


class Work:
    """A sampler at work on a target.

    Parameters
    ----------
    target, key, progress
        Target to draw from, random key, and the function that receives the progress.
    checkpoint
        File that keeps the state.
    arrays
        The arrays of the checkpoint, or the approximation with which the sampler begins; empty where it begins with
        the prior.
    """

    def __init__(
        self,
        target: AbstractTarget,
        key: Key[Array, ""],
        progress: SearchProgress,
        checkpoint: Checkpoint,
        arrays: Mapping[str, np.ndarray],
    ) -> None:
        self.target, self.key, self.progress = target, key, progress
        self.begin = {name: arrays[name] for name in _begin_layout(target.size) if name in arrays}
        self.stored = {name: array for name, array in arrays.items() if name not in self.begin and name != "seconds"}
        self._checkpoint, self._before = checkpoint, float(arrays.get("seconds", 0.0))
        if not np.isfinite(self._before):
            raise ValueError("the checkpoint holds no seconds of a run; remove it to begin anew")
        self._began = time.monotonic()

    @property
    def centre(self) -> Float[np.ndarray, "n"]:
        """The middle of the approximation with which the sampler begins; by default that of the prior."""
        return np.asarray(self.begin.get("centre", np.zeros(self.target.size)))

    @property
    def covariance(self) -> Float[np.ndarray, "n n"]:
        """The covariance of this approximation."""
        return np.asarray(self.begin.get("covariance", np.eye(self.target.size)))

    @property
    def begun(self) -> Cost:
        """The cost of the search that found the approximation."""
        solves, gradients, coarse_solves, coarse_gradients, seconds = self.begin.get("begun", np.zeros(5)).tolist()
        return Cost(int(solves), int(gradients), int(coarse_solves), int(coarse_gradients), seconds)

    @property
    def seconds(self) -> float:
        """The time of all runs so far."""
        return self._before + time.monotonic() - self._began

    def save(self, **arrays: Any) -> None:
        """Write arrays into the checkpoint, beside those with which the sampler began."""
        self._checkpoint.save(**self.begin, **arrays, seconds=self.seconds)


class AbstractTargetSampler(AbstractSampler):
    """A sampler that draws from any target, a likelihood over coordinates in which the prior is standard normal.

    From a problem it draws the coordinates that a `MarginalTarget` keeps, and completes the draws afterwards, at one
    solve for each.

    Attributes
    ----------
    start
        Method whose answer and covariance the sampler begins with; None begins with the prior. Around an answer without
        a covariance, such as that of a query or a network, the sampler begins as widely as the prior.
    dispersion
        How many of the standard deviations of that covariance the sampler begins from the answer.
    """

    start: eqx.AbstractVar[AbstractMethod | None]
    dispersion: ClassVar[float] = OVERDISPERSION

    def __check_init__(self) -> None:
        if not isinstance(self.start, AbstractMethod | None):
            raise ValueError(f"start must be a method object such as LBFGS(), or None, got {self.start!r}")

    def draw(
        self,
        target: AbstractTarget,
        key: Key[Array, ""] | None,
        centre: Float[Any, "n"] | None = None,
        covariance: Float[Any, "n n"] | None = None,
        progress: SearchProgress = silent,
    ) -> Sample:
        """Draw from any target.

        Parameters
        ----------
        target
            Likelihood over coordinates whose prior is standard normal.
        key
            Random key.
        centre, covariance
            A normal approximation of the posterior with which to begin; without both it is the prior. Without a centre
            it is the prior's, and without a covariance the sampler begins as widely as the prior.
        progress
            As in `calibrate`.

        Raises
        ------
        ValueError
            If there is no key, or the sampler cannot draw from the target.
        """
        key, begin = self._key(key), {}
        if centre is not None or covariance is not None:
            centre = np.zeros(target.size) if centre is None else np.asarray(centre, float)
            if covariance is None:
                covariance = self._as_wide_as_the_prior(target.size)
            begin = {"centre": centre, "covariance": np.asarray(covariance, float), "begun": np.zeros(5)}
        self._check(target)
        with self._open(target, key, begin) as checkpoint:
            arrays = checkpoint.load()
            return self._draw(Work(target, key, progress, checkpoint, begin if arrays is None else arrays))

    def refuses(self, problem: Problem) -> str | None:
        """Return in one line why the sampler cannot draw from a problem's posterior; None if it can."""
        return self._refuses(MarginalTarget(problem).size) or super().refuses(problem)

    def _sample(self, problem: Problem, key: Key[Array, ""], progress: SearchProgress) -> tuple[Sample, Cost]:
        target = self._target(problem)
        whole = goals_of(target)[-1]
        assert isinstance(whole, MarginalTarget)
        self._check(target)
        with self._open(target, key) as checkpoint:
            arrays = checkpoint.load()
            if arrays is None:
                arrays = self._begin(whole, key, progress)
                if arrays:
                    checkpoint.save(**arrays)
            work = Work(target, key, progress, checkpoint, arrays)
            sample = self._draw(work)
        return completed(whole, sample, key, progress), work.begun

    def _check(self, target: AbstractTarget) -> None:
        if (reason := self._refuses(target.size)) is not None:
            raise ValueError(reason)

    def _open(self, target: AbstractTarget, *identity: Any) -> Checkpoint:
        """Return the checkpoint of a run: what it may hold follows from the sampler's settings."""
        begin, (own, most) = _begin_layout(target.size), self._layout(target)
        state: Layout = {**own, "seconds": ("f", ())}
        settings = dataclasses.replace(self, checkpoint=None)
        layouts = (begin, state, {**begin, **state})
        return Checkpoint(self.checkpoint, settings, target, *identity, layouts=layouts, most=most)

    def _begin(self, target: MarginalTarget, key: Key[Array, ""], progress: SearchProgress) -> dict[str, np.ndarray]:
        """Return the approximation that `start` finds of the coordinates that are drawn; nothing without a start.

        Where it finds a point without uncertainty (a match, the answer of a network), the sampler begins as widely as
        the prior; to a covariance of less than full rank (from few matches) as much is added.

        Raises
        ------
        ValueError
            If what `start` finds is not finite.
        """
        if self.start is None:
            return {}
        found, kept = self.start.run(target.problem, key, progress), target.kept
        centre = np.asarray(found.coordinates, float)[kept]
        covariance = None if found.covariance is None else np.asarray(found.covariance, float)[np.ix_(kept, kept)]
        covariance = self._of_full_rank(covariance, centre.size)
        if not (np.isfinite(centre).all() and np.isfinite(covariance).all()):
            raise ValueError(
                f"what {type(self.start).__name__} found is not finite, so nothing can begin around it; give another "
                "start"
            )
        cost = found.cost
        counts = (cost.solves, cost.gradients, cost.coarse_solves, cost.coarse_gradients, cost.seconds)
        return {"centre": centre, "covariance": covariance, "begun": np.array(counts, float)}

    def _of_full_rank(self, covariance: Float[np.ndarray, "n n"] | None, size: int) -> Float[np.ndarray, "n n"]:
        """Return a covariance that has a Cholesky factor: the same, or with the prior's added where it has none."""
        broad = self._as_wide_as_the_prior(size)
        if covariance is None:
            return broad
        if not np.isfinite(covariance).all():
            return covariance
        variances = np.linalg.eigvalsh(covariance)
        # Single precision holds no smaller share.
        return covariance if variances[0] > 1e-7 * variances[-1] else covariance + broad

    def _as_wide_as_the_prior(self, size: int) -> Float[np.ndarray, "n n"]:
        """Return the covariance from which the sampler, dispersed as it is, begins with the covariance of the prior."""
        return np.eye(size) / self.dispersion**2

    def _target(self, problem: Problem) -> AbstractTarget:
        """Return the target that a problem makes."""
        return MarginalTarget(problem)

    def _refuses(self, size: int) -> str | None:
        """Return why the sampler cannot draw so many coordinates; None if it can."""
        return None

    @abstractmethod
    def _layout(self, target: AbstractTarget) -> tuple[Layout, Mapping[str, int]]:
        """Return kinds and shapes of the arrays that are kept, and the largest values of the lengths with names."""

    @abstractmethod
    def _draw(self, work: Work) -> Sample:
        """Draw from the target, and save the state now and then."""


def _begin_layout(size: int) -> Layout:
    """Return the arrays of an approximation with which a sampler begins, and of the cost of finding it."""
    return {"centre": ("f", (size,)), "covariance": ("f", (size, size)), "begun": ("f", (5,))}
