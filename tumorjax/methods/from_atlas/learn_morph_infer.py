"""Calibration by a network that has learnt the inverse problem in an atlas."""

import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.anatomy import Anatomy
from tumorjax.atlas import AtlasImages
from tumorjax.calibration.cost import Cost
from tumorjax.calibration.evaluation import evaluate, fields
from tumorjax.calibration.method import AbstractMethod
from tumorjax.calibration.problem import Problem
from tumorjax.calibration.result import CalibrationResult
from tumorjax.checks import check_counts
from tumorjax.growth import AbstractGrowth, GrowthParams, MassEffectParams, ScaledGrowthParams
from tumorjax.integrate import simulate
from tumorjax.io import InputError
from tumorjax.methods.from_atlas.indirect import corrected
from tumorjax.methods.from_atlas.inferred import Inferred, LearnMorphInferStats
from tumorjax.methods.from_atlas.learnt import grown_otherwise, heard, intervals, learnt_mass_effect, seen_by, unfit
from tumorjax.methods.from_atlas.morphing import (
    MORPH,
    Carry,
    Morph,
    Morphed,
    incomparable,
    into_patient,
    of_another_kind,
    outlines_in,
    unlike_in_fibres,
)
from tumorjax.methods.search.lbfgs import LBFGS
from tumorjax.option import Option
from tumorjax.patient.alignment import read_atlas
from tumorjax.patient.patient import DEFAULT_ATLAS, Patient
from tumorjax.patient.transforms import carry_from
from tumorjax.progress import SearchProgress
from tumorjax.retrieval.masks import THRESHOLDS
from tumorjax.retrieval.thresholds import CORE_THRESHOLDS, LESION_THRESHOLDS, dice_above


class DoubtfulEstimate(UserWarning):
    """What a network says is not what the images show, or not what it has learnt."""


