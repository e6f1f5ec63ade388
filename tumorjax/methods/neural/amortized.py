"""An amortised posterior: a network that was trained once gives it for any patient, and a few solves check it."""

import dataclasses
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.calibration.cost import Cost
from tumorjax.calibration.evaluation import evaluate, fields
from tumorjax.calibration.foci import core_and_lesion
from tumorjax.calibration.method import AbstractMethod
from tumorjax.calibration.problem import Parameters, Problem
from tumorjax.checks import check_counts
from tumorjax.growth import AbstractGrowth, MassEffectParams, ScaledGrowthParams
from tumorjax.io import InputError
from tumorjax.methods.from_atlas.learn_morph_infer import DoubtfulEstimate
from tumorjax.methods.from_atlas.learnt import grown_otherwise, learnt_mass_effect, shares_of
from tumorjax.methods.from_atlas.morphing import core_for_both, incomparable, of_another_kind, unlike_in_fibres
from tumorjax.methods.neural.correction import corrected
from tumorjax.methods.neural.gaussians import Gaussians, kernels
from tumorjax.methods.neural.state import warn
from tumorjax.methods.sampling.marginal import MarginalTarget
from tumorjax.methods.sampling.moves import generator
from tumorjax.methods.sampling.posterior import Posterior, posterior_of
from tumorjax.methods.sampling.sample import Sample, SamplerStats, evidence_error, log_prior
from tumorjax.methods.sampling.sampler import SEED, AbstractSampler, draws_option
from tumorjax.methods.search.starts import FARTHEST, into_the_prior
from tumorjax.option import Option
from tumorjax.progress import SearchProgress
from tumorjax.quality import Note, Status
from tumorjax.retrieval.thresholds import dice_above

# Draws of the network about which the proposal of the correction consists of Gaussians.
_KERNELS = 1000
# Room (mm) around the lesion in which solves of the correction grow, as in `tumorjax.pipeline.personalize`.
_ROOM = 20.0
_TARGETS = ("mu1", "mu2", "x", "y", "z")


