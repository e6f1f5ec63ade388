"""What makes a DICOM object known: its identifiers, whose patient and study it belongs to, and what it was made by."""

import copy
import datetime
import uuid
from importlib.metadata import version
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ImplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from tumorjax.io.dicom import Series

MANUFACTURER, MODEL = "The tumorjax developers", "tumorjax"
WARNING = "For research only; not for clinical use."
# The namespace of our identifiers; any fixed UUID does.
_NAMESPACE = uuid.UUID("6f0c4e6e-5c0c-5f0e-9a52-0b7d2a1f6c31")
# Attributes that objects take from the reference, empty where it lacks them, as the standard permits.
_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_STUDY = ("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")


def software() -> str:
    """Return the version of the package."""
    return version("tumorjax")


def derived_uid(*contents: str) -> UID:
    """Return the identifier that belongs to these contents: always the same, and another for other contents.

    It is a UUID of version 5 under the root 2.25, which belongs to whoever makes a UUID (PS3.5, B.2).
    """
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, chr(0).join(contents)).int}")


def object_uids(kind: str, series: Series, digest: str) -> tuple[UID, UID]:
    """Return the identifiers of series and instance of an object of a kind, made of a result for a reference."""
    contents = (kind, software(), digest, *(str(header.SOPInstanceUID) for header in series.headers))
    return derived_uid("series", *contents), derived_uid("instance", *contents)


def decimals(values: Any) -> list[DSfloat]:
    """Return numbers as decimal strings of at most 16 characters, the most that the standard permits."""
    return [DSfloat(float(value), auto_format=True) for value in np.ravel(values)]  # pyright: ignore[reportReturnType]


def complete_headers(series: Series) -> list[Dataset]:
    """Return the headers of the reference, with attributes that it may lack, and one rounding of what slices share."""
    found = []
    for header in series.headers:
        header = copy.deepcopy(header)
        for keyword in (*_PATIENT, *_STUDY):
            if keyword not in header:
                setattr(header, keyword, "")
        if series.frames is None:
            header.ImageOrientationPatient = decimals(series.directions)
            # DICOM's first number is the distance between rows.
            header.PixelSpacing = decimals(series.spacing[::-1])
            if not header.get("SliceThickness"):
                header.SliceThickness = decimals(np.linalg.norm(series.patient_affine[:3, 2]))[0]
        if not header.get("SpecificCharacterSet", True):
            # Empty, it means what its absence does.
            del header.SpecificCharacterSet
        found.append(header)
    return found


def date_and_time(made: datetime.datetime) -> tuple[str, str]:
    """Return date and time as the standard writes them."""
    return made.strftime("%Y%m%d"), made.strftime("%H%M%S")


def new_object(sop_class: UID, kind: str, modality: str, number: int, series: Series, digest: str) -> Dataset:
    """Return a dataset with the attributes that all objects have: of patient, study, series, equipment and frame.

    It is written in implicit encoding, since explicit lengths end at 64 kB, which long contours exceed.

    Parameters
    ----------
    sop_class
        Class of the object.
    kind
        What the object is, for its identifiers.
    modality, number
        Modality, and number of its series.
    series
        The reference.
    digest
        Checksum of the images of the result.
    """
    reference = complete_headers(series)[0]
    series_uid, instance_uid = object_uids(kind, series, digest)
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = sop_class
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = instance_uid
    for keyword in (*_PATIENT, *_STUDY, "StudyInstanceUID", "FrameOfReferenceUID"):
        found.add(reference[keyword])
    for keyword in ("SpecificCharacterSet", "StudyDescription"):
        if keyword in reference:
            found.add(reference[keyword])
    found.PositionReferenceIndicator = reference.get("PositionReferenceIndicator") or ""
    found.Modality, found.SeriesInstanceUID, found.SeriesNumber = modality, series_uid, number
    found.InstanceNumber, found.OperatorsName = 1, ""
    found.Manufacturer, found.ManufacturerModelName, found.SoftwareVersions = MANUFACTURER, MODEL, software()
    return found


def equipment() -> dict[str, Any]:
    """Return what highdicom asks for about the program that makes an object."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL,
        "software_versions": software(),
        "device_serial_number": "0",
    }


def date_object(found: Dataset, kind: str, made: datetime.datetime, digest: str) -> None:
    """Replace what depends on the hour of writing, or is random, by what follows from the contents."""
    date, time = date_and_time(made)
    for keyword in ("InstanceCreationDate", "ContentDate", "SeriesDate"):
        if keyword in found or keyword == "InstanceCreationDate":
            setattr(found, keyword, date)
            setattr(found, keyword.replace("Date", "Time"), time)
    for library in found.get("ContributingEquipmentSequence", [])[-1:]:
        # highdicom names itself last.
        library.ContributionDateTime = date + time
    organizations = found.get("DimensionOrganizationSequence", [])
    renamed = {
        each.DimensionOrganizationUID: derived_uid("dimensions", kind, digest, str(number))
        for number, each in enumerate(organizations)
    }
    for each in (*organizations, *found.get("DimensionIndexSequence", [])):
        each.DimensionOrganizationUID = renamed[each.DimensionOrganizationUID]
