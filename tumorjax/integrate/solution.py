"""What a simulation returns."""

import enum

import equinox as eqx
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from tumorjax.anatomy import Anatomy


class Result(enum.IntEnum):
    """How a solve ended; see `message` for the words."""

    SUCCESS = 0
    SEED_OUTSIDE_TISSUE = 1
    NOT_FINITE = 2
    NEGATIVE_PARAMETER = 3
    OUT_OF_RANGE = 4
    TREATMENT_AFTER_END = 5
    FLOW_TOO_FAST = 6
    ELASTICITY_NOT_SOLVED = 7
    OUTSIDE_TRAINING = 8
    DISPLACEMENT_FOLDS = 9
    TREATMENT_BEFORE_SEED = 10

    @property
    def message(self) -> str:
        """What happened and what to do."""
        return {
            Result.SUCCESS: "the solve succeeded",
            Result.SEED_OUTSIDE_TISSUE: "the origin lies outside white and grey matter (more than half of a seed, "
            "or of the initial density, is in no tissue); move it, in RAS world mm, into the brain",
            Result.NOT_FINITE: "the density is not finite; check the parameters for NaN, infinity and negative values, "
            "and for values so large that a solve would take thousands of steps",
            Result.NEGATIVE_PARAMETER: "a growth parameter is negative; constrain it, for example by a prior",
            Result.OUT_OF_RANGE: "the density left zero to capacity by more than a hundredth; take smaller steps "
            "(the stepper's settings) and check the parameters' units",
            Result.TREATMENT_AFTER_END: "a treatment takes place after the end; lengthen the duration",
            Result.FLOW_TOO_FAST: "the tissue moves too far in one step; take more steps or substeps, "
            "or less mass effect",
            Result.ELASTICITY_NOT_SOLVED: "the elasticity solve did not converge; allow more iterations, "
            "or check the elastic constants",
            Result.DISPLACEMENT_FOLDS: "the displacement folds, so that no tissue could follow it; "
            "take less mass effect",
            Result.TREATMENT_BEFORE_SEED: "a treatment takes place before the tumour begins; let the seed be older",
            Result.OUTSIDE_TRAINING: "the parameters are far outside what the surrogate was trained on; use the "
            "solver, or a surrogate of such tumours",
        }[self]


class Solution(eqx.Module):
    """A simulated tumour.

    Parameters
    ----------
    density
        c, (x, y, z) on the anatomy's grid, at the end; fraction of the carrying capacity.
    times
        (n,), day since the seed: of `series`, or the end alone.
    series
        (n, x, y, z); None without `save_every` or `calendar`.
    steps
        Time steps taken.
    result
        A code of `Result`.
    anatomy
        The tissue as the tumour has displaced it; None for a model in which it stays.
    displacement
        u, (x, y, z, 3), mm in RAS world: by how much the tissue now at a voxel has moved; None as above.
    moved
        With `calendar`, for a model in which tissue moves: the fluid "csf", (n, x, y, z), and the "displacement",
        (n, x, y, z, 3), at `times`. None otherwise.
    """

    density: Float[Array, "x y z"]
    times: Float[Array, "n"]
    series: Float[Array, "n x y z"] | None
    steps: Int[Array, ""]
    result: Int[Array, ""]
    anatomy: Anatomy | None = None
    displacement: Float[Array, "x y z 3"] | None = None
    moved: dict[str, Array] | None = None

    def check(self) -> "Solution":
        """Return the solution itself, or raise a ValueError where the solve is known to have failed."""
        if not isinstance(self.result, Tracer) and self.result.ndim == 0:
            result = Result(int(self.result))
            if result is not Result.SUCCESS:
                raise ValueError(result.message)
        return self


class VolumeSolution(eqx.Module):
    """A simulated volume.

    Parameters
    ----------
    volume
        V, mm^3, at the end.
    times
        (n,), day: of `series`, or the end alone.
    series
        (n,), mm^3; None without `save_every` or `calendar`.
    """

    volume: Float[Array, ""]
    times: Float[Array, "n"]
    series: Float[Array, "n"] | None
