"""What is to be calibrated: model, anatomy, observations, prior."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tumorjax.anatomy import Anatomy
from tumorjax.growth import FisherKolmogorov, GaussianBasis, MassEffect, MassEffectParams, ScaledGrowthParams
from tumorjax.growth.parameters import PUBLISHED_SPEED
from tumorjax.integrate import AbstractAdjoint, AbstractStepper, CheckpointedAdjoint, Result, simulate
from tumorjax.observation import (
    AbstractObservation,
    FluidMap,
    FluidMapParams,
    Outline,
    OutlineParams,
    Pet,
    PetParams,
)
from tumorjax.prior import LogNormal, Normal, Prior, Uniform


class Parameters(eqx.Module):
    """Everything unknown: the growth, and of each observation its own.

    Parameters
    ----------
    growth
        Of the growth model; usually `ScaledGrowthParams`.
    observations
        One for each observation of the problem, in their order.
    """

    growth: Any
    observations: tuple[Any, ...]


class Fields(NamedTuple):
    """What images can show of a simulated patient.

    Parameters
    ----------
    density
        c, (x, y, z).
    csf
        Share of each voxel that is fluid, (x, y, z), where the tumour has displaced it; None where tissue stays.
    """

    density: Array
    csf: Array | None


class Problem(eqx.Module):
    """All that every method of calibration needs.

    Parameters
    ----------
    model
        What grows.
    anatomy
        Where. Cropped to its tissue it saves time: see `Anatomy.crop`.
    observations
        What was seen, on the anatomy's grid.
    prior
        Over `Parameters`.
    stepper
        The scheme in time; by default the one that `simulate` has for the model.

    Raises
    ------
    ValueError
        If there is no observation, or one has another shape than the anatomy, or one shows what the model lacks.
    """

    model: FisherKolmogorov | MassEffect
    anatomy: Anatomy
    observations: tuple[AbstractObservation, ...]
    prior: Prior
    stepper: AbstractStepper | None = None

    def __check_init__(self) -> None:
        if not self.observations:
            raise ValueError("a problem needs at least one observation")
        for observation in self.observations:
            if observation.shows == "csf" and not isinstance(self.model, MassEffect):
                raise ValueError(
                    "only growth with mass effect displaces fluid; leave out the map of it, or use MassEffect"
                )
            shape = jnp.shape(observation.valid)
            if shape != self.anatomy.grid.shape:
                raise ValueError(
                    f"an observation has shape {shape} on an anatomy of shape {self.anatomy.grid.shape}; resample it"
                )

    def predict(self, params: Parameters, adjoint: AbstractAdjoint | None = None) -> Fields:
        """Simulate what the images show for these parameters; NaN where the tissue moved too fast for the scheme."""
        adjoint = CheckpointedAdjoint() if adjoint is None else adjoint
        solution = simulate(self.model, params.growth, self.anatomy, stepper=self.stepper, adjoint=adjoint, throw=False)
        if solution.anatomy is None:
            return Fields(solution.density, None)
        # Otherwise a flow that could not be followed would pass for tissue that stays.
        failed = (solution.result == Result.FLOW_TOO_FAST) | (solution.result == Result.ELASTICITY_NOT_SOLVED)
        return Fields(jnp.where(failed, jnp.nan, solution.density), solution.anatomy.csf)

    def density(self, params: Parameters, adjoint: AbstractAdjoint | None = None) -> Float[Array, "x y z"]:
        """Simulate the density for these parameters."""
        return self.predict(params, adjoint).density

    def log_likelihood(self, fields: Fields, params: Parameters) -> Float[Array, ""]:
        """Return the log-likelihood of all observations, nat."""
        return sum(
            (
                o.log_prob(getattr(fields, o.shows), p)
                for o, p in zip(self.observations, params.observations, strict=True)
            ),
            jnp.zeros((), fields.density.dtype),
        )

    def log_posterior(self, z: Float[Array, "n"]) -> Float[Array, ""]:
        """Return the log-density of the posterior in the prior's coordinates, up to a constant."""
        params = self.prior.constrain(z)
        return self.log_likelihood(self.predict(params), params) - 0.5 * jnp.sum(z**2)

    def coarsen(self, factor: int) -> "Problem":
        """Return the same problem on voxels `factor` times as long; elasticity stays on its own where it can."""
        model = self.model
        if isinstance(model, MassEffect):
            model = dataclasses.replace(model, coarsening=max(1, model.coarsening // factor))
        observations = tuple(o.coarsen(factor) for o in self.observations)
        return dataclasses.replace(self, model=model, anatomy=self.anatomy.coarsen(factor), observations=observations)


def default_prior(
    anatomy: Anatomy,
    observations: tuple[AbstractObservation, ...],
    *,
    speed: float = PUBLISHED_SPEED,
    candidates: GaussianBasis | None = None,
) -> Prior:
    """Return the prior for one patient, whose first observations are the core and the whole lesion.

    mu1 and mu2 are log-normal about the middle of the published boxes of D_w, rho and T. The origin is normal
    about the centre of the core, with half the lesion's equivalent radius as standard deviation. Thresholds are
    uniform in the published intervals, 0.5 to 0.85 for the first outline (T1Gd) and 0.05 to 0.5 for the
    second (FLAIR); their sharpness is log-normal about 3. PET scale and noise are log-normal about the signal's
    upper range and a quarter of it.

    Parameters
    ----------
    anatomy
        Whose grid places the outlines.
    observations
        The core's `Outline`, the whole lesion's, and perhaps a `Pet`.
    speed
        v, mm/day: fixed, since one scan says nothing of it.
    candidates
        For growth with mass effect: the Gaussians of which the state at time zero may be made, instead of an origin.
        gamma is uniform up to 2e5 Pa, which holds the published values.
    """
    outlines = [o for o in observations if isinstance(o, Outline)]
    if len(outlines) != 2:
        raise ValueError(
            f"the default prior is for two outlines (core, then whole lesion), got {len(outlines)}; "
            "write a Prior for other observations"
        )
    dtype = anatomy.dtype
    centre, radius = centre_and_radius(anatomy, outlines[0])[0], centre_and_radius(anatomy, outlines[1])[1]
    growth = ScaledGrowthParams(
        mu1=LogNormal(7.0, 0.7),
        mu2=LogNormal(3.5, 0.35),
        origin=Normal(centre.astype(dtype), np.full(3, radius / 2, dtype)),
        speed=speed,
    )
    if candidates is not None:
        growth = MassEffectParams(dataclasses.replace(growth, origin=candidates), Uniform(0.0, 2e5))
    thresholds = iter((Uniform(0.5, 0.85), Uniform(0.05, 0.5)))
    unknown = []
    for observation in observations:
        if isinstance(observation, Outline):
            unknown.append(OutlineParams(next(thresholds), LogNormal(3.0, 0.7)))
        elif isinstance(observation, Pet):
            signal = np.asarray(observation.signal)[np.asarray(observation.valid)]
            top = float(np.percentile(signal, 95))
            if not top > 0:
                raise ValueError(f"the PET signal must be positive in the tumour, its 95th percentile is {top:g}")
            unknown.append(PetParams(LogNormal(top, 0.5), LogNormal(top / 4, 0.7)))
        elif isinstance(observation, FluidMap):
            unknown.append(FluidMapParams(LogNormal(0.2, 0.5)))
    return Prior(Parameters(growth, tuple(unknown)))


def centre_and_radius(anatomy: Anatomy, outline: Outline) -> tuple[np.ndarray, float]:
    """Return an outline's centre in the world, mm, and the radius of the ball of its volume, mm."""
    inside = np.asarray(outline.inside, float)
    volume = inside.sum() * float(anatomy.grid.voxel_volume)
    weights = [inside.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    index = np.array([np.average(np.arange(len(w)), weights=w) for w in weights])
    return np.asarray(anatomy.grid.to_world(index)), float((3 * volume / (4 * np.pi)) ** (1 / 3))
