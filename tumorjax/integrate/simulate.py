"""The verb `simulate`."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from tumorjax.anatomy import Anatomy
from tumorjax.growth import FisherKolmogorov, GrowthParams, ReactionDiffusion, ScaledGrowthParams
from tumorjax.integrate.adjoint import AbstractAdjoint, CheckpointedAdjoint
from tumorjax.integrate.solution import Result, Solution
from tumorjax.integrate.stepper import AbstractStepper
from tumorjax.integrate.strang_rkl2 import StrangRKL2

_DEFAULT_STEPPER = StrangRKL2()
_DEFAULT_ADJOINT = CheckpointedAdjoint()


def simulate(
    model: FisherKolmogorov,
    params: GrowthParams | ScaledGrowthParams,
    anatomy: Anatomy,
    *,
    save_every: float | None = None,
    stepper: AbstractStepper = _DEFAULT_STEPPER,
    adjoint: AbstractAdjoint = _DEFAULT_ADJOINT,
    throw: bool = True,
) -> Solution:
    """Grow a tumour from its seed to the time of the scan.

    Works under `jax.jit`, `jax.vmap` and `jax.grad` (with respect to parameters, tissue maps and the
    model's ratio), and with `adjoint=ForwardMode()` under `jax.jvp`. The computation runs on the bounding
    box of the tissue where the anatomy is concrete, and on the whole grid where it is traced or batched.

    Parameters
    ----------
    model
        What grows.
    params
        Its parameters.
    anatomy
        Where; its dtype is that of the computation.
    save_every
        day. Return the density at 0, `save_every`, 2 `save_every`, ... and at the end; the duration must
        then be concrete, for it decides the shape of the result.
    stepper
        The scheme in time. It chooses its steps from diffusivity and proliferation.
    adjoint
        How the solve is differentiated.
    throw
        Raise where the solve failed, if that is known (not under a transformation); else see `result`.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        If the solve failed and `throw`, if `save_every` is not positive, or the duration is traced with it.
    """
    dtype = anatomy.dtype
    # First, because under `jit` the conversion turns the numbers that it was given into traced ones.
    levels = _levels(params, save_every)
    params, model = (jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree) for tree in (params, model))
    shape = anatomy.grid.shape
    start, size = (0, 0, 0), shape
    if not anatomy.traced:
        start, size = anatomy.box()
    inside = anatomy.crop(start, size) if size != shape else anatomy
    solution = _solve(model, params, inside, levels, stepper, adjoint)
    pads = [(low, full - low - n) for low, full, n in zip(start, shape, size, strict=True)]
    if size != shape:
        solution = eqx.tree_at(
            lambda s: (s.density, s.series),
            solution,
            (
                jnp.pad(solution.density, pads),
                None if solution.series is None else jnp.pad(solution.series, [(0, 0), *pads]),
            ),
            is_leaf=lambda leaf: leaf is None,
        )
    return solution.check() if throw else solution


def _levels(params: GrowthParams | ScaledGrowthParams, save_every: float | None) -> Float[Any, "n"] | None:
    """Return the times to save at after zero as fractions of the duration, or None."""
    if save_every is None:
        return None
    duration = params.physical().duration
    if isinstance(duration, Tracer):
        raise ValueError("save_every needs a concrete duration, got a traced one; close over it, or save nothing")
    if not save_every > 0:
        raise ValueError(f"save_every must be positive (days), got {save_every}")
    if not float(duration) > 0:
        raise ValueError(f"save_every needs a duration above zero, got {float(duration):g} days")
    whole = float(duration) / save_every
    count = math.ceil(whole - 1e-6)
    return np.minimum(np.arange(1, count + 1) / whole, 1.0)


@eqx.filter_jit
def _solve(
    model: FisherKolmogorov,
    params: GrowthParams | ScaledGrowthParams,
    anatomy: Anatomy,
    levels: Float[Any, "n"] | None,
    stepper: AbstractStepper,
    adjoint: AbstractAdjoint,
) -> Solution:
    # Without the barrier the compiler folds maps that are constants of the caller's program, which takes
    # it longer than the solve.
    anatomy = jax.lax.optimization_barrier(anatomy)
    seed = model.initial(params, anatomy)
    terms = model.terms(params, anatomy)
    duration = jnp.asarray(params.physical().duration, seed.dtype)
    seeded = seed.sum() * jnp.asarray(anatomy.grid.voxel_volume, seed.dtype) > 0.99 * model.seed_mass
    if levels is None:
        scaled = _over(terms, duration)
        density = adjoint.advance(stepper, scaled, seed, first=True)
        steps = stepper.schedule(scaled, first=True).steps
        times, series = duration[None], None
    else:
        times = duration * jnp.concatenate([jnp.zeros(1, seed.dtype), jnp.asarray(levels, seed.dtype)])
        widths = times[1:] - times[:-1]
        scaled = _over(terms, widths[0])
        density = adjoint.advance(stepper, scaled, seed, first=True)
        steps = stepper.schedule(scaled, first=True).steps

        def interval(carry: tuple[Array, Array], width: Array) -> tuple[tuple[Array, Array], Array]:
            state, steps = carry
            scaled = _over(terms, width)
            state = adjoint.advance(stepper, scaled, state, first=False)
            return (state, steps + stepper.schedule(scaled, first=False).steps), state

        first = density
        (density, steps), rest = jax.lax.scan(interval, (first, steps), widths[1:])
        series = jnp.concatenate([seed[None], first[None], rest])
    # The sum is finite exactly where every voxel is: densities are bounded.
    result = jnp.where(seeded, Result.SUCCESS, Result.SEED_OUTSIDE_TISSUE)
    result = jnp.where(jnp.isfinite(density.sum()), result, Result.NOT_FINITE)
    return Solution(density, times, series, steps, result)


def _over(terms: ReactionDiffusion, duration: Array) -> ReactionDiffusion:
    """Return the terms in units in which the duration is one."""
    return ReactionDiffusion(
        terms.conductance, terms.growth, terms.diffusivity * duration, terms.proliferation * duration
    )
