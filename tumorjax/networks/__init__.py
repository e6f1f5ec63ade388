"""Neural networks, how they are trained, and their weights in files."""

from importlib.util import find_spec as _find_spec

if _missing := [name for name in ("flax", "safetensors") if _find_spec(name) is None]:
    # A ValueError, which the command tells in one line.
    raise ValueError(f"networks need {' and '.join(_missing)}, not installed here; pip install 'tumorjax[networks]'")

from tumorjax.networks.autoencoder import KINDS as KINDS
from tumorjax.networks.autoencoder import SIZES as SIZES
from tumorjax.networks.autoencoder import Architecture as Architecture
from tumorjax.networks.autoencoder import Autoencoder as Autoencoder
from tumorjax.networks.autoencoder import encode as encode
from tumorjax.networks.autoencoder import load_autoencoder as load_autoencoder
from tumorjax.networks.autoencoder import save_autoencoder as save_autoencoder
from tumorjax.networks.fitting import autoencoder_loss as autoencoder_loss
from tumorjax.networks.fitting import train_autoencoder as train_autoencoder
from tumorjax.networks.outlines import PackedOutlines as PackedOutlines
from tumorjax.networks.training import Training as Training
from tumorjax.networks.training import TrainingProgress as TrainingProgress
from tumorjax.networks.training import TrainingResult as TrainingResult
from tumorjax.networks.training import shuffled as shuffled
from tumorjax.networks.training import train as train
from tumorjax.networks.weights import load_weights as load_weights
from tumorjax.networks.weights import save_weights as save_weights
