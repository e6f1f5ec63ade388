"""Simulators for neural posterior estimation: images drawn at points of the prior's coordinates."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float, Key

from tumorjax.calibration.problem import Fields, Problem
from tumorjax.observation import AbstractObservation, Outline, independent_voxels


class AbstractSimulator(eqx.Module):
    """Draws data at points of coordinates whose prior is standard normal."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of coordinates, n."""

    @property
    @abstractmethod
    def dtype(self) -> Any:
        """The dtype in which data are computed."""

    @property
    def outlines(self) -> int:
        """Number of outlines of the same voxels whose labels follow each other."""
        return 1

    @abstractmethod
    def observed(self) -> tuple[Float[np.ndarray, "l"], Float[np.ndarray, "v"], Float[np.ndarray, "f"]]:
        """Return labels, values and extras of the patient."""

    @abstractmethod
    def predict(self, z: Float[Array, "n"]) -> Any:
        """Return the prediction from which data are drawn, the expensive part; not finite where it fails."""

    @abstractmethod
    def expected(self, prediction: Any) -> tuple[Float[Array, "w"], Float[Array, "w"]]:
        """Return mean and variance of labels and values."""

    @abstractmethod
    def draw(self, prediction: Any, key: Key[Array, ""]) -> tuple[Any, Any, Any]:
        """Draw labels, values and extras."""


class ProblemSimulator(AbstractSimulator):
    """Draws images of a problem's patient from the likelihoods of its observations.

    An observation whose voxels count for less than one has correlated errors. Those that are drawn are correlated over
    the length at which its voxels are worth `effective_voxels` independent ones.

    Parameters
    ----------
    problem
        The problem that is calibrated.
    filters
        For each image of each visit, by its own name, three matrices, one an axis, that correlate white noise; empty
        where it stays white.
    """

    problem: Problem
    filters: dict[str, tuple[Float[Any, "k k"], ...]]

    @classmethod
    def of(cls, problem: Problem) -> "ProblemSimulator":
        """Return the simulator of a problem with concrete images."""
        return cls(problem, {own: _filters(o, problem) for own, (_, o) in _images(problem).items()})

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.problem.prior.size

    @property
    def dtype(self) -> Any:
        """The anatomy's dtype."""
        return self.problem.dtype

    @property
    def outlines(self) -> int:
        """Number of outlines, those of all visits."""
        return sum(isinstance(o, Outline) for _, o in _images(self.problem).values())

    def observed(self) -> tuple[Float[np.ndarray, "l"], Float[np.ndarray, "v"], Float[np.ndarray, "f"]]:
        """Return the patient's images, with the same extras about their noise as from `draw`."""
        images = {
            own: jnp.asarray(o.image, self.dtype) / jnp.asarray(o.unit, self.dtype)
            for own, (_, o) in _images(self.problem).items()
        }
        labels, values, extras = (np.asarray(part, float) for part in self._apart(images))
        return labels, values, extras

    def predict(self, z: Float[Array, "n"]) -> Any:
        """Grow a tumour; return mean, variance and parameters of each image, by name."""
        params = self.problem.prior.constrain(z)
        found = {}
        for own, name, observation, field in self.problem.seen(self.problem.predict(params)):
            if observation.is_image:
                unknown = params.observations[name]
                # The first pair is of the image itself.
                mean, precision = observation.expected(field, unknown)[0]
                found[own] = (mean, jnp.where(precision > 0, 1 / precision, jnp.inf), unknown)
        return found

    def expected(self, prediction: Any) -> tuple[Float[Array, "w"], Float[Array, "w"]]:
        """Return mean and variance of the images."""
        joined = [jnp.concatenate(self._apart({name: one[i] for name, one in prediction.items()})[:2]) for i in (0, 1)]
        return joined[0], joined[1]

    def draw(self, prediction: Any, key: Key[Array, ""]) -> tuple[Any, Any, Any]:
        """Draw images."""
        images = {}
        for i, (name, (_, observation)) in enumerate(sorted(_images(self.problem).items())):
            mean, _, unknown = prediction[name]
            quantile = self._quantile(name, jax.random.fold_in(key, i), mean)
            images[name] = observation.drawn(mean, unknown, quantile)
        labels, values, extras = self._apart(images)
        return labels > 0.5, values, extras

    def _quantile(self, name: str, key: Key[Array, ""], like: Float[Array, "x y z"]) -> Float[Array, "x y z"]:
        """Return the noise of an observation: where it is correlated, Gaussian noise through the filters."""
        if not self.filters[name]:
            # Neither of the ends, where Gaussian noise is infinite.
            tiny = float(jnp.finfo(jnp.float32).eps)
            return jax.random.uniform(key, like.shape, like.dtype, minval=tiny, maxval=1 - tiny)
        noise = jax.random.normal(key, like.shape, like.dtype)
        for axis, matrix in enumerate(self.filters[name]):
            noise = jnp.moveaxis(jnp.tensordot(jnp.asarray(matrix, like.dtype), noise, (1, axis)), 0, axis)
        return ndtr(noise)

    def _apart(self, images: dict[str, Array]) -> tuple[Array, Array, Array]:
        """Return images of outlines in one row, others in another, and extras of those."""
        empty = [jnp.zeros(0, self.dtype)]
        pairs = [(o, images[own]) for own, (_, o) in sorted(_images(self.problem).items())]
        labels = [image.ravel() for o, image in pairs if isinstance(o, Outline)]
        values = [image.ravel() for o, image in pairs if not isinstance(o, Outline)]
        extras = [_noise_of(o.valid, image) for o, image in pairs if not isinstance(o, Outline)]
        return jnp.concatenate(labels + empty), jnp.concatenate(values + empty), jnp.concatenate(extras + empty)


