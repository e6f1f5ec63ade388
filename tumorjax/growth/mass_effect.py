"""Growth that displaces the tissue: the model with mass effect, its parameters and its state."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from tumorjax.anatomy import TISSUE_THRESHOLD, Anatomy
from tumorjax.checks import check_count, check_not_negative, check_numbers, check_positive, concrete
from tumorjax.grid import Grid, tissue_box
from tumorjax.growth.fisher_kolmogorov import FisherKolmogorov
from tumorjax.growth.model import AbstractGrowth
from tumorjax.growth.origins import Origin
from tumorjax.growth.outcome import Outcome
from tumorjax.growth.parameters import (
    AbstractGrowthParams,
    GrowthParams,
    ScaledGrowthParams,
    batch_of,
    repeated,
    typical,
)
from tumorjax.growth.reaction import AbstractReaction, LogisticReaction
from tumorjax.operators import Material, face_flow, lame, largest_eigenvalue_bound
from tumorjax.prior import Uniform
from tumorjax.quantity import Quantity


class MassEffectParams(AbstractGrowthParams):
    """Parameters of growth that displaces the tissue.

    Parameters
    ----------
    growth
        Parameters of the growth itself.
    mass_effect
        gamma, Pa: the force on the tissue is -gamma tanh(c) grad c, or -gamma grad c; see `MassEffect`.

    Raises
    ------
    ValueError
        If a concrete gamma is negative or not finite, or the growth is of another type.
    """

    growth: GrowthParams | ScaledGrowthParams
    mass_effect: Float[Any, ""]

    def __post_init__(self) -> None:
        # Either may be a batch, for all of which the other is the same.
        first, gamma = next(iter(jax.tree.leaves(self.growth)), None), batch_of(self.mass_effect)
        growth = batch_of(first)
        if first is not None and growth and not gamma:
            self.mass_effect = repeated(self.mass_effect, growth, first.dtype)
        elif gamma and not growth:
            self.growth = jax.tree.map(lambda leaf: repeated(leaf, gamma, self.mass_effect.dtype), self.growth)

    def __check_init__(self) -> None:
        if not isinstance(self.growth, (GrowthParams, ScaledGrowthParams)):
            raise ValueError(f"growth must be GrowthParams or ScaledGrowthParams, got {type(self.growth).__name__}")
        check_not_negative("mass_effect", self.mass_effect)

    @property
    def origin(self) -> Origin:
        """Where the tumour began."""
        return self.growth.origin

    @property
    def duration(self) -> Float[Any, ""]:
        """T, day."""
        return self.growth.duration

    @property
    def valid(self) -> Bool[Array, ""]:
        """Whether no number is negative."""
        return self.growth.valid & (self.mass_effect >= 0)

    def with_origin(self, origin: Origin) -> "MassEffectParams":
        """Return the same parameters with another origin."""
        return dataclasses.replace(self, growth=self.growth.with_origin(origin))

    def like(self, other: AbstractGrowthParams) -> "MassEffectParams":
        """Return another tumour in this form; without mass effect of its own it has a weak one."""
        force = other.mass_effect if isinstance(other, MassEffectParams) else self.mass_effect
        # A flow that is too fast at first could not be followed: one standard deviation below the middle it is weak.
        return MassEffectParams(self.growth.like(other), typical(force, -1.0))

    def physical(self) -> GrowthParams:
        """Return the physical parameters of the growth."""
        return self.growth.physical()

    def scaled(self) -> ScaledGrowthParams:
        """Return the identifiable parameters of the growth."""
        return self.growth.scaled()

    def totals(self) -> tuple[Float[Any, ""], Float[Any, ""]]:
        """Return D_w T, mm^2, and rho T."""
        return self.growth.totals()

    def quantities(self, foci: Any = ()) -> list[Quantity]:
        """Return the force in words, and then what `growth` has; see `origin_quantities` for `foci`."""
        meaning = "how strongly the tumour pushes: force γ tanh(c) ∇c, or γ ∇c if linear"
        force = Quantity("mass_effect", "γ", "Pa", meaning, lambda params: params.mass_effect, "mass_effect")
        return [force, *(q.within("growth", lambda params: params.growth) for q in self.growth.quantities(foci))]


class Mechanics(eqx.Module):
    """Elastic constants of white matter, grey matter, CSF and tumour, in this order.

    Parameters
    ----------
    young
        E, Pa.
    poisson
        nu, dimensionless, below one half.

    Raises
    ------
    ValueError
        If a concrete modulus is not positive, or a ratio not between -1 and 1/2.

    References
    ----------
    Subramanian et al., "Multiatlas calibration of biophysical brain tumor growth models with mass effect",
    MICCAI 2020, table S1.
    """

    young: tuple[Float[Any, ""], ...] = eqx.field(converter=tuple, default=(2100.0, 2100.0, 100.0, 8000.0))
    poisson: tuple[Float[Any, ""], ...] = eqx.field(converter=tuple, default=(0.4, 0.4, 0.1, 0.45))

    def __check_init__(self) -> None:
        if len(self.young) != 4 or len(self.poisson) != 4:
            raise ValueError(f"give young and poisson of four materials each, got {self.young} and {self.poisson}")
        for modulus, ratio in zip(self.young, self.poisson, strict=True):
            check_positive("Young's modulus", modulus)
            check_numbers("Poisson's ratio", ratio)
            known = concrete(ratio)
            if known is not None and not np.all((known > -1) & (known < 0.5)):
                raise ValueError(f"Poisson's ratio must lie between -1 and 1/2, got {known}")

    def moduli(self, dtype: Any) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Return lambda and mu of each material, Pa."""
        pairs = [
            lame(jnp.asarray(modulus, dtype), jnp.asarray(ratio, dtype))
            for modulus, ratio in zip(self.young, self.poisson, strict=True)
        ]
        return tuple(first for first, _ in pairs), tuple(shear for _, shear in pairs)


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
        Fractions of white matter, grey matter and CSF; the share of a voxel in which cells may live is its marker.
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
        return Anatomy(grid, *self.material.fractions)


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
            markers=tuple(marker * left for marker in material.markers),
        )
        return self, dataclasses.replace(state, density=state.density * left, material=material)


