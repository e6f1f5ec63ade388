"""Draws from the posterior: what every sampler sees, the samplers, and what their draws say."""

from tumorjax.calibration.sampling.inference_data import to_inference_data as to_inference_data
from tumorjax.calibration.sampling.maps import posterior_maps as posterior_maps
from tumorjax.calibration.sampling.metropolis import Metropolis as Metropolis
from tumorjax.calibration.sampling.nuts import NUTS as NUTS
from tumorjax.calibration.sampling.posterior import Posterior as Posterior
from tumorjax.calibration.sampling.rejection import Rejection as Rejection
from tumorjax.calibration.sampling.tmcmc import TMCMC as TMCMC
from tumorjax.calibration.sampling.weighted import Importance as Importance
from tumorjax.calibration.sampling.weighted import Stratified as Stratified
