"""Other schemes for diffusion, for comparison: forward only, with the splitting and time levels of the default."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, Int

from tumorjax.growth import ReactionDiffusion
from tumorjax.integrate import AbstractStepper, Interval, SplitEuler, StrangRKL2
from tumorjax.integrate.rkl2 import stages
from tumorjax.integrate.splitting import AbstractSplitting, Field
from tumorjax.integrate.stepper import Schedule
from tumorjax.operators import diffuse, spread

_MAX_DEGREE = 255
_UNBOUNDED = 2**15 + 1


class AbstractStrang(AbstractSplitting):
    """Strang splitting on the time levels of `StrangRKL2`, with another scheme for the diffusion.

    Parameters
    ----------
    reaction_step, first_steps, exponent
        The parameters of `StrangRKL2`.
    tolerance
        Error tolerance of one step of diffusion, relative to the state, in the L2 norm.
    """

    reaction_step: float = eqx.field(static=True, default=0.75)
    first_steps: int = eqx.field(static=True, default=16)
    exponent: float = eqx.field(static=True, default=1.75)
    tolerance: float = eqx.field(static=True, default=1e-4)

    @property
    @abstractmethod
    def max_stages(self) -> int:
        """The stages with which RKL2 would be stable for the widest step allowed."""

    def schedule(self, terms: ReactionDiffusion, interval: Interval) -> Schedule:
        """Return the time levels of `StrangRKL2`."""
        same = StrangRKL2(self.reaction_step, self.first_steps, self.exponent, self.max_stages)
        return same.schedule(terms, interval)

    def reaction_width(self, schedule: Schedule, k: Int[Array, ""]) -> Float[Array, ""]:
        """Return the two half steps of reaction that meet after transport k."""
        return (schedule.width(k) + schedule.width(k + 1)) / 2

    def transport_pullback(self, *arguments: Any, **options: Any) -> Any:
        """Refuse: the comparison is of forward solves."""
        raise NotImplementedError("this scheme runs forward only; differentiate StrangRKL2")


class StrangChebyshev(AbstractStrang):
    """Diffusion by the Chebyshev expansion of the exponential, exact up to the tolerance.

    With z = tau lambda_max / 2 and X = 1 + 2 L / lambda_max, whose spectrum lies in [-1, 1],

        exp(tau L) = exp(-z) exp(z X) = exp(-z) (I_0(z) + 2 sum_k I_k(z) T_k(X))

    cut off where the rest of the coefficients sums to no more than the tolerance.

    References
    ----------
    Tal-Ezer, Kosloff, "An accurate and efficient scheme for propagating the time dependent Schrödinger equation",
    J. Chem. Phys. 81 (1984). Bergamaschi, Vianello, "Efficient computation of the exponential operator for large,
    sparse, symmetric matrices", Numer. Linear Algebra Appl. 7 (2000).
    """

    @property
    def max_stages(self) -> int:
        """Such that the degree stays in bounds: the rest behind degree K is about exp(-K^2 / (tau lambda_max))."""
        return 2 * int(_MAX_DEGREE / np.sqrt(-2 * np.log(self.tolerance))) + 1

    def expansion(self, stiffness: Float[Array, ""]) -> tuple[Float[Array, "n"], Int[Array, ""]]:
        """Return the coefficients for tau lambda_max, and the degree, which is odd."""
        coefficients = chebyshev_coefficients(stiffness / 2)
        rest = jnp.cumsum(jnp.abs(coefficients[::-1]))[::-1]
        count = jnp.sum(rest[1:] > self.tolerance, dtype=jnp.int32)
        return coefficients, 2 * (count // 2) + 1

    def transport(self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""], state: Field) -> Field:
        """Return the expansion, applied to the state by Clenshaw's recurrence in as many evaluations as its degree."""
        width = schedule.width(k)
        coefficients, degree = self.expansion(width * schedule.stiffness)
        # 2 / lambda_max; where nothing diffuses any number will do.
        scale = 2 * terms.diffusivity / jnp.maximum(schedule.stiffness, jnp.finfo(state.dtype).tiny)

        def applied(field: Field) -> Field:
            return field + scale * diffuse(field, terms.conductance)

        # Two an iteration write back to the buffers that they came from, as in RKL2.
        def two(j: Array, carry: tuple[Field, Field]) -> tuple[Field, Field]:
            odd, even = carry
            i = degree - 1 - 2 * j
            even = coefficients[i] * state + 2 * applied(odd) - even
            odd, even = lax.optimization_barrier((odd, even))
            return coefficients[i - 1] * state + 2 * applied(even) - odd, even

        last = (coefficients[degree] * state, jnp.zeros_like(state))
        odd, even = lax.fori_loop(0, degree // 2, two, last)
        return coefficients[0] * state + applied(odd) - even


def chebyshev_coefficients(z: Float[Array, ""]) -> Float[Array, "n"]:
    """Return exp(-z) (I_0(z), 2 I_1(z), 2 I_2(z), ...), z >= 0: the expansion of exp(z (x - 1)) on [-1, 1].

    By the midpoint rule for exp(-z) I_k(z) = 1/pi int_0^pi exp(z (cos t - 1)) cos(k t) dt, which converges
    exponentially, and neither overflows nor cancels.
    """
    n = _MAX_DEGREE + 1
    angles = (np.arange(n) + 0.5) * np.pi / n
    cosines = 2 / n * np.cos(np.arange(n)[:, None] * angles)
    cosines[0] /= 2
    values = jnp.exp(z * jnp.asarray(-2 * np.sin(angles / 2) ** 2, z.dtype))
    return jnp.matmul(jnp.asarray(cosines, z.dtype), values, precision=lax.Precision.HIGHEST)


class StrangImplicit(AbstractStrang):
    """Diffusion by an L-stable step of second order, solved by conjugate gradients.

    Alexander's singly diagonal scheme has the stability function (1 + (1 - 2 g) x) / (1 - g x)^2, g = 1 - 1/sqrt(2),
    which for a linear operator is A^-1 ((1 + sqrt(2)) A^-1 - sqrt(2)) with A = 1 - g tau L.

    Parameters
    ----------
    on_evaluation
        Static, called at every evaluation of the operator; it slows the solve down.

    References
    ----------
    Alexander, "Diagonally implicit Runge-Kutta methods for stiff O.D.E.'s", SIAM J. Numer. Anal. 14 (1977), theorem 5.
    """

    on_evaluation: Callable[[], None] | None = eqx.field(static=True, default=None)

    @property
    def max_stages(self) -> int:
        """No bound."""
        return _UNBOUNDED

    def transport(self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""], state: Field) -> Field:
        """Return the state after two systems, each begun from the state before it."""
        conductance, root = terms.conductance, float(np.sqrt(2))
        width = (1 - 1 / root) * schedule.width(k) * terms.diffusivity
        diagonal = jnp.ones_like(state)
        for offset, edges in zip(conductance.offsets, conductance.edges, strict=True):
            diagonal += width * (spread(edges, offset, there=False) + spread(edges, offset, there=True))

        def operator(field: Field) -> Field:
            if self.on_evaluation is not None:
                jax.debug.callback(self.on_evaluation)
            return field - width * diffuse(field, conductance)

        def solved(right: Field, start: Field) -> Field:
            return cg(operator, right, x0=start, tol=self.tolerance, M=lambda residual: residual / diagonal)[0]

        first = solved(state, state)
        return solved((1 + root) * first - root * state, first)


def evaluations(stepper: AbstractStepper, terms: ReactionDiffusion) -> int:
    """Return the number of evaluations of the operator by an explicit scheme in an interval of unit length."""

    def of_step(schedule: Schedule, k: Int[Array, ""]) -> Int[Array, ""]:
        stiffness = schedule.width(k) * schedule.stiffness
        match stepper:
            case SplitEuler():
                return jnp.ones((), jnp.int32)
            case StrangRKL2():
                return stages(stiffness, stepper.max_stages)
            case StrangChebyshev():
                return stepper.expansion(stiffness)[1]
        raise TypeError(f"no count of evaluations for {stepper}")

    schedule = stepper.schedule(terms, Interval())
    return int(jnp.sum(jax.vmap(lambda k: of_step(schedule, k))(jnp.arange(int(schedule.steps), dtype=jnp.int32))))
