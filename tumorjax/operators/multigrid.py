"""Geometric multigrid for linear elasticity on a staggered grid."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from tumorjax.operators.elasticity import (
    Faces,
    Flat,
    Stiffness,
    at_centres,
    at_edges,
    force_on_faces,
    free_faces,
    from_flat,
    stiffness,
    strides,
    to_flat,
)


class Multigrid(eqx.Module):
    """A preconditioner of elasticity: one V-cycle of geometric multigrid.

    Parameters
    ----------
    smoothing
        Number of steps of the smoother before and after each correction from the coarser grid; static.
    coarsest
        Number of steps on the coarsest grid; static.
    smallest
        Voxels are merged in blocks of 2 x 2 x 2 until an axis has no more than this many; static.

    Notes
    -----
    The V-cycle is symmetric and positive definite, as a preconditioner of conjugate gradients must be: restriction is
    an eighth of the transpose of prolongation, and the smoother, being a polynomial in the operator, is before a
    correction the transpose of what it is after it.
    """

    smoothing: int = eqx.field(static=True, default=2)
    coarsest: int = eqx.field(static=True, default=8)
    smallest: int = eqx.field(static=True, default=10)

    def inverse(self, medium: Stiffness) -> Callable[[Faces], Faces]:
        """Return an approximate inverse of minus `force_on_faces`."""
        levels = [medium]
        while min(levels[-1].shape) > self.smallest:
            levels.append(coarsen(levels[-1]))
        scales = [inverse_row_sums(level) for level in levels]

        def cycle(index: int, residual: Faces) -> Faces:
            level, scale = levels[index], scales[index]
            solution = _map(jnp.zeros_like, residual)
            # The first step of the smoother, from zero.
            change = _map(lambda s, r: 4 / 3 * s * r, scale, residual)
            if index + 1 == len(levels):
                return _map(jnp.add, *smooth(level, scale, solution, residual, change, range(1, self.coarsest))[::2])
            before = smooth(level, scale, solution, residual, change, range(1, self.smoothing + 1))
            coarse = levels[index + 1]
            correction = prolong(cycle(index + 1, restrict(before[1], level, coarse)), coarse, level)
            after = smooth(level, scale, before[0], before[1], correction, range(self.smoothing))
            return _map(jnp.add, after[0], after[2])

        return lambda residual: cycle(0, residual)


def smooth(
    medium: Stiffness, scale: Faces, solution: Faces, residual: Faces, change: Faces, steps: range
) -> tuple[Faces, Faces, Faces]:
    """Improve a solution by Chebyshev polynomials of the fourth kind [1]_ in the scaled operator.

    They are the optimal polynomials for a smoother in a V-cycle when only a bound on the largest eigenvalue is known.
    The scaling by `inverse_row_sums` makes this bound one.

    Parameters
    ----------
    medium, scale
        The operator, and its scaling, from `inverse_row_sums`.
    solution, residual
        x, and b - A x.
    change
        Change to add to x first: the smoother's own first step, or a correction from the coarser grid.
    steps
        Indices of the steps; step 0 ignores the change before it.

    Returns
    -------
    solution, residual
        x and b - A x after the changes of all steps but the last.
    change
        The last change, which is still to be added to the solution.

    References
    ----------
    .. [1] J. Lottes, "Optimal polynomial smoothers for multigrid V-cycles", Numer. Linear Algebra Appl. 30 (2023),
       algorithm 3. doi:10.1002/nla.2518
    """

    def step(k: Array, state: tuple[Faces, Faces, Faces]) -> tuple[Faces, Faces, Faces]:
        solution, residual, change = state
        solution = _map(jnp.add, solution, change)
        residual = _map(jnp.add, residual, force_on_faces(change, medium))
        k = k.astype(medium.rates.dtype)
        momentum, weight = jnp.maximum(2 * k - 1, 0) / (2 * k + 3), (8 * k + 4) / (2 * k + 3)
        return solution, residual, _map(lambda c, s, r: momentum * c + weight * s * r, change, scale, residual)

    # A loop, because XLA would recompute the stencils of unrolled steps for each of their consumers.
    return lax.fori_loop(steps.start, steps.stop, step, (solution, residual, change))


def inverse_row_sums(medium: Stiffness) -> Faces:
    """Return one over the sum of the magnitudes in each row of the operator, zero on clamped faces.

    The operator scaled with it has no eigenvalue above one (Gershgorin), and where the moduli jump, all regions come
    about equally close to that bound.
    """
    shape, rates = medium.shape, medium.rates
    scale = []
    for a in range(3):
        first, shear = (sum(at_centres(modulus, a, shape)) for modulus in (medium.first, medium.shear))
        total = 2 * (first + 2 * shear) * rates[a] ** 2
        for b in (b for b in range(3) if b != a):
            edges = sum(at_edges(medium.edges[3 - a - b], b, shape))
            # The neighbours of the same component weigh as much as the diagonal; then four of component b.
            total = total + 2 * edges * rates[b] ** 2 + 2 * (first + edges) * rates[a] * rates[b]
        scale.append(medium.free[a] / jnp.where(total > 0, total, 1))
    return scale[0], scale[1], scale[2]


def coarsen(medium: Stiffness) -> Stiffness:
    """Return the medium on voxels twice as long, which count as head if a quarter of their volume does.

    Moduli are means over the part in the head. A larger threshold cuts off more of the rim, and then a thin layer of
    fluid below the head's surface costs iterations (15 to 17 instead of 11 with half of the volume). The kind of mean
    matters little.
    """
    shape = medium.shape
    inside = _inside(medium)
    count = _block_sum(inside)
    first, shear = (
        _block_sum(inside * from_flat(modulus[: medium.free[0].size], shape)) / jnp.maximum(count, 1)
        for modulus in (medium.first, medium.shear)
    )
    return stiffness(first, shear, free_faces(count >= 2), 2 / medium.rates)


def restrict(residual: Faces, fine: Stiffness, coarse: Stiffness) -> Faces:
    """Return an eighth of the transpose of `prolong`, applied to a residual."""
    components = []
    for a in range(3):
        values = from_flat(residual[a], fine.shape)
        for axis, size in enumerate(coarse.shape):
            # The first block begins at position 1 of the padded array.
            padding = [(1, 2 * size + 1 - values.shape[axis]) if b == axis else (0, 0) for b in range(3)]
            padded = jnp.pad(values, padding)
            before, one, two, after = (lax.slice_in_dim(padded, s, s + 2 * size - 1, 2, axis) for s in range(4))
            across = (before + 3 * one + 3 * two + after) / 8
            values = (one + 2 * two + after) / 4 if axis == a else across
        components.append(to_flat(values) * coarse.free[a])
    return components[0], components[1], components[2]


def prolong(solution: Faces, coarse: Stiffness, fine: Stiffness) -> Faces:
    """Interpolate linearly from a grid of voxels twice as long; zero outside, and on clamped faces.

    Along the component's own axis, every second face is also a face of the coarse grid. Along the other axes, a face
    lies a quarter and three quarters of a coarse voxel away from its two coarse neighbours.
    """
    components = []
    for a in range(3):
        values = from_flat(solution[a], coarse.shape)
        for axis, size in enumerate(fine.shape):
            coarse_size = values.shape[axis]
            padded = jnp.pad(values, [(int(b == axis), int(b == axis)) for b in range(3)])
            before, here, after = (lax.slice_in_dim(padded, s, s + coarse_size, axis=axis) for s in range(3))
            across = (before + 3 * here) / 4, (3 * here + after) / 4
            halves = ((before + here) / 2, here) if axis == a else across
            doubled = list(values.shape)
            doubled[axis] *= 2
            values = lax.slice_in_dim(jnp.stack(halves, axis + 1).reshape(doubled), 0, size, axis=axis)
        components.append(to_flat(values) * fine.free[a])
    return components[0], components[1], components[2]


def _inside(medium: Stiffness) -> Float[Array, "x y z"]:
    # A voxel is in the head if one of its faces moves; an isolated voxel of the head, which has none, does not matter.
    inside = 0
    for component, distance in zip(medium.free, strides(medium.shape), strict=True):
        inside = jnp.maximum(inside, jnp.maximum(component, jnp.pad(component, (distance, 0))[: component.size]))
    return from_flat(jnp.asarray(inside), medium.shape)


def _block_sum(values: Float[Array, "_ _ _"]) -> Float[Array, "_ _ _"]:
    for axis in range(3):
        padded = jnp.pad(values, [(0, values.shape[axis] % 2 if b == axis else 0) for b in range(3)])
        values = lax.slice_in_dim(padded, 0, None, 2, axis) + lax.slice_in_dim(padded, 1, None, 2, axis)
    return values


def _map(function: Callable[..., Flat], *vectors: Faces) -> Faces:
    x, y, z = (function(*components) for components in zip(*vectors, strict=True))
    return x, y, z
