"""How a whole solve is differentiated."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from tumorjax.integrate.stepper import AbstractStepper, Interval, State, Terms


class Course(eqx.Module):
    """Intervals that follow each other, of one equation whose numbers change between them.

    Parameters
    ----------
    numbers
        What differs between the intervals, along a leading axis of n: numbers of the terms. Other leaves are None.
    fields
        What is the same in all intervals: the arrays of the terms. Other leaves are None.
    given
        A tree of arrays of what happens at the beginning of intervals.
    intervals
        The parts of the whole that are advanced, each end (n,).
    begin
        Static: returns the state in which an interval begins, from `given`, the number of the interval, and the state
        before.
    """

    numbers: Terms
    fields: Terms
    given: Any
    intervals: Interval
    begin: Callable[[Any, Any, State], State] = eqx.field(static=True)

    def terms(self, i: Any) -> Terms:
        """Return the terms of interval i."""
        return eqx.combine(part(self.numbers, i), self.fields)

    def interval(self, i: Any) -> Interval:
        """Return interval i."""
        return part(self.intervals, i)

    @property
    def count(self) -> int:
        """Number of intervals, n."""
        return len(self.intervals.end)  # pyright: ignore[reportArgumentType]

    def each(self, function: Callable[[Any], Any]) -> Any:
        """Return a function of the numbers of all intervals, stacked."""
        return lax.map(function, jnp.arange(self.count))


class AbstractAdjoint(eqx.Module):
    """A way to advance an interval, or several, that supports one mode of differentiation."""

    @abstractmethod
    def advance(self, stepper: AbstractStepper, terms: Terms, state: State, interval: Interval) -> State:
        """Return the state at the end of an interval of unit length."""

    def follow(self, stepper: AbstractStepper, course: Course, state: State) -> State:
        """Return the states at the ends of all intervals of a course, (n, ...)."""

        def one(state: State, i: Any) -> tuple[State, State]:
            begun = course.begin(course.given, i, state)
            end = self.advance(stepper, course.terms(i), begun, course.interval(i))
            return end, end

        return lax.scan(one, state, jnp.arange(course.count))[1]


class ForwardMode(AbstractAdjoint):
    """Plain loops, for `jax.jvp` and `jax.jacfwd`: cheapest for few parameters and many outputs."""

    def advance(self, stepper: AbstractStepper, terms: Terms, state: State, interval: Interval) -> State:
        """Return the state at the end of the interval."""
        schedule = stepper.schedule(terms, interval)
        end = lax.fori_loop(0, schedule.loop, lambda k, state: stepper.step(terms, schedule, k, state), state)
        return stepper.finish(terms, schedule, end)


def part(records: Any, index: Any) -> Any:
    """Return one part of a tree of arrays along their leading axis."""
    return jax.tree.map(lambda all_: all_[index], records)
