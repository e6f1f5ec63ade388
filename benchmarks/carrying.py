"""The error with which a registration carries a place from a person's brain into an atlas, by three brains in a circle.

Nobody knows where a place in one brain lies in another. But a map from C to A says the same as one from C to B and on
from B to A, if all three are exact: what is left between the two is their errors together.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial import KDTree

from benchmarks.patients import available
from benchmarks.record import NINETY, Record
from benchmarks.registration import ATLASES, t1_of
from tumorjax.io import Volume
from tumorjax.registration import Transform, compose, register

# Brains of single people, of which patients are others; the first of all is an average.
_AVERAGE, _PERSONS = ATLASES[0], ATLASES[1:]
# Edge of the voxels (mm), where the header has another one.
_VOXEL = {"nirep1": 1.4, "nirep2": 1.4}
# Middles of what a tumour would hide (mm in the world of ICBM152), in white matter, and how far that reaches.
_MIDDLES = np.array([(side * x, y, z) for side in (-1, 1) for x, y, z in ((28, 25, 25), (28, -40, 28))], float)
_HIDDEN = 25.0
# Places about each middle at which maps are compared (mm).
_NEAR = np.array(list(itertools.product((-8.0, 0.0, 8.0), repeat=3)))


class Places(NamedTuple):
    """Where places of one brain lie in another by several maps, or how far that is from elsewhere, (p, 3) mm.

    Parameters
    ----------
    affine, deformable
        By maps that do not see what lies about the places, as if a tumour were there.
    deformable_seen
        By a deformable map of the whole image.
    """

    affine: np.ndarray
    deformable: np.ndarray
    deformable_seen: np.ndarray


def run(size: str) -> list[Record]:
    """All circles through two persons' brains to a third brain; `small` takes three brains on coarse voxels."""
    if not available("carrying"):
        return []
    brains, resolution = (ATLASES[:3], 4.0) if size == "small" else (ATLASES, 2.0)
    circles = [each for each in itertools.permutations(brains, 3) if set(each[1:]) <= set(_PERSONS)]
    return summary({each: circle(*each, resolution) for each in circles})


def summary(circles: Mapping[tuple[str, str, str], Places]) -> list[Record]:
    """Return the standard deviation along an axis (mm) of the error of each kind of map, from what circles left."""
    exact = np.mean([each.deformable_seen**2 for each in circles.values()]) / 3
    records = []
    for kind in Places._fields:
        left = np.stack([getattr(each, kind) for each in circles.values()])
        square = float(np.mean(left**2))
        # The other two of the three maps see the places.
        variance = exact if kind == "deformable_seen" else square - 2 * exact
        details: dict[str, Any] = {
            "of circles": float(np.sqrt(square)),
            "inside 90 % of a normal distribution": float(np.mean(np.abs(left) < NINETY * np.sqrt(square))),
            "each": {
                f"{c} by {b} to {a}": float(np.sqrt(np.mean(own**2)))
                for (a, b, c), own in zip(circles, left, strict=True)
            },
        }
        records.append(Record(f"{kind}_place_error", float(np.sqrt(variance)), "mm", "", details))
    return records


def circle(a: str, b: str, c: str, resolution: float) -> Places:
    """Return how far places in C lie apart that are carried to A, and to B and on to A, (p, 3) mm."""
    around = _deformable(a, b, resolution, False).apply(_carried(b, c, resolution).deformable_seen)
    return Places(*(straight - around for straight in _carried(a, c, resolution)))


@cache
def _carried(moving: str, fixed: str, resolution: float) -> Places:
    places = _affine(_AVERAGE, fixed, resolution).inverse().apply((_MIDDLES[:, None] + _NEAR).reshape(-1, 3))
    deformable = (_deformable(moving, fixed, resolution, hidden) for hidden in (True, False))
    return Places(*(each.apply(places) for each in (_affine(moving, fixed, resolution), *deformable)))


@cache
def _affine(moving: str, fixed: str, resolution: float) -> Transform:
    if moving == _AVERAGE:
        return register(_t1(moving), _t1(fixed), resolution=resolution)
    to_average, from_average = (_affine(_AVERAGE, brain, resolution) for brain in (fixed, moving))
    return compose(from_average.inverse(), to_average)


@cache
def _deformable(moving: str, fixed: str, resolution: float, hidden: bool) -> Transform:
    found = register(
        _t1(moving),
        _t1(fixed),
        kind="deformable",
        mask=_visible(fixed, resolution) if hidden else None,
        initial=_affine(moving, fixed, resolution),
        resolution=resolution,
    )
    print(f"{moving} to {fixed}{', places hidden' if hidden else ''}: {found.seconds:.0f} s", flush=True)
    if found.failure:
        raise ValueError(f"{moving} could not be deformed to {fixed}: {found.failure}")
    return found


@cache
def _visible(brain: str, resolution: float) -> np.ndarray:
    """Return which voxels no tumour about the places would hide."""
    grid = _t1(brain).grid
    world = np.asarray(grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).astype(float)))
    return KDTree(_MIDDLES).query(_affine(_AVERAGE, brain, resolution).apply(world))[0] > _HIDDEN


@cache
def _t1(brain: str) -> Volume:
    found, edge = t1_of(brain), _VOXEL.get(brain)
    if edge is None:
        return found
    affine = np.asarray(found.affine, float)
    return dataclasses.replace(found, affine=affine @ np.diag([*np.full(3, edge / found.grid.spacing[0]), 1.0]))
