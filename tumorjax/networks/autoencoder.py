"""Autoencoders of tumours' outlines: a few numbers, or bits, that tell one tumour from another [1]_.

Core and lesion differ in their properties, so that each has an encoder and a decoder of its own, as in the paper. There
are three kinds: "ae", "vae", whose codes are the means of normal distributions, and "bf-hash", whose codes are bits.

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
# What "published" reaches on a grid of 128^3 is the paper's: 16^3 before the dense layer, which makes 1024 numbers. It
# does not tell how many channels; these are ours. "small" trains on a CPU.
SIZES: Mapping[str, Mapping[str, Any]] = {
    "small": {"pool": 2, "layers": "patch", "factors": (4, 2), "channels": (32, 10), "latent": 128},
    "published": {"pool": 1, "layers": "convolution", "factors": (2, 2, 2), "channels": (4, 8, 16), "latent": 1024},
}
# Logit of a voxel before anything is learnt: outlines fill about a hundredth of a brain's grid.
_RARE = -4.5
_FILE = "autoencoder of outlines"


@dataclass(frozen=True)
class Architecture:
    """What decides the weights of an `Autoencoder`.

    Parameters
    ----------
    kind
        "ae", "vae" or "bf-hash".
    shape
        Of the grid. It is padded with zeros to a multiple of all factors together.
    pool
        Cubes of so many voxels along each axis, six at most, are averaged before anything else, and decoded as one.
    layers
        "patch" or "convolution".
    factors
        By which each layer of the encoder lowers the resolution.
    channels
        After each of them.
    latent
        Numbers or bits that an outline becomes; of bits a multiple of eight.
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
            raise ValueError(f"voxels of a cube are counted in one byte: pool is at most 6, got {self.pool}")
        if len(self.shape) != 3 or not len(self.factors) == len(self.channels) > 0:
            raise ValueError(f"each layer has a factor and channels, got {self.factors} and {self.channels}")
        if self.kind == "bf-hash" and self.latent % 8:
            raise ValueError(f"a code of bits fills whole bytes, got {self.latent} bits")

    @classmethod
    def of(cls, kind: str, shape: tuple[int, ...], size: str = "small") -> "Architecture":
        """Return one of `SIZES`."""
        if size not in SIZES:
            raise ValueError(f"unknown size {size!r}; there are {', '.join(SIZES)}")
        return cls(kind, shape, **SIZES[size])

    @property
    def coarse(self) -> tuple[int, ...]:
        """The grid before the dense layer."""
        factor = self.pool * int(np.prod(self.factors))
        return tuple(-(-n // factor) for n in self.shape)

    @property
    def pooled(self) -> tuple[int, ...]:
        """The grid that the layers see, padding included."""
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
        # Of a VAE the means, then the logarithms of the variances.
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
        Of both.
    rngs
        Of the weights.
    """

    def __init__(self, architecture: Architecture, rngs: nnx.Rngs) -> None:
        self.architecture = architecture
        self.core = _Outline(architecture, rngs)
        self.lesion = _Outline(architecture, rngs)

    def pool(self, outlines: Bool[Array, "b 2 x y z"]) -> Float[Array, "b 2 u v w"]:
        """Return the share of each cube that is inside, after padding."""
        p, shape = self.architecture.pool, self.architecture.pooled
        filled = [(0, p * m - n) for m, n in zip(shape, self.architecture.shape, strict=True)]
        window = (1, 1, p, p, p)
        # Counted in bytes, many times faster than in floating point.
        counts = jax.lax.reduce_window(
            outlines.astype(jnp.uint8), np.uint8(0), jax.lax.add, window, window, [(0, 0), (0, 0), *filled]
        )
        return counts.astype(jnp.float32) / p**3

    def embed(self, fractions: Float[Array, "b 2 u v w"]) -> Float[Array, "b 2 l"]:
        """Return what the encoders say: numbers, whose signs are the bits; of a VAE means and log-variances."""
        return jnp.stack([self.core.embed(fractions[:, 0]), self.lesion.embed(fractions[:, 1])], axis=1)

    def encode(self, outlines: Bool[Array, "b 2 x y z"]) -> Shaped[Array, "b 2 l"]:
        """Return codes: of "bf-hash" booleans, else float32."""
        embedded = self.embed(self.pool(outlines))[..., : self.architecture.latent]
        return embedded > 0 if self.architecture.kind == "bf-hash" else embedded

    def decode(self, codes: Float[Array, "b 2 l"]) -> Float[Array, "b 2 u v w"]:
        """Return the logits of all voxels of each cube to be inside; bits are -1 and 1 here."""
        return jnp.stack([self.core.decode(codes[:, 0]), self.lesion.decode(codes[:, 1])], axis=1)


@nnx.jit
def _encode(model: Autoencoder, outlines: Bool[Array, "b 2 x y z"]) -> Shaped[Array, "b 2 l"]:
    return model.encode(outlines)


def encode(model: Autoencoder, outlines: Bool[np.ndarray, "n 2 x y z"], batch: int = 16) -> Shaped[np.ndarray, "n 2 l"]:
    """Return the codes of many outlines, as `Autoencoder.encode` does, some of them at a time.

    Raises
    ------
    ValueError
        If the outlines lie on another grid than those of the training.
    """
    if outlines.shape[1:] != (2, *model.architecture.shape):
        raise ValueError(
            f"the network encodes outlines (n, 2, x, y, z) on a grid {model.architecture.shape}, got "
            f"{outlines.shape}; train another"
        )
    codes = []
    for begin in range(0, len(outlines), batch):
        some = outlines[begin : begin + batch]
        # Of one size, or one alone: two programs are compiled at most.
        padding = 0 if len(some) == 1 else batch - len(some)
        filled = np.pad(some, [(0, padding), *[(0, 0)] * 4])
        codes.append(np.asarray(_encode(model, jnp.asarray(filled)))[: len(some)])
    return np.concatenate(codes)


def save_autoencoder(path: str | os.PathLike, model: Autoencoder, about: Mapping[str, Any] | None = None) -> None:
    """Write an autoencoder; see `save_weights`."""
    save_weights(path, model, _FILE, dataclasses.asdict(model.architecture), about)


def load_autoencoder(path: str | os.PathLike) -> Autoencoder:
    """Return the autoencoder in a file.

    Raises
    ------
    ValueError
        If the file is missing, damaged, or of another network.
    """
    model, _ = load_weights(path, _FILE, lambda config, rngs: Autoencoder(Architecture(**config), rngs))
    return model
