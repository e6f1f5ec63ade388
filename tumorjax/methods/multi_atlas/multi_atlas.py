"""Calibration of growth with mass effect in several atlases, each a proxy for the unknown healthy brain."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Array, Key

from tumorjax.anatomy import Anatomy
from tumorjax.calibration.cost import Cost
from tumorjax.calibration.evaluation import fields, refined_fields
from tumorjax.calibration.method import AbstractMethod
from tumorjax.calibration.problem import Problem
from tumorjax.calibration.result import CalibrationResult
from tumorjax.calibration.scoring import Scored
from tumorjax.growth import AbstractGrowth
from tumorjax.io import InputError
from tumorjax.methods.checkpoint import CHECKPOINT, Stages, checkpoint_of, stages_of
from tumorjax.methods.multi_atlas.atlas_mixture import AtlasMixture
from tumorjax.methods.multi_atlas.candidates import focus_of_each, middles_of_foci, with_candidates
from tumorjax.methods.multi_atlas.coupling import can_couple, coupled_problem, shift_maps
from tumorjax.methods.multi_atlas.mixing import average, deviations, information_at
from tumorjax.methods.multi_atlas.sparse import SparseOrigin, sparse_origins
from tumorjax.methods.multi_atlas.stages import (
    answered,
    growth_alone,
    refined,
    rough_of,
    scored,
    unsuitable,
    without_mass_effect,
)
from tumorjax.methods.multi_atlas.stats import AtlasStats, MultiAtlasStats, Turn
from tumorjax.methods.multi_atlas.turns import Carry, Seeding
from tumorjax.option import Option
from tumorjax.patient.atlases import AlignedAtlas, align_atlases, as_asked, load_atlases
from tumorjax.patient.patient import DEFAULT_ATLAS, Patient
from tumorjax.progress import SearchProgress

WEIGHTS = ("mean", "tempered", "posterior")
"""How atlases can be weighed."""

# On voxels from here on (mm) nothing is left to gain from coarser ones.
_COARSE = 3.5
# Gaussians of which a tumour may begin; more would not be sparse.
_MOST_GAUSSIANS = 50
# mm: Gaussians do not leave their places.
_FIXED = 1e-3


class MultiAtlas(AbstractMethod):
    """The multi-stage inversion of a single scan with mass effect, when the healthy brain is not known.

    S.1 finds a sparse state at time zero, with the growth, in the patient's anatomy without mass effect. S.2 carries
    it to each atlas. S.3 calibrates gamma, rho T and kappa T there with the state fixed, by Fisher scoring. S.4, which
    is not in the paper, refines them together with the Gaussians' weights and places, by Fisher scoring, too. S.3 and
    S.4 run on coarser voxels; in the end the growth is calibrated once more on the problem's own, with derivatives from
    the coarser ones as long as they are good enough. How uncertain all of these are, the Gaussians' weights and places
    among them, the expected information says, on the coarser voxels.

    Where the atlases are deformed to a T1 image, unless `prepare` is asked for `healthy="affine"`, registration and
    growth take turns before S.4: the push that S.3 finds in an atlas leads back to the brain that fits the patient
    before the tumour, in which S.3 begins anew. The T1 image (`ShiftMap`) determines the force, not the fit
    of that brain, which is made to fit. Otherwise atlases lie behind affine maps, as published.

    As in the paper, what is returned is the plain mean over atlases unless `weights` says otherwise: an `AtlasMixture`,
    whose state at time zero is made of all of theirs, carried back to the patient, since each atlas may have chosen
    another. `samples` are the parameters in each atlas, in its own place. Atlases in which no tumour grows are left out
    of the mean. The posterior weights, `log_weights`, rest on a likelihood in which no atlas is the patient's brain:
    they soon leave all to one, which need not be nearest to the truth.

    The problem's anatomy is the patient's, with tissue in place of the tumour. Its model is `MassEffect`, its prior
    has `MassEffectParams` of `ScaledGrowthParams`. An origin that is a `GaussianBasis` holds the candidates for the
    state at time zero; any other gives way to Gaussians in the core.

    Parameters
    ----------
    atlases
        Healthy brains: names, folders, files or images of atlases, which `prepare` aligns with a patient, or anatomies
        that are aligned already and on the problem's grid. By default "icbm152" alone. The best ones have ventricles
        once to 1.5 times as large as the patient's.
    carry
        For each anatomy, how world coordinates in the patient correspond to those in it; by default they are the same.
    sparsity
        s: most Gaussians; never fewer than a tumour of several foci has of these.
    refine
        Whether S.4 takes place.
    coarsening
        Factor between the voxels of S.3 and S.4 and the problem's; by default 2, and 1 where these exceed 3.5 mm.
    iterations
        Most iterations of S.4.
    place_spread
        mm: prior standard deviation of the Gaussians' places in S.4, about where S.2 carried them.
    value_tolerance
        nat: searches end where iterations bring less, that of S.4 at ten times as much: by default half a nat, as much
        as a number off by one standard deviation costs.
    weights
        How atlases are weighed: "mean", all alike; "posterior"; or "tempered", the posterior divided by the error of
        the model as the spread over atlases measures it. See `tumorjax.methods.multi_atlas.mixing.weights_of`.
    together
        Whether all atlases are computed in one batch, for devices whose memory holds it, or one on each core or device.
    growth_search
        How S.3 searches for the growth: by Fisher "scoring", or by "differences", the paper's quasi-Newton steps with
        gradients by finite differences.
    checkpoint
        A file that keeps the result of each stage in each atlas, with a checksum. The same run, started again,
        continues from there to the same result; None keeps nothing.

    References
    ----------
    Subramanian, Scheufele, Himthani, Biros, "Multiatlas calibration of biophysical brain tumor growth models with mass
    effect", MICCAI 2020, section 2.1.
    """

    name: ClassVar[str] = "multi-atlas"
    title: ClassVar[str] = "multi-atlas inversion"
    references: ClassVar[tuple[str, ...]] = (
        "S. Subramanian, K. Scheufele, N. Himthani, G. Biros, Multiatlas calibration of biophysical brain tumor growth "
        "models with mass effect, MICCAI 2020.",
    )
    summary: ClassVar[str] = (
        "growth with mass effect, calibrated in atlases that stand for the patient's brain before the tumour, which "
        "takes many times as long"
    )
    options: ClassVar[tuple[Option, ...]] = (
        Option(
            "atlases",
            "each icbm152, a folder as for --atlas, or a T1 image without the skull; best are several whose ventricles "
            "are once to 1.5 times as large as the patient's; or family:N, N random relatives of the patient's atlas, "
            "chosen by their ventricles (default: icbm152 alone)",
            metavar="NAME",
            several=True,
            place=True,
        ),
        Option(
            "weights",
            "how atlases are weighed: mean, all alike; posterior; or tempered by the spread over them (default: mean)",
            metavar="HOW",
            choices=WEIGHTS,
        ),
        Option("sparsity", "most Gaussians of which the tumour begins (default: 5)", type=int, metavar="N"),
        Option(
            "no-refine",
            "hold the tumour's beginning as found without mass effect, which takes a fraction of the time",
            type=None,
        ),
        CHECKPOINT,
    )

    atlases: tuple[Any, ...] | None = None
    carry: tuple[Carry, ...] | None = eqx.field(static=True, default=None)
    sparsity: int = eqx.field(static=True, default=5)
    refine: bool = eqx.field(static=True, default=True)
    coarsening: int | None = eqx.field(static=True, default=None)
    iterations: int = eqx.field(static=True, default=4)
    place_spread: float = 3.0
    value_tolerance: float = eqx.field(static=True, default=0.05)
    together: bool = eqx.field(static=True, default=False)
    growth_search: str = eqx.field(static=True, default="scoring")
    checkpoint: str | None = eqx.field(static=True, default=None)
    weights: Literal["mean", "tempered", "posterior"] = eqx.field(static=True, default="mean")

    def __check_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights is one of {', '.join(WEIGHTS)}, got {self.weights!r}")
        if self.atlases is not None and not self.atlases:
            raise ValueError("multi-atlas calibration needs at least one atlas")
        if self.carry is not None and len(self.carry) != len(self.atlases or ()):
            raise ValueError(f"give one carry an atlas, got {len(self.carry)} for {len(self.atlases or ())}")
        if self.sparsity < 1 or self.iterations < 1 or (self.coarsening is not None and self.coarsening < 1):
            given = f"{self.sparsity}, {self.coarsening} and {self.iterations}"
            raise ValueError(f"sparsity, coarsening and iterations must be at least 1, got {given}")
        if self.growth_search not in ("scoring", "differences"):
            raise ValueError(f'growth_search must be "scoring" or "differences", got {self.growth_search!r}')

    @classmethod
    def published(cls, atlases: tuple[Any, ...] | None = None, **settings: Any) -> "MultiAtlas":
        """Return the method with the settings of the paper, for comparison.

        The growth is found by at most 50 quasi-Newton steps with Armijo's condition and gradients by finite
        differences, to relative tolerances of 1e-3 of the gradient and of the objective; on the problem's own voxels,
        with Gaussians that stay at the candidates' places, and without S.4. What the paper leaves open stays as it is
        here, among it the number of Gaussians. Our likelihood and prior replace its misfit and the penalty on the
        state at time zero.

        Parameters
        ----------
        atlases
            See the class.
        settings
            Further parameters of the class.

        References
        ----------
        Subramanian et al., MICCAI 2020, section 2.1 and table S1.
        """
        published: dict[str, Any] = {
            "refine": False,
            "coarsening": 1,
            "place_spread": _FIXED,
            "growth_search": "differences",
        }
        return cls(atlases, **{**published, **settings})

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "MultiAtlas":
        """Return the method that the options of a command describe, with its atlases read.

        Raises
        ------
        InputError
            If an atlas cannot be used, or a value.
        """
        sparsity = options.get("sparsity", 5)
        if not 1 <= sparsity <= _MOST_GAUSSIANS:
            raise InputError(f"sparsity: got {sparsity}; give 1 to {_MOST_GAUSSIANS}")
        atlases = tuple(load_atlases(options["atlases"])) if options.get("atlases") else None
        return cls(
            atlases,
            sparsity=sparsity,
            refine=not options.get("no_refine"),
            checkpoint=checkpoint_of(options),
            weights=options.get("weights", "mean"),
        )

    @property
    def brings_brain(self) -> bool:
        """True: atlases stand for the patient's brain before the tumour."""
        return True

    def prepare(
        self,
        patient: Patient,
        model: Any,
        *,
        healthy: Literal["affine", "coupled"] | None = None,
        notes: list[str],
        progress: Callable[[str, float | None], None],
    ) -> "MultiAtlas":
        """Return the method with its atlases aligned with a patient.

        Raises
        ------
        InputError
            If an atlas cannot be used; see `tumorjax.patient.atlases.align_atlases`.

        Warns
        -----
        RegistrationWarning
            If an atlas could not be aligned well.
        """
        if self.atlases is not None and all(isinstance(each, Anatomy | AlignedAtlas) for each in self.atlases):
            return dataclasses.replace(self, atlases=tuple(as_asked(patient, self._aligned(), healthy, notes)))
        if self.atlases is None:
            notes.append(f"Growth with mass effect is calibrated in the atlas {DEFAULT_ATLAS} alone.")
        images = load_atlases(self.atlases or (DEFAULT_ATLAS,))
        aligned = align_atlases(
            patient,
            images,
            notes,
            healthy=healthy,
            progress=lambda message: progress(message, None),
        )
        return dataclasses.replace(self, atlases=tuple(aligned), carry=None)

    def refuses_model(self, model: AbstractGrowth) -> str | None:
        """Return in one line that a model leaves the tissue where it is; None if it moves it."""
        return None if model.displaces else f"multi-atlas calibration is for MassEffect, got {type(model).__name__}"

    def refuses(self, problem: Problem) -> str | None:
        """Return in one line why the method cannot calibrate a problem; None if it can."""
        if reason := self.refuses_model(problem.model):
            return reason
        if self.atlases is None or not all(isinstance(each, Anatomy | AlignedAtlas) for each in self.atlases):
            return (
                "the atlases of this calibration are not aligned with a patient yet; call personalize, or give "
                "anatomies on the problem's grid: MultiAtlas((anatomy,))"
            )
        return unsuitable(problem, [atlas.anatomy for atlas in self._aligned()])

    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: SearchProgress) -> AtlasMixture:
        """Calibrate the problem; `key` is not used."""
        problem = with_candidates(problem)
        with stages_of(self.checkpoint, *self._identity(problem)) as kept:
            started = time.perf_counter()
            origins, gradients = kept("sparse origin", lambda: self._origins(problem, progress))
            found = self.fit(problem, origins, gradients, progress, kept)
            seconds = kept.seconds + time.perf_counter() - started - found.cost.seconds
            return dataclasses.replace(found, cost=found.cost + Cost(seconds=seconds))

    def _identity(self, problem: Problem) -> tuple[Any, ...]:
        """Return what determines the result: settings, problem, and of each atlas its tissue and where it lies."""
        nodes = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 9) for n in problem.anatomy.grid.shape)), axis=-1)
        world, aligned = np.asarray(problem.anatomy.grid.to_world(nodes.reshape(-1, 3))), self._aligned()
        carried = [np.asarray(carry(world)) for carry in self.carry or [atlas.carry for atlas in aligned]]
        settings = dataclasses.replace(self, atlases=None, carry=None, checkpoint=None)
        return settings, problem, [(a.name, a.anatomy, a.deformed, a.shift) for a in aligned], carried

    def fit(
        self,
        problem: Problem,
        origins: list[SparseOrigin],
        origin_gradients: int,
        progress: SearchProgress,
        kept: Stages | None = None,
    ) -> AtlasMixture:
        """Calibrate in each atlas (S.2 to S.4), from the states that S.1 found in the patient; the better goes on.

        Stages that are `kept` are not computed again.
        """
        started, atlases, factor = time.perf_counter(), self._aligned(), self._factor(problem)
        settings = self._settings(progress, Stages() if kept is None else kept)
        turns: list[Turn] = []
        seeding = self._seeding(problem, origins, settings)
        if seeding.shown:
            problem = coupled_problem(problem, seeding.shown[0])
            atlases, tried, turns = seeding.in_turns(problem, atlases)
        else:
            tried = seeding.seeded(problem, atlases)
        chosen, fine, seeded, count = tried.states, tried.problems, tried.scored, len(atlases)
        points = [s.point for s in seeded]
        ends, rough = None, [rough_of(p, factor) for p in fine]
        if self.refine:
            ends = refined(rough, points, self.iterations, **settings)
            points = [m.point for m in ends]
        final = seeded
        if factor > 1 or ends is not None:
            # On other voxels, or from where S.4 has led.
            moving = [growth_alone(each.prior) for each in fine]
            stage, derivatives = "final growth in the atlases", None
            if factor > 1:
                known = self._scored(rough, points, moving, 0, stage=stage, **settings)
                shape = problem.anatomy.grid.shape
                derivatives = [
                    {i: refined_fields(d, factor, shape) for i, d in one.derivatives.items()} for one in known
                ]
            final = self._scored(fine, points, moving, 3, stage=stage, derivatives=derivatives, **settings)
        progress("uncertainty in the atlases", 0.0, min(s.value for s in final))
        asking = [information_at(p, s.point) for p, s in zip(rough, final, strict=True)]
        uncertain = answered(
            "uncertainty in the atlases", asking, rough, fields, together=self.together, kept=settings["kept"]
        )
        stats = tuple(
            AtlasStats(
                state=chosen[a],
                seeded=seeded[a].value,
                refined=seeded[a].value if ends is None else ends[a].value,
                final=final[a].value,
                solves=tried.solves[a] + (0 if ends is None else ends[a].solves) + uncertain[a].solves,
                fine_solves=0 if final is seeded else final[a].solves,
                iterations=0 if ends is None else len(ends[a].history) - 1,
                histories=(
                    tuple(seeded[a].history),
                    () if ends is None else tuple(ends[a].history),
                    () if final is seeded else tuple(final[a].history),
                ),
            )
            for a in range(count)
        )
        # Every gradient holds a solve.
        coarse = origin_gradients + sum(each.solves for each in stats)
        fine_solves = sum(each.fine_solves for each in stats)
        return average(
            problem,
            [origins[k].basis for k in chosen],
            self.place_spread,
            fine,
            final,
            uncertain,
            self._result(ends),
            weights=self.weights,
            stats=MultiAtlasStats(
                tuple(o.basis for o in origins), origin_gradients, stats, deviations(uncertain), factor, tuple(turns)
            ),
            atlases=atlases,
            foci=middles_of_foci(problem),
            method=self.title,
            cost=Cost(
                solves=fine_solves + (coarse if factor == 1 else 0),
                coarse_solves=coarse if factor > 1 else 0,
                seconds=time.perf_counter() - started,
            ),
            histories=tuple((*each.histories[0], *each.histories[1]) for each in stats),
        )

    def _scored(self, *arguments: Any, **settings: Any) -> list[Scored]:
        """Return where the search for the growth ends in each atlas; see `stages.scored`."""
        return scored(*arguments, by=self.growth_search, **settings)

    def _result(self, ends: list[Scored] | None) -> CalibrationResult:
        """Return how S.4 ended: where it needed all of its iterations, more might bring more."""
        spent = ends is not None and any(len(one.history) > self.iterations for one in ends)
        return CalibrationResult.BUDGET if spent else CalibrationResult.VALUE

    def couple(
        self, problem: Problem, progress: SearchProgress
    ) -> tuple[Problem, tuple[AlignedAtlas, ...], tuple[Turn, ...]]:
        """Return the brain before the tumour that registration and growth by turns find in each atlas.

        The problem is returned, too, with what the T1 image shows beside the first atlas.

        Raises
        ------
        ValueError
            If the atlases cannot be coupled; see `tumorjax.methods.multi_atlas.coupling.can_couple`.
        """
        atlases = self._aligned()
        if not can_couple(atlases):
            raise ValueError("registration and growth take turns only with a T1 image and atlases deformed to it")
        problem = with_candidates(problem)
        origins, _ = self._origins(problem, progress)
        settings = self._settings(progress, Stages())
        seeding = self._seeding(problem, origins, settings)
        problem = coupled_problem(problem, seeding.shown[0])
        atlases, _, turns = seeding.in_turns(problem, atlases)
        return problem, atlases, tuple(turns)

    def _settings(self, progress: SearchProgress, kept: Stages) -> dict[str, Any]:
        """Return what the searches of all stages have in common."""
        return {
            "value_tolerance": self.value_tolerance,
            "together": self.together,
            "progress": progress,
            "kept": kept,
        }

    def _seeding(self, problem: Problem, origins: list[SparseOrigin], settings: dict[str, Any]) -> Seeding:
        aligned, search = self._aligned(), partial(self._scored, **settings)
        carry = self.carry or [atlas.carry for atlas in aligned]
        shown = shift_maps(problem, aligned) if can_couple(aligned) else ()
        return Seeding(origins, carry, self.place_spread, self._factor(problem), search, shown)

    def _origins(self, problem: Problem, progress: SearchProgress) -> tuple[list[SparseOrigin], int]:
        """Return the states at time zero that S.1 finds in the patient, and how many gradients that took."""
        candidates = problem.prior.distributions.growth.growth.origin
        still, factor = without_mass_effect(problem), self._factor(problem)
        foci, begun = focus_of_each(problem, candidates)
        return sparse_origins(
            still.coarsen(factor) if factor > 1 else still,
            candidates,
            max(self.sparsity, begun.size),
            place_spread=self.place_spread,
            value_tolerance=self.value_tolerance,
            foci=foci,
            begun=begun,
            progress=lambda share, value: progress("sparse origin", share, value),
        )

    def _aligned(self) -> tuple[AlignedAtlas, ...]:
        """Return the atlases with their names; anatomies have numbers."""
        return tuple(
            AlignedAtlas(f"atlas {i + 1}", each) if isinstance(each, Anatomy) else each
            for i, each in enumerate(self.atlases or ())
        )

    def _factor(self, problem: Problem) -> int:
        if self.coarsening is not None:
            return self.coarsening
        return 1 if float(np.min(np.asarray(problem.anatomy.grid.spacing))) > _COARSE else 2
