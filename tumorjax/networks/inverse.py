"""The network of Learn-Morph-Infer: from the outlines of a tumour to the parameters of its growth [1]_.

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
# The first so many symmetries are the reflections.
_MIRRORED = 8
# Radius of a usual lesion, mm.
_USUAL = 20.0


class InverseNetwork(nnx.Module):
    """Predicts parameters of the growth from windows of outlines.

    Parameters
    ----------
    architecture
        Of the network.
    rngs
        Of the weights.
    """

    def __init__(self, architecture: InverseArchitecture, rngs: nnx.Rngs) -> None:
        self.architecture = architecture
        self.trunk = _TRUNKS[architecture.layers](architecture, rngs)
        self.head = nnx.Linear(
            self.trunk.features, len(architecture.targets), kernel_init=self.trunk.kernels, rngs=rngs
        )

    def __call__(self, windows: UInt8[Array, "b w w w c"], radius: Float[Array, "b"]) -> Float[Array, "b t"]:
        """Return the coordinates of the targets in windows about lesions of these radii, mm."""
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
    """The paper's: 1.79 million weights, which begin by He's rule."""

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
    """Return what the network says of a tumour: its targets, of which x, y and z are fractional voxel indices.

    Parameters
    ----------
    model
        Trained.
    core, lesion
        Boolean, on voxels of the edge that the network knows.
    tissue
        Shares of white matter, grey matter and CSF, 0..1 or 0..255.

    Raises
    ------
    ValueError
        If the lesion is empty, shapes differ, the grid is not that of the network's tumours, or the lesion lies in
        fluid, as with another order of the tissue.

    Warns
    -----
    OutsideTraining
        If the outlines are of volumes, or the parameters of sizes, that it was not trained on.
    """
    made = model.architecture
    if tissue.ndim != 4 or tissue.shape[-1] != 3:
        raise ValueError(f"white matter, grey matter and CSF lie along the last axis, got shape {tissue.shape}")
    if core.shape != lesion.shape or tissue.shape[:3] != lesion.shape:
        raise ValueError(f"outlines have shapes {core.shape} and {lesion.shape}, the tissue {tissue.shape}; resample")
    if not lesion.any():
        raise ValueError("the lesion is empty, so nothing can be inferred from it")
    inside = tissue[lesion].mean(axis=0)
    if inside[2] > inside[:2].sum():
        raise ValueError(
            "most of the lesion lies in fluid; the order of the tissue is white matter, grey matter, CSF, and outlines "
            "lie on its grid"
        )
    made.check_grid(lesion.shape)
    made.box.warn("the network", volumes(core, lesion, made.spacing))
    seen = made.view(core, lesion, as_bytes(tissue))
    # Growth does not know left from right, but a network does a little: the mean of all its opinions errs less.
    turns = [Turn(number) for number in range(_MIRRORED if made.tissue else 1)]
    windows = jnp.asarray(np.stack([turn.volume(seen.window) for turn in turns]))
    opinions = np.asarray(_predict(model, windows, jnp.full(len(turns), seen.radius, jnp.float32))).astype(float)
    place = [made.targets.index(axis) for axis in "xyz" if axis in made.targets]
    if len(place) == 3:
        for opinion, turn in zip(opinions, turns, strict=True):
            opinion[place] = turn.back(opinion[place])
    said = opinions.mean(axis=0)
    if not np.isfinite(said).all():
        raise ValueError("the network's answer is not finite; train it again, or use another file of weights")
    values = made.values(said, seen.radius)
    made.box.warn("the network", values, tolerance=0.02)
    steps = made.unit(seen.radius) / made.spacing
    seed = {axis: float(seen.middle[i] + steps * values[axis]) for i, axis in enumerate("xyz") if axis in values}
    return values | seed


def save_inverse(path: str | os.PathLike, model: InverseNetwork, about: Mapping[str, Any] | None = None) -> None:
    """Write an inverse network; see `save_weights`."""
    save_weights(path, model, _FILE, dataclasses.asdict(model.architecture), about)


def load_inverse(path: str | os.PathLike = SHIPPED_INVERSE) -> InverseNetwork:
    """Return the inverse network in a file.

    Parameters
    ----------
    path
        By default of the weights that ship: a small network, for voxels of 2 mm, of tumours in ICBM152 whose
        parameters are in the published ranges.

    Raises
    ------
    ValueError
        If the file is missing, damaged, or of another network.
    """
    model, _ = load_weights(path, _FILE, lambda config, rngs: InverseNetwork(InverseArchitecture(**config), rngs))
    return model
