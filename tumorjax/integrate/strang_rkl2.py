"""Strang splitting of exact logistic growth and super-time-stepped diffusion."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from tumorjax.growth import ReactionDiffusion
from tumorjax.integrate.stepper import AbstractStepper, Field, Schedule, no_conductance
from tumorjax.operators import Conductance, diffuse, largest_eigenvalue_bound
from tumorjax.operators.diffusion import gradient


class StrangRKL2(AbstractStepper):
    """Second-order Strang splitting: half a reaction, diffusion by RKL2, half a reaction.

    Diffusion over a step tau is the stage polynomial of the Runge-Kutta-Legendre scheme,
    c -> a_s c + b_s P_s(1 + w_s tau L) c with L = D div(K grad .), which is stable for
    tau <= (s^2 + s - 2) / (2 lambda_max): the number of stages s follows from the diffusion, the number
    of steps from the reaction. For a linear operator the three-term recurrence of the Legendre polynomials
    gives the same result as the published stages and reads fewer fields. Steps begin small, t_k = T (k / n)^p,
    because a seed is the least smooth density of all: p = 1.75 gave a quarter of the error of even steps
    for the same work.

    Parameters
    ----------
    reaction_step
        Largest rho dt of the mean step, dimensionless: the accuracy bound of the splitting.
    first_steps
        Steps added in the interval that begins with the seed.
    exponent
        p, of that interval; later intervals have even steps.
    max_stages
        Bound on s, from which the number of steps follows where diffusion would need more; odd.

    References
    ----------
    Meyer, Balsara, Aslam, "A stabilized Runge-Kutta-Legendre method for explicit super-time-stepping of
    parabolic and mixed equations", J. Comput. Phys. 257 (2014), equations 16 to 21.
    """

    reaction_step: float = eqx.field(static=True, default=0.75)
    first_steps: int = eqx.field(static=True, default=8)
    exponent: float = eqx.field(static=True, default=1.75)
    max_stages: int = eqx.field(static=True, default=31)

    def __check_init__(self) -> None:
        if not (self.reaction_step > 0 and self.first_steps >= 1 and self.exponent >= 1):
            raise ValueError(f"reaction_step, first_steps must be positive and exponent at least 1, got {self}")
        if self.max_stages < 3 or self.max_stages % 2 == 0:
            raise ValueError(f"max_stages must be odd and at least 3, got {self.max_stages}")

    def schedule(self, terms: ReactionDiffusion, *, first: bool) -> Schedule:
        """Return as many steps as the reaction's accuracy and the bound on the stages ask for."""
        exponent = self.exponent if first else 1.0
        for_reaction = (self.first_steps if first else 1) + jnp.ceil(terms.proliferation / self.reaction_step)
        limit = (self.max_stages**2 + self.max_stages - 2) / 2
        stiffness = lax.stop_gradient(terms.diffusivity * largest_eigenvalue_bound(terms.conductance))
        # The widest step of the graded interval is p times the mean one.
        for_diffusion = jnp.ceil(exponent * stiffness / limit)
        # NaN and infinity compare false, and give one step of NaN instead of an endless loop.
        steps = jnp.maximum(for_reaction, for_diffusion)
        steps = jnp.where(steps < 2**20, steps, 1)
        return Schedule(lax.stop_gradient(steps).astype(jnp.int32), exponent, stiffness)

    def reaction_width(self, schedule: Schedule, k: Int[Array, ""], dtype: Any) -> Float[Array, ""]:
        """Return the two half steps of reaction that meet after transport k; half of the first opens the interval."""
        return (schedule.width(k, dtype) + schedule.width(k + 1, dtype)) / 2

    def transport(self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""], state: Field) -> Field:
        """Return the stage polynomial of the diffusion, applied to the state."""
        tau, stages = self._diffusion(terms, schedule, k)
        return _diffusion_step(state, terms.conductance, tau, stages)

    def transport_pullback(
        self,
        terms: ReactionDiffusion,
        schedule: Schedule,
        k: Int[Array, ""],
        before: Field,
        cotangent: Field,
        *,
        fields: bool,
    ) -> tuple[Conductance, Float[Array, ""], Field]:
        """Pull back by the same polynomial, which is its own adjoint."""
        tau, stages = self._diffusion(terms, schedule, k)
        if fields:
            before_bar, conductance_bar, tau_bar = _diffusion_pullback(
                before, terms.conductance, tau, stages, cotangent, self.max_stages
            )
            return conductance_bar, tau_bar * schedule.width(k, before.dtype), before_bar
        before_bar, derivative = _diffusion_step_and_derivative(cotangent, terms.conductance, tau, stages)
        # tau = D dt, so d/dD = (1/D) d/d log(tau); and that derivative is symmetric as the polynomial is.
        diffusivity = jnp.maximum(terms.diffusivity, jnp.finfo(before.dtype).tiny)
        return no_conductance(before.dtype), jnp.sum(derivative * before) / diffusivity, before_bar

    def _diffusion(self, terms: ReactionDiffusion, schedule: Schedule, k: Int[Array, ""]) -> tuple[Array, Array]:
        width = schedule.width(k, terms.growth.dtype)
        # (s^2 + s - 2) / 2 >= stiffness, rounded up to the next odd number.
        root = (jnp.sqrt(9 + 8 * width * schedule.stiffness) - 1) / 2
        stages = 2 * jnp.ceil((root - 1) / 2) + 1
        # A NaN compares false and takes the least number of stages.
        stages = jnp.where(stages <= self.max_stages, stages, jnp.where(stages > 3, self.max_stages, 3))
        return terms.diffusivity * width, jnp.maximum(stages, 3).astype(jnp.int32)


