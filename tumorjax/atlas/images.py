"""The images of an atlas: a T1 image and tissue maps of a healthy brain on the same voxels."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.io import InputError, Volume, resample

# A voxel belongs to the brain where the tissues together fill half of it.
BRAIN_FRACTION = 0.5


class AtlasWarning(UserWarning):
    """An atlas was repaired, or is less suitable than desired."""


def title_of(name: str) -> str:
    """Return the name of an atlas without the folder in which it lies."""
    return Path(name).name or name


@dataclass(frozen=True, eq=False)
class AtlasImages:
    """A healthy brain: its T1 image, tissue maps and brain mask, all on the same voxels.

    Parameters
    ----------
    name
        Name or path that the atlas was loaded by.
    t1
        T1-weighted image, without the skull.
    white_matter, grey_matter, csf
        Tissue probabilities in [0, 1], float32.
    brain
        Brain mask, uint8, one in the brain.
    notes
        Notes on repairs when the atlas was read.
    """

    name: str
    t1: Volume
    white_matter: Volume
    grey_matter: Volume
    csf: Volume
    brain: Volume
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name without the folder in which the atlas lies, for notes and figures; a path is too long for these."""
        return title_of(self.name)

    def anatomy(self, resolution: float | None = None) -> Anatomy:
        """Return the anatomy for simulations, on cubic voxels of edge `resolution` (mm) or on the atlas' own voxels.

        Raises
        ------
        ValueError
            If the resolution is not positive, or finer than half the edge of the atlas' own voxels.
        """
        grid = self.t1.grid
        if resolution is not None:
            finest = float(np.asarray(grid.spacing).max()) / 2
            if not resolution >= finest:
                raise ValueError(
                    f"voxels of {resolution:g} mm add no detail to the atlas; the resolution must be {finest:g} or more"
                )
            grid = grid.with_spacing(resolution)
        maps = (resample(m.data, m.affine, grid) for m in (self.white_matter, self.grey_matter, self.csf))
        return Anatomy(grid, *(np.clip(each, 0, 1) for each in maps))


def from_maps(name: str, t1: Volume, maps: np.ndarray) -> AtlasImages:
    """Return the atlas with these maps (3, x, y, z) of white matter, grey matter and fluid on the voxels of `t1`."""

    def part(data: np.ndarray, what: str) -> Volume:
        return replace(t1, data=data, name=f"atlas {what}")

    white, grey, csf = (np.asarray(data, np.float32) for data in maps)
    brain = (white + grey + csf >= BRAIN_FRACTION).astype(np.uint8)
    if not brain.any():
        raise InputError(f"atlas {name}: holds no tissue; give maps that fill a brain")
    return AtlasImages(
        name, t1, part(white, "white matter"), part(grey, "grey matter"), part(csf, "csf"), part(brain, "brain")
    )
