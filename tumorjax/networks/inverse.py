"""The inverse network of Learn-Morph-Infer, which predicts growth parameters from the outlines of a tumour [1]_.

References
----------
.. [1] I. Ezhov et al., "Learn-Morph-Infer: a new way of solving the inverse problem for brain tumor modeling", Medical
   Image Analysis 2023, section 2.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Shaped, UInt8
from scipy.special import softmax

from tumorjax.checks import check_not_negative
from tumorjax.networks.inverse_windows import InverseArchitecture, View, volumes
from tumorjax.networks.layers import PatchDown, Residual
from tumorjax.networks.mixture_density import Mixture, MixtureArchitecture, MixtureDensity
from tumorjax.networks.tumours import Turn, as_bytes
from tumorjax.networks.weights import load_weights, save_weights

SHIPPED_INVERSE = Path(__file__).parent / "trained" / "inverse.safetensors"
"""A network of parameters, trained in ICBM152."""
SHIPPED_POSTERIOR = SHIPPED_INVERSE.with_name("posterior.safetensors")
"""A network of their distribution, trained in ICBM152 and four random relatives of it."""
SHIPPED_MASS_EFFECT = SHIPPED_INVERSE.with_name("mass_effect.safetensors")
"""One of their distribution and of gamma, for tumours that displace tissue; trained in ICBM152 and two relatives."""
_FILE = "inverse network"
# Number of reflections, which are the first of the symmetries.
_MIRRORED = 8
# Radius of a typical lesion, mm.
_USUAL = 20.0
# Units of the hidden layer between features and the distribution.
_HIDDEN = 64
_NOT_FINITE = "the network's prediction is not finite; train it again, or use another file of weights"


class InverseNetwork(nnx.Module):
    """A network that predicts growth parameters, or their distribution, from windows of outlines.

    Parameters
    ----------
    architecture
        Architecture of the network.
    rngs
        Random generators for the initial weights.
    """

    def __init__(self, architecture: InverseArchitecture, rngs: nnx.Rngs) -> None:
        self.architecture = architecture
        trunk = self.trunk = _TRUNKS[architecture.layers](architecture, rngs)
        count = len(architecture.targets)
        if architecture.components:
            made = MixtureArchitecture(trunk.features, count, architecture.components, 1, _HIDDEN, 1)
            self.head = MixtureDensity(made, rngs)
        else:
            self.head = nnx.Linear(trunk.features, count, kernel_init=trunk.kernels, rngs=rngs)

    def __call__(self, windows: UInt8[Array, "b w w w c"], radius: Float[Array, "b"]) -> Float[Array, "b t"]:
        """Return the coordinates of the targets from windows around lesions with these radii, mm; their mean."""
        features = self.features(windows, radius)
        if isinstance(self.head, nnx.Linear):
            return self.head(features).astype(jnp.float32)
        found = self.head.mixture(features)
        return jnp.einsum("bk,bkt->bt", jnp.exp(found.log_weights[0]), found.means[0])

    def features(self, windows: UInt8[Array, "b w w w c"], radius: Float[Array, "b"]) -> Float[Array, "b f"]:
        """Return what the last layers see of windows around lesions with these radii, mm."""
        own = self.trunk.dtype
        size = jnp.log(radius / _USUAL)[:, None].astype(own)
        return self.trunk(windows.astype(own) / 255, size)


class _Patches(nnx.Module):
    features, kernels = 128, staticmethod(nnx.initializers.lecun_normal())

    def __init__(self, architecture: InverseArchitecture, rngs: nnx.Rngs) -> None:
        self.first = PatchDown(4, architecture.channels, 64, rngs)
        self.size = nnx.Linear(1, 64, rngs=rngs)
        self.fine = Residual(2, 64, rngs, gathered=True)
        self.second = PatchDown(2, 64, 96, rngs)
        self.coarse = nnx.List([Residual(2, 96, rngs, gathered=True) for _ in range(2)])
        self.narrow = nnx.Linear(96, 32, rngs=rngs)
        self.dense = nnx.Linear(32 * (architecture.window // 8) ** 3, self.features, rngs=rngs)

    @property
    def dtype(self) -> Any:
        """The dtype of the weights."""
        return self.dense.kernel[...].dtype

    def __call__(self, x: Float[Array, "b w w w c"], size: Float[Array, "b 1"]) -> Float[Array, "b f"]:
        x = self.first(x) + self.size(size)[:, None, None, None]
        x = self.second(self.fine(x))
        for block in self.coarse:
            x = block(x)
        x = jax.nn.gelu(self.narrow(x))
        return jax.nn.gelu(self.dense(x.reshape(len(x), -1)))


class _Convolutions(nnx.Module):
    """The network of the paper, with 1.79 million weights and He's initialisation."""

    features, kernels = 64, staticmethod(nnx.initializers.he_normal())

    def __init__(self, architecture: InverseArchitecture, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(architecture.channels, 64, (7, 7, 7), strides=2, kernel_init=self.kernels, rngs=rngs)
        self.blocks = nnx.List([Residual(4, 64, rngs, kernels=self.kernels) for _ in range(4)])

    @property
    def dtype(self) -> Any:
        """The dtype of the weights."""
        return self.first.kernel[...].dtype

    def __call__(self, x: Float[Array, "b w w w c"], size: Float[Array, "b 1"]) -> Float[Array, "b f"]:
        x = jax.nn.relu(self.first(x))
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i < len(self.blocks) - 1:
                x = nnx.max_pool(x, (2, 2, 2), strides=(2, 2, 2))
        return x.mean(axis=(1, 2, 3))


_TRUNKS = {"patch": _Patches, "convolution": _Convolutions}


class Distribution(NamedTuple):
    """The distribution of the parameters of a tumour as a network predicts it: a mixture of Gaussians of its targets.

    Parameters
    ----------
    log_weights, means, factors
        (m,), (m, t) and (m, t, t): logarithms of the weights, means, and Cholesky factors of the covariances, in the
        coordinates of the architecture.
    architecture
        Of the network.
    view
        What the network saw.
    spacing
        Edge of the voxels, mm.
    """

    log_weights: Float[np.ndarray, "m"]
    means: Float[np.ndarray, "m t"]
    factors: Float[np.ndarray, "m t t"]
    architecture: InverseArchitecture
    view: View
    spacing: float

    def values(self, coordinates: Float[np.ndarray, "*k t"]) -> dict[str, Float[np.ndarray, "*k"]]:
        """Return targets by name from coordinates; x, y and z are fractional voxel indices."""
        made, (_, middle, radius) = self.architecture, self.view
        values = made.values(coordinates, radius)
        steps = made.unit(radius) / self.spacing
        return values | {axis: middle[i] + steps * values[axis] for i, axis in enumerate("xyz") if axis in values}

    def mean(self, mass_effect: float | None = None) -> Float[np.ndarray, "t"]:
        """Return the mean in the coordinates of the architecture; given gamma, Pa, that of the others for this one."""
        if mass_effect is None:
            return np.exp(self.log_weights) @ self.means
        number = self.architecture.targets.index("gamma")
        low, high = self.architecture.box.bounds("gamma")
        missed = (2 * mass_effect - low - high) / (high - low) - self.means[:, number]
        # A mixture of Gaussians given one coordinate: each component by how well it foresaw that.
        slopes = np.einsum("mtu,mu->mt", self.factors, self.factors[:, number])
        variance = slopes[:, number]
        log_weights = self.log_weights - (missed**2 / variance + np.log(variance)) / 2
        means = self.means + slopes / variance[:, None] * missed[:, None]
        return softmax(log_weights) @ means


@nnx.jit
def _predict(
    model: InverseNetwork, windows: UInt8[Array, "b w w w c"], radius: Float[Array, "b"]
) -> Float[Array, "b t"]:
    return model(windows, radius)


@nnx.jit
def _distribution(model: InverseNetwork, windows: UInt8[Array, "b w w w c"], radius: Float[Array, "b"]) -> Mixture:
    assert isinstance(model.head, MixtureDensity)
    return model.head.mixture(model.features(windows, radius))


def infer(
    model: InverseNetwork,
    core: Bool[np.ndarray, "x y z"],
    lesion: Bool[np.ndarray, "x y z"],
    tissue: Shaped[np.ndarray, "x y z 3"],
    spacing: float | None = None,
    *,
    mass_effect: float | None = None,
) -> dict[str, float]:
    """Predict the targets of a network for a tumour; x, y and z are returned as fractional voxel indices.

    Parameters
    ----------
    model
        The trained network.
    core, lesion
        Boolean outlines.
    tissue
        Shares of white matter, grey matter and CSF, 0..1 or 0..255.
    spacing
        Edge of the voxels, mm; by default that of the network. Another one needs a network whose window is as wide as
        the lesion.
    mass_effect
        gamma, Pa, where it is known: the other targets are then predicted for this one. It needs a network of the
        distribution that tells gamma.

    Raises
    ------
    ValueError
        If the lesion is empty, shapes differ, the grid or the edge of the voxels is not that of the network's training,
        or most of the lesion lies in fluid, which indicates another order of the tissues. If `mass_effect` is negative
        or not finite, or the network predicts no distribution of it.

    Warns
    -----
    OutsideTraining
        If the volumes of the outlines, or the predicted parameters, are outside the range of the training data.
    """
    made = model.architecture
    if mass_effect is not None:
        if not (made.components and "gamma" in made.targets):
            raise ValueError("the network predicts no distribution of gamma, given which others could be predicted")
        check_not_negative("mass_effect", mass_effect)
        found = _distribution_of(model, core, lesion, tissue, spacing)
        return _told(found, found.mean(mass_effect))
    view = _view(made, core, lesion, tissue, spacing)
    turns, windows, radii = _turned(made, view)
    predictions = np.asarray(_predict(model, windows, radii)).astype(float)
    mean = np.mean([each * signs for each, signs in zip(predictions, _signs(made, turns), strict=True)], axis=0)
    if not np.isfinite(mean).all():
        raise ValueError(_NOT_FINITE)
    found = Distribution(
        np.zeros(1), mean[None], np.zeros((1, len(mean), len(mean))), made, view, spacing or made.spacing
    )
    return _told(found, mean)


def _told(found: Distribution, mean: Float[np.ndarray, "t"]) -> dict[str, float]:
    """Return the targets at a mean, with a warning where it is outside the training data."""
    made, values = found.architecture, found.architecture.values(mean, found.view.radius)
    made.box.warn("the network", {name: float(value) for name, value in values.items()}, tolerance=0.02)
    return {name: float(value) for name, value in found.values(mean).items()}


def infer_distribution(
    model: InverseNetwork,
    core: Bool[np.ndarray, "x y z"],
    lesion: Bool[np.ndarray, "x y z"],
    tissue: Shaped[np.ndarray, "x y z 3"],
    spacing: float | None = None,
) -> Distribution:
    """Predict the distribution of the targets of a network for a tumour.

    Parameters, errors and warnings are those of `infer`; the distribution is the mean of those for all reflections.

    Raises
    ------
    ValueError
        Also if the network predicts the targets alone.
    """
    found = _distribution_of(model, core, lesion, tissue, spacing)
    _told(found, found.mean())
    return found


def _distribution_of(model: InverseNetwork, core: Any, lesion: Any, tissue: Any, spacing: float | None) -> Distribution:
    made = model.architecture
    if not made.components:
        raise ValueError("the network predicts parameters without their distribution; train one with components")
    view = _view(made, core, lesion, tissue, spacing)
    turns, windows, radii = _turned(made, view)
    log_weights, means, factors = (np.asarray(part[0], float) for part in _distribution(model, windows, radii))
    if not all(np.isfinite(part).all() for part in (log_weights, means, factors)):
        raise ValueError(_NOT_FINITE)
    # The factor A of the precision A A^T is lower triangular: so A^-T is a factor of the covariance.
    covariances = np.linalg.inv(factors @ np.swapaxes(factors, -1, -2))
    signs = _signs(made, turns)[:, None]
    flipped = np.linalg.cholesky(covariances * signs[..., :, None] * signs[..., None, :])
    count = len(made.targets)
    return Distribution(
        (log_weights - np.log(len(turns))).ravel(),
        (means * signs).reshape(-1, count),
        flipped.reshape(-1, count, count),
        made,
        view,
        spacing or made.spacing,
    )


def _view(made: InverseArchitecture, core: Any, lesion: Any, tissue: Any, spacing: float | None = None) -> View:
    """Return what a network sees of outlines and tissue, which are checked."""
    edge = made.spacing if spacing is None else spacing
    if made.radii is None and not np.isclose(edge, made.spacing, rtol=0.01):
        raise ValueError(f"the network learnt on voxels of {made.spacing:g} mm, got {edge:g} mm; resample")
    if tissue.ndim != 4 or tissue.shape[-1] != 3:
        raise ValueError(f"the last axis must hold white matter, grey matter and CSF, got shape {tissue.shape}")
    if core.shape != lesion.shape or tissue.shape[:3] != lesion.shape:
        raise ValueError(f"outlines have shapes {core.shape} and {lesion.shape}, the tissue {tissue.shape}; resample")
    if not lesion.any():
        raise ValueError("the lesion is empty, so nothing can be inferred from it")
    inside = tissue[lesion].mean(axis=0)
    if inside[2] > inside[:2].sum():
        raise ValueError(
            "most of the lesion lies in fluid; give tissue in the order white matter, grey matter, CSF, and outlines "
            "on its grid"
        )
    made.check_grid(lesion.shape)
    made.box.warn("the network", volumes(core, lesion, edge))
    return made.view(core, lesion, as_bytes(tissue), spacing=edge)


def _turned(made: InverseArchitecture, view: View) -> tuple[list[Turn], Array, Array]:
    """Return reflections, the reflected windows and their radii.

    Growth is symmetric under reflections, but a network is not exactly: the mean over all of them errs less.
    """
    turns = [Turn(number) for number in range(_MIRRORED if made.tissue else 1)]
    windows = jnp.asarray(np.stack([turn.volume(view.window) for turn in turns]))
    return turns, windows, jnp.full(len(turns), view.radius, jnp.float32)


def _signs(made: InverseArchitecture, turns: list[Turn]) -> Float[np.ndarray, "r t"]:
    """Return the signs with which reflections change the coordinates of the targets."""
    found = np.ones((len(turns), len(made.targets)))
    for signs, turn in zip(found, turns, strict=True):
        own = turn.back(np.ones(3))
        for axis in "xyz":
            if axis in made.targets:
                signs[made.targets.index(axis)] = own["xyz".index(axis)]
    return found


def save_inverse(path: str | os.PathLike, model: InverseNetwork, about: Mapping[str, Any] | None = None) -> None:
    """Write an inverse network; see `save_weights`."""
    save_weights(path, model, _FILE, dataclasses.asdict(model.architecture), about)


def load_inverse(path: str | os.PathLike = SHIPPED_INVERSE) -> InverseNetwork:
    """Read the inverse network in a file.

    Parameters
    ----------
    path
        File of weights. By default the weights of the package: a small network for voxels of 2 mm, trained on tumours
        in ICBM152 with parameters in the published ranges.

    Raises
    ------
    ValueError
        If the file is missing, damaged, or of another network.
    """
    model, _ = load_weights(path, _FILE, lambda config, rngs: InverseNetwork(InverseArchitecture(**config), rngs))
    return model
