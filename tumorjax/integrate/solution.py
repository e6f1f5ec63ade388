"""What a simulation returns."""

import enum

import equinox as eqx
from jax.core import Tracer
from jaxtyping import Array, Float, Int


class Result(enum.IntEnum):
    """How a solve ended; `message` says it in words."""

    SUCCESS = 0
    SEED_OUTSIDE_TISSUE = 1
    NOT_FINITE = 2

    @property
    def message(self) -> str:
        """What happened and what to do."""
        return {
            Result.SUCCESS: "the solve succeeded",
            Result.SEED_OUTSIDE_TISSUE: "the origin lies outside white and grey matter (more than half of the seed "
            "is in no tissue); move it, in RAS world mm, into the brain",
            Result.NOT_FINITE: "the density is not finite; check the parameters for NaN, infinity and negative values",
        }[self]


class Solution(eqx.Module):
    """A simulated tumour.

    Parameters
    ----------
    density
        c, (x, y, z) on the anatomy's grid, at the end; fraction of the carrying capacity.
    times
        (n,), day: of `series`, or the end alone.
    series
        (n, x, y, z), or None where no series was asked for.
    steps
        Time steps taken.
    result
        A code of `Result`.
    """

    density: Float[Array, "x y z"]
    times: Float[Array, "n"]
    series: Float[Array, "n x y z"] | None
    steps: Int[Array, ""]
    result: Int[Array, ""]

    def check(self) -> "Solution":
        """Return the solution itself, or raise a ValueError where the solve is known to have failed."""
        if not isinstance(self.result, Tracer) and self.result.ndim == 0:
            result = Result(int(self.result))
            if result is not Result.SUCCESS:
                raise ValueError(result.message)
        return self
