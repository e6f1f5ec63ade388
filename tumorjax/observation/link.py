"""Links: the probability that a voxel lies inside an outline, given its cell density."""

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class AbstractLink(eqx.Module):
    """The probability that a voxel of density c lies inside the outline drawn at threshold u."""

    @abstractmethod
    def __call__(
        self, density: Float[Array, "..."], threshold: Float[Array, ""], sharpness: Float[Array, ""]
    ) -> Float[Array, "..."]:
        """Return the probability."""


class OddsLink(AbstractLink):
    """A logistic link in the log-odds of the density: sigmoid(kappa (logit c - logit u)).

    Ahead of the front of a Fisher-Kolmogorov tumour log c falls linearly with distance, so the argument is
    a signed distance to the isoline in units of the front's width: the gradient reaches voxels far from the
    front, and a density of zero has probability zero. The sharpness is kappa, dimensionless.
    """

    def __call__(
        self, density: Float[Array, "..."], threshold: Float[Array, ""], sharpness: Float[Array, ""]
    ) -> Float[Array, "..."]:
        """Return the probability."""
        # Clipped well inside (0, 1), where float32 still separates the odds from their limits.
        c = jnp.clip(density, 1e-12, 1 - 1e-6)
        odds = jnp.log(c / (1 - c)) - jnp.log(threshold / (1 - threshold))
        return jax.nn.sigmoid(sharpness * odds)


class DoubleSigmoid(AbstractLink):
    """The link of the literature: 0.5 + 0.5 sign(c - u) (1 - exp(-(c - u)^2 / sigma_alpha^2)).

    Its gradient vanishes at the isoline and again far from it, so it suits samplers but not gradient
    methods; it serves comparisons. The sharpness is 1 / sigma_alpha, with sigma_alpha = 0.05 to 0.08
    of the carrying capacity in the literature.

    References
    ----------
    Lipkova et al., "Personalized radiotherapy design for glioblastoma", IEEE Trans. Med. Imaging 2019.
    """

    def __call__(
        self, density: Float[Array, "..."], threshold: Float[Array, ""], sharpness: Float[Array, ""]
    ) -> Float[Array, "..."]:
        """Return the probability."""
        above = density - threshold
        return 0.5 - 0.5 * jnp.sign(above) * jnp.expm1(-((above * sharpness) ** 2))
