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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Shaped, UInt8

from tumorjax.networks.inverse_windows import InverseArchitecture, volumes
from tumorjax.networks.layers import PatchDown, Residual
from tumorjax.networks.tumours import Turn, as_bytes
from tumorjax.networks.weights import load_weights, save_weights

SHIPPED_INVERSE = Path(__file__).parent / "trained" / "inverse.safetensors"
_FILE = "inverse network"
# Number of reflections, which are the first of the symmetries.
_MIRRORED = 8
# Radius of a typical lesion, mm.
_USUAL = 20.0


class InverseNetwork(nnx.Module):
    """A network that predicts growth parameters from windows of outlines.

    Parameters
    ----------
    architecture
        Architecture of the network.
    rngs
        Random generators for the initial weights.
    """

    def __init__(self, architecture: InverseArchitecture, rngs: nnx.Rngs) -> None:
        self.architecture = architecture
        self.trunk = _TRUNKS[architecture.layers](architecture, rngs)
        self.head = nnx.Linear(
            self.trunk.features, len(architecture.targets), kernel_init=self.trunk.kernels, rngs=rngs
        )

    def __call__(self, windows: UInt8[Array, "b w w w c"], radius: Float[Array, "b"]) -> Float[Array, "b t"]:
        """Return the coordinates of the targets from windows around lesions with these radii, mm."""
        own = self.head.kernel[...].dtype
        size = jnp.log(radius / _USUAL)[:, None].astype(own)
        return self.head(self.trunk(windows.astype(own) / 255, size)).astype(jnp.float32)


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

    def __call__(self, x: Float[Array, "b w w w c"], size: Float[Array, "b 1"]) -> Float[Array, "b f"]:
        x = jax.nn.relu(self.first(x))
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i < len(self.blocks) - 1:
                x = nnx.max_pool(x, (2, 2, 2), strides=(2, 2, 2))
        return x.mean(axis=(1, 2, 3))


_TRUNKS = {"patch": _Patches, "convolution": _Convolutions}


@nnx.jit
def _predict(
    model: InverseNetwork, windows: UInt8[Array, "b w w w c"], radius: Float[Array, "b"]
) -> Float[Array, "b t"]:
    return model(windows, radius)


def infer(
    model: InverseNetwork,
    core: Bool[np.ndarray, "x y z"],
    lesion: Bool[np.ndarray, "x y z"],
    tissue: Shaped[np.ndarray, "x y z 3"],
) -> dict[str, float]:
    """Predict the targets of a network for a tumour; x, y and z are returned as fractional voxel indices.

    Parameters
    ----------
    model
        The trained network.
    core, lesion
        Boolean outlines, on voxels of the size that the network was trained on.
    tissue
        Shares of white matter, grey matter and CSF, 0..1 or 0..255.

    Raises
    ------
    ValueError
        If the lesion is empty, shapes differ, the grid is not that of the network's training, or most of the lesion
        lies in fluid, which indicates another order of the tissues.

    Warns
    -----
    OutsideTraining
        If the volumes of the outlines, or the predicted parameters, are outside the range of the training data.
    """
    made = model.architecture
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
    made.box.warn("the network", volumes(core, lesion, made.spacing))
    seen = made.view(core, lesion, as_bytes(tissue))
    # Growth is symmetric under reflections, but a network is not exactly: the mean over all reflections errs less.
    turns = [Turn(number) for number in range(_MIRRORED if made.tissue else 1)]
    windows = jnp.asarray(np.stack([turn.volume(seen.window) for turn in turns]))
    predictions = np.asarray(_predict(model, windows, jnp.full(len(turns), seen.radius, jnp.float32))).astype(float)
    place = [made.targets.index(axis) for axis in "xyz" if axis in made.targets]
    if len(place) == 3:
        for prediction, turn in zip(predictions, turns, strict=True):
            prediction[place] = turn.back(prediction[place])
    mean = predictions.mean(axis=0)
    if not np.isfinite(mean).all():
        raise ValueError("the network's prediction is not finite; train it again, or use another file of weights")
    values = made.values(mean, seen.radius)
    made.box.warn("the network", values, tolerance=0.02)
    steps = made.unit(seen.radius) / made.spacing
    seed = {axis: float(seen.middle[i] + steps * values[axis]) for i, axis in enumerate("xyz") if axis in values}
    return values | seed


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
