"""Growth that displaces the tissue: the model with mass effect."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from tumorjax.anatomy import TISSUE_THRESHOLD, Anatomy
from tumorjax.checks import check_count
from tumorjax.grid import Grid, tissue_box
from tumorjax.growth.displaced import DisplacedTissue, Drift, ReactionAdvectionDiffusion
from tumorjax.growth.fisher_kolmogorov import FisherKolmogorov
from tumorjax.growth.forcing import Forcing
from tumorjax.growth.mass_effect_params import MassEffectParams
from tumorjax.growth.mechanics import Mechanics
from tumorjax.growth.model import AbstractGrowth
from tumorjax.growth.origins import Origin
from tumorjax.growth.outcome import Outcome
from tumorjax.growth.parameters import AbstractGrowthParams, GrowthParams, ScaledGrowthParams
from tumorjax.operators import Material, face_flow, jacobian_determinant, largest_eigenvalue_bound
from tumorjax.option import Option
from tumorjax.prior import Uniform


class MassEffect(AbstractGrowth):
    """Growth with mass effect: cells diffuse, divide and push the tissue, which carries them along.

        dc/dt + div(c v) = div(D grad c) + rho R
        dm/dt + v . grad m = 0                            m: fractions of white matter, grey matter and CSF
        div sigma(u) = gamma tanh(c) grad c,  du/dt = v   sigma = lambda (div u) I + mu (grad u + grad u^T)

    D, R and the Lamé fields follow the displaced tissue; lambda and mu are means over the fractions, to which the
    tumour adds c times its own. What is in no map counts as CSF. Outside the head {p_wm + p_gm + p_csf >= 0.1}
    nothing moves. The amounts theta m of each tissue, with theta the density of the material, are conserved, and
    so are the cells. Without force (gamma = 0) the density is that of
    `growth` alone. Fibres are carried with the tissue, component by component, and turn with its rotation, the
    antisymmetric part of grad v; how the flow shears a bundle does not turn it.

    Parameters
    ----------
    growth
        What the cells do. `FisherKolmogorov()`, in which they live in white and grey matter, is that of
        Learn-Morph-Infer, and `FisherKolmogorov.in_white_matter()` that of the multi-atlas paper.
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
    references: ClassVar[tuple[str, ...]] = (
        "S. Subramanian, K. Scheufele, N. Himthani, G. Biros, Multiatlas calibration of biophysical brain tumor growth "
        "models with mass effect, MICCAI 2020.",
        "I. Ezhov et al., Learn-Morph-Infer: a new way of solving the inverse problem for brain tumor modeling, "
        "Medical Image Analysis 83 (2023) 102672.",
    )
    summary: ClassVar[str] = "cells diffuse, divide and push the tissue away"
    parameters: ClassVar[tuple[type, ...]] = (MassEffectParams,)
    shows: ClassVar[frozenset[str]] = frozenset({"density", "csf", "displacement"})
    displaces: ClassVar[bool] = True
    options: ClassVar[tuple[Option, ...]] = FisherKolmogorov.options

    numbers: ClassVar[tuple[Option, ...]] = (
        Option(
            "mass-effect",
            "how strongly the tumour pushes the tissue, Pa (published values reach 120000)",
            type=float,
            metavar="PA",
        ),
    )

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
        tensors = () if anatomy.fibres is None else tuple(jnp.moveaxis(jnp.asarray(anatomy.fibres), -1, 0))
        material = Material(jnp.ones_like(density), fractions, (anatomy.tissue.astype(dtype), *tensors))
        coarse = tuple(-(-n // self.coarsening) for n in anatomy.grid.shape)
        zero, gamma = jnp.zeros((), dtype), jnp.asarray(params.mass_effect, dtype)
        still, none = jnp.zeros((3, *coarse), dtype), jnp.zeros(coarse, dtype)
        return DisplacedTissue(density, material, still, Drift(still, none, none, none), gamma, zero, zero)

    def seeded(self, params: MassEffectParams, anatomy: Anatomy) -> Bool[Array, ""]:
        """Return whether the tumour begins in tissue."""
        return self.growth.seeded(params.growth, anatomy)

    def terms(self, params: MassEffectParams, anatomy: Anatomy) -> ReactionAdvectionDiffusion:
        """Return the coefficients of the equations over the whole time."""
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

    def forced(self, forcing: Forcing) -> "MassEffect":
        """Return the same model, whose rate of division departs from rho as given; the field does not move."""
        return dataclasses.replace(self, growth=self.growth.forced(forcing))

    def box(self, anatomy: Anatomy) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return the first voxel and the shape of the box outside which nothing changes; needs concrete maps."""
        # On the host, for under `jit` operations on constant JAX arrays are traced.
        return tissue_box(_head(*(np.asarray(m) for m in (anatomy.white_matter, anatomy.grey_matter, anatomy.csf))))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "MassEffect":
        """Return the model whose cells grow as the options of a command say; see `FisherKolmogorov.from_options`."""
        return cls(FisherKolmogorov.from_options(options))

    @classmethod
    def published(cls) -> "MassEffect":
        """Return the model of the public code of the multi-atlas paper: cells live in white matter alone."""
        return cls(FisherKolmogorov.in_white_matter())

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
        centres = _centred(face_flow(state.displacement, self.coarsening, anatomy.grid.shape))
        axes = jnp.asarray(anatomy.grid.affine[:3, :3] / anatomy.grid.spacing, state.density.dtype)
        return Outcome(
            density=state.density,
            # Cells are compressed with the tissue that they are in, where its flow converges.
            largest=jnp.maximum(1.0, state.material.density.max()),
            anatomy=state.anatomy(anatomy.grid),
            displacement=jnp.einsum("a...,wa->...w", centres, axes),
            folded=self._folds(state.displacement, anatomy.grid),
            too_fast=state.too_fast > 0,
            unsolved=state.unsolved > 0,
        )

    def _folds(self, displacement: Float[Array, "3 u v w"], grid: Grid) -> Bool[Array, ""]:
        """Return whether what is at x and came from x - u(x) does not keep its orientation everywhere."""
        spacing = self.coarsening * jnp.asarray(grid.spacing, displacement.dtype)
        voxels = _centred(displacement) / spacing[:, None, None, None]
        return jnp.any(jacobian_determinant(-voxels) <= 0)


def _centred(faces: Float[Array, "3 x y z"]) -> Float[Array, "3 x y z"]:
    """Return the mean of the two faces of each voxel; before the first there is the wall."""
    return jnp.stack([(component + jnp.roll(component, 1, axis)) / 2 for axis, component in enumerate(faces)])


def _head(white_matter: Any, grey_matter: Any, csf: Any) -> Any:
    return white_matter + grey_matter + csf >= TISSUE_THRESHOLD
