"""The planned dose as an RT dose (RTDOSE) on the voxels of the reference."""

import numpy as np
from pydicom import Dataset
from pydicom.uid import RTDoseStorage, RTStructureSetStorage

from tumorjax.results.dicom.identity import WARNING, date_object, decimals, new_object, object_uids
from tumorjax.results.dicom.placed import PlacedResult

# Largest stored integer, and Gy of one of its steps, which are whole parts of the hundredths that a result has.
_LARGEST, _STEPS = 2**16 - 1, (0.001, 0.002, 0.005, 0.01)


def dose_grid(placed: PlacedResult, dose: np.ndarray) -> Dataset:
    """Return a dose of the whole course, Gy, as an object.

    Parameters
    ----------
    placed
        The result.
    dose
        (columns, rows, slices), Gy.
    """
    series, kept = placed.series, placed.kept
    found = new_object(RTDoseStorage, "dose", "RTDOSE", 9004, series, kept.digest)
    found.SeriesDescription = "RESEARCH tumorjax planned dose"
    found.DoseComment = f"{WARNING} Quality: {kept.quality}"
    found.DoseUnits, found.DoseType, found.DoseSummationType = "GY", "PHYSICAL", "PLAN_OVERVIEW"
    found.PlanOverviewSequence = [_overview(placed)]
    columns, rows, slices = series.shape
    found.Columns, found.Rows, found.NumberOfFrames = columns, rows, slices
    found.ImagePositionPatient = decimals(series.positions[0])
    found.ImageOrientationPatient = decimals(series.directions)
    # DICOM's first number is the distance between rows.
    found.PixelSpacing = decimals(series.spacing[::-1])
    heights = (series.positions - series.positions[0]) @ np.cross(*series.directions)
    found.GridFrameOffsetVector = decimals(heights)
    found.SliceThickness = decimals(heights[-1] / (slices - 1))[0]
    found.FrameIncrementPointer = 0x3004000C
    # Doses above 655 Gy are no doses of a brain, but are stored all the same.
    step = next((step for step in _STEPS if dose.max() <= _LARGEST * step), float(dose.max()) / _LARGEST)
    found.DoseGridScaling = decimals(step)[0]
    found.SamplesPerPixel, found.PhotometricInterpretation, found.PixelRepresentation = 1, "MONOCHROME2", 0
    found.BitsAllocated, found.BitsStored, found.HighBit = 16, 16, 15
    stored = np.minimum(np.rint(dose.astype(float) / float(found.DoseGridScaling)), _LARGEST).astype("<u2")
    found.PixelData = np.ascontiguousarray(stored.transpose(2, 1, 0)).tobytes()
    date_object(found, "dose", kept.made, kept.digest)
    return found


def _overview(placed: PlacedResult) -> Dataset:
    """Return what the dose belongs to: no plan of beams, which does not exist, but the structure set of the result."""
    drawn = Dataset()
    drawn.ReferencedSOPClassUID = RTStructureSetStorage
    drawn.ReferencedSOPInstanceUID = object_uids("structure set", placed.series, placed.kept.digest)[1]
    found = Dataset()
    found.PlanOverviewIndex, found.RTPlanLabel = 1, "RESEARCH"
    found.ReferencedStructureSetSequence = [drawn]
    found.PrescriptionOverviewSequence, found.TreatmentSiteCodeSequence, found.TreatmentSite = [], [], ""
    if placed.kept.fractions:
        found.NumberOfFractionsIncluded = placed.kept.fractions
    return found
