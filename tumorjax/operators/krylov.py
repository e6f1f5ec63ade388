"""Conjugate gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree


class Convergence(NamedTuple):
    """How an iterative solve ended.

    Parameters
    ----------
    iterations
        Number of iterations made.
    residual
        |b - A x| / |b| of the solution. If it is above the tolerance, or NaN, the solve has failed.
    """

    iterations: Int[Array, ""]
    residual: Float[Array, ""]


def conjugate_gradients(
    operator: Callable[[PyTree], PyTree],
    right: PyTree,
    preconditioner: Callable[[PyTree], PyTree],
    *,
    scale: Float[Array, ""],
    rtol: float,
    max_iterations: int,
) -> tuple[PyTree, Convergence]:
    """Solve A x = b from x = 0 by preconditioned conjugate gradients.

    Parameters
    ----------
    operator
        A, symmetric and positive semi-definite, linear in a tree of arrays.
    right
        b, in the range of A.
    preconditioner
        An approximate inverse of A, symmetric and positive definite on the range of A.
    scale
        Norm that the residual is compared with; where it is zero, |b| is used.
    rtol
        The iteration stops when |b - A x| is below `rtol` times the scale.
    max_iterations
        Largest number of iterations.

    Returns
    -------
    x
        The solution; NaN where b or A hold NaN, which ends the iteration.
    convergence
        How the iteration ended.
    """
    # Squares of small single-precision numbers would underflow, and b may be a cotangent of any magnitude.
    unit = _magnitude(right)
    right = jax.tree.map(lambda b: b / unit, right)
    start = jnp.sqrt(dot(right, right))
    scale = jnp.where(scale > 0, scale / unit, start)

    def unfinished(state: Any) -> Array:
        # No comparison with NaN is true, so NaN ends the loop.
        return (state[-1] > jnp.asarray(rtol, scale.dtype) * scale) & (state[0] < max_iterations)

    def iterate(state: Any) -> Any:
        iteration, solution, residual, direction, old, _ = state
        corrected = preconditioner(residual)
        product = dot(residual, corrected)
        direction = add(corrected, product / old, direction)
        image = operator(direction)
        step = product / dot(direction, image)
        residual = add(residual, -step, image)
        return (
            iteration + 1,
            add(solution, step, direction),
            residual,
            direction,
            product,
            jnp.sqrt(dot(residual, residual)),
        )

    zero = jax.tree.map(jnp.zeros_like, right)
    # An infinite old product makes the first direction the preconditioned residual alone.
    state = (jnp.asarray(0, jnp.int32), zero, right, zero, jnp.full_like(start, jnp.inf), start)
    iterations, solution, *_, end = lax.while_loop(unfinished, iterate, state)
    solution = jax.tree.map(lambda x: jnp.where(jnp.isfinite(end), unit * x, jnp.nan), solution)
    return solution, Convergence(iterations, end / jnp.where(scale > 0, scale, 1))


def dot(a: PyTree, b: PyTree) -> Float[Array, ""]:
    """Return the inner product of two trees of arrays with the same structure."""
    # Matrix products sum in blocks, which loses less to rounding; accelerators would default to reduced precision.
    products = jax.tree.map(lambda x, y: jnp.vdot(x, y, precision=lax.Precision.HIGHEST), a, b)
    return sum(jax.tree.leaves(products))  # pyright: ignore[reportReturnType]


def norm(a: PyTree) -> Float[Array, ""]:
    """Return the Euclidean norm of a tree of arrays, of any magnitude."""
    unit = _magnitude(a)
    scaled = jax.tree.map(lambda x: x / unit, a)
    return unit * jnp.sqrt(dot(scaled, scaled))


def _magnitude(a: PyTree) -> Float[Array, ""]:
    """Return the largest magnitude in a tree of arrays, or one if they are zero or hold NaN."""
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in jax.tree.leaves(a)]))
    return jnp.where(largest > 0, largest, 1)


def add(a: PyTree, factor: Float[Array, ""], b: PyTree) -> PyTree:
    """Return a + factor b."""
    return jax.tree.map(lambda x, y: x + factor * y, a, b)
