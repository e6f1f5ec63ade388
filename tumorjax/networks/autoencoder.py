"""Autoencoders that compress the outlines of a tumour to short codes of numbers or bits [1]_.

Core and lesion differ in their properties, so each has its own encoder and decoder, as in the paper. There are three
kinds: "ae", "vae", whose codes are the means of normal distributions, and "bf-hash", whose codes are bits.

References
----------
.. [1] I. Ezhov et al., "Casting the inverse problem as a database query. The case of personalized tumor growth
   modeling", sections 2.3 and 2.4.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Shaped

from tumorjax.networks.layers import LAYERS
from tumorjax.networks.weights import load_weights, save_weights

KINDS = ("ae", "vae", "bf-hash")
# On a grid of 128^3, "published" has the sizes of the paper: 16^3 before the dense layer, and codes of 1024 numbers.
# The paper does not state the numbers of channels; these are our choice. "small" can be trained on a CPU.
SIZES: Mapping[str, Mapping[str, Any]] = {
    "small": {"pool": 2, "layers": "patch", "factors": (4, 2), "channels": (32, 10), "latent": 128},
    "published": {"pool": 1, "layers": "convolution", "factors": (2, 2, 2), "channels": (4, 8, 16), "latent": 1024},
}
# Logit of a voxel before the training: outlines fill about one percent of a brain's grid.
_RARE = -4.5
_FILE = "autoencoder of outlines"


@dataclass(frozen=True)
class Architecture:
    """The architecture of an `Autoencoder`, which determines the shapes of its weights.

    Parameters
    ----------
    kind
        "ae", "vae" or "bf-hash".
    shape
        Shape of the grid. It is padded with zeros to a multiple of the product of all factors.
    pool
        Edge of the cubes of voxels that are averaged first and decoded as one, in voxels; six at most.
    layers
        Kind of layers: "patch" or "convolution".
    factors
        Factor by which each layer of the encoder reduces the resolution.
    channels
        Number of channels after each of these layers.
    latent
        Length of the code of an outline; for bits, a multiple of eight.
    """

    kind: str
    shape: tuple[int, ...]
    pool: int
    layers: str
    factors: tuple[int, ...]
    channels: tuple[int, ...]
    latent: int

    def __post_init__(self) -> None:
        for name in ("shape", "factors", "channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.kind not in KINDS or self.layers not in LAYERS:
            raise ValueError(
                f"there are {', '.join(KINDS)}, of {' or '.join(LAYERS)} layers, got {self.kind!r} and {self.layers!r}"
            )
        numbers = (*self.shape, self.pool, *self.factors, *self.channels, self.latent)
        if not all(isinstance(n, int) and n > 0 for n in numbers):
            raise ValueError(f"sizes of an autoencoder are whole numbers from 1, got {numbers}")
        if self.pool > 6:
            raise ValueError(
                f"pool must be at most 6, because voxels of a cube are counted in one byte; got {self.pool}"
            )
        if len(self.shape) != 3 or not len(self.factors) == len(self.channels) > 0:
            raise ValueError(f"each layer needs a factor and channels, got {self.factors} and {self.channels}")
        if self.kind == "bf-hash" and self.latent % 8:
            raise ValueError(f"a code of bits fills whole bytes, got {self.latent} bits")

    @classmethod
    def of(cls, kind: str, shape: tuple[int, ...], size: str = "small") -> "Architecture":
        """Return the architecture of one of `SIZES`."""
        if size not in SIZES:
            raise ValueError(f"unknown size {size!r}; there are {', '.join(SIZES)}")
        return cls(kind, shape, **SIZES[size])

    @property
    def coarse(self) -> tuple[int, ...]:
        """The shape of the grid before the dense layer."""
        factor = self.pool * int(np.prod(self.factors))
        return tuple(-(-n // factor) for n in self.shape)

    @property
    def pooled(self) -> tuple[int, ...]:
        """The shape of the grid at the first layer, including the padding."""
        return tuple(n * int(np.prod(self.factors)) for n in self.coarse)


class _Outline(nnx.Module):
    """Encoder and decoder of one outline."""

    def __init__(self, architecture: Architecture, rngs: nnx.Rngs) -> None:
        self.architecture = architecture
        down, up = LAYERS[architecture.layers]
        channels = (1, *architecture.channels)
        steps = list(zip(architecture.factors, channels[:-1], channels[1:], strict=True))
        self.encoder = nnx.List([down(factor, wide, narrow, rngs) for factor, wide, narrow in steps])
        self.decoder = nnx.List([up(factor, narrow, wide, rngs) for factor, wide, narrow in reversed(steps)])
        flat, latent = int(np.prod(architecture.coarse)) * channels[-1], architecture.latent
        # For a VAE, the means come first, then the logarithms of the variances.
        self.to_latent = nnx.Linear(flat, 2 * latent if architecture.kind == "vae" else latent, rngs=rngs)
        self.from_latent = nnx.Linear(latent, flat, rngs=rngs)

    def embed(self, fractions: Float[Array, "b u v w"]) -> Float[Array, "b l"]:
        x = fractions[..., None].astype(self.to_latent.kernel[...].dtype)
        for layer in self.encoder:
            x = layer(x)
        return self.to_latent(x.reshape(len(x), -1)).astype(fractions.dtype)

    def decode(self, code: Float[Array, "b l"]) -> Float[Array, "b u v w"]:
        x = self.from_latent(code.astype(self.from_latent.kernel[...].dtype))
        x = x.reshape(len(code), *self.architecture.coarse, -1)
        for layer in self.decoder:
            x = layer(x)
        return x[..., 0].astype(code.dtype) + _RARE


class Autoencoder(nnx.Module):
    """Encoders and decoders of core and lesion.

    Parameters
    ----------
    architecture
        Architecture of the encoder and decoder of each outline.
    rngs
        Random generators for the initial weights.
    """

    def __init__(self, architecture: Architecture, rngs: nnx.Rngs) -> None:
        self.architecture = architecture
        self.core = _Outline(architecture, rngs)
        self.lesion = _Outline(architecture, rngs)

    def pool(self, outlines: Bool[Array, "b 2 x y z"]) -> Float[Array, "b 2 u v w"]:
        """Return the share of each cube that lies inside the outline, after padding."""
        p, shape = self.architecture.pool, self.architecture.pooled
        filled = [(0, p * m - n) for m, n in zip(shape, self.architecture.shape, strict=True)]
        window = (1, 1, p, p, p)
        # Counting in bytes is many times faster than in floating point.
        counts = jax.lax.reduce_window(
            outlines.astype(jnp.uint8), np.uint8(0), jax.lax.add, window, window, [(0, 0), (0, 0), *filled]
        )
        return counts.astype(jnp.float32) / p**3

    def embed(self, fractions: Float[Array, "b 2 u v w"]) -> Float[Array, "b 2 l"]:
        """Return the outputs of the encoders: numbers, whose signs are the bits; for a VAE, means and log-variances."""
        return jnp.stack([self.core.embed(fractions[:, 0]), self.lesion.embed(fractions[:, 1])], axis=1)

    def encode(self, outlines: Bool[Array, "b 2 x y z"]) -> Shaped[Array, "b 2 l"]:
        """Return the codes: booleans for "bf-hash", otherwise float32."""
        embedded = self.embed(self.pool(outlines))[..., : self.architecture.latent]
        return embedded > 0 if self.architecture.kind == "bf-hash" else embedded

    def decode(self, codes: Float[Array, "b 2 l"]) -> Float[Array, "b 2 u v w"]:
        """Return, for each cube, the logit that its voxels lie inside the outline; bits are given as -1 and 1."""
        return jnp.stack([self.core.decode(codes[:, 0]), self.lesion.decode(codes[:, 1])], axis=1)


@nnx.jit
def _encode(model: Autoencoder, outlines: Bool[Array, "b 2 x y z"]) -> Shaped[Array, "b 2 l"]:
    return model.encode(outlines)


def encode(model: Autoencoder, outlines: Bool[np.ndarray, "n 2 x y z"], batch: int = 16) -> Shaped[np.ndarray, "n 2 l"]:
    """Return the codes of many outlines by `Autoencoder.encode`, in batches.

    Raises
    ------
    ValueError
        If the outlines lie on a grid of another shape than those of the training.
    """
    if outlines.shape[1:] != (2, *model.architecture.shape):
        raise ValueError(
            f"the network encodes outlines (n, 2, x, y, z) on a grid {model.architecture.shape}, got "
            f"{outlines.shape}; train another"
        )
    codes = []
    for begin in range(0, len(outlines), batch):
        some = outlines[begin : begin + batch]
        # Batches have one size, or one row, so that at most two programs are compiled.
        padding = 0 if len(some) == 1 else batch - len(some)
        filled = np.pad(some, [(0, padding), *[(0, 0)] * 4])
        codes.append(np.asarray(_encode(model, jnp.asarray(filled)))[: len(some)])
    return np.concatenate(codes)


def save_autoencoder(path: str | os.PathLike, model: Autoencoder, about: Mapping[str, Any] | None = None) -> None:
    """Write an autoencoder; see `save_weights`."""
    save_weights(path, model, _FILE, dataclasses.asdict(model.architecture), about)


def load_autoencoder(path: str | os.PathLike) -> Autoencoder:
    """Read the autoencoder in a file.

    Raises
    ------
    ValueError
        If the file is missing, damaged, or of another network.
    """
    model, _ = load_weights(path, _FILE, lambda config, rngs: Autoencoder(Architecture(**config), rngs))
    return model
