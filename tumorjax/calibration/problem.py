"""What is to be calibrated: model, anatomy, observations, prior."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tumorjax.anatomy import Anatomy
from tumorjax.growth import FisherKolmogorov, ScaledGrowthParams
from tumorjax.growth.parameters import PUBLISHED_SPEED
from tumorjax.integrate import AbstractAdjoint, AbstractStepper, CheckpointedAdjoint, StrangRKL2, simulate
from tumorjax.observation import AbstractObservation, Outline, OutlineParams, Pet, PetParams
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
        The scheme in time.

    Raises
    ------
    ValueError
        If there is no observation, or one has another shape than the anatomy.
    """

    model: FisherKolmogorov
    anatomy: Anatomy
    observations: tuple[AbstractObservation, ...]
    prior: Prior
    stepper: AbstractStepper = StrangRKL2()

    def __check_init__(self) -> None:
        if not self.observations:
            raise ValueError("a problem needs at least one observation")
        for observation in self.observations:
            shape = jnp.shape(observation.valid)
            if shape != self.anatomy.grid.shape:
                raise ValueError(
                    f"an observation has shape {shape} on an anatomy of shape {self.anatomy.grid.shape}; resample it"
                )

    def density(self, params: Parameters, adjoint: AbstractAdjoint | None = None) -> Float[Array, "x y z"]:
        """Simulate the density for these parameters."""
        adjoint = CheckpointedAdjoint() if adjoint is None else adjoint
        return simulate(
            self.model, params.growth, self.anatomy, stepper=self.stepper, adjoint=adjoint, throw=False
        ).density

    def log_likelihood(self, density: Float[Array, "x y z"], params: Parameters) -> Float[Array, ""]:
        """Return the log-likelihood of all observations of a density, nat."""
        return sum(
            (o.log_prob(density, p) for o, p in zip(self.observations, params.observations, strict=True)),
            jnp.zeros((), density.dtype),
        )

    def log_posterior(self, z: Float[Array, "n"]) -> Float[Array, ""]:
        """Return the log-density of the posterior in the prior's coordinates, up to a constant."""
        params = self.prior.constrain(z)
        return self.log_likelihood(self.density(params), params) - 0.5 * jnp.sum(z**2)

    def coarsen(self, factor: int) -> "Problem":
        """Return the same problem on voxels `factor` times as long."""
        return eqx.tree_at(
            lambda p: (p.anatomy, p.observations),
            self,
            (self.anatomy.coarsen(factor), tuple(o.coarsen(factor) for o in self.observations)),
        )


def default_prior(
    anatomy: Anatomy, observations: tuple[AbstractObservation, ...], *, speed: float = PUBLISHED_SPEED
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
    return Prior(Parameters(growth, tuple(unknown)))


def centre_and_radius(anatomy: Anatomy, outline: Outline) -> tuple[np.ndarray, float]:
    """Return an outline's centre in the world, mm, and the radius of the ball of its volume, mm."""
    inside = np.asarray(outline.inside, float)
    volume = inside.sum() * float(anatomy.grid.voxel_volume)
    weights = [inside.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    index = np.array([np.average(np.arange(len(w)), weights=w) for w in weights])
    return np.asarray(anatomy.grid.to_world(index)), float((3 * volume / (4 * np.pi)) ** (1 / 3))
