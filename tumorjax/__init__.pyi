# The public names, by stage: `__init__.py` reads them from here, and loads each room on first use.

# Where: the anatomy.
from .anatomy import Anatomy as Anatomy
from .grid import Grid as Grid

# isort: split
# What grows: the model and its parameters.
from .growth import AbstractGrowth as AbstractGrowth
from .growth import AbstractReaction as AbstractReaction
from .growth import ExponentialGrowth as ExponentialGrowth
from .growth import FisherKolmogorov as FisherKolmogorov
from .growth import Foci as Foci
from .growth import GaussianBasis as GaussianBasis
from .growth import GompertzGrowth as GompertzGrowth
from .growth import GrowthParams as GrowthParams
from .growth import InitialDensity as InitialDensity
from .growth import LearnedGrowth as LearnedGrowth
from .growth import LogisticGrowth as LogisticGrowth
from .growth import LogisticReaction as LogisticReaction
from .growth import MassEffect as MassEffect
from .growth import MassEffectParams as MassEffectParams
from .growth import Mechanics as Mechanics
from .growth import ScaledGrowthParams as ScaledGrowthParams
from .growth import VolumeParams as VolumeParams

# isort: split
# What is done about it: treatments.
from .growth import Chemotherapy as Chemotherapy
from .growth import Radiotherapy as Radiotherapy
from .growth import Surgery as Surgery

# isort: split
# Growing it: `simulate`, its schemes and its modes of differentiation.
from .integrate import AbstractAdjoint as AbstractAdjoint
from .integrate import AbstractStepper as AbstractStepper
from .integrate import Calendar as Calendar
from .integrate import CheckpointedAdjoint as CheckpointedAdjoint
from .integrate import FlowSplitting as FlowSplitting
from .integrate import ForwardMode as ForwardMode
from .integrate import Result as Result
from .integrate import Solution as Solution
from .integrate import SplitEuler as SplitEuler
from .integrate import StrangRKL2 as StrangRKL2
from .integrate import VolumeSolution as VolumeSolution
from .integrate import simulate as simulate
from .integrate import simulate_many as simulate_many

# isort: split
# What images show: observations.
from .cellularity import InverseAdcLaw as InverseAdcLaw
from .cellularity import LinearAdcLaw as LinearAdcLaw
from .observation import AbstractGaussian as AbstractGaussian
from .observation import AbstractObservation as AbstractObservation
from .observation import DensityMap as DensityMap
from .observation import DensityMapParams as DensityMapParams
from .observation import Displacements as Displacements
from .observation import DoubleSigmoid as DoubleSigmoid
from .observation import FluidMap as FluidMap
from .observation import FluidMapParams as FluidMapParams
from .observation import OddsLink as OddsLink
from .observation import Outline as Outline
from .observation import OutlineParams as OutlineParams
from .observation import Pet as Pet
from .observation import PetParams as PetParams
from .observation import SurfaceErrors as SurfaceErrors
from .observation import TumourVolume as TumourVolume
from .observation import TumourVolumeParams as TumourVolumeParams
from .observation import errors_of_model as errors_of_model
from .observation import errors_of_readers as errors_of_readers
from .observation import healthy_uptake as healthy_uptake
from .observation import independent_voxels as independent_voxels

# isort: split
# What is known beforehand: priors.
from .prior import LogNormal as LogNormal
from .prior import Normal as Normal
from .prior import Prior as Prior
from .prior import Reciprocal as Reciprocal
from .prior import SameAs as SameAs
from .prior import Uniform as Uniform
from .prior import UniformSteps as UniformSteps

# isort: split
# Calibrating it: `calibrate`, the problem, and what comes out.
from .calibration import AbstractMethod as AbstractMethod
from .calibration import Calibration as Calibration
from .calibration import CalibrationResult as CalibrationResult
from .calibration import Cost as Cost
from .calibration import Estimate as Estimate
from .calibration import Forecast as Forecast
from .calibration import Maps as Maps
from .calibration import Parameters as Parameters
from .calibration import Problem as Problem
from .calibration import Retraced as Retraced
from .calibration import Visit as Visit
from .calibration import calibrate as calibrate
from .calibration import compare_evidence as compare_evidence
from .calibration import default_prior as default_prior
from .calibration import forecast as forecast
from .calibration import load_calibration as load_calibration
from .calibration import published_observations as published_observations
from .calibration import published_prior as published_prior
from .calibration import retrace as retrace

# isort: split
# How: the methods.
from .methods import LBFGS as LBFGS
from .methods import NUTS as NUTS
from .methods import TMCMC as TMCMC
from .methods import AmortizedPosterior as AmortizedPosterior
from .methods import AtlasMixture as AtlasMixture
from .methods import DoubtfulEstimate as DoubtfulEstimate
from .methods import Importance as Importance
from .methods import LearnMorphInfer as LearnMorphInfer
from .methods import Metropolis as Metropolis
from .methods import MultiAtlas as MultiAtlas
from .methods import NeuralPosterior as NeuralPosterior
from .methods import Posterior as Posterior
from .methods import Rejection as Rejection
from .methods import Retrieval as Retrieval
from .methods import Stratified as Stratified
from .methods import WeakConstraint as WeakConstraint
from .methods import index_of as index_of
from .methods import posterior_maps as posterior_maps
from .methods import to_inference_data as to_inference_data
from .option import Option as Option

# isort: split
# What follows from a posterior: a dose map, the day of the next scan.
from .decisions import DosePlan as DosePlan
from .decisions import ScanGains as ScanGains
from .decisions import plan_dose as plan_dose
from .decisions import scan_gains as scan_gains

# isort: split
# From a patient's images to results: `load_patient`, `personalize`.
from .patient import Patient as Patient
from .patient import Prescription as Prescription
from .patient import load_patient as load_patient
from .patient import load_visits as load_visits
from .pipeline import load_treatments as load_treatments
from .pipeline import personalize as personalize
from .results import Personalization as Personalization

# isort: split
# Simulated cohorts to look a patient up in.
from .ensemble import Database as Database
from .ensemble import build_database as build_database
from .ensemble import published_box as published_box
