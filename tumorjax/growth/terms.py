"""The terms of a partial differential equation that an integrator advances."""

import equinox as eqx
from jaxtyping import Array, Float

from tumorjax.operators import Conductance


class ReactionDiffusion(eqx.Module):
    """The right-hand side of dc/dt = D div(K grad c) + rho G c (1 - c).

    Parameters
    ----------
    conductance
        K between neighbouring voxels, 1/mm^2 (relative to D).
    growth
        G, (x, y, z): relative growth rate, zero outside the tissue.
    diffusivity
        D, mm^2/day.
    proliferation
        rho, 1/day.
    """

    conductance: Conductance
    growth: Float[Array, "x y z"]
    diffusivity: Float[Array, ""]
    proliferation: Float[Array, ""]
