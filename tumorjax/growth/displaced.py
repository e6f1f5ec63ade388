"""The state of growth that displaces the tissue, and the terms of its equations."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from tumorjax.anatomy import Anatomy
from tumorjax.grid import Grid
from tumorjax.growth.fisher_kolmogorov import FisherKolmogorov
from tumorjax.growth.reaction import AbstractReaction, LogisticReaction
from tumorjax.operators import Material


class Drift(eqx.Module):
    """Rates of change by the last flow, over the unit of time of the scheme, from which it extrapolates.

    Parameters
    ----------
    response
        (3, u, v, w), mm/Pa, of the response.
    density, white, grey
        (u, v, w), of the means of cells, white and grey matter over the voxels of elasticity.
    """

    response: Float[Array, "3 u v w"]
    density: Float[Array, "u v w"]
    white: Float[Array, "u v w"]
    grey: Float[Array, "u v w"]


class DisplacedTissue(eqx.Module):
    """The state of growth with mass effect.

    Parameters
    ----------
    density
        c, (x, y, z).
    material
        Fractions of white matter, grey matter and CSF. Its first marker is the share of a voxel in which cells may
        live; with fibres, the six components of their tensors follow.
    response
        u / gamma, (3, u, v, w), mm/Pa: displacement for each unit of the force, on the faces of the grid on which
        elasticity is solved. It is there without force, too, so that the derivative by gamma is.
    drift
        How the flow changes the grid of elasticity; see `Drift`.
    mass_effect
        gamma, Pa.
    too_fast, unsolved
        One from the step on in which the tissue moved faster than the scheme can follow, or in which no equilibrium was
        found; zero before.
    """

    density: Float[Array, "x y z"]
    material: Material
    response: Float[Array, "3 u v w"]
    drift: Drift
    mass_effect: Float[Array, ""]
    too_fast: Float[Array, ""]
    unsolved: Float[Array, ""]

    @property
    def displacement(self) -> Float[Array, "3 u v w"]:
        """Displacement u, mm, on the faces of the grid on which elasticity is solved."""
        return self.mass_effect * self.response

    def anatomy(self, grid: Grid) -> Anatomy:
        """Return the tissue where it is now."""
        tensors = self.material.markers[1:]
        return Anatomy(grid, *self.material.fractions, fibres=jnp.stack(tensors, axis=-1) if tensors else None)


class ReactionAdvectionDiffusion(eqx.Module):
    """The equations of growth with mass effect; see `MassEffect`.

    Parameters
    ----------
    growth
        The model of the cells, whose coefficients follow the tissue.
    grid
        Grid of density and tissue.
    head
        (x, y, z), one inside the head; outside nothing moves.
    diffusivity, proliferation, death
        D, mm^2; rho; k or None: over the unit of time, as of `ReactionDiffusion`.
    mass_effect
        gamma, Pa.
    first, shear
        lambda and mu of white matter, grey matter, CSF and tumour, Pa.
    steepest
        1/mm^2: bound on the spectrum of the relative diffusion at the beginning.
    coarsening
        Static: voxels along an edge of those on which elasticity is solved.
    force
        Static: how the force depends on the density.
    reaction
        How cells divide.
    """

    growth: FisherKolmogorov
    grid: Grid
    head: Float[Array, "x y z"]
    diffusivity: Float[Array, ""]
    proliferation: Float[Array, ""]
    mass_effect: Float[Array, ""]
    first: tuple[Float[Array, ""], ...]
    shear: tuple[Float[Array, ""], ...]
    steepest: Float[Array, ""]
    coarsening: int = eqx.field(static=True)
    force: str = eqx.field(static=True)
    death: Float[Array, ""] | None = None
    reaction: AbstractReaction = LogisticReaction()

    def over(self, share: Float[Array, ""]) -> "ReactionAdvectionDiffusion":
        """Return the terms over a share of the time that is their unit."""
        return dataclasses.replace(
            self,
            diffusivity=self.diffusivity * share,
            proliferation=self.proliferation * share,
            death=None if self.death is None else self.death * share,
        )

    def dosed(self, rate: Float[Array, ""]) -> "ReactionAdvectionDiffusion":
        """Return the terms while a drug kills at this rate, over the unit of time."""
        return dataclasses.replace(self, death=rate)

    def survive(self, state: DisplacedTissue, share: Float[Array, "..."]) -> DisplacedTissue:
        """Return the state in which a share of the cells, a number or (x, y, z), is left."""
        return dataclasses.replace(state, density=state.density * share)

    def resect(
        self, state: DisplacedTissue, cavity: Float[Array, "x y z"]
    ) -> tuple["ReactionAdvectionDiffusion", DisplacedTissue]:
        """Return terms and state after a resection, which leaves a cavity full of CSF."""
        left, material = 1 - cavity, state.material
        white, grey, csf = material.fractions
        material = dataclasses.replace(
            material,
            fractions=(white * left, grey * left, csf * left + cavity),
            markers=(material.markers[0] * left, *material.markers[1:]),
        )
        return self, dataclasses.replace(state, density=state.density * left, material=material)
