"""Growing the tumours of one shard, as a pure function of the recipe and the shard's index."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tumorjax.anatomy import Anatomy
from tumorjax.ensemble.recipe import Recipe
from tumorjax.ensemble.window import Window, holds, window_about
from tumorjax.integrate import AbstractStepper, Result, Solution, StrangRKL2, simulate, simulate_many
from tumorjax.operators import block_mean
from tumorjax.prior import Prior

OUTSIDE, SMALL, LARGE, FAILED = REASONS = ("outside tissue", "too small", "too large", "failed")
"""Reasons for which draws are rejected, in the order of the store's columns."""

# A shard may need this number of candidates, plus a number for the next tumour and each one it has; after that, the
# build fails because the prior must be unsuitable.
_PATIENCE, _PATIENCE_EACH = 1000, 200
# It fails sooner where so many solves have failed and no tumour is accepted, as under a force that is far too large: a
# solve that fails takes as long as any other, whereas a seed outside tissue takes none.
_HOPELESS = 100
# Steps on coarse voxels. Their error is far smaller than that of the voxels: volumes change by at most 2 %, and a
# simulation takes less than half of the time.
_LONG_STEPS = StrangRKL2(reaction_step=2.0, first_steps=8)
# Number of points that are drawn together; Sobol sequences are balanced after powers of two.
_BLOCK = 64


@dataclass(frozen=True, eq=False)
class Shard:
    """The contents of one shard.

    Parameters
    ----------
    densities
        (m, x, y, z), in the stored dtype; see `as_density`.
    parameters
        (m, p), parameters of the model, float32.
    coordinates
        (m, d), coordinates in the prior, float32.
    rejected
        Number of draws that were rejected, for each of `REASONS`.
    """

    densities: np.ndarray
    parameters: Float[np.ndarray, "m p"]
    coordinates: Float[np.ndarray, "m d"]
    rejected: Int[np.ndarray, "4"]


class _Candidate(NamedTuple):
    number: int
    z: Float[np.ndarray, "d"]
    params: Any
    window: Window | None


