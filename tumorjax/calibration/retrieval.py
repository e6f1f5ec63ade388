"""Calibration as a database query: the simulated tumours whose outlines resemble the patient's most."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, Shaped

from tumorjax.calibration.calibrate import AbstractMethod, Progress
from tumorjax.calibration.calibration import Calibration, CalibrationResult
from tumorjax.calibration.index import index_of
from tumorjax.calibration.morphing import Carry, check_comparable, into_patient, outlines_in
from tumorjax.calibration.problem import Problem
from tumorjax.ensemble import Database
from tumorjax.retrieval import VARIANTS, Index, Matches, query

# Best tumours among which thresholds are optimised.
_CANDIDATES = 100


class RetrievalStats(NamedTuple):
    """Which simulated tumours were found.

    Parameters
    ----------
    matches
        The tumours, their Dice coefficients with the patient's outlines in the atlas, and the seconds of the query.
    tumours
        How many there are in the database.
    variant
        How they were compared.
    moved
        Which parameters of the best match's growth the prior holds to be next to impossible, so that they were moved
        to where it does not.
    solves
        Of the growth model.
    """

    matches: Matches
    tumours: int
    variant: str
    moved: tuple[str, ...]
    solves: int = 0


class Retrieval(AbstractMethod):
    """The parameters of the simulated tumours that resemble the patient's most: no solve of the growth model at all.

    The patient's outlines of core and lesion, the problem's first two, are brought to the database's grid and compared
    with those of all its tumours. The best match lends its parameters; its origin is carried into the patient, or to
    the nearest tissue where it does not arrive in any. What one scan does not tell (the speed of `ScaledGrowthParams`)
    keeps the problem's value. In the paper the answer stays in the atlas; `LBFGS(init=Retrieval(...))` refines it in
    the patient.

    A single match has no uncertainty: its `covariance` is None. Several are `samples` of equal weight, and the
    covariance is their spread about their mean, of less than full rank. That tells how far apart equally good answers
    are, but it is no posterior: with more matches it grows.

    Parameters
    ----------
    database
        Tumours of the problem's model, grown in an atlas.
    index
        Of the database; by default that of `index_of`, which builds it the first time.
    carry
        Maps world coordinates of the atlas, (n, 3) mm, to the same anatomical places in the patient; by default they
        are the same.
    k
        Matches.
    variant
        How outlines are compared: "direct" exactly, others faster; see `tumorjax.retrieval.query`.
    optimise_thresholds
        Whether the densities at the outlines are chosen for each of the best hundred tumours, whose densities are
        read for that, or are those of the index.

    References
    ----------
    I. Ezhov et al., "Casting the inverse problem as a database query. The case of personalized tumor growth modeling",
    section 2.3.
    """

    database: Database = eqx.field(static=True)
    index: Index | None = eqx.field(static=True, default=None)
    carry: Carry = eqx.field(static=True, default=None, kw_only=True)
    k: int = eqx.field(static=True, default=1, kw_only=True)
    variant: str = eqx.field(static=True, default="direct", kw_only=True)
    optimise_thresholds: bool = eqx.field(static=True, default=False, kw_only=True)

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

    @property
    def single_seed(self) -> bool:
        """Whether it knows tumours of a single seed only: as the database does."""
        return np.shape(self.database.parameters(0).origin) == (3,)

    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: Progress) -> Calibration:
        """Calibrate the problem; `key` is not used."""
        self._check(problem)
        index = self.index
        if index is None:
            told = lambda share: progress("index", share, np.nan)  # noqa: E731
            index = index_of(self.database, variants=[self.variant], progress=told)
        progress("query", 0.0, np.nan)
        core, lesion = self._outlines(problem, index)
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
        return Calibration(
            params=params[0],
            prior=problem.prior,
            coordinates=jnp.asarray(points[0], dtype),
            covariance=jnp.asarray(np.cov(points.T, bias=True), dtype) if several else None,
            result=CalibrationResult.MATCHED,
            stats=RetrievalStats(matches, len(self.database), self.variant, found[0][1]),
            samples=jax.tree.map(lambda *leaves: jnp.stack(leaves), *params) if several else None,
            log_weights=jnp.full(self.k, -np.log(self.k), dtype) if several else None,
        )

    def _check(self, problem: Problem) -> None:
        check_comparable(problem, "retrieval")
        own, origin = self.database.recipe.model, problem.prior.distributions.growth.origin
        if not eqx.tree_equal(problem.model, own):
            raise ValueError(f"the database is of {own}, the problem of {problem.model}; give both one model")
        shape, seeds = getattr(origin, "shape", None), np.shape(self.database.parameters(0).origin)
        if shape != seeds:
            raise ValueError(f"the tumours have origins of shape {seeds}, the prior {shape or type(origin)}")

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
