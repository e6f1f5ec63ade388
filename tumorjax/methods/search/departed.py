"""The calibration of a density that has left the equation of growth."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.calibration.calibration import Calibration
from tumorjax.calibration.cost import Cost
from tumorjax.calibration.draws import Draws, Tumour, one_by_one
from tumorjax.calibration.evaluation import evaluate, growth
from tumorjax.calibration.maps import Maps
from tumorjax.calibration.model_evidence import Evidence
from tumorjax.calibration.moments import Moments
from tumorjax.calibration.problem import Problem
from tumorjax.grid import Grid
from tumorjax.growth import Forcing
from tumorjax.methods.search.weakened import forced
from tumorjax.quality import Note, Status
from tumorjax.sections import Field, Section, Table, Text

# Draws of the Laplace approximation from which the deviations of the maps follow.
_DRAWS = 32
# Where the rate of division departs by more than this factor, the equation says little.
_FAR = 4.0
# With fewer accepted trajectories most draws are copies of others.
_ACCEPTED = 0.4
# Voxels between two knots in the file of the field.
_FINER = 4


class Priced(NamedTuple):
    """A price of leaving the equation that was tried.

    Parameters
    ----------
    deviation
        Standard deviation of the logarithm of the rate of division; zero keeps to the equation.
    held_out
        Log-likelihood of what was held out, nat; see `WeakConstraint`.
    """

    deviation: float
    held_out: float


class Departed(Calibration):
    """A calibration whose density leaves the equation of growth; see `WeakConstraint`.

    Parameters
    ----------
    forcing
        s: by how much the rate of division departs. `forced(problem, forcing)` is the problem in which it does.
    deviation
        Standard deviation of s in the prior; zero where the images gave no reason to leave the equation.
    joint
        (n + k, n + k): covariance of the prior's coordinates and of those of the k knots, in their Laplace
        approximation on the voxels of the search for the price, where the model's error counts.
    prices
        What was tried; nothing where the price was given, or nothing could be held out.
    steps
        (d, n + k): draws from the posterior of these coordinates, on the same voxels, from its maximum there; None
        where the Laplace approximation stands for them.
    acceptance
        Mean acceptance of their trajectories.
    laplace
        The evidence of the model with its forcing, by the Laplace approximation around the optimum of both, where the
        model's error does not count.
    """

    forcing: Forcing | None = None
    deviation: float = 0.0
    joint: Float[Array, "m m"] | None = None
    prices: tuple[Priced, ...] = ()
    steps: Float[Array, "d m"] | None = None
    acceptance: float | None = None
    laplace: Evidence | None = None

    @property
    def frees_density(self) -> bool:
        """True: see `Calibration.frees_density`."""
        return True

    @property
    def evidence(self) -> Evidence | None:
        """See `laplace`."""
        return self.laplace

    @property
    def departure(self) -> Float[np.ndarray, "x y z"]:
        """The factor exp(s) of the rate of division, on a grid of several voxels between two knots; see `grid`."""
        assert self.forcing is not None
        return np.asarray(self.forcing.rates(self.grid, jnp.result_type(float)))

    @property
    def grid(self) -> Grid:
        """The grid of `departure`."""
        assert self.forcing is not None
        lattice = self.forcing.lattice
        shape = tuple(_FINER * (n - 1) + 1 for n in lattice.shape)
        return Grid(shape, np.asarray(lattice.affine, float) @ np.diag([1 / _FINER] * 3 + [1.0]))

    def maps(
        self,
        problem: Problem,
        thresholds: Sequence[float] = (),
        progress: Callable[[float], None] = lambda share: None,
    ) -> Maps:
        """Return the density with its forcing, and its deviation over draws of parameters and forcing together."""
        assert self.forcing is not None
        density, displacement = _grown(forced(problem, self.forcing), self.coordinates)
        densities, displacements = Moments(thresholds), Moments()
        drawn = self._joint_draws(jax.random.key(0), _DRAWS if self.steps is None else len(self.steps))
        for i, (own, z) in enumerate(drawn):
            found, moved = _grown(forced(problem, own), z)
            if np.isfinite(found).all():
                densities.add(found)
                if moved is not None:
                    displacements.add(moved)
            progress((i + 1) / len(drawn))
        known, moves = densities.weight > 0, displacements.weight > 0
        return Maps(
            density=density,
            deviation=densities.deviation if known else np.zeros_like(density),
            probabilities=densities.probabilities if known else {},
            displacement=displacement,
            displacement_deviation=np.linalg.norm(displacements.deviation, axis=-1) if moves else None,
            cost=Cost(solves=1 + len(drawn)),
        )

    def drawn(self, problem: Problem, key: Key[Array, ""], count: int) -> list[Draws]:
        """Return draws one by one, each with the problem that has its forcing."""
        super().drawn(problem, key, 1)
        found = []
        for own, z in self._joint_draws(key, count):
            params = jax.vmap(self.prior.constrain)(z[None])
            found.append(Draws(forced(problem, own), one_by_one(params, 1)))
        return found

    def tumours(self, problem: Problem) -> list[Tumour]:
        """Return the calibrated tumour, whose rate of division has its forcing."""
        assert self.forcing is not None
        return super().tumours(forced(problem, self.forcing))

    def notes(self, problem: Problem, *, alone: bool = True) -> list[str]:
        """Return what a reader should know of the calibration: above all how far the density left the equation."""
        notes = super().notes(problem, alone=alone)
        if not alone:
            return notes
        if not self.deviation:
            none = "The images gave no reason to leave the equation of growth."
            small = "The density keeps to the equation of growth: the tumour is too small to hold a part of it out."
            return [*notes, Note(none if self.prices else small, Status.GOOD)]
        factors = self.departure
        most = float(max(factors.max(), 1 / factors.min()))
        text = (
            f"To follow the images, the rate of division departs from its mean by a factor of up to {most:.1f}, where "
            f"a factor of {np.exp(self.deviation):.2f} was to be expected"
        )
        if most > _FAR:
            text += "; where it is largest, the density is what the images show rather than what the model predicts"
        return [*notes, Note(f"{text}.", Status.GOOD), *self._of_draws()]

    def _of_draws(self) -> list[str]:
        """Return why the draws, and with them the deviations, are doubtful."""
        if self.steps is None:
            wide = (
                "Beyond the lesion, deviations and probabilities of the density are too large: the normal "
                "approximation lets the rate of division rise where there are no cells yet; rely there on the density "
                "alone."
            )
            return [Note(wide, Status.DOUBTFUL)]
        if self.acceptance is not None and self.acceptance < _ACCEPTED:
            few = (
                f"Only {self.acceptance:.0%} of the trajectories between draws were accepted, so that draws resemble "
                "each other and deviations of the density are too small."
            )
            return [Note(few, Status.DOUBTFUL)]
        narrow = (
            "The deviations of the density are those of growth that departs from its equation: tissue that the tumour "
            "has displaced is no part of them, and on synthetic patients with such tumours they were too small."
        )
        return [Note(narrow, Status.GOOD)]

    def figures(self) -> dict[str, float | int | None]:
        """Return the deviation of the forcing, and by how much (nat) it predicts better what was held out."""
        scores = {each.deviation: each.held_out for each in self.prices}
        gained = {"held_out_gained_by_forcing": round(scores[self.deviation] - scores[0.0], 2)} if scores else {}
        return super().figures() | {"forcing_deviation": self.deviation} | gained

    def sections(self) -> list[Section]:
        """Return the sections of the report: the prices that were tried, and where the rate departs."""
        rows = [
            (None if not each.deviation else round(each.deviation**-2, 2), each.deviation, round(each.held_out, 1))
            for each in self.prices
        ]
        table = Table(
            ("price", "standard deviation of ln rate", "log-likelihood of the half held out, nat"),
            rows,
            caption="Without a price the density keeps to the equation. A search that knows half of the images "
            "predicts the other half. The answer has the highest price that does so as well as the best, to two nats.",
        )
        text = Text(
            "The density keeps to the equation of growth at a price: the rate of division may depart smoothly from "
            "place to place."
        )
        away = 100 * np.abs(self.departure - 1)
        picture = Field(away, "departure of the rate of division, %", np.asarray(self.grid.affine))
        blocks = [text, table, picture] if rows else [text, picture]
        return [Section("Departure from the model", blocks), *super().sections()]

    def tables(self) -> dict[str, Any]:
        """Return the prices that were tried, for the file of parameters."""
        return {"prices": [each._asdict() for each in self.prices]}

    def files(self) -> dict[str, Callable[[Path], None]]:
        """Return how to write the factor of the rate of division as an image."""
        return {"division_rate.nii.gz": self._write}

    def _write(self, path: Path) -> None:
        import nibabel as nib

        nib.save(nib.Nifti1Image(self.departure.astype(np.float32), np.asarray(self.grid.affine)), path)

    def _joint_draws(self, key: Key[Array, ""], count: int) -> list[tuple[Forcing, Array]]:
        """Return draws of the forcing and of the prior's coordinates together."""
        assert self.forcing is not None and self.joint is not None
        n = self.coordinates.size
        # On the host, where rows are taken without a program for each number of them.
        if self.steps is None:
            noise = np.asarray(jax.random.normal(key, (count, len(self.joint))), float)
            away = noise @ np.linalg.cholesky(np.asarray(self.joint, float)).T
        else:
            # Those that there are, each once before any comes again.
            order = np.asarray(jax.random.permutation(key, len(self.steps)))
            away = np.asarray(self.steps)[np.resize(order, count)]
        weights, middle = np.asarray(self.forcing.weights), np.asarray(self.coordinates)
        found = []
        for step in away.astype(middle.dtype):
            own = weights + np.asarray(self.deviation, middle.dtype) * step[n:].reshape(weights.shape)
            found.append((dataclasses.replace(self.forcing, weights=own), jnp.asarray(middle + step[:n])))
        return found


def _grown(problem: Problem, z: Array) -> tuple[np.ndarray, np.ndarray | None]:
    """Return density and displacement of a problem at a point, in double precision."""
    density, displacement = evaluate(growth, problem, np.asarray(z))
    return np.asarray(density, float), None if displacement is None else np.asarray(displacement, float)
