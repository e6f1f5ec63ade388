"""Neural posterior estimation: the method."""

import dataclasses
import time
from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.special import logsumexp

from tumorjax.calibration.cost import Cost
from tumorjax.calibration.problem import Problem
from tumorjax.checks import check_counts
from tumorjax.methods.checkpoint import CHECKPOINT, Checkpoint
from tumorjax.methods.neural.correction import corrected
from tumorjax.methods.neural.gaussians import Gaussians, Region, standard
from tumorjax.methods.neural.simulations import Kept, draw_data, images_of
from tumorjax.methods.neural.simulator import AbstractSimulator, ProblemSimulator
from tumorjax.methods.neural.state import State, warn
from tumorjax.methods.neural.summary import LabelMap, Summary, typicality
from tumorjax.methods.sampling.marginal import MarginalTarget
from tumorjax.methods.sampling.moves import generator
from tumorjax.methods.sampling.sample import Sample, SamplerStats, evidence_error, log_prior
from tumorjax.methods.sampling.sampler import SEED, AbstractSampler, draws_option
from tumorjax.methods.sampling.target import AbstractTarget
from tumorjax.option import Option
from tumorjax.progress import SearchProgress, silent

# Directions of the summary for each coordinate, and number of simulations from whose predictions they follow.
_DIRECTIONS, _PREDICTIONS = 4, 256
# Share of the prior in a proposal: no weight of the published loss is larger than one over this.
_DEFENSIVE = 0.2


class Learnt(NamedTuple):
    """The result of all rounds.

    Parameters
    ----------
    mixture
        The patient's posterior according to the last network.
    network
        That network, a `MixtureDensity`; None where the rounds were all done before.
    features
        Its input for the patient.
    kept
        The simulations from which it learnt.
    history
        (rounds, 5): number of simulations that were learnt from, loss, information, typicality, number that failed.
    seconds
        Time of all runs.
    """

    mixture: Gaussians
    network: Any
    features: Float[np.ndarray, "f"]
    kept: Kept
    history: Float[np.ndarray, "r 5"]
    seconds: float


