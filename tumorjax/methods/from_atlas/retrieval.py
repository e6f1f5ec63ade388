"""Calibration as a database query: the simulated tumours whose outlines resemble the patient's most."""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, Shaped

from tumorjax.anatomy import Anatomy
from tumorjax.atlas import AtlasImages
from tumorjax.calibration.cost import Cost
from tumorjax.calibration.method import AbstractMethod
from tumorjax.calibration.problem import Problem
from tumorjax.calibration.result import CalibrationResult
from tumorjax.ensemble import Database, disagreement
from tumorjax.growth import AbstractGrowth
from tumorjax.io import InputError
from tumorjax.methods.from_atlas.index import DamagedIndex, index_of
from tumorjax.methods.from_atlas.matched import Matched, RetrievalStats
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
from tumorjax.methods.from_atlas.weighted import WeightedTumours, weighted_tumours
from tumorjax.methods.registry import check_libraries
from tumorjax.methods.sampling.sampler import AbstractSampler
from tumorjax.methods.search.lbfgs import LBFGS
from tumorjax.option import Option
from tumorjax.patient.alignment import noting, read_atlas
from tumorjax.patient.patient import DEFAULT_ATLAS, Patient
from tumorjax.patient.tissue import TissueSource
from tumorjax.patient.transforms import carry_from
from tumorjax.progress import SearchProgress
from tumorjax.retrieval import VARIANTS, Index, Matches, query

# Best tumours among which thresholds are optimised.
_CANDIDATES = 100
# Tissue that was resampled by other versions of libraries, or on another processor, differs by rounding.
_SAME = 1e-3


