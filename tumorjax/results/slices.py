"""What a result keeps of the tumour over time: slices of the patient's voxels, for films."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Slices:
    """The density in one slice of the patient's voxels at many times, for the calibrated parameters.

    Parameters
    ----------
    days
        (t,), day: from the first visit to the last day of the forecast. Of a `Growth` without days: the shares.
    density
        (t, x, y, z), with one voxel along the axis that the slice is normal to.
    box
        Where the slice is among the patient's voxels.
    background
        (t, x, y, z): the image below, with the tissue where it was at the time; None where tissue stays.
    """

    days: np.ndarray
    density: np.ndarray
    box: tuple[slice, ...]
    background: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Growth:
    """How a tumour grew from its seed on, for the calibrated parameters.

    Parameters
    ----------
    shares
        (t,): time since the seed, as a share of that to the end.
    days
        (t,), day: on the clock of the visits; None for one date, which does not say how long the growth took.
    planes
        Three slices through the core, one for each axis of the patient's voxels.
    volumes
        (t,), mm^3, by the name of each outline: volume with a density above its threshold.
    largest
        (t,), mm: the largest displacement; None where tissue stays.
    """

    shares: np.ndarray
    days: np.ndarray | None
    planes: tuple[Slices, ...]
    volumes: dict[str, np.ndarray] = field(default_factory=dict)
    largest: np.ndarray | None = None
