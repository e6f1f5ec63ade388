"""The default method: small smooth steps, composed one after the other, that cannot fold."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import ndimage

from tumorjax.operators import central_differences, jacobian_determinant
from tumorjax.registration.inverse import RIM
from tumorjax.registration.pair import Pair

# Shrink factor of the working resolution, most iterations, and half the edge (voxels of the level) of the windows in
# which means and deviations are taken, of each level.
_LEVELS = ((4, 60, 2), (2, 40, 3), (1, 20, 4))
# Shapes are padded to multiples of this number, so that few shapes are compiled.
_BLOCK = 16
# Standard deviations (voxels of the level) of the Gaussians that smooth each step, and all displacements after it.
# With less smoothing of all, volumes change more than anatomy explains; with more, the images agree less.
_STEP_SIGMA = 1.5
_TOTAL_SIGMA = 0.6
# Least deviation of intensities in a window, as a share of the brain's bright tissue: weaker structure is noise.
_NOISE = 0.03
# Largest change of a step between neighbouring voxels, summed over the axes. Below one the step is one to one.
_LARGEST_SLOPE = 0.5
# Forces end where the Jacobian determinant falls from the second to the first of these values; no step may bring any
# determinant below the third.
_DAMPED = (0.1, 0.3)
_LEAST_JACOBIAN = 0.05
# Share of voxels that may be compared in a smoothed voxel of a coarse level, so that others have no influence on it.
_ALMOST_ALL = 0.98
# Width (mm) of the rim around the fixed brain in which the images are compared. It shows the outline, but not how much
# of the brain a mask has cut off, to which the other brain would shrink.
_OUTLINE = 6.0
# Keeps the force finite where both images are flat.
_TINY = 1e-6
# Options with which the steps compile in less than half of the time, to the same numbers: most of a step are products
# with matrices, which are no matter of the compiler.
_QUICKLY = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}

Scalar3 = Float[Array, "x y z"]
Vector3 = Float[Array, "3 x y z"]


class _Filters(NamedTuple):
    """Linear filters as a matrix for each axis, whose products are fast on any device, and what is free to move."""

    window: list[np.ndarray]
    step: list[np.ndarray]
    total: list[np.ndarray]
    free: np.ndarray


class _Level(NamedTuple):
    """Both images, the weight of each voxel and the filters, on the voxels of a level."""

    fixed: np.ndarray
    moving: np.ndarray
    weight: np.ndarray
    filters: _Filters


def greedy(pair: Pair) -> np.ndarray:
    """Return the displacements found by composing small smooth steps [1]_, (x, y, z, 3) mm.

    A step follows the symmetric forces of demons [2]_. Half of them are those of the images as they are, after
    histogram matching, and half those of the images with each window's mean and deviation removed, whose squared
    difference is a local cross-correlation [3]_ and which other scanners and slow changes of brightness do not disturb.
    Where images may not be compared there is no force, and windows leave these voxels out.

    The map cannot fold: a step changes by less than half a voxel between neighbours, so it is one to one, and it is
    taken only if the Jacobian determinant of the composed map stays above 0.05 at all voxels; otherwise it is halved.
    Forces end before that where the map compresses strongly, so that a few voxels do not stop all others.

    References
    ----------
    .. [1] G. E. Christensen, R. D. Rabbitt and M. I. Miller, "Deformable templates using large deformation
       kinematics", IEEE Trans. Image Process. 5 (1996). doi:10.1109/83.536892
    .. [2] T. Vercauteren et al., "Diffeomorphic demons: efficient non-parametric image registration",
       NeuroImage 45 (2009). doi:10.1016/j.neuroimage.2008.10.040
    .. [3] M. Lorenzi et al., "LCC-Demons: a robust and accurate symmetric diffeomorphic registration algorithm",
       NeuroImage 81 (2013). doi:10.1016/j.neuroimage.2013.04.114
    """
    spacing = float(np.linalg.norm(pair.affine[:3, 0]))
    bright = np.percentile(pair.fixed[pair.brain], 98)
    rims = [(0, -n % _BLOCK) for n in pair.fixed.shape]
    fixed, moving = (np.pad(image.astype(np.float32) / bright, rims) for image in (pair.fixed, pair.matched()))
    near = np.asarray(ndimage.distance_transform_edt(~pair.shown, sampling=spacing)) <= _OUTLINE
    seen = np.pad((pair.seen & near).astype(np.float32), rims)
    levels = [_level(fixed, moving, seen, pair.fixed.shape, shrink, radius) for shrink, _, radius in _LEVELS]
    displacement = np.zeros((3, *levels[0].weight.shape), np.float32)
    with ThreadPoolExecutor() as pool:
        for level in levels[1:]:
            # Without a step this only compiles, while coarser levels compile and run.
            pool.submit(_steps, *level, np.zeros((3, *level.weight.shape), np.float32), 0)
        for level, (_, iterations, _) in zip(levels, _LEVELS, strict=True):
            displacement = np.asarray(_steps(*level, _refined(displacement, level.weight.shape), iterations))
    x, y, z = pair.fixed.shape
    return np.moveaxis(displacement[:, :x, :y, :z], 0, -1) @ pair.affine[:3, :3].T


def _level(
    fixed: np.ndarray, moving: np.ndarray, seen: np.ndarray, shape: Sequence[int], shrink: int, radius: int
) -> _Level:
    weight = (_shrunk(seen, shrink) > _ALMOST_ALL).astype(np.float32)
    filters = _filters(weight.shape, [-(-n // shrink) for n in shape], radius, RIM / shrink)
    return _Level(_shrunk(fixed, shrink), _shrunk(moving, shrink), weight, filters)


@partial(jax.jit, compiler_options=_QUICKLY)
def _steps(
    fixed: Scalar3, moving: Scalar3, weight: Scalar3, filters: _Filters, displacement: Vector3, iterations: int
) -> Vector3:
    """Return the displacements (voxels) after the steps of one level."""
    windows = jnp.maximum(_filtered(weight, filters.window), 1)
    fixed_slope = central_differences(fixed)
    still, spread = _normalised(fixed, weight, windows, filters)
    still_slope = fixed_slope / spread

    def step(_: int, state: tuple[Vector3, Scalar3, Array]) -> tuple[Vector3, Scalar3, Array]:
        displacement, jacobian, length = state
        shown = _once(_displaced(moving, displacement))
        slope = _once(central_differences(shown))
        local, spread = _normalised(shown, weight, windows, filters)
        force = _force(fixed - shown, (fixed_slope + slope) / 2)
        force += _force(still - local, (still_slope + slope / spread) / 2)
        low, high = _DAMPED
        force *= weight * jnp.clip((jacobian - low) / (high - low), 0, 1) / 2
        update = jnp.asarray(filters.free) * _filtered(force, filters.step)
        update *= length * jnp.minimum(1, _LARGEST_SLOPE / jnp.maximum(_steepest(update), _TINY))
        # The stencil of `_composed` reaches one voxel.
        new = _filtered(_composed(displacement, jnp.clip(update, -1, 1)), filters.total)
        changed = jacobian_determinant(new)
        kept = changed.min() >= jnp.minimum(_LEAST_JACOBIAN, jacobian.min())
        displacement, jacobian = (jnp.where(kept, a, b) for a, b in ((new, displacement), (changed, jacobian)))
        return displacement, jacobian, jnp.where(kept, jnp.minimum(1, 2 * length), length / 2)

    begun = (displacement, jacobian_determinant(displacement), jnp.ones((), jnp.float32))
    return jax.lax.fori_loop(0, iterations, step, begun)[0]


def _once(field: Array) -> Array:
    """Return a field that the compiler stores, where it would compute it again in each place that reads it."""
    return jax.lax.optimization_barrier(field)


def _force(difference: Scalar3, slope: Vector3) -> Vector3:
    # Vercauteren et al., eq. 5 with the mean of both gradients; at most half a voxel long.
    square = slope[0] ** 2 + slope[1] ** 2 + slope[2] ** 2
    return slope * (difference / (square + difference**2 + _TINY))


def _normalised(image: Scalar3, weight: Scalar3, windows: Scalar3, filters: _Filters) -> tuple[Scalar3, Scalar3]:
    """Return an image with its mean and deviation in the window around each voxel removed, and the deviations."""
    mean, square = _filtered(weight * jnp.stack([image, image**2]), filters.window) / windows
    deviation = _once(jnp.sqrt(jnp.maximum(square - mean**2, 0) + _NOISE**2))
    return (image - mean) / deviation, deviation


def _steepest(update: Array) -> Array:
    """Return the largest changes between neighbours along each axis, summed over components and axes."""
    whole = [slice(0, size) for size in update.shape[1:]]
    padded = [_once(jnp.pad(part, [(0, 1)] * 3, mode="edge")) for part in update]

    def along(axis: int) -> Scalar3:
        ahead = (*whole[:axis], slice(1, None), *whole[axis + 1 :])
        return sum((jnp.abs(part[ahead] - part[*whole]) for part in padded), jnp.zeros((), update.dtype))

    return _once(jnp.stack([along(axis) for axis in range(3)])).max((1, 2, 3)).sum()


def _filtered(field: Float[Array, "... x y z"], matrices: Sequence[Array | np.ndarray]) -> Float[Array, "... x y z"]:
    a, b, c = matrices
    planes = jnp.matmul(a, field.reshape(*field.shape[:-2], -1)).reshape(field.shape)
    return jnp.matmul(b, planes) @ c.T


def _composed(displacement: Vector3, update: Vector3) -> Vector3:
    """Return the displacements of the update followed by those before, linearly interpolated; it is a voxel at most."""
    x, y, z = displacement.shape[1:]
    hats = [(jnp.maximum(-part, 0), 1 - jnp.abs(part), jnp.maximum(part, 0)) for part in update]

    def composed(part: Scalar3, added: Scalar3) -> Scalar3:
        padded = _once(jnp.pad(part, 1, mode="edge"))
        for i, j in np.ndindex(3, 3):
            row = sum(hats[2][k] * padded[i : i + x, j : j + y, k : k + z] for k in range(3))
            added = added + hats[0][i] * hats[1][j] * row
        return added

    return jnp.stack([composed(part, added) for part, added in zip(displacement, update, strict=True)])


def _displaced(image: Scalar3, displacement: Vector3) -> Scalar3:
    """Return an image at the displaced points, linearly interpolated and continued by its border."""
    shape, flat = image.shape, image.ravel()
    index = 0
    ways = []
    for axis, size in enumerate(shape):
        along = jnp.arange(size, dtype=image.dtype).reshape([-1 if each == axis else 1 for each in range(3)])
        point = jnp.clip(displacement[axis] + along, 0, size - 1)
        low = jnp.minimum(jnp.floor(point), size - 2)
        ways.append((1 - (point - low), point - low))
        index = index * size + low.astype(jnp.int32)
    result = jnp.zeros_like(image)
    for corner in np.ndindex(2, 2, 2):
        offset = (corner[0] * shape[1] + corner[1]) * shape[2] + corner[2]
        weight = ways[0][corner[0]] * ways[1][corner[1]] * ways[2][corner[2]]
        result += weight * flat.at[index + offset].get(mode="promise_in_bounds")
    return result


def _filters(padded: Sequence[int], shape: Sequence[int], radius: int, rim: float) -> _Filters:
    distances = [np.abs(np.subtract.outer(np.arange(size), np.arange(size))) for size in padded]
    # Depth below the border of the true lattice, where nothing moves.
    depths = [np.minimum(np.arange(n), true - 1 - np.arange(n)) for n, true in zip(padded, shape, strict=True)]

    def gaussian(sigma: float) -> list[np.ndarray]:
        return [np.exp(-((each / sigma) ** 2) / 2) for each in distances]

    window = [(each <= radius).astype(np.float32) for each in distances]
    step = [(each / each.sum(axis=1, keepdims=True)).astype(np.float32) for each in gaussian(_STEP_SIGMA)]
    total = [
        (each / each[len(each) // 2].sum() * np.outer(depth > 0, depth > 0)).astype(np.float32)
        for each, depth in zip(gaussian(_TOTAL_SIGMA), depths, strict=True)
    ]
    x, y, z = (np.clip(depth / rim, 0, 1).astype(np.float32) for depth in depths)
    return _Filters(window, step, total, x[:, None, None] * y[:, None] * z)


def _shrunk(image: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return image
    return ndimage.gaussian_filter(image, factor / 2)[::factor, ::factor, ::factor]


def _refined(displacement: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return displacements (voxels) on a lattice of another shape, whose voxels are a whole number of times smaller."""
    factor = shape[0] // displacement.shape[1]
    if factor == 1:
        return displacement
    hats = []
    for size, count in zip(shape, displacement.shape[1:], strict=True):
        place = np.minimum(np.arange(size) / factor, count - 1)
        hats.append(np.maximum(0, 1 - np.abs(np.subtract.outer(place, np.arange(count)))).astype(np.float32))
    return factor * np.einsum("ax,by,cz,dxyz->dabc", *hats, displacement, optimize=True)
