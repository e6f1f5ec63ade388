"""How a whole solve is differentiated."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from tumorjax.growth import ReactionDiffusion
from tumorjax.integrate.stepper import AbstractStepper, Field, Schedule


class AbstractAdjoint(eqx.Module):
    """A way to advance an interval that supports one mode of differentiation."""

    @abstractmethod
    def advance(self, stepper: AbstractStepper, terms: ReactionDiffusion, state: Field, *, first: bool) -> Field:
        """Return the state at the end of an interval of unit length."""


class ForwardMode(AbstractAdjoint):
    """Plain loops, for `jax.jvp` and `jax.jacfwd`: cheapest for few parameters and many outputs."""

    def advance(self, stepper: AbstractStepper, terms: ReactionDiffusion, state: Field, *, first: bool) -> Field:
        """Return the state at the end of the interval."""
        return _advance(stepper, terms, state, first)


class CheckpointedAdjoint(AbstractAdjoint):
    """The exact discrete adjoint, for `jax.grad` and `jax.vjp`; the default.

    The solve is cut into segments. Their initial states are kept, and of the last segment the state between
    transport and reaction of every step; the other segments are run again on the way back. As most solves have
    fewer steps than a segment holds, most gradients cost one solve forward and one back.

    Parameters
    ----------
    segment
        Steps a segment; a gradient keeps a field for each.
    segments
        Initial states kept. Solves of more than `segment * segments` steps keep the initial state of every
        second segment, every third and so on, and run the ones between once more.
    """

    segment: int = eqx.field(static=True, default=32)
    segments: int = eqx.field(static=True, default=8)

    def __check_init__(self) -> None:
        if self.segment < 1 or self.segments < 1:
            raise ValueError(f"segment and segments must be at least 1, got {self.segment} and {self.segments}")

    def advance(self, stepper: AbstractStepper, terms: ReactionDiffusion, state: Field, *, first: bool) -> Field:
        """Return the state at the end of the interval."""

        @jax.custom_vjp
        def run(terms: ReactionDiffusion, state: Field) -> Field:
            return _advance(stepper, terms, state, first)

        def forward(terms: Any, state: Any) -> tuple[Field, Any]:
            fields = any(leaf.perturbed for leaf in jax.tree.leaves((terms.conductance, terms.growth), is_leaf=_primal))
            terms, state = jax.tree.map(lambda leaf: leaf.value, (terms, state), is_leaf=_primal)
            final, starts, transported = self._record_all(stepper, terms, state, first)
            return final, (_Static(fields), terms, state, starts, transported)

        def backward(residual: Any, cotangent: Any) -> tuple[ReactionDiffusion, Field]:
            static, terms, state, starts, transported = residual
            if isinstance(cotangent, SymbolicZero):
                cotangent = jnp.zeros_like(state)
            return self._pull_all(stepper, terms, state, starts, transported, cotangent, first, static.value)

        run.defvjp(forward, backward, symbolic_zeros=True)
        return run(terms, state)

    def _layout(self, schedule: Schedule) -> tuple[Any, Any]:
        """Return the index of the last segment, and how many segments lie between kept initial states."""
        last = (schedule.steps - 1) // self.segment
        return last, jnp.maximum(1, (last + self.segments - 1) // self.segments)

    def _record_segment(
        self,
        stepper: AbstractStepper,
        terms: ReactionDiffusion,
        schedule: Schedule,
        start: Any,
        state: Field,
        transported: Field,
    ) -> tuple[Field, Field]:
        """Run the steps of one segment, and keep the state after the transport of each."""

        def body(k: Any, carry: tuple) -> tuple:
            state, transported = carry
            between = stepper.transport(terms, schedule, k, state)
            return stepper.react(terms, schedule, k, between), transported.at[k - start].set(between)

        stop = jnp.minimum(start + self.segment, schedule.steps)
        return lax.fori_loop(start, stop, body, (state, transported))

    def _record_all(
        self, stepper: AbstractStepper, terms: ReactionDiffusion, state: Field, first: bool
    ) -> tuple[Field, Field, Field]:
        """Run the whole solve; return the end, the kept initial states, and what the last segment keeps."""
        schedule = stepper.schedule(terms, first=first)
        last, stride = self._layout(schedule)
        starts = jnp.zeros((self.segments, *state.shape), state.dtype)
        state = stepper.react(terms, schedule, -1, state)

        def body(i: Any, carry: tuple) -> tuple:
            state, starts = carry
            slot = i // stride
            starts = starts.at[slot].set(jnp.where(i % stride == 0, state, starts[slot]))
            return _steps(stepper, terms, schedule, i * self.segment, (i + 1) * self.segment, state), starts

        state, starts = lax.fori_loop(0, last, body, (state, starts))
        # The last segment begins with a state of its own, which no later run can overwrite.
        starts = jnp.concatenate([starts, state[None]])
        transported = jnp.zeros((self.segment, *state.shape), state.dtype)
        state, transported = self._record_segment(stepper, terms, schedule, last * self.segment, state, transported)
        return state, starts, transported

    def _pull_segment(
        self,
        stepper: AbstractStepper,
        terms: ReactionDiffusion,
        schedule: Schedule,
        start: Any,
        begun: Field,
        transported: Field,
        carry: tuple[Field, ReactionDiffusion],
        fields: bool,
    ) -> tuple[Field, ReactionDiffusion]:
        """Pull a cotangent back through the steps of one segment, and add up that of the terms."""
        stop = jnp.minimum(start + self.segment, schedule.steps)

        def body(j: Any, carry: tuple) -> tuple:
            cotangent, total = carry
            k = stop - 1 - j
            between = transported[k - start]
            earlier = stepper.react(terms, schedule, k - 1, transported[jnp.maximum(k - 1 - start, 0)])
            before = jnp.where(k == start, begun, earlier)
            growth_bar, proliferation_bar, cotangent = stepper.react_pullback(terms, schedule, k, between, cotangent)
            # Else the compiler computes the reaction again for every neighbour in the first stencil.
            before, cotangent = lax.optimization_barrier((before, cotangent))
            conductance_bar, diffusivity_bar, cotangent = stepper.transport_pullback(
                terms, schedule, k, before, cotangent, fields=fields
            )
            if not fields:
                growth_bar = jnp.zeros((), growth_bar.dtype)
            new = ReactionDiffusion(conductance_bar, growth_bar, diffusivity_bar, proliferation_bar)
            return cotangent, jax.tree.map(jnp.add, total, new)

        return lax.fori_loop(0, stop - start, body, carry)

    def _pull_all(
        self,
        stepper: AbstractStepper,
        terms: ReactionDiffusion,
        state: Field,
        starts: Field,
        transported: Field,
        cotangent: Field,
        first: bool,
        fields: bool,
    ) -> tuple[ReactionDiffusion, Field]:
        """Pull a cotangent back through the whole solve."""
        schedule = stepper.schedule(terms, first=first)
        last, stride = self._layout(schedule)
        zero = jnp.zeros((), state.dtype)
        total = (
            jax.tree.map(jnp.zeros_like, terms) if fields else ReactionDiffusion((zero, zero, zero), zero, zero, zero)
        )
        carry = self._pull_segment(
            stepper, terms, schedule, last * self.segment, starts[-1], transported, (cotangent, total), fields
        )

        def body(j: Any, carry: tuple) -> tuple:
            pulled, transported = carry
            i = last - 1 - j
            slot = i // stride
            begun = _steps(stepper, terms, schedule, slot * stride * self.segment, i * self.segment, starts[slot])
            start = i * self.segment
            _, transported = self._record_segment(stepper, terms, schedule, start, begun, transported)
            pulled = self._pull_segment(stepper, terms, schedule, start, begun, transported, pulled, fields)
            return pulled, transported

        (cotangent, total), _ = lax.fori_loop(0, last, body, (carry, transported))
        growth_bar, proliferation_bar, cotangent = stepper.react_pullback(terms, schedule, -1, state, cotangent)
        total = ReactionDiffusion(
            total.conductance,
            total.growth + growth_bar if fields else total.growth,
            total.diffusivity,
            total.proliferation + proliferation_bar,
        )
        return jax.tree.map(lambda ct, primal: jnp.broadcast_to(ct, primal.shape), total, terms), cotangent


class _Static(eqx.Module):
    """A flag that travels with residuals and stays known while compiling."""

    value: bool = eqx.field(static=True)


def _primal(leaf: Any) -> bool:
    return hasattr(leaf, "perturbed")


def _steps(
    stepper: AbstractStepper, terms: ReactionDiffusion, schedule: Schedule, start: Any, stop: Any, state: Field
) -> Field:
    return lax.fori_loop(start, stop, lambda k, c: stepper.step(terms, schedule, k, c), state)


def _advance(stepper: AbstractStepper, terms: ReactionDiffusion, state: Field, first: bool) -> Field:
    schedule = stepper.schedule(terms, first=first)
    return _steps(stepper, terms, schedule, 0, schedule.steps, stepper.react(terms, schedule, -1, state))
