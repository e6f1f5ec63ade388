"""The network of Learn-Morph-Infer: from the outlines of a tumour to the parameters of its growth [1]_.

References
----------
.. [1] I. Ezhov et al., "Learn-Morph-Infer: a new way of solving the inverse problem for brain tumor modeling", Medical
   Image Analysis 2023, section 2.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from tumorjax.networks.guards import TrainingBox
from tumorjax.networks.layers import PatchDown, Residual
from tumorjax.networks.tumours import Turn, as_bytes, window
from tumorjax.networks.weights import load_weights, save_weights

# The paper's network sees one channel of outlines on the whole grid of its atlas, and so knows the anatomy by heart.
# "small" sees a window about the lesion, and the tissue in it: it trains on a CPU, and turned windows are data too.
SIZES: Mapping[str, Mapping[str, Any]] = {
    "small": {"layers": "patch", "window": 64, "pool": 2, "about": "lesion", "tissue": True},
    "published": {"layers": "convolution", "window": 128, "pool": 1, "about": "grid", "tissue": False},
}
TARGETS = ("mu1", "mu2", "x", "y", "z")
"""mm, 1, and the seed's distance from the middle of the window, mm."""
SHIPPED_INVERSE = Path(__file__).parent / "trained" / "inverse.safetensors"
_FILE = "inverse network"
# The first so many symmetries are the reflections.
_MIRRORED = 8


