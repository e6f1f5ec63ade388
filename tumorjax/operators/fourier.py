"""The inverse of uniform elasticity in Fourier space, as a preconditioner."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Complex

from tumorjax.operators.elasticity import Faces, Stiffness, at_centres, from_flat, to_flat


class Fourier(eqx.Module):
    """A preconditioner of elasticity: the inverse of the operator of a uniform medium on a periodic box.

    Parameters
    ----------
    screening
        A constant added to the squared wave number, in units of the squared wave number of the longest wave in the box.
        It keeps a uniform displacement, which has no strain, finite; besides, the head is clamped at a shorter
        distance than the box is long. The default needs close to the fewest iterations on a head.

    Notes
    -----
    In a uniform medium a wave of the staggered grid sees the matrix mu |d|^2 I + (lambda + mu) d d^H, where
    d_a = (exp(i k_a h_a) - 1) / h_a is the symbol of the difference along axis a; the Sherman-Morrison formula inverts
    it. The true moduli enter through the square root of mu on every face, with which both sides are scaled; this takes
    two thirds of the iterations of the unscaled inverse. lambda / mu enters through its mean.
    """

    screening: float = eqx.field(static=True, default=10.0)

    def inverse(self, medium: Stiffness) -> Callable[[Faces], Faces]:
        """Return an approximate inverse of minus `force_on_faces`, symmetric and positive definite on free faces."""
        shape, rates = medium.shape, medium.rates
        # One voxel more than the grid, so that opposite sides of the periodic box do not touch.
        sizes = [_fast_length(n + 1) for n in shape]
        d = [_symbol(axis, sizes, rates[axis]) for axis in range(3)]
        longest = jnp.min(rates * jnp.asarray([2 * np.pi / n for n in sizes], rates.dtype)) ** 2
        squares = [jnp.real(symbol) ** 2 + jnp.imag(symbol) ** 2 for symbol in d]
        green = 1 / (squares[0] + squares[1] + squares[2] + self.screening * longest)

        first, shear = ([sum(at_centres(m, a, shape)) / 2 for a in range(3)] for m in (medium.first, medium.shear))
        shear = [jnp.where(free > 0, modulus, 1) for free, modulus in zip(medium.free, shear, strict=True)]
        ratios = [jnp.sum(free * lam / mu) for free, lam, mu in zip(medium.free, first, shear, strict=True)]
        ratio = jnp.sum(jnp.stack(ratios)) / jnp.maximum(sum(jnp.sum(free) for free in medium.free), 1)
        scale = [free / jnp.sqrt(mu) for free, mu in zip(medium.free, shear, strict=True)]

        transverse = green.astype(d[0].dtype)
        compression = (green**2 * (ratio + 1) / (ratio + 2)).astype(d[0].dtype)

        def apply(residual: Faces) -> Faces:
            waves = [jnp.fft.rfftn(from_flat(s * r, shape), sizes) for s, r in zip(scale, residual, strict=True)]
            divergence = compression * sum(jnp.conj(symbol) * wave for symbol, wave in zip(d, waves, strict=True))
            components = []
            for symbol, wave, s in zip(d, waves, scale, strict=True):
                solution = jnp.fft.irfftn(transverse * wave - symbol * divergence, sizes)
                components.append(s * to_flat(solution[: shape[0], : shape[1], : shape[2]]))
            return components[0], components[1], components[2]

        return apply


def _fast_length(n: int) -> int:
    # The next length without prime factors above five.
    while 30 ** n.bit_length() % n:
        n += 1
    return n


def _symbol(axis: int, sizes: list[int], rate: Array) -> Complex[Array, "_ _ _"]:
    # (exp(i k h) - 1) / h; the real transform runs along the last axis.
    n = sizes[axis]
    angle = 2 * np.pi * (np.fft.rfftfreq(n) if axis == 2 else np.fft.fftfreq(n))
    angle = angle.reshape([-1 if a == axis else 1 for a in range(3)])
    real, imaginary = (jnp.asarray(part, rate.dtype) * rate for part in (np.cos(angle) - 1, np.sin(angle)))
    return lax.complex(real, imaginary)
