"""The No-U-Turn sampler: Hamiltonian Monte Carlo with exact gradients, on the parts of numpyro's kernel."""

import time
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Key

from tumorjax.calibration.calibrate import AbstractMethod, Progress
from tumorjax.calibration.lbfgs import LBFGS
from tumorjax.calibration.sampling.chains import AbstractChains, Chains, check_chains, mixing
from tumorjax.calibration.sampling.checkpoint import Checkpoint, Layout
from tumorjax.calibration.sampling.hamiltonian import ROW_KINDS, Row, Settings, advancing, begin, from_leaves, leaves
from tumorjax.calibration.sampling.target import AbstractTarget


class NUTSStats(NamedTuple):
    """What the chains cost, and how they went; of the draws alone where nothing else is said.

    Parameters
    ----------
    seconds
        Of all runs that led to these draws, without the search that began them.
    gradients
        Evaluations of value and gradient, warm-up included; each solves forward and back once.
    failed
        Of these, those without a finite value or gradient.
    divergences
        Trajectories that were cut off, because the energy was lost or a solve failed.
    acceptance
        Mean of each chain.
    step_size
        Of each chain, in standard deviations.
    depth
        Mean depth of each chain's trees; a tree of depth k takes up to 2^k - 1 gradients.
    saturated
        Trees that were as deep as they may be: where these are many, chains are slower than they need be.
    r_hat
        (n,): split R-hat of each coordinate; above 1.01 the chains have not mixed.
    ess
        (n,): effective number of draws of all chains together.
    """

    seconds: float
    gradients: int
    failed: int
    divergences: int
    acceptance: tuple[float, ...]
    step_size: tuple[float, ...]
    depth: tuple[float, ...]
    saturated: int
    r_hat: np.ndarray
    ess: np.ndarray


class NUTS(AbstractChains):
    """Draws from the posterior by the No-U-Turn sampler, in several chains.

    Chains begin overdispersed around the Laplace approximation, in coordinates in which it is standard normal, so
    that the first mass matrix is nearly right; step size and a dense mass matrix are adapted during warm-up. A solve
    that fails is a divergence.

    Parameters
    ----------
    chains, draws, warmup
        Chains, draws kept of each, and transitions before.
    target_acceptance
        To which the step size is adapted.
    max_tree_depth
        A trajectory takes at most 2^k - 1 gradients. Few do in these coordinates: a bound on what one may cost.
    start
        Whose maximum and covariance the chains begin around, overdispersed; None begins at draws from the prior.
    block
        Transitions in one run of the compiled program, and between two checkpoints.
    chain_method
        "vectorised": a batch. "threads": each chain in a thread of its own, which suits a CPU, where a batch is no
        faster than its members. None chooses by the device. The draws agree up to rounding.
    checkpoint
        A file that keeps what is done, with a checksum; None keeps nothing.

    References
    ----------
    .. [1] M. D. Hoffman, A. Gelman, "The No-U-Turn sampler", JMLR 15 (2014).
    .. [2] M. Betancourt, "A conceptual introduction to Hamiltonian Monte Carlo", arXiv:1701.02434 (2017).
    """

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
        check_chains(self.chains, self.draws, self.block)
        if self.warmup < 20 or not 1 <= self.max_tree_depth <= 15:
            raise ValueError(
                "warmup must be at least 20 and max_tree_depth from 1 to 15, "
                f"got warmup={self.warmup}, max_tree_depth={self.max_tree_depth}"
            )
        if not 0 < self.target_acceptance < 1:
            raise ValueError(f"target_acceptance must be between 0 and 1, got {self.target_acceptance}")
        if self.chain_method not in ("vectorised", "threads", None):
            raise ValueError(f"chain_method must be 'vectorised', 'threads' or None, got {self.chain_method!r}")

    def _layout(self, size: int) -> tuple[Layout, int]:
        total = self.warmup + self.draws
        columns: Layout = {name: (kind, (self.chains, "transitions")) for name, kind in ROW_KINDS.items()}
        point: Layout = {"point": ("f", (self.chains, "transitions", size))}
        settings = Settings(self.warmup, self.target_acceptance, self.max_tree_depth, self.block)
        state: Layout = {
            f"state{i}": (leaf.dtype.kind, (self.chains, *leaf.shape)) for i, leaf in enumerate(leaves(size, settings))
        }
        return {"failed_starts": ("i", ()), "seconds": ("f", ()), **columns, **point, **state}, total

    def _draw(
        self,
        target: AbstractTarget,
        key: Key[Array, ""],
        progress: Progress,
        checkpoint: Checkpoint,
        stored: dict[str, np.ndarray],
    ) -> Chains:
        began, seconds = time.perf_counter(), float(stored.get("seconds", 0.0))
        centre, factor = stored["centre"], np.linalg.cholesky(stored["covariance"])
        total = self.warmup + self.draws
        settings = Settings(self.warmup, self.target_acceptance, self.max_tree_depth, self.block)
        threads = (self.chain_method or ("threads" if jax.default_backend() == "cpu" else "vectorised")) == "threads"
        advance = advancing(target, centre, factor, settings, jax.random.fold_in(key, 1), threads=threads)
        if "failed_starts" in stored:
            failed, done = int(stored["failed_starts"]), stored["potential"].shape[1]
            rows = Row(*(stored[name] for name in Row._fields))
            kept = [stored[f"state{i}"] for i in range(sum(name.startswith("state") for name in stored))]
            state = from_leaves(kept, target.size, settings)
        else:
            state, failed = begin(target, centre, factor, settings, key, self.chains)
            # Compiles, and tells the columns' dtypes.
            done, (_, rows) = 0, advance(state, 0, 0)
        while done < total:
            state, more = advance(state, done, min(self.block, total - done))
            rows = Row(*(np.concatenate(some, axis=1) for some in zip(rows, more, strict=True)))
            done = rows.potential.shape[1]
            checkpoint.save(
                centre=centre,
                covariance=stored["covariance"],
                failed_starts=failed,
                seconds=seconds + time.perf_counter() - began,
                **{f"state{i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))},
                **rows._asdict(),
            )
            stage, share = ("draws", done - self.warmup) if done > self.warmup else ("warm-up", done)
            progress(stage, share / (self.draws if stage == "draws" else self.warmup), float(rows.potential.min()))
        kept = Row(*(column[:, self.warmup :] for column in rows))
        draws = np.asarray(kept.point, float)
        r_hat, ess = mixing(draws)
        stats = NUTSStats(
            seconds=seconds + time.perf_counter() - began,
            gradients=int(rows.leapfrogs.sum()) + self.chains,
            failed=int(rows.failed.sum()) + failed,
            divergences=int(kept.divergent.sum()),
            acceptance=tuple(kept.acceptance.mean(axis=1).tolist()),
            step_size=tuple(kept.step_size[:, -1].tolist()),
            depth=tuple(kept.depth.mean(axis=1).tolist()),
            saturated=int(np.sum(kept.leapfrogs >= 2**self.max_tree_depth - 1)),
            r_hat=r_hat,
            ess=ess,
        )
        # The potential energy is what the gradients were taken of, so that the likelihood needs no solve.
        return Chains(draws, 0.5 * np.sum(draws**2, axis=2) - np.asarray(kept.potential, float), stats)
