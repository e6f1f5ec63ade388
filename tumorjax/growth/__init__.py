"""What grows: the models, their parameters and the terms that an integrator advances."""

from tumorjax.growth.fisher_kolmogorov import FisherKolmogorov as FisherKolmogorov
from tumorjax.growth.parameters import GrowthParams as GrowthParams
from tumorjax.growth.parameters import ScaledGrowthParams as ScaledGrowthParams
from tumorjax.growth.terms import ReactionDiffusion as ReactionDiffusion
