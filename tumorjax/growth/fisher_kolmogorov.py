"""The Fisher-Kolmogorov model of glioma growth."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from tumorjax.anatomy import Anatomy
from tumorjax.growth.parameters import GrowthParams, ScaledGrowthParams
from tumorjax.growth.terms import ReactionDiffusion
from tumorjax.operators import face_conductance, spline_ball


class FisherKolmogorov(eqx.Module):
    """Reaction-diffusion growth: dc/dt = div(D grad c) + rho c (1 - c).

    Cells diffuse in white and grey matter, D = D_w (p_wm + p_gm / R), and divide logistically. No
    cell crosses the boundary of the tissue {p_wm + p_gm >= 0.1}, and none is in the CSF. The density
    c is a fraction of the carrying capacity.

    Parameters
    ----------
    ratio
        R = D_w / D_g, dimensionless.
    seed_mass
        mm^3 at carrying capacity: cells at time zero. The seed is a smooth ball, whose mass does not
        depend on where it falls between the voxels.
    seed_width
        mm: knot distance of the ball's cubic splines (radius of the support: twice that); never
        less than a voxel.

    Raises
    ------
    ValueError
        If a parameter is not positive.

    References
    ----------
    Ezhov et al., "Learn-Morph-Infer", Medical Image Analysis 2023, equations 1 and 2.
    """

    ratio: float = 10.0
    seed_mass: float = eqx.field(static=True, default=12.0)
    seed_width: float = eqx.field(static=True, default=2.0)

    def __check_init__(self) -> None:
        for name in ("ratio", "seed_mass", "seed_width"):
            value = getattr(self, name)
            if isinstance(value, (int, float)) and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")

    def initial(self, params: GrowthParams | ScaledGrowthParams, anatomy: Anatomy) -> Float[Array, "x y z"]:
        """Return the density at time zero, (x, y, z).

        The part of the ball outside the tissue is moved into it, so that the mass is `seed_mass`
        wherever at least half of the ball is tissue; below that it falls, to zero for a seed that
        lies in no tissue.
        """
        grid, dtype = anatomy.grid, anatomy.dtype
        # In the grid's own precision, which may be higher than that of the maps.
        centre = grid.to_index(jnp.asarray(params.origin, jnp.asarray(grid.affine).dtype)).astype(dtype)
        widths = jnp.maximum(self.seed_width / grid.spacing, 1.0).astype(dtype)
        ball = spline_ball(centre, grid.shape, widths) * anatomy.tissue.astype(dtype)
        voxels = jnp.asarray(self.seed_mass / grid.voxel_volume, dtype)
        return jnp.minimum(voxels * ball / jnp.maximum(ball.sum(), 0.5), 1.0)

    def terms(self, params: GrowthParams | ScaledGrowthParams, anatomy: Anatomy) -> ReactionDiffusion:
        """Return the coefficients of the equation on this anatomy."""
        dtype, tissue, physical = anatomy.dtype, anatomy.tissue, params.physical()
        relative = anatomy.white_matter + anatomy.grey_matter / jnp.asarray(self.ratio, dtype)
        return ReactionDiffusion(
            conductance=face_conductance(jnp.asarray(relative), tissue, jnp.asarray(anatomy.grid.spacing)),
            growth=tissue.astype(dtype),
            diffusivity=jnp.asarray(physical.diffusivity, dtype),
            proliferation=jnp.asarray(physical.proliferation, dtype),
        )
