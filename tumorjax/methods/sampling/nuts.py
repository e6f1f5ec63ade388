"""The No-U-Turn sampler: Hamiltonian Monte Carlo with exact gradients, on the parts of numpyro's kernel."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import equinox as eqx
import jax
import numpy as np

from tumorjax.calibration.cost import Cost
from tumorjax.calibration.method import AbstractMethod
from tumorjax.checks import check_counts, check_real
from tumorjax.methods.checkpoint import CHECKPOINT, Layout
from tumorjax.methods.sampling.chains import CHAINS, AbstractChains
from tumorjax.methods.sampling.diagnostics import mixing
from tumorjax.methods.sampling.hamiltonian import ROW_KINDS, Row, Settings, advancing, begin, from_leaves, leaves
from tumorjax.methods.sampling.sample import Sample, SamplerStats
from tumorjax.methods.sampling.sampler import SEED, Work, draws_option
from tumorjax.methods.sampling.target import AbstractTarget
from tumorjax.methods.search.lbfgs import LBFGS
from tumorjax.option import Option


class NUTS(AbstractChains):
    """Draws from the posterior by the No-U-Turn sampler, in several chains.

    Chains begin overdispersed around the Laplace approximation, in coordinates in which it is standard normal, so
    that the first mass matrix is nearly right; step size and a dense mass matrix are adapted during warm-up. A solve
    that fails is a divergence.

    Parameters
    ----------
    chains, draws, warmup
        Number of chains, number of draws that are kept of each, and number of transitions before them.
    target_acceptance
        Acceptance to which the step size is adapted.
    max_tree_depth
        Largest depth k of a tree: a trajectory takes at most 2^k - 1 gradients. In these coordinates few take as many.
    start
        Method around whose answer the chains begin, overdispersed by its covariance, or as widely as the prior where it
        has none, as that of a query or a network; None begins at draws from the prior.
    block
        Transitions in one run of the compiled program, and between two checkpoints.
    chain_method
        "vectorised": all chains in one batch. "threads": each chain in a thread of its own, which suits a CPU, where a
        batch is no faster than its members. None chooses by the device. The draws agree up to rounding.
    checkpoint
        A file that keeps what is done, with a checksum; None keeps nothing.

    References
    ----------
    .. [1] M. D. Hoffman, A. Gelman, "The No-U-Turn sampler", JMLR 15 (2014).
    .. [2] M. Betancourt, "A conceptual introduction to Hamiltonian Monte Carlo", arXiv:1701.02434 (2017).
    """

    name: ClassVar[str] = "nuts"
    title: ClassVar[str] = "the No-U-Turn sampler (NUTS)"
    references: ClassVar[tuple[str, ...]] = (
        "M. D. Hoffman, A. Gelman, The No-U-Turn sampler, Journal of Machine Learning Research 15 (2014).",
    )
    summary: ClassVar[str] = "draws from the posterior by the No-U-Turn sampler, in several chains"
    options: ClassVar[tuple[Option, ...]] = (
        draws_option("draws of each chain (default: 500)"),
        CHAINS,
        SEED,
        CHECKPOINT,
    )

    chains: int = eqx.field(static=True, default=4)
    draws: int = eqx.field(static=True, default=500)
    warmup: int = eqx.field(static=True, default=200)
    target_acceptance: float = eqx.field(static=True, default=0.8)
    max_tree_depth: int = eqx.field(static=True, default=6)
    start: AbstractMethod | None = LBFGS()
    block: int = eqx.field(static=True, default=25)
    chain_method: Literal["vectorised", "threads"] | None = eqx.field(static=True, default=None)
    checkpoint: str | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        check_counts(self, warmup=20, max_tree_depth=1)
        if self.max_tree_depth > 15:
            raise ValueError(f"max_tree_depth must be at most 15, got {self.max_tree_depth}")
        check_real("target_acceptance", self.target_acceptance)
        if not 0 < self.target_acceptance < 1:
            raise ValueError(f"target_acceptance must be between 0 and 1, got {self.target_acceptance}")
        if self.chain_method not in ("vectorised", "threads", None):
            raise ValueError(f"chain_method must be 'vectorised', 'threads' or None, got {self.chain_method!r}")

    @property
    def _settings(self) -> Settings:
        return Settings(self.warmup, self.target_acceptance, self.max_tree_depth, self.block)

    def _layout(self, target: AbstractTarget) -> tuple[Layout, Mapping[str, int]]:
        columns: Layout = {name: (kind, (self.chains, "transitions")) for name, kind in ROW_KINDS.items()}
        point: Layout = {"point": ("f", (self.chains, "transitions", target.size))}
        state: Layout = {
            f"state{i}": (leaf.dtype.kind, (self.chains, *leaf.shape))
            for i, leaf in enumerate(leaves(target.size, self._settings))
        }
        return {"failed_starts": ("i", ()), **columns, **point, **state}, {"transitions": self.warmup + self.draws}

    def _draw(self, work: Work) -> Sample:
        target, key, stored, settings = work.target, work.key, work.stored, self._settings
        centre, factor = work.centre, np.linalg.cholesky(work.covariance)
        total = self.warmup + self.draws
        threads = (self.chain_method or ("threads" if jax.default_backend() == "cpu" else "vectorised")) == "threads"
        advance = advancing(target, centre, factor, settings, jax.random.fold_in(key, 1), threads=threads)
        if "failed_starts" in stored:
            failed, done = int(stored["failed_starts"]), stored["potential"].shape[1]
            rows = Row(*(stored[name] for name in Row._fields))
            kept = [stored[f"state{i}"] for i in range(sum(name.startswith("state") for name in stored))]
            state = from_leaves(kept, target.size, settings)
        else:
            state, failed = begin(target, centre, factor, settings, key, self.chains)
            # Compiles the program, and gives the dtypes of the columns.
            done, (_, rows) = 0, advance(state, 0, 0)
        while done < total:
            state, more = advance(state, done, min(self.block, total - done))
            rows = Row(*(np.concatenate(some, axis=1) for some in zip(rows, more, strict=True)))
            done = rows.potential.shape[1]
            states = {f"state{i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}
            work.save(failed_starts=failed, **states, **rows._asdict())
            stage, share = ("draws", done - self.warmup) if done > self.warmup else ("warm-up", done)
            best = float(rows.potential.min())
            work.progress(stage, share / (self.draws if stage == "draws" else self.warmup), best)
        kept = Row(*(column[:, self.warmup :] for column in rows))
        draws = np.asarray(kept.point, float)
        r_hat, ess = mixing(draws)
        # Each chain took one where it began.
        gradients = int(rows.leapfrogs.sum()) + self.chains
        stats = SamplerStats(
            cost=Cost(solves=gradients, gradients=gradients, seconds=work.seconds),
            failed=int(rows.failed.sum()) + failed,
            acceptance=tuple(kept.acceptance.mean(axis=1).tolist()),
            divergences=int(kept.divergent.sum()),
            r_hat=r_hat,
            ess=ess,
            details={
                "step_size": tuple(kept.step_size[:, -1].tolist()),
                "depth": tuple(kept.depth.mean(axis=1).tolist()),
                "saturated": int(np.sum(kept.leapfrogs >= 2**self.max_tree_depth - 1)),
            },
        )
        # The potential energy is what the gradients were taken of, so that the likelihood needs no solve.
        return Sample(draws, 0.5 * np.sum(draws**2, axis=2) - np.asarray(kept.potential, float), stats=stats)
