"""Families of atlases: random smooth deformations of one brain, with known deformations."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from tumorjax.atlas.images import AtlasImages, from_maps
from tumorjax.grid import Grid
from tumorjax.io import resample
from tumorjax.registration import Field, Transform, jacobian_determinant, warp_all

# Lattice points per standard deviation of the smoothing; linear interpolation between them errs by one percent.
_POINTS = 4
# Several copies of six vectors of eight bytes at each point take 2 GB.
_MOST_POINTS = 2**23
# Scaling and squaring starts from a step below this part of the lattice's spacing.
_FIRST_STEP = 0.2
# A deformation that compresses tissue to less than this part folds between the points of the lattice.
_LEAST_JACOBIAN = 0.05


def deformed_atlas(
    atlas: AtlasImages, seed: int | Sequence[int], *, magnitude: float = 4.0, smoothness: float = 15.0
) -> tuple[AtlasImages, Transform]:
    """Return a randomly deformed atlas, and its deformation.

    The deformation is a diffeomorphism: white noise smoothed by a Gaussian is taken as a stationary velocity and
    integrated by scaling and squaring [1]_.

    Parameters
    ----------
    atlas
        The brain to deform.
    seed
        Seed of NumPy's generator; the same seed gives the same brain.
    magnitude
        Root mean square of the displacement's length in the brain, mm.
    smoothness
        Standard deviation of the Gaussian, mm. Local volumes change by about magnitude / (√2 smoothness).

    Returns
    -------
    deformed, truth
        The deformed atlas on the same voxels, warped by linear interpolation, which keeps the sum of the maps; and the
        map from the deformed brain's world to the atlas', which is what `register(atlas.t1, deformed.t1)` estimates.
        The map is the identity at the border of the image.

    Raises
    ------
    ValueError
        If the smoothness is below two voxels or needs too many lattice points, or the deformation folds.

    References
    ----------
    .. [1] V. Arsigny et al., "A log-Euclidean framework for statistics on diffeomorphisms", MICCAI 2006.
       doi:10.1007/11866565_113
    """
    grid = atlas.t1.grid
    coarsest = float(np.max(grid.spacing))
    if not (math.isfinite(magnitude) and magnitude > 0):
        raise ValueError(f"magnitude is a positive length in mm, got {magnitude}")
    if not (math.isfinite(smoothness) and smoothness >= 2 * coarsest):
        raise ValueError(f"smoothness is at least two voxels, {2 * coarsest:g} mm; got {smoothness}")
    step = smoothness / _POINTS
    lattice = grid.with_spacing(step)
    if math.prod(lattice.shape) > _MOST_POINTS:
        raise ValueError(f"a smoothness of {smoothness} mm needs {math.prod(lattice.shape)} points; raise it")
    brain = resample(atlas.brain.data, atlas.brain.affine, lattice, kind="mean") >= 0.5
    if not brain.any():
        raise ValueError(f"the brain fills no cube of {step:g} mm; lower the smoothness")
    velocity = _velocity(lattice, np.random.default_rng(seed), smoothness)
    # The displacement is almost proportional to the velocity, so scaling twice gives the magnitude to one percent.
    velocity *= magnitude / step / _root_mean_square(np.moveaxis(velocity, 0, -1)[brain])
    velocity *= magnitude / step / _root_mean_square(_exponential(velocity)[brain])
    truth = _truth(lattice, velocity, brain)
    t1, *maps = warp_all([atlas.t1, atlas.white_matter, atlas.grey_matter, atlas.csf], truth, grid)
    t1 = replace(atlas.t1, data=t1, name="atlas t1", path=None)
    return from_maps(f"{atlas.name} deformed by {seed}", t1, np.stack(maps)), truth


def atlas_family(
    atlas: AtlasImages, seed: int, count: int, *, magnitude: float = 4.0, smoothness: float = 15.0
) -> Iterator[tuple[AtlasImages, Transform]]:
    """Yield `count` deformed atlases with their deformations; see `deformed_atlas`.

    Member i has the seed (seed, i), whatever the count.
    """
    if count < 0:
        raise ValueError(f"count is not negative, got {count}")
    for member in range(count):
        yield deformed_atlas(atlas, (seed, member), magnitude=magnitude, smoothness=smoothness)


def _velocity(lattice: Grid, generator: np.random.Generator, smoothness: float) -> np.ndarray:
    # (3, x, y, z), in lattice spacings along the lattice's axes.
    noise = generator.standard_normal((3, *lattice.shape))
    smooth = np.stack([ndimage.gaussian_filter(part, _POINTS, mode="wrap") for part in noise])
    # The velocity falls to zero at the border over one smoothness, so that nothing leaves the image.
    for axis, count in enumerate(lattice.shape):
        inwards = np.minimum(np.arange(count), np.arange(count)[::-1])
        ramp = np.sin(np.pi / 2 * np.clip(inwards / _POINTS, 0, 1)) ** 2
        smooth *= np.moveaxis(ramp[:, None, None], 0, axis)
    largest = float(np.abs(smooth).max())
    if largest == 0:
        raise ValueError(f"the image is smaller than four times the smoothness, {smoothness} mm; lower it")
    return smooth / largest


def _exponential(velocity: np.ndarray) -> np.ndarray:
    # Displacements (x, y, z, 3), in lattice spacings.
    squarings = max(0, math.ceil(math.log2(max(float(np.abs(velocity).max()) / _FIRST_STEP, 1))))
    index = np.indices(velocity.shape[1:], float)
    displacement = velocity / 2**squarings
    for _ in range(squarings):
        there = index + displacement
        # Cubic interpolation, because linear would smooth at each squaring.
        displacement = displacement + np.stack(
            [ndimage.map_coordinates(part, there, order=3, mode="nearest") for part in displacement]
        )
    return np.moveaxis(displacement, 0, -1)


def _truth(lattice: Grid, velocity: np.ndarray, brain: np.ndarray) -> Transform:
    affine = np.asarray(lattice.affine, float)
    axes = affine[:3, :3].T
    field = Field(affine, _exponential(velocity) @ axes, _exponential(-velocity) @ axes)
    truth = Transform(np.eye(4), field=field)
    least = float(jacobian_determinant(truth, lattice).min())
    if least < _LEAST_JACOBIAN:
        raise ValueError(
            f"the deformation folds (least Jacobian {least:.2f}); lower its magnitude or raise its smoothness"
        )
    points = field.points()[brain]
    there = points + field.at(points)
    error = np.linalg.norm(there + field.at(there, backward=True) - points, axis=-1)
    return replace(truth, inverse_error=(float(np.median(error)), float(error.max())))


def _root_mean_square(vectors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.sum(vectors**2, axis=-1))))
