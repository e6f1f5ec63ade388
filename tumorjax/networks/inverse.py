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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from tumorjax.networks.guards import TrainingBox
from tumorjax.networks.layers import PatchDown, Residual
from tumorjax.networks.tumours import Turn, as_bytes, resampled
from tumorjax.networks.weights import load_weights, save_weights

# The paper's network sees one channel of outlines on the whole grid of its atlas, and so knows the anatomy by heart.
# "small" sees a window as wide as the lesion wants, and the tissue in it: it trains on a CPU, tumours of all sizes look
# alike to it, and turned windows are data too.
SIZES: Mapping[str, Mapping[str, Any]] = {
    "small": {"layers": "patch", "window": 32, "radii": 4.0, "tissue": True},
    "published": {"layers": "convolution", "window": 128, "radii": None, "tissue": False},
}
TARGETS = ("mu1", "mu2", "x", "y", "z")
"""mm, 1, and the seed's distance from the middle of the window: see `InverseArchitecture.unit`."""
SHIPPED_INVERSE = Path(__file__).parent / "trained" / "inverse.safetensors"
_FILE = "inverse network"
# The first so many symmetries are the reflections.
_MIRRORED = 8
# Share of a brain's volume by which the same brain may differ, that other versions of libraries have resampled.
_SAME_BRAIN = 2e-3
# Radius of a usual lesion, mm.
_USUAL = 20.0