class MassEffect(AbstractGrowth):
    """Growth with mass effect: cells diffuse, divide and push the tissue, which carries them along.

        dc/dt + div(c v) = div(D grad c) + rho R
        dm/dt + v . grad m = 0                            m: fractions of white matter, grey matter and CSF
        div sigma(u) = gamma tanh(c) grad c,  du/dt = v   sigma = lambda (div u) I + mu (grad u + grad u^T)

    D, R and the Lamé fields follow the displaced tissue; lambda and mu are means over the fractions, to which the
    tumour adds c times its own. What is in no map counts as CSF. Outside the head {p_wm + p_gm + p_csf >= 0.1}
    nothing moves. The amounts theta m of each tissue, with theta the density of the material, are conserved, and
    so are the cells. Without force (gamma = 0) the density is that of
    `growth` alone.

    Parameters
    ----------
    growth
        What the cells do. `FisherKolmogorov()` gives the variant of Learn-Morph-Infer, and
        `FisherKolmogorov(ratio=inf, dividing="white matter")` that of the multi-atlas paper.
    mechanics
        Elastic constants.
    coarsening
        Static: elasticity is solved on voxels so many times as long.
    force
        Static: "tanh" is -gamma tanh(c) grad c, as above, so that sparse infiltration hardly pushes: it is what the
        public solver of the multi-atlas paper does, to which the published values of gamma belong. "linear" is
        -gamma grad c, as the papers print it; with published values of gamma the tissue moves too fast to follow.

    References
    ----------
    Subramanian et al., "Multiatlas calibration of biophysical brain tumor growth models with mass effect",
    MICCAI 2020, equation 1, where the stress is misprinted as lambda grad u. Ezhov et al., "Learn-Morph-Infer",
    Medical Image Analysis 2023.
    """

    name: ClassVar[str] = "mass-effect"
    title: ClassVar[str] = "Growth with mass effect"
    summary: ClassVar[str] = "cells diffuse, divide and push the tissue away"
    parameters: ClassVar[tuple[type, ...]] = (MassEffectParams,)
    shows: ClassVar[frozenset[str]] = frozenset({"density", "csf"})
    displaces: ClassVar[bool] = True

    growth: FisherKolmogorov = FisherKolmogorov()
    mechanics: Mechanics = Mechanics()
    coarsening: int = eqx.field(static=True, default=2)
    force: Literal["linear", "tanh"] = eqx.field(static=True, default="tanh")

    def __check_init__(self) -> None:
        if not isinstance(self.growth, FisherKolmogorov) or not isinstance(self.mechanics, Mechanics):
            got = f"{type(self.growth).__name__} and {type(self.mechanics).__name__}"
            raise ValueError(f"growth must be FisherKolmogorov and mechanics Mechanics, got {got}")
        check_count("coarsening", self.coarsening)
        if self.force not in ("linear", "tanh"):
            raise ValueError(f'force must be "linear" or "tanh", got {self.force!r}')

    def initial(self, params: MassEffectParams, anatomy: Anatomy) -> DisplacedTissue:
        """Return the state at time zero: nothing is displaced."""
        dtype = anatomy.dtype
        density = self.growth.initial(params.growth, anatomy)
        fractions = tuple(jnp.asarray(m) for m in (anatomy.white_matter, anatomy.grey_matter, anatomy.csf))
        material = Material(jnp.ones_like(density), fractions, (anatomy.tissue.astype(dtype),))
        coarse = tuple(-(-n // self.coarsening) for n in anatomy.grid.shape)
        zero, gamma = jnp.zeros((), dtype), jnp.asarray(params.mass_effect, dtype)
        still, none = jnp.zeros((3, *coarse), dtype), jnp.zeros(coarse, dtype)
        return DisplacedTissue(density, material, still, Drift(still, none, none, none), gamma, zero, zero)

    def seeded(self, params: MassEffectParams, anatomy: Anatomy) -> Bool[Array, ""]:
        """Return whether the tumour begins in tissue."""
        return self.growth.seeded(params.growth, anatomy)

    def terms(self, params: MassEffectParams, anatomy: Anatomy) -> ReactionAdvectionDiffusion:
        """Return the coefficients of the equations over the whole time; a ValueError if the anatomy has fibres."""
        if anatomy.fibres is not None:
            raise ValueError("growth with mass effect is isotropic, as fibres would turn with the tissue; drop them")
        dtype, (diffusivity, proliferation) = anatomy.dtype, params.totals()
        first, shear = self.mechanics.moduli(dtype)
        conductance, _ = self.growth.coefficients(anatomy, anatomy.tissue.astype(dtype))
        return ReactionAdvectionDiffusion(
            growth=self.growth,
            grid=anatomy.grid,
            head=jnp.asarray(_head(anatomy.white_matter, anatomy.grey_matter, anatomy.csf)).astype(dtype),
            diffusivity=jnp.asarray(diffusivity, dtype),
            proliferation=jnp.asarray(proliferation, dtype),
            mass_effect=jnp.asarray(params.mass_effect, dtype),
            first=first,
            shear=shear,
            steepest=jax.lax.stop_gradient(largest_eigenvalue_bound(conductance)),
            coarsening=self.coarsening,
            force=self.force,
            reaction=self.growth.reaction(params.growth),
        )

    def box(self, anatomy: Anatomy) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return the first voxel and the shape of the box outside which nothing changes; needs concrete maps."""
        # On the host, for under `jit` operations on constant JAX arrays are traced.
        return tissue_box(_head(*(np.asarray(m) for m in (anatomy.white_matter, anatomy.grey_matter, anatomy.csf))))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "MassEffect":
        """Return the published model, which the command calibrates."""
        return cls.published()

    @classmethod
    def published(cls) -> "MassEffect":
        """Return the model of the public code of the multi-atlas paper: cells live in white matter alone."""
        return cls(FisherKolmogorov(ratio=math.inf, dividing="white matter"), force="tanh")

    def default_prior(self, origin: Origin, speed: float) -> MassEffectParams:
        """Return the prior of the growth, and gamma uniform up to 2e5 Pa, which holds the published values."""
        return self.with_growth(self.growth.default_prior(origin, speed))

    def with_growth(self, growth: AbstractGrowthParams) -> MassEffectParams:
        """Return parameters with this growth, and gamma uniform up to 2e5 Pa."""
        assert isinstance(growth, (GrowthParams, ScaledGrowthParams))
        return MassEffectParams(growth, Uniform(0.0, 2e5))

    def seed_volume(self, grid: Grid) -> float:
        """Return the volume in which the growth begins, mm^3."""
        return self.growth.seed_volume(grid)

    def outcome(self, state: DisplacedTissue, anatomy: Anatomy) -> Outcome:
        """Return what the state means."""
        faces = face_flow(state.displacement, self.coarsening, anatomy.grid.shape)
        # The mean of the two faces of a voxel; before the first there is the wall.
        centres = [(component + jnp.roll(component, 1, axis)) / 2 for axis, component in enumerate(faces)]
        axes = jnp.asarray(anatomy.grid.affine[:3, :3] / anatomy.grid.spacing, state.density.dtype)
        return Outcome(
            density=state.density,
            anatomy=state.anatomy(anatomy.grid),
            displacement=jnp.einsum("a...,wa->...w", jnp.stack(centres), axes),
            too_fast=state.too_fast > 0,
            unsolved=state.unsolved > 0,
        )


def _head(white_matter: Any, grey_matter: Any, csf: Any) -> Any:
    return white_matter + grey_matter + csf >= TISSUE_THRESHOLD
