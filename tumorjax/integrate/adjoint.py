"""How a whole solve is differentiated."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from tumorjax.growth import ReactionDiffusion
from tumorjax.integrate.stepper import AbstractStepper, Field, Schedule, full_fields, no_fields


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

    The solve is cut into segments. Their initial states are kept, and of the last segment all
    that the pullbacks of its steps need; the other segments are run again on the way back. As most solves
    have fewer steps than a segment holds, most gradients cost one solve forward and one back.

    Parameters
    ----------
    segment
        Steps a segment; a gradient keeps two fields for each.
    segments
        Initial states kept. Solves of more than `segment * segments` steps keep the initial state of every
        second segment, every third and so on, and run the ones between once more.
    """

    segment: int = eqx.field(static=True, default=32)
    segments: int = eqx.field(static=True, default=16)

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
            final, starts, recorded = self._record_all(stepper, terms, state, first, fields)
            return final, (_Static(fields), terms, state, starts, recorded)

        def backward(residual: Any, cotangent: Any) -> tuple[ReactionDiffusion, Field]:
            static, terms, state, starts, recorded = residual
            if isinstance(cotangent, SymbolicZero):
                cotangent = jnp.zeros(cotangent.shape, cotangent.dtype)
            return self._pull_all(stepper, terms, state, starts, recorded, cotangent, first, static.value)

        run.defvjp(forward, backward, symbolic_zeros=True)
        return run(terms, state)

    def _layout(self, schedule: Schedule) -> tuple[Any, Any]:
        """Return the index of the last segment, and how many segments lie between kept initial states."""
        last = (schedule.steps - 1) // self.segment
        return last, jnp.maximum(1, (last + self.segments - 1) // self.segments)

    def _record_segment(
        self, stepper: AbstractStepper, terms: ReactionDiffusion, schedule: Schedule, start: Any, state: Field,
        recorded: tuple[Field, Field], fields: bool,
    ) -> tuple[Field, tuple[Field, Field]]:
        """Run the steps of one segment from its first step on, and record each."""

        def body(k: Any, carry: tuple) -> tuple:
            state, recorded = carry
            state, new = stepper.record(terms, schedule, k, state, fields=fields)
            return state, tuple(old.at[k - start].set(value) for old, value in zip(recorded, new, strict=True))

        stop = jnp.minimum(start + self.segment, schedule.steps)
        return lax.fori_loop(start, stop, body, (state, recorded))

    def _record_all(
        self, stepper: AbstractStepper, terms: ReactionDiffusion, state: Field, first: bool, fields: bool
    ) -> tuple[Field, Field, tuple[Field, Field]]:
        schedule = stepper.schedule(terms, first=first)
        last, stride = self._layout(schedule)
        starts = jnp.zeros((self.segments, *state.shape), state.dtype)
        state = stepper.begin(terms, schedule, state)

        def body(i: Any, carry: tuple) -> tuple:
            state, starts = carry
            slot = i // stride
            starts = starts.at[slot].set(jnp.where(i % stride == 0, state, starts[slot]))
            return _steps(stepper, terms, schedule, i * self.segment, (i + 1) * self.segment, state), starts

        state, starts = lax.fori_loop(0, last, body, (state, starts))
        empty = jnp.zeros((self.segment, *state.shape), state.dtype)
        state, recorded = self._record_segment(
            stepper, terms, schedule, last * self.segment, state, (empty, empty), fields
        )
        return state, starts, recorded

    def _pull_all(
        self, stepper: AbstractStepper, terms: ReactionDiffusion, state: Field, starts: Field,
        recorded: tuple[Field, Field], cotangent: Field, first: bool, fields: bool,
    ) -> tuple[ReactionDiffusion, Field]:
        schedule = stepper.schedule(terms, first=first)
        last, stride = self._layout(schedule)

        def pull_segment(i: Any, cotangent: Field, total: Any, recorded: tuple[Field, Field]) -> tuple:
            start = i * self.segment
            stop = jnp.minimum(start + self.segment, schedule.steps)

            def body(j: Any, carry: tuple) -> tuple:
                cotangent, total = carry
                k = stop - 1 - j
                here = tuple(field[k - start] for field in recorded)
                terms_bar, cotangent = stepper.pullback(terms, schedule, k, here, cotangent, fields=fields)
                return cotangent, jax.tree.map(jnp.add, total, terms_bar)

            return lax.fori_loop(0, stop - start, body, (cotangent, total))

        zero = jnp.zeros((), state.dtype)
        total = jax.tree.map(jnp.zeros_like, terms) if fields else no_fields(terms, zero, zero)
        cotangent, total = pull_segment(last, cotangent, total, recorded)

        def body(j: Any, carry: tuple) -> tuple:
            cotangent, total, recorded = carry
            i = last - 1 - j
            slot = i // stride
            begun = _steps(stepper, terms, schedule, slot * stride * self.segment, i * self.segment, starts[slot])
            _, recorded = self._record_segment(
                stepper, terms, schedule, i * self.segment, begun, recorded, fields
            )
            return *pull_segment(i, cotangent, total, recorded), recorded

        cotangent, total, _ = lax.fori_loop(0, last, body, (cotangent, total, recorded))
        _, pull = jax.vjp(lambda t, c: stepper.begin(t, schedule, c), terms, state)
        terms_bar, cotangent = pull(cotangent)
        return jax.tree.map(jnp.add, full_fields(total, terms), terms_bar), cotangent


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
    return _steps(stepper, terms, schedule, 0, schedule.steps, stepper.begin(terms, schedule, state))
