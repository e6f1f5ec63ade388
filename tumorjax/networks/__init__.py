"""Neural networks, their training, and files of their weights."""

from importlib.util import find_spec as _find_spec

if _find_spec("flax") is None:
    # The command prints a ValueError as one line.
    raise ValueError("networks need flax, which is not installed; pip install 'tumorjax[networks]'")

from tumorjax.networks.autoencoder import KINDS as KINDS
from tumorjax.networks.autoencoder import SIZES as SIZES
from tumorjax.networks.autoencoder import Architecture as Architecture
from tumorjax.networks.autoencoder import Autoencoder as Autoencoder
from tumorjax.networks.autoencoder import encode as encode
from tumorjax.networks.autoencoder import load_autoencoder as load_autoencoder
from tumorjax.networks.autoencoder import save_autoencoder as save_autoencoder
from tumorjax.networks.autoencoder_training import autoencoder_loss as autoencoder_loss
from tumorjax.networks.autoencoder_training import train_autoencoder as train_autoencoder
from tumorjax.networks.batches import shuffled as shuffled
from tumorjax.networks.checkpoints import DamagedCheckpoint as DamagedCheckpoint
from tumorjax.networks.guards import OutsideTraining as OutsideTraining
from tumorjax.networks.guards import TrainingBox as TrainingBox
from tumorjax.networks.inverse import SHIPPED_INVERSE as SHIPPED_INVERSE
from tumorjax.networks.inverse import SHIPPED_MASS_EFFECT as SHIPPED_MASS_EFFECT
from tumorjax.networks.inverse import SHIPPED_POSTERIOR as SHIPPED_POSTERIOR
from tumorjax.networks.inverse import Distribution as Distribution
from tumorjax.networks.inverse import InverseNetwork as InverseNetwork
from tumorjax.networks.inverse import infer as infer
from tumorjax.networks.inverse import infer_distribution as infer_distribution
from tumorjax.networks.inverse import load_inverse as load_inverse
from tumorjax.networks.inverse import save_inverse as save_inverse
from tumorjax.networks.inverse_training import inverse_architecture as inverse_architecture
from tumorjax.networks.inverse_training import inverse_batch as inverse_batch
from tumorjax.networks.inverse_training import train_inverse as train_inverse
from tumorjax.networks.inverse_windows import InverseArchitecture as InverseArchitecture
from tumorjax.networks.mixture_density import MixtureArchitecture as MixtureArchitecture
from tumorjax.networks.mixture_density import MixtureDensity as MixtureDensity
from tumorjax.networks.mixture_density import load_mixture as load_mixture
from tumorjax.networks.mixture_density import save_mixture as save_mixture
from tumorjax.networks.mixture_training import MixtureTraining as MixtureTraining
from tumorjax.networks.mixture_training import train_mixture as train_mixture
from tumorjax.networks.outlines import PackedOutlines as PackedOutlines
from tumorjax.networks.pieces import ShortOfMemory as ShortOfMemory
from tumorjax.networks.surrogate import SHIPPED_SURROGATE as SHIPPED_SURROGATE
from tumorjax.networks.surrogate import Surrogate as Surrogate
from tumorjax.networks.surrogate import SurrogateArchitecture as SurrogateArchitecture
from tumorjax.networks.surrogate import load_surrogate as load_surrogate
from tumorjax.networks.surrogate import save_surrogate as save_surrogate
from tumorjax.networks.surrogate_training import surrogate_architecture as surrogate_architecture
from tumorjax.networks.surrogate_training import surrogate_batch as surrogate_batch
from tumorjax.networks.surrogate_training import surrogate_loss as surrogate_loss
from tumorjax.networks.surrogate_training import train_surrogate as train_surrogate
from tumorjax.networks.training import Training as Training
from tumorjax.networks.training import TrainingProgress as TrainingProgress
from tumorjax.networks.training import TrainingResult as TrainingResult
from tumorjax.networks.training import train as train
from tumorjax.networks.tumours import Tumours as Tumours
from tumorjax.networks.tumours import Turn as Turn
from tumorjax.networks.weights import load_weights as load_weights
from tumorjax.networks.weights import save_weights as save_weights
