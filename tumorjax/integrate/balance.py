"""The displacement at which the forces of growth with mass effect will balance, at the end of a flow."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from tumorjax.growth import ReactionAdvectionDiffusion
from tumorjax.operators import (
    Convergence,
    Preconditioner,
    apart,
    block_mean,
    divergence,
    elastic_force,
    free_faces,
    gradient_on_faces,
    solve_elasticity,
    stiffness,
)


def balanced_response(
    terms: ReactionAdvectionDiffusion,
    density: Float[Array, "u v w"],
    white: Float[Array, "u v w"],
    grey: Float[Array, "u v w"],
    expected: Float[Array, "3 u v w"],
    *,
    guess: Float[Array, "3 u v w"],
    preconditioner: Preconditioner,
    tolerance: float,
    max_iterations: int,
) -> tuple[Float[Array, "3 u v w"], Convergence]:
    """Return the response u / gamma, mm/Pa, at which forces balance after the flow that leads to it.

    Parameters
    ----------
    terms
        The equations.
    density, white, grey
        (u, v, w), means over the voxels of elasticity of cells, white and grey matter, as they are expected after the
        flow.
    expected
        (3, u, v, w), mm/Pa: the response that belongs to them. By what the solution deviates from it, to first order,
        the cells are thinned further. That adds to lambda what the thinning takes from the force (and from the tumour's
        own stress, taken as isotropic).
    guess
        Where the iteration starts.

    Notes
    -----
    Where gamma c P'(c) exceeds lambda + 2 mu, with P the density's pressure, an equilibrium of cells that were not
    thinned would overshoot, and the overshoot would grow from step to step, whatever their length.
    """
    spacing = terms.coarsening * jnp.asarray(terms.grid.spacing, density.dtype)
    head = block_mean(terms.head, terms.coarsening)
    density, white, grey = (_at_least_zero(field) for field in (density, white, grey))
    # What is in no map counts as CSF.
    shares = jnp.stack([white, grey, _at_least_zero(1 - white - grey), density])
    first, shear = (jnp.tensordot(jnp.stack(moduli), shares, 1) for moduli in (terms.first, terms.shear))
    free = free_faces(head > 0.5)
    medium = apart(stiffness, first, shear, free, spacing)
    # tanh(c) grad c is the gradient of log cosh c.
    linear = terms.force == "linear"
    pressure = density if linear else jnp.log(jnp.cosh(density))
    slope = jnp.ones_like(density) if linear else jnp.tanh(density)
    bulk = terms.first[3] + 2 / 3 * terms.shear[3]
    thinning = density * terms.mass_effect * _at_least_zero(slope - bulk * divergence(expected, spacing))
    stiffer = apart(stiffness, first + thinning, shear, free, spacing)
    return solve_elasticity(
        gradient_on_faces(pressure, spacing)
        + apart(elastic_force, expected, stiffer)
        - apart(elastic_force, expected, medium),
        stiffer,
        guess=guess,
        preconditioner=preconditioner,
        rtol=tolerance,
        max_iterations=max_iterations,
    )


def _at_least_zero(field: Float[Array, "u v w"]) -> Float[Array, "u v w"]:
    # Unlike `maximum`, which halves the derivative where both are equal.
    return jnp.where(field < 0, 0, field)