class AmortizedPosterior(AbstractSampler):
    """The posterior that a network, trained once on many tumours, reads off the outlines; corrected by the likelihood.

    The network has seen tumours of many brains, outlined at random densities by readers who err. For a patient it gives
    a mixture of Gaussians over mu1, mu2, the origin and the thresholds, and with mass effect over gamma. It sees the
    tissue of the problem, so that no atlas is aligned unless one stands for the brain before the tumour. Its prior is
    the distribution of the tumours from which it has learnt.

    The correction weights draws by prior times likelihood over the network's density, at one solve for each draw. What
    is unknown of the images is integrated out (`MarginalTarget`). The effective number of draws shows whether the
    network is right; where it is below a tenth, the proposal is moved towards the posterior, up to six times.

    Parameters
    ----------
    network
        An `InverseNetwork` that predicts a distribution, as `tumorjax train inverse` trains it by default.
    draws
        Number of draws.
    corrected
        Whether draws are weighted by the likelihood. Without it they are the network's, in less than a second, and
        `log_likelihoods` are its density over the prior's.
    chunk
        Number of solves in a batch on an accelerator.
    least_dice
        Least Dice coefficient of the patient's lesion and that of the draw of highest posterior density. Draws that all
        fill the brain, say, are equally unlikely, so that their effective number alone would not tell.

    Warns
    -----
    DoubtfulEstimate
        If the effective number of corrected draws is small, or the lesion of the best draw is not the patient's.

    References
    ----------
    S. Radev et al., "BayesFlow: learning complex stochastic models with invertible neural networks", IEEE Trans. Neural
    Networks and Learning Systems 2022, for amortised posteriors; O. Cappé et al., "Population Monte Carlo", Journal of
    Computational and Graphical Statistics 13 (2004), for the correction.
    """

    name: ClassVar[str] = "amortized"
    title: ClassVar[str] = "amortised neural posterior"
    references: ClassVar[tuple[str, ...]] = (
        "S. Radev et al., BayesFlow: learning complex stochastic models with invertible neural networks, IEEE Trans. "
        "Neural Networks and Learning Systems (2022).",
        "O. Cappé et al., Population Monte Carlo, Journal of Computational and Graphical Statistics 13 (2004).",
    )
    summary: ClassVar[str] = (
        "draws from the posterior in seconds, by a network that was trained once and is checked by a few solves"
    )
    extra: ClassVar[str | None] = "bayes,networks"
    libraries: ClassVar[tuple[str, ...]] = ("flax", "arviz", "h5netcdf")
    several_visits: ClassVar[bool] = False
    options: ClassVar[tuple[Option, ...]] = (
        draws_option("number of draws (default: 1000)"),
        Option(
            "network",
            "weights that `tumorjax train inverse` wrote, of tumours in several brains (default: those that ship)",
            type=Path,
            metavar="FILE",
        ),
        Option("no-correction", "the network's draws are the answer, without a solve", type=None),
        SEED,
    )

    network: Any
    draws: int = eqx.field(static=True, default=1000, kw_only=True)
    corrected: bool = eqx.field(static=True, default=True, kw_only=True)
    chunk: int = eqx.field(static=True, default=64, kw_only=True)
    least_dice: float = eqx.field(static=True, default=0.5, kw_only=True)
    checkpoint: str | None = eqx.field(static=True, default=None, init=False)

    def __check_init__(self) -> None:
        made = self.network.architecture
        check_counts(self, draws=2, chunk=1)
        if not 0 <= self.least_dice <= 1:
            raise ValueError(f"least_dice is a Dice coefficient, got {self.least_dice}")
        if missing := [name for name in _TARGETS if name not in made.targets]:
            raise ValueError(f"the network does not estimate {', '.join(missing)}; train one that does")
        if learnt_mass_effect(self.network) and "gamma" not in made.targets:
            raise ValueError(
                "the network learnt growth with mass effect, but does not tell how strongly a tumour pushes; train one "
                "with gamma among its targets"
            )
        if not made.components:
            raise ValueError("the network estimates no distribution; train one with components")
        if made.shape is not None:
            raise ValueError(
                "the network learnt in one brain, and here it sees the patient's; train one on several databases"
            )

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> AbstractMethod:
        """Return the method that the options of a command describe."""
        network, plain = options.get("network"), bool(options.get("no_correction"))
        if (seed := options.get("seed")) is not None and seed < 0:
            raise InputError(f"seed: got {seed}; give 0 or more")
        settings = {"draws": options["draws"]} if options.get("draws") is not None else {}
        return cls.open(network, displaces=bool(options.get("displaces")), corrected=not plain, **settings)

    @classmethod
    def open(
        cls, file: str | os.PathLike | None = None, *, displaces: bool = False, **settings: Any
    ) -> "AmortizedPosterior":
        """Return the method with the network of a file, or with one that ships.

        Parameters
        ----------
        file
            Written by `tumorjax train inverse`; None for the weights that ship.
        displaces
            Without a file: whether to take those of tumours that displace tissue, for `MassEffect`.
        settings
            Further parameters of `AmortizedPosterior`.

        Raises
        ------
        InputError
            If it is no file of such a network.
        """
        from tumorjax.networks import SHIPPED_MASS_EFFECT, SHIPPED_POSTERIOR, load_inverse

        try:
            return cls(load_inverse(file or (SHIPPED_MASS_EFFECT if displaces else SHIPPED_POSTERIOR)), **settings)
        except ValueError as error:
            raise InputError(f"network: {error}") from None

    @property
    def single_seed(self) -> bool:
        """True: the network knows tumours of a single seed."""
        return True

    @property
    def region(self) -> Any:
        """The brain, since the network sees tissue far around the lesion; solves of the correction grow in a part."""
        return "brain"

    def refuses_model(self, model: AbstractGrowth) -> str | None:
        """Return in one line that the network learnt tumours of another model; None if of this one."""
        other = of_another_kind(model, "this network", displaces=learnt_mass_effect(self.network))
        return other or grown_otherwise((self.network,), model)

    def refuses(self, problem: Problem) -> str | None:
        """Return in one line why the network says nothing of a problem; None if it does."""
        if reason := incomparable(problem, "this network", displaces=learnt_mass_effect(self.network)):
            return reason
        edges = np.asarray(problem.anatomy.grid.spacing)
        if not np.allclose(edges, edges[0], rtol=0.01):
            return f"this network sees cubic voxels, got edges of {np.round(edges, 3).tolist()} mm; resample"
        return self.refuses_model(problem.model)

    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: SearchProgress) -> "AmortizedDraws":
        """Draw from the problem's posterior."""
        from tumorjax.networks import OutsideTraining

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", OutsideTraining)
            sample, cost = self._sample(problem, self._key(key), progress)
        outside = []
        for each in told:
            if issubclass(each.category, OutsideTraining):
                outside.append(str(each.message))
            else:
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
        found = posterior_of(problem, sample, method=self.title, cost=cost + sample.stats.cost)
        held = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
        overlap = _overlap(problem, found)
        if overlap < self.least_dice:
            warnings.warn(
                f"the tumour of the draws is not the patient's: Dice {overlap:.2f} of the lesions, less than "
                f"{self.least_dice:g}; use another method",
                DoubtfulEstimate,
                stacklevel=2,
            )
        return AmortizedDraws(
            **held,
            outside=tuple(dict.fromkeys(outside)),
            corrected=self.corrected,
            overlap=overlap,
            least_dice=self.least_dice,
        )

    def _sample(self, problem: Problem, key: Key[Array, ""], progress: SearchProgress) -> tuple[Sample, Cost]:
        began, random = time.monotonic(), generator(key, 0)
        progress("inference", 0.0, np.nan)
        learnt = self._learnt(problem, random, max(_KERNELS, self.draws))
        if not self.corrected:
            proposal = kernels(learnt[:_KERNELS], np.zeros(min(len(learnt), _KERNELS)))
            points = learnt[: self.draws]
            values = proposal.log_prob(points) - log_prior(points)
            stats = SamplerStats(cost=Cost(seconds=time.monotonic() - began), details={"corrected": False})
            return Sample(points[None], values[None], np.zeros((1, len(points))), np.nan, stats), Cost()
        # Solves need the tissue that a tumour can reach, or push.
        solved = problem if problem.model.displaces else problem.around(_ROOM)
        target = MarginalTarget(solved)
        proposal = kernels(learnt[:_KERNELS, target.kept], np.zeros(_KERNELS))
        found = corrected(proposal, target, random, key, self.draws, chunk=self.chunk, progress=progress)
        stats = SamplerStats(
            cost=Cost(solves=(1 + found.repeats) * self.draws, seconds=time.monotonic() - began),
            failed=found.failed,
            effective=found.ess,
            log_evidence_error=evidence_error(found.ess, self.draws),
            details={"corrected": True, "repeats": found.repeats},
        )
        warn(found.ess, self.draws, 1.0)
        draws = found.points[None], found.values[None], found.log_weights[None]
        return Sample(*draws, found.log_evidence, stats), Cost()

    def _learnt(self, problem: Problem, random: np.random.Generator, count: int) -> Float[np.ndarray, "k n"]:
        """Return draws of the network in the coordinates of the prior."""
        from tumorjax.networks import infer_distribution

        grid = problem.anatomy.grid.in_double()
        outlines = core_and_lesion(problem.observations)
        assert outlines is not None
        core, lesion = (np.asarray(each.inside, float) >= 0.5 for each in outlines)
        tissue = shares_of(problem.anatomy)
        found = infer_distribution(self.network, core, lesion | core, tissue, float(np.asarray(grid.spacing)[0]))
        mixture = Gaussians(found.log_weights, found.means, found.factors)
        values = found.values(mixture.sample(random, count))
        origin = np.asarray(grid.to_world(np.stack([values.pop(axis) for axis in "xyz"], axis=-1)))
        numbers = jax.tree.map(lambda each: np.asarray(each, problem.dtype), {**values, "origin": origin})
        noise = random.normal(size=(count, problem.prior.size)).astype(problem.dtype)
        points = np.asarray(_coordinates(problem, numbers, noise), float)
        return np.stack([into_the_prior(each) for each in points])


