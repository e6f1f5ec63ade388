"""Closed contours of a mask, slice by slice, with holes joined to their outer boundary by a keyhole."""

from collections.abc import Sequence
from itertools import pairwise

import contourpy
import numpy as np


def contours_of(mask: np.ndarray) -> list[np.ndarray]:
    """Return the closed contours of a plane: a pixel lies in the mask if its centre lies inside of one of them.

    A boundary runs half-way between the centres of pixels inside and outside. A hole is joined to the outer boundary by
    two coinciding lines (a keyhole), as the standard has it for CLOSED_PLANAR contours (PS3.3, C.8.8.6.3), so that
    every reader sees the hole, whether it counts crossings or turns.

    Parameters
    ----------
    mask
        (columns, rows), boolean.

    Returns
    -------
    list of ndarray
        (points, 2) each, in indices of column and row; the first point is not repeated at the end.
    """
    # A rim, so that contours are closed where the mask reaches the border.
    values = np.pad(mask, 1).T.astype(float)
    generator = contourpy.contour_generator(z=values, fill_type=contourpy.FillType.OuterOffset)
    found = []
    for points, offsets in zip(*generator.filled(0.5, np.inf), strict=True):
        rings = [_corners(points[a:b] - 1) for a, b in pairwise(offsets)]
        found.append(_with_keyholes(rings[0], rings[1:]))
    return found


def _corners(ring: np.ndarray) -> np.ndarray:
    """Return the points of a closed ring, whose last point is the first, without those on straight lines."""
    ring = ring[:-1]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9]


def _with_keyholes(outer: np.ndarray, holes: Sequence[np.ndarray]) -> np.ndarray:
    """Return one ring of an outer boundary and its holes.

    From its rightmost point each hole is joined to what lies to the right of it: the outer boundary, or a hole that
    reaches further right, and is therefore joined already.
    """
    for hole in sorted(holes, key=lambda ring: ring[:, 0].max(), reverse=True):
        hole = np.roll(hole, -int(hole[:, 0].argmax()), axis=0)
        x, y = hole[0]
        begin, end = outer, np.roll(outer, -1, axis=0)
        # Half-open edges, so that a line through a corner crosses one edge and not two.
        crossed = np.flatnonzero((np.minimum(begin[:, 1], end[:, 1]) <= y) & (y < np.maximum(begin[:, 1], end[:, 1])))
        share = (y - begin[crossed, 1]) / (end[crossed, 1] - begin[crossed, 1])
        places = begin[crossed, 0] + share * (end[crossed, 0] - begin[crossed, 0])
        nearest = int(np.where(places > x, places, np.inf).argmin())
        gate = np.array([[places[nearest], y]])
        edge = int(crossed[nearest]) + 1
        outer = np.concatenate([outer[:edge], gate, hole, hole[:1], gate, outer[edge:]])
    return outer
