"""From a tumour's cell density to the likelihood of an image."""

from tumorjax.observation.correlation import independent_voxels as independent_voxels
from tumorjax.observation.density import DensityMap as DensityMap
from tumorjax.observation.density import DensityMapParams as DensityMapParams
from tumorjax.observation.displacements import Displacements as Displacements
from tumorjax.observation.displacements import errors_of_model as errors_of_model
from tumorjax.observation.displacements import errors_of_readers as errors_of_readers
from tumorjax.observation.fluid import FluidMap as FluidMap
from tumorjax.observation.fluid import FluidMapParams as FluidMapParams
from tumorjax.observation.gaussian import AbstractGaussian as AbstractGaussian
from tumorjax.observation.link import DoubleSigmoid as DoubleSigmoid
from tumorjax.observation.link import OddsLink as OddsLink
from tumorjax.observation.observation import AbstractObservation as AbstractObservation
from tumorjax.observation.outline import Outline as Outline
from tumorjax.observation.outline import OutlineParams as OutlineParams
from tumorjax.observation.pet import Pet as Pet
from tumorjax.observation.pet import PetParams as PetParams
from tumorjax.observation.shift import ShiftMap as ShiftMap
from tumorjax.observation.shift import ShiftParams as ShiftParams
from tumorjax.observation.surface_errors import READERS as READERS
from tumorjax.observation.surface_errors import SurfaceErrors as SurfaceErrors
from tumorjax.observation.uptake import healthy_uptake as healthy_uptake
from tumorjax.observation.uptake import upper_uptake as upper_uptake
from tumorjax.observation.volume import TumourVolume as TumourVolume
from tumorjax.observation.volume import TumourVolumeParams as TumourVolumeParams
