"""Maps of a calibrated tumour on the computing grid."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from tumorjax.calibration.cost import Cost

VISIBLY = 2.0
"""mm: tissue that has moved further is visibly displaced."""


@dataclass(frozen=True, eq=False)
class Maps:
    """What a calibration says of each voxel of the computing grid.

    Parameters
    ----------
    density, deviation
        (x, y, z): cell density, as a fraction of the carrying capacity, and its standard deviation.
    probabilities
        (x, y, z), by threshold: probability that the density is above it; empty for a method without draws.
    displacement
        (x, y, z, 3), mm in RAS world: by how much the tissue now at a voxel has moved; None where tissue stays.
    displacement_deviation
        (x, y, z), mm: root mean square distance of the displacement from this mean; None as above.
    predicted
        Images that observations are predicted to be, by name, where the method knows better than the observation's
        own prediction from `density`; usually empty.
    cost
        What the maps took to compute.
    notes
        What a reader should know of the maps.
    """

    density: Float[np.ndarray, "x y z"]
    deviation: Float[np.ndarray, "x y z"]
    probabilities: dict[float, np.ndarray] = field(default_factory=dict)
    displacement: Float[np.ndarray, "x y z 3"] | None = None
    displacement_deviation: Float[np.ndarray, "x y z"] | None = None
    predicted: dict[str, np.ndarray] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    notes: list[str] = field(default_factory=list)
