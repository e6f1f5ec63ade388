"""What is to be calibrated: model, anatomy, observations, prior."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from tumorjax.anatomy import Anatomy
from tumorjax.calibration.consistency import check_model, check_observations, check_prior, checked_visits
from tumorjax.calibration.visit import OBSERVATIONS, Visit, named
from tumorjax.grid import tissue_box
from tumorjax.growth import AbstractGrowth, AbstractVolumeLaw, Treatment
from tumorjax.integrate import (
    AbstractAdjoint,
    AbstractStepper,
    Calendar,
    CheckpointedAdjoint,
    Result,
    VolumeSolution,
    simulate,
)
from tumorjax.observation import AbstractObservation, Outline
from tumorjax.prior import Prior, SameAs

# Results of a solve whose density can be compared with images: a seed in no tissue grows no tumour.
_GROWN = (Result.SUCCESS, Result.SEED_OUTSIDE_TISSUE)
_TREATMENTS = named('{"radiation": Radiotherapy(...)}', "treatments")


class Parameters(eqx.Module):
    """Everything unknown: the parameters of the growth, and those of each observation.

    Parameters
    ----------
    growth
        Parameters of the growth model, usually `ScaledGrowthParams`.
    observations
        Parameters of each observation, under its name: `{"core": OutlineParams(...), "pet": PetParams(...)}`.
    treatments
        Numbers of treatments that are unknown, under the names of the treatment and of its field:
        `{"radiation": {"alpha": 0.03}, "surgery": {"remainder": 0.1}}`.
    """

    growth: Any
    observations: dict[str, Any] = eqx.field(converter=named('{"core": OutlineParams(...), "pet": PetParams(...)}'))
    treatments: dict[str, dict[str, Any]] = eqx.field(
        default_factory=dict, converter=named('{"radiation": {"alpha": ...}}', "treatments")
    )


class Fields(NamedTuple):
    """What images can show of a simulated patient.

    Parameters
    ----------
    density
        c, (x, y, z); None of the law of a volume.
    csf
        Share of each voxel that is fluid, (x, y, z), where the tumour has displaced it; None where tissue stays.
    displacement
        u, (x, y, z, 3), mm along the world's axes: what is now at x came from x - u(x); None where tissue stays.
    volume
        V, mm^3, of the law of a volume, which has nothing else; None otherwise.
    """

    density: Any
    csf: Array | None
    displacement: Array | None = None
    volume: Array | None = None


Shown = Fields | tuple[Fields, ...]
"""What images can show of a patient: of several visits, one after another."""


class Problem(eqx.Module):
    """All that every method of calibration needs.

    Parameters
    ----------
    model
        What grows; a law of a volume, such as `GompertzGrowth`, has no anatomy.
    anatomy
        Where. Cropped to its tissue it saves time: see `Anatomy.crop`.
    observations
        The images on the anatomy's grid, by name: `{"core": Outline(...), "lesion": Outline(...)}`. Names are
        identifiers, and free; starts and default priors look for the outlines named "core" and "lesion". For several
        days, visits in their order: `[Visit(0, {...}), Visit(60, {...})]`. Then the duration of the growth is the time
        from the seed to the first visit, and the speed of growth is no longer arbitrary.
    prior
        Over `Parameters`, whose observations have the names of those of all visits together.
    stepper
        The scheme in time; by default the one that `simulate` has for the model.
    treatments
        What was done between the visits, by name, in days of the visits' clock: `{"radiation": Radiotherapy(...)}`. In
        place of a number that the prior has under `Parameters.treatments` there may be a distribution; it is replaced.

    Attributes
    ----------
    observations
        What images show at the last visit, or at the only date.
    earlier
        The visits before the last.
    treatments
        The treatments without their days.
    calendar
        The days of visits and treatments; None for one date without treatments.

    Raises
    ------
    ValueError
        If there is no observation, or one is no observation, has another shape than the anatomy, or shows what the
        model lacks; if the prior is no `Prior`, lacks an observation or an unknown of a treatment or has one too many,
        or holds the origin to be where there is no tissue; if visits are out of order, two of them are on one day, a
        treatment has no effect on any of them, or there are treatments and no visit with a day.
    """

    # A law of a volume and no anatomy only where a method has been asked for it; most rooms see models in space.
    model: AbstractGrowth
    anatomy: Anatomy
    observations: dict[str, AbstractObservation]
    prior: Prior
    stepper: AbstractStepper | None = None
    treatments: dict[str, Treatment] = eqx.field(default_factory=dict)
    earlier: tuple[Visit, ...] = ()
    calendar: Calendar | None = None

    def __init__(
        self,
        model: AbstractGrowth | AbstractVolumeLaw,
        anatomy: Anatomy | None,
        observations: Mapping[str, AbstractObservation] | Sequence[Visit],
        prior: Prior,
        stepper: AbstractStepper | None = None,
        treatments: Mapping[str, Treatment] | None = None,
        *,
        earlier: tuple[Visit, ...] = (),
        calendar: Calendar | None = None,
    ) -> None:
        given = _TREATMENTS({} if treatments is None else treatments)
        if isinstance(observations, (list, tuple)) and any(isinstance(each, Visit) for each in observations):
            *before, last = checked_visits(observations)
            earlier, observations = tuple(before), last.observations
            days = [visit.day for visit in (*before, last)]
            calendar = None
            if before or given:
                calendar = Calendar.of([float(day) for day in days], list(given.values()))
                given = {name: each.undated() for name, each in given.items()}
        elif given and calendar is None:
            raise ValueError("treatments have days, so observations need one: give [Visit(day, observations)]")
        self.model, self.anatomy = model, anatomy  # pyright: ignore[reportAttributeAccessIssue]
        self.prior, self.stepper = prior, stepper
        self.observations = _placed(OBSERVATIONS(observations), anatomy)
        self.earlier = tuple(Visit(each.day, _placed(each.observations, anatomy)) for each in earlier)
        self.treatments, self.calendar = given, calendar

    def __check_init__(self) -> None:
        images = [visit.observations for visit in (*self.earlier, self)]
        check_model(self.model, self.anatomy)
        check_observations(images, self.model, self.anatomy)
        check_prior(self.prior, images, self.treatments, self.anatomy)

    @property
    def dtype(self) -> Any:
        """The dtype of the computation: that of the anatomy; without one, JAX's default."""
        return jnp.result_type(float) if self.anatomy is None else self.anatomy.dtype

    @property
    def visits(self) -> tuple[Visit, ...]:
        """What was seen, in the order of the days; without a calendar the only day is zero."""
        day = np.zeros(()) if self.calendar is None else self.calendar.visits[-1]
        return (*self.earlier, Visit(day, self.observations))

    @property
    def dated(self) -> dict[str, Treatment]:
        """The treatments with their days; needs concrete ones."""
        if self.calendar is None:
            return {}
        pairs = zip(self.treatments.items(), self.calendar.treatments, strict=True)
        return {name: each.on(np.asarray(days).tolist()) for (name, each), days in pairs}

    def treated(self, params: Parameters) -> tuple[Treatment, ...]:
        """Return the treatments with the numbers of these parameters."""

        def numbers(name: str, each: Treatment) -> dict[str, Any]:
            held = {field: getattr(each, field) for field in each.calibrated}
            same = {field: value.name.split(".")[1:] for field, value in held.items() if isinstance(value, SameAs)}
            found = {field: params.treatments[other][of_it] for field, (other, of_it) in same.items()}
            return {**found, **params.treatments.get(name, {})}

        return tuple(dataclasses.replace(each, **numbers(name, each)) for name, each in self.treatments.items())

    def solve(self, params: Parameters, adjoint: AbstractAdjoint | None = None) -> Any:
        """Grow the tumour of these parameters, to the last visit; a `Solution`, or of a volume a `VolumeSolution`.

        The density is NaN where the solve failed, in whatever way: such parameters have no likelihood. A seed in no
        tissue is no failure, but a tumour that does not grow.
        """
        treatments = self.treated(params)
        if isinstance(self.model, AbstractVolumeLaw):
            return simulate(self.model, params.growth, treatments=treatments, calendar=self.calendar)
        adjoint = CheckpointedAdjoint() if adjoint is None else adjoint
        solution = simulate(
            self.model,
            params.growth,
            self.anatomy,
            treatments=treatments,
            calendar=self.calendar,
            stepper=self.stepper,
            adjoint=adjoint,
            throw=False,
        )
        # Otherwise a flow that could not be followed would pass for tissue that stays.
        grown = jnp.isin(solution.result, jnp.asarray(_GROWN, solution.result.dtype))
        density, series = jax.tree.map(
            lambda field: jnp.where(grown, field, jnp.nan), (solution.density, solution.series)
        )
        return dataclasses.replace(solution, density=density, series=series)

    def predict(self, params: Parameters, adjoint: AbstractAdjoint | None = None) -> Shown:
        """Simulate what the images show for these parameters, at each visit if there are several; see `solve`."""
        solution = self.solve(params, adjoint)
        if isinstance(solution, VolumeSolution):
            volumes = [solution.volume] if solution.series is None else solution.series
            found = tuple(Fields(None, None, volume=volume) for volume in volumes)
            return found if self.earlier else found[-1]
        if not self.earlier:
            csf = None if solution.anatomy is None else solution.anatomy.csf
            return Fields(solution.density, csf, solution.displacement)
        assert solution.series is not None
        moved = solution.moved or {}
        return tuple(
            Fields(density, *(moved[name][i] if name in moved else None for name in ("csf", "displacement")))
            for i, density in enumerate(solution.series)
        )

    def density(self, params: Parameters, adjoint: AbstractAdjoint | None = None) -> Float[Array, "x y z"]:
        """Simulate the density for these parameters, at the last visit."""
        return self.solve(params, adjoint).density

    def seen(self, shown: Shown) -> list[tuple[str, str, AbstractObservation, Array]]:
        """Return for each image of each visit a name of its own, the name of its parameters, the image, and its field.

        Parameters
        ----------
        shown
            What `predict` returned.
        """
        fields = shown if isinstance(shown, tuple) and not isinstance(shown, Fields) else (shown,)
        images = (*(visit.observations for visit in self.earlier), self.observations)
        rows = []
        for i, (observations, each) in enumerate(zip(images, fields, strict=True)):
            for name, observation in observations.items():
                own = f"{name}_{i + 1}" if self.earlier else name
                rows.append((own, name, observation, getattr(each, observation.shows)))
        return rows

    def log_likelihood(self, shown: Shown, params: Parameters) -> Float[Array, ""]:
        """Return the log-likelihood of all observations, nat, from what `predict` returned."""
        return sum(
            (o.log_prob(field, params.observations[name]) for _, name, o, field in self.seen(shown)),
            jnp.zeros((), self.dtype),
        )

    def log_posterior(self, z: Float[Array, "n"]) -> Float[Array, ""]:
        """Return the log-density of the posterior in the prior's coordinates, up to a constant."""
        params = self.prior.constrain(z)
        return self.log_likelihood(self.predict(params), params) - 0.5 * jnp.sum(z**2)

    def coarsen(self, factor: int) -> "Problem":
        """Return the same problem on voxels `factor` times as long, those of elasticity among them."""
        if self.anatomy is None:
            return self
        return self._changed(
            self.anatomy.coarsen(factor),
            lambda o: o.coarsen(factor),
            lambda treatment: treatment.coarsen(factor),
        )

    def within(self, mask: Bool[np.ndarray, "x y z"]) -> "Problem":
        """Return the problem whose images are known in the voxels of a mask alone, each of which counts as before."""
        return self._changed(self.anatomy, lambda o: o.within(mask), lambda treatment: treatment)

    def _changed(
        self,
        anatomy: Anatomy,
        image: Callable[[AbstractObservation], AbstractObservation],
        treatment: Callable[[Treatment], Treatment],
        **more: Any,
    ) -> "Problem":
        """Return the problem on another grid: each image and each treatment brought there."""

        def images(observations: dict[str, AbstractObservation]) -> dict[str, AbstractObservation]:
            return {name: image(o) for name, o in observations.items()}

        return dataclasses.replace(
            self,
            anatomy=anatomy,
            observations=images(self.observations),
            earlier=tuple(dataclasses.replace(each, observations=images(each.observations)) for each in self.earlier),
            treatments={name: treatment(each) for name, each in self.treatments.items()},
            **more,
        )

    def around(self, margin: float, *, multiple: int = 4) -> "Problem":
        """Return the same problem in the box of the lesion and a margin: a fraction of the voxels to simulate.

        The walls of the box hold cells back, so it is as good as the brain while none come there: a tumour with
        densities below 1e-3 at the walls has the brain's to within 1e-3. Ahead of the isoline of a low threshold (0.05)
        the front of a Fisher-Kolmogorov tumour falls to that within 5.3 mu1 / mu2, ahead of a middle one (0.3) within
        9: 11 and 18 mm at the middle of the default prior. Every voxel counts as much as before. What is lost is what
        images show farther out: the noise of PET there, which tells of sigma, and a constant of the likelihood, so
        that evidences compare only between problems in the same box.

        Parameters
        ----------
        margin
            mm, on all sides of the outlines.
        multiple
            The box consists of whole blocks of so many voxels of this grid, counted from its first one, unless the
            grid ends: it coarsens by the divisors of this number as the problem itself does.

        Raises
        ------
        ValueError
            If no outline shows the lesion, the margin is negative, or growth moves tissue, whose displacements reach
            far beyond the tumour.
        """
        if self.model.displaces:
            raise ValueError("growth with mass effect moves tissue far beyond the lesion, and needs the whole brain")
        if not margin >= 0 or multiple < 1:
            raise ValueError(f"margin must be at least 0 mm and multiple at least 1, got {margin} and {multiple}")
        outlines = [o for visit in self.visits for o in visit.observations.values() if isinstance(o, Outline)]
        if not outlines:
            raise ValueError("the box of the lesion needs an outline of it; crop the anatomy and observations yourself")
        lesion = np.any([np.asarray(o.valid) & (np.asarray(o.inside) > 0) for o in outlines], axis=0)
        first, size = (np.array(part) for part in tissue_box(lesion))
        reach = np.ceil(margin / np.asarray(self.anatomy.grid.spacing)).astype(int)
        low = np.maximum(first - reach, 0) // multiple * multiple
        high = np.minimum(-(-(first + size + reach) // multiple) * multiple, lesion.shape)
        start, shape = ((int(a), int(b), int(c)) for a, b, c in (low, high - low))
        unknown = self.prior.distributions
        return self._changed(
            self.anatomy.crop(start, shape),
            lambda o: o.crop(start, shape),
            lambda treatment: treatment.crop(start, shape),
            prior=Prior(dataclasses.replace(unknown, growth=unknown.growth.crop(start, shape))),
        )


def _placed(images: dict[str, AbstractObservation], anatomy: Any) -> dict[str, AbstractObservation]:
    """Return images with what follows from the grid on which they lie."""
    if not isinstance(anatomy, Anatomy):
        return images
    return {name: o.placed(anatomy.grid) if isinstance(o, AbstractObservation) else o for name, o in images.items()}
