"""Errors of outlines as displacements of their surface, and the number of independent voxels that follows from them.

An outline lies at the isoline of a density, displaced along the normal by a Gaussian field delta of mean zero on the
surface, whose covariance at the distance d is

    C(d) = s^2 exp(-d^2 / (2 l^2)) + m^2 exp(-d^2 / (2 l_m^2)):

s and l are of the reader, m and l_m of the model of growth, no isoline of which has the tumour's shape. How an outline
of so many voxels is weighted follows from this field. The Bernoulli likelihood of `Outline` has the right probability
of each label, but multiplies those of labels that err together. Let a step theta of a parameter displace the isoline by
theta g over the surface A, with g smooth compared to l. In voxels of volume v, with the weight w of each, and with psi
the slope of their log-likelihood in the displacement, summed along the normal, the whole likelihood has

    information        H = (w / v) E[psi'] int g^2 dA,
    variance of slope  J = (w / v)^2 E[psi']^2 int int g g' C dA dA' = (w / v)^2 E[psi']^2 S int g^2 dA,  S = int C dA.

Its maximum has the variance J / H^2, and the posterior about it 1 / H. These are the same, which is the magnitude
adjustment of a composite likelihood, with the weight

    w = v / (E[psi'] S).

Without errors of single labels, the logistic function that is nearest to displacements of standard deviation t has the
slope E[psi'] = pi / (sqrt(3) t). The displacement of an area A by h costs (w / v) E[psi'] h^2 A / 2 = h^2 A / (2 S):
half a nat where a patch of the area S / t^2 is displaced by t. That is also the cost by the Gaussian likelihood of
signed distances with the covariance C itself, where displacements are smooth compared to l.

References
----------
Pauli, Racugno, Ventura, "Bayesian composite marginal likelihoods", Statistica Sinica 21 (2011) 149-164.
Ribatet, Cooley, Davison, "Bayesian inference from composite likelihoods, with an application to spatial extremes",
Statistica Sinica 22 (2012) 813-845.
"""

import functools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float
from scipy.special import expit, ndtr

from tumorjax.checks import check_not_negative, check_positive, concrete
from tumorjax.grid import Grid

# Largest displacements by the model's error, and the length of their correlation, in radii of the outline.
_LARGEST_DEVIATION, _LARGEST_LENGTH = 0.25, 0.5
# No head is as large as this, mm, and the fourth power of far larger numbers does not exist in single precision.
_LARGEST_READER = 1000.0


