"""Super time steps of diffusion: the stage polynomial of RKL2, its derivatives and its pullback.

A step tau of c' = L c with L = div(K grad .) is c -> a_s c + b_s P_s(x) c, where x = 1 + w_s tau L and P_s is the
Legendre polynomial of degree s (odd here). For a linear operator its three-term recurrence gives the same as the
published stages and reads fewer fields.

References
----------
Meyer, Balsara, Aslam, "A stabilized Runge-Kutta-Legendre method for explicit super-time-stepping of
parabolic and mixed equations", J. Comput. Phys. 257 (2014), equations 16 to 21.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from tumorjax.operators import Conductance, apart, difference, diffuse

Field = Float[Array, "x y z"]


def stages(stiffness: Float[Array, ""], most: int) -> Int[Array, ""]:
    """Return the least odd s with (s^2 + s - 2) / 2 >= tau lambda_max (equation 20), at least 3 and at most `most`."""
    root = (jnp.sqrt(9 + 8 * stiffness) - 1) / 2
    count = 2 * jnp.ceil((root - 1) / 2) + 1
    # A NaN compares false and takes the least number of stages.
    count = jnp.where(count <= most, count, jnp.where(count > 3, most, 3))
    return lax.stop_gradient(jnp.maximum(count, 3)).astype(jnp.int32)


def super_step(state: Field, conductance: Conductance, tau: Float[Array, ""], s: Int[Array, ""]) -> Field:
    """Return the state after a step of diffusion, in s stages."""
    b, w = _coefficients(s, state.dtype)
    last, _ = _stages(state, conductance, w * tau, s)
    return (1 - b) * state + b * last


def super_step_and_derivative(
    state: Field, conductance: Conductance, tau: Float[Array, ""], s: Int[Array, ""]
) -> tuple[Field, Field]:
    """Return the step and its derivative with respect to tau.

    The derivative is b_s w_s L P_s'(x) c with P_s' = sum of (2 k + 1) P_k over k = s - 1, s - 3, ..., 0: a sum over
    stages that are computed anyway. It is summed before the operator is applied, for at a small tau the stages hardly
    differ, so that a sum of their differences is rounding.
    """
    b, w = _coefficients(s, state.dtype)

    # s is odd, so that the sum is over even k.
    def two(j: Array, carry: tuple[Field, Field, Field]) -> tuple[Field, Field, Field]:
        odd, even, total = carry
        even = _legendre(2 * j, odd, even, w * tau, conductance)
        odd, even, total = lax.optimization_barrier((odd, even, total))
        n = (4 * j + 1).astype(state.dtype)
        return _legendre(2 * j + 1, even, odd, w * tau, conductance), even, total + n * even

    first = _applied(state, conductance, w * tau)
    polynomial, _, total = lax.fori_loop(1, (s + 1) // 2, two, (first, state, state))
    return (1 - b) * state + b * polynomial, b * w * apart(diffuse, total, conductance)


def super_step_pullback(
    state: Field, conductance: Conductance, tau: Float[Array, ""], s: Int[Array, ""], cotangent: Field
) -> tuple[Field, Conductance, Float[Array, ""]]:
    """Return the cotangents of state, conductance and tau.

    The stages are needed last to first. They are not kept but computed back from the last two, by the recurrence
    read downwards: on the spectrum of x, which lies in [-1, 1], its solutions do not grow.
    """
    b, w = _coefficients(s, state.dtype)
    width, dtype = w * tau, state.dtype

    def bar_below(k: Array, bar: Field, bar_above: Field) -> Field:
        """Return the cotangent of P_{k-1} from those of P_k and P_{k+1}."""
        n = k.astype(dtype)
        return (2 * n - 1) / n * _applied(bar, conductance, width) - n / (n + 1) * bar_above

    def two_below(k: Array, below: Field, stage: Field) -> Field:
        """Return P_{k-2} from P_{k-1} and P_k."""
        n = k.astype(dtype)
        return (2 * n - 1) / (n - 1) * _applied(below, conductance, width) - n / (n - 1) * stage

    def products(k: Array, bar: Field, below: Field) -> list[Array]:
        """Return what stage k gives to the cotangent of each edge."""
        n = k.astype(dtype)
        return [(2 * n - 1) / n * difference(bar, e) * difference(below, e) for e in conductance.offsets]

    # Two an iteration write back to the buffers that they came from, as in `_stages`.
    def two(i: Array, carry: tuple) -> tuple:
        k = s - 2 * i
        stage, below, bar, bar_above, edges_bar = carry
        bar_above, stage = bar_below(k, bar, bar_above), two_below(k, below, stage)
        stage, below, bar, bar_above, edges_bar = lax.optimization_barrier((stage, below, bar, bar_above, edges_bar))
        both = zip(edges_bar, products(k, bar, below), products(k - 1, bar_above, stage), strict=True)
        edges_bar = tuple(total - upper - lower for total, upper, lower in both)
        stage, below, bar, bar_above, edges_bar = lax.optimization_barrier((stage, below, bar, bar_above, edges_bar))
        return stage, two_below(k - 1, stage, below), bar_below(k - 1, bar_above, bar), bar_above, edges_bar

    zeros = tuple(jnp.zeros_like(edges) for edges in conductance.edges)
    start = (*_stages(state, conductance, width, s), b * cotangent, jnp.zeros_like(state))
    _, below, bar, bar_above, edges_bar = lax.fori_loop(0, s // 2, two, (*start, zeros))
    # s is odd, so that the first stage, P_1 = x P_0, is left.
    first = jnp.ones_like(s)
    edges_bar = tuple(t - p for t, p in zip(edges_bar, products(first, bar, below), strict=True))
    state_bar = bar_below(first, bar, bar_above) + (1 - b) * cotangent
    # Every stage holds the conductance times w tau.
    width_bar = sum((jnp.sum(t * k) for t, k in zip(edges_bar, conductance.edges, strict=True)), jnp.zeros((), dtype))
    return state_bar, Conductance(tuple(width * t for t in edges_bar), conductance.offsets), w * width_bar


def _coefficients(s: Int[Array, ""], dtype: jnp.dtype) -> tuple[Array, Array]:
    """Return b_s and w_s of RKL2 (a_s = 1 - b_s)."""
    n = s.astype(dtype)
    return (n * n + n - 2) / (2 * n * (n + 1)), 4 / (n * n + n - 2)


def _legendre(k: Int[Array, ""], current: Field, previous: Field, width: Array, conductance: Conductance) -> Field:
    """Return P_k from P_{k-1} and P_{k-2}, at 1 + width div(K grad)."""
    n = k.astype(current.dtype)
    return ((2 * n - 1) / n) * _applied(current, conductance, width) - ((n - 1) / n) * previous


def _applied(state: Field, conductance: Conductance, width: Array) -> Field:
    """Return x c = c + width div(K grad c)."""
    return state + width * diffuse(state, conductance)


def _stages(state: Field, conductance: Conductance, width: Array, s: Int[Array, ""]) -> tuple[Field, Field]:
    """Return P_s and P_{s-1} of the state."""

    # Two stages an iteration write back to the buffers that they came from; the barrier keeps the
    # compiler from fusing them, which would compute the first stage several times over.
    def two(j: Array, carry: tuple[Field, Field]) -> tuple[Field, Field]:
        odd, even = carry
        even = _legendre(2 * j, odd, even, width, conductance)
        odd, even = lax.optimization_barrier((odd, even))
        return _legendre(2 * j + 1, even, odd, width, conductance), even

    first = _applied(state, conductance, width)
    return lax.fori_loop(1, (s + 1) // 2, two, (first, state))