def _coefficients(stages: Int[Array, ""], dtype: jnp.dtype) -> tuple[Array, Array]:
    """Return b_s and w_s of RKL2 (a_s = 1 - b_s)."""
    s = stages.astype(dtype)
    return (s * s + s - 2) / (2 * s * (s + 1)), 4 / (s * s + s - 2)


def _legendre_step(k: Int[Array, ""], current: Field, previous: Field, width: Array, conductance: Conductance) -> Field:
    """Return P_k from P_{k-1} and P_{k-2}, at 1 + width div(K grad)."""
    n = k.astype(current.dtype)
    applied = current + width * diffuse(current, conductance)
    return ((2 * n - 1) / n) * applied - ((n - 1) / n) * previous


def _diffusion_step(state: Field, conductance: Conductance, tau: Array, stages: Int[Array, ""]) -> Field:
    b, w = _coefficients(stages, state.dtype)

    # Two stages an iteration write back to the buffers that they came from; the barrier keeps the
    # compiler from fusing them, which would compute the first stage several times over.
    def pair(j: Array, carry: tuple[Field, Field]) -> tuple[Field, Field]:
        odd, even = carry
        even = _legendre_step(2 * j, odd, even, w * tau, conductance)
        odd, even = lax.optimization_barrier((odd, even))
        return _legendre_step(2 * j + 1, even, odd, w * tau, conductance), even

    first = state + w * tau * diffuse(state, conductance)
    polynomial, _ = lax.fori_loop(1, (stages + 1) // 2, pair, (first, state))
    return (1 - b) * state + b * polynomial


def _diffusion_step_and_derivative(
    state: Field, conductance: Conductance, tau: Array, stages: Int[Array, ""]
) -> tuple[Field, Field]:
    """Return the step and its derivative with respect to log(tau).

    With x = 1 + w tau L the derivative is b_s (x - 1) P_s'(x) c, and
    (x - 1) P_s' = s P_s - sum_{k < s} (-1)^(s - 1 - k) (2 k + 1) P_k (from x P_s' = s P_s + P_{s-1}' and
    P_n' = sum of (2 k + 1) P_k over k = n - 1, n - 3, ...): a sum over the stages that are computed anyway.
    """
    b, w = _coefficients(stages, state.dtype)

    # s is odd, so the sign of P_k is plus for even k.
    def pair(j: Array, carry: tuple[Field, Field, Field]) -> tuple[Field, Field, Field]:
        odd, even, total = carry
        even = _legendre_step(2 * j, odd, even, w * tau, conductance)
        total = total + (4 * j + 1).astype(state.dtype) * even
        odd, even, total = lax.optimization_barrier((odd, even, total))
        odd = _legendre_step(2 * j + 1, even, odd, w * tau, conductance)
        return odd, even, total - (4 * j + 3).astype(state.dtype) * odd

    first = state + w * tau * diffuse(state, conductance)
    polynomial, _, total = lax.fori_loop(1, (stages + 1) // 2, pair, (first, state, state - 3 * first))
    # The loop has taken -(2 s + 1) P_s along, which the sum does not hold.
    s = stages.astype(state.dtype)
    derivative = b * ((-s - 1) * polynomial - total)
    return (1 - b) * state + b * polynomial, derivative


def _diffusion_pullback(
    state: Field,
    conductance: Conductance,
    tau: Array,
    stages: Int[Array, ""],
    cotangent: Field,
    max_stages: int,
) -> tuple[Field, Conductance, Array]:
    """Return the cotangents of state, conductance and tau, by recomputing the stages and reversing them."""
    b, w = _coefficients(stages, state.dtype)
    dtype = state.dtype
    history = jnp.zeros((max_stages + 1, *state.shape), dtype).at[0].set(state)
    history = history.at[1].set(state + w * tau * diffuse(state, conductance))
    history = lax.fori_loop(
        2,
        stages + 1,
        lambda k, h: h.at[k].set(_legendre_step(k, h[k - 1], h[k - 2], w * tau, conductance)),
        history,
    )

    def reverse(i: Array, carry: tuple) -> tuple:
        # `current` is the cotangent of P_k, `previous` what P_{k-1} has received so far.
        current, previous, faces_bar = carry
        k = stages - i
        n = k.astype(dtype)
        scaled = (2 * n - 1) / n * current
        faces_bar = tuple(
            total - gradient(scaled, axis) * gradient(history[k - 1], axis) for axis, total in enumerate(faces_bar)
        )
        received = previous + scaled + w * tau * diffuse(scaled, conductance)
        return received, -((n - 1) / n) * current, faces_bar

    faces_bar = tuple(jnp.zeros_like(faces) for faces in conductance)
    start = (b * cotangent, jnp.zeros_like(state), faces_bar)
    before, _, faces_bar = lax.fori_loop(0, stages, reverse, start)
    # Every stage holds the conductance times w tau.
    tau_bar = w * sum(
        (jnp.sum(bar * faces) for bar, faces in zip(faces_bar, conductance, strict=True)), jnp.zeros((), dtype)
    )
    x, y, z = (w * tau * bar for bar in faces_bar)
    return before + (1 - b) * cotangent, (x, y, z), tau_bar
