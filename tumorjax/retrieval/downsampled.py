"""Outlines of fewer voxels: the exact query on every second or fourth voxel along each axis.

The paper downsamples by spline interpolation of order 0, which takes the value of a voxel and averages nothing. So it
does not matter whether densities or their outlines are downsampled.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from tumorjax.retrieval.direct import search
from tumorjax.retrieval.masks import MaskWriter, PackedMasks, check_brain


def downsample(field: Shaped[np.ndarray, "... x y z"], factor: int) -> Shaped[np.ndarray, "... u v w"]:
    """Return every `factor`-th voxel along the last three axes, beginning within the first block of them."""
    some = slice(min(factor // 2, min(field.shape[-3:]) - 1), None, factor)
    return field[..., some, some, some]


@dataclass(frozen=True)
class Downsampled:
    """The variant that compares outlines on every `factor`-th voxel; all of them where it is one."""

    factor: int

    def writer(
        self, folder: Path, brain: Bool[np.ndarray, "x y z"], spacing: np.ndarray, thresholds: tuple[float, float]
    ) -> "_Writer":
        """Return what writes outlines into a folder.

        Raises
        ------
        ValueError
            If the brain is so thin that none of it is left.
        """
        return _Writer(folder, check_brain(downsample(brain, self.factor)), thresholds, self.factor)

    def open(self, folder: Path, verify: bool = True) -> "DownsampledMasks":
        """Return what was written there."""
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
    """Outlines on every `factor`-th voxel."""

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
