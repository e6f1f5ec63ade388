# The public names; `__init__.py` reads them from here, and loads each family on first use.
from .from_atlas import DoubtfulEstimate as DoubtfulEstimate
from .from_atlas import LearnMorphInfer as LearnMorphInfer
from .from_atlas import Retrieval as Retrieval
from .from_atlas import index_of as index_of
from .multi_atlas import AtlasMixture as AtlasMixture
from .multi_atlas import MultiAtlas as MultiAtlas
from .neural import NeuralPosterior as NeuralPosterior
from .sampling import NUTS as NUTS
from .sampling import TMCMC as TMCMC
from .sampling import Importance as Importance
from .sampling import Metropolis as Metropolis
from .sampling import Posterior as Posterior
from .sampling import Rejection as Rejection
from .sampling import Stratified as Stratified
from .sampling import posterior_maps as posterior_maps
from .sampling import to_inference_data as to_inference_data
from .search import LBFGS as LBFGS
