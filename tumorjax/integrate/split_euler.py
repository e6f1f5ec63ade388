"""First-order splitting of exact logistic growth and explicit Euler diffusion."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tumorjax.checks import check_real
from tumorjax.growth import ReactionDiffusion
from tumorjax.integrate.splitting import AbstractSplitting, Field, no_conductance
from tumorjax.integrate.stepper import Interval, Schedule
from tumorjax.operators import Conductance, difference, diffuse, largest_eigenvalue_bound


class SplitEuler(AbstractSplitting):
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
        for name in ("safety", "reaction_step"):
            check_real(name, getattr(self, name))
        if not (0 < self.safety <= 1 and self.reaction_step > 0):
            raise ValueError(f"safety must be in (0, 1] and reaction_step positive, got {self}")

    def schedule(self, terms: ReactionDiffusion, interval: Interval) -> Schedule:
        """Return even steps within both bounds."""
        share = jnp.asarray(interval.end - interval.begin, terms.growth.dtype)
        stiffness = terms.diffusivity * largest_eigenvalue_bound(terms.conductance)
        steps = jnp.maximum(stiffness / (2 * self.safety), terms.proliferation / self.reaction_step)
        return Schedule.graded(interval, 1.0, steps / share, stiffness)

    def reaction_width(self, schedule: Schedule, k: Int[Array, ""]) -> Float[Array, ""]:
        """Return the width of the step; nothing opens the interval."""
        return schedule.width(k)

    def transport(self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""], state: Field) -> Field:
        """Return c + dt D div(K grad c)."""
        return state + schedule.width(k) * terms.diffusivity * diffuse(state, terms.conductance)

    def transport_pullback(
        self,
        terms: ReactionDiffusion,
        schedule: Schedule,
        k: Int[Array, ""],
        before: Field,
        cotangent: Field,
        *,
        fields: bool,
    ) -> tuple[Conductance, Float[Array, "..."], Field]:
        """Pull back one explicit step, which has a symmetric matrix."""
        dt, conductance = schedule.width(k), terms.conductance
        applied = diffuse(cotangent, conductance)
        conductance_bar = no_conductance(conductance)
        if fields:
            factor = -dt * terms.diffusivity
            edges = (factor * difference(cotangent, e) * difference(before, e) for e in conductance.offsets)
            conductance_bar = Conductance(tuple(edges), conductance.offsets)
        diffusivity_bar = dt * applied * before
        if fields:
            diffusivity_bar = jnp.sum(diffusivity_bar)
        return conductance_bar, diffusivity_bar, cotangent + dt * terms.diffusivity * applied
