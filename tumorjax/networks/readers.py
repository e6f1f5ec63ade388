"""Outlines of simulated tumours as readers draw them: at densities that nobody knows, and not exactly."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

CORE, LESION = (0.5, 0.85), (0.05, 0.5)
"""Intervals of the densities at the outlines, from Learn-Morph-Infer."""
# Length (mm) over which the errors of a reader are correlated, as in `tumorjax.pipeline.synthetic_patient`.
_SMOOTHNESS = 5.0


class Outlined(NamedTuple):
    """The outlines of a tumour, and the densities at which they are drawn."""

    core: Bool[np.ndarray, "u v w"]
    lesion: Bool[np.ndarray, "u v w"]
    threshold_core: float
    threshold_lesion: float


def outlined(
    density: UInt8[np.ndarray, "u v w"], draw: int | np.random.Generator, spacing: float = 1.0, error: float = 0.0
) -> Outlined:
    """Return the core and the lesion of a tumour at random thresholds, or, for a number, at evenly spread ones.

    For a small tumour without such densities, the thresholds are slightly below its highest density. The errors of a
    reader displace each outline along its normal by a smooth random length, to first order in that length.

    Parameters
    ----------
    density
        Density, 0..255.
    draw
        Random generator, or the number of the tumour.
    spacing
        Edge of the voxels, mm.
    error
        Standard deviation of the displacement, mm. With a generator each tumour has its own, uniform up to this one, as
        readers differ.
    """
    shares: Any
    if isinstance(draw, np.random.Generator):
        random, shares = draw, draw.uniform(size=2)
        size = error * draw.uniform() if error else 0.0
    else:
        random, shares = np.random.default_rng(draw), (draw * 0.7548776662 % 1, draw * 0.5698402910 % 1)
        size = error / 2
    highest = 0.9 * float(density.max())
    levels = [low + share * (high - low) for share, (low, high) in zip(shares, (CORE, LESION), strict=True)]
    borders = [min(255 * level, highest) for level in levels]
    if size == 0 or min(density.shape) < 2:
        core, lesion = (density > border for border in borders)
    else:
        shown = density.astype(np.float32)
        slope = np.sqrt(sum(part**2 for part in np.gradient(shown, spacing)))
        core, lesion = (
            shown + size * slope * _smooth_noise(density.shape, spacing, random) > border for border in borders
        )
        lesion |= core
        if not core.any():
            core, lesion = (density > border for border in borders)
    return Outlined(core, lesion, *(border / 255 for border in borders))


def _smooth_noise(shape: tuple[int, ...], spacing: float, random: np.random.Generator) -> Float[np.ndarray, "u v w"]:
    """Return Gaussian noise of unit variance that is correlated over `_SMOOTHNESS` mm."""
    places = [spacing * np.arange(n) for n in shape]
    nodes = [np.arange(-2.0, x[-1] / _SMOOTHNESS + 3.0) * _SMOOTHNESS for x in places]
    found = random.normal(size=[len(each) for each in nodes]).astype(np.float32)
    for axis, (x, node) in enumerate(zip(places, nodes, strict=True)):
        weights = np.exp(-(((x[:, None] - node) / _SMOOTHNESS) ** 2))
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        found = np.moveaxis(np.tensordot(weights.astype(np.float32), found, (1, axis)), 0, axis)
    return found