@dataclass(frozen=True)
class InverseArchitecture:
    """What decides the weights of an `InverseNetwork`, and what it can be asked.

    Parameters
    ----------
    layers
        "patch", cheap on a CPU, or "convolution", as in the paper.
    window
        Voxels along each edge of the cube that it sees.
    pool
        Cubes of so many voxels along each axis are averaged before anything else.
    about
        Where the middle of the window is: that of the "lesion", or of the "grid".
    tissue
        Whether it sees white matter, grey matter and CSF.
    spacing
        Edge of the voxels, mm.
    targets
        What it predicts, among `TARGETS`, the physical "D", "rho" and "T", mm^2/day, 1/day and day, and the "gamma" of
        mass effect, Pa.
    box
        Intervals of the targets, which are mapped to [-1, 1], and of the volumes of the outlines, ml.
    """

    layers: str
    window: int
    pool: int
    about: str
    tissue: bool
    spacing: float
    targets: tuple[str, ...]
    box: TrainingBox = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        object.__setattr__(self, "box", TrainingBox.of(self.box))
        if self.layers not in _TRUNKS or self.about not in ("lesion", "grid"):
            raise ValueError(f"an inverse network cannot have {self.layers!r} layers about the {self.about!r}")
        if self.window < 16 * self.pool or self.window % (16 * self.pool) or not self.spacing > 0:
            raise ValueError(
                f"a window is a multiple of {16 * self.pool} voxels, got {self.window} of {self.spacing} mm"
            )
        if not self.targets or not {*self.targets} <= {name for name, *_ in self.box.sides}:
            raise ValueError(f"each target has an interval, got targets {self.targets} and {self.box}")

    @property
    def channels(self) -> int:
        """Core, lesion and tissue; or the paper's sum of core and lesion."""
        return 5 if self.tissue else 1

    def first(
        self, shape: tuple[int, ...], lesion: Bool[np.ndarray, "u v w"], start: Int[Any, "3"] = 0
    ) -> Int[np.ndarray, "3"]:
        """Return the first voxel of the window on a grid of this shape; `lesion` is its box from `start` on."""
        middle = np.asarray(shape) / 2
        if self.about == "lesion":
            middle = np.array([np.average(where) for where in np.nonzero(lesion)]) + 0.5 + np.asarray(start)
        return np.rint(middle - self.window / 2).astype(int)

    def inputs(
        self,
        core: Bool[np.ndarray, "w w w"],
        lesion: Bool[np.ndarray, "w w w"],
        tissue: UInt8[np.ndarray, "w w w 3"],
    ) -> UInt8[np.ndarray, "w w w c"]:
        """Return what the network sees of a window."""
        if not self.tissue:
            # 0.666 and 0.333 of one, in the paper.
            return (170 * core + 85 * lesion).astype(np.uint8)[..., None]
        return np.concatenate([255 * np.stack([core, lesion], axis=-1).astype(np.uint8), tissue], axis=-1)


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
        self.head = nnx.Linear(self.trunk.features, len(architecture.targets), rngs=rngs)

    def __call__(self, windows: UInt8[Array, "b w w w c"]) -> Float[Array, "b t"]:
        """Return the targets, of which the intervals of the box are [-1, 1]."""
        x = windows.astype(self.head.kernel[...].dtype) / 255
        if (p := self.architecture.pool) > 1:
            b, w, *_, c = x.shape
            x = x.reshape(b, w // p, p, w // p, p, w // p, p, c).mean(axis=(2, 4, 6))
        return self.head(self.trunk(x)).astype(jnp.float32)


class _Patches(nnx.Module):
    features = 128

    def __init__(self, architecture: InverseArchitecture, rngs: nnx.Rngs) -> None:
        coarse = architecture.window // (8 * architecture.pool)
        self.first = PatchDown(4, architecture.channels, 96, rngs)
        self.blocks = nnx.List([Residual(2, 96, rngs, gathered=True) for _ in range(2)])
        self.second = PatchDown(2, 96, 96, rngs)
        self.last = Residual(2, 96, rngs, gathered=True)
        self.narrow = nnx.Linear(96, 32, rngs=rngs)
        self.dense = nnx.Linear(32 * coarse**3, self.features, rngs=rngs)

    def __call__(self, x: Float[Array, "b u u u c"]) -> Float[Array, "b f"]:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        x = jax.nn.gelu(self.narrow(self.last(self.second(x))))
        return jax.nn.gelu(self.dense(x.reshape(len(x), -1)))


class _Convolutions(nnx.Module):
    """The paper's: 1.79 million weights."""

    features = 64

    def __init__(self, architecture: InverseArchitecture, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(architecture.channels, 64, (7, 7, 7), strides=2, rngs=rngs)
        self.blocks = nnx.List([Residual(4, 64, rngs) for _ in range(4)])

    def __call__(self, x: Float[Array, "b u u u c"]) -> Float[Array, "b f"]:
        x = jax.nn.relu(self.first(x))
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i < len(self.blocks) - 1:
                x = nnx.max_pool(x, (2, 2, 2), strides=(2, 2, 2))
        return x.mean(axis=(1, 2, 3))


_TRUNKS = {"patch": _Patches, "convolution": _Convolutions}


@nnx.jit
def _predict(model: InverseNetwork, windows: UInt8[Array, "b w w w c"]) -> Float[Array, "b t"]:
    return model(windows)


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
        If the lesion is empty, shapes differ, or the lesion lies in fluid, as with another order of the tissue.

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
    made.box.warn("the network", volumes(core, lesion, made.spacing))
    first, size = made.first(lesion.shape, lesion), (made.window,) * 3
    maps = as_bytes(tissue)
    seen = made.inputs(window(core, first, size), window(lesion, first, size), window(maps, first, size))
    # Growth does not know left from right, but a network does a little: the mean of all its opinions errs less.
    turns = [Turn(number) for number in range(_MIRRORED if made.tissue else 1)]
    opinions = np.asarray(_predict(model, jnp.asarray(np.stack([turn.volume(seen) for turn in turns])))).astype(float)
    place = [made.targets.index(axis) for axis in "xyz" if axis in made.targets]
    if len(place) == 3:
        for opinion, turn in zip(opinions, turns, strict=True):
            opinion[place] = turn.back(opinion[place])
    said = opinions.mean(axis=0)
    if not np.isfinite(said).all():
        raise ValueError("the network's answer is not finite; train it again, or use another file of weights")
    bounds = np.array([made.box.bounds(name) for name in made.targets])
    values = dict(
        zip(made.targets, (bounds.mean(axis=1) + said * np.diff(bounds, axis=1)[:, 0] / 2).tolist(), strict=True)
    )
    made.box.warn("the network", values, tolerance=0.02)
    middle = first + (made.window - 1) / 2
    seed = {name: middle[i] + values[name] / made.spacing for i, name in enumerate("xyz") if name in values}
    return values | {name: float(value) for name, value in seed.items()}


def volumes(core: Bool[np.ndarray, "x y z"], lesion: Bool[np.ndarray, "x y z"], spacing: float) -> dict[str, float]:
    """Return the volumes of outlines as a `TrainingBox` names them."""
    return {"core_ml": core.sum() * spacing**3 / 1000, "lesion_ml": lesion.sum() * spacing**3 / 1000}


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
