"""tumorjax: differentiable brain-tumour growth, calibrated to a patient's images. Not for clinical use."""

from tumorjax.anatomy import Anatomy as Anatomy
from tumorjax.growth import FisherKolmogorov as FisherKolmogorov
from tumorjax.growth import GrowthParams as GrowthParams
from tumorjax.growth import ScaledGrowthParams as ScaledGrowthParams
from tumorjax.grid import Grid as Grid
from tumorjax.integrate import CheckpointedAdjoint as CheckpointedAdjoint
from tumorjax.integrate import ForwardMode as ForwardMode
from tumorjax.integrate import simulate as simulate
from tumorjax.integrate import Solution as Solution
from tumorjax.integrate import SplitEuler as SplitEuler
from tumorjax.integrate import StrangRKL2 as StrangRKL2
