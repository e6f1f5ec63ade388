"""What grows: the models, their parameters and the terms that an integrator advances."""

from tumorjax.growth.fisher_kolmogorov import FisherKolmogorov as FisherKolmogorov
from tumorjax.growth.gaussian_basis import GaussianBasis as GaussianBasis
from tumorjax.growth.learned import LearnedGrowth as LearnedGrowth
from tumorjax.growth.mass_effect import DisplacedTissue as DisplacedTissue
from tumorjax.growth.mass_effect import MassEffect as MassEffect
from tumorjax.growth.mass_effect import MassEffectParams as MassEffectParams
from tumorjax.growth.mass_effect import Mechanics as Mechanics
from tumorjax.growth.mass_effect import ReactionAdvectionDiffusion as ReactionAdvectionDiffusion
from tumorjax.growth.origins import AbstractOrigin as AbstractOrigin
from tumorjax.growth.origins import InitialDensity as InitialDensity
from tumorjax.growth.origins import Seeds as Seeds
from tumorjax.growth.origins import crop_origin as crop_origin
from tumorjax.growth.outcome import Outcome as Outcome
from tumorjax.growth.parameters import GrowthParams as GrowthParams
from tumorjax.growth.parameters import ScaledGrowthParams as ScaledGrowthParams
from tumorjax.growth.terms import ReactionDiffusion as ReactionDiffusion
from tumorjax.growth.treatment import Chemotherapy as Chemotherapy
from tumorjax.growth.treatment import Radiotherapy as Radiotherapy
from tumorjax.growth.treatment import Surgery as Surgery
from tumorjax.growth.treatment import Treatment as Treatment
from tumorjax.growth.volume import AbstractVolumeLaw as AbstractVolumeLaw
from tumorjax.growth.volume import ExponentialGrowth as ExponentialGrowth
from tumorjax.growth.volume import GompertzGrowth as GompertzGrowth
from tumorjax.growth.volume import LogisticGrowth as LogisticGrowth
from tumorjax.growth.volume import VolumeParams as VolumeParams
