"""The displacement at which elastic forces balance a body force, and its derivatives."""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from tumorjax.operators.elasticity import Faces, Stiffness, flat_faces, force_on_faces, from_flat
from tumorjax.operators.krylov import Convergence, conjugate_gradients, norm
from tumorjax.operators.multigrid import Multigrid

_DEFAULT_PRECONDITIONER = Multigrid()


class Preconditioner(Protocol):
    """Makes an approximate inverse of an elastic medium: `Multigrid` or `Fourier`."""

    def inverse(self, medium: Stiffness, /) -> Callable[[Faces], Faces]:
        """Return an approximate inverse of minus `force_on_faces`, symmetric and positive definite on free faces."""
        ...


def solve_elasticity(
    force: Float[Array, "3 x y z"],
    medium: Stiffness,
    *,
    guess: Float[Array, "3 x y z"] | None = None,
    preconditioner: Preconditioner = _DEFAULT_PRECONDITIONER,
    rtol: float = 1e-4,
    max_iterations: int = 100,
) -> tuple[Float[Array, "3 x y z"], Convergence]:
    """Solve div sigma(u) = f on the free faces, with u = 0 on the others, by preconditioned conjugate gradients.

    Parameters
    ----------
    force
        f, (3, x, y, z), on faces like the displacement; what it holds on clamped faces has no effect. In the unit of
        the moduli over that of the spacing, Pa/mm. The paper's is gamma grad c, which pushes away from the tumour.
    medium
        Lamé's parameters; see `stiffness`.
    guess
        (3, x, y, z), where the iteration starts: the solution of a similar problem. Zero if none. It carries no
        derivative.
    preconditioner
        `Multigrid` or `Fourier`.
    rtol
        The iteration stops when the residual's norm is below `rtol` times the force's.
    max_iterations
        The most iterations to make.

    Returns
    -------
    displacement
        u, (3, x, y, z), in the unit of the spacing; NaN where the force or the medium has NaN.
    convergence
        The iterations, and the relative residual, which is above `rtol` (or NaN) if the solve failed.

    Notes
    -----
    Derivatives with respect to force, moduli and spacing, in both modes, are those of the exact solution: one more
    solve with the same operator, to the same relative tolerance of its own right-hand side, from zero.
    """

    def on_free(vector: Float[Array, "3 x y z"]) -> Faces:
        return jax.tree.map(jnp.multiply, flat_faces(vector), medium.free)

    start = on_free(jnp.zeros_like(force) if guess is None else lax.stop_gradient(guess))
    right = on_free(force)
    frozen = lax.stop_gradient(medium)
    inverse = preconditioner.inverse(frozen)

    def pull(displacement: Faces, medium: Stiffness) -> Faces:
        return jax.tree.map(jnp.negative, force_on_faces(displacement, medium))

    # The unknown is the correction to the guess, and beside it stands the norm of the force, which the identity solves
    # for: it is what the residual is compared with. In the solves for derivatives, whose right-hand sides are other
    # ones, it is zero, and the residual is compared with their own norm.
    def solve(_: Callable, right: tuple[Faces, Array]) -> tuple[tuple[Faces, Array], Convergence]:
        correction, convergence = conjugate_gradients(
            lambda u: pull(u, frozen), right[0], inverse, scale=right[1], rtol=rtol, max_iterations=max_iterations
        )
        return (correction, right[1]), convergence

    remainder = jax.tree.map(lambda f, p: -f - p, right, pull(start, medium))
    # JAX transposes the solve only if everything on the right has a tangent; this one's is zero.
    scale = lax.stop_gradient(norm(right)) + 0 * remainder[0][0]
    (correction, _), convergence = lax.custom_linear_solve(
        lambda unknown: (pull(unknown[0], medium), unknown[1]),
        (remainder, scale),
        solve,
        symmetric=True,
        has_aux=True,
    )
    # Only what free faces do can be asked of the solution's derivative.
    total = (from_flat(s + c * free, medium.shape) for s, c, free in zip(start, correction, medium.free, strict=True))
    return jnp.stack(list(total)), convergence
