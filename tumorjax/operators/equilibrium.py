"""The displacement at which elastic forces balance a body force, and its derivatives."""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from tumorjax.operators.apart import apart
from tumorjax.operators.elasticity import Faces, Stiffness, flat_faces, force_on_faces, from_flat
from tumorjax.operators.krylov import Convergence, conjugate_gradients, norm
from tumorjax.operators.multigrid import Multigrid

_DEFAULT_PRECONDITIONER = Multigrid()


class Preconditioner(Protocol):
    """A preconditioner of elasticity, which makes an approximate inverse of a medium: `Multigrid` or `Fourier`."""

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
        f, (3, x, y, z), on faces like the displacement; values on clamped faces have no effect. Its unit is that of
        the moduli over that of the spacing, Pa/mm. The usual force, gamma grad c, pushes tissue away from the tumour.
    medium
        Lamé's parameters; see `stiffness`.
    guess
        (3, x, y, z), where the iteration starts, such as the solution of a similar problem; by default zero. No
        derivative flows through it.
    preconditioner
        `Multigrid` or `Fourier`.
    rtol
        The iteration stops when the norm of the residual is below `rtol` times that of the force.
    max_iterations
        Largest number of iterations.

    Returns
    -------
    displacement
        u, (3, x, y, z), in the unit of the spacing; NaN where the force or the medium has NaN.
    convergence
        The number of iterations, and the relative residual, which is above `rtol` (or NaN) if the solve failed.

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

    # The unknown is the correction to the guess, together with two numbers, for which the operator is the identity.
    # On the right-hand side, the first number is the norm of the force, with which the residual is compared. The solves
    # for derivatives have other right-hand sides; there it is zero, and the residual is compared with their own norm.
    # In the solution, the two numbers are the residual and the iterations. `has_aux` would return them, too, but when
    # only derivatives are batched, JAX repeats auxiliary output, and all that depends on it, for each of them.
    def solve(_: Callable, right: tuple[Faces, tuple[Array, Array]]) -> tuple[Faces, tuple[Array, Array]]:
        correction, ended = conjugate_gradients(
            lambda u: pull(u, frozen), right[0], inverse, scale=right[1][0], rtol=rtol, max_iterations=max_iterations
        )
        return correction, (ended.residual, ended.iterations.astype(force.dtype))

    remainder = jax.tree.map(lambda f, p: -f - p, right, apart(pull, start, medium))
    # JAX transposes the solve only if every right-hand side has a tangent. The tangent of the numbers is zero, and so
    # must be their cotangent, although it comes from the residual of another solve, which may be NaN.
    nothing = jnp.where(False, remainder[0][0], 0)
    correction, ended = lax.custom_linear_solve(
        lambda unknown: (pull(unknown[0], medium), unknown[1]),
        (remainder, (lax.stop_gradient(norm(right)) + nothing, nothing)),
        solve,
        symmetric=True,
    )
    residual, iterations = lax.stop_gradient(ended)
    convergence = Convergence(iterations.astype(jnp.int32), residual)
    # Multiplying by `free` keeps the clamped faces out of the derivative.
    total = (from_flat(s + c * free, medium.shape) for s, c, free in zip(start, correction, medium.free, strict=True))
    return jnp.stack(list(total)), convergence
