"""The exact discrete adjoint of a whole solve."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from tumorjax.checks import check_count
from tumorjax.integrate.adjoint import AbstractAdjoint, Course, ForwardMode, part
from tumorjax.integrate.members import by_members
from tumorjax.integrate.stepper import AbstractStepper, Interval, Schedule, State, Terms


class CheckpointedAdjoint(AbstractAdjoint):
    """The exact discrete adjoint, for `jax.grad` and `jax.vjp`; the default.

    The solve is cut into segments. Their initial states are kept, and of the last segment the state before
    every step; the other segments are run again on the way back. As most solves have fewer steps than a segment
    holds, most gradients cost one solve forward and one back. The same holds for a course of several intervals: of
    those, the last ones whose steps fit into one segment together are not run again.

    Parameters
    ----------
    segment
        Steps a segment; a gradient keeps a state for each.
    segments
        Initial states kept. Solves of more than `(segments + 1) * segment` steps keep the initial state of every
        second segment, every third and so on, and run the ones between once more.
    """

    segment: int = eqx.field(static=True, default=36)
    segments: int = eqx.field(static=True, default=6)

    def __check_init__(self) -> None:
        for name in ("segment", "segments"):
            check_count(name, getattr(self, name))

    def advance(self, stepper: AbstractStepper, terms: Terms, state: State, interval: Interval) -> State:
        """Return the state at the end of the interval."""

        @by_members
        def plain(terms: Terms, interval: Interval, state: State) -> State:
            return ForwardMode().advance(stepper, terms, state, interval)

        @by_members
        def recorded(terms: Terms, interval: Interval, state: State) -> tuple[State, Any]:
            schedule = stepper.schedule(terms, interval)
            end, starts, records = self._record_all(stepper, terms, schedule, state, self._rooms(state))
            return stepper.finish(terms, schedule, end), (schedule, starts, records)

        run = jax.custom_vjp(plain)

        def forward(terms: Any, interval: Any, state: Any) -> tuple[State, Any]:
            leaves = jax.tree.leaves(terms, is_leaf=_is_primal)
            fields = any(leaf.perturbed for leaf in leaves if jnp.ndim(leaf.value) > 0)
            terms, interval, state = jax.tree.map(lambda leaf: leaf.value, (terms, interval, state), is_leaf=_is_primal)
            end, kept = recorded(terms, interval, state)
            return end, (_Static(fields), terms, *kept)

        def backward(residual: Any, cotangent: Any) -> tuple[Terms, None, State]:
            static, terms, schedule, starts, records = residual
            # A cotangent that is zero everywhere may come as a symbol.
            cotangent = jax.tree.map(_instantiate, cotangent, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero))

            @by_members
            def pulled(terms: Terms, schedule: Schedule, starts: State, records: State, cotangent: State) -> Any:
                return self._pull_all(stepper, terms, schedule, starts, records, cotangent, fields=static.value)[:2]

            terms_bar, cotangent = pulled(terms, schedule, starts, records, cotangent)
            return _shaped(terms_bar, terms), None, cotangent

        run.defvjp(forward, backward, symbolic_zeros=True)
        interval = jax.tree.map(jnp.asarray, interval)
        return run(terms, interval, state)

    def follow(self, stepper: AbstractStepper, course: Course, state: State) -> State:
        """Return the states at the ends of all intervals of a course, (n, ...)."""
        begin, last = course.begin, course.count - 1

        @by_members
        def plain(numbers: Terms, fields: Terms, given: Any, intervals: Interval, state: State) -> State:
            return ForwardMode().follow(stepper, Course(numbers, fields, given, intervals, begin), state)

        @by_members
        def recorded(course: Course, state: State) -> tuple[State, State, Any, Any]:
            held, bases = self._bases(stepper, course)

            def one(carry: tuple, i: Any) -> tuple[tuple, State]:
                state, rooms = carry
                terms, schedule = course.terms(i), stepper.schedule(course.terms(i), course.interval(i))
                begun = begin(course.given, i, state)
                end, *rooms = self._record_all(stepper, terms, schedule, begun, tuple(rooms), bases[i])
                end = stepper.finish(terms, schedule, end)
                return (end, tuple(rooms)), end

            (_, rooms), ends = lax.scan(one, (state, self._rooms(state, course.count)), jnp.arange(course.count))
            return ends, rooms, held, bases

        run = jax.custom_vjp(plain)

        def forward(*arguments: Any) -> tuple[State, Any]:
            several, single = (jax.tree.leaves(part, is_leaf=_is_primal) for part in arguments[:2])
            # Those that differ between the intervals have an axis more.
            arrays = [leaf for leaf in several if jnp.ndim(leaf.value) > 1]
            arrays += [leaf for leaf in single if jnp.ndim(leaf.value) > 0]
            perturbed = any(leaf.perturbed for leaf in arrays)
            numbers, fields, given, intervals, state = jax.tree.map(
                lambda leaf: leaf.value, arguments, is_leaf=_is_primal
            )
            course = Course(numbers, fields, given, intervals, begin)
            kept = recorded(course, state)
            return kept[0], (_Static(perturbed), course, state, kept)

        def backward(residual: Any, cotangents: Any) -> tuple[Terms, Terms, Any, None, State]:
            static, course, first, kept = residual
            cotangents = jax.tree.map(_instantiate, cotangents, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero))
            numbers, fields, given, cotangent = by_members(partial(pulled, static.value))(
                course, first, kept, cotangents
            )
            return numbers, _shaped(fields, course.fields), given, None, cotangent

        def pulled(perturbed: bool, course: Course, first: State, kept: Any, cotangents: State) -> Any:
            ends, rooms, held, bases = kept

            def one(i: Any, cotangent: State, rooms: tuple) -> tuple[Terms, Any, State, tuple]:
                terms, schedule = course.terms(i), stepper.schedule(course.terms(i), course.interval(i))
                state = jax.tree.map(lambda a, b: jnp.where(i > 0, a[jnp.maximum(i - 1, 0)], b), ends, first)
                begun, pull_begin = jax.vjp(lambda given, state: begin(given, i, state), course.given, state)
                cotangent = jax.tree.map(jnp.add, cotangent, part(cotangents, i))

                def record(_: Any, rooms: tuple) -> tuple:
                    return self._record_all(stepper, terms, schedule, begun, rooms)[1:]

                # A loop of one turn or none; see `_record_all`.
                starts, records = lax.fori_loop(0, (~held[i]).astype(jnp.int32), record, rooms)
                total, cotangent, records = self._pull_all(
                    stepper, terms, schedule, starts, records, cotangent, bases[i], fields=perturbed
                )
                given_bar, cotangent = pull_begin(cotangent)
                return total, given_bar, cotangent, (starts, records)

            def body(j: Any, carry: tuple) -> tuple:
                numbers, fields, given, cotangent, rooms = carry
                i = last - j
                total, given_bar, cotangent, rooms = one(i, cotangent, rooms)
                own, rest = eqx.partition(total, number)
                fields, given = jax.tree.map(jnp.add, (fields, given), (rest, given_bar))
                return _put(numbers, i, own), fields, given, cotangent, rooms

            number = jax.tree.map(lambda leaf: leaf is not None, course.numbers, is_leaf=lambda leaf: leaf is None)
            still = jax.tree.map(jnp.zeros_like, first)
            shapes = jax.eval_shape(one, 0, still, rooms)[0]
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), eqx.partition(shapes, number)[1])
            begun = (jax.tree.map(jnp.zeros_like, (course.numbers, course.given)), zeros)
            carry = (begun[0][0], begun[1], begun[0][1], still, rooms)
            numbers, fields, given, cotangent, _ = lax.fori_loop(0, course.count, body, carry)
            return numbers, fields, given, cotangent

        run.defvjp(forward, backward, symbolic_zeros=True)
        intervals = jax.tree.map(jnp.asarray, course.intervals)
        return run(course.numbers, course.fields, course.given, intervals, state)

    def _bases(self, stepper: AbstractStepper, course: Course) -> tuple[Any, Any]:
        """Return which intervals keep the states of all of their steps to the end, and where: the last ones."""
        loops = course.each(lambda i: stepper.schedule(course.terms(i), course.interval(i)).loop)
        left = jnp.cumsum((loops + 1)[::-1])[::-1]
        fits = (left <= self.segment + course.count) & (loops <= self.segment)
        held = jnp.cumprod(fits[::-1].astype(jnp.int32))[::-1] > 0
        return held, jnp.where(held, self.segment + course.count - left, 0)

    def _rooms(self, state: State, intervals: int = 1) -> tuple[State, State]:
        """Return empty rooms for initial states of segments, and for the states of the steps of one."""
        return _room(self.segments, state), _room(self.segment + intervals, state)

    def _layout(self, schedule: Schedule) -> tuple[Any, Any]:
        """Return the index of the last segment, and how many segments lie between kept initial states."""
        last = (schedule.loop - 1) // self.segment
        return last, jnp.maximum(1, (last + self.segments - 1) // self.segments)

    def _record_segment(
        self,
        stepper: AbstractStepper,
        terms: Terms,
        schedule: Schedule,
        start: Any,
        state: State,
        records: State,
        base: Any = 0,
    ) -> tuple[State, State]:
        """Run the steps of one segment, and keep the state before each and after the last, from a place on."""

        def body(k: Any, carry: tuple) -> tuple:
            state, records = carry
            state = stepper.step(terms, schedule, k, state)
            return state, _put(records, base + k + 1 - start, state)

        stop = jnp.minimum(start + self.segment, schedule.loop)
        return lax.fori_loop(start, stop, body, (state, _put(records, base, state)))

    def _record_all(
        self,
        stepper: AbstractStepper,
        terms: Terms,
        schedule: Schedule,
        state: State,
        rooms: tuple[State, State],
        base: Any = 0,
    ) -> tuple[State, State, State]:
        """Run all steps; return the end, the kept initial states, and what the last segment keeps."""
        last, stride = self._layout(schedule)

        def body(i: Any, carry: tuple) -> tuple:
            state, starts, records = carry
            # The last segment is never run again.
            keep = (i % stride == 0) & (i < last)
            # A loop of one turn or none, here and below, because a conditional copies what it leaves as it is.
            starts = lax.fori_loop(0, keep.astype(jnp.int32), lambda _, s: _put(s, i // stride, state), starts)
            state, records = self._record_segment(stepper, terms, schedule, i * self.segment, state, records, base)
            return state, starts, records

        return lax.fori_loop(0, last + 1, body, (state, *rooms))

    def _pull_segment(
        self,
        stepper: AbstractStepper,
        terms: Terms,
        schedule: Schedule,
        start: Any,
        records: State,
        carry: tuple[State, Terms],
        fields: bool,
        base: Any,
    ) -> tuple[State, Terms]:
        """Pull a cotangent back through the steps of one segment, and add up that of the terms."""
        stop = jnp.minimum(start + self.segment, schedule.loop)

        def body(j: Any, carry: tuple) -> tuple:
            cotangent, total = carry
            k = stop - 1 - j
            before, after = part(records, base + k - start), part(records, base + k + 1 - start)
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
        base: Any = 0,
        *,
        fields: bool,
    ) -> tuple[Terms, State, State]:
        """Pull a cotangent back through an interval; return that of the terms and the state, and the used room."""
        last, stride = self._layout(schedule)
        end = part(records, base + schedule.loop - last * self.segment)
        total, cotangent = stepper.finish_pullback(terms, schedule, end, cotangent, fields=fields)

        def rerun(i: Any, records: State) -> State:
            """Return what segment i keeps, by running from the last initial state before it, unless it is the last."""
            slot = i // stride
            stop = jnp.where(i < last, i + 1, slot * stride)

            def body(j: Any, carry: tuple) -> tuple:
                state, records = carry
                return self._record_segment(stepper, terms, schedule, j * self.segment, state, records, base)

            return lax.fori_loop(slot * stride, stop, body, (part(starts, slot), records))[1]

        def back(j: Any, carry: tuple) -> tuple:
            pulled, records = carry
            i = last - j
            records = rerun(i, records)
            return self._pull_segment(
                stepper, terms, schedule, i * self.segment, records, pulled, fields, base
            ), records

        (cotangent, total), records = lax.fori_loop(0, last + 1, back, ((cotangent, total), records))
        return stepper.collect(terms, total), cotangent, records


class _Static(eqx.Module):
    """A flag that travels with residuals and stays known while compiling."""

    value: bool = eqx.field(static=True)


def _shaped(cotangent: Terms, terms: Terms) -> Terms:
    """Return a cotangent in the shape of the terms, where scalar zeros stand for arrays."""
    return jax.tree.map(lambda bar, leaf: jnp.broadcast_to(bar, leaf.shape), cotangent, terms)


def _is_primal(leaf: Any) -> bool:
    return hasattr(leaf, "perturbed")


def _instantiate(leaf: Any) -> Any:
    return jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, SymbolicZero) else leaf  # pyright: ignore


def _room(count: int, state: State) -> State:
    return jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), state)


def _put(records: State, index: Any, state: State) -> State:
    return jax.tree.map(lambda all_, one: all_.at[index].set(one), records, state)
