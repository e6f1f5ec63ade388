"""tumorjax: differentiable brain-tumour growth, calibrated to a patient's images. Not for clinical use."""

from typing import TYPE_CHECKING, Any

# Where: the anatomy.
from tumorjax.anatomy import Anatomy as Anatomy
from tumorjax.grid import Grid as Grid

# isort: split
# What grows: the model and its parameters.
from tumorjax.growth import AbstractReaction as AbstractReaction
from tumorjax.growth import ExponentialGrowth as ExponentialGrowth
from tumorjax.growth import FisherKolmogorov as FisherKolmogorov
from tumorjax.growth import Foci as Foci
from tumorjax.growth import GaussianBasis as GaussianBasis
from tumorjax.growth import GompertzGrowth as GompertzGrowth
from tumorjax.growth import GrowthParams as GrowthParams
from tumorjax.growth import InitialDensity as InitialDensity
from tumorjax.growth import LearnedGrowth as LearnedGrowth
from tumorjax.growth import LogisticGrowth as LogisticGrowth
from tumorjax.growth import LogisticReaction as LogisticReaction
from tumorjax.growth import MassEffect as MassEffect
from tumorjax.growth import MassEffectParams as MassEffectParams
from tumorjax.growth import Mechanics as Mechanics
from tumorjax.growth import ScaledGrowthParams as ScaledGrowthParams
from tumorjax.growth import VolumeParams as VolumeParams

# isort: split
# What is done about it: treatments.
from tumorjax.growth import Chemotherapy as Chemotherapy
from tumorjax.growth import Radiotherapy as Radiotherapy
from tumorjax.growth import Surgery as Surgery

# isort: split
# Growing it: `simulate`, its schemes and its modes of differentiation.
from tumorjax.integrate import CheckpointedAdjoint as CheckpointedAdjoint
from tumorjax.integrate import FlowSplitting as FlowSplitting
from tumorjax.integrate import ForwardMode as ForwardMode
from tumorjax.integrate import Result as Result
from tumorjax.integrate import Solution as Solution
from tumorjax.integrate import SplitEuler as SplitEuler
from tumorjax.integrate import StrangRKL2 as StrangRKL2
from tumorjax.integrate import VolumeSolution as VolumeSolution
from tumorjax.integrate import simulate as simulate
from tumorjax.integrate import simulate_many as simulate_many

# isort: split
# What is seen: observations.
from tumorjax.observation import AbstractGaussian as AbstractGaussian
from tumorjax.observation import AbstractObservation as AbstractObservation
from tumorjax.observation import DoubleSigmoid as DoubleSigmoid
from tumorjax.observation import FluidMap as FluidMap
from tumorjax.observation import FluidMapParams as FluidMapParams
from tumorjax.observation import OddsLink as OddsLink
from tumorjax.observation import Outline as Outline
from tumorjax.observation import OutlineParams as OutlineParams
from tumorjax.observation import Pet as Pet
from tumorjax.observation import PetParams as PetParams
from tumorjax.observation import independent_voxels as independent_voxels

# isort: split
# What is known beforehand: priors.
from tumorjax.prior import LogNormal as LogNormal
from tumorjax.prior import Normal as Normal
from tumorjax.prior import Prior as Prior
from tumorjax.prior import Reciprocal as Reciprocal
from tumorjax.prior import SameAs as SameAs
from tumorjax.prior import Uniform as Uniform
from tumorjax.prior import UniformSteps as UniformSteps

if TYPE_CHECKING:
    # Fitting it: `calibrate`. Loaded on first use, because optax and scipy.ndimage take time to import.
    from tumorjax.calibration import LBFGS as LBFGS
    from tumorjax.calibration import NUTS as NUTS
    from tumorjax.calibration import TMCMC as TMCMC
    from tumorjax.calibration import AtlasMixture as AtlasMixture
    from tumorjax.calibration import Calibration as Calibration
    from tumorjax.calibration import CalibrationResult as CalibrationResult
    from tumorjax.calibration import DoubtfulEstimate as DoubtfulEstimate
    from tumorjax.calibration import Importance as Importance
    from tumorjax.calibration import LearnMorphInfer as LearnMorphInfer
    from tumorjax.calibration import Metropolis as Metropolis
    from tumorjax.calibration import MultiAtlas as MultiAtlas
    from tumorjax.calibration import NeuralPosterior as NeuralPosterior
    from tumorjax.calibration import Parameters as Parameters
    from tumorjax.calibration import Posterior as Posterior
    from tumorjax.calibration import Problem as Problem
    from tumorjax.calibration import Rejection as Rejection
    from tumorjax.calibration import Retrieval as Retrieval
    from tumorjax.calibration import Stratified as Stratified
    from tumorjax.calibration import calibrate as calibrate
    from tumorjax.calibration import default_prior as default_prior
    from tumorjax.calibration import healthy_uptake as healthy_uptake
    from tumorjax.calibration import index_of as index_of
    from tumorjax.calibration import posterior_maps as posterior_maps
    from tumorjax.calibration import published_observations as published_observations
    from tumorjax.calibration import published_prior as published_prior
    from tumorjax.calibration import to_inference_data as to_inference_data

    # Simulated cohorts to look a patient up in. Loaded on first use, too.
    from tumorjax.ensemble import Database as Database
    from tumorjax.ensemble import build_database as build_database
    from tumorjax.ensemble import published_box as published_box

_CALIBRATION = (
    "AtlasMixture",
    "Calibration",
    "CalibrationResult",
    "DoubtfulEstimate",
    "Importance",
    "LBFGS",
    "LearnMorphInfer",
    "Metropolis",
    "MultiAtlas",
    "NUTS",
    "NeuralPosterior",
    "Parameters",
    "Posterior",
    "Problem",
    "Rejection",
    "Retrieval",
    "Stratified",
    "TMCMC",
    "calibrate",
    "default_prior",
    "healthy_uptake",
    "index_of",
    "posterior_maps",
    "published_observations",
    "published_prior",
    "to_inference_data",
)
_ENSEMBLE = ("Database", "build_database", "published_box")


def __getattr__(name: str) -> Any:
    if name not in _CALIBRATION + _ENSEMBLE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _ENSEMBLE:
        import tumorjax.ensemble as room
    else:
        import tumorjax.calibration as room

    value = getattr(room, name)
    # Found here from now on, without this function.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_CALIBRATION, *_ENSEMBLE})
