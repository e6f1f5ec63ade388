"""The exact query on downsampled outlines: every second or fourth voxel along each axis.

The paper downsamples by spline interpolation of order 0, which selects voxels without averaging. So it does not matter
whether densities or their outlines are downsampled.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from tumorjax.retrieval.direct import search
from tumorjax.retrieval.masks import MaskWriter, PackedMasks, check_brain


def downsample(field: Shaped[np.ndarray, "... x y z"], factor: int) -> Shaped[np.ndarray, "... u v w"]:
    """Return every `factor`-th voxel along the last three axes, beginning in the middle of the first block."""
    some = slice(min(factor // 2, min(field.shape[-3:]) - 1), None, factor)
    return field[..., some, some, some]


@dataclass(frozen=True)
class Downsampled:
    """The variant that compares outlines on every `factor`-th voxel; on all voxels if the factor is one."""

    factor: int

    def writer(
        self, folder: Path, brain: Bool[np.ndarray, "x y z"], spacing: np.ndarray, thresholds: tuple[float, float]
    ) -> "_Writer":
        """Return a writer of downsampled outlines into a folder.

        Raises
        ------
        ValueError
            If the brain is so thin that no selected voxel lies in it.
        """
        return _Writer(folder, check_brain(downsample(brain, self.factor)), thresholds, self.factor)

    def open(self, folder: Path, verify: bool = True) -> "DownsampledMasks":
        """Open the outlines in a folder."""
        return DownsampledMasks(PackedMasks.open(folder, verify), self.factor)


class _Writer(MaskWriter):
    def __init__(
        self, folder: Path, brain: Bool[np.ndarray, "x y z"], thresholds: tuple[float, float], factor: int
    ) -> None:
        super().__init__(folder, brain, thresholds)
        self.factor = factor

    def append(self, densities: Shaped[np.ndarray, "b x y z"]) -> None:
        super().append(downsample(densities, self.factor))


@dataclass(frozen=True, eq=False)
class DownsampledMasks:
    """Outlines of many tumours on every `factor`-th voxel."""

    masks: PackedMasks
    factor: int

    def __len__(self) -> int:
        """Return the number of tumours."""
        return len(self.masks)

    def search(
        self, core: Bool[np.ndarray, "x y z"], lesion: Bool[np.ndarray, "x y z"], k: int
    ) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k"]]:
        """Return the k tumours with the largest sum of Dice coefficients between downsampled outlines, and the sums."""
        return search(self.masks, downsample(core, self.factor), downsample(lesion, self.factor), k)
