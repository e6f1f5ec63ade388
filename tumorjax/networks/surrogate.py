"""The surrogate, a network that replaces the solver: it predicts the density from tissue and growth parameters [1]_.

References
----------
.. [1] I. Ezhov et al., "Geometry-aware neural solver for fast Bayesian calibration of brain tumor models", IEEE
   Transactions on Medical Imaging 2022.
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
from jaxtyping import Array, Float

from tumorjax.networks.guards import TrainingBox
from tumorjax.networks.layers import PatchDown, PatchUp, Residual
from tumorjax.networks.weights import load_weights, save_weights

SIZES: Mapping[str, Mapping[str, Any]] = {
    "small": {"layers": "patch", "channels": (32, 96)},
    "published": {"layers": "convolution", "channels": (128, 128)},
}
SHIPPED_SURROGATE = Path(__file__).parent / "trained" / "surrogate.safetensors"
_FILE = "surrogate"
# Bound of the logits of a profile; the logistic function is practically 0 or 1 there.
_FAR = 12.0


@dataclass(frozen=True)
class SurrogateArchitecture:
    """The architecture of a `Surrogate`, with the range of its training data.

    Parameters
    ----------
    layers
        Kind of layers: "patch", which are fast on a CPU, or "convolution", as in the paper.
    channels
        Number of channels at a quarter and at an eighth of the resolution.
    spacing
        Edge of the voxels, mm.
    box
        Intervals of mu1 and mu2.
    window
        Voxels along each edge of the cube that the network sees, a multiple of 8; the seed is at voxel window / 2.
    blocks
        Number of residual blocks at an eighth of the resolution, for "patch" layers.
    csf_only
        Whether the network sees CSF only, without white and grey matter; an ablation of the paper.
    skips
        Whether skip connections lead from the encoder to the decoder at every resolution; another ablation.
    """

    layers: str
    channels: tuple[int, int]
    spacing: float
    box: TrainingBox = field(repr=False)
    window: int = 64
    blocks: int = 3
    csf_only: bool = False
    skips: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        object.__setattr__(self, "box", TrainingBox.of(self.box))
        if self.layers not in _NETWORKS or len(self.channels) != 2 or not self.spacing > 0:
            raise ValueError(f"a surrogate cannot have {self.layers!r} layers of {self.channels}, {self.spacing} mm")
        if self.blocks < 1:
            raise ValueError(f"a surrogate must have at least one block, got {self.blocks}")
        if self.window < 8 or self.window % 8 or {"mu1", "mu2"} - {name for name, *_ in self.box.sides}:
            raise ValueError(
                f"a window must have a multiple of 8 voxels, mu1 and mu2 intervals; got {self.window} and {self.box}"
            )


class Surrogate(nnx.Module):
    """A network that predicts the density of a tumour from the tissue around its seed.

    The inputs of the paper's network are D, rho and T. Here they are mu_1 = sqrt(D T) and mu_2 = sqrt(rho T), since the
    density depends on these alone.

    Parameters
    ----------
    architecture
        Architecture of the network.
    rngs
        Random generators for the initial weights.
    """

    def __init__(self, architecture: SurrogateArchitecture, rngs: nnx.Rngs) -> None:
        self.architecture = architecture
        self.network = _NETWORKS[architecture.layers](architecture, rngs)

    def __call__(self, tissue: Float[Array, "b w w w 3"], mu: Float[Array, "b 2"]) -> Float[Array, "b w w w"]:
        """Return the densities in windows around the seeds.

        Parameters
        ----------
        tissue
            Shares of white matter, grey matter and CSF.
        mu
            mu_1 (mm) and mu_2.
        """
        bounds = np.array([self.architecture.box.bounds(name) for name in ("mu1", "mu2")], np.float32)
        scaled = 2 * (mu - bounds.mean(axis=1)) / np.diff(bounds, axis=1)[:, 0]
        seen = tissue[..., 2:] if self.architecture.csf_only else tissue
        guess = profile(mu, tissue.shape[1], self.architecture.spacing)
        # The network computes in the precision of its weights.
        own = self.network.growth.kernel[...].dtype
        logits = self.network(*(each.astype(own) for each in (seen, scaled, guess))).astype(tissue.dtype)
        # There are no cells outside the tissue, so the network need not learn that.
        inside = tissue[..., 0] + tissue[..., 1] >= 0.1
        return jnp.where(inside, jax.nn.sigmoid(logits), 0)


def profile(mu: Float[Array, "b 2"], size: int, spacing: float) -> Float[Array, "b w w w"]:
    """Return the logit of a spherical front around the seed in homogeneous white matter, an estimate of the density.

    The front of a Fisher-Kolmogorov tumour is c = (1 + exp(x / (sqrt(6) lambda)))^-2, lambda = mu_1 / mu_2 (Ablowitz
    and Zeppetella 1979); a logistic function of 2 x / (sqrt(6) lambda) has the same decay. Its radius is 1.4 mu_1 mu_2,
    close to that of small tumours.
    """
    mu1, mu2 = (mu[:, i, None, None, None] for i in range(2))
    steps = spacing * (jnp.arange(size, dtype=mu.dtype) - size // 2)
    squares = steps**2
    distance = jnp.sqrt(squares[:, None, None] + squares[:, None] + squares)
    far = (1.4 * mu1 * mu2 - distance) * mu2 / (jnp.sqrt(jnp.asarray(1.5, mu.dtype)) * mu1)
    return jnp.clip(far, -_FAR, _FAR)


def hats(places: Float[Array, "m"], count: int) -> Float[Array, "m n"]:
    """Return the weights of linear interpolation from `count` voxels to places in voxel units; zero outside."""
    return jnp.maximum(0, 1 - jnp.abs(places[:, None] - jnp.arange(count, dtype=places.dtype)))


class _Patches(nnx.Module):
    """A network of patch layers, whose channels are scaled and shifted by functions of the growth parameters."""

    def __init__(self, architecture: SurrogateArchitecture, rngs: nnx.Rngs) -> None:
        wide, narrow = architecture.channels
        kinds = 1 if architecture.csf_only else 3
        self.skips = architecture.skips
        # The profile is an image like the others.
        self.down = PatchDown(4, kinds + 1, wide, rngs)
        self.further = PatchDown(2, wide, narrow, rngs)
        self.coarse = nnx.List([Residual(2, narrow, rngs, gathered=True) for _ in range(architecture.blocks)])
        self.growth = nnx.Linear(2, 64, rngs=rngs)
        self.scales = nnx.List([nnx.Linear(64, 2 * n, rngs=rngs) for n in (wide, narrow, wide)])
        self.up = PatchUp(2, narrow, wide, rngs)
        self.last = Residual(2, 2 * wide if self.skips else wide, rngs, gathered=True)
        together = (2 * wide if self.skips else wide) + 64 * (kinds + 1)
        self.mix = nnx.Linear(together, 192, rngs=rngs)
        self.spread = nnx.Linear(192, 64, rngs=rngs)

    def __call__(
        self, tissue: Float[Array, "b w w w k"], growth: Float[Array, "b 2"], guess: Float[Array, "b w w w"]
    ) -> Float[Array, "b w w w"]:
        condition = jax.nn.gelu(self.growth(growth))
        images = jnp.concatenate([tissue, guess[..., None] / _FAR], axis=-1)
        fine = _scaled(self.down(images), self.scales[0](condition))
        x = _scaled(self.further(fine), self.scales[1](condition))
        for block in self.coarse:
            x = block(x)
        x = _scaled(self.up(x), self.scales[2](condition))
        x = self.last(jnp.concatenate([x, fine], axis=-1) if self.skips else x)
        cubes = self.down.cubes(images)
        x = jax.nn.gelu(self.mix(jnp.concatenate([x, cubes], axis=-1)))
        return guess + PatchUp.together(self.spread(x), 4)[..., 0]


class _Convolutions(nnx.Module):
    """The network of the paper: strided convolutions down to an eighth, nearest neighbours and convolutions up."""

    def __init__(self, architecture: SurrogateArchitecture, rngs: nnx.Rngs) -> None:
        wide = architecture.channels[0]
        kinds = 1 if architecture.csf_only else 3
        self.skips = architecture.skips

        def convolution(channels: int, out: int, strides: int = 1) -> nnx.Conv:
            return nnx.Conv(channels, out, (3, 3, 3), strides=strides, rngs=rngs)

        self.first = convolution(kinds, wide)
        self.encoder = nnx.List([Residual(2, wide, rngs) for _ in range(4)])
        self.strided = nnx.List([convolution(wide, wide, 2) for _ in range(3)])
        self.side = architecture.window // 8
        self.growth = nnx.Linear(2, 3 * self.side**3, rngs=rngs)
        self.joined = convolution(wide + 3, wide)
        self.decoder = nnx.List([Residual(2, wide, rngs) for _ in range(4)])
        self.plain = nnx.List([convolution(2 * wide if self.skips else wide, wide) for _ in range(3)])
        self.last = convolution(wide, 1)

    def __call__(
        self, tissue: Float[Array, "b w w w k"], growth: Float[Array, "b 2"], guess: Float[Array, "b w w w"]
    ) -> Float[Array, "b w w w"]:
        x, seen = self.encoder[0](jax.nn.relu(self.first(tissue))), []
        for strided, block in zip(self.strided, list(self.encoder)[1:], strict=True):
            seen.append(x)
            x = block(jax.nn.relu(strided(x)))
        condition = self.growth(growth).reshape(-1, self.side, self.side, self.side, 3)
        x = self.decoder[0](jax.nn.relu(self.joined(jnp.concatenate([x, condition], axis=-1))))
        for plain, block in zip(self.plain, list(self.decoder)[1:], strict=True):
            for axis in (1, 2, 3):
                x = jnp.repeat(x, 2, axis=axis)
            before = seen.pop()
            x = block(jax.nn.relu(plain(jnp.concatenate([x, before], axis=-1) if self.skips else x)))
        return self.last(x)[..., 0]


_NETWORKS = {"patch": _Patches, "convolution": _Convolutions}


def _scaled(x: Float[Array, "b u v w c"], both: Float[Array, "b 2c"]) -> Float[Array, "b u v w c"]:
    """Return channels scaled and shifted by `both`, the scales followed by the shifts."""
    scale, shift = jnp.split(both[:, None, None, None], 2, axis=-1)
    return x * (1 + scale) + shift


def save_surrogate(path: str | os.PathLike, model: Surrogate, about: Mapping[str, Any] | None = None) -> None:
    """Write a surrogate; see `save_weights`."""
    save_weights(path, model, _FILE, dataclasses.asdict(model.architecture), about)


def load_surrogate(path: str | os.PathLike = SHIPPED_SURROGATE) -> Surrogate:
    """Read the surrogate in a file.

    Parameters
    ----------
    path
        File of weights. By default the weights of the package: a small network for voxels of 2 mm, trained on tumours
        in ICBM152 and in three deformed brains, with parameters in the published ranges.

    Raises
    ------
    ValueError
        If the file is missing, damaged, or of another network.
    """
    model, _ = load_weights(path, _FILE, lambda config, rngs: Surrogate(SurrogateArchitecture(**config), rngs))
    return model
