"""Results as DICOM objects in the frame of reference of a series of the patient."""

from tumorjax.results.dicom.export import export_dicom as export_dicom
