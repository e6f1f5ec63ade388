"""The healthy tissue in which a tumour grows."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from tumorjax.grid import Grid, tissue_box
from tumorjax.operators import block_mean

# Tumour cells live where white and grey matter together reach this fraction; elsewhere there is no domain.
TISSUE_THRESHOLD = 0.1

# Interpolation and segmentation software leave sums this much above one; more is not a set of probabilities.
_SUM_TOLERANCE = 0.05


class Anatomy(eqx.Module):
    """Tissue probability maps on a grid.

    Parameters
    ----------
    grid
        The grid of the maps.
    white_matter, grey_matter, csf
        (x, y, z), fractions in [0, 1] (p_wm, p_gm, p_csf). Raw probabilities: they are neither
        renormalised nor voted, and may sum to less than one. Their dtype is that of every computation.
    fibres
        (x, y, z, 6), or None: the diffusion tensor of white matter relative to its mean diffusivity, so that its
        trace is three; components xx, xy, xz, yy, yz, zz along the axes of the world. None is isotropic.

    Raises
    ------
    ValueError
        If a map's shape is not the grid's, or (where the maps are concrete) if a map has NaN,
        negative values or values above one, the maps sum to more than one, or white and grey matter are empty.

    Notes
    -----
    A batch of anatomies is the same type with a leading axis on every array, as `jax.vmap` takes it.
    """

    grid: Grid
    white_matter: Float[Any, "x y z"]
    grey_matter: Float[Any, "x y z"]
    csf: Float[Any, "x y z"]
    fibres: Float[Any, "x y z 6"] | None = None

    def __check_init__(self) -> None:
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

    @property
    def tissue(self) -> Bool[Array, "x y z"]:
        """The domain of growth: where white and grey matter reach a tenth."""
        return jnp.asarray(_tissue(self.white_matter, self.grey_matter))

    @property
    def traced(self) -> bool:
        """Whether a transformation holds the maps, so that their values are not known yet."""
        return any(isinstance(m, Tracer) for m in (self.white_matter, self.grey_matter, self.csf))

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the maps, and of every computation on them."""
        return jnp.result_type(self.white_matter)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> "Anatomy":
        """Return the anatomy on the box of `shape` voxels that begins at `start`."""
        box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
        fibres = None if self.fibres is None else self.fibres[box]
        maps = (self.white_matter[box], self.grey_matter[box], self.csf[box])
        return Anatomy(self.grid.crop(start, shape), *maps, fibres=fibres)

    def box(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return the first voxel and the shape of the tissue's bounding box; needs concrete maps."""
        return tissue_box(_tissue(np.asarray(self.white_matter), np.asarray(self.grey_matter)))

    def coarsen(self, factor: int) -> "Anatomy":
        """Return the anatomy on voxels `factor` times as long, by means over blocks."""
        grid = self.grid
        shape = tuple(-(-n // factor) for n in grid.shape)
        affine = np.array(grid.affine, float)
        affine[:3, 3] = grid.to_world(np.full(3, (factor - 1) / 2))
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


def _check_fractions(name: str, tissue: np.ndarray) -> None:
    low, high = float(np.min(tissue)), float(np.max(tissue))
    # Interpolation overshoots one by rounding; more is a wrong unit (percent, grey values).
    if not (low >= -1e-6 and high <= 1 + 1e-3):
        raise ValueError(
            f"{name} must hold fractions in [0, 1] without NaN, got values from {low:g} to {high:g}; "
            "rescale or repair the map"
        )
