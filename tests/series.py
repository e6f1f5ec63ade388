"""Small DICOM series, made up with pydicom."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
SHAPE = (40, 36, 20)
"""Columns, rows and slices."""
SPACING = (4.5, 5.0, 6.0)
"""Distances along a row, along a column and between slices, mm."""


def turn(*degrees):
    """A rotation about the three axes, one after the other."""
    found = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one = np.eye(3)
        a, b = [each for each in range(3) if each != axis]
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        found = found @ one
    return found


OBLIQUE = turn(21, -13, 8)


def lps_affine(rotation=OBLIQUE, shape=SHAPE, spacing=SPACING, centre=(7.25, -12.5, 31.0)):
    """The affine from columns, rows and slices to DICOM's coordinates of a series around a centre."""
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = np.asarray(centre) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def head(shape=SHAPE, affine=None):
    """An image of a head (an ellipsoid of soft tissue), integers; (columns, rows, slices)."""
    affine = lps_affine(shape=shape) if affine is None else affine
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    away = (index @ affine[:3, :3].T + affine[:3, 3] - [7.25, -12.5, 31.0]) / [70, 80, 55]
    inside = np.linalg.norm(away, axis=-1) < 1
    return np.where(inside, 400 + (index * [3, 5, 7]).sum(-1), 3).astype(np.uint16)


def _common(sop_class, uid, **more):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, uid
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    facts = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPClassUID": sop_class,
        "SOPInstanceUID": uid,
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
        "PatientName": "Müller^Änne",
        "PatientID": "4711",
        "PatientBirthDate": "19550101",
        "PatientSex": "F",
        "StudyInstanceUID": generate_uid(entropy_srcs=["study"]),
        "StudyDate": "20240102",
        "StudyTime": "101112",
        "StudyID": "S1",
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "",
        "SeriesInstanceUID": generate_uid(entropy_srcs=["series"]),
        "SeriesNumber": 3,
        "SeriesDescription": "T1 MPRAGE",
        "Modality": "MR",
        "Manufacturer": "made up",
        "FrameOfReferenceUID": generate_uid(entropy_srcs=["frame"]),
        "PositionReferenceIndicator": "",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
    }
    for keyword, value in (facts | more).items():
        setattr(dataset, keyword, value)
    return dataset


def _decimals(values):
    return [DSfloat(float(value), auto_format=True) for value in np.ravel(values)]


def write_series(folder, data=None, affine=None, *, rescale=None, changed=None, seed="series", **more):
    """Write a series, a file for each slice; `changed(number, dataset)` alters one, or leaves it out by False."""
    affine = lps_affine() if affine is None else affine
    data = head(affine=affine) if data is None else data
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    for number in range(data.shape[2]):
        uid = generate_uid(entropy_srcs=[seed, str(number)])
        dataset = _common(MR, uid, **more)
        dataset.InstanceNumber = number + 1
        dataset.Columns, dataset.Rows = data.shape[:2]
        dataset.ImagePositionPatient = _decimals(affine[:3, :3] @ [0, 0, number] + affine[:3, 3])
        dataset.ImageOrientationPatient = _decimals((affine[:3, :2] / sizes[:2]).T)
        dataset.PixelSpacing = _decimals(sizes[1::-1])
        dataset.SliceThickness = _decimals(sizes[2:])[0]
        dataset.ScanningSequence, dataset.SequenceVariant = "GR", "MP"
        dataset.ScanOptions, dataset.MRAcquisitionType, dataset.EchoTime, dataset.EchoTrainLength = "", "3D", 3, 1
        if rescale is not None:
            slope, intercept = rescale(number)
            dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = slope, intercept, "US"
        dataset.PixelData = np.ascontiguousarray(data[..., number].T).tobytes()
        if changed is None or changed(number, dataset) is not False:
            # Names that sort in another order than the slices lie.
            dataset.save_as(folder / f"{(number * 7) % 101:03d}.dcm", enforce_file_format=True)
    return folder


def write_enhanced(path, data=None, affine=None, *, rescale=lambda number: (1, 0)):
    """Write an enhanced multi-frame image, whose frames are in the reverse order of the slices."""
    affine = lps_affine() if affine is None else affine
    data = head(affine=affine) if data is None else data
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    dataset = _common(ENHANCED_MR, generate_uid(entropy_srcs=["enhanced"]), InstanceNumber=1)
    dataset.Columns, dataset.Rows, dataset.NumberOfFrames = data.shape
    turned, measured = Dataset(), Dataset()
    turned.ImageOrientationPatient = _decimals((affine[:3, :2] / sizes[:2]).T)
    measured.PixelSpacing, measured.SliceThickness = _decimals(sizes[1::-1]), _decimals(sizes[2:])[0]
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [turned], [measured]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number in reversed(range(data.shape[2])):
        place, values, frame = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = _decimals(affine[:3, :3] @ [0, 0, number] + affine[:3, 3])
        values.RescaleSlope, values.RescaleIntercept = rescale(number)
        values.RescaleType = "US"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [place], [values]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.PixelData = np.ascontiguousarray(data[..., ::-1].transpose(2, 1, 0)).tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def read_back(path):
    """A file as pydicom reads it."""
    return pydicom.dcmread(path)
