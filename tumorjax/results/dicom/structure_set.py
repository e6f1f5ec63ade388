"""The plan as an RT structure set (RTSTRUCT): contours on the slices of the reference."""

import numpy as np
from pydicom import Dataset
from pydicom.uid import RTStructureSetStorage

from tumorjax.io.dicom import Series
from tumorjax.results.dicom.contours import contours_of
from tumorjax.results.dicom.identity import WARNING, date_and_time, date_object, decimals, new_object
from tumorjax.results.dicom.placed import PlacedResult

# Study management is retired as a class, but the standard still names it here.
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
_ROI, _NAME, _COLOUR = 1, "tumorjax plan", [255, 128, 0]


def structure_set(placed: PlacedResult) -> Dataset:
    """Return the plan as a structure set with one clinical target volume, whose holes are keyholes."""
    series, kept = placed.series, placed.kept
    found = new_object(RTStructureSetStorage, "structure set", "RTSTRUCT", 9001, series, kept.digest)
    found.SeriesDescription = "RESEARCH tumorjax plan"
    found.StructureSetLabel, found.StructureSetName = "RESEARCH", "Target volume of a model of tumour growth"
    found.StructureSetDescription = f"{WARNING} Quality of the result: {kept.quality}."
    found.StructureSetDate, found.StructureSetTime = date_and_time(kept.made)
    found.ReferencedFrameOfReferenceSequence = [_frame(series)]
    roi = Dataset()
    roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = _ROI, _NAME, "AUTOMATIC"
    roi.ReferencedFrameOfReferenceUID = found.FrameOfReferenceUID
    roi.ROIDescription = WARNING
    found.StructureSetROISequence = [roi]
    drawn = Dataset()
    drawn.ReferencedROINumber, drawn.ROIDisplayColor = _ROI, _COLOUR
    drawn.ContourSequence = [
        _contour(series, number, points)
        for number in range(placed.plan.shape[2])
        for points in contours_of(placed.plan[..., number])
    ]
    for number, each in enumerate(drawn.ContourSequence, 1):
        each.ContourNumber = number
    found.ROIContourSequence = [drawn]
    observed = Dataset()
    observed.ObservationNumber, observed.ReferencedROINumber = 1, _ROI
    observed.RTROIInterpretedType, observed.ROIInterpreter = "CTV", ""
    found.RTROIObservationsSequence = [observed]
    found.ApprovalStatus = "UNAPPROVED"
    date_object(found, "structure set", kept.made, kept.digest)
    return found


def _frame(series: Series) -> Dataset:
    header = series.headers[0]
    images = Dataset()
    images.SeriesInstanceUID = header.SeriesInstanceUID
    images.ContourImageSequence = [_image(series, number) for number in range(len(series.headers))]
    study = Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY_CLASS, header.StudyInstanceUID
    study.RTReferencedSeriesSequence = [images]
    found = Dataset()
    found.FrameOfReferenceUID = header.FrameOfReferenceUID
    found.RTReferencedStudySequence = [study]
    return found


def _image(series: Series, number: int) -> Dataset:
    header, found = series.headers[number], Dataset()
    found.ReferencedSOPClassUID, found.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return found


def _contour(series: Series, number: int, points: np.ndarray) -> Dataset:
    image = _image(series, 0 if series.frames is not None else number)
    if series.frames is not None:
        image.ReferencedFrameNumber = int(series.frames[number]) + 1
    found = Dataset()
    found.ContourImageSequence = [image]
    found.ContourGeometricType, found.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
    found.ContourData = decimals(series.positions[number] + (points * series.spacing) @ series.directions)
    return found
