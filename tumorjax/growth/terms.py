"""The terms of a partial differential equation that an integrator advances."""

import dataclasses

import equinox as eqx
from jaxtyping import Array, Float

from tumorjax.growth.reaction import AbstractReaction, LogisticReaction
from tumorjax.operators import Conductance, pair


class ReactionDiffusion(eqx.Module):
    """The right-hand side of dc/dt = D div(K grad c) + rho G f(c) - k c, in a unit of time such as the whole growth.

    Parameters
    ----------
    conductance
        K between neighbouring voxels, 1/mm^2 (relative to D).
    growth
        G, (x, y, z): relative growth rate, zero outside the tissue.
    diffusivity
        D, mm^2 over the unit of time.
    proliferation
        rho, over the unit of time.
    death
        k, over the unit of time: what a drug kills; None where nothing does.
    reaction
        f, and how it advances a density.
    """

    conductance: Conductance
    growth: Float[Array, "x y z"]
    diffusivity: Float[Array, ""]
    proliferation: Float[Array, ""]
    death: Float[Array, ""] | None = None
    reaction: AbstractReaction = LogisticReaction()

    def over(self, share: Float[Array, ""]) -> "ReactionDiffusion":
        """Return the terms over a share of the time that is their unit."""
        return dataclasses.replace(
            self,
            diffusivity=self.diffusivity * share,
            proliferation=self.proliferation * share,
            death=None if self.death is None else self.death * share,
        )

    def dosed(self, rate: Float[Array, ""]) -> "ReactionDiffusion":
        """Return the terms while a drug kills at this rate, over the unit of time."""
        return dataclasses.replace(self, death=rate)

    def survive(self, state: Float[Array, "x y z"], share: Float[Array, "..."]) -> Float[Array, "x y z"]:
        """Return the state in which a share of the cells, a number or (x, y, z), is left."""
        return state * share

    def resect(
        self, state: Float[Array, "x y z"], cavity: Float[Array, "x y z"]
    ) -> tuple["ReactionDiffusion", Float[Array, "x y z"]]:
        """Return terms and state without what is in a cavity: nothing grows in it, and nothing enters."""
        left = 1 - cavity
        edges = []
        for offset, values in zip(self.conductance.offsets, self.conductance.edges, strict=True):
            here, there = pair(left, offset)
            edges.append(values * here * there)
        conductance = Conductance(tuple(edges), self.conductance.offsets)
        return dataclasses.replace(self, conductance=conductance, growth=self.growth * left), state * left
