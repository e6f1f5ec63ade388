"""Draws from the posterior: the target that every sampler sees, the samplers, and the results of their draws."""

from tumorjax.methods.sampling.inference_data import to_inference_data as to_inference_data
from tumorjax.methods.sampling.maps import posterior_maps as posterior_maps
from tumorjax.methods.sampling.metropolis import Metropolis as Metropolis
from tumorjax.methods.sampling.nuts import NUTS as NUTS
from tumorjax.methods.sampling.posterior import Posterior as Posterior
from tumorjax.methods.sampling.rejection import Rejection as Rejection
from tumorjax.methods.sampling.tmcmc import TMCMC as TMCMC
from tumorjax.methods.sampling.weighted import Importance as Importance
from tumorjax.methods.sampling.weighted import Stratified as Stratified
