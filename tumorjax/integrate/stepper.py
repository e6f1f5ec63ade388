"""What a time-stepping scheme is, and the reaction that all of them share."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tumorjax.growth import ReactionDiffusion

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
    """A scheme that advances reaction-diffusion over an interval of unit length.

    The terms come in units in which the interval is one: diffusivity D T in mm^2, proliferation
    rho T dimensionless. A scheme gives its steps, and for each step the pullback, so that the adjoint
    of the whole solve can be assembled without differentiating through loops.
    """

    @abstractmethod
    def schedule(self, terms: ReactionDiffusion, *, first: bool) -> Schedule:
        """Return the time levels; `first` tells that the interval begins with the seed."""

    @abstractmethod
    def begin(self, terms: ReactionDiffusion, schedule: Schedule, state: Field) -> Field:
        """Return what the first step begins with."""

    @abstractmethod
    def step(self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""], state: Field) -> Field:
        """Return the state after step k."""

    @abstractmethod
    def record(
        self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""], state: Field, *, fields: bool
    ) -> tuple[Field, tuple[Field, Field]]:
        """Return the state after step k, and the two fields that its pullback needs.

        `fields` tells whether the derivatives with respect to conductance and growth will be asked for.
        """

    @abstractmethod
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
        """Return the cotangents of the terms and of the state before step k.

        Without `fields` the cotangents of conductance and growth are scalar zeros.
        """


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


def no_fields(terms: ReactionDiffusion, diffusivity: Array, proliferation: Array) -> ReactionDiffusion:
    """Return a cotangent of the terms in which the fields are scalar zeros."""
    zero = jnp.zeros((), terms.growth.dtype)
    return ReactionDiffusion((zero, zero, zero), zero, diffusivity, proliferation)


def full_fields(cotangent: ReactionDiffusion, terms: ReactionDiffusion) -> ReactionDiffusion:
    """Give every leaf of a cotangent the shape of its primal."""
    return jax.tree.map(lambda ct, primal: jnp.broadcast_to(ct, primal.shape), cotangent, terms)
