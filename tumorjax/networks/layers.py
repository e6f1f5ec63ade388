"""Layers that reduce or increase the resolution of volumes (batch, x, y, z, channels).

On a CPU, converting patches to channels, and channels to patches, is 20 to 100 times faster than strided and transposed
convolutions, with an equal receptive field.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

# The default initialisation of flax.
_LECUN = nnx.initializers.lecun_normal()


class PatchDown(nnx.Module):
    """A layer that reduces each cube of factor^3 voxels to one voxel by two dense layers."""

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
    """A layer that expands each voxel to a cube of factor^3 voxels by two dense layers (depth to space)."""

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
        """Arrange channels as the voxels of cubes of f^3."""
        b, u, v, w, _ = x.shape
        cubes = x.reshape(b, u, v, w, f, f, f, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
        return cubes.reshape(b, u * f, v * f, w * f, -1)


class ConvolutionDown(nnx.Module):
    """A layer of a strided convolution and a plain one, which reduces the resolution."""

    def __init__(self, factor: int, channels: int, out: int, rngs: nnx.Rngs) -> None:
        self.strided = nnx.Conv(channels, out, (3, 3, 3), strides=factor, rngs=rngs)
        self.plain = nnx.Conv(out, out, (3, 3, 3), rngs=rngs)

    def __call__(self, x: Float[Array, "b x y z c"]) -> Float[Array, "b u v w d"]:
        """Return the volume at the lower resolution."""
        return jax.nn.relu(self.plain(jax.nn.relu(self.strided(x))))


class ConvolutionUp(nnx.Module):
    """A layer of a plain convolution and a transposed one, which increases the resolution."""

    def __init__(self, factor: int, channels: int, out: int, rngs: nnx.Rngs) -> None:
        self.plain = nnx.Conv(channels, channels, (3, 3, 3), rngs=rngs)
        self.transposed = nnx.ConvTranspose(channels, out, (3, 3, 3), strides=factor, rngs=rngs)

    def __call__(self, x: Float[Array, "b u v w d"]) -> Float[Array, "b x y z c"]:
        """Return the volume at the higher resolution."""
        return self.transposed(jax.nn.relu(self.plain(jax.nn.relu(x))))


class GatheredConvolution(nnx.Module):
    """A convolution with a kernel of 3^3 as one matrix product, which is faster on a CPU but needs more memory."""

    def __init__(self, channels: int, out: int, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(27 * channels, out, rngs=rngs)

    def __call__(self, x: Float[Array, "b x y z c"]) -> Float[Array, "b x y z d"]:
        """Return a volume of the same shape."""
        n, m, o = x.shape[1:4]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
        shifts = itertools.product(range(3), repeat=3)
        return self.linear(jnp.concatenate([padded[:, i : i + n, j : j + m, k : k + o] for i, j, k in shifts], axis=-1))


class Residual(nnx.Module):
    """A residual block: convolutions of equal width whose output is added to the input.

    Parameters
    ----------
    depth, channels
        Number of convolutions, and their number of channels.
    rngs
        Random generators for the initial weights.
    gathered
        Whether each convolution is computed as one matrix product.
    kernels
        Initialisation of the weights of plain convolutions; by default LeCun's.
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


# The layers that reduce and that increase the resolution, by kind.
LAYERS = {"patch": (PatchDown, PatchUp), "convolution": (ConvolutionDown, ConvolutionUp)}
