"""What is to be calibrated: model, anatomy, observations, prior."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from tumorjax.anatomy import TISSUE_THRESHOLD, Anatomy
from tumorjax.grid import Grid, tissue_box
from tumorjax.growth import AbstractGrowth, Foci
from tumorjax.integrate import AbstractAdjoint, AbstractStepper, CheckpointedAdjoint, Result, Solution, simulate
from tumorjax.observation import AbstractObservation, Outline
from tumorjax.prior import AbstractDistribution, Prior

# Results of a solve whose density can be compared with images: a seed in no tissue grows no tumour.
_GROWN = (Result.SUCCESS, Result.SEED_OUTSIDE_TISSUE)


def _named(form: str) -> Callable[[Any], dict[str, Any]]:
    """Return a converter that copies a mapping from names, and raises a ValueError that shows its form otherwise."""

    def copied(given: Any) -> dict[str, Any]:
        if not isinstance(given, Mapping):
            raise ValueError(f"observations have names, as in {form}; got {type(given).__name__}")
        # Names of the prior's coordinates hold them between dots.
        if unfit := [name for name in given if not (isinstance(name, str) and name.isidentifier())]:
            raise ValueError(f"names of observations are words such as core or t1_gd, got {unfit[0]!r}")
        # JAX has the values of a dictionary in this order too.
        return {name: given[name] for name in sorted(given)}

    return copied


class Parameters(eqx.Module):
    """Everything unknown: the parameters of the growth, and those of each observation.

    Parameters
    ----------
    growth
        Parameters of the growth model, usually `ScaledGrowthParams`.
    observations
        Parameters of each observation, under its name: `{"core": OutlineParams(...), "pet": PetParams(...)}`.
    """

    growth: Any
    observations: dict[str, Any] = eqx.field(converter=_named('{"core": OutlineParams(...), "pet": PetParams(...)}'))


class Fields(NamedTuple):
    """What images can show of a simulated patient.

    Parameters
    ----------
    density
        c, (x, y, z).
    csf
        Share of each voxel that is fluid, (x, y, z), where the tumour has displaced it; None where tissue stays.
    displacement
        u, (x, y, z, 3), mm along the world's axes: what is now at x came from x - u(x); None where tissue stays.
    """

    density: Array
    csf: Array | None
    displacement: Array | None = None


class Problem(eqx.Module):
    """All that every method of calibration needs.

    Parameters
    ----------
    model
        What grows.
    anatomy
        Where. Cropped to its tissue it saves time: see `Anatomy.crop`.
    observations
        The images on the anatomy's grid, by name: `{"core": Outline(...), "lesion": Outline(...)}`. Names are
        identifiers, and free; starts and default priors look for the outlines named "core" and "lesion".
    prior
        Over `Parameters`, whose observations have the same names.
    stepper
        The scheme in time; by default the one that `simulate` has for the model.

    Raises
    ------
    ValueError
        If there is no observation, or one is no observation, has another shape than the anatomy, or shows what the
        model lacks; if the prior is no `Prior`, lacks an observation or has one too many, or holds the origin to be
        where there is no tissue.
    """

    model: AbstractGrowth
    anatomy: Anatomy
    observations: dict[str, AbstractObservation] = eqx.field(
        converter=_named('{"core": Outline(...), "lesion": Outline(...)}')
    )
    prior: Prior
    stepper: AbstractStepper | None = None

    def __check_init__(self) -> None:
        if not (isinstance(self.model, AbstractGrowth) and isinstance(self.anatomy, Anatomy)):
            got = [x.__name__ if isinstance(x, type) else type(x).__name__ for x in (self.model, self.anatomy)]
            raise ValueError(
                "a problem is of a model of cells in space, such as FisherKolmogorov(), and an Anatomy, in this order; "
                f"got {got[0]} and {got[1]}"
            )
        if not self.observations:
            raise ValueError("a problem needs at least one observation")
        if not isinstance(self.prior, Prior):
            raise ValueError(
                f"prior must be a Prior over Parameters, got {type(self.prior).__name__}; "
                "give default_prior(...) or Prior(...)"
            )
        for name, observation in self.observations.items():
            if not isinstance(observation, AbstractObservation):
                raise ValueError(
                    f"observations must be images such as Outline or Pet, got {type(observation).__name__} as {name!r}"
                )
            if observation.shows not in self.model.shows:
                raise ValueError(
                    f"an image shows the {observation.shows}, which {type(self.model).__name__} leaves as it is; leave "
                    "out that image, or use a model that moves tissue, such as MassEffect"
                )
            shape = jnp.shape(observation.valid)
            if shape != self.anatomy.grid.shape:
                raise ValueError(
                    f"the observation {name!r} has shape {shape} on an anatomy of shape {self.anatomy.grid.shape}; "
                    "resample it"
                )
        unknown = self.prior.distributions
        known = getattr(unknown, "observations", {})
        for name in sorted(self.observations.keys() ^ known.keys()):
            holder, other = ("problem", "prior") if name in self.observations else ("prior", "problem")
            raise ValueError(
                f"the {holder} has the observation {name!r}, which the {other} lacks; both need the same names, got "
                f"{', '.join(self.observations)} in the problem and {', '.join(known) or 'none'} in the prior"
            )
        growth = getattr(unknown, "growth", None)
        origin = getattr(growth, "origin", None)
        origin = origin.points if isinstance(origin, Foci) else origin
        corners = _corners(origin, self.anatomy) if isinstance(origin, AbstractDistribution) else None
        if corners is not None and not _holds_tissue(corners, self.anatomy):
            low, high = (np.round(corner, 1).tolist() for corner in corners)
            raise ValueError(
                f"the prior of the origin is from {low} to {high}, where there is no tissue; "
                "give world coordinates (RAS, mm) in the brain of this problem"
            )

    def solve(self, params: Parameters, adjoint: AbstractAdjoint | None = None) -> Solution:
        """Grow the tumour of these parameters.

        The density is NaN where the solve failed, in whatever way: such parameters have no likelihood. A seed in no
        tissue is no failure, but a tumour that does not grow.
        """
        adjoint = CheckpointedAdjoint() if adjoint is None else adjoint
        solution = simulate(self.model, params.growth, self.anatomy, stepper=self.stepper, adjoint=adjoint, throw=False)
        # Otherwise a flow that could not be followed would pass for tissue that stays.
        grown = jnp.isin(solution.result, jnp.asarray(_GROWN, solution.result.dtype))
        return dataclasses.replace(solution, density=jnp.where(grown, solution.density, jnp.nan))

    def predict(self, params: Parameters, adjoint: AbstractAdjoint | None = None) -> Fields:
        """Simulate what the images show for these parameters; see `solve`."""
        solution = self.solve(params, adjoint)
        csf = None if solution.anatomy is None else solution.anatomy.csf
        return Fields(solution.density, csf, solution.displacement)

    def density(self, params: Parameters, adjoint: AbstractAdjoint | None = None) -> Float[Array, "x y z"]:
        """Simulate the density for these parameters."""
        return self.predict(params, adjoint).density

    def log_likelihood(self, fields: Fields, params: Parameters) -> Float[Array, ""]:
        """Return the log-likelihood of all observations, nat."""
        return sum(
            (o.log_prob(getattr(fields, o.shows), params.observations[name]) for name, o in self.observations.items()),
            jnp.zeros((), fields.density.dtype),
        )

    def log_posterior(self, z: Float[Array, "n"]) -> Float[Array, ""]:
        """Return the log-density of the posterior in the prior's coordinates, up to a constant."""
        params = self.prior.constrain(z)
        return self.log_likelihood(self.predict(params), params) - 0.5 * jnp.sum(z**2)

    def coarsen(self, factor: int) -> "Problem":
        """Return the same problem on voxels `factor` times as long, those of elasticity among them."""
        observations = {name: o.coarsen(factor) for name, o in self.observations.items()}
        return dataclasses.replace(self, anatomy=self.anatomy.coarsen(factor), observations=observations)

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
        outlines = [o for o in self.observations.values() if isinstance(o, Outline)]
        if not outlines:
            raise ValueError("the box of the lesion needs an outline of it; crop the anatomy and observations yourself")
        lesion = np.any([np.asarray(o.valid) & (np.asarray(o.inside) > 0) for o in outlines], axis=0)
        first, size = (np.array(part) for part in tissue_box(lesion))
        reach = np.ceil(margin / np.asarray(self.anatomy.grid.spacing)).astype(int)
        low = np.maximum(first - reach, 0) // multiple * multiple
        high = np.minimum(-(-(first + size + reach) // multiple) * multiple, lesion.shape)
        start, shape = ((int(a), int(b), int(c)) for a, b, c in (low, high - low))
        unknown = self.prior.distributions
        return dataclasses.replace(
            self,
            anatomy=self.anatomy.crop(start, shape),
            observations={name: o.crop(start, shape) for name, o in self.observations.items()},
            prior=Prior(dataclasses.replace(unknown, growth=unknown.growth.crop(start, shape))),
        )


def centre_and_radius(anatomy: Anatomy, inside: Any) -> tuple[np.ndarray, float]:
    """Return the centre of what an outline holds, (x, y, z), in the world, mm, and the radius of its ball, mm."""
    inside = np.asarray(inside, float)
    volume = inside.sum() * float(anatomy.grid.voxel_volume)
    weights = [inside.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    index = np.array([np.average(np.arange(len(w)), weights=w) for w in weights])
    return np.asarray(anatomy.grid.to_world(index)), float((3 * volume / (4 * np.pi)) ** (1 / 3))


def _corners(origin: AbstractDistribution, anatomy: Anatomy) -> np.ndarray | None:
    """Return the corners of the box in the world that holds nearly all seeds, (2, 3); None if that is not known."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((origin, anatomy))) or origin.shape[-1:] != (3,):
        return None
    with jax.ensure_compile_time_eval():
        # Four standard deviations out; of a uniform distribution, nearly its bounds.
        low, high = (np.asarray(origin.transport(jnp.full(origin.shape, z))) for z in (-4.0, 4.0))
    return np.stack([low.reshape(-1, 3).min(axis=0), high.reshape(-1, 3).max(axis=0)])


def _holds_tissue(corners: np.ndarray, anatomy: Anatomy) -> bool:
    """Return whether there is tissue in a box of the world or within two voxels of it."""
    eight = np.stack(np.meshgrid(*corners.T, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = anatomy.grid
    index = Grid(grid.shape, np.asarray(grid.affine)).to_index(eight)
    low = np.maximum(np.floor(index.min(axis=0)) - 2, 0).astype(int)
    high = np.maximum(np.ceil(index.max(axis=0)) + 3, 0).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    white, grey = (np.asarray(tissue)[box] for tissue in (anatomy.white_matter, anatomy.grey_matter))
    return bool(np.any(white + grey >= TISSUE_THRESHOLD))