class Grower:
    """Grower of the shards of a recipe on this process' device; several threads may share it.

    On a CPU, where a batch is no faster than single simulations, tumours are grown one by one in the calling thread,
    each in the part of the brain that it reaches on coarse voxels. On an accelerator they are grown in batches in the
    whole brain, where rounding may differ. Everything is computed in single precision, whatever JAX's settings.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._batch = 1 if jax.default_backend() == "cpu" else recipe.shard_length
        with jax.enable_x64(False):
            self._fine = _Level.of(recipe.anatomy, 1)
            factors = [factor for factor in (8, 4, 2) if factor <= recipe.screening]
            self._coarse = [_Level.of(recipe.anatomy, factor) for factor in factors]

    def compile(self) -> None:
        """Grow one tumour to compile all programs, so that several threads do not compile them separately."""
        with jax.enable_x64(False):
            block = jnp.zeros((self._batch, self.recipe.prior.size), jnp.float32)
            params, *_ = _placed(self.recipe.model, self.recipe.prior, self._fine.anatomy, block)
            for level in (*self._coarse, self._fine):
                self._grown(params, level)

    def shard(self, index: int) -> Shard:
        """Grow the tumours of a shard.

        Raises
        ------
        ValueError
            If hardly any draw is accepted.
        """
        with jax.enable_x64(False):
            return self._shard(index)

    def _shard(self, index: int) -> Shard:
        rows = self.recipe.rows(index)
        length = rows.stop - rows.start
        points, numbers = _points(self.recipe, index), 0
        fates: dict[int, str] = {}
        waiting: list[_Candidate] = []
        accepted: list[tuple[_Candidate, np.ndarray]] = []
        while len(accepted) < length:
            hopeless = not accepted and Counter(fates.values())[FAILED] >= _HOPELESS
            if hopeless or numbers > _PATIENCE + _PATIENCE_EACH * (len(accepted) + 1):
                raise ValueError(_exhausted(self.recipe, len(accepted), fates))
            block = np.stack(list(islice(points, self._batch)))
            for i, (reason, params, window) in enumerate(self._screened(block)):
                if reason:
                    fates[numbers + i] = reason
                else:
                    waiting.append(_Candidate(numbers + i, block[i], params, window))
            numbers += len(block)
            if len(waiting) < self._batch:
                continue
            turn, waiting = waiting[: self._batch], waiting[self._batch :]
            params = jax.tree.map(lambda *leaves: np.stack(leaves), *(candidate.params for candidate in turn))
            for candidate, stored, volumes in zip(turn, *self._kept(params, turn[0].window), strict=True):
                if reason := self._refused(volumes):
                    fates[candidate.number] = reason
                else:
                    accepted.append((candidate, stored))
        # Rejections after the last accepted tumour are not counted, because they depend on the batch size.
        accepted = accepted[:length]
        last = accepted[-1][0].number
        counts = Counter(reason for number, reason in fates.items() if number < last)
        leaves = [[np.ravel(leaf) for leaf in jax.tree.leaves(candidate.params)] for candidate, _ in accepted]
        return Shard(
            densities=np.stack([stored for _, stored in accepted]),
            parameters=np.stack([np.concatenate(row) for row in leaves]),
            coordinates=np.stack([candidate.z for candidate, _ in accepted]),
            rejected=np.array([counts[reason] for reason in REASONS]),
        )

    def _screened(self, block: np.ndarray) -> list[tuple[str | None, Any, Window | None]]:
        """Return for each point the reason to reject it without growing it (or None), its parameters and its window."""
        sizes = self.recipe.sizes
        params, seeded, cells = _placed(self.recipe.model, self.recipe.prior, self._fine.anatomy, jnp.asarray(block))
        # Number of cells (mm^3) that fill the smallest and the largest volume up to the threshold.
        least = max(1000 * size.threshold * size.least for size in sizes)
        most = min(1000 * size.threshold * size.most for size in sizes)
        reasons: list[str | None] = []
        for inside, possible in zip(np.asarray(seeded), np.asarray(cells), strict=True):
            reasons.append(OUTSIDE if not inside else SMALL if possible < least else None)
        doubtful = [reason is None and possible > most for reason, possible in zip(reasons, cells, strict=True)]
        window = None
        # A tumour whose flow cannot be followed on coarse voxels is no other on those of the anatomy.
        moving = [reason is None and self.recipe.model.displaces for reason in reasons]
        # Windows are used for single tumours only, each with its own, and only where tissue stays: what moves is the
        # whole brain.
        windows = self._batch == 1 and not self.recipe.model.displaces
        for level in self._coarse:
            placing = windows and level is self._coarse[0] and reasons[0] is None
            if not (placing or any(doubtful) or any(moving)):
                break
            densities, found, results = self._grown(params, level)
            if placing:
                window = window_about(as_density(densities[0]), level.factor, self._fine.anatomy.grid.shape)
            for i, volumes in enumerate(found):
                if moving[i] and results[i] not in (Result.SUCCESS, Result.SEED_OUTSIDE_TISSUE):
                    reasons[i] = FAILED
                    doubtful[i] = False
                excess = max(volume / size.most for volume, size in zip(volumes, sizes, strict=True))
                # Tumours on coarse voxels are too large, but for large tumours by less than the factor.
                if doubtful[i] and excess > level.factor:
                    reasons[i] = LARGE
                doubtful[i] = doubtful[i] and 1 < excess <= level.factor
                moving[i] = moving[i] and reasons[i] is None
        params = jax.device_get(params)
        return [(reason, jax.tree.map(lambda leaf, i=i: leaf[i], params), window) for i, reason in enumerate(reasons)]

    def _kept(self, params: Any, window: Window | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the densities and volumes of `_grown` on the anatomy's own voxels, in a window if that holds all."""
        if window is None:
            return self._grown(params, self._fine)[:2]
        level = self._fine.crop(window)
        densities, volumes, _ = self._grown(params, level)
        shape = self._fine.anatomy.grid.shape
        if not holds(window, as_density(densities[0]), shape):
            return self._grown(params, self._fine)[:2]
        whole = np.zeros((1, *shape), densities.dtype)
        whole[0][window.box] = densities[0]
        return whole, volumes

    def _grown(self, params: Any, level: "_Level") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the densities of a batch as stored, the volumes (ml) of outlines, NaN for failed solves, and codes."""
        summary = _SUMMARIES[self.recipe.dtype]
        if self._batch == 1:
            found = _single(self.recipe.model, params, level.anatomy, summary, self._stepper(level))
        else:
            found = simulate_many(self.recipe.model, params, level.anatomy, summary=summary)
        densities, results = jax.device_get(found)
        volumes = [
            [level.volumes[density > size.threshold].sum() for size in self.recipe.sizes]
            for density in map(as_density, densities)
        ]
        return densities, np.where((results == Result.SUCCESS)[:, None], volumes, np.nan), results

    def _stepper(self, level: "_Level") -> AbstractStepper | None:
        long_steps = level.factor > 1 and not self.recipe.model.displaces
        return _LONG_STEPS if long_steps else None

    def _refused(self, volumes: np.ndarray) -> str | None:
        """Return the reason to reject a tumour with these volumes, or None."""
        if np.isnan(volumes).any():
            return FAILED
        bounds = list(zip(volumes, self.recipe.sizes, strict=True))
        if any(volume > size.most for volume, size in bounds):
            return LARGE
        return SMALL if any(volume < size.least for volume, size in bounds) else None


@dataclass(frozen=True, eq=False)
class _Level:
    """An anatomy on voxels `factor` times as long as the recipe's, with the volume (ml) of tissue in each voxel."""

    factor: int
    anatomy: Anatomy
    volumes: Float[np.ndarray, "x y z"]

    @classmethod
    def of(cls, anatomy: Anatomy, factor: int) -> "_Level":
        voxel = float(anatomy.grid.voxel_volume) / 1000
        if factor == 1:
            return cls(factor, jax.tree.map(jnp.asarray, anatomy), np.full(anatomy.grid.shape, voxel))
        # Coarse voxels extend beyond the border of the tissue.
        shares = np.asarray(block_mean(anatomy.tissue.astype(jnp.float32), factor), float)
        return cls(factor, jax.tree.map(jnp.asarray, anatomy.coarsen(factor)), shares * factor**3 * voxel)

    def crop(self, window: Window) -> "_Level":
        """Return the part of the level inside a window."""
        return _Level(self.factor, self.anatomy.crop(window.start, window.shape), self.volumes[window.box])


