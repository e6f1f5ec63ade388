"""Outlines: segmentations of the tumour in an MRI sequence, as Bernoulli observations."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from tumorjax.anatomy import Anatomy
from tumorjax.checks import as_image, as_mask, check_numbers, check_positive, concrete
from tumorjax.grid import Grid
from tumorjax.observation.link import AbstractLink, OddsLink
from tumorjax.observation.observation import AbstractObservation
from tumorjax.observation.surface_errors import SurfaceErrors
from tumorjax.operators import block_mean
from tumorjax.prior import LogNormal, Uniform
from tumorjax.quantity import Quantity

# Densities between which the likelihood of many thresholds is interpolated: their log-odds are closer to each other
# where thresholds are.
_LOW, _HIGH, _BINS = -2.4, 2.2, 384
_ODDS = 2 * np.sinh(np.linspace(_LOW, _HIGH, _BINS + 1))
PUBLISHED_THRESHOLDS: Mapping[str, tuple[float, float]] = {"core": (0.5, 0.85), "lesion": (0.05, 0.5)}
"""Published intervals of the densities at the outlines of core and lesion."""
# Symbol and meaning of these thresholds.
_KNOWN = {
    "core": ("u_T1Gd", "cell density at the outline of the core (T1Gd)"),
    "lesion": ("u_FLAIR", "cell density at the outline of the lesion (FLAIR)"),
}


class OutlineParams(eqx.Module):
    """Parameters of an outline.

    Parameters
    ----------
    threshold
        u, fraction of the carrying capacity: the isovalue of the density that the outline follows.
    sharpness
        Steepness of the probability across this isoline, in the unit of the link. It is a nuisance parameter, and must
        be free, since a fixed one would impose a width on the tumour's front.
    """

    threshold: Any
    sharpness: Any

    def __check_init__(self) -> None:
        check_positive("threshold", self.threshold)
        check_positive("sharpness", self.sharpness)

    def quantities(self, name: str) -> list[Quantity]:
        """Return the threshold in words; the sharpness is a nuisance."""
        symbol, meaning = _KNOWN.get(name, (f"u_{name}", f"cell density at the outline {name!r}"))
        value = lambda params: params.threshold  # noqa: E731
        return [Quantity(f"threshold_{name}", symbol, "", meaning, value, "threshold")]


class Outline(AbstractObservation):
    """An outline drawn in an image: each voxel is inside with a probability that depends on its density.

    With g the link, a voxel of density c is labelled with probability
    p = e_0 + (1 - e_0 - e_1) g(c, u). The error rates make the likelihood tolerant of lesions whose shape no
    isoline of the model has: a voxel on the wrong side has a bounded cost. They differ because labels
    are missing inside an isoline (where the true border is ragged, or a ventricle was) more often than they
    appear outside one.

    Parameters
    ----------
    inside
        y, (x, y, z): share of each voxel inside the outline, in [0, 1].
    valid
        (x, y, z), bool: the voxels that count, usually the tissue.
    link
        Link, which says how the probability rises across the isoline.
    false_positive, false_negative
        e_0 and e_1, in [0, 0.5).
    effective_voxels
        How many independent voxels the inside of the outline is worth. The errors of an outline are correlated along
        its surface, so counting its 10^3 to 10^5 voxels as independent (infinity, as the papers do) would make every
        standard deviation far too small. By default the number follows from `errors` where the outline is `placed` on
        its grid, as in a `Problem`.
    errors
        How the surface of the outline is displaced, by the reader and by the model's own error.

    Raises
    ------
    ValueError
        If shapes differ, the outline is empty in the valid voxels, or a number is out of its range.
    """

    title: ClassVar[str] = "outline"

    inside: Float[Any, "x y z"] = eqx.field(converter=as_image)
    valid: Bool[Any, "x y z"] = eqx.field(converter=as_mask)
    link: AbstractLink = OddsLink()
    false_positive: float = 0.1
    false_negative: float = 0.3
    effective_voxels: float | None = None
    errors: SurfaceErrors = SurfaceErrors()

    def __check_init__(self) -> None:
        if not isinstance(self.errors, SurfaceErrors):
            raise ValueError(f"errors must be SurfaceErrors(...), got {type(self.errors).__name__}")
        for name in ("false_positive", "false_negative"):
            rate = getattr(self, name)
            check_numbers(name, rate)
            known = concrete(rate)
            if known is not None and not np.all((known >= 0) & (known < 0.5)):
                raise ValueError(f"{name} must be in [0, 0.5), got {rate}")
        if self.inside.shape != self.valid.shape:
            raise ValueError(f"the outline has shape {self.inside.shape}, its valid voxels {self.valid.shape}")
        if not any(isinstance(image, Tracer) for image in (self.inside, self.valid)):
            low, high = float(self.inside.min()), float(self.inside.max())
            if not (low >= 0 and high <= 1):
                raise ValueError(f"an outline holds shares in [0, 1], got values from {low:g} to {high:g}")
            if not np.asarray(self.inside)[np.asarray(self.valid)].sum() > 0:
                raise ValueError("the outline is empty in the valid voxels; is it drawn in this brain's tissue?")

    @property
    def size(self) -> Float[Array, ""]:
        """Number of voxels inside the outline."""
        return jnp.sum(jnp.where(self.valid, self.inside, 0))

    def placed(self, grid: Grid) -> "Outline":
        """Return the outline with the number of independent voxels that follows from `errors`, unless it has one."""
        if self.effective_voxels is not None:
            return self
        worth = self.errors.independent_voxels(self.size, grid, self.false_positive, self.false_negative)
        return dataclasses.replace(self, effective_voxels=worth)

    @property
    def extent(self) -> Float[Any, "x y z"]:
        """The share of each voxel inside."""
        return self.inside

    def probability(self, density: Float[Array, "x y z"], params: OutlineParams) -> Float[Array, "x y z"]:
        """Return the probability that each voxel is labelled."""
        low = jnp.asarray(self.false_positive, density.dtype)
        high = 1 - jnp.asarray(self.false_negative, density.dtype)
        p = low + (high - low) * self.link(density, params.threshold, params.sharpness)
        # Without error rates, a link that rounds to zero or one would make an unlikely label impossible, and its
        # logarithm NaN. The bound is the rounding of float32 in any precision, so the posterior is the same in all.
        smallest = float(jnp.finfo(jnp.float32).eps)
        return jnp.clip(p, smallest, 1 - smallest)

    def log_prob(self, field: Float[Array, "x y z"], params: OutlineParams) -> Float[Array, ""]:
        """Return the weighted Bernoulli log-likelihood, nat."""
        p = self.probability(field, params)
        y = self.inside.astype(p.dtype)
        return self.weight.astype(p.dtype) * jnp.sum(
            jnp.where(self.valid, y * jnp.log(p) + (1 - y) * jnp.log(1 - p), 0)
        )

    def log_probs_of(self, field: Float[Array, "x y z"]) -> Callable[[OutlineParams], Float[Array, "m"]]:
        """Return the function from many thresholds and sharpnesses to log-likelihoods, nat, by binned log-odds.

        Each voxel counts for the two nearest of 385 densities, by linear interpolation in the inverse hyperbolic sine
        of half the log-odds. Densities below 2e-5 and above 0.9999 count as these.
        """
        # Not a number where the solve failed.
        failed = jnp.isnan(jnp.sum(field))
        odds = jnp.asarray(_ODDS, field.dtype)
        c = jnp.clip(field, jax.nn.sigmoid(odds[0]), jax.nn.sigmoid(odds[-1]))
        place = (jnp.arcsinh(jnp.log(c / (1 - c)) / 2) - _LOW) * (_BINS / (_HIGH - _LOW))
        low = jnp.clip(jax.lax.stop_gradient(jnp.nan_to_num(jnp.floor(place))).astype(int), 0, _BINS - 1)
        share = (place - low.astype(c.dtype)).ravel()
        inside = jnp.where(self.valid, self.inside.astype(c.dtype), 0).ravel()
        outside = jnp.where(self.valid, 1 - self.inside.astype(c.dtype), 0).ravel()
        parts = jnp.stack([inside * (1 - share), outside * (1 - share), inside * share, outside * share], axis=-1)
        binned = jnp.zeros((_BINS, 4), c.dtype).at[jnp.ravel(low)].add(parts)
        counts = jnp.pad(binned[:, :2], ((0, 1), (0, 0))) + jnp.pad(binned[:, 2:], ((1, 0), (0, 0)))
        weighted = jnp.where(failed, jnp.nan, self.weight.astype(c.dtype)) * counts
        densities = jax.nn.sigmoid(odds)

        def log_probs(params: OutlineParams) -> Float[Array, "m"]:
            p = jax.vmap(lambda each: self.probability(densities, each))(params)
            return jnp.log(p) @ weighted[:, 0] + jnp.log(1 - p) @ weighted[:, 1]

        return log_probs

    def expected(self, field: Float[Array, "x y z"], params: OutlineParams) -> list[tuple[Array, Array]]:
        """Return p with precision 1 / (p (1 - p)) in every voxel that counts, times its weight."""
        p = self.probability(field, params)
        return [(p, jnp.where(self.valid, self.weight.astype(p.dtype) / (p * (1 - p)), 0))]

    def drawn(
        self, mean: Float[Array, "x y z"], params: OutlineParams, quantile: Float[Array, "x y z"]
    ) -> Float[Array, "x y z"]:
        """Return the labels, zero or one: one where the quantile is below the probability."""
        return (quantile < mean).astype(mean.dtype)

    def default_prior(
        self, name: str, anatomy: Anatomy, observations: Mapping[str, AbstractObservation]
    ) -> OutlineParams:
        """Return the default prior: the threshold is uniform in the published interval of core or lesion.

        The threshold of any other outline is uniform over both intervals together.
        """
        interval = PUBLISHED_THRESHOLDS.get(name, (0.05, 0.85))
        return OutlineParams(Uniform(*interval), LogNormal(3.0, 0.7))

    def predicted(self, field: Float[Array, "x y z"], params: OutlineParams) -> None:
        """Return no image: reports draw the isoline of the density instead."""

    @eqx.filter_jit
    def brier(self, density: Float[Array, "x y z"], params: OutlineParams) -> Float[Array, ""]:
        """Return the mean squared difference of label and probability over the lesion and as much around it.

        The voxels are those where label or prediction exceed 1 %: averaged over a whole brain, which is mostly far
        from the tumour, every model would score well.
        """
        g = self.link(density, params.threshold, params.sharpness)
        y = self.inside.astype(g.dtype)
        counted = self.valid & ((y > 0.01) | (g > 0.01))
        return jnp.sum(jnp.where(counted, (y - g) ** 2, 0)) / jnp.maximum(counted.sum().astype(g.dtype), 1)

    def coarsen(self, factor: int) -> "Outline":
        """Return the outline on voxels `factor` times as long."""
        inside, valid = block_mean(self.inside, factor), block_mean(self.valid.astype(self.inside.dtype), factor) > 0
        return eqx.tree_at(lambda o: (o.inside, o.valid), self, (inside, valid))
