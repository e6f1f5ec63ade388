"""Maps of the density: cells counted in each voxel, or read off the diffusion of water."""

from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import ndtri
from jaxtyping import Array, Bool, Float

from tumorjax.anatomy import Anatomy
from tumorjax.cellularity import AbstractAdcLaw, LinearAdcLaw, signal_in
from tumorjax.checks import as_image, as_mask, check_not_negative, check_positive
from tumorjax.grid import Grid
from tumorjax.observation.correlation import placed_by_length
from tumorjax.observation.observation import AbstractObservation
from tumorjax.prior import LogNormal
from tumorjax.quantity import Quantity

# The percentile of a map that stands for tissue full of cells, where the capacity is unknown.
_FULL = 99.5


class DensityMapParams(eqx.Module):
    """Parameters of a map of the density.

    Parameters
    ----------
    noise
        sigma, unit of the map: standard deviation of what does not depend on the density.
    relative
        s: standard deviation of what is proportional to it, as a share of it; zero for additive noise alone.
    capacity
        K, unit of the map: its value in tissue full of cells. One for a map of the density itself.
    unit
        Static: unit of the map in words.
    """

    noise: Any
    relative: Any = 0.0
    capacity: Any = 1.0
    unit: str = eqx.field(static=True, default="map unit")

    def __check_init__(self) -> None:
        check_positive("noise", self.noise)
        check_not_negative("relative", self.relative)
        check_positive("capacity", self.capacity)

    def quantities(self, name: str) -> list[Quantity]:
        """Return the three numbers in words."""
        words = (
            ("capacity", "K", "value of the map in tissue full of tumour cells"),
            ("noise", "σ", "standard deviation of the map about the model, additive"),
            ("relative", "s", "standard deviation of the map about the model, as a share of it"),
        )
        return [
            Quantity(
                f"{name}_{field}",
                symbol,
                "" if field == "relative" else self.unit,
                meaning,
                lambda params, field=field: getattr(params, field),
                field,
            )
            for field, symbol, meaning in words
        ]