class NeuralPosterior(AbstractSampler):
    """Sequential neural posterior estimation: a network for this patient learns parameters from simulated images.

    In each round parameters are drawn, images are simulated with their noise, and a mixture density network learns the
    distribution of the parameters given a summary of the images. For the patient's images it gives a posterior, near
    which the next round draws parameters. The method needs no gradients and, except for the correction, no likelihood.

    Parameters
    ----------
    rounds, simulations
        Number of rounds, and of simulations in each.
    proposal
        Where later rounds draw. "truncated": from the prior, within the region where the last posterior has all but
        `tail` of its probability (TSNPE), so that the loss needs no weights. "weighted": from the last posterior (and a
        fifth from the prior), with the loss weighted by prior over proposal as in the paper; the proposal is that of
        all rounds together, which bounds the weights.
    draws
        Number of draws from the posterior.
    corrected
        Whether draws are weighted by prior times likelihood over the network's density, at one solve for each draw.
        Their effective number shows whether the network is right. Where it is below a tenth, the proposal is moved
        towards the posterior, up to six times and at one solve for each draw each time; there is a warning where it
        stays below a twentieth. Without correction the draws are the network's, and `log_likelihoods` are its density
        over the prior's.
    images
        Number of images drawn for each simulation, which cost little beside its solve and teach the network what noise
        is. Fewer where memory does not suffice.
    components, members
        Number of Gaussians of each network, and number of networks, whose mixtures are averaged; see
        `MixtureArchitecture`.
    hidden, layers
        Number of units of each hidden layer of these, and number of such layers.
    seen
        What the network sees. "projections": projections of the images, see `Summary`. "labels": the outlines' labels,
        summed in each voxel that varies, without the linear part of our networks.
    warm
        Whether the network of a round begins with the weights of that before, for which it must see "labels": the
        projections are others in each round.
    tail
        See `proposal`.
    epochs
        Largest number of passes through the simulations; held-out ones stop the training earlier.
    chunk
        Number of solves in a batch on an accelerator.
    checkpoint
        Path of a file in which to keep every round. The same run, started again, continues from there to the same
        draws.

    Warns
    -----
    DoubtfulEstimate
        If the effective number of corrected draws is small, or no simulation is like the patient.

    References
    ----------
    I. Ezhov et al., "Neural parameters estimation for brain tumor growth modeling", MICCAI 2019; Deistler et al.,
    "Truncated proposals for scalable and hassle-free simulation-based inference", NeurIPS 2022.
    """

    name: ClassVar[str] = "npe"
    title: ClassVar[str] = "neural posterior estimation (NPE)"
    references: ClassVar[tuple[str, ...]] = (
        "I. Ezhov et al., Neural parameters estimation for brain tumor growth modeling, MICCAI 2019.",
        "M. Deistler et al., Truncated proposals for scalable and hassle-free simulation-based inference, "
        "NeurIPS 2022.",
    )
    summary: ClassVar[str] = (
        "draws from the posterior by a network that learns this patient's parameters from simulated images"
    )
    extra: ClassVar[str | None] = "bayes,networks"
    libraries: ClassVar[tuple[str, ...]] = ("flax", "arviz", "h5netcdf")
    options: ClassVar[tuple[Option, ...]] = (
        draws_option("number of draws (default: 1000)"),
        Option("rounds", "rounds of simulation and training (default: 4)", int, "N"),
        Option("simulations", "simulations in each round (default: 1000)", int, "N"),
        SEED,
        CHECKPOINT,
    )

    rounds: int = eqx.field(static=True, default=4)
    simulations: int = eqx.field(static=True, default=1000)
    proposal: Literal["truncated", "weighted"] = eqx.field(static=True, default="truncated")
    draws: int = eqx.field(static=True, default=1000)
    corrected: bool = eqx.field(static=True, default=True)
    images: int = eqx.field(static=True, default=16, kw_only=True)
    components: int = eqx.field(static=True, default=6, kw_only=True)
    members: int = eqx.field(static=True, default=3, kw_only=True)
    hidden: int = eqx.field(static=True, default=50, kw_only=True)
    layers: int = eqx.field(static=True, default=3, kw_only=True)
    seen: Literal["projections", "labels"] = eqx.field(static=True, default="projections", kw_only=True)
    warm: bool = eqx.field(static=True, default=False, kw_only=True)
    tail: float = eqx.field(static=True, default=1e-4, kw_only=True)
    epochs: int = eqx.field(static=True, default=300, kw_only=True)
    chunk: int = eqx.field(static=True, default=64, kw_only=True)
    checkpoint: str | None = eqx.field(static=True, default=None, kw_only=True)

    def __check_init__(self) -> None:
        names = ("rounds", "images", "components", "members", "hidden", "layers", "epochs", "chunk")
        check_counts(self, **dict.fromkeys(names, 1), simulations=20, draws=2)
        if self.proposal not in ("truncated", "weighted"):
            raise ValueError(f"proposal must be 'truncated' or 'weighted', got {self.proposal!r}")
        if not 0 < self.tail < 0.5:
            raise ValueError(f"tail must be between 0 and 0.5, got {self.tail}")
        if self.seen not in ("projections", "labels"):
            raise ValueError(f"seen must be 'projections' or 'labels', got {self.seen!r}")
        if self.warm and self.seen != "labels":
            raise ValueError("a warm start needs a network that sees the same in every round; give seen='labels'")

    @classmethod
    def published(cls, **settings: Any) -> "NeuralPosterior":
        """Return the configuration of the paper: one hidden layer of 100 units that sees the summed label map.

        Four rounds of 1000 simulations, one image of each, drawn from the last posterior, with the weighted loss; a
        single network, which begins each round with the weights of the last; no correction. What differs: a fifth of
        the simulations is drawn from the prior, the loss takes those of all rounds, by which its weights are bounded,
        and only voxels that vary are shown. The number of Gaussians is ours.

        Parameters
        ----------
        settings
            Other settings, by name.
        """
        paper: dict[str, Any] = {
            "proposal": "weighted",
            "corrected": False,
            "images": 1,
            "members": 1,
            "hidden": 100,
            "layers": 1,
            "seen": "labels",
            "warm": True,
        }
        return cls(**paper | settings)

    def _sample(self, problem: Problem, key: Key[Array, ""], progress: SearchProgress) -> tuple[Sample, Cost]:
        learnt = self.learn(ProblemSimulator.of(problem), key, progress)
        return self.draw(learnt, MarginalTarget(problem), key, progress), Cost()

    def learn(self, simulator: AbstractSimulator, key: Key[Array, ""], progress: SearchProgress = silent) -> Learnt:
        """Run the rounds, for any simulator.

        Raises
        ------
        ValueError
            If most simulations of a round fail, flax is not installed, or the checkpoint is of another calibration.
        """
        settings = dataclasses.replace(self, checkpoint=None, draws=2, corrected=False)
        most = {"rounds": self.rounds, "simulations": self.rounds * self.simulations, "images": self.images}
        layouts = (State.layout(simulator.size, warm=self.warm),)
        with Checkpoint(self.checkpoint, settings, simulator, key, layouts=layouts, most=most) as checkpoint:
            state, network, features = self._rounds(simulator, key, progress, checkpoint)
        assert state.kept is not None
        return Learnt(state.mixtures[-1], network, features, state.kept, state.history, state.seconds)

    def _rounds(
        self, simulator: AbstractSimulator, key: Key[Array, ""], progress: SearchProgress, checkpoint: Checkpoint
    ) -> tuple[State, Any, Float[np.ndarray, "f"]]:
        """Return the state after all rounds, the last network and its input; continues where an earlier run ended."""
        from tumorjax.networks.mixture_density import MixtureArchitecture, flattened
        from tumorjax.networks.mixture_training import train_mixture

        state = State.load(checkpoint.load() or {})
        began = time.monotonic()
        labels, values, extras = simulator.observed()
        data, most = np.concatenate([labels, values]), _DIRECTIONS * simulator.size
        images = images_of(simulator, self.images, self.rounds * self.simulations)
        if not state.fits(len(labels), len(data), images):
            raise ValueError(f"{self.checkpoint} is of other images than these; remove it to begin anew")
        network, features_of_patient = None, np.zeros(0)
        for number in range(len(state.mixtures), self.rounds):
            name = f"round {number + 1}"
            points, region = self._points(state, simulator.size, key)
            kept, predictions, seen, failed = draw_data(
                simulator,
                points,
                jax.random.fold_in(key, number),
                images=images,
                seen=state.seen,
                predictions=_PREDICTIONS,
                chunk=self.chunk,
                progress=lambda share, name=name: progress(name, 0.9 * share, np.nan),
            )
            summary = Summary.of(predictions, most)
            used = kept
            if state.kept is not None:
                # Later regions lie within this one, nearly always.
                inside = slice(None) if region is None else region.holds(state.kept.z)
                used = state.kept.rows(inside).joined(kept)
            count = int(np.searchsorted(seen, len(labels)))
            projected, own = summary.features(used, count), summary.of_patient(data[seen], extras)
            features, features_of_patient = projected, own
            if self.seen == "labels":
                shown = LabelMap.of(seen, len(labels), simulator.outlines)
                features, features_of_patient = shown.features(used), shown.of_patient(data[seen])
            weights = self._weights(state, used.z) if self.proposal == "weighted" else np.ones(len(used.z))
            architecture = MixtureArchitecture(
                features.shape[1],
                simulator.size,
                self.components,
                self.members,
                self.hidden,
                self.layers,
                linear=self.seen == "projections",
            )
            begin = None if state.network is None else _unflattened(architecture, state.network, self.checkpoint)
            trained = train_mixture(
                architecture,
                features,
                np.repeat(used.z, images, axis=0),
                np.repeat(weights, images),
                key=jax.random.fold_in(jax.random.fold_in(key, number), 1),
                group=images,
                capacity=self.rounds * self.simulations * images,
                epochs=self.epochs,
                begin=begin,
            )
            network, mixture = trained.model, Gaussians(*trained.model.given(features_of_patient))
            row = [
                len(used.z),
                trained.losses.mean(),
                summary.information,
                typicality(projected[-len(kept.z) * images :: images], own),
                failed,
            ]
            state = State(
                [*state.mixtures, mixture],
                used,
                seen,
                np.concatenate([state.history, [row]]),
                state.seconds + time.monotonic() - began,
                flattened(network) if self.warm else None,
            )
            began = time.monotonic()
            checkpoint.save(**state.arrays())
            progress(name, 1.0, float(trained.losses.mean()))
        return state, network, features_of_patient

    def draw(
        self, learnt: Learnt, target: AbstractTarget, key: Key[Array, ""], progress: SearchProgress = silent
    ) -> Sample:
        """Return draws from what was learnt, corrected by a target's likelihood.

        The details of the stats are `rounds` and `simulations`; `learnt`, the number of simulations from which each
        round's network learnt; `losses`, for each round minus the mean log-density of held-out simulations, nat, which
        cannot be compared between rounds; `information`, for each round the share of the information in the images
        that the summary keeps, in the linear-Gaussian approximation; `typicality` of each round; `corrected`; and
        `repeats`, the number of times that the proposal of the correction had to be improved.
        """
        began = time.monotonic()
        random, mixture = generator(key, self.rounds), learnt.mixture
        used, losses, information, typical, failures = learnt.history.T
        simulations = self.rounds * self.simulations
        failed, solves, repeats = int(failures.sum()), simulations, 0
        effective, error, log_evidence = None, None, np.nan
        if self.corrected:
            own = mixture.marginal(target.kept)
            found = corrected(own, target, random, key, self.draws, chunk=self.chunk, progress=progress)
            points, values, log_weights, log_evidence, effective, repeats, more = found
            error, failed = evidence_error(effective, self.draws), failed + more
            solves += (1 + repeats) * self.draws
        else:
            points = mixture.sample(random, self.draws)
            values = mixture.log_prob(points) - log_prior(points)
            log_weights = np.zeros(self.draws)
        stats = SamplerStats(
            cost=Cost(solves=solves, seconds=learnt.seconds + time.monotonic() - began),
            failed=failed,
            effective=effective,
            log_evidence_error=error,
            typicality=float(typical[-1]),
            details={
                "rounds": self.rounds,
                "simulations": simulations,
                "learnt": tuple(used.astype(int).tolist()),
                "losses": tuple(losses.tolist()),
                "information": tuple(information.tolist()),
                "typicality": tuple(typical.tolist()),
                "corrected": self.corrected,
                "repeats": repeats,
            },
        )
        warn(effective, self.draws, float(typical[-1]))
        return Sample(points[None], values[None], log_weights[None], log_evidence, stats)

    def _points(self, state: State, size: int, key: Key[Array, ""]) -> tuple[Float[np.ndarray, "k n"], Region | None]:
        """Return where the next round simulates, and the region that it keeps to."""
        random = generator(key, len(state.mixtures))
        if not state.mixtures:
            return random.normal(size=(self.simulations, size)), None
        if self.proposal == "weighted":
            return state.mixtures[-1].mixed(standard(size), _DEFENSIVE).sample(random, self.simulations), None
        region = Region.of(state.mixtures[-1], self.tail, random)
        return region.prior_draws(random, self.simulations), region

    def _weights(self, state: State, z: Float[np.ndarray, "s n"]) -> Float[np.ndarray, "s"]:
        """Return prior over proposal, that of all rounds together; equation 3 of the paper."""
        prior = standard(z.shape[1])
        rounds = [prior.log_prob(z)] + [mixture.mixed(prior, _DEFENSIVE).log_prob(z) for mixture in state.mixtures]
        return np.exp(rounds[0] - logsumexp(np.stack(rounds), axis=0) + np.log(len(rounds)))


def _unflattened(architecture: Any, row: Float[np.ndarray, "w"], checkpoint: str | None) -> Any:
    """Return the network of the last round, or raise a ValueError where the checkpoint holds another one."""
    from tumorjax.networks.mixture_density import unflattened

    try:
        return unflattened(architecture, row)
    except ValueError:
        raise ValueError(f"{checkpoint} is of another network than this; remove it to begin anew") from None
