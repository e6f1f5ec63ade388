"""What a time-stepping scheme is, and the reaction that all of them share."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tumorjax.growth import ReactionDiffusion
from tumorjax.operators import Conductance

Field = Float[Array, "x y z"]


class Schedule(eqx.Module):
    """The time levels t_k = (k / n)^p of an interval of unit length.

    Parameters
    ----------
    steps
        n, at least one.
    exponent
        p: one for even steps, more for steps that begin small.
    stiffness
        D T lambda_max: bound on the spectrum of the diffusion over the interval.
    """

    steps: Int[Array, ""]
    exponent: float = eqx.field(static=True)
    stiffness: Float[Array, ""]

    def width(self, k: Int[Array, ""], dtype: Any) -> Float[Array, ""]:
        """Return t_{k+1} - t_k; zero outside the interval."""
        n = self.steps
        low, high = (jnp.clip(j, 0, n).astype(dtype) / n.astype(dtype) for j in (k, k + 1))
        return high**self.exponent - low**self.exponent


class AbstractStepper(eqx.Module):
    """A splitting scheme that advances reaction-diffusion over an interval of unit length.

    A step is one of transport and then one of reaction, which is exact. The terms come in units in which the
    interval is one: diffusivity D T in mm^2, proliferation rho T dimensionless. A scheme gives its time levels,
    its transport and the pullback of that, from which the adjoint of the whole solve is assembled without
    differentiating through loops.
    """

    @abstractmethod
    def schedule(self, terms: ReactionDiffusion, *, first: bool) -> Schedule:
        """Return the time levels; `first` tells that the interval begins with the seed."""

    @abstractmethod
    def reaction_width(self, schedule: Schedule, k: Int[Array, ""], dtype: Any) -> Float[Array, ""]:
        """Return for how long the reaction of step k acts; of step -1, which has no transport, for how long first."""

    @abstractmethod
    def transport(self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""], state: Field) -> Field:
        """Return the state after the transport of step k."""

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
    ) -> tuple[Conductance, Float[Array, ""], Field]:
        """Return the cotangents of conductance, diffusivity and the state before the transport of step k.

        Without `fields` that of the conductance is not asked for, and is scalar zeros.
        """

    def react(self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""] | int, state: Field) -> Field:
        """Return the state after the reaction of step k; step -1 opens the interval."""
        return react(state, self._exponent(terms, schedule, k))

    def step(self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""], state: Field) -> Field:
        """Return the state after step k."""
        return self.react(terms, schedule, k, self.transport(terms, schedule, k, state))

    def react_pullback(
        self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""] | int, before: Field, cotangent: Field
    ) -> tuple[Field, Float[Array, ""], Field]:
        """Return the cotangents of growth, proliferation and the state before the reaction of step k."""
        cotangent, exponent_bar = react_pullback(before, self._exponent(terms, schedule, k), cotangent)
        width = self.reaction_width(schedule, jnp.asarray(k), before.dtype)
        growth_bar = exponent_bar * width * terms.proliferation
        return growth_bar, width * jnp.sum(exponent_bar * terms.growth), cotangent

    def _exponent(self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""] | int) -> Field:
        width = self.reaction_width(schedule, jnp.asarray(k), terms.growth.dtype)
        return terms.proliferation * width * terms.growth


def react(density: Field, exponent: Field) -> Field:
    """Advance dc/dt = r c (1 - c) exactly: c e / (1 + c (e - 1)) with e = exp(integral of r)."""
    factor = jnp.exp(exponent)
    return density * factor / (1 + density * (factor - 1))


def react_pullback(density: Field, exponent: Field, cotangent: Field) -> tuple[Field, Field]:
    """Return the cotangents of density and exponent of `react`."""
    factor = jnp.exp(exponent)
    denominator = 1 + density * (factor - 1)
    after = density * factor / denominator
    return cotangent * factor / denominator**2, cotangent * after * (1 - after)


def no_conductance(dtype: Any) -> Conductance:
    """Return the cotangent of a conductance that nobody asks for."""
    zero = jnp.zeros((), dtype)
    return zero, zero, zero
