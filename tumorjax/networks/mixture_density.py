"""Mixture density networks: mixtures of Gaussians with full covariances as functions of features [1]_.

References
----------
.. [1] C. M. Bishop, "Mixture density networks", Aston University 1994.
"""

import dataclasses
import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Key

from tumorjax.networks.weights import load_weights, save_weights

_FILE = "mixture density network"
# Bound of the logarithms of the inverse widths, in units of the targets' standard deviation.
_STEEPEST = 9.0


@dataclass(frozen=True)
class MixtureArchitecture:
    """The architecture of a `MixtureDensity`, which determines the shapes of its weights.

    Parameters
    ----------
    features
        Number of input features.
    size
        Number of coordinates of the distribution, n.
    components
        Number of Gaussians of each member.
    members
        Number of networks, trained independently, whose mixtures are averaged; where they disagree, the distribution is
        wide.
    hidden
        Number of units of each hidden layer.
    layers
        Number of hidden layers.
    linear
        Whether the means have a part that is linear in the features, which begins as a linear regression. Regression
        takes a matrix of all pairs of features, so that it is for summaries and not for images.
    """

    features: int
    size: int
    components: int = 6
    members: int = 3
    hidden: int = 50
    layers: int = 3
    linear: bool = True

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if name != "linear" and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} of a mixture density network must be a whole number from 1, got {value!r}")


class Statistic(nnx.Variable):
    """A statistic of the data, which is stored with the weights but not trained."""


class Mixture(NamedTuple):
    """Mixtures of Gaussians in standardised coordinates u, for e members and b inputs.

    Parameters
    ----------
    log_weights
        (e, b, k), logarithms of the weights, which sum to one for each member.
    means
        (e, b, k, n), means of the Gaussians.
    factors
        (e, b, k, n, n), matrices A, lower triangular with a positive diagonal; A A^T is the inverse of the covariance.
    """

    log_weights: Float[Array, "e b k"]
    means: Float[Array, "e b k n"]
    factors: Float[Array, "e b k n n"]


