"""How a whole solve is differentiated."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from tumorjax.checks import check_count
from tumorjax.integrate.stepper import AbstractStepper, Interval, Schedule, State, Terms


class AbstractAdjoint(eqx.Module):
    """A way to advance an interval that supports one mode of differentiation."""

    @abstractmethod
    def advance(self, stepper: AbstractStepper, terms: Terms, state: State, interval: Interval) -> State:
        """Return the state at the end of an interval of unit length."""


class ForwardMode(AbstractAdjoint):
    """Plain loops, for `jax.jvp` and `jax.jacfwd`: cheapest for few parameters and many outputs."""

    def advance(self, stepper: AbstractStepper, terms: Terms, state: State, interval: Interval) -> State:
        """Return the state at the end of the interval."""
        schedule = stepper.schedule(terms, interval)
        return stepper.finish(terms, schedule, _steps(stepper, terms, schedule, 0, schedule.loop, state))


class CheckpointedAdjoint(AbstractAdjoint):
    """The exact discrete adjoint, for `jax.grad` and `jax.vjp`; the default.

    The solve is cut into segments. Their initial states are kept, and of the last segment the state before
    every step; the other segments are run again on the way back. As most solves have fewer steps than a segment
    holds, most gradients cost one solve forward and one back.

    Parameters
    ----------
    segment
        Steps a segment; a gradient keeps a state for each.
    segments
        Initial states kept. Solves of more than `segment * segments` steps keep the initial state of every
        second segment, every third and so on, and run the ones between once more.
    """

    segment: int = eqx.field(static=True, default=36)
    segments: int = eqx.field(static=True, default=6)

    def __check_init__(self) -> None:
        for name in ("segment", "segments"):
            check_count(name, getattr(self, name))

    def advance(self, stepper: AbstractStepper, terms: Terms, state: State, interval: Interval) -> State:
        """Return the state at the end of the interval."""

        @jax.custom_vjp
        def run(terms: Terms, interval: Interval, state: State) -> State:
            return ForwardMode().advance(stepper, terms, state, interval)

        def forward(terms: Any, interval: Any, state: Any) -> tuple[State, Any]:
            leaves = jax.tree.leaves(terms, is_leaf=_is_primal)
            fields = any(leaf.perturbed for leaf in leaves if jnp.ndim(leaf.value) > 0)
            terms, interval, state = jax.tree.map(lambda leaf: leaf.value, (terms, interval, state), is_leaf=_is_primal)
            schedule = stepper.schedule(terms, interval)
            end, starts, records = self._record_all(stepper, terms, schedule, state)
            return stepper.finish(terms, schedule, end), (_Static(fields), terms, schedule, starts, records)

        def backward(residual: Any, cotangent: Any) -> tuple[Terms, None, State]:
            static, terms, schedule, starts, records = residual
            # A cotangent that is zero everywhere may come as a symbol.
            cotangent = jax.tree.map(_instantiate, cotangent, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero))
            terms_bar, cotangent = self._pull_all(
                stepper, terms, schedule, starts, records, cotangent, fields=static.value
            )
            return terms_bar, None, cotangent

        run.defvjp(forward, backward, symbolic_zeros=True)
        interval = jax.tree.map(jnp.asarray, interval)
        return run(terms, interval, state)

    def _layout(self, schedule: Schedule) -> tuple[Any, Any]:
        """Return the index of the last segment, and how many segments lie between kept initial states."""
        last = (schedule.loop - 1) // self.segment
        return last, jnp.maximum(1, (last + self.segments - 1) // self.segments)

    def _record_segment(
        self, stepper: AbstractStepper, terms: Terms, schedule: Schedule, start: Any, state: State, records: State
    ) -> tuple[State, State]:
        """Run the steps of one segment, and keep the state before each and after the last."""

        def body(k: Any, carry: tuple) -> tuple:
            state, records = carry
            state = stepper.step(terms, schedule, k, state)
            return state, _put(records, k + 1 - start, state)

        stop = jnp.minimum(start + self.segment, schedule.loop)
        return lax.fori_loop(start, stop, body, (state, _put(records, 0, state)))

    def _record_all(
        self, stepper: AbstractStepper, terms: Terms, schedule: Schedule, state: State
    ) -> tuple[State, State, State]:
        """Run all steps; return the end, the kept initial states, and what the last segment keeps."""
        last, stride = self._layout(schedule)

        def body(i: Any, carry: tuple) -> tuple:
            state, starts, records = carry
            # The last segment is never run again.
            keep = (i % stride == 0) & (i < last)
            # A loop of one turn or none, here and below, because a conditional copies what it leaves as it is.
            starts = lax.fori_loop(0, keep.astype(jnp.int32), lambda _, s: _put(s, i // stride, state), starts)
            state, records = self._record_segment(stepper, terms, schedule, i * self.segment, state, records)
            return state, starts, records

        room = (state, _room(self.segments, state), _room(self.segment + 1, state))
        return lax.fori_loop(0, last + 1, body, room)

    def _pull_segment(
        self,
        stepper: AbstractStepper,
        terms: Terms,
        schedule: Schedule,
        start: Any,
        records: State,
        carry: tuple[State, Terms],
        fields: bool,
    ) -> tuple[State, Terms]:
        """Pull a cotangent back through the steps of one segment, and add up that of the terms."""
        stop = jnp.minimum(start + self.segment, schedule.loop)

        def body(j: Any, carry: tuple) -> tuple:
            cotangent, total = carry
            k = stop - 1 - j
            before, after = _get(records, k - start), _get(records, k + 1 - start)
            new, cotangent = stepper.pullback(terms, schedule, k, before, after, cotangent, fields=fields)
            return cotangent, jax.tree.map(jnp.add, total, new)

        return lax.fori_loop(0, stop - start, body, carry)

    def _pull_all(
        self,
        stepper: AbstractStepper,
        terms: Terms,
        schedule: Schedule,
        starts: State,
        records: State,
        cotangent: State,
        *,
        fields: bool,
    ) -> tuple[Terms, State]:
        """Pull a cotangent back through the whole solve."""
        last, stride = self._layout(schedule)
        end = _get(records, schedule.loop - last * self.segment)
        total, cotangent = stepper.finish_pullback(terms, schedule, end, cotangent, fields=fields)

        def rerun(i: Any, records: State) -> State:
            """Return what segment i keeps, by running from the last initial state before it, unless it is the last."""
            slot = i // stride
            stop = jnp.where(i < last, i + 1, slot * stride)

            def body(j: Any, carry: tuple) -> tuple:
                return self._record_segment(stepper, terms, schedule, j * self.segment, *carry)

            return lax.fori_loop(slot * stride, stop, body, (_get(starts, slot), records))[1]

        def back(j: Any, carry: tuple) -> tuple:
            pulled, records = carry
            i = last - j
            records = rerun(i, records)
            return self._pull_segment(stepper, terms, schedule, i * self.segment, records, pulled, fields), records

        (cotangent, total), _ = lax.fori_loop(0, last + 1, back, ((cotangent, total), records))
        total = stepper.collect(terms, total)
        return jax.tree.map(lambda bar, leaf: jnp.broadcast_to(bar, leaf.shape), total, terms), cotangent


class _Static(eqx.Module):
    """A flag that travels with residuals and stays known while compiling."""

    value: bool = eqx.field(static=True)


def _is_primal(leaf: Any) -> bool:
    return hasattr(leaf, "perturbed")


def _instantiate(leaf: Any) -> Any:
    return jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, SymbolicZero) else leaf  # pyright: ignore


def _room(count: int, state: State) -> State:
    return jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), state)


def _put(records: State, index: Any, state: State) -> State:
    return jax.tree.map(lambda all_, one: all_.at[index].set(one), records, state)


def _get(records: State, index: Any) -> State:
    return jax.tree.map(lambda all_: all_[index], records)


def _steps(stepper: AbstractStepper, terms: Terms, schedule: Schedule, start: Any, stop: Any, state: State) -> State:
    return lax.fori_loop(start, stop, lambda k, c: stepper.step(terms, schedule, k, c), state)