@dataclass(frozen=True)
class InverseArchitecture:
    """What decides the weights of an `InverseNetwork`, and what it can be asked.

    Parameters
    ----------
    layers
        "patch", cheap on a CPU, or "convolution", as in the paper.
    window
        Voxels along each edge of the cube that it sees.
    radii
        Edge of that cube, whose middle is then that of the lesion, in radii of a ball of the lesion's volume. None is
        the voxels as they are about the middle of the grid.
    tissue
        Whether it sees white matter, grey matter and CSF.
    spacing
        Edge of the voxels, mm.
    targets
        What it predicts, among `TARGETS`, the physical "D", "rho" and "T", mm^2/day, 1/day and day, and the "gamma" of
        mass effect, Pa.
    box
        Intervals of the targets, and of the volumes of the outlines, ml.
    shape, affine
        Of the grid of its tumours: voxels, and from voxel indices to the world of their atlas, RAS mm. A window about
        the middle of another grid, such as that of the whole atlas, is shifted against what it learnt. None where that
        is not known: of networks from before it was kept, and of tumours that do not say where they lie.
    brain
        White matter, grey matter and CSF in that grid, ml, by which another brain is told from theirs; None where that
        is not known.
    """

    layers: str
    window: int
    radii: float | None
    tissue: bool
    spacing: float
    targets: tuple[str, ...]
    box: TrainingBox = field(repr=False)
    shape: tuple[int, ...] | None = None
    affine: tuple[tuple[float, ...], ...] | None = None
    brain: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if self.brain is not None:
            object.__setattr__(self, "brain", tuple(float(ml) for ml in self.brain))
        if self.affine is not None:
            object.__setattr__(self, "affine", tuple(tuple(float(x) for x in row) for row in self.affine))
            if np.shape(self.affine) != (4, 4) or self.shape is None or not np.isfinite(self.affine).all():
                raise ValueError(f"a grid has a shape and an affine (4, 4), got {self.shape} and {self.affine}")
        if self.shape is not None and (len(self.shape) != 3 or min(self.shape) < 1):
            raise ValueError(f"a grid has three axes, got the shape {self.shape}")
        object.__setattr__(self, "targets", tuple(self.targets))
        object.__setattr__(self, "box", TrainingBox.of(self.box))
        if self.layers not in _TRUNKS or not (self.radii is None or self.radii > 0):
            raise ValueError(
                f"an inverse network cannot have {self.layers!r} layers, and windows of {self.radii} radii"
            )
        if self.window < 16 or self.window % 16 or not self.spacing > 0:
            raise ValueError(f"a window is a multiple of 16 voxels, got {self.window} on a grid of {self.spacing} mm")
        if not self.targets or not {*self.targets} <= {name for name, *_ in self.box.sides}:
            raise ValueError(f"each target has an interval, got targets {self.targets} and {self.box}")

    def check_grid(self, shape: tuple[int, ...]) -> None:
        """Raise a ValueError if outlines on a grid of this shape are not what the network learnt from."""
        if self.shape is None and self.radii is None:
            raise ValueError(
                "the network sees a window about the middle of a grid, and its file does not say of which; train it "
                "again, which keeps the grid"
            )
        if self.shape is not None and shape != self.shape:
            raise ValueError(
                f"the network learnt on a grid of {self.shape} voxels, got {shape}; give outlines and tissue on the "
                "grid of its tumours, to which `LearnMorphInfer` crops an atlas"
            )

    def check_brain(self, tissue: UInt8[np.ndarray, "x y z 3"]) -> None:
        """Raise a ValueError if the tissue on the network's grid is not that of its tumours' brain."""
        if self.brain is None:
            return
        there = tissue_volumes(tissue, self.spacing)
        if np.abs(np.subtract(there, self.brain)).max() > _SAME_BRAIN * sum(self.brain):
            told = " and ".join("/".join(f"{ml:.0f}" for ml in brain) for brain in (there, self.brain))
            raise ValueError(
                "the network learnt in another brain: white matter, grey matter and CSF of the anatomy and of its "
                f"tumours' brain have {told} ml; give the atlas in which they grew"
            )

    @property
    def channels(self) -> int:
        """Core, lesion and tissue; or the paper's sum of core and lesion."""
        return 5 if self.tissue else 1

    def view(
        self,
        core: Bool[np.ndarray, "u v w"],
        lesion: Bool[np.ndarray, "u v w"],
        tissue: UInt8[np.ndarray, "x y z 3"],
        start: Int[Any, "3"] = 0,
    ) -> "View":
        """Return what the network sees of outlines, which begin at the voxel `start` of the tissue's grid."""
        radius = self.spacing * float(np.cbrt(3 / (4 * np.pi) * lesion.sum()))
        step, middle = 1.0, np.rint((np.asarray(tissue.shape[:3]) - self.window) / 2) + (self.window - 1) / 2
        if self.radii is not None:
            step = self.radii * radius / (self.spacing * self.window)
            middle = np.array([np.average(where) for where in np.nonzero(lesion)]) + start
        inner, outer = (
            resampled(255 * mask.astype(np.uint8), middle - start, step, self.window) for mask in (core, lesion)
        )
        if not self.tissue:
            # 0.666 and 0.333 of one, in the paper.
            return View((2 / 3 * inner + outer / 3).astype(np.uint8)[..., None], middle, radius)
        maps = resampled(tissue, middle, step, self.window)
        return View(np.concatenate([np.stack([inner, outer], axis=-1), maps], axis=-1), middle, radius)

    def unit(self, radius: float) -> float:
        """Return the unit of the targets x, y and z, mm: the radius of the lesion, or 1."""
        return 1.0 if self.radii is None else radius

    def coordinates(self, values: Mapping[str, float], radius: float) -> Float[np.ndarray, "t"]:
        """Return targets as the network tells them, for a lesion of a radius, mm: see `values`."""
        middles, halves = self._intervals()
        numbers = (np.array([values[name] for name in self.targets]) - middles) / halves
        if (pair := self._pair()) is not None:
            mu1, mu2 = values["mu1"], values["mu2"]
            numbers[pair] = np.log(mu1 * mu2 / radius), np.log(mu1 / mu2) / 2
        return numbers

    def values(self, coordinates: Float[np.ndarray, "t"], radius: float) -> dict[str, float]:
        """Return targets by name from what the network tells, of which the intervals of the box are [-1, 1].

        Where windows are as wide as the lesion wants, mu_1 and mu_2 are told by log(mu_1 mu_2 / r) and
        log(mu_1 / mu_2) / 2, r being the lesion's radius: outlines tell well how far the front has come, and ill how
        steep it is, and a mean of tumours alike in the first is alike in it too.
        """
        middles, halves = self._intervals()
        values = dict(zip(self.targets, (middles + halves * coordinates).tolist(), strict=True))
        if (pair := self._pair()) is not None:
            front, ratio = np.clip(coordinates[pair], -5, 5).tolist()
            root = np.sqrt(radius * np.exp(front))
            values |= {"mu1": float(root * np.exp(ratio)), "mu2": float(root * np.exp(-ratio))}
        return values

    def _intervals(self) -> Float[np.ndarray, "2 t"]:
        bounds = np.array([self.box.bounds(name) for name in self.targets])
        return np.stack([bounds.mean(axis=1), np.diff(bounds, axis=1)[:, 0] / 2])

    def _pair(self) -> list[int] | None:
        """Return where mu_1 and mu_2 are among the targets, if both are told, by the lesion's radius."""
        both = self.radii is not None and {"mu1", "mu2"} <= {*self.targets}
        return [self.targets.index(name) for name in ("mu1", "mu2")] if both else None


class View(NamedTuple):
    """What a network sees: a window, its middle in fractional voxel indices of the grid, the lesion's radius in mm."""

    window: UInt8[np.ndarray, "w w w c"]
    middle: Float[np.ndarray, "3"]
    radius: float


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


def volumes(core: Bool[np.ndarray, "x y z"], lesion: Bool[np.ndarray, "x y z"], spacing: float) -> dict[str, float]:
    """Return the volumes of outlines as a `TrainingBox` names them."""
    return {"core_ml": core.sum() * spacing**3 / 1000, "lesion_ml": lesion.sum() * spacing**3 / 1000}


def tissue_volumes(tissue: UInt8[np.ndarray, "x y z 3"], spacing: float) -> tuple[float, ...]:
    """Return the volumes of white matter, grey matter and CSF, ml."""
    return tuple((tissue.sum(axis=(0, 1, 2), dtype=float) / 255 * spacing**3 / 1000).tolist())


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