def _images(problem: Problem) -> dict[str, tuple[str, AbstractObservation]]:
    """Return the observations that are images, which can be drawn, with the names of their parameters, by own names.

    The others are left to the correction.
    """
    nothing = (Fields(None, None),) * len(problem.visits)
    rows = problem.seen(nothing if problem.earlier else nothing[0])
    return {own: (name, each) for own, name, each, _ in rows if each.is_image}


def _filters(observation: AbstractObservation, problem: Problem) -> tuple[Float[np.ndarray, "k k"], ...]:
    """Return matrices that correlate errors so that the observation is worth its number of independent voxels."""
    if float(observation.weight) >= 1:
        return ()
    grid, valid = problem.anatomy.grid, np.asarray(observation.valid, float)
    counted = valid * np.asarray(observation.image, float) if isinstance(observation, Outline) else valid
    spacing = np.asarray(grid.spacing, float)
    sought = float(observation.weight * observation.size)
    # Far below a voxel, and far above the box.
    low, high = np.log(1e-2 * spacing.min()), np.log(10 * np.max(spacing * np.asarray(grid.shape)))
    for _ in range(30):
        middle = 0.5 * (low + high)
        worth = independent_voxels(counted, grid, float(np.exp(middle)))
        low, high = (middle, high) if worth > sought else (low, middle)
    length = float(np.exp(0.5 * (low + high)))
    found = []
    for count, step in zip(grid.shape, spacing, strict=True):
        place = np.arange(count) * step / length
        # White noise through exp(-d^2 / l^2) is correlated as exp(-d^2 / (2 l^2)).
        kernel = np.exp(-((place[:, None] - place) ** 2))
        found.append((kernel / np.linalg.norm(kernel, axis=1, keepdims=True)).astype(np.float32))
    return tuple(found)


def _noise_of(valid: Any, image: Float[Array, "x y z"]) -> Float[Array, "2"]:
    """Return how bright and how rough an image is, from which its noise can be estimated."""
    if image.ndim != 3:
        # A single number, whose noise one drawing does not show.
        return jnp.zeros(2, image.dtype)
    count = jnp.sum(valid).astype(image.dtype)
    bright, rough = jnp.sum(jnp.where(valid, image, 0) ** 2), jnp.zeros((), image.dtype)
    for axis in range(3):
        both = jax.lax.slice_in_dim(valid, 1, None, axis=axis) & jax.lax.slice_in_dim(valid, 0, -1, axis=axis)
        rough = rough + jnp.sum(jnp.where(both, jnp.diff(image, axis=axis), 0) ** 2)
    tiny = jnp.asarray(1e-12, image.dtype)
    return 0.5 * jnp.log(jnp.stack([bright, rough]) / count + tiny)
