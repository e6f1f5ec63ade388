"""What a time-stepping scheme is."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int

State = Any
"""A pytree of arrays: what a model's `initial` returns."""
Terms = Any
"""What a model's `terms` returns, in units in which the interval is one."""

MOST_STAGES = 2**17
"""A solve of more stages would take hours: a sampler strays there, or the parameters are wrong. It is NaN instead."""


class Interval(eqx.Module):
    """The part of a solve that is advanced: its ends as fractions of the whole, 0 <= begin < end <= 1.

    A scheme may grade its steps over the whole, so that a solve cut into intervals takes about the same steps.
    """

    begin: Float[Array, ""] | float = 0.0
    end: Float[Array, ""] | float = 1.0


class Schedule(eqx.Module):
    """The time levels of an interval of unit length.

    Over the whole solve they are t = u^p, with even steps in u; the interval takes its part of them.

    Parameters
    ----------
    steps
        n, at least one.
    levels
        (2,), u at the interval's ends.
    exponent
        p, static: one for even steps, more for steps that begin small.
    stiffness
        D T lambda_max: bound on the spectrum of the diffusion over the interval.
    closing
        Steps without width after the last, static: where a scheme closes the interval in the loop instead of after it,
        so that its step is compiled fewer times.
    """

    steps: Int[Array, ""]
    levels: Float[Array, "2"]
    exponent: float = eqx.field(static=True)
    stiffness: Float[Array, ""]
    closing: int = eqx.field(static=True, default=0)

    @classmethod
    def graded(
        cls,
        interval: Interval,
        exponent: float,
        whole: Float[Array, ""],
        stiffness: Float[Array, ""],
        stages: int = 1,
    ) -> "Schedule":
        """Return the interval's part of `whole` graded steps, at least one; one step of NaN for too many of these.

        `stages` says what a step costs, in applications of the operator.
        """
        dtype = stiffness.dtype
        ends = jnp.stack([jnp.asarray(end, dtype) for end in (interval.begin, interval.end)])
        levels = ends ** (1 / exponent)
        # A multiple of one step that rounding lifted above it is not to cost another.
        steps = jnp.ceil(whole * (levels[1] - levels[0]) - 1e-3)
        # NaN and infinity compare false.
        few = steps * stages <= MOST_STAGES
        steps, levels = jnp.where(few, jnp.maximum(steps, 1), 1), jnp.where(few, levels, jnp.nan)
        return lax.stop_gradient(cls(steps.astype(jnp.int32), levels, exponent, stiffness))

    def width(self, k: Int[Array, ""] | int) -> Float[Array, ""]:
        """Return the width of step k, as a fraction of the interval; zero outside it."""
        dtype, n = self.levels.dtype, self.steps
        first, last = self.levels
        low, high = (
            (first + (last - first) * (jnp.clip(jnp.asarray(j), 0, n).astype(dtype) / n.astype(dtype))) ** self.exponent
            for j in (k, k + 1)
        )
        return (high - low) / self.share

    @property
    def share(self) -> Float[Array, ""]:
        """The length of the interval, as a fraction of the whole."""
        first, last = self.levels
        return last**self.exponent - first**self.exponent

    @property
    def loop(self) -> Int[Array, ""]:
        """How many steps a loop takes: those of the solve, or of the longest in a batch; those beyond n have no width.

        If the count differed within a batch, a loop would copy its whole carry at every turn.
        """
        return _batch_maximum(self.steps) + self.closing


class AbstractStepper(eqx.Module):
    """A scheme that advances a state over an interval of unit length, step by step, and pulls cotangents back.

    A step may be shifted against the time levels, so that `finish` closes the interval: a splitting scheme keeps
    the state where its pullback needs it. Steps without width must change nothing.
    """

    advances: ClassVar[tuple[type, ...]] = (object,)
    """Classes of the terms that the scheme advances; by default any."""

    @abstractmethod
    def schedule(self, terms: Terms, interval: Interval) -> Schedule:
        """Return the time levels for an interval of the solve."""

    @abstractmethod
    def step(self, terms: Terms, schedule: Schedule, k: Int[Array, ""], state: State) -> State:
        """Return the state after step k."""

    def finish(self, terms: Terms, schedule: Schedule, state: State) -> State:
        """Return the state at the end of the interval, from that after the last step."""
        return state

    def pullback(
        self,
        terms: Terms,
        schedule: Schedule,
        k: Int[Array, ""],
        before: State,
        after: State,
        cotangent: State,
        *,
        fields: bool,
    ) -> tuple[Terms, State]:
        """Return the cotangents of the terms and of the state before step k.

        The cotangents of the terms are added up over the steps, and then go through `collect`. Without `fields` the
        cotangents of terms that are arrays are not needed, and are scalar zeros.
        """
        return pull(lambda terms, state: self.step(terms, schedule, k, state), terms, before, cotangent, fields=fields)

    def finish_pullback(
        self, terms: Terms, schedule: Schedule, before: State, cotangent: State, *, fields: bool
    ) -> tuple[Terms, State]:
        """Return the cotangents of the terms and of the state before `finish`; see `pullback`."""
        return pull(lambda terms, state: self.finish(terms, schedule, state), terms, before, cotangent, fields=fields)

    def collect(self, terms: Terms, total: Terms) -> Terms:
        """Return the cotangent of the terms from the sum of what the pullbacks gave, which may hold it in parts."""
        return total


def pull(
    function: Callable[[Terms, State], State], terms: Terms, before: State, cotangent: State, *, fields: bool
) -> tuple[Terms, State]:
    """Pull a cotangent back through a function of terms and state; see `AbstractStepper.pullback`."""
    chosen, rest = eqx.partition(terms, lambda leaf: fields or jnp.ndim(leaf) == 0)
    _, pullback = jax.vjp(lambda chosen, state: function(eqx.combine(chosen, rest), state), chosen, before)
    chosen_bar, before_bar = pullback(cotangent)
    zeros = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), rest)
    return eqx.combine(chosen_bar, zeros), before_bar


@custom_vmap
def _batch_maximum(count: Int[Array, ""]) -> Int[Array, ""]:
    return count


@_batch_maximum.def_vmap
def _(axis_size: int, in_batched: list[bool], count: Int[Array, "n"]) -> tuple[Int[Array, ""], bool]:
    return _batch_maximum(jnp.max(count)), False
