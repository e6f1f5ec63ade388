"""The transitions of the No-U-Turn sampler, made of parts of numpyro's kernel: one compiled program for many."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from tumorjax.integrate import DevicePool
from tumorjax.methods.sampling.chains import dispersed
from tumorjax.methods.sampling.target import AbstractTarget, log_likelihoods_and_gradients


class Settings(NamedTuple):
    """The settings on which the compiled program depends; see `NUTS`."""

    warmup: int
    target_acceptance: float
    max_tree_depth: int
    block: int


class Chain(NamedTuple):
    """A chain at w, in coordinates in which the Laplace approximation is standard normal; or several, stacked."""

    position: Float[Any, "n"]
    potential: Float[Any, ""]
    gradient: Float[Any, "n"]
    mass: Any
    averaging: Any


class Row(NamedTuple):
    """The record of a transition; or of several, stacked.

    Parameters
    ----------
    point
        z, in the prior's coordinates.
    potential
        Minus the log-posterior there, nat.
    acceptance
        Mean acceptance over the trajectory.
    step_size
        Step size in coordinates of unit mass.
    leapfrogs
        Number of gradients that it took.
    depth
        Depth of its tree.
    divergent
        Whether the trajectory was cut off.
    failed
        Whether a solve that gave no number cut it off.
    """

    point: Float[Any, "n"]
    potential: Float[Any, ""]
    acceptance: Float[Any, ""]
    step_size: Float[Any, ""]
    leapfrogs: Int[Any, ""]
    depth: Int[Any, ""]
    divergent: Bool[Any, ""]
    failed: Bool[Any, ""]


# Kinds of the columns of `Row`, as NumPy's letters; `point` has one more axis.
ROW_KINDS = {
    **dict.fromkeys(("potential", "acceptance", "step_size"), "f"),
    **dict.fromkeys(("leapfrogs", "depth"), "i"),
    **dict.fromkeys(("divergent", "failed"), "b"),
}


def begin(
    target: AbstractTarget,
    centre: Float[np.ndarray, "n"],
    factor: Float[np.ndarray, "n n"],
    settings: Settings,
    key: Key[Array, ""],
    count: int,
) -> tuple[Chain, int]:
    """Return chains at their starting points, on the host, and how many starting points failed."""
    away, (values, gradients), failed = dispersed(
        lambda points: log_likelihoods_and_gradients(target, points, chunk=count), centre, factor, count, key
    )
    points = centre + away @ factor.T
    potentials = 0.5 * np.sum(points**2, axis=1) - values
    slopes = (points - gradients) @ factor
    return _stack([_first(*start, settings) for start in zip(away, potentials, slopes, strict=True)]), failed


def leaves(size: int, settings: Settings) -> list[np.ndarray]:
    """Return the leaves of one chain with so many coordinates; only their kinds and shapes mean anything."""
    return jax.tree.leaves(_first(np.zeros(size), np.zeros(()), np.zeros(size), settings))


def from_leaves(kept: list[np.ndarray], size: int, settings: Settings) -> Chain:
    """Return chains from the leaves that a checkpoint kept."""
    structure = jax.tree.structure(_first(np.zeros(size), np.zeros(()), np.zeros(size), settings))
    return jax.tree.unflatten(structure, kept)


def advancing(
    target: AbstractTarget,
    centre: Float[np.ndarray, "n"],
    factor: Float[np.ndarray, "n n"],
    settings: Settings,
    key: Key[Array, ""],
    *,
    threads: bool,
) -> Callable[[Chain, int, int], tuple[Chain, Row]]:
    """Return the function that advances chains from transition `first` by up to a block, on the host.

    Its program is compiled once for all targets of a structure.

    Parameters
    ----------
    target
        Target to draw from.
    centre, factor
        Middle of the approximation, and the Cholesky factor of its covariance.
    settings
        Settings on which the program depends.
    key
        Random key.
    threads
        Whether each chain runs in a thread of its own, or all in one batch.
    """
    real = _real()
    fixed = (target, jnp.asarray(centre, real), jnp.asarray(factor, real), settings, key)

    def run(program: Callable[..., Any], numbers: np.ndarray, chains: Chain, first: int, count: int) -> Any:
        # Settings of JAX are those of a thread; and numpyro mixes integers with floats.
        with jax.enable_x64(real == jnp.float64), jax.numpy_dtype_promotion("standard"):
            return jax.device_get(program(*fixed, numbers, np.array([first, count], np.int32), chains))

    def advance(chains: Chain, first: int, count: int) -> tuple[Chain, Row]:
        numbers = np.arange(len(chains.potential), dtype=np.int32)
        if not threads:
            chains, rows = run(_advance_all, numbers, chains, first, count)
        else:

            def one(i: int, _: Any) -> tuple[Chain, Row]:
                return run(_advance_one, numbers[i], jax.tree.map(lambda leaf: leaf[i], chains), first, count)

            with DevicePool() as pool:
                ended = [pool.submit(partial(one, i)) for i in range(len(numbers))]
                chains, rows = (_stack(list(some)) for some in zip(*(each.result() for each in ended), strict=True))
        return chains, Row(*(column[:, :count] for column in rows))

    return advance


def _real() -> Any:
    """Return the dtype in which numpyro computes."""
    return jnp.zeros(()).dtype


def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _mass(settings: Settings) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the functions that begin and adapt a dense mass matrix, in windows of growing length."""
    from numpyro.infer.hmc_util import warmup_adapter

    return warmup_adapter(settings.warmup, adapt_step_size=False, dense_mass=True)


