"""The displacement at which the forces of growth with mass effect will balance, at the end of a flow."""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from tumorjax.growth import ReactionAdvectionDiffusion
from tumorjax.integrate.stepper import pull
from tumorjax.operators import (
    Convergence,
    Preconditioner,
    Stiffness,
    apart,
    block_mean,
    divergence,
    elastic_force,
    free_faces,
    from_flat,
    gradient_on_faces,
    solve_elasticity,
    stiffness,
)

Response = Float[Array, "3 u v w"]


class Tissue(eqx.Module):
    """What is expected after a flow, on the voxels of elasticity.

    Parameters
    ----------
    response
        (3, u, v, w), mm/Pa. By what the solution deviates from it, to first order, the cells are thinned further. That
        adds to lambda what the thinning takes from the force (and from the tumour's own stress, taken as isotropic).
    density, white, grey
        (u, v, w), means of cells, white and grey matter.
    """

    response: Response
    density: Float[Array, "u v w"]
    white: Float[Array, "u v w"]
    grey: Float[Array, "u v w"]


def balanced_response(
    terms: ReactionAdvectionDiffusion,
    tissue: Tissue,
    *,
    guess: Response,
    preconditioner: Preconditioner,
    tolerance: float,
    max_iterations: int,
) -> tuple[Response, Convergence]:
    """Return the response u / gamma, mm/Pa, at which forces balance after the flow that leads to it.

    Parameters
    ----------
    terms
        The equations.
    tissue
        What is expected after the flow.
    guess
        Where the iteration starts.

    Notes
    -----
    Where gamma c P'(c) exceeds lambda + 2 mu, with P the density's pressure, an equilibrium of cells that were not
    thinned would overshoot, and the overshoot would grow from step to step, whatever their length.
    """
    force, medium = _forces(terms, tissue)
    return solve_elasticity(
        force, medium, guess=guess, preconditioner=preconditioner, rtol=tolerance, max_iterations=max_iterations
    )


def balanced_pullback(
    terms: ReactionAdvectionDiffusion,
    tissue: Tissue,
    response: Response,
    cotangent: Response,
    *,
    fields: bool,
    preconditioner: Preconditioner,
    tolerance: float,
    max_iterations: int,
) -> tuple[ReactionAdvectionDiffusion, Tissue]:
    """Return the cotangents of terms and tissue of `balanced_response`, whose result is not solved for again.

    They follow from one multiplier, which is what an elasticity solve returns for the cotangent in place of a force.
    """
    medium = lax.stop_gradient(_forces(terms, tissue)[1])
    multiplier, _ = solve_elasticity(
        cotangent,
        medium,
        preconditioner=preconditioner,
        rtol=tolerance,
        max_iterations=max_iterations,
    )

    def remainder(terms: ReactionAdvectionDiffusion, tissue: Tissue) -> Response:
        force, medium = _forces(terms, tissue)
        return force - apart(elastic_force, response, medium)

    free = jnp.stack([from_flat(component, medium.shape) for component in medium.free])
    return pull(remainder, terms, tissue, multiplier * free, fields=fields)


def _forces(terms: ReactionAdvectionDiffusion, tissue: Tissue) -> tuple[Response, Stiffness]:
    """Return the force on the expected tissue, and the medium in which the response will balance it."""
    spacing = terms.coarsening * jnp.asarray(terms.grid.spacing, tissue.density.dtype)
    head = block_mean(terms.head, terms.coarsening)
    density, white, grey = (_at_least_zero(field) for field in (tissue.density, tissue.white, tissue.grey))
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
    thinning = density * terms.mass_effect * _at_least_zero(slope - bulk * divergence(tissue.response, spacing))
    stiffer = apart(stiffness, first + thinning, shear, free, spacing)
    force = gradient_on_faces(pressure, spacing)
    return force + apart(elastic_force, tissue.response, stiffer) - apart(
        elastic_force, tissue.response, medium
    ), stiffer


def _at_least_zero(field: Float[Array, "u v w"]) -> Float[Array, "u v w"]:
    # Unlike `maximum`, which halves the derivative where both are equal.
    return jnp.where(field < 0, 0, field)
