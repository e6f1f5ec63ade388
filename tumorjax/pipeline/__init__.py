"""From a patient's files to a calibrated model: the steps above the numerical core."""
