"""What is read off the state of a growth model."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Bool, Float

from tumorjax.anatomy import Anatomy


class Outcome(eqx.Module):
    """What every growth model can derive from its state.

    Parameters
    ----------
    density
        c, (x, y, z): fraction of the carrying capacity.
    anatomy
        The tissue as it has been displaced; None where it stays.
    displacement
        u, (x, y, z, 3), mm in RAS world; None where the tissue stays.
    too_fast
        Whether the tissue moved faster than the scheme can follow.
    folded
        Whether the displacement folds: it says that two places of the tissue are now at one, which no tissue survives.
    unsolved
        Whether an equilibrium of forces was not found.
    unknown
        Whether the parameters are so far from all that the model was made for that its answer means nothing.
    largest
        The largest density that the equations permit: above one where tissue is compressed, which carries its cells.
    """

    density: Float[Array, "x y z"]
    anatomy: Anatomy | None = None
    displacement: Float[Array, "x y z 3"] | None = None
    too_fast: Bool[Any, ""] | bool = False
    folded: Bool[Any, ""] | bool = False
    unsolved: Bool[Any, ""] | bool = False
    unknown: Bool[Any, ""] | bool = False
    largest: Float[Any, ""] | float = 1.0
