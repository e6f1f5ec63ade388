"""From images to parameters: the problem, the verb `calibrate`, and what a calibration returns."""

from tumorjax.calibration.calibration import Calibration as Calibration
from tumorjax.calibration.cost import Cost as Cost
from tumorjax.calibration.estimates import Estimate as Estimate
from tumorjax.calibration.forecast import Forecast as Forecast
from tumorjax.calibration.forecast import forecast as forecast
from tumorjax.calibration.maps import Maps as Maps
from tumorjax.calibration.method import AbstractMethod as AbstractMethod
from tumorjax.calibration.method import calibrate as calibrate
from tumorjax.calibration.model_evidence import compare_evidence as compare_evidence
from tumorjax.calibration.priors import UNKNOWN_SPEED as UNKNOWN_SPEED
from tumorjax.calibration.priors import default_prior as default_prior
from tumorjax.calibration.priors import published_observations as published_observations
from tumorjax.calibration.priors import published_prior as published_prior
from tumorjax.calibration.problem import Parameters as Parameters
from tumorjax.calibration.problem import Problem as Problem
from tumorjax.calibration.result import CalibrationResult as CalibrationResult
from tumorjax.calibration.retraced import Retraced as Retraced
from tumorjax.calibration.retraced import retrace as retrace
from tumorjax.calibration.saving import load_calibration as load_calibration
from tumorjax.calibration.visit import Visit as Visit