def as_density(stored: np.ndarray) -> Float[np.ndarray, "..."]:
    """Return stored densities as fractions of the carrying capacity, in float32."""
    return stored.astype(np.float32) / np.float32(255) if stored.dtype == np.uint8 else stored.astype(np.float32)


def _points(recipe: Recipe, index: int) -> Iterator[Float[np.ndarray, "d"]]:
    """Yield an endless sequence of points in the prior's coordinates."""
    from scipy.special import ndtri
    from scipy.stats import qmc

    random, size = np.random.default_rng([recipe.seed, index]), recipe.prior.size
    if recipe.draws == "sobol":
        sobol = qmc.Sobol(size, rng=random)
        while True:
            # The sequence has 30 binary digits; the middle of its cells is never zero.
            yield from ndtri(sobol.random(_BLOCK) + 2.0**-31).astype(np.float32)
    while True:
        yield from random.standard_normal((_BLOCK, size)).astype(np.float32)


@eqx.filter_jit
def _placed(
    model: Any, prior: Prior, anatomy: Anatomy, points: Float[Array, "m d"]
) -> tuple[Any, Bool[Array, "m"], Float[Array, "m"]]:
    """Return the parameters at points, whether tumours can begin there, and a bound on their final cells, mm^3.

    The bound holds because no cell divides faster than at the rate rho.
    """

    def one(z: Array) -> tuple[Any, Array, Array]:
        params = prior.constrain(z)
        physical = params.physical()
        begun = model.outcome(model.initial(params, anatomy), anatomy).density.sum()
        volume = jnp.asarray(anatomy.grid.voxel_volume, begun.dtype)
        cells = begun * volume * jnp.exp(physical.proliferation * physical.duration)
        return params, model.seeded(params, anatomy), cells

    return jax.vmap(one)(points)


@eqx.filter_jit
def _single(
    model: Any,
    params: Any,
    anatomy: Anatomy,
    summary: Callable[[Solution], tuple[Array, Array]],
    stepper: AbstractStepper | None,
) -> tuple[Array, Array]:
    """Return the result of one simulation as a batch of one."""
    alone = jax.tree.map(lambda leaf: leaf[0], params)
    one = summary(simulate(model, alone, anatomy, stepper=stepper, throw=False))
    return jax.tree.map(lambda leaf: leaf[None], one)


def _in_bytes(solution: Solution) -> tuple[Array, Array]:
    scaled = jnp.round(jnp.clip(solution.density, 0, 1) * 255)
    return scaled.astype(jnp.uint8), solution.result


def _in_halves(solution: Solution) -> tuple[Array, Array]:
    return jnp.clip(solution.density, 0, 1).astype(jnp.float16), solution.result


_SUMMARIES = {"uint8": _in_bytes, "float16": _in_halves}


def _exhausted(recipe: Recipe, found: int, fates: dict[int, str]) -> str:
    counts = Counter(fates.values())
    # Where all solves fail, that is the reason, however many seeds lie outside tissue.
    reason = FAILED if not found and counts[FAILED] >= _HOPELESS else counts.most_common(1)[0][0]
    remedy = f"change the prior or the sizes {[tuple(size) for size in recipe.sizes]}"
    if reason == FAILED:
        remedy = "change the prior, so that tissue does not move too fast (less mass effect) and growth can be followed"
    rejected = f"{counts[reason]} were rejected as {reason}"
    return f"only {found} of {len(fates) + found} draws were accepted; {rejected}: {remedy}"