class Retrieval(AbstractMethod):
    """The parameters of the simulated tumours that resemble the patient's most: no solve of the growth model at all.

    The patient's outlines of core and lesion, or the core for both where it alone is known, are brought to the
    database's grid and compared with those of all its tumours. The best match lends its parameters; its origin is
    carried into the patient, or to the nearest tissue where it does not arrive in any. What one scan does not tell
    (the speed of `ScaledGrowthParams`) keeps the problem's value. `LBFGS(init=Retrieval(...))` refines the answer
    in the patient.

    With mass effect the tumours of the database have displaced the atlas, as the patient's has displaced the brain. A
    deformation of the atlas to the patient would undo that, so that outlines and origins are carried by the affine part
    of the map alone.

    A single match has no uncertainty: its `covariance` is None. Several are `samples` of equal weight, and the
    covariance is their spread about their mean, of less than full rank. That says how far apart equally good answers
    are, but it is no posterior: with more matches it grows.

    With `weighted` all tumours of the database are draws of its prior, weighted by the likelihood of the outlines: the
    answer is a posterior, `WeightedTumours`, with an effective number and an evidence.

    Parameters
    ----------
    database
        Tumours of the problem's model, grown in an atlas.
    index
        Of the database; by default that of `index_of`, which builds it the first time.
    carry
        Maps world coordinates of the atlas, (n, 3) mm, to the same anatomical places in the patient; by default they
        are the same. `prepare` finds the map for a patient.
    atlas
        The atlas in which the tumours were grown, or its name, for `prepare`; by default "icbm152".
    k
        Matches.
    variant
        How outlines are compared: "direct" exactly, others faster; see `tumorjax.retrieval.query`.
    optimise_thresholds
        Whether the densities at the outlines are chosen for each of the best hundred tumours, whose densities are
        read for that, or are those of the index.
    morph
        Whether the tumours as they are in the database, morphed into the patient, are the answer, as in the paper; by
        default the tumour grows in the patient with the parameters of the match.
    weighted
        Whether all tumours are weighted by the likelihood of the outlines, in place of a search for the most similar.

    Raises
    ------
    ValueError
        If a setting is unknown or cannot be combined with another one, or the index is of another database.

    References
    ----------
    I. Ezhov et al., "Casting the inverse problem as a database query. The case of personalized tumor growth modeling",
    section 2.3.
    """

    name: ClassVar[str] = "retrieval"
    title: ClassVar[str] = "database query"
    references: ClassVar[tuple[str, ...]] = (
        "I. Ezhov et al., Casting the inverse problem as a database query: the case of personalized tumor growth "
        "modeling.",
    )
    summary: ClassVar[str] = "a search that begins at the most similar of many simulated tumours"
    extra: ClassVar[str | None] = "ensemble"
    options: ClassVar[tuple[Option, ...]] = (
        Option(
            "database",
            "folder or URL of simulated tumours, made by `tumorjax database build` in the atlas that --atlas names; "
            "its index is built the first time, and kept in ~/.cache/tumorjax",
            metavar="PLACE",
            place=True,
        ),
        Option("matches", "simulated tumours to begin at (default: 1)", type=int, metavar="N"),
        Option(
            "variant",
            "direct compares outlines exactly (default); ds64, ds32 on every second or fourth voxel; radiomics by six "
            "numbers of shape, radiomics-standard by these in units of their deviations; ae, vae, bf-hash by codes of "
            "networks, see tumorjax train autoencoder",
            metavar="NAME",
        ),
        Option(
            "optimise-thresholds",
            "choose the densities at the outlines for each of the hundred most similar tumours (default: 0.6 and 0.2)",
            type=None,
        ),
        Option(
            "weighted",
            "weight all simulated tumours by the likelihood of the outlines: a posterior and its evidence, without a "
            "search (needs 'tumorjax[bayes]')",
            type=None,
        ),
        Option("no-refine", "the match itself is the answer", type=None),
        MORPH,
    )

    database: Database = eqx.field(static=True)
    index: Index | None = eqx.field(static=True, default=None)
    carry: Carry = eqx.field(static=True, default=None, kw_only=True)
    atlas: AtlasImages | str | Path | None = eqx.field(static=True, default=None, kw_only=True)
    k: int = eqx.field(static=True, default=1, kw_only=True)
    variant: str = eqx.field(static=True, default="direct", kw_only=True)
    optimise_thresholds: bool = eqx.field(static=True, default=False, kw_only=True)
    morph: bool = eqx.field(static=True, default=False, kw_only=True)
    weighted: bool = eqx.field(static=True, default=False, kw_only=True)

    def __check_init__(self) -> None:
        if not 1 <= self.k <= len(self.database):
            raise ValueError(f"the database has {len(self.database)} tumours, so k is between 1 and that, got {self.k}")
        if self.variant not in VARIANTS:
            raise ValueError(f"unknown variant {self.variant!r}; there are {', '.join(VARIANTS)}")
        if self.index is not None and self.index.source != self.database.fingerprint:
            raise ValueError(
                f"the index is of another database ({self.index.source!r}); leave it out, or build it with "
                "source=database.fingerprint"
            )
        chosen = {
            "k": self.k > 1,
            "variant": self.variant != "direct",
            "optimise_thresholds": self.optimise_thresholds,
            "morph": self.morph,
        }
        if self.weighted and any(chosen.values()):
            got = ", ".join(name for name, given in chosen.items() if given)
            raise ValueError(f"weights are of all tumours, by their likelihood; leave out weighted, or {got}")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> AbstractMethod:
        """Return the query that the options of a command describe, or a search that begins at its matches.

        Raises
        ------
        InputError
            If there is no database, it was made in another atlas, or a value cannot be used.
        """
        count, variant = options.get("matches", 1), options.get("variant", "direct")
        if "database" not in options:
            raise InputError("database: is missing; give --database with the folder or URL of simulated tumours")
        if variant not in VARIANTS:
            raise InputError(f"variant: got {variant}; give one of {', '.join(VARIANTS)}")
        if count < 1:
            raise InputError(f"matches: got {count}; give 1 or more")
        switches = {name: bool(options.get(name)) for name in ("optimise_thresholds", "morph", "weighted")}
        if switches["weighted"]:
            # Draws are written as those of samplers are.
            check_libraries("weighted: it", AbstractSampler.libraries, AbstractSampler.extra)
        found = cls.open(options["database"], atlas=options.get("atlas"), k=count, variant=variant, **switches)
        alone = options.get("no_refine") or switches["morph"] or switches["weighted"]
        return found if alone else LBFGS(init=found)

    @classmethod
    def open(
        cls, place: str | os.PathLike, *, atlas: AtlasImages | str | Path | None = None, **settings: Any
    ) -> "Retrieval":
        """Return the query of the database in a folder or at a URL, after a check that the atlas is the database's.

        Parameters
        ----------
        place
            Folder or URL of the database.
        atlas
            The atlas in which the database was made, as for `tumorjax.atlas.load_atlas`; "icbm152" if not given.
        settings
            Further parameters of `Retrieval`.

        Raises
        ------
        InputError
            If the database was made in another atlas.
        ValueError
            If there is no database, it is not finished, or it is damaged.
        """
        database = Database.open(place)
        return cls(database, atlas=_atlas_of(database, atlas), **settings)

    @property
    def single_seed(self) -> bool:
        """Whether it knows tumours of a single seed only: as the database does."""
        return np.shape(self.database.parameters(0).origin) == (3,)

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
    ) -> "Retrieval":
        """Return the query with the index of its database, and with the map from the atlas to the patient.

        Raises
        ------
        InputError
            If the database was made in another atlas, or that cannot be aligned with the patient; if its tumours are
            to be the answer, and differ from the patient's in their fibres.

        Warns
        -----
        RegistrationWarning
            If it could not be aligned well.
        """
        # Before the alignment, which takes minutes.
        if reason := self._refuses_fibres(patient.anatomy):
            raise InputError(f"method: {reason}")
        atlas, carry, index = self.atlas, self.carry, self.index
        if carry is None:
            atlas = _atlas_of(self.database, atlas)
            carry = carry_from(
                patient,
                atlas,
                "database",
                notes,
                lambda message: progress(message, None),
                affine=self.database.recipe.model.displaces,
            )
        if index is None:
            done = lambda share: progress("indexing the simulated tumours", share)  # noqa: E731
            with noting(DamagedIndex, notes):
                index = index_of(self.database, variants=[self.variant], progress=done)
        return dataclasses.replace(self, atlas=atlas, carry=carry, index=index)

    def refuses_model(self, model: AbstractGrowth) -> str | None:
        """Return in one line that the tumours of the database grew by another model; None if by this one."""
        own = self.database.recipe.model
        if reason := of_another_kind(model, "this database", displaces=own.displaces):
            return reason
        words = disagreement(own, model)
        return f"the tumours of this database grew with {words}; give both one model" if words else None

    def refuses(self, problem: Problem) -> str | None:
        """Return in one line why the database cannot answer a problem; None if it can."""
        own, origin = self.database.recipe.model, problem.prior.distributions.growth.origin
        reason = incomparable(problem, "this database", displaces=own.displaces) or self.refuses_model(problem.model)
        if reason is not None:
            return reason
        if reason := self._refuses_fibres(problem.anatomy):
            return reason
        shape, seeds = getattr(origin, "shape", None), np.shape(self.database.parameters(0).origin)
        if shape != seeds:
            return f"the tumours have origins of shape {seeds}, the prior {shape or type(origin)}"
        return None

    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: SearchProgress) -> Matched | WeightedTumours:
        """Calibrate the problem; `key` is not used."""
        begun, index = time.perf_counter(), self.index
        if index is None:
            done = lambda share: progress("index", share, np.nan)  # noqa: E731
            index = index_of(self.database, variants=[self.variant], progress=done)
        progress("query", 0.0, np.nan)
        core, lesion = self._outlines(problem, index)
        if self.weighted:
            named = {name: mask for name, mask in (("core", core), ("lesion", lesion)) if name in problem.observations}
            done = lambda share: progress("query", share, np.nan)  # noqa: E731
            return weighted_tumours(
                problem,
                self.database,
                index.masks,
                named,
                self.carry,
                self._stored,
                method=f"{self.title}, weighted",
                progress=done,
            )
        matches = query(
            index,
            core,
            lesion,
            self.k,
            method=self.variant,
            densities=self._stored if self.optimise_thresholds else None,
            candidates=max(_CANDIDATES, self.k),
        )
        progress("query", 1.0, np.nan)
        found = [self._point(problem, matches, rank) for rank in range(self.k)]
        points, dtype = np.stack([z for z, _ in found]), problem.anatomy.dtype
        # As it stands in the coordinates, so that both are the same to the last digit.
        params = [problem.prior.constrain(jnp.asarray(z, dtype)) for z in points]
        several = self.k > 1
        grown = [self._grown(int(row)) for row in matches.indices] if self.morph else []
        morph = Morph(self.database.grid, self.carry, problem.anatomy.grid) if self.morph else None
        voxel = float(np.cbrt(self.database.grid.voxel_volume))
        return Matched(
            params=params[0],
            prior=problem.prior,
            coordinates=jnp.asarray(points[0], dtype),
            covariance=jnp.asarray(np.cov(points.T, bias=True), dtype) if several else None,
            result=CalibrationResult.COMPLETE,
            stats=RetrievalStats(
                matches,
                len(self.database),
                self.variant,
                found[0][1],
                voxel,
                self._along_fibres,
                "lesion" in problem.observations,
            ),
            samples=jax.tree.map(lambda *leaves: jnp.stack(leaves), *params) if several else None,
            log_weights=jnp.full(self.k, -np.log(self.k), dtype) if several else None,
            method=self.title,
            cost=Cost(solves=sum(moved is not None for _, moved in grown), seconds=time.perf_counter() - begun),
            morphed=None if morph is None else Morphed.of(problem, morph, grown),
        )

    def _refuses_fibres(self, anatomy: Anatomy) -> str | None:
        """Return why tumours as they are in the database cannot be the answer in an anatomy; None if they can."""
        if not self.morph or (words := unlike_in_fibres(anatomy, along=self._along_fibres)) is None:
            return None
        return f"the tumours of this database {words}, so they cannot be the answer as they are; leave out --morph"

    @property
    def _along_fibres(self) -> bool:
        """Whether the tumours of the database grew along fibres."""
        return self.database.anatomy.fibres is not None

    def _grown(self, row: int) -> tuple[Any, Any]:
        """Return density and displacement of a tumour in the atlas; the displacement is not stored."""
        if self.database.recipe.model.displaces:
            solution = self.database.grow(row)
            return solution.density, solution.displacement
        return self.database.density(row), None

    def _stored(self, row: int) -> Shaped[np.ndarray, "x y z"]:
        return self.database.densities(slice(row, row + 1))[0]

    def _outlines(self, problem: Problem, index: Index) -> tuple[Bool[np.ndarray, "x y z"], ...]:
        """Return the outlines of core and lesion on the database's grid."""
        brain = np.zeros(self.database.grid.shape, bool)
        np.put(brain, index.masks.order, True)
        return outlines_in(problem, self.database.grid, brain, self.carry, "the database's")

    def _point(self, problem: Problem, matches: Matches, rank: int) -> tuple[Float[np.ndarray, "n"], tuple[str, ...]]:
        """Return a match in the prior's coordinates, and the names of what had to be moved for that."""
        growth = self.database.parameters(int(matches.indices[rank]))
        core, lesion = matches.thresholds[rank].tolist()
        return into_patient(problem, growth, (core, lesion), self.carry)


def _atlas_of(database: Database, atlas: AtlasImages | str | Path | None) -> AtlasImages:
    """Return the atlas in which a database was made, or raise an InputError where it was made in another one."""
    named = DEFAULT_ATLAS if atlas is None else atlas
    healthy = named if isinstance(named, AtlasImages) else read_atlas(named)
    own = database.anatomy
    maps = zip((own.white_matter, own.grey_matter, own.csf), TissueSource.of(healthy).on(database.grid), strict=True)
    if max(float(np.abs(np.asarray(made) - found).max()) for made, found in maps) > _SAME:
        raise InputError(
            f"database: {database.url} was made in another atlas than {healthy.name}; name it with --atlas"
        )
    return healthy
