"""First-order splitting of exact logistic growth and explicit Euler diffusion."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from tumorjax.growth import ReactionDiffusion
from tumorjax.integrate.stepper import AbstractStepper, Field, Schedule, no_conductance
from tumorjax.operators import Conductance, diffuse, largest_eigenvalue_bound
from tumorjax.operators.diffusion import gradient


class SplitEuler(AbstractStepper):
    """Lie splitting: a step of explicit Euler diffusion, then one of reaction.

    The plain scheme of the field, kept as a reference and for making data that another scheme
    is then calibrated to. Never below zero nor above one; first order in time.

    Parameters
    ----------
    safety
        Share of the stability limit 2 / lambda_max that a step takes.
    reaction_step
        Largest rho dt, dimensionless.
    """

    safety: float = eqx.field(static=True, default=0.45)
    reaction_step: float = eqx.field(static=True, default=0.25)

    def __check_init__(self) -> None:
        if not (0 < self.safety <= 1 and self.reaction_step > 0):
            raise ValueError(f"safety must be in (0, 1] and reaction_step positive, got {self}")

    def schedule(self, terms: ReactionDiffusion, *, first: bool) -> Schedule:
        """Return even steps within both bounds."""
        stiffness = lax.stop_gradient(terms.diffusivity * largest_eigenvalue_bound(terms.conductance))
        steps = jnp.ceil(jnp.maximum(stiffness / (2 * self.safety), terms.proliferation / self.reaction_step))
        # NaN and infinity compare false, and give one step of NaN instead of an endless loop.
        steps = jnp.where(steps < 2**20, jnp.maximum(steps, 1), 1)
        return Schedule(lax.stop_gradient(steps).astype(jnp.int32), 1.0, stiffness)

    def reaction_width(self, schedule: Schedule, k: Int[Array, ""], dtype: Any) -> Float[Array, ""]:
        """Return the width of the step; nothing opens the interval."""
        return schedule.width(k, dtype)

    def transport(self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""], state: Field) -> Field:
        """Return c + dt D div(K grad c)."""
        return state + schedule.width(k, state.dtype) * terms.diffusivity * diffuse(state, terms.conductance)

    def transport_pullback(
        self,
        terms: ReactionDiffusion,
        schedule: Schedule,
        k: Int[Array, ""],
        before: Field,
        cotangent: Field,
        *,
        fields: bool,
    ) -> tuple[Conductance, Float[Array, ""], Field]:
        """Pull back one explicit step, whose matrix is symmetric."""
        dt = schedule.width(k, before.dtype)
        applied = diffuse(cotangent, terms.conductance)
        diffusivity_bar = dt * jnp.sum(applied * before)
        conductance_bar = no_conductance(before.dtype)
        if fields:
            x, y, z = (-dt * terms.diffusivity * gradient(cotangent, a) * gradient(before, a) for a in range(3))
            conductance_bar = (x, y, z)
        return conductance_bar, diffusivity_bar, cotangent + dt * terms.diffusivity * applied
