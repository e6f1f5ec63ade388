"""The healthy tissue in which a tumour grows."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from tumorjax.checks import as_image, check_box, check_count
from tumorjax.grid import Grid, tissue_box
from tumorjax.operators import block_mean

# The domain of growth: tumour cells live where white and grey matter together reach this fraction.
TISSUE_THRESHOLD = 0.1

# Interpolation and segmentation software can leave sums this much above one; a larger sum means wrong input.
_SUM_TOLERANCE = 0.05

# Range of the mean trace of relative tensors over white matter: three, or less where blocks reach beyond an image.
_TRACES = (2.0, 3.5)
# Rounding of single precision may leave a tensor's minors this much below zero, in units of its trace.
_INDEFINITE = 1e-4


def _as_fibres(fibres: Any) -> Any:
    return None if fibres is None else as_image(fibres)


class Anatomy(eqx.Module):
    """Tissue probability maps on a grid.

    Parameters
    ----------
    grid
        The grid of the maps.
    white_matter, grey_matter, csf
        (x, y, z), fractions in [0, 1] (p_wm, p_gm, p_csf). They are used as they are, neither renormalised nor
        thresholded, and may sum to less than one. Their dtype is that of every computation; integer maps (masks)
        become floating.
    fibres
        (x, y, z, 6), or None: the diffusion tensor of white matter relative to its mean diffusivity, so that its
        trace is three (`tumorjax.io.relative_tensor`); components xx, xy, xz, yy, yz, zz along the world axes.
        With None, diffusion is isotropic.

    Raises
    ------
    ValueError
        If a map's shape is not the grid's, or (where the maps are concrete) if a map has NaN, negative values or values
        above one, if the maps sum to more than one, if white and grey matter are empty, or if fibres are not finite,
        have a mean trace other than three, or have negative eigenvalues in white matter.

    Notes
    -----
    A batch of anatomies has the same type, with a leading axis on every array, as `jax.vmap` expects.
    """

    grid: Grid
    white_matter: Float[Any, "x y z"] = eqx.field(converter=as_image)
    grey_matter: Float[Any, "x y z"] = eqx.field(converter=as_image)
    csf: Float[Any, "x y z"] = eqx.field(converter=as_image)
    fibres: Float[Any, "x y z 6"] | None = eqx.field(converter=_as_fibres, default=None)

    def __check_init__(self) -> None:
        if not isinstance(self.grid, Grid):
            raise ValueError(f"an anatomy lies on a Grid, got {type(self.grid).__name__}")
        kinds = {jnp.result_type(m) for m in (self.white_matter, self.grey_matter, self.csf)}
        if len(kinds) > 1:
            raise ValueError(f"the maps have several dtypes, {', '.join(sorted(map(str, kinds)))}; give all one")
        for name in ("white_matter", "grey_matter", "csf"):
            tissue = getattr(self, name)
            if tissue.shape != self.grid.shape:
                raise ValueError(f"{name} has shape {tissue.shape} on a grid of shape {self.grid.shape}; resample it")
            if not isinstance(tissue, Tracer):
                _check_fractions(name, np.asarray(tissue))
        if self.fibres is not None and self.fibres.shape != (*self.grid.shape, 6):
            raise ValueError(
                f"fibres have shape {self.fibres.shape} on a grid of shape {self.grid.shape}; resample them"
            )
        if not self.traced:
            total = float(np.max(np.asarray(self.white_matter) + np.asarray(self.grey_matter) + np.asarray(self.csf)))
            if total > 1 + _SUM_TOLERANCE:
                raise ValueError(
                    f"white matter, grey matter and CSF sum to at most one, got {total:g}; are they probabilities?"
                )
        if not self.traced and not _tissue(np.asarray(self.white_matter), np.asarray(self.grey_matter)).any():
            raise ValueError("white and grey matter are empty; give maps of a brain")
        if self.fibres is not None and not isinstance(self.fibres, Tracer) and not self.traced:
            _check_fibres(np.asarray(self.fibres), np.asarray(self.white_matter))

    @property
    def tissue(self) -> Bool[Array, "x y z"]:
        """The domain of growth: where white and grey matter reach a tenth."""
        return jnp.asarray(_tissue(self.white_matter, self.grey_matter))

    @property
    def traced(self) -> bool:
        """Whether the maps are traced by a JAX transformation, so that their values are not known yet."""
        return any(isinstance(m, Tracer) for m in (self.white_matter, self.grey_matter, self.csf))

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the maps, and of every computation on them."""
        return jnp.result_type(self.white_matter)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> "Anatomy":
        """Return the anatomy on the box of `shape` voxels that begins at `start`."""
        box = check_box(start, shape, self.grid.shape)
        fibres = None if self.fibres is None else self.fibres[box]
        maps = (self.white_matter[box], self.grey_matter[box], self.csf[box])
        return Anatomy(self.grid.crop(start, shape), *maps, fibres=fibres)

    def pad(self, shape: tuple[int, int, int]) -> "Anatomy":
        """Return the anatomy on a grid of at least as many voxels, which has no tissue beyond the last ones.

        Raises
        ------
        ValueError
            If the shape is smaller than the grid's along an axis.
        """
        more = [(0, whole - n) for whole, n in zip(shape, self.grid.shape, strict=True)]
        if any(after < 0 for _, after in more):
            raise ValueError(f"cannot pad a grid of shape {self.grid.shape} to {tuple(shape)}; crop it instead")
        maps = (jnp.pad(jnp.asarray(m), more) for m in (self.white_matter, self.grey_matter, self.csf))
        fibres = self.fibres
        if fibres is not None:
            # Where nothing grows no direction is preferred.
            around = jnp.broadcast_to(jnp.asarray([1.0, 0, 0, 1, 0, 1], self.dtype), (*shape, 6))
            fibres = around.at[tuple(slice(n) for n in self.grid.shape)].set(fibres)
        return Anatomy(Grid(tuple(shape), self.grid.affine), *maps, fibres=fibres)

    def box(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return the first voxel and the shape of the tissue's bounding box; needs concrete maps."""
        return tissue_box(_tissue(np.asarray(self.white_matter), np.asarray(self.grey_matter)))

    def coarsen(self, factor: int) -> "Anatomy":
        """Return the anatomy on voxels `factor` times as long, averaged over blocks.

        Raises
        ------
        ValueError
            If the factor is not a whole number of at least one, or larger than the grid.
        """
        check_count("the factor of voxels", factor)
        grid = self.grid
        if factor > max(grid.shape):
            raise ValueError(f"the factor of voxels must be at most {max(grid.shape)} on this grid, got {factor}")
        shape = tuple(-(-n // factor) for n in grid.shape)
        traced = isinstance(grid.affine, Tracer)
        whole = grid if traced else Grid(grid.shape, np.array(grid.affine, float))
        corner = whole.to_world(np.full(3, (factor - 1) / 2, whole.affine.dtype))
        if traced:
            affine = grid.affine.at[:3, 3].set(corner).at[:3, :3].multiply(factor)
        else:
            affine = whole.affine
            affine[:3, 3] = corner
            affine[:3, :3] *= factor
        means = (block_mean(jnp.asarray(m), factor) for m in (self.white_matter, self.grey_matter, self.csf))
        fibres = self.fibres
        if fibres is not None:
            fibres = jnp.stack([block_mean(jnp.asarray(fibres[..., i]), factor) for i in range(6)], axis=-1)
        return Anatomy(Grid((shape[0], shape[1], shape[2]), affine), *means, fibres=fibres)

    def astype(self, dtype: Any) -> "Anatomy":
        """Return the anatomy with maps of another floating dtype."""
        return Anatomy(
            self.grid,
            jnp.asarray(self.white_matter, dtype),
            jnp.asarray(self.grey_matter, dtype),
            jnp.asarray(self.csf, dtype),
            None if self.fibres is None else jnp.asarray(self.fibres, dtype),
        )


def _tissue(white_matter: Any, grey_matter: Any) -> Any:
    # NumPy stays NumPy: under `jit` the same expression on constant JAX arrays would be traced.
    return white_matter + grey_matter >= TISSUE_THRESHOLD


def _check_fibres(fibres: np.ndarray, white_matter: np.ndarray) -> None:
    advice = "make them relative to their mean diffusivity with tumorjax.io.relative_tensor"
    if not np.all(np.isfinite(fibres)):
        raise ValueError(f"fibres have NaN or infinite components; repair the tensors and {advice}")
    inside = white_matter > 0
    xx, xy, xz, yy, yz, zz = (fibres[..., n][inside].astype(float) for n in range(6))
    trace, weights = xx + yy + zz, white_matter[inside].astype(float)
    mean = float(np.average(trace, weights=weights)) if weights.size else 3.0
    if not _TRACES[0] <= mean <= _TRACES[1]:
        raise ValueError(f"fibres must be tensors of trace three, got {mean:.3g} in the mean of white matter; {advice}")
    slack = _INDEFINITE * np.maximum(np.abs(trace), 1)
    minors = (xx, yy, zz, xx * yy - xy**2, xx * zz - xz**2, yy * zz - yz**2)
    determinant = xx * (yy * zz - yz**2) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)
    wrong = np.count_nonzero(np.min([*minors, determinant], axis=0) < -slack) if weights.size else 0
    if wrong:
        raise ValueError(f"fibres have negative eigenvalues in {wrong} voxels of white matter; {advice}")


def _check_fractions(name: str, tissue: np.ndarray) -> None:
    low, high = float(np.min(tissue)), float(np.max(tissue))
    # Interpolation overshoots one by rounding; more is a wrong unit (percent, grey values).
    if not (low >= -1e-6 and high <= 1 + 1e-3):
        raise ValueError(
            f"{name} must hold fractions in [0, 1] without NaN, got values from {low:g} to {high:g}; "
            "rescale or repair the map"
        )