class DensityMap(AbstractObservation):
    """A map of the density, or of the number of cells, of each voxel: y ~ N(K c, sigma^2 + (s K c)^2).

    Parameters
    ----------
    values
        y, (x, y, z): cells a voxel, or fractions of the carrying capacity.
    valid
        (x, y, z), bool: where they were measured.
    effective_voxels
        How many independent voxels the measured region is worth. Infinity, the default, counts every voxel as
        independent of the others, which suits voxels that are wider than what blurs them. None lets it follow from
        `length` where the map is `placed` on its grid, as in a `Problem`, as for a `Pet`.
    law
        Static: where the map is read off the diffusion of water, the law by which; see `from_adc`.
    length
        l, mm: length over which the errors of the map are correlated, as exp(-d^2 / (2 l^2)); the default is that of a
        `Pet`.

    Raises
    ------
    ValueError
        If shapes differ, or the values are not finite, negative by half of the largest, or nowhere positive.

    References
    ----------
    Hormuth et al., "Predicting in vivo glioma growth with the reaction diffusion equation constrained by quantitative
    magnetic resonance imaging data", Phys. Biol. 12 (2015): cells of each voxel by the diffusion of water.
    """

    title: ClassVar[str] = "map of the density"

    values: Float[Any, "x y z"] = eqx.field(converter=as_image)
    valid: Bool[Any, "x y z"] = eqx.field(converter=as_mask)
    effective_voxels: float | None = np.inf
    law: AbstractAdcLaw | None = eqx.field(static=True, default=None)
    length: float = 11.0

    def __check_init__(self) -> None:
        check_positive("length", self.length)
        if self.values.shape != self.valid.shape:
            raise ValueError(f"the map has shape {self.values.shape}, its valid voxels {self.valid.shape}")
        if any(isinstance(image, Tracer) for image in (self.values, self.valid)):
            return
        measured = np.asarray(self.values)[np.asarray(self.valid)]
        if measured.size == 0 or not np.all(np.isfinite(measured)) or not measured.max() > 0:
            raise ValueError(
                f"a map of the density must be finite and positive somewhere in its {measured.size} valid voxels"
            )
        if measured.min() < -measured.max() / 2:
            raise ValueError(
                f"a map of the density holds cells or fractions, got values down to {measured.min():g} beside "
                f"{measured.max():g}; give the map itself, not its logarithm or a difference"
            )

    @classmethod
    def from_adc(
        cls,
        adc: Float[np.ndarray, "x y z"],
        valid: Bool[np.ndarray, "x y z"],
        *,
        law: AbstractAdcLaw = LinearAdcLaw(),  # noqa: B008
        effective_voxels: float | None = None,
        length: float = 11.0,
    ) -> "DensityMap":
        """Return the map that an image of the apparent diffusion coefficient shows; needs concrete values.

        By the linear law it is ADC_w - ADC in 1e-6 mm^2/s, by the inverse one 1 / ADC in 1e3 s/mm^2; see
        `tumorjax.cellularity` for where these do not hold. Its capacity K, at ADC_min, is unknown: the literature takes
        the least value in the tumour for ADC_min, which depends on noise and on whether the tumour reaches the carrying
        capacity anywhere. In patients the law is applied to the enhancing part alone, since the ADC of oedema is high
        whatever its cells.

        Parameters
        ----------
        adc
            (x, y, z), mm^2/s.
        valid
            (x, y, z): where it shows cells, such as the core.
        law
            `LinearAdcLaw(water)` or `InverseAdcLaw()`.
        effective_voxels
            How many independent voxels the region is worth; by default what follows from `length`, since what the map
            says of cells is wrong by more than noise, over whole regions.
        length
            mm; see above.

        Raises
        ------
        ValueError
            If no voxel is valid, the shapes differ, or the ADC is not positive there.

        References
        ----------
        Hormuth et al. 2015, as above, for the linear law; TumorTwin (arXiv 2505.00670) for patients, with 3e-3 mm^2/s
        for water and a constant in place of the law where nothing enhances.
        """
        values = signal_in(adc, valid, law)
        return cls(values=values, valid=valid, effective_voxels=effective_voxels, law=law, length=length)

    def placed(self, grid: Grid) -> "DensityMap":
        """Return the map with the number of independent voxels that follows from `length`, where it has none."""
        return placed_by_length(self, grid)

    @property
    def scale(self) -> tuple[str, str]:
        """The apparent diffusion coefficient, where the map is read off it, in the unit of radiology."""
        return super().scale if self.law is None else ("ADC", "1e-3 mm²/s")

    def reading(self, values: Float[Any, "x y z"]) -> Float[Any, "x y z"]:
        """Return the apparent diffusion coefficient, 1e-3 mm^2/s, where the map is read off it; else the map."""
        return values if self.law is None else 1e3 * self.law.coefficient(values)

    @property
    def extent(self) -> Float[Any, "x y z"]:
        """The values where they are positive, as shares of the largest."""
        values = np.where(np.asarray(self.valid), np.maximum(np.asarray(self.values), 0), 0)
        return values / values.max()

    def mean(self, field: Float[Array, "x y z"], params: DensityMapParams) -> Float[Array, "x y z"]:
        """Return K c."""
        return params.capacity * field

    def deviation(self, field: Float[Array, "x y z"], params: DensityMapParams) -> Float[Array, "x y z"]:
        """Return the standard deviation of each voxel."""
        return jnp.sqrt(params.noise**2 + (params.relative * self.mean(field, params)) ** 2)

    def log_prob(self, field: Float[Array, "x y z"], params: DensityMapParams) -> Float[Array, ""]:
        """Return the weighted Gaussian log-likelihood, nat."""
        deviation = self.deviation(field, params)
        away = (jnp.where(self.valid, self.values, 0).astype(field.dtype) - self.mean(field, params)) / deviation
        each = -0.5 * away**2 - jnp.log(deviation) - 0.5 * np.log(2 * np.pi).astype(field.dtype)
        return self.weight.astype(field.dtype) * jnp.sum(jnp.where(self.valid, each, 0))

    def expected(self, field: Float[Array, "x y z"], params: DensityMapParams) -> list[tuple[Array, Array]]:
        """Return K c with the precision of each voxel, and the logarithm of its standard deviation with two."""
        deviation, weight = self.deviation(field, params), self.weight.astype(field.dtype)
        precision = jnp.where(self.valid, weight / deviation**2, 0)
        return [
            (self.mean(field, params), precision),
            (jnp.log(deviation), jnp.where(self.valid, 2 * weight, 0)),
        ]

    def drawn(
        self, mean: Float[Array, "x y z"], params: DensityMapParams, quantile: Float[Array, "x y z"]
    ) -> Float[Array, "x y z"]:
        """Return a map drawn from the likelihood."""
        return mean + self.deviation(mean / params.capacity, params) * ndtri(quantile)

    def predicted(self, field: Float[Array, "x y z"], params: DensityMapParams) -> Float[Array, "x y z"]:
        """Return K c, on any grid."""
        return self.mean(field, params)

    def default_prior(
        self, name: str, anatomy: Anatomy, observations: Mapping[str, AbstractObservation]
    ) -> DensityMapParams:
        """Return the default prior: additive noise, log-normal about a tenth of the capacity.

        The capacity is one where no value is above 1.5, so that the map is of fractions. For counts and for what is
        read off the diffusion of water it is log-normal about the upper values of the map.
        """
        measured = np.asarray(self.values)[np.asarray(self.valid)]
        if self.law is None and measured.max() <= 1.5:
            return DensityMapParams(LogNormal(0.1, 0.7))
        full = np.asarray(np.percentile(measured[measured > 0], _FULL), float)
        unit = {} if self.law is None else {"unit": self.law.unit}
        return DensityMapParams(LogNormal(full / 10, 0.7), 0.0, LogNormal(full, 0.3), **unit)
