"""Indirect inference: an answer is corrected by what the same network says of the tumour that grows from it [1]_.

A network answers with the mean over all tumours that look alike to it, and is biased for each of them. The bias shows
when the tumour of its answer is outlined and given to the network. The difference between its estimates for the patient
and for that tumour is added to the answer, a few times over.

References
----------
.. [1] C. Gourieroux, A. Monfort, E. Renault, "Indirect inference", Journal of Applied Econometrics 8, 1993.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit, logit

from tumorjax.observation.outline import PUBLISHED_THRESHOLDS

_INTERVALS = {f"threshold_{name}": interval for name, interval in PUBLISHED_THRESHOLDS.items()}
# What cannot be negative.
_LOGARITHMIC = ("mu1", "mu2", "D", "rho", "T")
# Share of the interval of a threshold that its ends are away, where log-odds are infinite.
_END = 1e-3


class Grown(NamedTuple):
    """An answer, the outlines of the tumour that grows from it, and the sum of their Dice coefficients."""

    said: dict[str, float]
    core: Bool[np.ndarray, "x y z"]
    lesion: Bool[np.ndarray, "x y z"]
    dice_sum: float


def corrected(
    say: Callable[[Bool[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]], dict[str, float]],
    grow: Callable[[dict[str, float]], Float[np.ndarray, "x y z"]],
    core: Bool[np.ndarray, "x y z"],
    lesion: Bool[np.ndarray, "x y z"],
    times: int,
    *,
    first: dict[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[dict[str, float], int]:
    """Return the corrected answer for outlines, and the number of solves.

    The tumour is outlined at the thresholds that the network estimates. For a network that estimates none, the outlines
    have the volumes of the patient's, as far as the published intervals of the thresholds allow. The answer
    whose tumour has the largest sum of Dice coefficients with the patient's outlines is returned.

    Parameters
    ----------
    say
        The network: from outlines to its answer.
    grow
        From an answer to a density; zero where the solve failed.
    core, lesion
        The patient's outlines.
    times
        How often the answer is corrected, at one solve each, and a last one.
    first
        What the network says of these outlines, if it has been asked.
    bounds
        Intervals of what is said, beyond which no correction goes.
    progress
        Is told the share that is done.
    """
    first = say(core, lesion) if first is None else first
    if times == 0:
        return first, 0
    goal = _coordinates(first)
    at, found = goal, []
    for solve in range(times + 1):
        grown = _outlined(_values(at, first), grow, core, lesion)
        found.append(grown)
        progress((solve + 1) / (times + 1))
        if solve == times or not (grown.core.any() and grown.lesion.any()):
            break
        try:
            echo = say(grown.core, grown.lesion)
        except ValueError:
            # Of what is no tumour to the network it says nothing: its last answer stays.
            break
        at = _within(at + goal - _coordinates(echo), first, bounds or {})
    return max(found, key=lambda each: each.dice_sum).said, len(found)


def _outlined(
    said: dict[str, float], grow: Callable, core: Bool[np.ndarray, "x y z"], lesion: Bool[np.ndarray, "x y z"]
) -> Grown:
    density, outlines, overlap = grow(said), [], 0.0
    for (name, interval), known in zip(_INTERVALS.items(), (core, lesion), strict=True):
        level = said[name] if name in said else float(np.clip(_level(density, known.sum()), *interval))
        outline = density > level
        overlap += 2 * float((outline & known).sum()) / float(outline.sum() + known.sum())
        outlines.append(outline)
    return Grown(said, outlines[0], outlines[1], overlap)


def _level(density: Float[np.ndarray, "x y z"], voxels: int) -> float:
    """Return the density that is exceeded in a number of voxels."""
    place = density.size - 1 - min(int(voxels), density.size - 1)
    return float(np.partition(density, place, axis=None)[place])


def _coordinates(said: dict[str, float]) -> Float[np.ndarray, "n"]:
    """Return numbers to which corrections are added: logarithms and log-odds of what has bounds."""
    return np.array([_coordinate(name, value) for name, value in said.items()])


def _coordinate(name: str, value: float) -> float:
    if name in _LOGARITHMIC:
        return float(np.log(max(value, 1e-6)))
    if name in _INTERVALS:
        low, high = _INTERVALS[name]
        return float(logit(np.clip((value - low) / (high - low), _END, 1 - _END)))
    return value


def _values(at: Float[np.ndarray, "n"], names: dict[str, float]) -> dict[str, float]:
    """Return what is said at such numbers."""
    found = {}
    for name, number in zip(names, at.tolist(), strict=True):
        if name in _LOGARITHMIC:
            number = float(np.exp(number))
        elif name in _INTERVALS:
            low, high = _INTERVALS[name]
            number = low + (high - low) * float(expit(number))
        found[name] = number
    return found


def _within(
    at: Float[np.ndarray, "n"], names: dict[str, float], bounds: Mapping[str, tuple[float, float]]
) -> Float[np.ndarray, "n"]:
    """Return the nearest numbers that are within bounds."""
    for i, name in enumerate(names):
        if name in bounds:
            low, high = (_coordinate(name, each) for each in bounds[name])
            # An answer of the network that is itself beyond them stays.
            own = _coordinate(name, names[name])
            at[i] = np.clip(at[i], min(low, own), max(high, own))
    return at
