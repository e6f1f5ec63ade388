"""The map of fluid (CSF), whose ventricles the tumour displaces."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import equinox as eqx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from tumorjax.anatomy import Anatomy
from tumorjax.checks import as_image, as_mask, check_positive
from tumorjax.grid import Grid
from tumorjax.observation.correlation import placed_by_length
from tumorjax.observation.gaussian import AbstractGaussian
from tumorjax.observation.observation import AbstractObservation
from tumorjax.operators import block_mean
from tumorjax.prior import LogNormal
from tumorjax.quantity import Quantity


class FluidMapParams(eqx.Module):
    """Parameters of a map of fluid.

    Parameters
    ----------
    noise
        sigma, dimensionless: standard deviation of the share of fluid about that of the model.
    """

    noise: Any

    def __check_init__(self) -> None:
        check_positive("noise", self.noise)

    def quantities(self, name: str) -> list[Quantity]:
        """Return the noise in words."""
        meaning = "standard deviation of the share of fluid about the model"
        return [Quantity(f"{name}_noise", "σ_CSF", "", meaning, lambda params: params.noise, "noise")]


class FluidMap(AbstractGaussian):
    """The patient's map of CSF, y ~ N(m_CSF, sigma^2) in each voxel; only growth with mass effect displaces fluid.

    The ventricles that the tumour has displaced determine how strongly it pushes, which its own outline does not.

    Parameters
    ----------
    fluid
        y, (x, y, z): share of each voxel that is CSF, in [0, 1].
    valid
        (x, y, z), bool: the voxels that count, such as the brain outside the lesion.
    effective_voxels
        How many independent voxels all of them together are worth. By default it follows from `length` where the map is
        `placed` on its grid, as in a `Problem`: their volume divided by (2 pi)^(3/2) l^3, at least one.
    length
        l, mm: length over which the errors of the map are correlated, as exp(-d^2 / (2 l^2)). The default is that of
        `Pet`: over so much growth in tissue that stays in place misses the surfaces of real tumours.

    Raises
    ------
    ValueError
        If shapes differ, a share lies outside [0, 1], or no fluid is in the valid voxels.

    References
    ----------
    Subramanian et al., "Multiatlas calibration of biophysical brain tumor growth models with mass effect", MICCAI 2020:
    the public code of the authors, not the text, has this misfit of the ventricles in the objective.
    """

    shows: ClassVar[Literal["density", "csf", "displacement"]] = "csf"
    title: ClassVar[str] = "map of fluid"

    fluid: Float[Any, "x y z"] = eqx.field(converter=as_image)
    valid: Bool[Any, "x y z"] = eqx.field(converter=as_mask)
    effective_voxels: float | None = None
    length: float = 11.0

    def __check_init__(self) -> None:
        check_positive("length", self.length)
        if self.fluid.shape != self.valid.shape:
            raise ValueError(f"the map of fluid has shape {self.fluid.shape}, its valid voxels {self.valid.shape}")
        if not any(isinstance(image, Tracer) for image in (self.fluid, self.valid)):
            seen = np.asarray(self.fluid)[np.asarray(self.valid)]
            low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
            if not (low >= -1e-6 and 0 < high <= 1 + 1e-3):
                raise ValueError(
                    f"a map of fluid holds shares in [0, 1] and some fluid, got values from {low:g} to {high:g} in "
                    f"{seen.size} valid voxels; give the patient's CSF, or leave it out"
                )

    def placed(self, grid: Grid) -> "FluidMap":
        """Return the map with the number of independent voxels that follows from `length`, unless it has one."""
        return placed_by_length(self, grid)

    def mean(self, field: Float[Array, "x y z"], params: FluidMapParams) -> Float[Array, "x y z"]:
        """Return m_CSF."""
        return field

    def default_prior(
        self, name: str, anatomy: Anatomy, observations: Mapping[str, AbstractObservation]
    ) -> FluidMapParams:
        """Return the default prior: the noise is log-normal about 0.2."""
        return FluidMapParams(LogNormal(0.2, 0.5))

    def coarsen(self, factor: int) -> "FluidMap":
        """Return the map on voxels `factor` times as long; those that were valid by half count."""
        valid = block_mean(self.valid.astype(self.fluid.dtype), factor) > 0.5
        return eqx.tree_at(lambda o: (o.fluid, o.valid), self, (block_mean(self.fluid, factor), valid))
