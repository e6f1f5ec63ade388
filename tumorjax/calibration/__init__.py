"""From images to parameters: the verb `calibrate` and its methods."""

from tumorjax.calibration.calibrate import calibrate as calibrate
from tumorjax.calibration.calibration import Calibration as Calibration
from tumorjax.calibration.calibration import CalibrationResult as CalibrationResult
from tumorjax.calibration.lbfgs import LBFGS as LBFGS
from tumorjax.calibration.multi_atlas import MultiAtlas as MultiAtlas
from tumorjax.calibration.problem import Parameters as Parameters
from tumorjax.calibration.problem import Problem as Problem
from tumorjax.calibration.problem import default_prior as default_prior
