"""Neural posterior estimation: simulate, learn parameters from what simulations show, ask for the patient's."""

from tumorjax.calibration.neural.method import NeuralPosterior as NeuralPosterior