def _averaging() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the functions that begin and adapt the logarithm of the step size (Hoffman and Gelman, 2014).

    With their gamma of 0.05 the first tens of step sizes differ by factors of ten, because the scale is unknown. Here
    it is known, and a step that is far too short takes many solves.
    """
    from numpyro.infer.hmc_util import dual_averaging

    return dual_averaging(gamma=0.2)


def _first(position: np.ndarray, potential: np.ndarray, gradient: np.ndarray, settings: Settings) -> Chain:
    """Return a chain before its first transition, on the host."""
    real = _real()
    # Half of the best step size for a Gaussian of this dimension (Beskos et al., 2013).
    step = jnp.log(jnp.asarray(0.5 * position.size**-0.25, real))
    with jax.numpy_dtype_promotion("standard"):
        mass = _mass(settings)[0]((jnp.asarray(position, real),), jax.random.key(0), jnp.exp(step))
        _, *averaging = _averaging()[0](step)
    # The adaptation of the mass draws nothing.
    chain = Chain(position, potential, gradient, mass._replace(rng_key=None), (step, *averaging))
    return jax.tree.map(
        lambda leaf: np.asarray(leaf, real if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype), chain
    )


def _transition(
    target: AbstractTarget,
    centre: Float[Array, "n"],
    factor: Float[Array, "n n"],
    settings: Settings,
    key: Key[Array, ""],
    number: Int[Array, ""],
    chain: Chain,
) -> tuple[Chain, Row]:
    from numpyro.infer.hmc_util import IntegratorState, build_tree, euclidean_kinetic_energy, velocity_verlet

    real, mass, averaging = chain.position.dtype, chain.mass, chain.averaging

    def potential(w: Array) -> Array:
        return -target.log_posterior((centre + factor @ w).astype(target.dtype)).astype(real)

    _, leapfrog = velocity_verlet(potential, euclidean_kinetic_energy)

    def guarded(step_size: Array, inverse_mass: Array, state: IntegratorState) -> IntegratorState:
        after = leapfrog(step_size, inverse_mass, state)
        failed = ~(jnp.isfinite(after.potential_energy) & jnp.all(jnp.isfinite(after.z_grad)))
        # Infinite energy ends the trajectory; a gradient of NaN marks a failed solve as the reason.
        return after._replace(
            potential_energy=jnp.where(failed, jnp.inf, after.potential_energy),
            z_grad=jnp.where(failed, jnp.nan, after.z_grad),
        )

    warming = number < settings.warmup
    step_size = jnp.exp(jnp.where(warming, averaging[0], averaging[1]))
    momentum_key, tree_key = jax.random.split(jax.random.fold_in(key, number))
    momentum = mass.mass_matrix_sqrt @ jax.random.normal(momentum_key, chain.position.shape, real)
    tree = build_tree(
        guarded,
        euclidean_kinetic_energy,
        IntegratorState(chain.position, momentum, chain.potential, chain.gradient),
        mass.inverse_mass_matrix,
        step_size,
        tree_key,
        max_tree_depth=settings.max_tree_depth,
    )
    acceptance = tree.sum_accept_probs / tree.num_proposals
    row = Row(
        point=centre + factor @ tree.z_proposal,
        potential=tree.z_proposal_pe,
        acceptance=acceptance,
        step_size=step_size,
        leapfrogs=tree.num_proposals,
        depth=tree.depth,
        divergent=tree.diverging,
        failed=jnp.any(jnp.isnan(tree.z_left_grad) | jnp.isnan(tree.z_right_grad)),
    )
    mass, averaging = jax.lax.cond(
        warming,
        lambda: (
            _mass(settings)[1](number, acceptance, (tree.z_proposal,), mass),
            _averaging()[1](settings.target_acceptance - acceptance, averaging),
        ),
        lambda: (mass, averaging),
    )
    return Chain(tree.z_proposal, tree.z_proposal_pe, tree.z_proposal_grad, mass, averaging), row


def _advance(
    target: AbstractTarget,
    centre: Float[Array, "n"],
    factor: Float[Array, "n n"],
    settings: Settings,
    key: Key[Array, ""],
    chain_number: Int[Array, ""],
    span: Int[Array, "2"],
    chain: Chain,
) -> tuple[Chain, Row]:
    """Advance a chain from transition `span[0]` by `span[1]`, at most a block; return it and the records."""
    first, count = span
    key = jax.random.fold_in(key, chain_number)
    real, block = chain.position.dtype, settings.block
    columns = [jnp.zeros(block, dtype) for dtype in (real, real, real, jnp.int32, jnp.int32, bool, bool)]
    rows = Row(jnp.zeros((block, chain.position.size), real), *columns)

    def body(i: Array, carry: tuple[Chain, Row]) -> tuple[Chain, Row]:
        chain, row = _transition(target, centre, factor, settings, key, first + i, carry[0])
        return chain, jax.tree.map(lambda column, one: column.at[i].set(one.astype(column.dtype)), carry[1], row)

    return jax.lax.fori_loop(0, count, body, (chain, rows))


_advance_one = eqx.filter_jit(_advance)


@eqx.filter_jit
def _advance_all(
    target: AbstractTarget,
    centre: Array,
    factor: Array,
    settings: Settings,
    key: Array,
    numbers: Array,
    span: Array,
    chains: Any,
) -> tuple[Chain, Row]:
    return jax.vmap(lambda number, chain: _advance(target, centre, factor, settings, key, number, span, chain))(
        numbers, chains
    )
