"""What calibrations in several atlases say together: a mixture in which each has its share."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from tumorjax.calibration.calibration import Calibration
from tumorjax.calibration.cost import Cost
from tumorjax.calibration.draws import Draws, Tumour, one_by_one
from tumorjax.calibration.estimates import quantities_of
from tumorjax.calibration.maps import Maps
from tumorjax.calibration.problem import Parameters, Problem
from tumorjax.calibration.result import notes_on_search
from tumorjax.growth.gaussian_basis import held
from tumorjax.io import resample
from tumorjax.methods.multi_atlas.carried import with_place_error
from tumorjax.methods.multi_atlas.coupling import notes_on_push, notes_on_turns
from tumorjax.methods.multi_atlas.in_atlases import (
    UNITS,
    AtlasEstimate,
    Grown,
    agreement,
    averages,
    deviation_of,
    grow_in,
    notes_on,
    notes_on_agreement,
    section_of,
)
from tumorjax.observation import AbstractGaussian
from tumorjax.patient.atlases import TISSUE_TRANSFORM, AlignedAtlas
from tumorjax.quality import Note, Status
from tumorjax.quantity import Quantity
from tumorjax.registration import save_transform
from tumorjax.sections import Section

_MEANS = {"mean": "plain mean", "tempered": "mean by tempered weights", "posterior": "mean by posterior weights"}


def without_basis(params: Parameters) -> Parameters:
    """Return parameters with the centre of mass of the state at time zero, (3,) mm, in place of its Gaussians."""
    origin = params.growth.growth.origin
    return eqx.tree_at(lambda p: p.growth.growth.origin, params, origin.centre_of_mass)


class AtlasMixture(Calibration):
    """What calibrations in several atlases say together, in the patient's world.

    Parameters are means over atlases by their shares, by default all alike. Numbers that each atlas has in a basis of
    its own have no mean: those of the state at time zero are no coordinates here, and `params` hold the Gaussians of
    all atlases, each atlas with its share, so that their centre of mass is the mean of those in the atlases. The
    covariance is of the other coordinates, with the spread over atlases; what is asked of the parameters, the state
    among them, is answered from the members.

    Parameters
    ----------
    members
        The calibration in each atlas, its state at time zero carried back to the patient. Their covariances are without
        the error of that, which the atlases have (`AlignedAtlas.place_error`) and the mixture adds.
    shares
        (m,): the share of each in the mixture; zero for an atlas in which no tumour grows, unless none grows in any.
    atlases
        The atlases.
    weighed
        How the shares were found; see `tumorjax.methods.multi_atlas.mixing.weights_of`.
    problems
        What was calibrated in each atlas: the model there, with the state at time zero where the atlas has it.
    foci
        (f, 3), mm: the middle of each part of the core that lies apart, the largest first; none for a single one.
    """

    members: tuple[Calibration, ...] = ()
    shares: Float[np.ndarray, "m"] = eqx.field(default_factory=lambda: np.zeros(0))
    atlases: tuple[AlignedAtlas, ...] = ()
    weighed: str = "mean"
    problems: tuple[Problem, ...] = ()
    foci: Float[np.ndarray, "f 3"] = eqx.field(default_factory=lambda: np.zeros((0, 3)))

    @property
    def description(self) -> str:
        """In how many atlases the model was calibrated, in words."""
        return f"calibrated in {f'{len(self.members)} atlases' if len(self.members) > 1 else 'one atlas'}"

    @property
    def estimate(self) -> str:
        """What the values and standard deviations of the estimates are, in words."""
        errors = sorted({f"{atlas.place_error:.1f}" for atlas in self.atlases if atlas.place_error > 0}, key=float)
        carried = f", that of the origin with the error of carrying a place from an atlas, {' or '.join(errors)} mm"
        return (
            f"{_MEANS[self.weighed]} over atlases of the maxima a posteriori; standard deviations of the mixture of "
            f"Laplace approximations{carried if errors else ''}"
        )

    @property
    def uncertainty(self) -> str:
        """What the standard deviation of the density in each voxel is, as a sentence of the report."""
        how = "each of which counts the same" if self.weighed == "mean" else f"by a {_MEANS[self.weighed]}"
        return f"Standard deviation of the density over the atlases, {how}, and within them."

    @cached_property
    def in_patient(self) -> tuple[Calibration, ...]:
        """The calibration in each atlas with the error of carrying its state at time zero back to the patient."""
        # A mixture of anatomies that were given as they are may come without atlases.
        errors = [atlas.place_error for atlas in self.atlases] or [0.0] * len(self.members)
        return tuple(with_place_error(member, error) for member, error in zip(self.members, errors, strict=True))

    @cached_property
    def grown(self) -> list[Grown]:
        """The tumour in each atlas, grown when it is first needed."""
        found = one_by_one(self.samples, len(self.problems))
        return [grow_in(own.model, p.growth, own.anatomy) for p, own in zip(found, self.problems, strict=True)]

    @property
    def _densities(self) -> list[Float[np.ndarray, "x y z"]]:
        return [each.density for each in self.grown]

    @cached_property
    def rows(self) -> list[AtlasEstimate]:
        """What the calibration in each atlas says."""
        weights, grown = np.exp(np.asarray(self.log_weights, float)), self.grown
        grows = [bool(share > 0) and each.failure is None for share, each in zip(self.shares, grown, strict=True)]
        rows = []
        for i, (atlas, tumour) in enumerate(zip(self.atlases, grown, strict=True)):
            params = jax.tree.map(lambda leaf, i=i: leaf[i], self.samples).growth
            physical = params.physical()
            rows.append(
                AtlasEstimate(
                    atlas=atlas.name,
                    weight=float(weights[i] / weights.sum()),
                    objective=float(self.stats.atlases[i].final),
                    mass_effect=float(params.mass_effect),
                    mu1=float(params.growth.mu1),
                    mu2=float(params.growth.mu2),
                    diffusivity=float(physical.diffusivity),
                    proliferation=float(physical.proliferation),
                    max_displacement=tumour.max_displacement,
                    displaced=tumour.displaced_voxels * float(atlas.anatomy.grid.voxel_volume) / 1000,
                    ventricles=atlas.ventricles,
                    gaussians=int(held(np.asarray(self.members[i].params.growth.growth.origin.weights)).sum()),
                    # Where no tumour grows in any, nothing is left to be averaged but nothing.
                    grows=grows[i] or not any(grows),
                )
            )
        return rows

    def quantities(self) -> list[Quantity]:
        """Return what is worth a row of a table; Gaussians near different foci have rows of their own."""
        return quantities_of(self.params, self.prior, self.params.growth.quantities(foci=self.foci))

    def maps(
        self,
        problem: Problem,
        thresholds: Sequence[float] = (),
        progress: Callable[[float], None] = lambda share: None,
    ) -> Maps:
        """Return means over the atlases in which a tumour grows, and standard deviations over and within them.

        Images that follow from the density, such as PET, are the means of their predictions: the scale is larger where
        an atlas has fewer cells.
        """
        counted, shares = _growing(self.rows, self.shares)
        densities = np.stack([self.grown[i].density for i in counted])
        displacements = np.stack([self.grown[i].displacement for i in counted])
        coarse = problem.anatomy.coarsen(self.stats.coarsening).grid.affine
        within = [resample(self.stats.deviations[i] ** 2, np.asarray(coarse), problem.anatomy.grid) for i in counted]
        predicted = {}
        for name, observation in problem.observations.items():
            # Outlines are drawn where the density crosses a threshold, and are not averaged.
            if observation.shows == "density" and isinstance(observation, AbstractGaussian):
                unknown = [jax.tree.map(jnp.asarray, self.members[i].params.observations[name]) for i in counted]
                pairs = zip(densities, unknown, strict=True)
                images = [np.asarray(observation.mean(jnp.asarray(density), own)) for density, own in pairs]
                predicted[name] = np.tensordot(shares, images, 1)
        density, displacement = (np.tensordot(shares, each, 1) for each in (densities, displacements))
        return Maps(
            density=density,
            deviation=np.sqrt(np.tensordot(shares, (densities - density) ** 2 + np.stack(within), 1)),
            displacement=displacement,
            displacement_deviation=deviation_of(displacements, shares),
            predicted=predicted,
            cost=Cost(solves=len(self.atlases)),
        )

    def notes(self, problem: Problem, *, alone: bool = True) -> list[str]:
        """Return how the refinement in the atlases ended, and what limits the calibration in these atlases."""
        searches = [each.histories[1] for each in self.stats.atlases]
        failed = [
            Note(f"The solve in the atlas {atlas.title} failed: {each.failure}; it is left out.", Status.DOUBTFUL)
            for atlas, each in zip(self.atlases, self.grown, strict=True)
            if each.failure is not None
        ]
        counted = [i for i, row in enumerate(self.rows) if row.grows]
        return [
            *notes_on_search(self.result, searches),
            *failed,
            *notes_on_turns(self.stats.turns, self.atlases),
            *self._notes_on_push(counted),
            *notes_on_agreement([self.atlases[i].name for i in counted], [self._densities[i] for i in counted]),
            *notes_on(problem, self.rows, self.atlases),
        ]

    def _notes_on_push(self, counted: Sequence[int]) -> list[str]:
        every = one_by_one(self.samples, len(self.problems))
        return notes_on_push(
            [self.problems[i] for i in counted],
            [every[i] for i in counted],
            [self.grown[i].displacement for i in counted],
            [self.atlases[i] for i in counted],
        )

    def figures(self) -> dict[str, float | int | None]:
        """Return the number of atlases, means over them of what is displaced, and what the search took."""
        means = averages(self.rows)
        return {
            "atlases": len(self.rows),
            "max_displacement_mm": means["max_displacement"]["mean"],
            "max_displacement_std_mm": means["max_displacement"]["standard_deviation"],
            "volume_above_2mm_ml": means["displaced"]["mean"],
            "volume_above_2mm_std_ml": means["displaced"]["standard_deviation"],
            "origin_gradients": self.stats.origin_gradients,
        }

    def sections(self) -> list[Section]:
        """Return the table of atlases and the convergence in each."""
        return [section_of(self.rows), *super().sections()]

    def tables(self) -> dict[str, Any]:
        """Return the numbers of each atlas with the name of the file of its transform, their units and averages."""
        rows = zip(self.rows, self.atlases, strict=True)
        return {
            "atlases": [
                {**vars(row), "share": float(share), "transform": atlas.file, "place_error": atlas.place_error}
                for (row, atlas), share in zip(rows, self.shares, strict=True)
            ],
            "agreement": agreement(self._densities),
            "units": UNITS | {"place_error": "mm"},
            "averages": averages(self.rows),
        }

    def files(self) -> dict[str, Callable[[Path], None]]:
        """Return the transforms to the atlases, apart from that of the atlas of the patient's tissue."""
        return {
            atlas.file: lambda path, transform=atlas.transform: save_transform(path, transform)
            for atlas in self.atlases
            if atlas.transform is not None and atlas.file not in (None, TISSUE_TRANSFORM)
        }

    def sample(self, key: Key[Array, ""], count: int) -> Parameters:
        """Draw parameters from the mixture of Laplace approximations, with a leading axis of `count`.

        The origins are where they may lie in the patient now; `drawn` has tumours that grow.
        """
        choice, *keys = jax.random.split(key, len(self.members) + 1)
        chosen = jax.random.choice(choice, len(self.members), (count,), p=jnp.asarray(self.shares))
        drawn = [member.sample(own, count) for member, own in zip(self.in_patient, keys, strict=True)]
        each = jnp.arange(count)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[chosen, each], *drawn)

    def drawn(self, problem: Problem, key: Key[Array, ""], count: int) -> list[Draws]:
        """Return draws from the mixture one by one, as many in each atlas as its share says, with the problem there.

        Raises
        ------
        ValueError
            If the problem has another grid than the atlases.
        """
        shape = self.problems[0].anatomy.grid.shape
        if problem.anatomy is None or problem.anatomy.grid.shape != shape:
            raise ValueError(
                f"the calibration is in atlases on a grid of shape {shape}; give the problem that was calibrated"
            )
        choice, *keys = jax.random.split(key, len(self.members) + 1)
        chosen = np.asarray(jax.random.choice(choice, len(self.members), (count,), p=jnp.asarray(self.shares)))
        found = []
        for i, (member, own) in enumerate(zip(self.members, self.problems, strict=True)):
            if times := int((chosen == i).sum()):
                # The coordinates are the same; what they mean for the state at time zero is the atlas' own, where
                # nothing was carried.
                there = dataclasses.replace(member, prior=own.prior)
                found += there.drawn(own, keys[i], times)
        return found

    def tumours(self, problem: Problem) -> list[Tumour]:
        """Return the tumour in each atlas in which one grows, with its share."""
        every = one_by_one(self.samples, len(self.problems))
        return [
            Tumour(self.problems[i], every[i], float(share))
            for i, share in zip(*_growing(self.rows, self.shares), strict=True)
        ]

    def mean(self, quantity: Callable[[Parameters], Any] = without_basis) -> Any:
        """Return the mean of a quantity over atlases by their shares.

        By default it is that of the parameters, in a form without basis.

        What a quantity makes of the state at time zero must not depend on which Gaussians that is made of: the third
        Gaussian of one atlas has nothing to do with that of another.
        """
        counted, shares = self._counted()
        return mixed([member.mean(quantity) for member in counted], shares)

    def standard_deviations(self, quantity: Callable[[Parameters], Any] = without_basis) -> Any:
        """Return the standard deviation of every number of a quantity, over atlases and within each: see `mean`."""
        counted, shares = self._counted()
        means = [member.mean(quantity) for member in counted]
        within = [member.standard_deviations(quantity) for member in counted]
        middle = mixed(means, shares)
        squares = [
            jax.tree.map(lambda mean, own, spread: (mean - own) ** 2 + spread**2, middle, *pair)
            for pair in zip(means, within, strict=True)
        ]
        return jax.tree.map(jnp.sqrt, mixed(squares, shares))

    def _counted(self) -> tuple[list[Calibration], Float[np.ndarray, "k"]]:
        """Return the members that have a share, and these: what is not finite in another one does not matter."""
        counted = np.flatnonzero(self.shares > 0)
        return [self.in_patient[i] for i in counted], self.shares[counted]


def mixed(values: list[Any], shares: Float[np.ndarray, "m"]) -> Any:
    """Return the mean of trees of numbers by their shares."""

    def mean(*leaves: Any) -> Array:
        stacked = jnp.stack([jnp.asarray(leaf) for leaf in leaves])
        return jnp.tensordot(jnp.asarray(shares, stacked.dtype), stacked, axes=1)

    return jax.tree.map(mean, *values)


def _growing(rows: Sequence[AtlasEstimate], shares: Float[np.ndarray, "m"]) -> tuple[list[int], Float[np.ndarray, "k"]]:
    """Return the atlases in which a tumour grows, and the share of each in their mean."""
    counted = [i for i, row in enumerate(rows) if row.grows]
    found = shares[counted] if shares[counted].sum() > 0 else np.ones(len(counted))
    return counted, found / found.sum()