class MixtureDensity(nnx.Module):
    """A network for the distribution of targets given features: the average of its members' mixtures.

    Features and targets are standardised by statistics of the training data. The means are a linear function of the
    features, such as that of linear regression, if the architecture has it, plus the output of the hidden layers.

    Parameters
    ----------
    architecture
        Architecture of the network.
    rngs
        Random generators for the initial weights.
    """

    def __init__(self, architecture: MixtureArchitecture, rngs: nnx.Rngs) -> None:
        a = self.architecture = architecture
        widths = [a.features, *[a.hidden] * a.layers]
        self.kernels = nnx.List(
            [nnx.Param(_he(rngs.params(), (a.members, fan, out))) for fan, out in itertools.pairwise(widths)]
        )
        self.biases = nnx.List([nnx.Param(jnp.zeros((a.members, out), jnp.float32)) for out in widths[1:]])
        n, k = a.size, a.components
        out = k * (1 + 2 * n + n * (n - 1) // 2)
        # The hidden layers contribute nothing initially.
        self.head = nnx.Param(jnp.zeros((a.members, a.hidden, out), jnp.float32))
        self.offset = nnx.Param(jnp.zeros((a.members, out), jnp.float32))
        if a.linear:
            self.linear = nnx.Param(jnp.zeros((a.members, a.features, n), jnp.float32))
        self.feature_mean = Statistic(jnp.zeros(a.features, jnp.float32))
        self.feature_scale = Statistic(jnp.ones(a.features, jnp.float32))
        self.target_mean = Statistic(jnp.zeros(n, jnp.float32))
        self.target_factor = Statistic(jnp.eye(n, dtype=jnp.float32))

    def mixture(self, features: Float[Array, "b f"] | Float[Array, "e b f"]) -> Mixture:
        """Return every member's mixtures in standardised coordinates; features may differ between members."""
        a = self.architecture
        x = (features.astype(jnp.float32) - self.feature_mean[...]) * self.feature_scale[...]
        x = jnp.broadcast_to(x, (a.members, *x.shape[-2:]))
        y = x
        head, offset = (each[...].astype(x.dtype) for each in (self.head, self.offset))
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            y = jnp.tanh(
                jnp.einsum("ebf,efh->ebh", y, kernel[...].astype(x.dtype)) + bias[...].astype(x.dtype)[:, None]
            )
        output = jnp.einsum("ebh,eho->ebo", y, head) + offset[:, None]
        logits, means, steepness, below = self._parts(output)
        if a.linear:
            means = means + jnp.einsum("ebf,efn->ebn", x, self.linear[...].astype(x.dtype))[..., None, :]
        # A product with a selection matrix, because scatters are slow on the CPU.
        rows, columns = np.tril_indices(a.size, -1)
        places = np.zeros((len(rows), a.size * a.size), np.float32)
        places[np.arange(len(rows)), rows * a.size + columns] = 1
        unit = (below @ jnp.asarray(places)).reshape(*below.shape[:-1], a.size, a.size)
        unit = unit + jnp.eye(a.size, dtype=jnp.float32)
        # The bounds are soft, because a hard bound would have no gradient beyond it.
        steep = jnp.exp(_STEEPEST * jnp.tanh(steepness / _STEEPEST))
        return Mixture(jax.nn.log_softmax(logits), means, unit * steep[..., None, :])

    def log_probs(
        self, features: Float[Array, "b f"] | Float[Array, "e b f"], targets: Float[Array, "b n"]
    ) -> Float[Array, "e b"]:
        """Return each member's log-density of targets (b, n) or (e, b, n)."""
        found = self.mixture(features)
        factor = self.target_factor[...]
        inverse = jax.scipy.linalg.solve_triangular(factor, jnp.eye(len(factor), dtype=jnp.float32), lower=True)
        u = (targets.astype(jnp.float32) - self.target_mean[...]) @ inverse.T
        u = jnp.broadcast_to(u, (self.architecture.members, *u.shape[-2:]))
        # Sums of products are far faster than many tiny matrix products.
        residual = jnp.sum(found.factors * (u[:, :, None] - found.means)[..., None], axis=-2)
        steepness = jnp.log(jnp.diagonal(found.factors, axis1=-2, axis2=-1)).sum(axis=-1)
        constant = 0.5 * self.architecture.size * np.float32(np.log(2 * np.pi)) + jnp.log(jnp.diagonal(factor)).sum()
        return logsumexp(found.log_weights + steepness - 0.5 * jnp.sum(residual**2, axis=-1), axis=-1) - constant

    def log_prob(self, features: Float[Array, "b f"], targets: Float[Array, "b n"]) -> Float[Array, "b"]:
        """Return the log-density of targets given features."""
        members = np.float32(np.log(self.architecture.members))
        return logsumexp(self.log_probs(features, targets), axis=0) - members

    def sample(self, features: Float[Array, "f"], key: Key[Array, ""], count: int) -> Float[Array, "c n"]:
        """Draw targets given one set of features."""
        log_weights, means, factors = self.given(features)
        choice, noise = jax.random.split(key)
        chosen = jax.random.categorical(choice, jnp.asarray(log_weights), shape=(count,))
        z = jax.random.normal(noise, (count, self.architecture.size), jnp.float32)
        means, factors = jnp.asarray(means, jnp.float32), jnp.asarray(factors, jnp.float32)
        return means[chosen] + jnp.einsum("cij,cj->ci", factors[chosen], z)

    def given(
        self, features: Float[Any, "f"]
    ) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m n"], Float[np.ndarray, "m n n"]]:
        """Return the mixture for one set of features: log-weights, means, and Cholesky factors of the covariances."""
        found = _mixture(self, jnp.asarray(np.asarray(features, np.float32))[None])
        a = self.architecture
        log_weights, means, factors = (np.asarray(part, float)[:, 0] for part in found)
        shift, scale = (np.asarray(s[...], float) for s in (self.target_mean, self.target_factor))
        log_weights = (log_weights - np.log(a.members)).reshape(-1)
        means = shift + means.reshape(-1, a.size) @ scale.T
        inverse = np.linalg.inv(factors.reshape(-1, a.size, a.size))
        covariances = scale @ np.swapaxes(inverse, -1, -2) @ inverse @ scale.T
        return log_weights, means, np.linalg.cholesky(covariances)

    def _parts(self, output: Array) -> tuple[Array, Array, Array, Array]:
        """Return logits, means, logarithms of the diagonal and entries below it, each for every component."""
        a = self.architecture
        n, k = a.size, a.components
        logits, means, steepness, below = jnp.split(output, np.cumsum([k, k * n, k * n]), axis=-1)
        return (
            logits,
            means.reshape(*output.shape[:-1], k, n),
            steepness.reshape(*output.shape[:-1], k, n),
            below.reshape(*output.shape[:-1], k, n * (n - 1) // 2),
        )


def flattened(model: MixtureDensity) -> Float[np.ndarray, "w"]:
    """Return all weights and statistics of a network in one row."""
    return np.asarray(ravel_pytree(nnx.state(model))[0])


def unflattened(architecture: MixtureArchitecture, row: Float[np.ndarray, "w"]) -> MixtureDensity:
    """Return the network whose weights and statistics lie in a row, or raise a ValueError where there are others."""
    model = MixtureDensity(architecture, nnx.Rngs(0))
    own, back = ravel_pytree(nnx.state(model))
    if own.shape != row.shape:
        raise ValueError(f"the network has {own.size} weights, got {row.size}")
    nnx.update(model, back(jnp.asarray(row, own.dtype)))
    return model


def _he(key: Key[Array, ""], shape: tuple[int, int, int]) -> Float[Array, "e i o"]:
    """Return initial weights by He's rule."""
    return np.float32(np.sqrt(2 / shape[1])) * jax.random.normal(key, shape, jnp.float32)


@nnx.jit
def _mixture(model: MixtureDensity, features: Float[Array, "b f"]) -> Mixture:
    return model.mixture(features)


def save_mixture(path: str | os.PathLike, model: MixtureDensity, about: Mapping[str, Any] | None = None) -> None:
    """Write a mixture density network; see `save_weights`."""
    save_weights(path, model, _FILE, dataclasses.asdict(model.architecture), about)


def load_mixture(path: str | os.PathLike) -> MixtureDensity:
    """Read the mixture density network in a file.

    Raises
    ------
    ValueError
        If the file is missing, damaged, or of another network.
    """
    model, _ = load_weights(path, _FILE, lambda config, rngs: MixtureDensity(MixtureArchitecture(**config), rngs))
    return model
