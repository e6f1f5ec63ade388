"""The Fisher-Kolmogorov model of glioma growth."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from tumorjax.anatomy import Anatomy
from tumorjax.checks import check_numbers, check_positive, check_real, concrete
from tumorjax.grid import Grid
from tumorjax.growth.forcing import Forcing
from tumorjax.growth.model import AbstractGrowth
from tumorjax.growth.origins import AbstractOrigin, Foci, Seeds
from tumorjax.growth.parameters import GrowthParams, ScaledGrowthParams
from tumorjax.growth.reaction import AbstractReaction, LogisticReaction
from tumorjax.growth.terms import ReactionDiffusion
from tumorjax.operators import Conductance, face_conductance, isotropic, tensor_conductance
from tumorjax.option import Option


class FisherKolmogorov(AbstractGrowth):
    """Reaction-diffusion growth: dc/dt = div(D grad c) + rho c (1 - c).

    Cells diffuse in white and grey matter, D = D_w (p_wm + p_gm / R), and divide logistically; where the
    anatomy has fibres, D = D_w (p_wm F + p_gm / R I) with their relative tensor F. No
    cell crosses the boundary of the tissue {p_wm + p_gm >= 0.1}, and none is in the CSF. The density
    c is a fraction of the carrying capacity.

    Parameters
    ----------
    ratio
        R = D_w / D_g, dimensionless; infinity keeps the cells from spreading in grey matter.
    dividing
        Static, where cells divide: in all "tissue" alike, or in proportion to "white matter".
    reach
        Static, 1 or 2: over how many voxels cells may step where the anatomy has fibres; see `tensor_conductance`.
    seed_mass
        mm^3 at carrying capacity: cells at time zero in each seed. A seed is a smooth ball, and its mass does
        not depend on where it falls between the voxels.
    seed_width
        mm: knot distance of the ball's cubic splines (radius of the support: twice that); never
        less than a voxel.
    forcing
        How the rate of division departs from rho from place to place; None where it does not.

    Raises
    ------
    ValueError
        If a parameter is not positive, or none of its choices.

    References
    ----------
    Ezhov et al., "Learn-Morph-Infer", Medical Image Analysis 2023, equations 1 and 2. Subramanian et al., MICCAI
    2020, equation 1, has an infinite ratio and division in white matter.
    """

    name: ClassVar[str] = "fisher-kolmogorov"
    title: ClassVar[str] = "Fisher-Kolmogorov model"
    references: ClassVar[tuple[str, ...]] = (
        "K. R. Swanson, E. C. Alvord, J. D. Murray, A quantitative model for differential motility of gliomas in grey "
        "and white matter, Cell Proliferation 33 (2000) 317-329.",
        "I. Ezhov et al., Learn-Morph-Infer: a new way of solving the inverse problem for brain tumor modeling, "
        "Medical Image Analysis 83 (2023) 102672.",
    )
    summary: ClassVar[str] = "cells diffuse and divide in tissue that stays where it is"
    parameters: ClassVar[tuple[type, ...]] = (GrowthParams, ScaledGrowthParams)
    options: ClassVar[tuple[Option, ...]] = (
        Option(
            "growth-in",
            "where cells spread and divide: in tissue, which is white and grey matter (default), or in white-matter "
            "alone, as in the multi-atlas paper",
            metavar="WHERE",
            choices=("tissue", "white-matter"),
        ),
        Option(
            "ratio",
            "diffusivity in white matter divided by that in grey matter (default: 10)",
            type=float,
            metavar="R",
        ),
    )

    ratio: float = 10.0
    dividing: Literal["tissue", "white matter"] = eqx.field(static=True, default="tissue", kw_only=True)
    reach: int = eqx.field(static=True, default=1, kw_only=True)
    seed_mass: float = eqx.field(static=True, default=12.0)
    seed_width: float = eqx.field(static=True, default=2.0)
    forcing: Forcing | None = eqx.field(default=None, kw_only=True)

    def __check_init__(self) -> None:
        for name in ("seed_mass", "seed_width"):
            check_real(name, getattr(self, name))
            check_positive(name, getattr(self, name))
        check_numbers("ratio", self.ratio)
        ratio = concrete(self.ratio)
        # Infinity is one.
        if ratio is not None and not np.all(ratio > 0):
            raise ValueError(f"ratio must be positive, got {ratio}")
        if self.reach not in (1, 2):
            raise ValueError(f"reach must be 1 or 2, got {self.reach!r}")
        if self.dividing not in ("tissue", "white matter"):
            raise ValueError(f'dividing must be "tissue" or "white matter", got {self.dividing!r}')

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Return the model that the options of a command describe.

        Raises
        ------
        ValueError
            If a ratio is given with growth in white matter alone, or is not positive.
        """
        settings = dict(options)
        if settings.pop("growth_in", "tissue") == "tissue":
            return cls(**settings)
        if "ratio" in settings:
            raise ValueError("ratio: is not for growth in white matter alone; leave it out, or --growth-in")
        return cls.in_white_matter(**settings)

    @classmethod
    def in_white_matter(cls, **settings: Any) -> Self:
        """Return the variant of the multi-atlas paper, in which cells spread and divide in white matter alone."""
        return cls(ratio=math.inf, dividing="white matter", **settings)

    def initial(self, params: GrowthParams | ScaledGrowthParams, anatomy: Anatomy) -> Float[Array, "x y z"]:
        """Return the density at time zero, (x, y, z); an array of places means `Seeds`."""
        return self._origin(params).initial(anatomy)

    def seeded(self, params: GrowthParams | ScaledGrowthParams, anatomy: Anatomy) -> Bool[Array, ""]:
        """Return whether the tumour begins in tissue: at least half of the initial cells, or of each seed's."""
        return self._origin(params).seeded(anatomy)

    def terms(self, params: GrowthParams | ScaledGrowthParams, anatomy: Anatomy) -> ReactionDiffusion:
        """Return the coefficients of the equation on this anatomy, over the whole time of growth."""
        dtype, (diffusivity, proliferation) = anatomy.dtype, params.totals()
        conductance, growth = self.coefficients(anatomy, anatomy.tissue.astype(dtype))
        return ReactionDiffusion(
            conductance=conductance,
            growth=growth,
            diffusivity=jnp.asarray(diffusivity, dtype),
            proliferation=jnp.asarray(proliferation, dtype),
            reaction=self.reaction(params),
        )

    def forced(self, forcing: Forcing) -> Self:
        """Return the same model, whose rate of division departs from rho as given."""
        return dataclasses.replace(self, forcing=forcing)

    def reaction(self, params: GrowthParams | ScaledGrowthParams) -> AbstractReaction:
        """Return how cells divide: logistically, unless a subclass returns another law."""
        return LogisticReaction()

    def coefficients(
        self, anatomy: Anatomy, domain: Float[Array, "x y z"]
    ) -> tuple[Conductance, Float[Array, "x y z"]]:
        """Return relative conductance and growth rate of tissue; `domain` is the share of a voxel that holds cells."""
        white, grey = jnp.asarray(anatomy.white_matter), jnp.asarray(anatomy.grey_matter)
        relative = white + grey / jnp.asarray(self.ratio, anatomy.dtype)
        growth = white * domain if self.dividing == "white matter" else domain
        grid = anatomy.grid
        if self.forcing is not None:
            growth = growth * self.forcing.rates(grid, growth.dtype)
        if anatomy.fibres is None:
            return face_conductance(relative, domain, jnp.asarray(grid.spacing)), growth
        tensor = white[..., None] * jnp.asarray(anatomy.fibres) + isotropic(relative - white)
        return tensor_conductance(tensor, domain, jnp.asarray(grid.affine[:3, :3]), reach=self.reach), growth

    def seed_volume(self, grid: Grid) -> float:
        """Return the volume of a seed, mm^3: a ball of cubic splines, which reaches over two knots."""
        knots = max(self.seed_width, math.cbrt(grid.voxel_volume))
        return 4 / 3 * math.pi * (2 * knots) ** 3

    def _origin(self, params: GrowthParams | ScaledGrowthParams) -> AbstractOrigin:
        origin = params.origin
        if isinstance(origin, Foci):
            return origin.seeds(self.seed_mass, self.seed_width)
        return origin if isinstance(origin, AbstractOrigin) else Seeds(origin, self.seed_mass, self.seed_width)
