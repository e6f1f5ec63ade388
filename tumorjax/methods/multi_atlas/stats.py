"""What a calibration in several atlases cost, and how it went."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tumorjax.growth import GaussianBasis

SETTLED = 0.2
"""Change of the displacement, mm, at which turns of registration and growth end: less than any image shows."""


class AtlasStats(NamedTuple):
    """What the calibration in one atlas cost, and how it went.

    Parameters
    ----------
    state
        Which of the states of S.1 fitted better.
    seeded, refined, final
        Minus the log-posterior, nat, after S.3 and S.4 on coarse voxels, and at the end on the problem's own.
    solves
        Forward solves on coarse voxels.
    fine_solves
        Forward solves on the problem's own voxels.
    iterations
        Of S.4.
    histories
        The objective after each iteration: of S.3, of S.4, and of the last search.
    """

    state: int
    seeded: float
    refined: float
    final: float
    solves: int
    fine_solves: int
    iterations: int
    histories: tuple[tuple[float, ...], ...]


class Turn(NamedTuple):
    """What a turn of registration and growth changed.

    Parameters
    ----------
    largest
        (m,): largest displacement in each atlas, mm.
    change
        (m,): norm of the change of the displacement over that of the displacement; one in the first turn.
    by
        (m,): largest change of the displacement, mm.
    """

    largest: tuple[float, ...]
    change: tuple[float, ...]
    by: tuple[float, ...]

    @property
    def settled(self) -> bool:
        """Whether another turn would lead to the same brain, as far as an image could show."""
        return max(self.by) < SETTLED


class MultiAtlasStats(NamedTuple):
    """What a calibration in several atlases cost, and how it went.

    Parameters
    ----------
    origins
        The Gaussians of the states of S.1, in the patient.
    origin_gradients
        Evaluations of value and gradient in S.1.
    atlases
        One for each.
    deviations
        (m, x, y, z): standard deviation of the density within each atlas, on the coarse voxels.
    coarsening
        Factor between the coarse voxels and the problem's.
    turns
        Of registration and growth; none where atlases lie behind affine maps.
    """

    origins: tuple[GaussianBasis, ...]
    origin_gradients: int
    atlases: tuple[AtlasStats, ...]
    deviations: Float[np.ndarray, "m x y z"]
    coarsening: int
    turns: tuple[Turn, ...] = ()
