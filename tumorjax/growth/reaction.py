"""What cells do where they are: the reaction of a growth model."""

from abc import abstractmethod

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

Field = Float[Array, "x y z"]


class AbstractReaction(eqx.Module):
    """The reaction of dc/dt = div(D grad c) + rho G f(c) - k c, voxel by voxel.

    Write a subclass for another law f than logistic growth. It returns what one density becomes, and the schemes of
    reaction-diffusion and of mass effect, their adjoints and every method of calibration use it. The fields of the
    subclass hold what the law depends on: numbers, or maps (x, y, z). The steps in time follow rho, so f should change
    at a rate of about one.
    """

    @abstractmethod
    def __call__(self, density: Field, grown: Field, killed: Float[Array, "..."] | None = None) -> Field:
        """Return the density after some time of reaction alone.

        Parameters
        ----------
        density
            c, (x, y, z), at the beginning of that time.
        grown
            (x, y, z): the integral of rho G over the time; zero outside the tissue, where the density must stay.
        killed
            The integral of k, a number or (x, y, z); None where no drug is given.
        """


class LogisticReaction(AbstractReaction):
    """Logistic growth, f(c) = c (1 - c), and death by a drug, exactly."""

    def __call__(self, density: Field, grown: Field, killed: Float[Array, "..."] | None = None) -> Field:
        """Return c e / (1 + c a (e - 1) / (a - b)), with a grown, b killed and e = exp(a - b)."""
        if killed is None:
            factor = jnp.exp(grown)
            return density * factor / (1 + density * (factor - 1))
        net = grown - killed
        # (e - 1) / (a - b) is one where growth and death balance; the first `where` keeps NaN out of its derivative.
        balanced = jnp.abs(net) < jnp.sqrt(jnp.finfo(net.dtype).eps)
        some = jnp.where(balanced, 1, net)
        crowding = grown * jnp.where(balanced, 1 + net / 2, jnp.expm1(some) / some)
        return density * jnp.exp(net) / (1 + density * crowding)