class SurfaceErrors(eqx.Module):
    """Displacements of an outline along its normal, correlated along its surface; mm.

    The defaults of a reader are those of outlines of a whole lesion that `errors_of_readers` finds between five
    segmentations of one patient (`python -m benchmarks readers`). Outlines of its core differ less: see `READERS`. What
    the five have in common is in neither.

    Parameters
    ----------
    deviation
        s: standard deviation of the displacement by the reader. A displacement that is the same everywhere belongs to
        the threshold, and not to it.
    length
        l: length over which it is correlated, as exp(-d^2 / (2 l^2)).
    model_deviation
        m: standard deviation of the displacement by which the isoline of the best parameters misses the surface, where
        the model is wrong; zero where it is right. No more than a quarter of the radius of the outline counts, since
        the lobes of a small tumour are small.
    model_length
        l_m: length over which this is correlated; no more than half the radius counts. The default is that of three
        real patients, whose outlines, of radii from 13 to 33 mm, the best isolines miss by m = 5 mm. The smallest, with
        3.7 mm over 8 mm, is missed by .28 of its radius over .61.

    Raises
    ------
    ValueError
        If a number is negative, or a length zero, or not finite, or a reader's beyond 1 m.
    """

    deviation: float = 1.1
    length: float = 8.6
    model_deviation: float = 0.0
    model_length: float = 11.0

    def __check_init__(self) -> None:
        for name in ("deviation", "model_deviation"):
            check_not_negative(name, getattr(self, name))
        for name in ("length", "model_length"):
            check_positive(name, getattr(self, name))
        for name in ("deviation", "length"):
            known = concrete(getattr(self, name))
            if known is not None and not np.all(known <= _LARGEST_READER):
                raise ValueError(f"{name} of a reader must be at most {_LARGEST_READER:g} mm, got {known}")

    def integral(self, volume: Float[Any, ""]) -> Float[Array, ""]:
        """Return S, mm^4: the integral of the covariance over the surface of the ball of a volume (mm^3).

        It is 2 pi (s^2 l^2 + m^2 l_m^2) on a surface far wider than the lengths, and s^2 + m^2 times its area on one
        that is far smaller: on a sphere of radius R, the largest eigenvalue of the covariance,
        2 pi l^2 (1 - exp(-2 R^2 / l^2)) for each part.
        """
        square = _radius(volume) ** 2
        return sum(
            (-2 * np.pi * (s * reach) ** 2 * jnp.expm1(-2 * square / reach**2) for s, reach in self._parts(volume)),
            jnp.zeros_like(square),
        )

    def patches(self, volume: Float[Any, ""]) -> Float[Array, ""]:
        """Return the number of independent displacements of the ball of a volume (mm^3): its area times C(0) / S."""
        area = (36 * np.pi * jnp.asarray(volume) ** 2) ** (1 / 3)
        return area * self.variance(volume) / self.integral(volume)

    def variance(self, volume: Float[Any, ""]) -> Float[Array, ""]:
        """Return C(0) = s^2 + m^2, mm^2, on the surface of the ball of a volume (mm^3)."""
        return sum((s**2 for s, _ in self._parts(volume)), jnp.zeros_like(_radius(volume)))

    def _parts(self, volume: Float[Any, ""]) -> tuple[tuple[Any, Any], ...]:
        """Return deviation and length of the reader's errors, and of the model's as far as the radius allows them."""
        radius = _radius(volume)
        deviation = jnp.minimum(self.model_deviation, _LARGEST_DEVIATION * radius)
        length = jnp.minimum(self.model_length, _LARGEST_LENGTH * radius)
        return (self.deviation, self.length), (deviation, length)

    def independent_voxels(
        self, inside: Float[Any, ""], grid: Grid, false_positive: float = 0.0, false_negative: float = 0.0
    ) -> Float[Any, ""]:
        """Return how many independent voxels the inside of an outline is worth: its volume times w / v.

        Parameters
        ----------
        inside
            Number of voxels inside.
        grid
            The grid of the outline. The width of its voxels adds to the displacement, whose standard deviation t
            (squared) is s^2 + m^2 + h^2 / 12.
        false_positive, false_negative
            Error rates of single labels. The likelihood is flatter with them, so that each voxel counts for more.

        Raises
        ------
        ValueError
            If an error rate is traced, since the nearest probabilities are sought on the host.
        """
        rates = concrete(false_positive), concrete(false_negative)
        if rates[0] is None or rates[1] is None:
            raise ValueError("give effective_voxels where error rates of labels are traced")
        inside, voxel = jnp.asarray(inside), jnp.asarray(grid.voxel_volume)
        volume = inside * voxel.astype(inside.dtype)
        width = self.variance(volume) + voxel.astype(inside.dtype) ** (2 / 3) / 12
        slope = _slope(float(rates[0]), float(rates[1])) / jnp.sqrt(width)
        found = volume / (slope * self.integral(volume))
        return found if isinstance(found, Tracer) else np.asarray(found)


READERS = {"core": SurfaceErrors(0.4, 5.1), "lesion": SurfaceErrors()}
"""Errors of readers by the name of the outline, whose defaults say where they come from; any other is as a lesion."""


def _radius(volume: Float[Any, ""]) -> Float[Array, ""]:
    """Return the radius of the ball of a volume."""
    return (3 * jnp.asarray(volume) / (4 * np.pi)) ** (1 / 3)


@functools.lru_cache
def _slope(false_positive: float, false_negative: float) -> float:
    """Return E[psi'] of labels whose border has the standard deviation one, for the nearest probabilities.

    Nearest to the probability Phi(-x) of a label at the signed distance x, by expected log-likelihood, among those that
    an `Outline` gives: e_0 + (1 - e_0 - e_1) sigmoid(-a (x - b)).
    """
    from scipy.optimize import minimize

    x = np.linspace(-12, 12, 1201)
    label = ndtr(-x)

    def probability(steepness: float, shift: float) -> np.ndarray:
        g = expit(np.exp(steepness) * (shift - x))
        return np.clip(false_positive + (1 - false_positive - false_negative) * g, 1e-7, 1 - 1e-7)

    def cost(numbers: np.ndarray) -> float:
        p = probability(*numbers)
        return -float(np.sum(label * np.log(p) + (1 - label) * np.log(1 - p)))

    found = minimize(cost, [0.6, 0.0], method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-8})
    p = probability(*found.x)
    slopes = np.gradient(np.log((1 - p) / p), x)
    return float(np.sum(slopes * np.exp(-(x**2) / 2)) * (x[1] - x[0]) / np.sqrt(2 * np.pi))
