"""The interface of observations: images with a likelihood, as methods of calibration see them."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Bool, Float

from tumorjax.anatomy import Anatomy
from tumorjax.checks import check_box, check_numbers, concrete
from tumorjax.grid import Grid
from tumorjax.operators import block_mean


class AbstractObservation(eqx.Module):
    """An image of one field, with a likelihood whose parameters are calibrated too.

    The field is the density of the cells, unless `shows` says that it is the fluid (CSF), which growth with mass
    effect displaces, or the displacement itself, (x, y, z, 3) in mm. `valid` marks the voxels with data. Since errors
    of neighbouring voxels are correlated, the voxels are worth `effective_voxels` independent ones: each counts for
    the share `weight` of one, at most for one. Infinity counts every voxel as independent; `independent_voxels`
    computes the number from a correlation length. A class for which it follows from the grid may have None until it is
    `placed` there.

    A new observation needs the fields `valid` and `effective_voxels`, the image itself as another field of the same
    shape, and the methods `log_prob` and `expected`; everything else has a default. `default_prior` lets default priors
    and `personalize` include it, and parameters with a method `quantities(name)`, which returns a list of `Quantity`,
    have rows of their own in tables.

    Raises
    ------
    ValueError
        If the number of effective voxels is not positive.
    """

    shows: ClassVar[Literal["density", "csf", "displacement"]] = "density"
    title: ClassVar[str] = "image"
    is_image: ClassVar[bool] = True
    """Whether there is an image on the voxels of `valid`, which a network can be shown and the likelihood can draw."""

    valid: eqx.AbstractVar[Any]
    effective_voxels: eqx.AbstractVar[Any]

    def __check_init__(self) -> None:
        if self.effective_voxels is None:
            return
        check_numbers("effective_voxels", self.effective_voxels)
        voxels = concrete(self.effective_voxels)
        # Infinity is one.
        if voxels is not None and not np.all(voxels > 0):
            raise ValueError(f"effective_voxels must be positive, got {self.effective_voxels}")

    @property
    def image(self) -> Float[Any, "x y z"]:
        """The observed image; outside the valid voxels it may be anything. By default the first field of this shape."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "valid"}
        shape = jnp.shape(self.valid)
        found = [value for value in named.values() if getattr(value, "shape", None) == shape]
        if not found:
            raise ValueError(f"{type(self).__name__} has no image of the shape of `valid`, {shape}; define `image`")
        return found[0]

    @property
    def size(self) -> Float[Array, ""]:
        """Number of voxels that are worth `effective_voxels` independent ones: by default all valid ones."""
        return jnp.sum(self.valid).astype(self.image.dtype)

    @property
    def extent(self) -> Float[Any, "x y z"] | None:
        """Shares of voxels, (x, y, z), that show where the tumour is; None where the image cannot say."""
        return None

    @property
    def unit(self) -> Float[Array, ""] | float:
        """Unit in which images are predicted and drawn: one, unless squares of the numbers would overflow."""
        return 1.0

    @property
    def weight(self) -> Float[Array, ""]:
        """Share of an independent observation for which each voxel counts."""
        if self.effective_voxels is None:
            raise ValueError(
                "how many independent voxels the image is worth follows from its grid: take `placed(grid)` of it, as a "
                "Problem does, or give effective_voxels"
            )
        size = self.size
        return jnp.minimum(jnp.asarray(self.effective_voxels, size.dtype) / size, 1.0)

    def placed(self, grid: Grid) -> Self:
        """Return the observation with all that follows from its grid, as a `Problem` holds it; by default as it is."""
        return self

    @abstractmethod
    def log_prob(self, field: Float[Array, "x y z"], params: Any) -> Float[Array, ""]:
        """Return the log-likelihood of the image, nat."""

    @abstractmethod
    def expected(self, field: Float[Array, "x y z"], params: Any) -> list[tuple[Array, Array]]:
        """Return pairs of predictions m and precisions P, such that the Fisher information is sum of J_m^T P J_m.

        The first is that of the image itself, in its `unit`.
        """

    def log_probs_of(self, field: Float[Array, "x y z"]) -> Callable[[Any], Float[Array, "m"]]:
        """Return the function from many parameters, along a leading axis, to the log-likelihoods of one field, nat.

        A class whose likelihood depends on few numbers of the field computes these once.
        """
        return jax.vmap(lambda each: self.log_prob(field, each))

    def drawn(self, mean: Float[Array, "x y z"], params: Any, quantile: Float[Array, "x y z"]) -> Float[Array, "x y z"]:
        """Return an image drawn from the likelihood, in the `unit`: by default with Gaussian noise of `params.noise`.

        Parameters
        ----------
        mean
            The first prediction of `expected`.
        params
            The parameters that it was predicted with.
        quantile
            Quantiles of the noise, uniform in (0, 1). Where they are independent between voxels, the image is drawn
            from the likelihood in which each voxel counts for one.

        Raises
        ------
        ValueError
            If the parameters have no `noise`, and the class does not define how images are drawn.
        """
        noise = getattr(params, "noise", None)
        if noise is None:
            raise ValueError(
                f"how {type(self).__name__} draws images is unknown, since {type(params).__name__} has no `noise`; "
                "define `drawn`"
            )
        return mean + noise / jnp.asarray(self.unit, mean.dtype) * ndtri(quantile)

    def default_prior(self, name: str, anatomy: Anatomy, observations: Mapping[str, "AbstractObservation"]) -> Any:
        """Return the parameters of the observation with a distribution in place of each unknown.

        Parameters
        ----------
        name
            The name of the observation.
        anatomy
            The anatomy on whose grid it lies.
        observations
            All observations of the patient, by name.

        Raises
        ------
        ValueError
            If the class does not define one.
        """
        raise ValueError(
            f"{type(self).__name__} has no default prior for {name!r}; define `default_prior`, or write a Prior"
        )

    def predicted(self, field: Float[Array, "x y z"], params: Any) -> Float[Array, "x y z"] | None:
        """Return the image that the model predicts, for the report; None if there is none to show.

        By default it is the first prediction of `expected`, for a field on the observation's own grid only. A class
        whose prediction does not depend on the grid may return it on others too, whose voxels are finer.
        """
        if jnp.shape(field) != jnp.shape(self.valid):
            return None
        return self.expected(field, params)[0][0] * self.unit

    @property
    def scale(self) -> tuple[str, str]:
        """What a report shows of the image, and its unit in words, which is empty where it is unknown."""
        return self.title, ""

    def reading(self, values: Float[Any, "x y z"]) -> Float[Any, "x y z"]:
        """Return values of the image, measured or predicted, on the `scale` of reports: by default as they are."""
        return values

    def coarsen(self, factor: int) -> Self:
        """Return the observation on voxels `factor` times as long.

        Images become the mean over the valid voxels of each block; a block is valid, and inside of other masks, where
        more than half of it is.
        """
        valid, shape = jnp.asarray(self.valid, bool), jnp.shape(self.valid)

        def coarse(leaf: Any) -> Any:
            if getattr(leaf, "shape", None) != shape:
                return leaf
            if leaf.dtype == bool:
                return block_mean(leaf.astype(np.float32), factor) > 0.5
            share = block_mean(valid.astype(leaf.dtype), factor)
            mean = block_mean(jnp.where(valid, leaf, 0), factor)
            return jnp.where(share > 0, mean / jnp.where(share > 0, share, 1), 0)

        return jax.tree.map(coarse, self)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> Self:
        """Return the observation in a box of voxels, each of which counts as much as before; needs concrete images."""
        box = check_box(start, shape, jnp.shape(self.valid))
        return self._counting_as_before(jax.tree.map(lambda leaf: leaf[box] if jnp.ndim(leaf) == 3 else leaf, self))

    def within(self, mask: Bool[np.ndarray, "x y z"]) -> Self:
        """Return the observation in the voxels of a mask, each of which counts as before; needs concrete images."""
        return self._counting_as_before(dataclasses.replace(self, valid=np.asarray(self.valid) & mask))

    def _counting_as_before(self, part: Self) -> Self:
        """Return a part of the observation, whose voxels are worth what they are in the whole."""
        if self.effective_voxels is None:
            return part
        kept = float(part.size) / float(self.size)
        return dataclasses.replace(part, effective_voxels=np.asarray(self.effective_voxels * kept))