class AmortizedDraws(Posterior):
    """Draws that a network proposed; see `Posterior`.

    Parameters
    ----------
    outside
        What about this patient the network has not learnt, in words.
    corrected
        Whether the likelihood has weighted the draws.
    overlap
        Dice coefficient of the patient's lesion and that of the draw of highest posterior density.
    least_dice
        The least one of lesions that resemble each other.
    """

    outside: tuple[str, ...] = eqx.field(static=True, default=())
    corrected: bool = eqx.field(static=True, default=True)
    overlap: float = eqx.field(static=True, default=1.0)
    least_dice: float = eqx.field(static=True, default=0.0)

    @property
    def plausible(self) -> bool:
        """Whether the tumour of the best draw resembles the patient's."""
        return self.overlap >= self.least_dice

    def notes(self, problem: Problem, *, alone: bool = True) -> list[str]:
        """Return what is wrong with the draws, and what the network does not know of the patient."""
        notes = super().notes(problem, alone=alone)
        notes = [*notes, *core_for_both(problem, "the network knows tumours", alone=alone)]
        # The correction repairs what the network does not know, or its effective number of draws shows that it cannot.
        status = Status.GOOD if self.corrected else Status.DOUBTFUL
        notes += [Note(f"{message[0].upper()}{message[1:]}.", status) for message in self.outside]
        if words := unlike_in_fibres(problem.anatomy, along=False):
            text = f"The tumours that the network has learnt {words}: its answer knows nothing of fibres."
            notes.append(Note(text, status))
        if not self.plausible and alone:
            text = f"The tumour of the draws is not the patient's (Dice {self.overlap:.2f}). Use another method."
            notes.append(Note(text, Status.DOUBTFUL))
        if not self.corrected and alone:
            text = (
                "The draws are the network's own, with the prior of the tumours from which it has learnt: no solve has "
                "checked them."
            )
            notes.append(Note(text, Status.DOUBTFUL))
        return notes


