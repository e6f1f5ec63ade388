"""Splitting of reaction-diffusion into the model's own reaction and a scheme's own transport."""

import dataclasses
from abc import abstractmethod
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from tumorjax.growth import ReactionDiffusion
from tumorjax.integrate.stepper import AbstractStepper, Schedule, pull
from tumorjax.operators import Conductance

Field = Float[Array, "x y z"]


class AbstractSplitting(AbstractStepper):
    """Reaction-diffusion by reaction and diffusion in turn.

    Step k is the reaction that follows the transport of step k - 1, and then the transport of step k; `finish` is
    the last reaction. So the states between steps are those before a reaction, from which both parts of a step
    are pulled back without running a transport again.
    """

    advances: ClassVar[tuple[type, ...]] = (ReactionDiffusion,)

    @abstractmethod
    def reaction_width(self, schedule: Schedule, k: Int[Array, ""]) -> Float[Array, ""]:
        """Return for how long the reaction acts after transport k; for k = -1, before the first transport."""

    @abstractmethod
    def transport(self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""], state: Field) -> Field:
        """Return the state after the diffusion of step k."""

    @abstractmethod
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
        """Return the cotangents of conductance, diffusivity and the state before transport k.

        The cotangent of the diffusivity may be an array, to be summed. Without `fields` the cotangent of the
        conductance is not needed, and is scalar zeros.
        """

    def step(self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""], state: Field) -> Field:
        """Return the state after reaction k - 1 and transport k."""
        # Else the compiler computes the reaction again for every neighbour in the first stencil.
        reacted = lax.optimization_barrier(self._react(terms, schedule, k - 1, state))
        return self.transport(terms, schedule, k, reacted)

    def finish(self, terms: ReactionDiffusion, schedule: Schedule, state: Field) -> Field:
        """Return the state after the last reaction."""
        return self._react(terms, schedule, schedule.loop - 1, state)

    # Sums over the voxels are slow, so cotangents of numbers are kept as fields, which `collect` sums at the end.

    def pullback(
        self,
        terms: ReactionDiffusion,
        schedule: Schedule,
        k: Int[Array, ""],
        before: Field,
        after: Field,
        cotangent: Field,
        *,
        fields: bool,
    ) -> tuple[ReactionDiffusion, Field]:
        """Pull back through transport k, then through reaction k - 1."""
        reacted = lax.optimization_barrier(self._react(terms, schedule, k - 1, before))
        conductance_bar, diffusivity_bar, cotangent = self.transport_pullback(
            terms, schedule, k, reacted, cotangent, fields=fields
        )
        cotangent = lax.optimization_barrier(cotangent)
        terms_bar, cotangent = self.finish_pullback(terms, schedule, before, cotangent, fields=fields, k=k - 1)
        return dataclasses.replace(terms_bar, conductance=conductance_bar, diffusivity=diffusivity_bar), cotangent

    def finish_pullback(
        self,
        terms: ReactionDiffusion,
        schedule: Schedule,
        before: Field,
        cotangent: Field,
        *,
        fields: bool,
        k: Int[Array, ""] | None = None,
    ) -> tuple[ReactionDiffusion, Field]:
        """Pull back through the last reaction, or the reaction after transport k."""
        width = self.reaction_width(schedule, schedule.loop - 1 if k is None else k)
        grown = width * terms.proliferation * terms.growth
        killed = None if terms.death is None else jnp.full_like(grown, width * terms.death)
        reaction_bar, (cotangent, grown_bar, killed_bar) = pull(
            lambda reaction, state: reaction(*state), terms.reaction, (before, grown, killed), cotangent, fields=fields
        )
        conductance = terms.conductance if fields else no_conductance(terms.conductance)
        new = ReactionDiffusion(
            conductance=jax.tree.map(jnp.zeros_like, conductance),
            growth=width * grown_bar,
            diffusivity=jnp.zeros((), width.dtype) if fields else jnp.zeros_like(before),
            proliferation=jnp.zeros((), width.dtype),
            death=None if killed_bar is None else width * killed_bar,
            reaction=reaction_bar,
        )
        return new, cotangent

    def collect(self, terms: ReactionDiffusion, total: ReactionDiffusion) -> ReactionDiffusion:
        """Return the cotangent of the terms from the sum over the steps."""
        return dataclasses.replace(
            total,
            growth=terms.proliferation * total.growth,
            diffusivity=jnp.sum(total.diffusivity),
            proliferation=jnp.vdot(total.growth, terms.growth),
            death=None if total.death is None else jnp.sum(total.death),
        )

    def _react(self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""], state: Field) -> Field:
        width = self.reaction_width(schedule, k)
        return terms.reaction(
            state, width * terms.proliferation * terms.growth, None if terms.death is None else width * terms.death
        )


def no_conductance(conductance: Conductance) -> Conductance:
    """Return scalar zeros in place of a cotangent of the conductance that is not needed."""
    return jax.tree.map(lambda edges: jnp.zeros((), edges.dtype), conductance)
