"""First-order splitting of exact logistic growth and explicit Euler diffusion."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from tumorjax.growth import ReactionDiffusion
from tumorjax.integrate.stepper import AbstractStepper, Field, Schedule, no_fields, react
from tumorjax.operators import diffuse, largest_eigenvalue_bound


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

    def begin(self, terms: ReactionDiffusion, schedule: Schedule, state: Field) -> Field:
        """Return the state itself."""
        return state

    def step(self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""], state: Field) -> Field:
        """Return the state after diffusion and reaction."""
        dt = schedule.width(k, state.dtype)
        diffused = state + dt * terms.diffusivity * diffuse(state, terms.conductance)
        return react(diffused, dt * terms.proliferation * terms.growth)

    def record(
        self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""], state: Field, *, fields: bool
    ) -> tuple[Field, tuple[Field, Field]]:
        """Record the state before the step."""
        return self.step(terms, schedule, k, state), (state, state)

    def pullback(
        self,
        terms: ReactionDiffusion,
        schedule: Schedule,
        k: Int[Array, ""],
        recorded: tuple[Field, Field],
        cotangent: Field,
        *,
        fields: bool,
    ) -> tuple[ReactionDiffusion, Field]:
        """Pull back by reverse mode through the one step."""
        _, pull = jax.vjp(lambda t, c: self.step(t, schedule, k, c), terms, recorded[0])
        terms_bar, before = pull(cotangent)
        return (terms_bar if fields else no_fields(terms, terms_bar.diffusivity, terms_bar.proliferation)), before
