"""Layers that change the resolution of volumes (batch, x, y, z, channels), downwards and upwards.

On a CPU, patches that become channels, and channels that become patches, are 20 to 100 times cheaper than strided and
transposed convolutions, and see as much.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

# How flax begins weights.
_LECUN = nnx.initializers.lecun_normal()


class PatchDown(nnx.Module):
    """Each cube of factor^3 voxels becomes one, by a dense layer and one on top of it."""

    def __init__(self, factor: int, channels: int, out: int, rngs: nnx.Rngs) -> None:
        self.factor = factor
        self.gather = nnx.Linear(factor**3 * channels, out, rngs=rngs)
        self.mix = nnx.Linear(out, out, rngs=rngs)

    def __call__(self, x: Float[Array, "b x y z c"]) -> Float[Array, "b u v w d"]:
        """Return the volume at the lower resolution."""
        x = jax.nn.gelu(self.gather(self.cubes(x)))
        return x + jax.nn.gelu(self.mix(x))

    def cubes(self, x: Float[Array, "b x y z c"]) -> Float[Array, "b u v w e"]:
        """Return the voxels of each cube as channels."""
        b, *shape, c = x.shape
        f = self.factor
        cubes = x.reshape(b, shape[0] // f, f, shape[1] // f, f, shape[2] // f, f, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
        return cubes.reshape(*cubes.shape[:4], -1)


class PatchUp(nnx.Module):
    """Each voxel becomes a cube of factor^3, by a dense layer on top of another: depth to space."""

    def __init__(self, factor: int, channels: int, out: int, rngs: nnx.Rngs) -> None:
        self.factor = factor
        self.mix = nnx.Linear(channels, channels, rngs=rngs)
        self.spread = nnx.Linear(channels, factor**3 * out, rngs=rngs)

    def __call__(self, x: Float[Array, "b u v w d"]) -> Float[Array, "b x y z c"]:
        """Return the volume at the higher resolution."""
        x = jax.nn.gelu(x)
        return self.together(self.spread(x + jax.nn.gelu(self.mix(x))), self.factor)

    @staticmethod
    def together(x: Float[Array, "b u v w e"], f: int) -> Float[Array, "b x y z c"]:
        """Return channels as the voxels of cubes of f^3."""
        b, u, v, w, _ = x.shape
        cubes = x.reshape(b, u, v, w, f, f, f, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
        return cubes.reshape(b, u * f, v * f, w * f, -1)


class ConvolutionDown(nnx.Module):
    """A strided convolution, and one without stride."""

    def __init__(self, factor: int, channels: int, out: int, rngs: nnx.Rngs) -> None:
        self.strided = nnx.Conv(channels, out, (3, 3, 3), strides=factor, rngs=rngs)
        self.plain = nnx.Conv(out, out, (3, 3, 3), rngs=rngs)

    def __call__(self, x: Float[Array, "b x y z c"]) -> Float[Array, "b u v w d"]:
        """Return the volume at the lower resolution."""
        return jax.nn.relu(self.plain(jax.nn.relu(self.strided(x))))


class ConvolutionUp(nnx.Module):
    """A convolution without stride, and a transposed one."""

    def __init__(self, factor: int, channels: int, out: int, rngs: nnx.Rngs) -> None:
        self.plain = nnx.Conv(channels, channels, (3, 3, 3), rngs=rngs)
        self.transposed = nnx.ConvTranspose(channels, out, (3, 3, 3), strides=factor, rngs=rngs)

    def __call__(self, x: Float[Array, "b u v w d"]) -> Float[Array, "b x y z c"]:
        """Return the volume at the higher resolution."""
        return self.transposed(jax.nn.relu(self.plain(jax.nn.relu(x))))


class GatheredConvolution(nnx.Module):
    """A convolution with a kernel of 3^3 as one matrix product of all neighbours: faster on a CPU, at more memory."""

    def __init__(self, channels: int, out: int, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(27 * channels, out, rngs=rngs)

    def __call__(self, x: Float[Array, "b x y z c"]) -> Float[Array, "b x y z d"]:
        """Return a volume of the same shape."""
        n, m, o = x.shape[1:4]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
        shifts = itertools.product(range(3), repeat=3)
        return self.linear(jnp.concatenate([padded[:, i : i + n, j : j + m, k : k + o] for i, j, k in shifts], axis=-1))


class Residual(nnx.Module):
    """Convolutions of one width, and their input added to what they make.

    Parameters
    ----------
    depth, channels
        Convolutions, and their width.
    rngs
        Of the weights.
    gathered
        Whether each is one matrix product.
    kernels
        How the weights of plain convolutions begin: by LeCun's rule, unless told otherwise.
    """

    def __init__(
        self, depth: int, channels: int, rngs: nnx.Rngs, *, gathered: bool = False, kernels: Any = _LECUN
    ) -> None:
        def layer() -> Any:
            if gathered:
                return GatheredConvolution(channels, channels, rngs)
            return nnx.Conv(channels, channels, (3, 3, 3), kernel_init=kernels, rngs=rngs)

        self.layers = nnx.List([layer() for _ in range(depth)])

    def __call__(self, x: Float[Array, "b x y z c"]) -> Float[Array, "b x y z c"]:
        """Return a volume of the same shape."""
        y = x
        for layer in self.layers:
            y = jax.nn.relu(layer(y))
        return x + y


# Downwards, upwards.
LAYERS = {"patch": (PatchDown, PatchUp), "convolution": (ConvolutionDown, ConvolutionUp)}
