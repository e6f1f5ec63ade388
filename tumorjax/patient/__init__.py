"""A patient's images, checked and resampled to one grid, and atlases aligned with them."""

from tumorjax.patient.loading import load_patient as load_patient
from tumorjax.patient.patient import Patient as Patient
from tumorjax.patient.prescription import Prescription as Prescription
from tumorjax.patient.visits import load_visits as load_visits
from tumorjax.patient.visits import read_visits as read_visits
