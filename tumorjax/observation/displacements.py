"""Errors of outlines, estimated: between several readers of a tumour, and between an outline and a model's isoline."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from tumorjax.checks import as_mask
from tumorjax.grid import Grid
from tumorjax.observation.outline import Outline, OutlineParams
from tumorjax.observation.surface_errors import SurfaceErrors

# Points of a surface whose pairs are compared, and the distances (mm) by which pairs are counted together. Beyond the
# last one few pairs of a lesion remain, and a displaced lobe counts as a trend.
_POINTS = 600
_DISTANCES = (0.5, 1.5, 2.5, 3.5, 4.5, 6.0, 8.0, 10.0, 12.0, 14.0, 17.0, 20.0, 25.0, 30.0)
# Voxels (mm) on which an isoline is followed, and room around an outline.
_FINE, _ROOM = 1.5, 30


class Displacements(NamedTuple):
    """How surfaces are displaced against each other.

    Parameters
    ----------
    errors
        The errors that an `Outline` should assume.
    roughness
        Standard deviation of what is not correlated between neighbouring voxels, mm: mostly the width of voxels.
    offset
        Root mean square of the displacement that is the same everywhere, mm. It belongs to the threshold, which is
        unknown for each outline.
    distances, variogram
        (b,): mean distances of pairs of points, mm, and half the mean squared difference of the displacement there,
        mm^2.
    """

    errors: SurfaceErrors
    roughness: float
    offset: float
    distances: Float[np.ndarray, "b"]
    variogram: Float[np.ndarray, "b"]


def errors_of_readers(outlines: Sequence[Bool[Any, "x y z"]], grid: Grid) -> Displacements:
    """Return by how much each of several readers displaces the outline of the same tumour.

    At points of one reader's surface, the signed distance to that of another is the difference of two displacements.
    The variogram of such differences over all ordered pairs of readers, half of it for each reader, is fitted by
    tau^2 + s^2 (1 - exp(-d^2 / (2 l^2))). An offset that is the same everywhere does not enter a variogram.

    Parameters
    ----------
    outlines
        (x, y, z) each: what the readers labelled, at least two.
    grid
        The grid of the outlines, whose voxels should be small compared to the errors.

    Raises
    ------
    ValueError
        If there are fewer than two outlines, one is empty, fills the grid or has another shape than the grid, or the
        readers agree in every voxel.

    References
    ----------
    Matheron, "Principles of geostatistics", Economic Geology 58 (1963) 1246-1266.
    """
    masks = [np.asarray(as_mask(outline)) for outline in outlines]
    if len(masks) < 2:
        raise ValueError(f"errors of readers need outlines by at least two of them, got {len(masks)}")
    for number, mask in enumerate(masks, 1):
        if mask.shape != grid.shape:
            raise ValueError(
                f"outline {number} has shape {mask.shape} on a grid of shape {grid.shape}; resample it to this grid"
            )
        if not mask.any():
            raise ValueError(f"outline {number} is empty; leave it out, or check its labels")
        if mask.all():
            raise ValueError(f"outline {number} fills the whole grid, so that it has no surface; check its labels")
    spacing, box = np.asarray(grid.spacing, float), _around(np.any(masks, axis=0))
    inside = [signed_distance(mask[box], spacing) for mask in masks]
    moved = []
    for i, j in permutations(range(len(masks)), 2):
        places = _surface(masks[i][box])
        moved.append((places * spacing, inside[j][tuple(places.T)] - inside[i][tuple(places.T)]))
    return _fitted(moved, share=0.5)


def errors_of_model(density: Float[Any, "x y z"], params: OutlineParams, outline: Outline, grid: Grid) -> Displacements:
    """Return by how much the isoline of a calibrated density misses an outline: the model's error and the reader's.

    What is found beyond the reader's error of `outline.errors` is the model's, in the errors that are returned. They
    are of the fit: where the model can follow what displaces the outline, they are smaller than its true error.

    Parameters
    ----------
    density
        The calibrated density.
    params
        The calibrated parameters of the outline.
    outline
        The outline.
    grid
        The grid of both.

    Raises
    ------
    ValueError
        If the density has another shape than the outline, is nowhere or everywhere above the threshold, or its isoline
        is the outline.
    """
    valid, field = np.asarray(outline.valid), np.asarray(density, float)
    if not field.shape == valid.shape == grid.shape:
        raise ValueError(f"density {field.shape}, outline {valid.shape} and grid {grid.shape} must have the same shape")
    clipped, u = np.clip(field, 1e-6, 1 - 1e-6), float(params.threshold)
    odds = np.log(clipped / (1 - clipped)) - np.log(u / (1 - u))
    box = _around(valid & ((odds > 0) | (np.asarray(outline.inside) > 0.5)))
    factor = max(1, round(float(np.mean(grid.spacing)) / _FINE))
    # Beyond the tissue both go on as at its border, where neither is displaced against the other.
    places: Any = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    nearest = tuple(places)
    shown, grown = (
        np.asarray(_finer(each[nearest][box], factor, order=1) > level)
        for each, level in ((np.asarray(outline.inside, float), 0.5), (odds, 0.0))
    )
    tissue = _finer(valid[box].astype(float), factor, order=0) > 0.5
    tissue = np.asarray(ndimage.binary_erosion(tissue, iterations=factor), bool)
    if not (shown & tissue).any() or not (grown & tissue).any() or grown.all():
        raise ValueError("the density has no isoline in the tissue at its threshold, or the outline is empty there")
    spacing = np.asarray(grid.spacing, float) / factor
    places = _surface(shown, tissue)
    distances = [signed_distance(mask, spacing)[tuple(places.T)] for mask in (grown, shown)]
    found, reader = _fitted([(places * spacing, distances[0] - distances[1])], share=1.0), outline.errors
    model = float(np.sqrt(max(found.errors.deviation**2 - reader.deviation**2, 0.0)))
    return found._replace(errors=SurfaceErrors(reader.deviation, reader.length, model, found.errors.length))


def _fitted(moved: Sequence[tuple[np.ndarray, np.ndarray]], share: float) -> Displacements:
    """Return what fits displacements (n,) at points (n, 3), mm, as errors of a reader.

    Parameters
    ----------
    moved
        Points and displacements of each pair of surfaces.
    share
        What part of the variance is that of one surface.
    """
    from scipy.optimize import least_squares

    edges = np.asarray(_DISTANCES)
    count, distance, square = np.zeros((3, len(edges) - 1))
    for points, values in moved:
        first, second = np.triu_indices(len(points), 1)
        apart = np.linalg.norm(points[first] - points[second], axis=1)
        where = np.digitize(apart, edges) - 1
        near = (where >= 0) & (where < len(count))
        for total, each in ((count, None), (distance, apart), (square, (values[first] - values[second]) ** 2)):
            total += np.bincount(where[near], None if each is None else each[near], minlength=len(count))
    known = count > 0
    distances, variogram = distance[known] / count[known], share * square[known] / count[known] / 2
    spread = np.sqrt(share * np.mean(np.array([np.var(values) for _, values in moved])))
    if known.sum() < 3 or not spread > 0:
        raise ValueError("the surfaces agree in all voxels, or are too small to show how they differ")

    def misfit(numbers: np.ndarray) -> np.ndarray:
        s, length, tau = np.exp(numbers)
        return tau**2 + s**2 * (1 - np.exp(-(distances**2) / (2 * length**2))) - variogram

    # A trend over the whole surface, whose variogram goes on rising, is worth no more than there is.
    low, high = np.log([1e-3 * spread, 1.0, 1e-3 * spread]), np.log([spread, 60.0, spread])
    found = least_squares(misfit, np.log([0.7 * spread, 5.0, 0.2 * spread]), bounds=(low, high))
    s, length, tau = np.exp(found.x).tolist()
    offset = float(np.sqrt(share * np.mean(np.array([np.mean(values) ** 2 for _, values in moved]))))
    return Displacements(SurfaceErrors(s, length), tau, offset, distances, variogram)


def _around(mask: Bool[np.ndarray, "x y z"]) -> tuple[slice, ...]:
    """Return the box of a mask with room around it; all where it is empty."""
    where = np.argwhere(mask)
    if not len(where):
        return (slice(None),) * 3
    return tuple(slice(max(0, a - _ROOM), b + _ROOM) for a, b in zip(where.min(axis=0), where.max(axis=0), strict=True))


def _finer(values: Float[np.ndarray, "x y z"], factor: int, order: int) -> Float[np.ndarray, "u v w"]:
    return np.asarray(ndimage.zoom(values, factor, order=order, mode="nearest", grid_mode=True))


def signed_distance(mask: Bool[np.ndarray, "x y z"], spacing: Float[np.ndarray, "3"]) -> Float[np.ndarray, "x y z"]:
    """Return the distance to the surface, mm, positive inside; voxels on both sides of it are half a voxel away."""
    half = spacing.mean() / 2
    inner, outer = (np.asarray(ndimage.distance_transform_edt(each, spacing)) for each in (mask, ~mask))
    return np.where(mask, inner - half, half - outer)


def _surface(mask: Bool[np.ndarray, "x y z"], counted: Bool[np.ndarray, "x y z"] | None = None) -> np.ndarray:
    """Return voxels inside that have a neighbour outside, (n, 3), those that are counted: so many, evenly spread."""
    border = mask & np.logical_not(ndimage.binary_erosion(mask))
    places = np.argwhere(border if counted is None else border & counted)
    return places[:: max(1, -(-len(places) // _POINTS))]
