"""Neural posterior estimation: a network learns parameters from simulated images and is applied to the patient's."""

from tumorjax.methods.neural.amortized import AmortizedPosterior as AmortizedPosterior
from tumorjax.methods.neural.method import NeuralPosterior as NeuralPosterior
