"""From a patient's images to results: calibration, maps and plan; the same for many patients."""

from tumorjax.pipeline.personalize import personalize as personalize
from tumorjax.pipeline.treatments import load_treatments as load_treatments