def _overlap(problem: Problem, found: Posterior) -> float:
    """Return the Dice coefficient of the patient's lesion and that of the draw of highest posterior density."""
    name = "lesion" if "lesion" in problem.observations else "core"
    inside = np.asarray(problem.observations[name].image) >= 0.5
    # A solve that failed shows no tumour.
    density = np.nan_to_num(np.asarray(evaluate(fields, problem, np.asarray(found.coordinates)).density))
    level = float(found.params.observations[name].threshold)
    return float(dice_above(density.ravel(), np.array([level]), inside.ravel(), int(inside.sum()))[0])


@eqx.filter_jit
def _coordinates(problem: Problem, numbers: Mapping[str, Any], noise: Float[Any, "k n"]) -> Float[Array, "k n"]:
    """Return draws of a network in the prior's coordinates; what it does not tell is drawn from the prior."""
    prior = problem.prior
    wanted = prior.distributions.growth
    low, high = (prior.constrain(jnp.full(prior.size, end, problem.dtype)) for end in (-FARTHEST, FARTHEST))

    def one(own: Mapping[str, Any], z: Float[Array, "n"]) -> Float[Array, "n"]:
        cells = ScaledGrowthParams(own["mu1"], own["mu2"], own["origin"])
        growth = MassEffectParams(cells, own["gamma"]) if "gamma" in own else cells
        drawn = prior.constrain(z)
        images = dict(drawn.observations)
        for name in ("core", "lesion"):
            if f"threshold_{name}" in own and hasattr(images.get(name), "threshold"):
                images[name] = dataclasses.replace(images[name], threshold=own[f"threshold_{name}"])
        told = Parameters(wanted.like(growth), images, drawn.treatments)
        clipped = jax.tree.map(
            lambda value, least, most: jnp.clip(jnp.asarray(value, least.dtype), least, most), told, low, high
        )
        return prior.unconstrain(clipped)

    return jax.vmap(one)(numbers, noise)
