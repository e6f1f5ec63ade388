"""Where a tumour begins: seeds, or a density read off an image."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from tumorjax.anatomy import Anatomy
from tumorjax.cellularity import WATER_2015, AbstractAdcLaw, LinearAdcLaw, density_by_adc
from tumorjax.checks import as_array, check_box, check_numbers, check_positive, concrete
from tumorjax.grid import Grid
from tumorjax.operators import spline_ball

Origin = Any
"""An array (3,) or (n, 3) of the world coordinates of seeds in mm, `Foci`, or an `AbstractOrigin`."""

HALF = 0.495
"""The least part of a state that must lie in tissue: half, with room for rounding."""


class AbstractOrigin(eqx.Module):
    """A state at time zero."""

    @abstractmethod
    def initial(self, anatomy: Anatomy) -> Float[Array, "x y z"]:
        """Return the density at time zero, (x, y, z), zero outside the tissue."""

    @abstractmethod
    def seeded(self, anatomy: Anatomy) -> Bool[Array, ""]:
        """Return whether the state is there: at least half of its cells (of each seed's) are in tissue."""

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> "AbstractOrigin":
        """Return the same state for the box of `shape` voxels that begins at `start` of the anatomy."""
        return self


class Seeds(AbstractOrigin):
    """Smooth balls of a mass that does not depend on where they fall between the voxels.

    The part of a ball outside the tissue is moved into it, so that its mass is whole wherever at least half
    of it is tissue; below that it falls, to zero for a seed that lies in no tissue. Where seeds overlap
    they add up, to at most one.

    Parameters
    ----------
    points
        (3,) or (n, 3), mm, RAS world.
    mass
        mm^3 at carrying capacity: that of each seed; or (n,), one number for each.
    width
        mm: knot distance of the balls' cubic splines (radius of the support: twice that); never less than
        a voxel.

    Raises
    ------
    ValueError
        If the points are not three finite coordinates a seed, or mass or width is not positive.
    """

    points: Float[Any, "3"] | Float[Any, "n 3"] = eqx.field(converter=as_array)
    mass: Float[Any, ""] | Float[Any, "n"]
    width: float

    def __check_init__(self) -> None:
        check_origin(self.points)
        for name in ("mass", "width"):
            check_positive(name, getattr(self, name))

    def initial(self, anatomy: Anatomy) -> Float[Array, "x y z"]:
        """Return the density at time zero, (x, y, z)."""
        voxels = self._voxels(anatomy)
        if jnp.ndim(self.points) == 1:
            return self._ball(self.points, voxels, anatomy)
        # Backwards, each ball is computed again rather than kept.
        ball = jax.checkpoint(lambda point, own: self._ball(point, voxels if own is None else own, anatomy))
        zero = jnp.zeros(anatomy.grid.shape, anatomy.dtype)
        seeds = (jnp.asarray(self.points), voxels if jnp.ndim(voxels) else None)
        total, _ = jax.lax.scan(lambda sum_, seed: (sum_ + ball(*seed), None), zero, seeds)
        return bounded(total)

    def seeded(self, anatomy: Anatomy) -> Bool[Array, ""]:
        """Return whether at least half of every seed is in tissue, so that it has its mass."""
        if jnp.ndim(self.points) == 1:
            return self._shape(self.points, anatomy).sum() > HALF
        return jax.lax.map(lambda point: self._shape(point, anatomy).sum() > HALF, jnp.asarray(self.points)).all()

    def _shape(self, point: Float[Any, "3"], anatomy: Anatomy) -> Float[Array, "x y z"]:
        """Return the share of a seed that each voxel of the tissue holds."""
        grid, dtype = anatomy.grid, anatomy.dtype
        widths = jnp.maximum(self.width / grid.spacing, 1.0).astype(dtype)
        return spline_ball(voxel_index(point, grid).astype(dtype), grid.shape, widths) * anatomy.tissue.astype(dtype)

    def _voxels(self, anatomy: Anatomy) -> Float[Array, ""] | Float[Array, "n"]:
        """Return the mass in voxels at carrying capacity."""
        volume, dtype = anatomy.grid.voxel_volume, anatomy.dtype
        if isinstance(self.mass, (int, float)):
            return jnp.asarray(self.mass / volume, dtype)
        return jnp.asarray(self.mass, dtype) / jnp.asarray(volume, dtype)

    def _ball(self, point: Float[Any, "3"], voxels: Float[Array, ""], anatomy: Anatomy) -> Float[Array, "x y z"]:
        shape = self._shape(point, anatomy)
        return jnp.minimum(voxels * shape / jnp.maximum(shape.sum(), 0.5), 1.0)


class Foci(eqx.Module):
    """Several seeds, of which the further ones may hold fewer cells than the first: a tumour of several foci.

    All grow from time zero, at the same rates. Since cells divide freely while they are few, a seed that holds the
    share exp(-rho t) of the first one's cells is one that appeared later by the time t.

    Parameters
    ----------
    points
        (n, 3), mm, RAS world.
    shares
        (n - 1,): cells of each further seed relative to those of the first, which are the model's.

    Raises
    ------
    ValueError
        If the shapes do not fit, a point is not finite, or a share not positive.
    """

    points: Float[Any, "n 3"] = eqx.field(converter=as_array)
    shares: Float[Any, "n-1"] = eqx.field(converter=as_array)

    def __check_init__(self) -> None:
        check_origin(self.points)
        check_positive("shares", self.shares)
        points, shares = concrete(self.points), concrete(self.shares)
        if points is None or shares is None:
            return
        if points.ndim < 2 or shares.shape != (*points.shape[:-2], points.shape[-2] - 1):
            raise ValueError(
                f"foci need points (n, 3) and the shares (n - 1,) of all but the first, got shapes {points.shape} "
                f"and {shares.shape}"
            )

    def seeds(self, mass: Float[Any, ""], width: float) -> Seeds:
        """Return the seeds, of which the first has this mass, mm^3, and all this width, mm."""
        shares = jnp.asarray(self.shares)
        return Seeds(self.points, mass * jnp.concatenate([jnp.ones(1, shares.dtype), shares]), width)


class InitialDensity(AbstractOrigin):
    """A density given voxel by voxel. Its part outside the tissue is left out.

    Parameters
    ----------
    density
        c_0, (x, y, z) on the anatomy's grid, fraction of the carrying capacity.

    Raises
    ------
    ValueError
        If a concrete density is not three-dimensional, or has NaN or values outside [0, 1].
    """

    density: Float[Any, "x y z"] = eqx.field(converter=as_array)

    def __check_init__(self) -> None:
        check_numbers("density", self.density)
        density = concrete(self.density)
        if density is None:
            return
        if density.ndim < 3:
            raise ValueError(f"density must be an image (x, y, z), got shape {density.shape}")
        low, high = float(density.min()), float(density.max())
        # Resampling overshoots by rounding.
        if not (low >= -1e-6 and high <= 1 + 1e-3):
            raise ValueError(f"density must hold fractions in [0, 1] without NaN, got values from {low:g} to {high:g}")

    @classmethod
    def from_adc(
        cls,
        adc: Float[np.ndarray, "x y z"],
        outline: Bool[np.ndarray, "x y z"],
        *,
        law: AbstractAdcLaw = LinearAdcLaw(WATER_2015),  # noqa: B008
        least: float | None = None,
    ) -> "InitialDensity":
        """Return the density that the apparent diffusion coefficient shows; needs concrete values.

        See `tumorjax.cellularity` for the laws and for where they do not hold.

        Parameters
        ----------
        adc
            (x, y, z), mm^2/s.
        outline
            (x, y, z): the whole lesion, as on T2.
        law
            `LinearAdcLaw(water)`, by default with the water of the publication, or `InverseAdcLaw()`.
        least
            ADC_min, mm^2/s: at the carrying capacity. By default the least value in the outline, which one
            noisy voxel may set.

        Raises
        ------
        ValueError
            If the outline is empty or of another shape, the ADC in it is not positive everywhere, or the least
            is not below that of water (as in a map of other units) by the linear law.

        References
        ----------
        Hormuth et al., Physical Biology 12 (2015), for the linear law; Ezhov, dissertation, chapter 6 (neural posterior
        estimation), which takes the inverse ADC in the T2 outline as the initial state and gives no formula.
        """
        return cls(density_by_adc(adc, outline, law, least=least))

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> "InitialDensity":
        """Return the density in the box of `shape` voxels that begins at `start`."""
        return InitialDensity(self.density[check_box(start, shape, self.density.shape)])

    def initial(self, anatomy: Anatomy) -> Float[Array, "x y z"]:
        """Return the density at time zero, (x, y, z)."""
        check_shape("density", self.density, anatomy.grid)
        return jnp.where(anatomy.tissue, bounded(jnp.asarray(self.density, anatomy.dtype)), 0)

    def seeded(self, anatomy: Anatomy) -> Bool[Array, ""]:
        """Return whether at least half of the cells on the anatomy's grid are in tissue, and there are any."""
        inside = self.initial(anatomy).sum()
        return (inside > HALF * bounded(jnp.asarray(self.density, anatomy.dtype)).sum()) & (inside > 0)


def crop_origin(origin: Origin, start: tuple[int, int, int], shape: tuple[int, int, int]) -> Origin:
    """Return the same origin for the box of `shape` voxels that begins at `start` of the anatomy."""
    return origin.crop(start, shape) if isinstance(origin, AbstractOrigin) else origin


def check_origin(origin: Origin) -> None:
    """Raise a ValueError where an origin is not three finite coordinates a seed, nor a module that stands for them."""
    if isinstance(origin, eqx.Module):
        return
    check_numbers("origin", origin)
    points, shape = concrete(origin), np.shape(origin)
    known = points is None or (points.size > 0 and np.all(np.isfinite(points)))
    if shape[-1:] != (3,) or not known:
        raise ValueError(
            "origin must be three finite world coordinates in mm, or a row of them for each seed, "
            f"got {f'shape {shape}' if points is None else points}"
        )


def check_shape(name: str, field: Any, grid: Grid) -> None:
    """Raise a ValueError where a field is not on the grid."""
    if field.shape != grid.shape:
        raise ValueError(f"{name} has shape {field.shape} on a grid of shape {grid.shape}; resample it")


def voxel_index(points: Float[Any, "... 3"], grid: Grid) -> Float[Array, "... 3"]:
    """Return fractional voxel indices, in the grid's own precision, which may be higher than that of the maps."""
    return grid.to_index(jnp.asarray(points, jnp.asarray(grid.affine).dtype))


def bounded(density: Float[Array, "x y z"]) -> Float[Array, "x y z"]:
    """Return the density between zero and one, with its full derivative at the bounds themselves."""
    one = jnp.ones((), density.dtype)
    return jnp.where(density > 1, one, jnp.where(density < 0, 0 * one, density))
