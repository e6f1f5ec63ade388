"""From images to parameters: the verb `calibrate` and its methods."""

from tumorjax.calibration.atlas_mixture import AtlasMixture as AtlasMixture
from tumorjax.calibration.calibrate import calibrate as calibrate
from tumorjax.calibration.calibration import Calibration as Calibration
from tumorjax.calibration.calibration import CalibrationResult as CalibrationResult
from tumorjax.calibration.index import index_of as index_of
from tumorjax.calibration.lbfgs import LBFGS as LBFGS
from tumorjax.calibration.learn_morph_infer import DoubtfulEstimate as DoubtfulEstimate
from tumorjax.calibration.learn_morph_infer import LearnMorphInfer as LearnMorphInfer
from tumorjax.calibration.multi_atlas import MultiAtlas as MultiAtlas
from tumorjax.calibration.neural import NeuralPosterior as NeuralPosterior
from tumorjax.calibration.priors import default_prior as default_prior
from tumorjax.calibration.priors import published_observations as published_observations
from tumorjax.calibration.priors import published_prior as published_prior
from tumorjax.calibration.problem import Parameters as Parameters
from tumorjax.calibration.problem import Problem as Problem
from tumorjax.calibration.retrieval import Retrieval as Retrieval
from tumorjax.calibration.sampling import NUTS as NUTS
from tumorjax.calibration.sampling import TMCMC as TMCMC
from tumorjax.calibration.sampling import Importance as Importance
from tumorjax.calibration.sampling import Metropolis as Metropolis
from tumorjax.calibration.sampling import Posterior as Posterior
from tumorjax.calibration.sampling import Rejection as Rejection
from tumorjax.calibration.sampling import Stratified as Stratified
from tumorjax.calibration.sampling import posterior_maps as posterior_maps
from tumorjax.calibration.sampling import to_inference_data as to_inference_data
from tumorjax.calibration.uptake import healthy_uptake as healthy_uptake