class LearnMorphInfer(AbstractMethod):
    """Parameters that a network reads off the outlines, carried to its atlas: no search at all.

    The patient's outlines of core and lesion are brought to the atlas, or the core for both where it alone is
    known; the network gives mu_1, mu_2 and the seed, which is carried back. In the paper the tumour then grows in
    the atlas and is morphed into the patient, which `morph` does; here it grows in the patient, and
    `LBFGS(init=LearnMorphInfer(...))` refines it there. With mass effect outlines and seed are carried by the
    affine part of the map alone, since a deformation would undo the displacement.

    The paper's answer is what the network says. Here it is corrected by indirect inference: the tumour of an answer
    grows in the atlas, and the difference of what the network says of it from what it says of the patient is the
    error of that answer. A few solves so remove most of a network's bias.

    A patient unlike those that the network has learnt warns. One solve in the patient checks every answer: one whose
    lesion is not the patient's, such as a tumour that fills the brain, is not `plausible` and warns; `LBFGS` then
    begins as it does without a method of its own.

    Parameters
    ----------
    network
        An `InverseNetwork`, or several that have different targets. It knows whether its tumours had mass effect, and
        is for such growth; it may tell gamma, Pa, or be given it.
    anatomy
        Of the atlas, in voxels of the edge that the network knows. A network that keeps the grid of its tumours sees
        the part of the atlas on that grid, which must hold all tissue.
    carry
        Maps world coordinates of the atlas, (n, 3) mm, to the same anatomical places in the patient; by default they
        are the same. `prepare` finds the map for a patient.
    atlas
        The images of that atlas, or its name, for `prepare`; by default "icbm152".
    least_dice
        Least Dice coefficient of lesions that resemble each other.
    mass_effect
        gamma, Pa: how strongly the tumour pushes, where it is known. A network that learnt growth with mass effect but
        does not tell it, as the paper's, needs it; one that tells a distribution then gives the others for this one. A
        search that begins with the answer infers it anew.
    morph
        Whether the tumour that grows in the atlas, morphed into the patient, is the answer, as in the paper; by default
        the tumour grows in the patient.
    corrections
        How often the answer is corrected, at one solve in the atlas each and a last one; 0 is the paper's method. Of
        all answers that whose tumour has the largest sum of Dice coefficients with the patient's outlines is kept.

    References
    ----------
    I. Ezhov et al., "Learn-Morph-Infer: a new way of solving the inverse problem for brain tumor modeling", Medical
    Image Analysis 2023.
    """

    name: ClassVar[str] = "lmi"
    title: ClassVar[str] = "Learn-Morph-Infer"
    references: ClassVar[tuple[str, ...]] = (
        "I. Ezhov et al., Learn-Morph-Infer: a new way of solving the inverse problem for brain tumor modeling, "
        "Medical Image Analysis 83 (2023) 102672.",
    )
    summary: ClassVar[str] = "Learn-Morph-Infer, a search that begins at what a network reads off the outlines"
    extra: ClassVar[str | None] = "networks"
    libraries: ClassVar[tuple[str, ...]] = ("flax",)
    options: ClassVar[tuple[Option, ...]] = (
        Option(
            "network",
            "weights that `tumorjax train inverse` wrote, of tumours in the atlas that --atlas names (default: those "
            "that ship, of icbm152)",
            type=Path,
            metavar="FILE",
        ),
        Option(
            "mass-effect",
            "with --model mass-effect, how strongly the tumour pushes, Pa, where it is known; a search "
            "from the network's answer infers it anew",
            type=float,
            metavar="PA",
        ),
        Option(
            "corrections",
            "how often the network's answer is corrected by what it says of the tumour that grows from it, each at one "
            "solve (default: 3; 0 as published)",
            type=int,
            metavar="N",
        ),
        Option("no-refine", "the network's answer itself is the answer", type=None),
        MORPH,
    )

    network: Any
    anatomy: Anatomy
    carry: Carry = eqx.field(static=True, default=None, kw_only=True)
    atlas: AtlasImages | str | Path | None = eqx.field(static=True, default=None, kw_only=True)
    least_dice: float = eqx.field(static=True, default=0.5, kw_only=True)
    mass_effect: float | None = eqx.field(static=True, default=None, kw_only=True)
    morph: bool = eqx.field(static=True, default=False, kw_only=True)
    corrections: int = eqx.field(static=True, default=3, kw_only=True)

    def __check_init__(self) -> None:
        spacing = np.asarray(self.anatomy.grid.spacing)
        said = self._targets()
        for network in self._networks():
            learnt = network.architecture.spacing
            if not np.allclose(spacing, learnt, rtol=0.01):
                raise ValueError(
                    f"the network learnt on voxels of {learnt:g} mm, the anatomy has {np.round(spacing, 3).tolist()}; "
                    "resample the anatomy"
                )
            seen_by(network, self.anatomy)
        if not ({"x", "y", "z"} <= said and ({"mu1", "mu2"} <= said or {"D", "rho", "T"} <= said)):
            raise ValueError(f"the seed, and mu1 and mu2 or D, rho and T are needed; the network gives {sorted(said)}")
        if reason := unfit(self._networks(), self.mass_effect):
            raise ValueError(reason)
        if not 0 <= self.least_dice <= 1:
            raise ValueError(f"least_dice is a Dice coefficient, got {self.least_dice}")
        check_counts(self, corrections=0)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> AbstractMethod:
        """Return the network that the options of a command describe, or a search that begins at its answer.

        Raises
        ------
        InputError
            As of `open`.
        """
        found = cls.open(
            options.get("network"),
            displaces=bool(options.get("displaces")),
            atlas=options.get("atlas"),
            morph=bool(options.get("morph")),
            mass_effect=options.get("mass_effect"),
            **({} if options.get("corrections") is None else {"corrections": options["corrections"]}),
        )
        return found if options.get("no_refine") or found.morph else LBFGS(init=found)

    @classmethod
    def open(
        cls,
        file: str | os.PathLike | None = None,
        *,
        displaces: bool = False,
        atlas: str | Path | None = None,
        **settings: Any,
    ) -> "LearnMorphInfer":
        """Return the method with the network of a file, in its atlas.

        Parameters
        ----------
        file
            Written by `tumorjax train inverse`; None for the weights that ship.
        displaces
            Without a file: whether to take those of tumours that displace tissue, for `MassEffect`.
        atlas
            The atlas in which the network's tumours were grown, as for `tumorjax.atlas.load_atlas`; "icbm152" if not
            given.
        settings
            Further parameters of `LearnMorphInfer`.

        Raises
        ------
        InputError
            If it is no file of such a network, or the network was not trained in that atlas.
        """
        from tumorjax.networks import SHIPPED_INVERSE, SHIPPED_MASS_EFFECT, load_inverse

        if file is None and atlas not in (None, DEFAULT_ATLAS):
            raise InputError(
                f"network: the one that ships learnt tumours of {DEFAULT_ATLAS}, not of {atlas or repr(atlas)}; leave "
                "out --atlas, or give --network with the file that `tumorjax train inverse` wrote"
            )
        try:
            network = load_inverse(file or (SHIPPED_MASS_EFFECT if displaces else SHIPPED_INVERSE))
        except ValueError as error:
            raise InputError(f"network: {error}") from None
        if reason := unfit((network,), settings.get("mass_effect")):
            raise InputError(f"network: {reason}")
        images = read_atlas(DEFAULT_ATLAS if atlas is None else atlas)
        try:
            return cls(network, images.anatomy(network.architecture.spacing), atlas=images, **settings)
        except ValueError as error:
            raise InputError(f"network: {error}; --atlas says which that is") from None

    @property
    def single_seed(self) -> bool:
        """Whether it knows tumours of a single seed only: as the network does."""
        return True

    @property
    def region(self) -> Literal["brain", "lesion"]:
        """The neighbourhood of the lesion, unless the tumour of the atlas, which reaches anywhere, is the answer."""
        return "brain" if self.morph else "lesion"

    def prepare(
        self,
        patient: Patient,
        model: Any,
        *,
        healthy: Literal["affine", "coupled"] | None = None,
        notes: list[str],
        progress: Callable[[str, float | None], None],
    ) -> "LearnMorphInfer":
        """Return the method with the map from its atlas to the patient.

        Raises
        ------
        InputError
            If the atlas cannot be aligned with the patient; if the tumour of the atlas is to be the answer, and the
            patient's grows along fibres.

        Warns
        -----
        RegistrationWarning
            If it could not be aligned well.
        """
        # Before the alignment, which takes minutes.
        if reason := self._refuses_fibres(patient.anatomy):
            raise InputError(f"method: {reason}")
        if self.carry is not None:
            return self
        named = DEFAULT_ATLAS if self.atlas is None else self.atlas
        atlas = named if isinstance(named, AtlasImages) else read_atlas(named)
        carry = carry_from(
            patient, atlas, "network", notes, lambda message: progress(message, None), affine=self._pushes
        )
        return dataclasses.replace(self, atlas=atlas, carry=carry)

    def refuses_model(self, model: AbstractGrowth) -> str | None:
        """Return in one line that the network learnt tumours of another model; None if of this one."""
        other_kind = of_another_kind(model, "this network", displaces=self._pushes)
        return other_kind or grown_otherwise(self._networks(), model)

    def refuses(self, problem: Problem) -> str | None:
        """Return in one line why the network says nothing of a problem; None if it does."""
        if reason := incomparable(problem, "this network", displaces=self._pushes):
            return reason
        return self._refuses_fibres(problem.anatomy) or self.refuses_model(problem.model)

    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: SearchProgress) -> Inferred:
        """Calibrate the problem; `key` is not used."""
        started = time.perf_counter()
        progress("inference", 0.0, np.nan)
        tissue = np.asarray(self.anatomy.tissue)
        found = outlines_in(problem, self.anatomy.grid, tissue, self.carry, "the atlas'")
        core, lesion = (outline & tissue for outline in found)
        begun = time.perf_counter()
        networks = self._networks()
        said, outside = heard(networks, self.anatomy, core, lesion, mass_effect=self.mass_effect)
        for message in outside:
            warnings.warn(message, DoubtfulEstimate, stacklevel=2)
        seconds = time.perf_counter() - begun
        progress("inference", 0.2, np.nan)
        inferred, solves = corrected(
            lambda *seen: heard(networks, self.anatomy, *seen, mass_effect=self.mass_effect)[0],
            lambda answer: self._grown(problem, answer),
            core,
            lesion,
            self.corrections,
            first=said,
            bounds=intervals(networks),
            progress=lambda share: progress("inference", 0.2 + 0.6 * share, np.nan),
        )
        growth = self._growth(inferred)
        there = self._morphed(problem, growth) if self.morph else None
        if there is None:
            start, _ = into_patient(problem, growth, THRESHOLDS, self.carry)
            # A solve that failed shows no tumour.
            density = np.nan_to_num(np.asarray(evaluate(fields, problem, start).density)).ravel()
        else:
            density = there.densities[0].ravel()
        at: dict[str, float] = dict(zip(("core", "lesion"), THRESHOLDS, strict=True))
        best: dict[str, float] = {}
        for name, levels in (("core", CORE_THRESHOLDS), ("lesion", LESION_THRESHOLDS)):
            if name in problem.observations:
                inside = np.asarray(problem.observations[name].image).ravel() >= 0.5
                each = dice_above(density, levels, inside, int(inside.sum()))
                at[name], best[name] = float(levels[np.argmax(each)]), float(np.max(each))
        z, moved = into_patient(problem, growth, (at["core"], at["lesion"]), self.carry)
        # The largest outline that is known.
        name, overlap = list(best.items())[-1]
        plausible = bool(overlap >= self.least_dice)
        if not plausible:
            warnings.warn(
                f"the tumour of the network's answer is not the patient's: Dice {overlap:.2f} of the {name}s, less "
                f"than {self.least_dice:g}; refine it, or use another method",
                DoubtfulEstimate,
                stacklevel=2,
            )
        progress("inference", 1.0, np.nan)
        coordinates = jnp.asarray(z, problem.anatomy.dtype)
        return Inferred(
            params=problem.prior.constrain(coordinates),
            prior=problem.prior,
            coordinates=coordinates,
            covariance=None,
            result=CalibrationResult.COMPLETE,
            stats=LearnMorphInferStats(inferred, best["core"], best.get("lesion"), moved, outside, seconds, plausible),
            method=self.title,
            cost=Cost(solves=solves + 1, seconds=time.perf_counter() - started),
            morphed=there,
        )

    def _refuses_fibres(self, anatomy: Anatomy) -> str | None:
        """Return why the tumour of the atlas cannot be the answer in an anatomy; None if it can."""
        if not self.morph or (words := unlike_in_fibres(anatomy, along=False)) is None:
            return None
        return f"the tumour of the atlas {words}, so it cannot be the answer as it is; leave out --morph"

    def _grown(self, problem: Problem, said: dict[str, float]) -> Float[np.ndarray, "x y z"]:
        """Return the density in the atlas of the tumour of an answer; none where the solve failed."""
        solution = simulate(problem.model, self._growth(said), self.anatomy, throw=False)
        return np.nan_to_num(np.asarray(solution.density))

    def _morphed(self, problem: Problem, growth: Any) -> Morphed:
        """Return the tumour of parameters, grown in the atlas and morphed into the patient."""
        solution = simulate(problem.model, growth, self.anatomy)
        morph = Morph(self.anatomy.grid, self.carry, problem.anatomy.grid)
        return Morphed.of(problem, morph, [(solution.density, solution.displacement)])

    @property
    def _pushes(self) -> bool:
        """Whether the tumours that the networks have learnt had mass effect."""
        return any(learnt_mass_effect(network) for network in self._networks())

    def _networks(self) -> Sequence[Any]:
        return self.network if isinstance(self.network, (tuple, list)) else (self.network,)

    def _targets(self) -> set[str]:
        return {name for network in self._networks() for name in network.architecture.targets}

    def _growth(self, inferred: dict[str, float]) -> GrowthParams | ScaledGrowthParams | MassEffectParams:
        """Return what grows in the atlas; no network's answer is negative."""
        seed = self.anatomy.grid.in_double().to_world(np.array([inferred[axis] for axis in "xyz"]))
        growth: Any
        if "mu1" in inferred:
            growth = ScaledGrowthParams(max(inferred["mu1"], 1e-3), max(inferred["mu2"], 1e-3), seed)
        else:
            growth = GrowthParams(max(inferred["D"], 1e-6), max(inferred["rho"], 1e-6), seed, max(inferred["T"], 1.0))
        force = inferred.get("gamma", self.mass_effect)
        return growth if force is None else MassEffectParams(growth, max(force, 0.0))
